"""Open the listening test of a folder over a catalogue."""

import logging
from pathlib import Path

from datamodules.triplet_lists.lists import read_triplets, write_triplets
from disentangled_ml.config import ConfigError
from disentangled_ml.objective.conditions import label_conditions
from disentangled_ml.structures import ListedTriplet
from disentangled_ml.web.listening.draw import MAX_TRACKS, as_questions, draw_triplets
from disentangled_ml.web.listening.session import LIST_FILE, ListeningTest
from disentangled_ml.web.view import CatalogueView, recording_of, some_rows

logger = logging.getLogger("serve")


def open_listening_test(folder: Path, view: CatalogueView, n: int, seed: int) -> ListeningTest:
    """Open the listening test of a folder; its questions are drawn from the catalogue where it has no list.

    Raises:
        ConfigError: if there is nothing to ask.
        OSError: if the folder cannot be used.
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
    """Draw the questions of a listening test from the tracks that have recordings.

    Raises:
        ValueError: if they are fewer than three.
    """
    catalogue = view.catalogue
    tracks = catalogue.tracks(some_rows(len(catalogue), MAX_TRACKS).tolist())
    tracks = [track for track in tracks if recording_of(track, view.root) is not None]
    labels = [track.labels for track in tracks]
    labelled = [name for name in catalogue.condition_names if any(name in each for each in labels)]
    conditions = label_conditions(labelled, labels, catalogue.model.tempo)
    ids, artists = [track.track_id for track in tracks], [track.artist for track in tracks]
    return draw_triplets(ids, artists, labels, conditions, n, seed)
