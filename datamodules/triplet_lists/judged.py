"""Triplet lists that a listening test made: with the votes for each triplet, so that they are judgements of people.

Columns: those of a triplet list and ``positive_votes, negative_votes``, as ``listening_results`` writes them.
"""

from pathlib import Path

from datamodules.triplet_lists.judgements import HUMAN, HumanTriplet, Judgements, parse_votes
from datamodules.triplet_lists.lists import TripletParser
from datamodules.triplet_lists.rows import read_rows
from disentangled_ml.structures import TRIPLET_COLUMNS, VOTE_COLUMNS, AudioSettings

LEAST_VOTES = 1


def read_judged(path: Path, audio: AudioSettings, least_votes: int = LEAST_VOTES) -> Judgements:
    """Read a list with votes; whatever people were asked to listen for, their triplets are ``human``.

    Args:
        path: The file.
        audio: Settings that turn seconds into frames.
        least_votes: Of a triplet; fewer are no judgement.

    Raises:
        TripletListError: naming the file and line, if a column is missing or a cell has no legal value.
    """
    parser, found, undecided = TripletParser(audio), [], 0
    for where, row in read_rows(path, (*TRIPLET_COLUMNS, *VOTE_COLUMNS)):
        triplet = parser.parse(row, where)._replace(condition=HUMAN)
        most, other = (parse_votes(row[column], f"{where}: {column}") for column in VOTE_COLUMNS)
        if most > other and most + other >= least_votes:
            found.append(HumanTriplet(triplet, most / (most + other), most + other, triplet.anchor.track_id))
        else:
            undecided += 1
    return Judgements(found, undecided)
