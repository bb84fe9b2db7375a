"""Manifest: a CSV of recordings and labels, the form that any corpus can be brought into.

Columns ``track_id`` and ``path`` (relative to the manifest), then optionally ``artist``, ``split`` (train, val, test),
``tempo`` (BPM), metadata (``title``, ``album``, ...) and one column per tag condition, tags joined by ``;``. An empty cell is an
unknown label. Rows that cannot be
used are rejected one by one, with the reason; a file that is no manifest is an error. How columns and cells may be written is in
cells.py and manifest_table.py; docs/manifests.md tells it. A manifest is read once to see what it holds (manifest_survey.py), then
streamed.

Labels per section: with the columns ``start`` and ``end`` (both, in seconds) a row is a stretch of its recording, with its own labels,
and a recording may have several rows with one ``track_id``. Each becomes a track of its own, ``TRACK_ID@START-END``. An empty start is
the beginning, an empty end the end of the recording; a row without both is the whole recording. Sections may overlap. The artist
of a row without one is then the recording, so that anchor and positive are never sections of one recording; anchor and negative may
be, which is what teaches that a song changes. All rows of a recording share a split: where none is given it is drawn once.
"""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datamodules.corpora.cells import UNKNOWN_VALUES, key_of, known_column, parse_number, plain, split_tags
from datamodules.corpora.manifest_survey import is_blank, survey
from datamodules.corpora.manifest_table import ARTIST, SECTION, SEPARATORS, ManifestError, opened, told
from datamodules.corpora.records import draw_split
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
    quoted,
)

SECTION_NAME = re.compile(r"@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?|end)$")
ALL_TRAIN, ALL_TEST = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)  # shares for rows without a split
LEAST_SECONDS = 1e-3  # of a section, and what its name shows
logger = logging.getLogger(__name__)


class ManifestReading(NamedTuple):
    """How the rows of a manifest are read, as its first reading has found.

    Attributes:
        conditions: Names of their columns, and their places among each other.
        split_shares: Of train, val and test, for rows without a split.
        unknown: Values that mean nothing, in lower case.
        spellings: Per column what is shown instead of a name.
        separator: Name of what separates the columns.
        decimal_comma: Whether a number may have one.
        metadata: Per column that holds metadata which.
    """

    conditions: Mapping[str, int]
    split_shares: Sequence[float]
    unknown: frozenset[str]
    spellings: Mapping[str, Mapping[str, str]]
    separator: str
    decimal_comma: bool
    metadata: Mapping[str, str]

    def value(self, row: dict, column: str) -> str:
        """Return what a cell holds; the empty string if that is unknown."""
        cell = plain(row.get(column))
        return "" if cell.casefold() in self.unknown else self.spellings.get(column, {}).get(cell, cell)

    def tags(self, row: dict, column: str) -> list[str]:
        """Return the known tags of a cell, sorted."""
        shown = self.spellings.get(column, {})
        tags = split_tags(plain(row.get(column)))
        return sorted({shown.get(tag, tag) for tag in tags if tag.casefold() not in self.unknown})


def read_manifest(
    manifest: Path,
    split_shares: Sequence[float],
    conditions: Sequence[str] | None = None,
    unknown_values: Iterable[str] = UNKNOWN_VALUES,
    optional: Collection[str] = (TEMPO,),
) -> Corpus:
    """Read a manifest, and log what is probably not what was meant.

    Args:
        manifest: The file.
        split_shares: Of train, val and test, for rows without a split.
        conditions: Columns to take as conditions, unless they hold nothing; by default ``tempo`` and all others that do not hold
            numbers.
        unknown_values: What cells say, in any case, that do not know.
        optional: Conditions that need not be there, since what lacks them is estimated.

    Raises: ManifestError: if the file is missing, empty, not UTF-8 CSV, or lacks a column or has one twice.
    """
    unknown = frozenset(value.strip().casefold() for value in unknown_values)
    with opened(manifest) as table:
        offered = table.offered
        chosen = None if conditions is None else chosen_columns(manifest, offered, conditions, optional)
        found = survey(table, chosen, unknown)
        separator, decimal_comma = SEPARATORS[table.separator], table.decimal_comma
        tags = frozenset(found.tags)
        metadata = {column: name for column, name in table.metadata.items() if column not in tags}
    if not found.rows:
        raise ManifestError(f"manifest {manifest} has no rows below its header")
    tags = {TEMPO, *found.tags}
    names = [column for column in (offered if chosen is None else chosen) if column in tags]
    check_names(manifest, names)
    for warning in found.warnings():
        logger.warning("%s: %s", manifest, warning)
    reading = ManifestReading(
        {name: place for place, name in enumerate(names)},
        split_shares,
        unknown,
        found.spellings(),
        separator,
        decimal_comma,
        metadata,
    )
    return Corpus(names, partial(read_rows, manifest, reading), [f"{manifest}: {note}" for note in found.notes()])


