"""What a result was made of: one digest per recording, of its bytes, decides whether the result is still of it.

Size and time of a file are the quick check: only a file that differs in them, or lies elsewhere, is read again. A result without an
origin is never taken for finished: its failure was not the recording's (memory was short, a process was killed, the file could not
be read), so that another attempt may succeed.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from disentangled_ml.files import existing_form
from disentangled_ml.structures import Rejected, TrackRecord

# How a reason begins that is not the recording's.
UNEXPECTED = "unexpected "


class Origin(NamedTuple):
    """A recording as it was when something was made of it.

    Attributes:
        path: Of the file.
        size: In bytes; None: there was no file.
        mtime_ns: Time of its last change.
        digest: Of its bytes.
    """

    path: str
    size: int | None
    mtime_ns: int
    digest: str


class Outcome(NamedTuple):
    """The result of a row, and what it was made of; None where another attempt may have another result."""

    result: Any | Rejected
    origin: Origin | None


def look_at(path: str) -> tuple[int | None, int]:
    """Return size and time of a file, ``(None, 0)`` where there is none that can be seen.

    >>> look_at("nowhere.flac")
    (None, 0)
    """
    try:
        found = os.stat(existing_form(Path(path)))
    except (OSError, ValueError):  # of names that no file can have
        return None, 0
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (None, 0)


def read_origin(path: str) -> Origin | None:
    """Read what a recording is; None where there is one that cannot be read.

    >>> read_origin("nowhere.flac")
    Origin(path='nowhere.flac', size=None, mtime_ns=0, digest='')
    """
    # Before the bytes: a file that changes meanwhile is noticed by its time.
    size, mtime_ns = look_at(path)
    if size is None:
        return Origin(path, None, 0, "")
    try:
        with open(existing_form(Path(path)), "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return None
    return Origin(path, size, mtime_ns, digest)


def renew(origin: Origin | None, path: str) -> Origin | None:
    """Return the origin with the present place and time of its recording; None if the recording is another one now.

    One that is gone from its place has not changed: what was made of it is all that is left.
    """
    size, mtime_ns = look_at(path)
    if origin is None or (path, size, mtime_ns) == origin[:3] or (size is None and path == origin.path):
        return origin
    if size is None or size != origin.size:
        return None
    found = read_origin(path)
    return found if found is not None and found.digest == origin.digest else None


def path_of(row: TrackRecord | Rejected) -> str:
    """Return the path of the recording of a row; a row that was rejected unseen has none."""
    return "" if isinstance(row, Rejected) else row.path


def with_origins(
    rows: Sequence[TrackRecord | Rejected], work: Callable[[Sequence[Any]], list[Any | Rejected]]
) -> list[Outcome]:
    """Work on a group of rows; return each result with what it was made of."""
    origins = [read_origin(path_of(row)) for row in rows]
    return [
        Outcome(result, None if is_unexpected(result) else origin)
        for result, origin in zip(work(rows), origins, strict=True)
    ]


def is_unexpected(result: Any | Rejected) -> bool:
    return isinstance(result, Rejected) and result.reason.startswith(UNEXPECTED)


def results_of(outcomes: Iterable[Outcome | Rejected], origins: list[Origin | None]) -> Iterator[Any | Rejected]:
    """Yield the results, and collect what they were made of; a row that took its process down has no outcome."""
    for outcome in outcomes:
        result, origin = outcome if isinstance(outcome, Outcome) else (outcome, None)
        origins.append(origin)
        yield result
