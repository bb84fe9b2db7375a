"""Keep a manifest in step with a folder of music: what is new, changed, moved, copied, gone; see docs/scan.md.

Beside FILE.csv lies the folder FILE.csv.scan: ``state.jsonl``, what is known of each file and track; ``failed.csv``, what cannot be
used and why; ``deleted.csv`` and ``last.csv``, see deletions.py; ``lock``. Files are read first, which can be interrupted at any point:
the state is saved on the way. Then the manifest is written, between two writes of the state: the first says which cells may come, the
second that they have, so that a scan that is killed between them takes none of its own cells for a person's.
"""

import csv
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datamodules.corpora.folder.deletions import DELETED, LAST, keep_deleted
from datamodules.corpora.folder.manifest_writer import (
    TAG_COLUMNS,
    manifest_text,
    new_manifest,
    read_manifest_file,
    write_manifest,
)
from datamodules.corpora.folder.merging import Merged, merge, place_in
from datamodules.corpora.folder.reading import is_known, path_cell, read_file
from datamodules.corpora.folder.state import Reading, ScanState, Track, read_state, write_state
from datamodules.corpora.folder.walk import FolderListing, list_audio
from datamodules.corpora.manifest_table import ManifestError
from disentangled_ml.files import UNFINISHED, atomic_write, locked, remove_unfinished, text_cell
from disentangled_ml.progress import show_progress

STATE, FAILED = "state.jsonl", "failed.csv"
SAVE_SECONDS = 20.0  # between two writes of the state while files are read


class ScanReport(NamedTuple):
    """What a scan has found and done, in numbers.

    Attributes:
        found: Audio files.
        read: Of these, read now; the others are as they were.
        tracks: In the manifest, with a file.
        new: Tracks whose files are new.
        changed: Whose file has other bytes.
        moved: Whose file lies elsewhere, or has another name.
        returned: Whose file was gone.
        removed: Whose file is gone or cannot be used any more.
        copies: Files with the same bytes as another one; each is a track.
        failed: Files that cannot be used, and folders that cannot be listed.
        deleted: Files that stay out, since a person has deleted their rows.
        lost: Of these, those whose rows were there when the last scan ended.
        own_rows: Rows of no file of the folder, which stay.
        bad_tempi: Files whose tags name a tempo, but no legal one.
        broken_tags: Files whose tags cannot be read.
        hidden: Files and folders left out because their names begin with a dot.
        failures: The list of what has failed.
        deletions: That of the rows that were deleted.
    """

    found: int
    read: int
    tracks: int
    new: int
    changed: int
    moved: int
    returned: int
    removed: int
    copies: int
    failed: int
    deleted: int
    lost: int
    own_rows: int
    bad_tempi: int
    broken_tags: int
    hidden: int
    failures: Path
    deletions: Path


def scan_folder(music: Path, manifest: Path) -> ScanReport:
    """Bring a manifest in step with a folder of music, whose files are only read.

    Args:
        music: The folder.
        manifest: The CSV file, made where there is none.

    Raises:
        ManifestError: If the manifest cannot be read, is of another folder, or the folder holds no audio file.
        ConfigError: If another scan of the manifest is running.
        OSError: If the folder cannot be listed, or the manifest cannot be written.
    """
    music, manifest = Path(os.path.abspath(music)), Path(os.path.abspath(manifest))
    listing = list_audio(music)
    beside = manifest.with_name(f"{manifest.name}.scan")
    beside.mkdir(exist_ok=True)
    with locked(beside):
        clear_unfinished(manifest, beside)
        state = read_state(beside / STATE)
        check_folder(music, manifest, listing, state)
        if manifest.exists():
            read_manifest_file(manifest, state.columns)  # its errors, before anything long begins
        save = partial(write_state, beside / STATE)
        cell_of = partial(path_cell, music, manifest)
        readings, n_read = read_files(music, listing, state._replace(music=str(music)), cell_of, save)
        # Only now: reading files may take hours, in which a person may edit it.
        if manifest.exists():
            file = read_manifest_file(manifest, state.columns)
        else:
            file, state = new_manifest(), state._replace(tracks=afresh(state.tracks))
        usable = {path: reading for path, reading in readings.items() if not reading.failure}
        merged = merge(file, state.tracks, usable, cell_of, partial(place_in, str(music), str(manifest.parent)))
        after = ScanState(str(music), list(TAG_COLUMNS), readings, merged.tracks)
        deleted = {name for name, track in merged.tracks.items() if track.is_deleted}
        gone = {name for name in deleted if name in state.tracks and not state.tracks[name].is_deleted}
        lost = gone & keep_deleted(beside, deleted) & merged.placement.path_of.keys()
        if after != state:
            save(after._replace(tracks=pending(state.tracks, merged.tracks)))
        text = manifest_text(file, merged.rows)
        write_manifest(manifest, text)
        if after != state:
            save(after)
        write_manifest(beside / LAST, text)
        write_failures(beside / FAILED, listing, readings)
        return report(listing, n_read, readings, usable, merged, len(lost), beside)


