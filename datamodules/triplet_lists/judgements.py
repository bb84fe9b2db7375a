"""What people said of the similarity of recordings: human triplets, whichever file they come from."""

from typing import NamedTuple

from datamodules.triplet_lists.rows import TripletListError, parse_number
from disentangled_ml.structures import ListedTriplet, quoted

# The condition of these triplets: similar to people, whatever they listened for.
HUMAN = "human"
MAX_VOTES = 1_000_000  # anything beyond is a parsing error


class HumanTriplet(NamedTuple):
    """A judgement.

    Attributes:
        triplet: Anchor, the one that people found more similar, the other; starts in frames, None for the whole track.
        agreement: Share of the votes for this outcome, in (0, 1].
        votes: Number of votes.
        group: What judgements share that are not independent of each other; they are resampled and held out together.
    """

    triplet: ListedTriplet
    agreement: float
    votes: int
    group: str


class Judgements(NamedTuple):
    """The judgements of a file, and the number of its rows that are none."""

    triplets: list[HumanTriplet]
    undecided: int


def parse_votes(cell: str, where: str) -> int:
    """Return a number of votes; tools that read tables write ``1.0`` for 1.

    Raises: TripletListError: beginning with ``where``, if it is none.

    >>> parse_votes("3", ""), parse_votes("1.0", "")
    (3, 1)
    """
    votes = parse_number(cell)
    if votes is None or votes > MAX_VOTES or votes != int(votes):
        raise TripletListError(f"{where}={quoted(cell)} is not a number of votes: give a whole number >= 0")
    return int(votes)
