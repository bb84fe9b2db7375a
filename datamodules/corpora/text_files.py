"""What the readers of published data sets share: their error, and the opening of their text files."""

import csv
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from disentangled_ml.structures import quoted

logger = logging.getLogger(__name__)


class CorpusError(ValueError):
    """Which file or key of a data set cannot be used, and the way out."""


class Row(dict):
    """A row of a table by column; a cell that it lacks is None, and costs nothing where there are very many columns."""

    def __missing__(self, column: str) -> None:
        return None


class LineReader(csv.DictReader):
    """Reader of a table none of whose cells holds a line break: an open quotation mark would swallow all that follows.

    Raises: csv.Error: naming the line, the column and how the cell begins.
    """

    def __next__(self) -> Row:
        columns, cells = self.fieldnames or [], []
        while not cells:
            cells = next(self.reader)
        self.line_num = self.reader.line_num
        row = Row(zip(columns, cells, strict=False))
        if len(cells) > len(columns):
            row[self.restkey] = cells[len(columns) :]
        for column, cell in row.items():
            if isinstance(cell, str) and ("\n" in cell or "\r" in cell):
                where = f"line {self.line_num}: the cell {quoted(cell.splitlines()[0])} of column {quoted(column)}"
                raise csv.Error(f"{where} runs over several lines, close its quotation mark")
        return row


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a text file of a data set; its lines may end in LF or CRLF.

    Raises: CorpusError: if it is missing or no UTF-8 text.
    """
    try:
        with open(path, newline="\n", encoding="utf-8-sig") as file:
            yield file
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} cannot be read as UTF-8 text: {error}") from error


@contextmanager
def opened_table(path: Path, columns: Iterable[str]) -> Iterator[csv.DictReader]:
    """Open a tab-separated table with a header, whose cells may stand in quotes.

    Raises: CorpusError: if it cannot be read, or lacks one of the columns or has one twice.
    """
    with opened(path) as file:
        table = LineReader(file, delimiter="\t")
        header = [name for name in table.fieldnames or () if name]
        missing = [name for name in columns if name not in header]
        if missing:
            raise CorpusError(f"{path}, line 1: no column {', '.join(missing)} in this tab-separated file")
        if len(set(header)) < len(header):
            raise CorpusError(f"{path}, line 1: two columns have one name")
        yield table


def find_splits(files: Mapping[str, list[Path]], way_out: str) -> dict[str, list[Path]]:
    """Return the splits of a publisher whose files exist; the log tells which do not.

    Args:
        files: The files of each split.
        way_out: What the error advises if there is none.

    Raises: CorpusError: if a split is there in part, or there is none.
    """
    missing = {split: [path for path in paths if not path.is_file()] for split, paths in files.items()}
    for split, paths in missing.items():
        if 0 < len(paths) < len(files[split]):
            raise CorpusError(f"{', '.join(map(str, paths))} is missing beside the other lists of {split}")
    there = {split: paths for split, paths in files.items() if not missing[split]}
    absent = [path for split, paths in files.items() if split not in there for path in paths]
    if not there:
        raise CorpusError(f"{absent[0].parent} has no {', '.join(path.name for path in absent)}: {way_out}")
    if absent:
        logger.warning("left out, since there is no %s in %s", ", ".join(p.name for p in absent), absent[0].parent)
    return there
