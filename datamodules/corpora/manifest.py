"""Manifest: a CSV of recordings and labels, the form that any catalogue can be brought into.

Columns ``track_id`` and ``path`` (relative to the manifest), then optionally ``artist``, ``split`` (train, val, test),
``tempo`` (BPM) and one column per tag condition, tags joined by ``;``. An empty cell is an unknown label. Rows that cannot be
used are rejected one by one, with the reason; a file that is no manifest is an error.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from disentangled_ml.conditions import MAX_BPM, MIN_BPM
from disentangled_ml.structures import RESERVED_NAMES, SPLITS

REQUIRED = ("track_id", "path")
RESERVED = (*REQUIRED, "artist", "split")
TEMPO = "tempo"
logger = logging.getLogger(__name__)


class ManifestError(ValueError):
    """Tell what is wrong with a manifest as a whole, and what would be right."""


class TrackRecord(NamedTuple):
    """Hold one recording and its labels as a catalogue gives them.

    Attributes:
        track_id: Unique name.
        path: Of the audio file.
        artist: None where unknown.
        split: ``train``, ``val`` or ``test``.
        labels: Tags (list of str) per tag condition, and ``tempo`` (float, BPM); a missing label is absent.
    """

    track_id: str
    path: str
    artist: str | None
    split: str
    labels: dict[str, list[str] | float]


class Rejected(NamedTuple):
    """Hold one line of ``rejected.csv``."""

    track_id: str
    path: str
    reason: str


class Catalogue(NamedTuple):
    """Hold what a reader gives: usable records, rejected rows, and the names of the conditions in order."""

    records: list[TrackRecord]
    rejected: list[Rejected]
    conditions: list[str]


def read_manifest(manifest: Path, split_shares: Sequence[float], conditions: Sequence[str] | None = None) -> Catalogue:
    """Read a manifest.

    Args:
        manifest: The file.
        split_shares: Of train, val and test, for rows without a split.
        conditions: Columns to take as conditions; by default ``tempo`` and all others that do not hold numbers.

    Raises:
        ManifestError: if the file is missing, empty, not UTF-8 CSV, or lacks a column or has one twice.
    """
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), [column for column in reader.fieldnames or () if column]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"manifest {manifest} cannot be read as UTF-8 CSV: {error}") from error
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise ManifestError(f"manifest {manifest} has no column {', '.join(missing)}; it has: {', '.join(columns)}")
    if len(set(columns)) < len(columns):
        raise ManifestError(f"manifest {manifest} has two columns of one name; it has: {', '.join(columns)}")
    if not rows:
        raise ManifestError(f"manifest {manifest} has no rows below its header")
    names = condition_columns(manifest, rows, columns, conditions)
    records, rejected, seen = [], [], set()
    for row in rows:
        track_id, path = (row["track_id"] or "").strip(), (row["path"] or "").strip()
        try:
            if track_id in seen:
                raise ValueError("duplicate track_id, the first one is kept")
            records.append(parse_row(row, track_id, manifest.parent / path if path else None, names, split_shares))
            seen.add(track_id)
        except ValueError as error:
            rejected.append(Rejected(track_id, path, str(error)))
    return Catalogue(records, rejected, names)


def condition_columns(
    manifest: Path, rows: list[dict], columns: list[str], conditions: Sequence[str] | None
) -> list[str]:
    """Name the columns that are conditions."""
    offered = [column for column in columns if column not in RESERVED]
    if conditions is None:
        numeric = [name for name in offered if name != TEMPO and all(is_number(row[name]) for row in rows if row[name])]
        if numeric:
            logger.warning("columns taken as no condition, for they hold numbers, not tags: %s", ", ".join(numeric))
        names = [name for name in offered if name not in numeric]
    else:
        names = list(conditions)
        if not names or len(set(names)) < len(names):
            raise ManifestError(f"conditions={names} are none or not distinct; choose from: {', '.join(offered)}")
        unknown = [name for name in names if name not in offered and name != TEMPO]
        if unknown:
            raise ManifestError(
                f"manifest {manifest} has no column {', '.join(unknown)} for a condition; choose from: {', '.join(offered)}"
            )
    for name in RESERVED_NAMES:
        if name in names:
            raise ManifestError(f"manifest {manifest}: a condition cannot be called {name!r}; rename that column")
    return names


def is_number(text: str) -> bool:
    """Tell whether a cell holds a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_row(
    row: dict, track_id: str, path: Path | None, conditions: Sequence[str], split_shares: Sequence[float]
) -> TrackRecord:
    """Parse one row.

    Raises:
        ValueError: with the reason for which it is rejected.
    """
    if not track_id:
        raise ValueError("no track_id")
    if path is None:
        raise ValueError("no path")
    if any(cell.strip() for cell in row.get(None, ())):
        raise ValueError("more cells than the header has columns: put cells that hold a comma in quotes")
    artist = (row.get("artist") or "").strip() or None
    split = (row.get("split") or "").strip()
    if split and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, legal: {', '.join(SPLITS)}")
    labels: dict[str, list[str] | float] = {}
    for name in conditions:
        cell = (row.get(name) or "").strip()
        if name == TEMPO and cell:
            labels[name] = parse_tempo(cell)
        elif cell:
            labels[name] = sorted({tag.strip() for tag in cell.split(";")} - {""})
    return TrackRecord(
        track_id, str(path), artist, split or draw_split(artist or track_id, split_shares), drop_empty(labels)
    )


def drop_empty(labels: dict[str, list[str] | float]) -> dict[str, list[str] | float]:
    """Leave out conditions whose cell held no tag."""
    return {name: label for name, label in labels.items() if label != []}


def parse_tempo(cell: str) -> float:
    """Parse a tempo in BPM.

    >>> parse_tempo("120.5")
    120.5
    """
    if is_number(cell) and MIN_BPM <= float(cell) <= MAX_BPM:
        return float(cell)
    raise ValueError(f"tempo {cell!r} is not a number of BPM from {MIN_BPM:g} to {MAX_BPM:g}")


def draw_split(group: str, shares: Sequence[float]) -> str:
    """Draw the split of an artist or a track from a stable hash of its name.

    >>> draw_split("Miles Davis", [0.7, 0.1, 0.2]) == draw_split("Miles Davis", [0.7, 0.1, 0.2])
    True
    """
    point = int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "big") / 2**64
    for split, share in zip(SPLITS, shares, strict=True):
        if point < share:
            return split
        point -= share
    return SPLITS[0]
