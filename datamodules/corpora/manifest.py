"""Manifest: a CSV of recordings and labels, the form that any corpus can be brought into.

Columns ``track_id`` and ``path`` (relative to the manifest), then optionally ``artist``, ``split`` (train, val, test),
``tempo`` (BPM) and one column per tag condition, tags joined by ``;``. An empty cell is an unknown label. Rows that cannot be
used are rejected one by one, with the reason; a file that is no manifest is an error.

Labels per section: with the columns ``start`` and ``end`` (both, in seconds) a row is a stretch of its recording, with its own labels,
and a recording may have several rows with one ``track_id``. Each becomes a track of its own, ``TRACK_ID@START-END``. An empty start is
the beginning, an empty end the end of the recording; a row without both is the whole recording. Sections may overlap. The artist
of a row without one is then the recording, so that anchor and positive are never sections of one recording; anchor and negative may
be, which is what teaches that a song changes. All rows of a recording share a split: where none is given it is drawn once.
"""

import csv
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from datamodules.corpora.records import draw_split
from datamodules.corpora.text_files import LineReader
from disentangled_ml.structures import (
    MAX_BPM,
    MIN_BPM,
    RESERVED_NAMES,
    SPLITS,
    TEMPO,
    WHOLE,
    Corpus,
    Rejected,
    TrackRecord,
)

REQUIRED = ("track_id", "path")
RESERVED = (*REQUIRED, "artist", "split")
SECTION = ("start", "end")  # reserved where a manifest has both
SECTION_NAME = re.compile(r"@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?|end)$")
LEAST_SECONDS = 1e-3  # of a section, and what its name shows
logger = logging.getLogger(__name__)


class ManifestError(ValueError):
    """What is wrong with a manifest as a whole, and what would be right."""


def read_manifest(manifest: Path, split_shares: Sequence[float], conditions: Sequence[str] | None = None) -> Corpus:
    """Read a manifest.

    Args:
        manifest: The file.
        split_shares: Of train, val and test, for rows without a split.
        conditions: Columns to take as conditions; by default ``tempo`` and all others that do not hold numbers.

    Raises: ManifestError: if the file is missing, empty, not UTF-8 CSV, or lacks a column or has one twice.
    """
    with opened(manifest) as reader:
        columns = [column for column in reader.fieldnames or () if column]
        missing = [column for column in REQUIRED if column not in columns]
        if missing:
            raise ManifestError(f"manifest {manifest} has no column {', '.join(missing)}; it has: {', '.join(columns)}")
        if len(set(columns)) < len(columns):
            raise ManifestError(f"manifest {manifest} has two columns of one name; it has: {', '.join(columns)}")
        reserved = (*RESERVED, *SECTION) if set(SECTION) <= set(columns) else RESERVED
        offered = [column for column in columns if column not in reserved]
        n_rows, numeric = numeric_columns(reader, offered)
    if not n_rows:
        raise ManifestError(f"manifest {manifest} has no rows below its header")
    names = condition_columns(manifest, offered, numeric, conditions)
    return Corpus(names, partial(read_rows, manifest, names, split_shares))


@contextmanager
def opened(manifest: Path) -> Iterator[csv.DictReader]:
    """Read a manifest row by row."""
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            yield LineReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"manifest {manifest} cannot be read as UTF-8 CSV: {error}") from error


def read_rows(manifest: Path, names: Sequence[str], split_shares: Sequence[float]) -> Iterator[TrackRecord | Rejected]:
    """Stream the rows of a manifest; of one with sections, the splits of the recordings are held."""
    splits: dict[str, str] = {}
    with opened(manifest) as reader:
        sections = set(SECTION) <= set(reader.fieldnames or ())
        for row in reader:
            track_id, path = (row["track_id"] or "").strip(), (row["path"] or "").strip()
            try:
                record = parse_row(row, track_id, manifest.parent / path if path else None, names, split_shares)
                if sections:
                    record, split = of_section(record, row), splits.setdefault(track_id, record.split)
                    # Else one recording would be in training and in test.
                    if record.split != split:
                        raise ValueError(
                            f"split {record.split!r}, but a row above has this recording in {split!r}: give it one split"
                        )
                yield record
            except ValueError as error:
                yield Rejected(track_id, path, str(error))


def of_section(record: TrackRecord, row: dict) -> TrackRecord:
    """Turn the record of a whole recording into that of the section that a row names.

    >>> whole = TrackRecord("a", "a.wav", None, "val", {})
    >>> section = of_section(whole, {"start": "12.50", "end": ""})
    >>> section.track_id, section.artist, section.section
    ('a@12.5-end', 'recording a', (12.5, None))
    >>> of_section(whole, {"start": "", "end": ""}).track_id
    'a'
    """
    cells = [(row.get(name) or "").strip() for name in SECTION]
    start, end = (parse_seconds(name, cell) for name, cell in zip(SECTION, cells, strict=True))
    if end is not None and end - (start or 0.0) < LEAST_SECONDS:
        raise ValueError(f"the section starts at {start or 0.0:g} s and ends at {end:g} s: start must be less than end")
    record = record._replace(artist=record.artist or f"recording {record.track_id}")
    if start is None and end is None:
        return record
    name = f"{record.track_id}@{shown(start or 0.0)}-{'end' if end is None else shown(end)}"
    return record._replace(track_id=name, section=(start or 0.0, end))


def section_of(track_id: str) -> tuple[float, float | None]:
    """Read from the name of a track which section of its recording it is; other names are those of whole recordings.

    >>> section_of("a@12.5-end"), section_of("a@0-9"), section_of("a")
    ((12.5, None), (0.0, 9.0), (0.0, None))
    """
    found = SECTION_NAME.search(track_id)
    return (float(found[1]), None if found[2] == "end" else float(found[2])) if found else WHOLE


def parse_seconds(name: str, cell: str) -> float | None:
    """Parse the start or end of a section; None for an empty cell.

    >>> parse_seconds("start", "12.5"), parse_seconds("end", "")
    (12.5, None)
    """
    if not cell:
        return None
    if not (is_number(cell) and 0 <= float(cell) < math.inf):
        raise ValueError(f"{name} {cell!r} is not a number of seconds from 0 on")
    return float(cell)


def shown(seconds: float) -> str:
    """Format a time to the millisecond, as briefly as possible.

    >>> shown(12.5), shown(30.0), shown(0.0)
    ('12.5', '30', '0')
    """
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


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
    """Return the columns that are conditions."""
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
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_row(
    row: dict, track_id: str, path: Path | None, conditions: Sequence[str], split_shares: Sequence[float]
) -> TrackRecord:
    """Parse one row.

    Raises: ValueError: with the reason for which it is rejected.
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
        elif tags := sorted({tag.strip() for tag in cell.split(";")} - {""}):
            labels[name] = tags
    split = split or draw_split(artist or track_id, split_shares)
    return TrackRecord(track_id, str(path), artist, split, labels)


def parse_tempo(cell: str) -> float:
    """Parse a tempo in BPM.

    >>> parse_tempo("120.5")
    120.5
    """
    if is_number(cell) and MIN_BPM <= float(cell) <= MAX_BPM:
        return float(cell)
    raise ValueError(f"tempo {cell!r} is not a number of BPM from {MIN_BPM:g} to {MAX_BPM:g}")
