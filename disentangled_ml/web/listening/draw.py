"""Draw the questions of a listening test from a catalogue, and open the test.

The questions of a condition are triplets by its labels, so that one candidate should be more similar than the other; those as a whole
are about any three tracks, which only people can order.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules.triplet_lists.lists import read_triplets, write_triplets
from disentangled_ml.config import ConfigError
from disentangled_ml.objective.conditions import Condition, label_conditions
from disentangled_ml.objective.triplets import draw_from_split
from disentangled_ml.structures import TRACK, AudioSettings, ListedTriplet, Member, seeded_generator
from disentangled_ml.web.listening.questions import Excerpt, Question
from disentangled_ml.web.listening.session import LIST_FILE, ListeningTest
from disentangled_ml.web.maps import some_rows
from disentangled_ml.web.recordings import recording_of
from disentangled_ml.web.view import CatalogueView

MAX_TRACKS = 5_000  # questions are drawn from so many
# Tags (list of str) or tempo (float) per condition.
Labels = Mapping[str, Any]
logger = logging.getLogger("serve")


def draw_triplets(
    track_ids: Sequence[str],
    artists: Sequence[str | None],
    labels: Sequence[Labels],
    conditions: Sequence[Condition],
    n: int,
    seed: int,
) -> list[ListedTriplet]:
    """Draw n triplets of whole tracks to ask for each condition, and n to ask for similarity as a whole; always the same.

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


def open_listening_test(folder: Path, view: CatalogueView, n: int, seed: int) -> ListeningTest:
    """Open the listening test of a folder; its questions are drawn from the catalogue where it has no list.

    Raises ConfigError if there is nothing to ask, OSError if the folder cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, audio = folder / LIST_FILE, view.catalogue.model.audio
    if not path.exists():
        write_triplets(path, draw_from(view, n, seed), audio)
    questions = as_questions(read_triplets(path, audio), audio)
    asked = [q for q in questions if all(view.recording(excerpt.track_id) is not None for excerpt in q[1:])]
    if left_out := len(questions) - len(asked):
        message = "%d of %d questions of %s are left out: the catalogue has no recording of a track"
        logger.warning(message, left_out, len(questions), path)
    if not asked:
        raise ConfigError(
            f"listening_test={folder}: no question has all three recordings; give audio=DIR, or another list"
        )
    test = ListeningTest(asked, folder)
    if test.damaged:
        logger.warning("%s: %d damaged lines are no answers", test.file.path, test.damaged)
    return test


def draw_from(view: CatalogueView, n: int, seed: int) -> list[ListedTriplet]:
    """Draw the questions of a listening test from the tracks that have recordings. Raises ValueError if they are fewer than three."""
    catalogue = view.catalogue
    tracks = catalogue.tracks(some_rows(len(catalogue), MAX_TRACKS).tolist())
    tracks = [track for track in tracks if recording_of(track, view.root) is not None]
    labels = [track.labels for track in tracks]
    labelled = [name for name in catalogue.condition_names if any(name in each for each in labels)]
    conditions = label_conditions(labelled, labels, catalogue.model.tempo)
    ids, artists = [track.track_id for track in tracks], [track.artist for track in tracks]
    return draw_triplets(ids, artists, labels, conditions, n, seed)
