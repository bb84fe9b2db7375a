"""Where shards lie: a folder, or an address that fsspec knows (https://, s3://, gs://, ...). The only file that imports fsspec.

A bucket's library, such as s3fs, is the user's to install; http and https come with this project.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

Root = Path | str  # a folder, or an address
SKIPPED = 1 << 20  # bytes at a time
# Seconds without a byte. SLURM kills a job 30 s after its signal.
PATIENCE = 20.0


def parse_root(text: str | Path) -> Root:
    """Return the path of a folder, or the address as it is.

    Raises: ValueError: for an address of a kind that cannot be read.

    >>> parse_root("https://host/shards/"), parse_root("shards/demo").name
    ('https://host/shards', 'demo')
    """
    if isinstance(text, Path) or "://" not in text:
        return Path(text)
    # Here and below, since it takes long to import and most shards are folders.
    import fsspec

    try:
        fsspec.get_filesystem_class(text.partition("://")[0])
    except (ValueError, ImportError) as error:
        raise ValueError(f"{text} cannot be read from ({error}): give a folder, an https:// address, ...") from error
    return text.rstrip("/")


def locate(root: Root, name: str) -> str:
    """Return the path or address of a file.

    >>> locate("https://host/shards", "train-000000.tar")
    'https://host/shards/train-000000.tar'
    """
    return f"{root}/{name}"


class Forward:
    """A file for ``tarfile`` from a stream that only goes forwards: what is sought past is read and dropped."""

    def __init__(self, stream: IO[bytes]):
        self.stream, self.position = stream, 0

    def read(self, size: int = -1) -> bytes:
        parts, left = [], size
        while left and (part := self.stream.read(left)):
            parts.append(part)
            left = left - len(part) if size >= 0 else left
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.position += len(data)
        return data

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> int:
        if position < self.position:
            raise ValueError(f"cannot go back from byte {self.position} to {position}")
        while self.position < position and self.read(min(position - self.position, SKIPPED)):
            pass
        return self.position

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.stream)


@contextmanager
def opened(root: Root, name: str) -> Iterator[IO[bytes]]:
    """Open a file to be read from its beginning.

    Raises: OSError: if it is not there, or cannot be read to the end, which may turn out while it is read.
    """
    if isinstance(root, Path):
        with open(root / name, "rb") as file:
            yield file
        return
    with opened_address(locate(root, name)) as file:
        yield file


@contextmanager
def opened_address(address: str) -> Iterator[Forward]:
    """Open the file at an address, see ``opened``."""
    import fsspec
    from aiohttp import ClientConnectionError, ClientError, ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)
    options = {"client_kwargs": {"timeout": timeout}} if address.startswith("http") else {}
    try:
        with fsspec.open(address, "rb", **options) as file:
            yield Forward(file)
    except ClientError as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    except FileNotFoundError as error:
        # fsspec takes a server that is not reached for a missing file.
        if isinstance(error.__cause__, ClientConnectionError):
            raise OSError(f"the server is not reached ({error.__cause__})") from error
        raise
    except TimeoutError as error:
        raise OSError(f"the server has not answered for {PATIENCE:g} s") from error
