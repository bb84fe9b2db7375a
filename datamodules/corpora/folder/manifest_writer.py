"""The manifest of a folder: read as a person may have edited it, brought up to date cell by cell, written whole.

A cell is the scan's as long as it says what a scan has written there; any other is a person's, and stays. Columns and rows that no
scan has written stay, too, and so do the order of rows, the separator of columns and the mark of byte order.
"""

import codecs
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.corpora.cells import key_of, parse_number, plain
from datamodules.corpora.folder.state import Track
from datamodules.corpora.manifest_survey import is_blank
from datamodules.corpora.manifest_table import ARTIST, REQUIRED, ManifestError, opened
from disentangled_ml.files import atomic_write
from disentangled_ml.structures import TEMPO, quoted

TAG_COLUMNS = (
    *(ARTIST, "title", "album", "album_artist", "date", "isrc"),
    *("musicbrainz_recording", "musicbrainz_album", TEMPO, "genre", "mood"),
)
Row = dict[str | None, str | list[str]]


class ManifestFile(NamedTuple):
    """A manifest as it is on disk.

    Attributes:
        columns: In their order; those that a scan writes under their own names, however the header does.
        header: How they are written.
        rows: By column; under None the cells that have none.
        separator: Of the columns.
        mark: That of byte order, where it has one.
    """

    columns: list[str]
    header: list[str]
    rows: list[Row]
    separator: str = ","
    mark: str = ""

    @property
    def decimal_comma(self) -> bool:
        return self.separator != ","


def new_manifest() -> ManifestFile:
    columns = [*REQUIRED, *TAG_COLUMNS]
    return ManifestFile(columns, columns, [])


def read_manifest_file(manifest: Path, written_before: Sequence[str]) -> ManifestFile:
    """Read a manifest to bring it up to date.

    Args:
        manifest: The file.
        written_before: Columns that an earlier scan has written: one that is missing was deleted, and is not added again.

    Raises: ManifestError: if it is no manifest, or two columns of it have no name.
    """
    with opened(manifest) as table:
        ours = {name: name for name in TAG_COLUMNS}
        names = list(table.rows.fieldnames)
        if names.count("") > 1:
            raise ManifestError(
                f"manifest {manifest} has {names.count('')} columns without a name: name or delete them"
            )
        columns = [ours.get(key_of(name).replace(" ", "_"), name) for name in names]
        check_once(manifest, columns)
        renaming = dict(zip(names, columns, strict=True))
        rows = [{renaming.get(name): cell for name, cell in row.items()} for row in table.rows if not is_blank(row)]
        header = [table.renamed.get(name, name) for name in names]
        separator = table.separator
    with open(manifest, "rb") as file:
        mark = "\ufeff" if file.read(3) == codecs.BOM_UTF8 else ""
    missing = [name for name in TAG_COLUMNS if name not in columns and name not in written_before]
    return ManifestFile([*columns, *missing], [*header, *missing], rows, separator, mark)


def check_once(manifest: Path, columns: Sequence[str]) -> None:
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ManifestError(f"manifest {manifest} has two columns for {quoted(twice)}: rename or delete one of them")


def update_row(row: Row, columns: Iterable[str], track: Track, new: Mapping[str, str], decimal_comma: bool) -> set[str]:
    """Bring the cells of a row that are the scan's up to date; return the columns whose cells it has written.

    Of a row that no scan has written, the empty cells are filled.

    >>> row, track = {"genre": "Rock", "mood": "my own"}, Track("a", "a.mp3", "", 0, {"genre": "Rock", "mood": "sad"})
    >>> update_row(row, ["genre", "mood"], track, {"genre": "Pop", "mood": "calm"}, False), row
    ({'genre'}, {'genre': 'Pop', 'mood': 'my own'})
    """
    earlier = [cells for cells in (track.written, track.pending) if cells is not None] or [{}, new]
    written = set()
    for column in columns:
        said, cell = plain(row.get(column)), new.get(column, "")
        if any(is_same(said, cells.get(column, ""), decimal_comma) for cells in earlier):
            # A number that a spreadsheet has written its own way stays as it is.
            if not is_same(said, cell, decimal_comma):
                row[column] = cell
            written.add(column)
    return written


def is_same(said: str, written: str, decimal_comma: bool) -> bool:
    """Return whether two cells say the same, as text or as a number.

    >>> is_same("120,50", "120.5", True), is_same("rock", "Rock", False)
    (True, False)
    """
    if said == written:
        return True
    number = parse_number(said, decimal_comma)
    return number is not None and number == parse_number(written, decimal_comma)


def manifest_text(file: ManifestFile, rows: Iterable[Row]) -> str:
    """Return the text of a manifest with these rows."""
    text = io.StringIO(newline="")
    text.write(file.mark)
    writer = csv.writer(text, delimiter=file.separator, lineterminator="\n")
    writer.writerow(file.header)
    for row in rows:
        writer.writerow([*(row.get(column) or "" for column in file.columns), *row.get(None, ())])
    return text.getvalue()


def write_manifest(manifest: Path, text: str) -> None:
    """Write a manifest atomically; one that says the same already is left alone, as is its time."""
    if not (manifest.exists() and manifest.read_bytes() == text.encode()):
        with atomic_write(manifest) as file:
            file.write(text)
