"""The first reading of a manifest: which columns hold numbers, how names are spelled, and what will be changed or left out.

Held are the spellings of artists and tags, each once; a column of numbers is not held.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from datamodules.corpora.cells import (
    key_of,
    list_items,
    looks_joined,
    other_spellings,
    parse_number,
    plain,
    split_tags,
    tag_key,
)
from datamodules.corpora.manifest_table import ARTIST, ManifestTable, told
from disentangled_ml.structures import quoted, shortened

# From so many cells on that look like lists, and such a share of a column, it is warned of.
LEAST_JOINED, SHARE_JOINED = 3, 0.1
SHOWN = 5  # unknown values that a note names
NOTHING_KNOWN = "columns without any known value make no condition"  # how a warning begins


@dataclass
class ColumnCounts:
    """What the cells of a column hold.

    Attributes:
        is_numeric: Nothing but numbers and unknown values.
        filled: Cells that hold something known.
        unknown: Values taken as unknown, as they are written.
        lists: Cells that are written as lists.
        joined: Cells that look like several tags and are taken as one.
        example: The first of those.
        names: How often each artist or tag is written so.
    """

    is_numeric: bool = True
    filled: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    lists: int = 0
    joined: int = 0
    example: str = ""
    names: Counter[str] = field(default_factory=Counter)

    def add(self, cell: str, is_single: bool, unknown: frozenset[str], decimal_comma: bool) -> None:
        """Count a cell that is not empty."""
        tags = [cell] if is_single else split_tags(cell)
        known = [tag for tag in tags if tag.casefold() not in unknown]
        if len(known) < len(tags):
            self.unknown.update(tag for tag in tags if tag.casefold() in unknown)
        if not known:
            return
        self.filled += 1
        self.is_numeric = self.is_numeric and parse_number(cell, decimal_comma) is not None
        # A number has one spelling.
        if not self.is_numeric:
            self.names.update(known)
        if not is_single:
            self.lists += list_items(cell) is not None
            if any(map(looks_joined, known)):
                self.joined += 1
                self.example = self.example or cell

    def looks_joined(self) -> bool:
        """Return whether many cells look like several tags, each of which is taken as one."""
        return not self.is_numeric and self.joined >= max(LEAST_JOINED, SHARE_JOINED * self.filled)


@dataclass
class ManifestSurvey:
    """What a manifest holds, and what its reading changes or leaves out.

    Attributes:
        renamed: Known columns that the header writes otherwise, and how.
        tags: Columns whose cells hold tags.
        columns: Counts of these and of known ones, but for ids and paths.
        rows: Number of rows that hold something.
        blank_rows: Number of others.
        composed: Number of cells that are brought to the Unicode form NFC.
        left_out: Columns that are no conditions although they were chosen, or none were.
    """

    renamed: dict[str, str]
    tags: list[str]
    columns: dict[str, ColumnCounts]
    rows: int = 0
    blank_rows: int = 0
    composed: int = 0
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, numbers: bool) -> None:
        """Leave out the columns that can be no conditions: they hold nothing, or, where ``numbers`` says so, nothing but numbers."""

        def is_left_out(column: str) -> bool:
            counts = self.columns[column]
            return not counts.filled or (numbers and counts.is_numeric)

        self.left_out = [column for column in self.tags if is_left_out(column)]
        self.tags = [column for column in self.tags if not is_left_out(column)]

    def spellings(self) -> dict[str, dict[str, str]]:
        """Return, for artists and for tags, what is shown instead of each name that is more often written otherwise."""
        named = [column for column in (ARTIST, *self.tags) if column in self.columns]
        keys = {ARTIST: key_of}
        found = {column: other_spellings(self.columns[column].names, keys.get(column, tag_key)) for column in named}
        return {column: others for column, others in found.items() if others}

    def warnings(self) -> list[str]:
        """Return what is probably not what was meant, a line each."""
        numbers = [column for column in self.left_out if self.columns[column].filled]
        nothing = [column for column in self.left_out if not self.columns[column].filled]
        lines = []
        if numbers:
            lines.append(f"columns of numbers, not tags, make no condition: {told(numbers)}")
        if nothing:
            lines.append(f"{NOTHING_KNOWN}: {told(nothing)}")
        for column in self.tags:
            counts = self.columns[column]
            if counts.looks_joined():
                found = f"{counts.joined:,} of {counts.filled:,} cells look like lists ({quoted(counts.example)})"
                lines.append(f"column {shortened(column)}: {found}, but each is taken as one tag: join tags by ;")
        return lines

    def notes(self) -> list[str]:
        """Return what was changed, in numbers, a line per rule and column."""
        lines = [f"column {quoted(name)} is {column}" for column, name in self.renamed.items()]
        if self.blank_rows:
            lines.append(f"blank rows left out: {self.blank_rows:,}")
        if self.composed:
            lines.append(f"cells brought to the Unicode form NFC: {self.composed:,}")
        unknown = sum((counts.unknown for counts in self.columns.values()), Counter[str]())
        if unknown:
            values = ", ".join(f"{count:,} {value}" for value, count in unknown.most_common(SHOWN))
            more = ", ..." * (len(unknown) > SHOWN)
            lines.append(f"values taken as unknown: {unknown.total():,} ({values}{more}); unknown_values=[] keeps them")
        for column in self.tags:
            if count := self.columns[column].lists:
                lines.append(f"column {shortened(column)}: cells written as lists, each read as its tags: {count:,}")
        for column, others in self.spellings().items():
            written, shown = next(iter(others.items()))
            lines.append(
                f"column {shortened(column)}: spellings shown as another: {len(others):,}, as {quoted(written)} as {quoted(shown)}"
            )
        return lines


def survey(table: ManifestTable, chosen: Sequence[str] | None, unknown: frozenset[str]) -> ManifestSurvey:
    """Read all rows of a manifest for the first time.

    Args:
        table: The manifest.
        chosen: Columns that are conditions; None: all that can be.
        unknown: Values that are taken as unknown, in lower case.
    """
    # Sets: a table may have very many columns.
    singles, there = frozenset(table.singles), frozenset(table.columns)
    metadata = table.metadata if chosen is None else ()
    wanted = [column for column in table.offered if column not in metadata] if chosen is None else chosen
    tags = [column for column in wanted if column in there and column not in singles]
    counted = singles.union(tags)
    columns = {column: ColumnCounts() for column in table.columns if column in counted}
    found = ManifestSurvey(table.renamed, tags, columns)
    for row in table.rows:
        if is_blank(row):
            found.blank_rows += 1
            continue
        found.rows += 1
        # Of a short row not all columns.
        for column in columns.keys() & row.keys():
            if cell := plain(row[column]):
                counts = columns[column]
                found.composed += not (cell.isascii() or unicodedata.is_normalized("NFC", row[column]))
                counts.add(cell, column in singles, unknown, table.decimal_comma)
    found.leave_out(numbers=chosen is None)
    return found


def is_blank(row: dict) -> bool:
    """Return whether no cell of a row holds anything.

    >>> is_blank({"path": " ", "genre": None, None: ["", ""]}), is_blank({"path": "a.wav"})
    (True, False)
    """
    cells = chain(row.get(None, ()), (cell for column, cell in row.items() if column is not None))
    return not any(cell and cell.strip() for cell in cells)
