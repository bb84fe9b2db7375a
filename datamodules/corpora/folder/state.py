"""What a scan remembers beside its manifest: each file as it was read, and each track as it stands in the manifest.

The state is a text file of JSON lines, written atomically: a header, a line per file, a line per track. The header holds the digest
of the other lines, so that a damaged state is noticed, and begun anew.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from disentangled_ml.files import atomic_write

VERSION = 1
logger = logging.getLogger(__name__)


class Reading(NamedTuple):
    """A file as it was when it was read.

    Attributes:
        path: Relative to the folder of music.
        size: In bytes; None where it could not be read, which is tried again.
        mtime_ns: Time of its last change.
        digest: Of its bytes.
        cells: Of the manifest, as its tags say them; None for what is no track.
        failure: Why it is no track; empty for one.
        has_bad_tempo: Whether its tags name a tempo, but no legal one.
        is_broken: Whether its tags cannot be read.
    """

    path: str
    size: int | None
    mtime_ns: int
    digest: str = ""
    cells: dict[str, str] | None = None
    failure: str = ""
    has_bad_tempo: bool = False
    is_broken: bool = False


class Track(NamedTuple):
    """A track of the manifest, or one that was.

    Attributes:
        track_id: Its name, for ever.
        path: Of its file, relative to the folder of music; empty where that is gone, and another track has taken its place.
        digest: Of the bytes of that.
        mtime_ns: Time of its last change.
        written: Cells as a scan has written them into the manifest; None: it has written none.
        pending: Cells that an interrupted scan may have written.
        rows: Its rows, kept while its file is gone or cannot be used; None: they are in the manifest.
        is_gone: Whether its file is.
        is_deleted: Whether a person has deleted its row.
    """

    track_id: str
    path: str
    digest: str
    mtime_ns: int = 0
    written: dict[str, str] | None = None
    pending: dict[str, str] | None = None
    rows: list[dict[str, str]] | None = None
    is_gone: bool = False
    is_deleted: bool = False


class ScanState(NamedTuple):
    """What is known of a folder and of its manifest.

    Attributes:
        music: The folder, absolute; empty before the first scan.
        columns: Those that scans have written.
        readings: Files by path.
        tracks: By track_id.
    """

    music: str
    columns: list[str]
    readings: dict[str, Reading]
    tracks: dict[str, Track]


def no_state() -> ScanState:
    return ScanState("", [], {}, {})


def write_state(path: Path, state: ScanState) -> None:
    """Write a state atomically."""
    files = [compact(reading, Reading) for reading in state.readings.values()]
    tracks = [compact(track, Track) for track in state.tracks.values()]
    lines = [json.dumps(entry) for entry in (*files, *tracks)]
    header = {
        "version": VERSION,
        "music": state.music,
        "columns": state.columns,
        "files": len(files),
        "tracks": len(tracks),
        "digest": digest_of(lines),
    }
    with atomic_write(path) as file:
        file.writelines(f"{line}\n" for line in (json.dumps(header), *lines))


def read_state(path: Path) -> ScanState:
    """Read a state; return an empty one if there is none, or if it is damaged, which is logged."""
    if not path.exists():
        return no_state()
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        header = json.loads(header)
        if header["version"] != VERSION:
            raise ValueError(f"it is of version {header['version']}, this program writes {VERSION}")
        if digest_of(lines) != header["digest"]:
            raise ValueError("its lines are not those that were written")
        entries = [json.loads(line) for line in lines]
        readings = [Reading(**entry) for entry in entries[: header["files"]]]
        tracks = [Track(**entry) for entry in entries[header["files"] :]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning(
            "%s is damaged (%s): every file is read again; rows and edits of the manifest are kept, but files that were moved since "
            "the last scan are new, and rows that were deleted by hand come back",
            path,
            error,
        )
        return no_state()
    return ScanState(
        header["music"],
        header["columns"],
        {reading.path: reading for reading in readings},
        {track.track_id: track for track in tracks},
    )


def compact(entry: Reading | Track, kind: type) -> dict[str, Any]:
    """Return the fields that are not as by default.

    >>> compact(Reading("a.mp3", 3, 5, "f0"), Reading)
    {'path': 'a.mp3', 'size': 3, 'mtime_ns': 5, 'digest': 'f0'}
    """
    defaults = kind._field_defaults
    return {name: value for name, value in entry._asdict().items() if name not in defaults or value != defaults[name]}


def digest_of(lines: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
