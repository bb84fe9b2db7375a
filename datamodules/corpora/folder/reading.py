"""One file of music as a scan reads it: whether it can be a recording, the digest of its bytes, its tags."""

import os
from pathlib import Path

from datamodules.audio.content import HEAD, UnusableAudio, check_content
from datamodules.corpora.folder.state import Reading
from datamodules.corpora.folder.tags import read_tags
from datamodules.corpora.folder.walk import FoundFile
from datamodules.shards.origin import read_origin


def is_known(reading: Reading | None, found: FoundFile, cell: str) -> bool:
    """Return whether a file was read as it is now, by its size and time, and its path can stand in the manifest."""
    is_same = reading is not None and (reading.size, reading.mtime_ns) == (found.size, found.mtime_ns)
    return is_same and not (found.problem or path_problem(cell))


def read_file(music: Path, found: FoundFile, cell: str) -> Reading:
    """Read a file. A failure of its bytes has a size, by which it is remembered until the file changes; others are tried again.

    Args:
        music: The folder that it lies below.
        found: The file.
        cell: Its path as the manifest would say it.
    """
    problem = found.problem or path_problem(cell)
    if problem:
        return Reading(found.path, None, found.mtime_ns, failure=problem)
    path = os.path.join(music, found.path)
    try:
        # Before the bytes, as is the time of the origin.
        with open(path, "rb") as file:
            head = file.read(HEAD)
        origin = read_origin(path)
        if origin is None or origin.size is None:
            return Reading(
                found.path, None, found.mtime_ns, failure="cannot be read: it went away, or its disk is damaged"
            )
        seen = Reading(found.path, origin.size, origin.mtime_ns, origin.digest)
        if not head:
            return seen._replace(failure="empty file")
        check_content(head)
        tags = read_tags(path)
    except OSError as error:
        return Reading(found.path, None, found.mtime_ns, failure=f"cannot be read: {error.strerror or error}")
    except UnusableAudio as error:
        return seen._replace(failure=str(error))
    return seen._replace(cells=tags.cells, has_bad_tempo=tags.has_bad_tempo, is_broken=tags.is_broken)


def path_problem(cell: str) -> str:
    """Return why a path cannot stand in a manifest; nothing if it can.

    >>> path_problem("a/b, c.mp3"), path_problem("a\\nb.mp3")
    ('', 'its name holds a line break, which no manifest can hold: rename it')
    >>> path_problem("caf\\udce9.mp3")
    'its name is not UTF-8, which a manifest is: rename it'
    """
    if "\n" in cell or "\r" in cell:
        return "its name holds a line break, which no manifest can hold: rename it"
    try:
        cell.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8, which a manifest is: rename it"
    return ""


def path_cell(music: Path, manifest: Path, path: str) -> str:
    """Return the path of a file as a manifest says it: relative where the folder lies below the folder of the manifest.

    >>> path_cell(Path("/m/music"), Path("/m/all.csv"), "a.mp3"), path_cell(Path("/music"), Path("/m/all.csv"), "a.mp3")
    ('music/a.mp3', '/music/a.mp3')
    >>> path_cell(Path("/m"), Path("/m/all.csv"), " a.mp3")
    './ a.mp3'
    """
    whole = music / path
    cell = str(whole.relative_to(manifest.parent)) if whole.is_relative_to(manifest.parent) else str(whole)
    # Readers take blanks around a cell for none of it.
    return cell if cell == cell.lstrip() else f"./{cell}"
