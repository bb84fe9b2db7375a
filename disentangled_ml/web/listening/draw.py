"""Draw the questions of a listening test from a catalogue.

Those of a condition are triplets by its labels, so that one candidate should be more similar than the other; what is asked as a whole
are any three tracks, which only people can order.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from disentangled_ml.objective.conditions import Condition
from disentangled_ml.objective.triplets import draw_from_split
from disentangled_ml.structures import TRACK, AudioSettings, ListedTriplet, Member, seeded_generator
from disentangled_ml.web.listening.questions import Excerpt, Question

MAX_TRACKS = 5_000  # that questions are drawn from
# Tags (list of str) or tempo (float) per condition.
Labels = Mapping[str, Any]
logger = logging.getLogger(__name__)


def draw_triplets(
    track_ids: Sequence[str],
    artists: Sequence[str | None],
    labels: Sequence[Labels],
    conditions: Sequence[Condition],
    n: int,
    seed: int,
) -> list[ListedTriplet]:
    """Draw n triplets of whole tracks to ask for each condition, and n to ask for similarity as a whole; always the same.

    Raises:
        ValueError: if there are fewer than three tracks.

    >>> drawn = draw_triplets(["a", "b", "c"], [None] * 3, [{}] * 3, [], n=2, seed=0)
    >>> [t.condition for t in drawn], sorted(member.track_id for member in drawn[0][1:])
    (['track', 'track'], ['a', 'b', 'c'])
    """
    if len(track_ids) < 3:
        raise ValueError(f"a listening test needs at least three tracks with recordings, there are {len(track_ids)}")
    lots = random.Random(seed)
    rows = [(TRACK, lots.sample(range(len(track_ids)), 3)) for _ in range(n)]
    numbers = {artist: i for i, artist in enumerate(filter(None, dict.fromkeys(artists)))}
    artist = torch.tensor([numbers.get(name, -1) for name in artists])
    for c, condition in enumerate(conditions):
        encoded = condition.encode([each.get(condition.name) for each in labels])
        drawn = draw_from_split(condition, encoded, artist, n, seeded_generator(seed, c)).tolist()
        if not drawn:
            logger.warning("no question as to %s is possible: the labels tell no three tracks apart", condition.name)
        rows += [(condition.name, row) for row in drawn]
    return [ListedTriplet(name, *(Member(track_ids[i]) for i in row)) for name, row in rows]


def as_questions(triplets: Sequence[ListedTriplet], audio: AudioSettings) -> list[Question]:
    """Turn listed triplets, which count in frames, into questions, which count in seconds.

    >>> as_questions([ListedTriplet("genre", Member("a", 0), Member("b"), Member("c"))], AudioSettings())[0].reference
    Excerpt(track_id='a', start=0.0)
    """

    def excerpt(member: Member) -> Excerpt:
        return Excerpt(member.track_id, None if member.start is None else round(audio.seconds(member.start), 6))

    return [Question(t.condition, excerpt(t.anchor), excerpt(t.positive), excerpt(t.negative)) for t in triplets]
