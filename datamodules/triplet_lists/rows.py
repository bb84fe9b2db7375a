"""What the readers of triplets share: their error, the rows of a table with a header, and the cells that hold numbers."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from disentangled_ml.structures import AudioSettings, quoted

MAX_SECONDS = 1e6  # more is a unit or parsing error


class TripletListError(ValueError):
    """Which line of a file of triplets is wrong, and what would be right."""


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place of each row of a CSV table, for errors, and its cells; other columns than those needed may be missing.

    Raises: TripletListError: naming the file and line, if a column is missing or there twice, or a row has too many or too few cells.
    """
    row = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            twice = [column for column in columns if names.count(column) > 1]
            if twice:
                raise TripletListError(f"{path}, line 1: column {twice[0]} is there twice: leave one out")
            missing = [column for column in columns if column not in names]
            if missing:
                needed = ", ".join(columns)
                raise TripletListError(f"{path}, line 1: no column {', '.join(missing)}; needed are {needed}")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if row.get(None):
                    raise TripletListError(f"{where}: more cells than columns, put cells that hold a comma in quotes")
                check_length(row, columns, where)
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TripletListError(f"{path} cannot be read as UTF-8 CSV ({error}): give a file of triplets") from error
    if row is None:
        raise TripletListError(f"{path} has no rows below its header: give a file of triplets")


def check_length(row: dict, columns: Sequence[str], where: str) -> None:
    """Check that a row has a cell in every needed column."""
    short = [column for column in columns if row[column] is None]
    if short:
        raise TripletListError(f"{where}: the row is too short, it ends before {short[0]}")


def parse_number(cell: str) -> float | None:
    """Return a finite number that is not negative; None for anything else.

    >>> parse_number("1.5"), parse_number("-1"), parse_number("nan"), parse_number("")
    (1.5, None, None, None)
    """
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def parse_start(cell: str, where: str, audio: AudioSettings) -> int:
    """Return the frame of a start in seconds; errors (``TripletListError``) begin with ``where``."""
    seconds = parse_number(cell)
    if seconds is None or seconds >= MAX_SECONDS:
        raise TripletListError(f"{where}={quoted(cell)} is not a number of seconds >= 0")
    return audio.frames(seconds)
