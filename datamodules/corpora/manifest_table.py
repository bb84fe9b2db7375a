"""The file of a manifest: its encoding, what separates its columns, and which column is which.

Text is UTF-8, or UTF-16 where a mark at its beginning says so. Columns are separated by a comma, a semicolon or a tab, whichever
the header shows; a line ``sep=;`` above it, as spreadsheets write, says so too. Empty lines count
for nothing, and so do blanks behind a separator, even before a quotation mark.
"""

import codecs
import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from datamodules.corpora.cells import key_of, known_column, plain
from datamodules.corpora.text_files import LineReader
from disentangled_ml.structures import METADATA, TEMPO, quoted, shortened

REQUIRED = ("track_id", "path")
ARTIST = "artist"
SECTION = ("start", "end")  # known where a manifest has both
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
DECLARED = re.compile(r'"?sep=(.)"?\s*')
MOST_COLUMNS = 500  # characters of the names of columns in a message
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class ManifestError(ValueError):
    """What is wrong with a manifest as a whole, and what would be right."""


class ManifestTable(NamedTuple):
    """The rows of a manifest, as dictionaries by column.

    Attributes:
        rows: Whose ``line_num`` is that of the row read last.
        separator: Of the columns.
        renamed: Known columns that the header writes otherwise, and how.
    """

    rows: LineReader
    separator: str
    renamed: dict[str, str]

    @property
    def columns(self) -> list[str]:
        return [column for column in self.rows.fieldnames or () if column]

    @property
    def has_sections(self) -> bool:
        return set(SECTION) <= set(self.columns)

    @property
    def singles(self) -> tuple[str, ...]:
        """Known columns whose cells hold one value, no tags."""
        return (ARTIST, "split", TEMPO, *(SECTION if self.has_sections else ()))

    @property
    def offered(self) -> list[str]:
        """Columns that may be conditions."""
        others = {*REQUIRED, *self.singles} - {TEMPO}
        return [column for column in self.columns if column not in others]

    @property
    def metadata(self) -> dict[str, str]:
        """Columns that hold metadata, which are conditions only where they are chosen, and what each holds, by ``METADATA``."""
        keys = {column: key_of(column).replace(" ", "_") for column in self.columns}
        return {column: key for column, key in keys.items() if key in METADATA}

    @property
    def decimal_comma(self) -> bool:
        """Whether numbers may be written as 120,5, as where spreadsheets separate columns otherwise."""
        return self.separator != ","


@contextmanager
def opened(manifest: Path) -> Iterator[ManifestTable]:
    """Open a manifest for one reading.

    Raises: ManifestError: if it cannot be read, or lacks a column or has one twice.
    """
    try:
        with open(manifest, newline="", encoding=encoding_of(manifest)) as file:
            separator, lines_above = find_header(file)
            file.seek(0)
            rows = LineReader(file, delimiter=separator, skipinitialspace=True)
            for _ in range(lines_above):
                next(rows.reader, None)
            header = list(rows.fieldnames or ())
            columns = name_columns(header)
            check_columns(manifest, header, columns)
            rows.fieldnames = columns
            renamed = {column: name for column, name in zip(columns, header, strict=True) if column != plain(name)}
            yield ManifestTable(rows, separator, renamed)
    except UnicodeError as error:
        raise ManifestError(
            f"manifest {manifest} cannot be read as UTF-8 CSV{undecodable_line(manifest)}: save it as UTF-8 ({error})"
        ) from error
    except (OSError, csv.Error) as error:
        raise ManifestError(f"manifest {manifest} cannot be read as UTF-8 CSV: {error}") from error


def encoding_of(manifest: Path) -> str:
    with open(manifest, "rb") as file:
        return "utf-16" if file.read(2) in UTF16_MARKS else "utf-8-sig"


def undecodable_line(manifest: Path) -> str:
    """Return which line of a manifest is not UTF-8, as part of a message."""
    with open(manifest, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f", line {number}"
    return ""


def find_header(file: TextIO) -> tuple[str, int]:
    """Return what separates the columns of a manifest, and the number of lines above its header."""
    declared = None
    for number, line in enumerate(file):
        said = DECLARED.fullmatch(line)
        if said and said[1] in SEPARATORS:
            declared = said[1]
        elif line.strip(" ,;\t\r\n"):
            return declared or sniff_separator(line), number
    return ",", 0


def sniff_separator(header: str) -> str:
    """Return the separator that shows most of the columns which a manifest must have; a comma in doubt.

    >>> sniff_separator("track_id;path;genre"), sniff_separator("Path\\tTrack_ID"), sniff_separator("name|file")
    (';', '\\t', ',')
    """

    def shown(separator: str) -> int:
        (cells,) = csv.reader([header], delimiter=separator, skipinitialspace=True)
        return len(set(map(known_column, cells)) & set(REQUIRED))

    return max(SEPARATORS, key=shown)


def name_columns(header: list[str]) -> list[str]:
    """Return the columns that a header means: the names of known ones, others as they are written.

    >>> name_columns(["Track_ID", " path", "Artist ", "Genre", "Start"])
    ['track_id', 'path', 'artist', 'Genre', 'Start']
    """
    known = [known_column(name) for name in header]
    no_section = () if set(SECTION) <= set(known) else SECTION
    return [
        column if column and column not in no_section else plain(name)
        for column, name in zip(known, header, strict=True)
    ]


def told(columns: Iterable[str]) -> str:
    """Return the names of columns for a message, the first of very many."""
    return shortened(", ".join(columns), MOST_COLUMNS)


def check_columns(manifest: Path, header: list[str], columns: list[str]) -> None:
    """Check that a manifest has the columns that it must have, and none twice.

    Raises: ManifestError: naming the column.
    """
    for name in header:
        if "\n" in name or "\r" in name:
            begin = quoted(name.splitlines()[0])
            raise ManifestError(
                f"manifest {manifest}: the column {begin} runs over several lines, close its quotation mark"
            )
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise ManifestError(
            f"manifest {manifest} has no column {', '.join(missing)}; it has: {told(filter(None, columns))} "
            f"(columns are separated by {', '.join(SEPARATORS.values())})"
        )
    spelled: dict[str, list[str]] = defaultdict(list)
    for name, column in zip(header, columns, strict=True):
        if column:
            spelled[key_of(column)].append(name)
    for names in spelled.values():
        if len(names) > 1:
            meaning = known_column(names[0])
            which = f"for {meaning}" if meaning and meaning in columns else "of one name"
            written = shortened(" and ".join(map(quoted, names)), MOST_COLUMNS)
            raise ManifestError(f"manifest {manifest} has two columns {which}: {written}; rename or delete one of them")
