"""What becomes of the tracks and rows of a manifest when the files of its folder are known. Nothing is read or written here."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from datamodules.corpora.folder.manifest_writer import TAG_COLUMNS, ManifestFile, Row, update_row
from datamodules.corpora.folder.matching import Placement, place_tracks
from datamodules.corpora.folder.naming import free_name
from datamodules.corpora.folder.state import Reading, Track


class Merged(NamedTuple):
    """A manifest brought up to date.

    Attributes:
        rows: Of the manifest, in their order, new ones at the end.
        tracks: By track_id, those whose file is gone among them.
        placement: Which file each track is.
        removed: Number of tracks whose rows have gone out.
        own_rows: Number of rows of no file of the folder, which stay.
    """

    rows: list[Row]
    tracks: dict[str, Track]
    placement: Placement
    removed: int
    own_rows: int


def merge(
    file: ManifestFile,
    tracks: Mapping[str, Track],
    readings: Mapping[str, Reading],
    cell_of: Callable[[str], str],
    place_of: Callable[[Row], str | None],
) -> Merged:
    """Bring a manifest and its tracks up to date.

    Args:
        file: The manifest.
        tracks: As the last scan has left them.
        readings: Files that can be tracks, by path.
        cell_of: Returns the cell of a path.
        place_of: Returns the path, relative to the folder of music, that a row names; None if it names another place.
    """
    known = adopt_rows(file.rows, tracks, readings, place_of)
    placement = place_tracks(known, readings)
    for track in new_tracks(placement.new, readings, {*known, *map(row_id, file.rows)}):
        known[track.track_id] = track
        placement.path_of[track.track_id] = track.path
    rows_of: dict[str, list[Row]] = defaultdict(list)
    kept, own_rows = [], 0
    for row in file.rows:
        track_id = row_id(row)
        rows_of[track_id].append(row)
        own_rows += track_id not in known
        if track_id not in known or track_id in placement.path_of:
            kept.append(row)
    updated, removed = {}, 0
    for track_id, track in known.items():
        rows = rows_of.get(track_id)
        if track_id not in placement.path_of:
            # A place that another track has taken is no longer its own.
            place = "" if track.path in readings else track.path
            updated[track_id] = gone(track, rows)._replace(path=place)
            removed += not (track.is_gone or track.is_deleted)
            continue
        path = placement.path_of[track_id]
        digest, mtime_ns = readings[path].digest, readings[path].mtime_ns
        here = track._replace(path=path, digest=digest, mtime_ns=mtime_ns, rows=None, is_gone=False)
        if rows is None:
            rows = missing_rows(track)
            kept += rows
        updated[track_id] = with_rows(here, rows, file, readings[path].cells or {}, cell_of(path))
    return Merged(kept, updated, placement, removed, own_rows)


def new_tracks(paths: Iterable[str], readings: Mapping[str, Reading], taken: set[str]) -> list[Track]:
    """Return the tracks of new files, under names that are not taken."""
    tracks = []
    for path in paths:
        name = free_name(path, taken)
        taken.add(name)
        tracks.append(Track(name, path, readings[path].digest, readings[path].mtime_ns))
    return tracks


def row_id(row: Row) -> str:
    return (row.get("track_id") or "").strip()


def adopt_rows(
    rows: Iterable[Row],
    tracks: Mapping[str, Track],
    readings: Mapping[str, Reading],
    place_of: Callable[[Row], str | None],
) -> dict[str, Track]:
    """Return the tracks under the names that a person has given them, with those of rows that only a person has written."""
    known, ids = dict(tracks), {row_id(row) for row in rows}
    at = {track.path: name for name, track in tracks.items() if not track.is_gone}
    for row in rows:
        track_id, path = row_id(row), place_of(row)
        if not track_id or track_id in known or path is None:
            continue
        old = at.get(path)
        if old is not None and old not in ids:
            known[track_id] = known.pop(old)._replace(track_id=track_id)
        elif old is None and path in readings:
            known[track_id] = Track(track_id, path, readings[path].digest, readings[path].mtime_ns)
        else:
            continue
        at[path] = track_id
    return known


def gone(track: Track, rows: list[Row] | None) -> Track:
    """Return a track whose file is gone, with the rows that it has had."""
    if rows is None:
        return track._replace(is_gone=True)
    cells = [{column: cell for column, cell in row.items() if column is not None} for row in rows]
    return track._replace(is_gone=True, rows=cells, is_deleted=False)


def missing_rows(track: Track) -> list[Row]:
    """Return the rows of a track that has none in the manifest: those it had, a new one, or none if a person has deleted them."""
    if track.rows is not None:
        return [dict(row) for row in track.rows]
    return [{"track_id": track.track_id}] if track.written is None else []


def with_rows(track: Track, rows: list[Row], file: ManifestFile, cells: Mapping[str, str], path: str) -> Track:
    """Bring the rows of a track up to date, and return the track with what a scan has written into them by now."""
    if not rows:
        return track._replace(is_deleted=True)
    columns = [column for column in TAG_COLUMNS if column in file.columns]
    written = dict(track.written or {})
    for row in rows:
        row["path"] = path
        for column in update_row(row, columns, track, cells, file.decimal_comma):
            written[column] = cells.get(column, "")
    known = {column: cell for column, cell in written.items() if cell}
    return track._replace(written=known, pending=None, is_deleted=False)


def place_in(music: str, folder: str, row: Row) -> str | None:
    """Return the path below a folder of music that a row of a manifest in another folder names; None if it names another place.

    >>> place_in("/m/music", "/m", {"path": "music/a.mp3"}), place_in("/m/music", "/m", {"path": "/b.mp3"})
    ('a.mp3', None)
    """
    cell = (row.get("path") or "").strip()
    whole = os.path.normpath(os.path.join(folder, cell))
    return os.path.relpath(whole, music) if cell and whole.startswith(f"{music.rstrip('/')}/") else None
