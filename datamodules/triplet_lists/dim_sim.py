"""dim-sim: triplets of 3 s chunks of Million Song Dataset tracks, judged by people (J. Lee et al., ICASSP 2020, section 4.3).

A row asks which of two songs is more like the anchor. In the raw file the votes are counts, in the clean file 0 and 1.
Columns that are needed: ``anchor_id``, ``song1_id``, ``song2_id``, their ``*_start_seconds``, ``song1_vote``, ``song2_vote``;
the others (starts in samples, lengths) follow from these and the audio settings. A tie, and a row without votes, is no
judgement: it is counted and left out.
"""

from pathlib import Path

from datamodules.triplet_lists.judgements import HUMAN, HumanTriplet, Judgements, parse_votes
from datamodules.triplet_lists.rows import TripletListError, parse_start, read_rows
from disentangled_ml.structures import AudioSettings, ListedTriplet, Member

ROLES = ("anchor", "song1", "song2")
VOTES = ("song1_vote", "song2_vote")
COLUMNS = (*(f"{role}_{part}" for role in ROLES for part in ("id", "start_seconds")), *VOTES)
LEAST_VOTES = 1  # of the clean file, with votes 0 and 1


def read_dim_sim(path: Path, audio: AudioSettings, least_votes: int = LEAST_VOTES) -> Judgements:
    """Read a dim-sim file, raw or clean.

    Args:
        path: The file.
        audio: Settings that turn seconds into frames.
        least_votes: Of a row; fewer are no judgement.

    Raises: TripletListError: naming the file and line, if a column is missing or a cell has no legal value.
    """
    rows = [parse_row(row, where, audio) for where, row in read_rows(path, COLUMNS)]
    triplets = [row for row in rows if row is not None and row.votes >= least_votes]
    return Judgements(triplets, len(rows) - len(triplets))


def parse_row(row: dict[str, str], where: str, audio: AudioSettings) -> HumanTriplet | None:
    """Parse one row; None if it is no judgement. Errors begin with ``where``."""
    anchor, first, second = (parse_member(row, role, where, audio) for role in ROLES)
    votes = [parse_votes(row[column], f"{where}: {column}") for column in VOTES]
    if votes[0] == votes[1]:
        return None
    winner, other = (first, second) if votes[0] > votes[1] else (second, first)
    triplet = ListedTriplet(HUMAN, anchor, winner, other)
    return HumanTriplet(triplet, max(votes) / sum(votes), sum(votes), anchor.track_id)


def parse_member(row: dict[str, str], role: str, where: str, audio: AudioSettings) -> Member:
    track_id = row[f"{role}_id"].strip()
    if not track_id:
        raise TripletListError(f"{where}: {role}_id is empty")
    return Member(track_id, parse_start(row[f"{role}_start_seconds"], f"{where}: {role}_start_seconds", audio))
