"""dim-sim: triplets of 3 s chunks of Million Song Dataset tracks, judged by people (J. Lee et al., ICASSP 2020, section 4.3).

A row asks which of two songs is more like the anchor. In the raw file the votes are counts, in the clean file 0 and 1.
Columns that are needed: ``anchor_id``, ``song1_id``, ``song2_id``, their ``*_start_seconds``, ``song1_vote``, ``song2_vote``;
the others (starts in samples, lengths) follow from these and the audio settings. A tie, and a row without votes, is no
judgement: it is counted and left out.
"""

from __future__ import annotations

import csv
from pathlib import Path

from datamodules.triplet_lists.judgements import (
    HUMAN,
    HumanTriplet,
    JudgementError,
    Judgements,
    parse_number,
    parse_votes,
)
from disentangled_ml.structures import AudioSettings, ListedTriplet, Member

ROLES = ("anchor", "song1", "song2")
VOTES = ("song1_vote", "song2_vote")
COLUMNS = (*(f"{role}_{part}" for role in ROLES for part in ("id", "start_seconds")), *VOTES)
MAX_SECONDS = 1e6  # anything beyond is a unit or parsing error
LEAST_VOTES = 1  # of the clean file, whose votes are 0 and 1


def read_dim_sim(path: Path, audio: AudioSettings, least_votes: int = LEAST_VOTES) -> Judgements:
    """Read a dim-sim file, raw or clean.

    Args:
        path: The file.
        audio: Settings that turn seconds into frames.
        least_votes: Of a row; fewer are no judgement.

    Raises:
        JudgementError: naming the file and line, if a column is missing or a cell has no legal value.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            check_columns(path, reader.fieldnames or ())
            rows = [parse_row(row, f"{path}, line {reader.line_num}", audio) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise JudgementError(f"{path} cannot be read as UTF-8 CSV ({error}): give a file of dim-sim") from error
    if not rows:
        raise JudgementError(f"{path} has no rows below its header: give a file of dim-sim")
    triplets = [row for row in rows if row is not None and row.votes >= least_votes]
    return Judgements(triplets, len(rows) - len(triplets))


def check_columns(path: Path, columns: list[str] | tuple[str, ...]) -> None:
    """Check that the needed columns are there.

    Raises:
        JudgementError: naming those that are not.
    """
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise JudgementError(f"{path}, line 1: no column {', '.join(missing)}; needed are {', '.join(COLUMNS)}")


def parse_row(row: dict, where: str, audio: AudioSettings) -> HumanTriplet | None:
    """Parse one row; None if it is no judgement.

    Raises:
        JudgementError: beginning with ``where``, if it is malformed.
    """
    if row.get(None):
        raise JudgementError(f"{where}: more cells than columns, put cells that hold a comma in quotes")
    short = [column for column in COLUMNS if row[column] is None]
    if short:
        raise JudgementError(f"{where}: the row is too short, it ends before {short[0]}")
    anchor, first, second = (parse_member(row, role, where, audio) for role in ROLES)
    votes = [parse_votes(row[column], f"{where}: {column}") for column in VOTES]
    if votes[0] == votes[1]:
        return None
    winner, other = (first, second) if votes[0] > votes[1] else (second, first)
    triplet = ListedTriplet(HUMAN, anchor, winner, other)
    return HumanTriplet(triplet, max(votes) / sum(votes), sum(votes), anchor.track_id)


def parse_member(row: dict, role: str, where: str, audio: AudioSettings) -> Member:
    """Parse the id and the start of one of the three chunks."""
    track_id, start = row[f"{role}_id"].strip(), row[f"{role}_start_seconds"]
    if not track_id:
        raise JudgementError(f"{where}: {role}_id is empty")
    seconds = parse_number(start)
    if seconds is None or seconds >= MAX_SECONDS:
        raise JudgementError(f"{where}: {role}_start_seconds={start!r} is not a number of seconds >= 0")
    return Member(track_id, audio.frames(seconds))
