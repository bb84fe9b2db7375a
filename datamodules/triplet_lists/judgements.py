"""What people said of the similarity of recordings: human triplets, whichever file they come from."""

from __future__ import annotations

from typing import NamedTuple

from disentangled_ml.structures import ListedTriplet

HUMAN = "human"  # the condition of these triplets: similar to people, whatever they listened for
MAX_VOTES = 1_000_000  # anything beyond is a parsing error


class JudgementError(ValueError):
    """Tell which line of a file of judgements is wrong, and what would be right."""


class HumanTriplet(NamedTuple):
    """Hold one judgement.

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
    """Hold what a file gives: the triplets, and the number of rows that are no judgement."""

    triplets: list[HumanTriplet]
    undecided: int


def parse_votes(cell: str, where: str) -> int:
    """Parse a number of votes; tools that read tables write ``1.0`` for 1.

    Raises:
        JudgementError: beginning with ``where``, if it is none.

    >>> parse_votes("3", ""), parse_votes("1.0", "")
    (3, 1)
    """
    votes = parse_number(cell)
    if votes is None or votes > MAX_VOTES or votes != int(votes):
        raise JudgementError(f"{where}={cell!r} is not a number of votes: give a whole number >= 0")
    return int(votes)


def parse_number(cell: str) -> float | None:
    """Parse a finite number that is not negative; None for anything else.

    >>> parse_number("1.5"), parse_number("-1"), parse_number("nan"), parse_number("")
    (1.5, None, None, None)
    """
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
