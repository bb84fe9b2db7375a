"""Atomic file writes, safe with many processes on a shared file system, and what else is done with files everywhere."""

import fcntl
import json
import os
import socket
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any
from zipfile import BadZipFile

from disentangled_ml.config import ConfigError

UNFINISHED = ".tmp"  # suffix of a file being written
# What reading a damaged npy or npz file and the JSON in it raises, beside OSError; zipfile's NotImplementedError is a RuntimeError,
# and numpy takes the header of an array apart as Python.
DAMAGED_NPZ = (ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile, SyntaxError, TokenError)
# How a cell begins that spreadsheets take for a formula (OWASP, "CSV Injection").
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
Errors = type[Exception] | tuple[type[Exception], ...]


@contextmanager
def atomic_write(path: Path, mode: str = "w", replace: bool = True) -> Iterator[IO]:
    """Open a file for writing under a name that no other process uses, and rename it when it is complete.

    Of several processes that write the same file the last wins, or without ``replace`` the first. Where
    ``remove_unfinished`` has removed the file of a process that came too late, the other's stays.

    Raises: OSError: if it cannot be written; what was there before stays.
    """
    unfinished = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}{UNFINISHED}")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(unfinished, mode, **text) as file:
            yield file
        try:
            if replace:
                unfinished.replace(path)
            else:
                with suppress(FileExistsError):
                    os.link(unfinished, path)
                unfinished.unlink()
        except FileNotFoundError:
            if not path.is_file():
                raise
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def existing_form(path: Path) -> Path:
    """Return a path in that Unicode form, composed (NFC) or decomposed (NFD), in which it is there; as it is if it is in none.

    Some systems write an accented letter as one character, others as two. Folders may differ from the files in this, so each part of
    the path is tried.

    >>> existing_form(Path("nowhere/Zo\u00eb.wav")) == Path("nowhere/Zo\u00eb.wav")
    True
    """
    if str(path).isascii() or os.path.exists(path):  # which, unlike that of Path, never raises
        return path
    found = Path()
    for part in path.parts:
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        form = next((form for form in forms if os.path.exists(found / form)), None)
        if form is None:
            return path
        found /= form
    return found


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left in a folder whose files are all written atomically."""
    for path in folder.glob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as file:
        file.write(text)


def text_cell(text: str | None) -> str:
    """Return a text as a cell of a table for people: one that a spreadsheet would take for a formula has an apostrophe before it.

    Not for numbers, nor for tables that are read again, whose cells stay exactly what they are.

    >>> text_cell("=HYPERLINK(...)"), text_cell("Blue = Green"), text_cell(None)
    ("'=HYPERLINK(...)", 'Blue = Green', '')
    """
    return f"'{text}" if (text or "").startswith(FORMULA) else text or ""


def as_json(content: Any) -> str:
    """Return compact JSON, one line, for labels and notes.

    >>> as_json({"artist": "Ünïcödé", "tempo": 120.0})
    '{"artist": "Ünïcödé", "tempo": 120.0}'
    """
    return json.dumps(content, ensure_ascii=False)


def write_json(path: Path, content: Any, indent: int | None = 1, replace: bool = True) -> None:
    """Write a JSON file atomically; without ``replace`` only where there is none."""
    with atomic_write(path, replace=replace) as file:
        file.write(json.dumps(content, indent=indent) + "\n")


def read_json(path: Path, way_out: str = "give another file") -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises: ValueError: naming it and the way out, if it holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it is {content!r:.20}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no JSON object ({error}): {way_out}") from error
    return content


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; return an empty one if the file is missing or damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def writable(out: str, extension: str = "json", key: str = "out") -> Path:
    """Check that a file that a key names can be written, and make its folder, before anything long begins.

    Raises: ConfigError: if it cannot, or the file exists and is of another kind, which a slip would overwrite.
    """
    path, way_out = Path(out), f"give {key}=FILE.{extension}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{key}={out}: {path.parent} cannot be made ({error.strerror}), {way_out}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{key}={out} is a folder, or in one that cannot be written to: {way_out}")
    if path.exists() and path.suffix != f".{extension}":
        raise ConfigError(f"{key}={out} is there and would be lost: {way_out}")
    return path


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Lock a folder, so that no two processes work in it; yield the lock, which children that inherit it hold too.

    Raises: ConfigError: if another process holds it.
    """
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{folder} is being worked in by another process, or by what a killed one left: end it"
            raise ConfigError(message) from None
        yield file.fileno()


@contextmanager
def error_context(
    caught: Errors, message: Callable[[Exception], str | None], raised: type[Exception] | None = None
) -> Iterator[None]:
    """Raise errors again with a message that says what they are about.

    Args:
        caught: The errors.
        message: Returns the new message of an error; None leaves the error as it is.
        raised: What is raised instead; by default ``caught``.

    >>> with error_context(OSError, lambda error: f"shards/demo: {error}"):
    ...     raise OSError("disk full")
    Traceback (most recent call last):
    OSError: shards/demo: disk full
    """
    try:
        yield
    except caught as error:
        text = message(error)
        if text is None:
            raise
        raise (raised or caught)(text) from error


def output_context(out: Path):
    """Name the folder that a command makes in the errors of writing to it."""
    way_out = "mend that, then repeat the command, which keeps what is made"
    return error_context(OSError, lambda error: f"{out} cannot be written to ({error}): {way_out}")
