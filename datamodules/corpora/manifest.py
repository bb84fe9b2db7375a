"""Manifest: a CSV of recordings and labels, the form that any catalogue can be brought into.

Columns ``track_id`` and ``path`` (relative to the manifest), then optionally ``artist``, ``split`` (train, val, test),
``tempo`` (BPM) and one column per tag condition, tags joined by ``;``. An empty cell is an unknown label. Rows that cannot be
used are rejected one by one, with the reason; a file that is no manifest is an error.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from datamodules.corpora.files import LineReader
from datamodules.corpora.records import TEMPO, Catalogue, Rejected, TrackRecord, draw_split
from disentangled_ml.conditions import MAX_BPM, MIN_BPM
from disentangled_ml.structures import RESERVED_NAMES, SPLITS

REQUIRED = ("track_id", "path")
RESERVED = (*REQUIRED, "artist", "split")
logger = logging.getLogger(__name__)


class ManifestError(ValueError):
    """Tell what is wrong with a manifest as a whole, and what would be right."""


def read_manifest(manifest: Path, split_shares: Sequence[float], conditions: Sequence[str] | None = None) -> Catalogue:
    """Read a manifest.

    Args:
        manifest: The file.
        split_shares: Of train, val and test, for rows without a split.
        conditions: Columns to take as conditions; by default ``tempo`` and all others that do not hold numbers.

    Raises:
        ManifestError: if the file is missing, empty, not UTF-8 CSV, or lacks a column or has one twice.
    """
    with opened(manifest) as reader:
        columns = [column for column in reader.fieldnames or () if column]
        missing = [column for column in REQUIRED if column not in columns]
        if missing:
            raise ManifestError(f"manifest {manifest} has no column {', '.join(missing)}; it has: {', '.join(columns)}")
        if len(set(columns)) < len(columns):
            raise ManifestError(f"manifest {manifest} has two columns of one name; it has: {', '.join(columns)}")
        offered = [column for column in columns if column not in RESERVED]
        n_rows, numeric = numeric_columns(reader, offered)
    if not n_rows:
        raise ManifestError(f"manifest {manifest} has no rows below its header")
    names = condition_columns(manifest, offered, numeric, conditions)
    return Catalogue(names, partial(read_rows, manifest, names, split_shares))


@contextmanager
def opened(manifest: Path) -> Iterator[csv.DictReader]:
    """Read a manifest row by row.

    Raises:
        ManifestError: if it is no UTF-8 CSV.
    """
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            yield LineReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"manifest {manifest} cannot be read as UTF-8 CSV: {error}") from error


def read_rows(manifest: Path, names: Sequence[str], split_shares: Sequence[float]) -> Iterator[TrackRecord | Rejected]:
    """Stream the rows of a manifest."""
    with opened(manifest) as reader:
        for row in reader:
            track_id, path = (row["track_id"] or "").strip(), (row["path"] or "").strip()
            try:
                yield parse_row(row, track_id, manifest.parent / path if path else None, names, split_shares)
            except ValueError as error:
                yield Rejected(track_id, path, str(error))


def numeric_columns(rows: Iterable[dict], offered: Sequence[str]) -> tuple[int, list[str]]:
    """Count the rows, and find the offered columns that hold nothing but numbers."""
    numeric, n_rows = [name for name in offered if name != TEMPO], 0
    for row in rows:
        n_rows += 1
        numeric = [name for name in numeric if not row[name] or is_number(row[name])]
    return n_rows, numeric


def condition_columns(
    manifest: Path, offered: Sequence[str], numeric: Sequence[str], conditions: Sequence[str] | None
) -> list[str]:
    """Name the columns that are conditions."""
    if conditions is None:
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