def clear_unfinished(manifest: Path, beside: Path) -> None:
    """Remove what killed scans of a manifest have left half written."""
    remove_unfinished(beside)
    for entry in list(os.scandir(manifest.parent)):
        if entry.name.startswith(f"{manifest.name}.") and entry.name.endswith(UNFINISHED):
            os.unlink(entry.path)


def check_folder(music: Path, manifest: Path, listing: FolderListing, state: ScanState) -> None:
    """Check that a folder can be the one of a manifest, so that a slip or a missing drive does not empty it."""
    if not listing.files:
        raise ManifestError(
            f"music={music} holds no audio file: is it the right folder, and is its drive there? Nothing is changed"
        )
    is_other = state.readings and state.music != str(music)
    if is_other and not any(found.path in state.readings for found in listing.files):
        raise ManifestError(
            f"manifest {manifest} is of {state.music}, and {music} holds no file of it: give another out"
        )


def afresh(tracks: dict[str, Track]) -> dict[str, Track]:
    """Return the tracks as they are when their manifest was deleted: every file gets a row, under its old name."""
    return {name: track._replace(written=None, pending=None, is_deleted=False) for name, track in tracks.items()}


def read_files(
    music: Path,
    listing: FolderListing,
    state: ScanState,
    cell_of: Callable[[str], str],
    save: Callable[[ScanState], None],
) -> tuple[dict[str, Reading], int]:
    """Read the files that are not known as they are now; return all readings by path, and the number of files read."""
    readings, unknown = {}, []
    for path, reading in state.readings.items():
        if listing.is_unseen(path):
            readings[path] = reading
    for found in listing.files:
        reading = state.readings.get(found.path)
        if is_known(reading, found, cell_of(found.path)):
            readings[found.path] = reading
        else:
            unknown.append(found)
    saved = time.monotonic()
    try:
        for found in show_progress(unknown, desc="scan", unit="file", disable=not unknown):
            readings[found.path] = read_file(music, found, cell_of(found.path))
            if time.monotonic() - saved >= SAVE_SECONDS:
                save(state._replace(readings=readings))
                saved = time.monotonic()
    except KeyboardInterrupt:
        save(state._replace(readings=readings))
        raise
    return dict(sorted(readings.items())), len(unknown)


def pending(before: dict[str, Track], after: dict[str, Track]) -> dict[str, Track]:
    """Return the tracks as they are while the manifest is written: of each what it had, and what it may get."""
    tracks = {}
    for name, track in after.items():
        old = before.get(name, Track(name, track.path, track.digest))
        rows = track.rows if track.rows is not None else old.rows
        tracks[name] = track._replace(written=old.written, pending=track.written, rows=rows)
    return tracks


def write_failures(path: Path, listing: FolderListing, readings: dict[str, Reading]) -> None:
    """Write the list of files that cannot be used, and of folders that cannot be listed, with the reasons."""
    failed = {reading.path: reading.failure for reading in readings.values() if reading.failure}
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "reason"))
        writer.writerows(
            (text_cell(shown(name)), reason) for name, reason in sorted({**failed, **listing.unreadable}.items())
        )


def shown(path: str) -> str:
    """Return a path as one line of text, whatever bytes it is of.

    >>> print(shown("caf\\udce9\\n.mp3"))
    caf\\xe9\\n.mp3
    """
    text = os.fsencode(path).decode(errors="backslashreplace")
    return text.replace("\n", "\\n").replace("\r", "\\r")


def report(
    listing: FolderListing,
    n_read: int,
    readings: dict[str, Reading],
    usable: dict[str, Reading],
    merged: Merged,
    lost: int,
    beside: Path,
) -> ScanReport:
    """Return what a scan has found and done."""
    placement = merged.placement
    here = [merged.tracks[name] for name in placement.path_of]
    deleted = sum(track.is_deleted for track in here)
    return ScanReport(
        found=len(listing.files),
        read=n_read,
        tracks=len(here) - deleted,
        new=len(placement.new),
        changed=len(placement.changed),
        moved=len(placement.moved),
        returned=len(placement.returned),
        removed=merged.removed,
        copies=len(usable) - len({reading.digest for reading in usable.values()}),
        failed=len(readings) - len(usable) + len(listing.unreadable),
        deleted=deleted,
        lost=lost,
        own_rows=merged.own_rows,
        bad_tempi=sum(reading.has_bad_tempo for reading in usable.values()),
        broken_tags=sum(reading.is_broken for reading in usable.values()),
        hidden=listing.hidden,
        failures=beside / FAILED,
        deletions=beside / DELETED,
    )