def count_drawn_splits(manifest: Path, unknown_values: Iterable[str] = UNKNOWN_VALUES) -> int:
    """Return how many usable rows of a manifest say no split, so that theirs is drawn. Raises ManifestError as ``read_manifest``."""
    unknown = frozenset(value.strip().casefold() for value in unknown_values)
    with opened(manifest) as table:
        reading = ManifestReading(
            {TEMPO: 0}, ALL_TRAIN, unknown, {}, SEPARATORS[table.separator], table.decimal_comma, {}
        )
    both = (read_rows(manifest, reading._replace(split_shares=shares)) for shares in (ALL_TRAIN, ALL_TEST))
    return sum(one != other for one, other in zip(*both, strict=True))


def chosen_columns(
    manifest: Path, offered: Sequence[str], conditions: Sequence[str], optional: Collection[str]
) -> list[str]:
    """Return the columns that were chosen as conditions, however they are written, and ``tempo``; some need not be there."""
    column_of = {key_of(column): column for column in offered}
    names = [known_column(name) or column_of.get(key_of(name), name) for name in conditions]
    if not names or len(set(names)) < len(names):
        raise ManifestError(f"conditions={list(conditions)} are none or not distinct; choose from: {told(offered)}")
    missing = [name for name in names if name not in (*offered, *optional)]
    if missing:
        raise ManifestError(
            f"manifest {manifest} has no column {', '.join(missing)} for a condition; choose from: {told(offered)}"
        )
    return [name for name in names if name in (*offered, TEMPO)]


def check_names(manifest: Path, names: Sequence[str]) -> None:
    for name in RESERVED_NAMES:
        if name in names:
            raise ManifestError(f"manifest {manifest}: a condition cannot be called {name!r}; rename that column")


def read_rows(manifest: Path, reading: ManifestReading) -> Iterator[TrackRecord | Rejected]:
    """Stream the rows of a manifest; of one with sections, the splits of the recordings are held."""
    splits: dict[str, str] = {}
    with opened(manifest) as table:
        has_sections = table.has_sections
        for row in table.rows:
            if is_blank(row):
                continue
            track_id, path = (row["track_id"] or "").strip(), (row["path"] or "").strip()
            try:
                record = parse_row(row, track_id, manifest.parent / path if path else None, reading)
                if has_sections:
                    record, split = of_section(record, row, reading), splits.setdefault(track_id, record.split)
                    # Else one recording would be in training and in test.
                    if record.split != split:
                        raise ValueError(
                            f"split {record.split!r}, but a row above has this recording in {split!r}: give it one split"
                        )
                yield record
            except ValueError as error:
                yield Rejected(track_id, path, f"{error} ({manifest.name}, line {table.rows.line_num})")


def of_section(record: TrackRecord, row: dict, reading: ManifestReading) -> TrackRecord:
    """Turn the record of a whole recording into that of the section that a row names."""
    start, end = (parse_seconds(name, reading.value(row, name), reading.decimal_comma) for name in SECTION)
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


def parse_seconds(name: str, cell: str, decimal_comma: bool = False) -> float | None:
    """Parse the start or end of a section; None for an empty cell.

    >>> parse_seconds("start", "12.5"), parse_seconds("end", "")
    (12.5, None)
    """
    if not cell:
        return None
    seconds = parse_number(cell, decimal_comma)
    if seconds is None or seconds < 0:
        raise ValueError(f"{name} {quoted(cell)} is not a number of seconds from 0 on")
    return seconds


def shown(seconds: float) -> str:
    """Format a time to the millisecond, as briefly as possible.

    >>> shown(12.5), shown(30.0), shown(0.0)
    ('12.5', '30', '0')
    """
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def parse_row(row: dict, track_id: str, path: Path | None, reading: ManifestReading) -> TrackRecord:
    """Parse one row.

    Raises: ValueError: with the reason for which it is rejected.
    """
    if not track_id:
        raise ValueError("no track_id")
    if path is None:
        raise ValueError("no path")
    if any(cell.strip() for cell in row.get(None, ())):
        raise ValueError(f"more cells than the header has columns: put cells that hold a {reading.separator} in quotes")
    artist, split = reading.value(row, ARTIST) or None, reading.value(row, "split")
    if split and split.casefold() not in SPLITS:
        raise ValueError(f"unknown split {quoted(split)}, legal: {', '.join(SPLITS)}")
    labels: dict[str, list[str] | float] = {}
    for name in sorted(reading.conditions.keys() & row.keys(), key=reading.conditions.__getitem__):
        if name != TEMPO:
            if tags := reading.tags(row, name):
                labels[name] = tags
        elif cell := reading.value(row, name):
            labels[name] = parse_tempo(cell, reading.decimal_comma)
    split = split.casefold() or draw_split(artist or track_id, reading.split_shares)
    metadata = {name: text for column, name in reading.metadata.items() if (text := plain(row.get(column)))}
    return TrackRecord(track_id, str(path), artist, split, labels, metadata=metadata or None)


def parse_tempo(cell: str, decimal_comma: bool = False) -> float:
    """Parse a tempo in BPM.

    >>> parse_tempo("120.5"), parse_tempo("120,5", decimal_comma=True)
    (120.5, 120.5)
    """
    tempo = parse_number(cell, decimal_comma)
    if tempo is not None and MIN_BPM <= tempo <= MAX_BPM:
        return tempo
    legal = f"a number of BPM from {MIN_BPM:g} to {MAX_BPM:g}"
    raise ValueError(f"tempo {quoted(cell)} is not {legal}: give one such number, or leave the cell empty")
