"""Files written whole or not at all, by any number of processes on any number of machines."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

TEMPORARY = ".tmp"  # ends the name of a file that is not whole yet


@contextmanager
def replacing(path: Path, mode: str = "w", replace: bool = True) -> Iterator[IO]:
    """Write a file under a name that no other process uses, and rename it when it is whole.

    Of several processes that write one file, each a whole one, the last wins, or without ``replace`` the first. Where
    ``remove_unfinished`` took the file away from a process that came too late, the other's stays.

    Raises:
        OSError: if it cannot be written; what was there before stays.
    """
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}{TEMPORARY}")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode, **text) as file:
            yield file
        try:
            if replace:
                temporary.replace(path)
            else:
                with suppress(FileExistsError):
                    os.link(temporary, path)
                temporary.unlink()
        except FileNotFoundError:
            if not path.is_file():
                raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left in a folder in which all files are made."""
    for path in folder.glob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def as_json(content: Any) -> str:
    """Give the compact JSON that all our files of labels have, the same for the same content.

    >>> as_json({"artist": "Ünïcödé", "tempo": 120.0})
    '{"artist": "Ünïcödé", "tempo": 120.0}'
    """
    return json.dumps(content, ensure_ascii=False)


def write_json(path: Path, content: Any, replace: bool = True) -> None:
    """Write a JSON file; without ``replace`` only where there is none."""
    with replacing(path, replace=replace) as file:
        file.write(as_json(content))


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; a missing or damaged one holds nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
