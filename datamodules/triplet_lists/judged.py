"""Triplet lists that a listening test made: with the votes for each triplet, so that they are judgements of people.

Columns: those of a triplet list (triplet_lists.py) and ``positive_votes, negative_votes``, as ``listening_results`` writes them.
"""

from __future__ import annotations

import csv
from pathlib import Path

from datamodules.triplet_lists.judgements import HUMAN, HumanTriplet, JudgementError, Judgements, parse_votes
from datamodules.triplet_lists.lists import read_triplets
from disentangled_ml.structures import AudioSettings

VOTES = ("positive_votes", "negative_votes")
LEAST_VOTES = 1


def read_judged(path: Path, audio: AudioSettings, least_votes: int = LEAST_VOTES) -> Judgements:
    """Read a list with votes; whatever people were asked to listen for, their triplets are ``human``.

    Args:
        path: The file.
        audio: Settings that turn seconds into frames.
        least_votes: Of a triplet; fewer are no judgement.

    Raises:
        ValueError: naming the file and line, if a column is missing or a cell has no legal value.
    """
    triplets = read_triplets(path, audio)
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in VOTES if column not in (reader.fieldnames or ())]
        if missing:
            raise JudgementError(f"{path}, line 1: no column {', '.join(missing)}, which listening_results writes")
        votes = [[parse_votes(row[c] or "", f"{path}, line {reader.line_num}: {c}") for c in VOTES] for row in reader]
    found = [
        HumanTriplet(triplet._replace(condition=HUMAN), most / (most + other), most + other, triplet.anchor.track_id)
        for triplet, (most, other) in zip(triplets, votes, strict=True)
        if most > other and most + other >= least_votes
    ]
    return Judgements(found, len(triplets) - len(found))
