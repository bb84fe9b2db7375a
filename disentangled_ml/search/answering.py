"""Answer a question: compose the query, rank the tracks by it, fold and cap the ranking, tell how near the results are.

The ranking is read from its beginning, as deep as it takes: a search for some nearest tracks is repeated for four times as many until
k results are left after folding and caps. Far down, further tracks of artists that have enough are skipped without reading their lines,
and where there are no others the reading ends: else it could be that of a whole catalogue.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from datamodules.audio.fingerprint import NO_FINGERPRINT
from disentangled_ml.search.catalogue import CatalogueTrack, EmbeddedCatalogue
from disentangled_ml.search.composition import label_target, mean_target, moved_away, target_distances
from disentangled_ml.search.explanation import NEAR_TEMPO, explain, joint_labels, percentile, sample_rows
from disentangled_ml.search.filters import OCTAVES, changed_tempo, check_change, check_tempo, has_tempo, others
from disentangled_ml.search.folding import Folding
from disentangled_ml.search.labels import LabelledTracks
from disentangled_ml.search.question import Question, Seed, check_question
from disentangled_ml.search.recording import EmbeddedRecording
from disentangled_ml.search.results import Answer, Result
from disentangled_ml.search.weighted_distance import check_weights
from disentangled_ml.structures import TEMPO, UNKNOWN

DEEPER = 4  # times as many tracks, where those that were looked at do not suffice
READ_WHOLE = 500  # tracks of a ranking that are read before any is skipped unread, so that near duplicates are told
LOOKED_AT = 32  # tracks more than are wanted, where some of them may be folded or skipped


class Ranked(Protocol):
    """What answers are made of, see ``similarity_search.SimilaritySearch``."""

    catalogue: EmbeddedCatalogue
    labelled: LabelledTracks
    duplicate_threshold: float

    def checked(self, embedding: np.ndarray) -> np.ndarray: ...

    def nearest(
        self, targets: np.ndarray, weights: np.ndarray, k: int, allowed: np.ndarray | None, method: str, farthest: bool
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def results(self, rows: np.ndarray, total: np.ndarray, squared: np.ndarray) -> list[Result]: ...


class KnownSeed(NamedTuple):
    """A seed, and its row and track where the catalogue has it."""

    recording: EmbeddedRecording
    row: int | None = None
    track: CatalogueTrack | None = None

    @property
    def embedding(self) -> np.ndarray:
        return self.recording.embedding


class Composed(NamedTuple):
    """A question in numbers.

    Attributes:
        targets: (C, D), 0 for a condition that nothing stands for.
        stands: Whether something stands for a condition, (C,) bool.
        weights: (C,), 0 where nothing does.
        seeds: That stand for each condition.
        labels: Of the seeds, or asked for, per condition that counts.
        rows: Of all seeds, those to avoid too.
    """

    targets: np.ndarray
    stands: np.ndarray
    weights: np.ndarray
    seeds: dict[str, list[KnownSeed]]
    labels: dict[str, list[str] | float]
    rows: list[int]


def answer(search: Ranked, question: Question) -> Answer:
    """Answer a question, see ``SimilaritySearch.ask``."""
    check_question(question, search.catalogue.condition_names)
    composed = compose(search, question)
    allowed, without_tempo = allowed_rows(search.catalogue, question, composed)
    rows, squared, folding, unread = read_ranking(search, question, composed, allowed)
    results = search.results(rows, squared @ composed.weights, squared)
    results = [found._replace(duplicates=tuple(folding.folded[found.row])) for found in results]
    return Answer(
        told(search.catalogue, question, composed, results),
        dict(zip(search.catalogue.condition_names, composed.weights.tolist(), strict=True)),
        tuple(folding.of_seeds),
        folding.beyond["artist"] + unread,
        folding.beyond["album"],
        without_tempo,
    )


def compose(search: Ranked, question: Question) -> Composed:
    """Put a question into numbers. Raises ValueError for seeds or labels that are not there, or where nothing stands for any weight."""
    names, known = search.catalogue.condition_names, {}
    # Relative tempi have seeds even where the model has no such condition.
    seeds = {name: [find_seed(search, seed, known) for seed in question.seeds_for(name)] for name in (*names, TEMPO)}
    avoided = {name: [find_seed(search, seed, known) for seed in question.avoided_for(name)] for name in names}
    stands = np.array([name in question.labels or bool(seeds[name]) for name in names])
    if not stands.any():
        raise ValueError("nothing is asked for: give a seed to be like, or a label")
    weights = check_weights(question.weights, names) * stands
    if not weights.any():
        missing = ", ".join(name for name, weight in (question.weights or {}).items() if weight)
        raise ValueError(f"no seed or label stands for {missing}: give one, or a weight to another condition")
    targets = np.zeros(search.catalogue.model.masks.shape)
    for condition in np.flatnonzero(stands).tolist():
        name = names[condition]
        targets[condition] = target_of(search, condition, question.labels.get(name), seeds[name], avoided[name])
    counted = [name for name, weight in zip(names, weights, strict=True) if weight]
    counted += [TEMPO] if question.tempo_change and TEMPO not in counted else []
    rows = [seed.row for seed in known.values()]
    labels = labels_of(question, {**seeds, TEMPO: tempo_seeds(seeds)}, counted)
    return Composed(targets, stands, weights, seeds, labels, rows)


def target_of(
    search: Ranked, condition: int, label: str | None, seeds: Sequence[KnownSeed], avoided: Sequence[KnownSeed]
) -> np.ndarray:
    """Return the target (D,) of a condition that a label or seeds stand for."""
    catalogue = search.catalogue
    if label is None:
        target = mean_target([seed.embedding for seed in seeds])
    else:
        rows = search.labelled.find(catalogue.condition_names[condition], label)
        target = label_target(catalogue.embedding[rows], catalogue.model.masks[condition])
    return moved_away(target, [seed.embedding for seed in avoided])


def labels_of(
    question: Question, seeds: Mapping[str, Sequence[KnownSeed]], names: Sequence[str]
) -> dict[str, list[str] | float]:
    """Return what is asked for in words: the label of each condition, or those of its seeds, where they have some."""
    asked = {name: [label] for name, label in question.labels.items()}
    said = {name: asked.get(name) or joint_labels(tracks_of(seeds[name]), name) for name in names}
    return {name: label for name, label in said.items() if label}


def find_seed(search: Ranked, seed: Seed, known: dict[str, KnownSeed]) -> KnownSeed:
    """Find a seed, once. Raises ValueError if the catalogue has no such track, or the embedding is none."""
    if isinstance(seed, EmbeddedRecording):
        return KnownSeed(seed._replace(embedding=search.checked(seed.embedding)))
    if not isinstance(seed, str):
        return KnownSeed(EmbeddedRecording(search.checked(seed), NO_FINGERPRINT))
    if seed not in known:
        row = search.catalogue.find(seed)
        if row is None:
            raise ValueError(f"{seed} is no track of {search.catalogue.folder}")
        known[seed] = KnownSeed(search.catalogue.recording(row), row, search.catalogue.track(row))
    return known[seed]


def tracks_of(seeds: Sequence[KnownSeed]) -> list[CatalogueTrack]:
    return [seed.track for seed in seeds if seed.track is not None]


def distinct(seeds: Mapping[str, Sequence[KnownSeed]]) -> list[KnownSeed]:
    """Return the seeds of all conditions, each once."""
    return list({id(seed.embedding): seed for own in seeds.values() for seed in own}.values())


def allowed_rows(catalogue: EmbeddedCatalogue, question: Question, composed: Composed) -> tuple[np.ndarray, int]:
    """Return which tracks may be found, (N,) bool, and how many are left out since their tempo is not known."""
    tempo, change = check_tempo(question.tempo), check_change(question.tempo_change)
    seeds = distinct(composed.seeds)
    artists = [track.artist for track in tracks_of(seeds)] if question.other_artists else []
    allowed = others(catalogue, composed.rows, artists)
    without_tempo = 0
    if tempo or change:
        known = np.isfinite(catalogue.columns["tempo"])
        without_tempo = int(np.count_nonzero(allowed & ~known))
    if tempo:
        allowed &= has_tempo(catalogue, tempo)
    if change:
        allowed &= has_tempo(catalogue, changed_tempo(seed_tempo(composed), change), OCTAVES)
    return allowed, without_tempo


def tempo_seeds(seeds: Mapping[str, Sequence[KnownSeed]]) -> Sequence[KnownSeed]:
    """Return the seeds that tempi are relative to: those that stand for tempo, else the first of all, whose tempo is known."""

    def known(some: Sequence[KnownSeed]) -> list[KnownSeed]:
        return [seed for seed in some if seed.track is not None and TEMPO in seed.track.labels]

    return known(seeds[TEMPO]) or known(distinct(seeds))[:1]


def seed_tempo(composed: Composed) -> float:
    """Return the tempo that others are relative to. Raises ValueError if it is not known."""
    tempo = joint_labels(tracks_of(tempo_seeds(composed.seeds)), TEMPO)
    if tempo is None:
        raise ValueError(
            "no seed has a known tempo that others could be slower or faster than: give a range of tempi instead, as 90 to 120 BPM"
        )
    return tempo


def read_ranking(
    search: Ranked, question: Question, composed: Composed, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Folding, int]:
    """Read the ranking until k tracks of it are left, or no others may be.

    Returns:
        The rows (K,) that are left, their squared distances (K, C), what became of the others, and how many on the way to the last one
        were skipped unread, for their artist has enough.
    """
    artists = search.catalogue.columns["artist"]
    read = full = np.empty(0, np.int64)
    for rows, squared, is_all in deeper_rankings(search, question, composed, allowed):
        folding = new_folding(search, question, composed)
        is_read = np.isin(rows, read) | ~np.isin(artists[rows], full)
        read = rows[is_read]
        places = np.flatnonzero(is_read)[folding.read(read, question.k)]
        left, left_squared = rows[places], squared[places]
        if len(left) == question.k:
            return left, left_squared, folding, int(np.count_nonzero(~is_read[: places[-1]]))
        if len(rows) >= READ_WHOLE:
            full = full_artists(artists[left], question.per_artist)
        rest = allowed & ~np.isin(artists, full)
        rest[read] = False
        if is_all or not rest.any():
            break
    return left, left_squared, folding, int(np.count_nonzero(allowed)) - len(read)


def new_folding(search: Ranked, question: Question, composed: Composed) -> Folding:
    threshold = search.duplicate_threshold if question.fold_duplicates else None
    folding = Folding(search.catalogue, question.per_artist, question.per_album, threshold)
    for seed in distinct(composed.seeds):
        folding.add_seed(seed.recording, seed.track)
    return folding


def full_artists(kept: np.ndarray, per_artist: int | None) -> np.ndarray:
    """Return which artists have enough, of the artists (K,) of tracks that are kept; unknown ones never have.

    >>> full_artists(np.array([7, 5, 7, UNKNOWN, UNKNOWN]), 2).tolist(), full_artists(np.array([7]), None).tolist()
    ([7], [])
    """
    artists, counts = np.unique(kept, return_counts=True)
    return artists[(artists != UNKNOWN) & (counts >= (np.inf if per_artist is None else per_artist))]


def deeper_rankings(
    search: Ranked, question: Question, composed: Composed, allowed: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Yield the beginning of the ranking, each time longer.

    Yields:
        Rows (R,) in their order, their squared distances (R, C) from the targets, and whether these are all that are allowed.
    """
    n_allowed = int(np.count_nonzero(allowed))
    sign = -1.0 if question.most_dissimilar else 1.0
    depth = question.k + LOOKED_AT
    while True:
        is_all = depth >= n_allowed
        rows, squared = search.nearest(
            composed.targets, composed.weights, depth, allowed, question.method, question.most_dissimilar
        )
        order = np.lexsort((rows, sign * (squared @ composed.weights)))[:depth]
        yield rows[order], squared[order], is_all
        depth *= DEEPER


def told(catalogue: EmbeddedCatalogue, question: Question, composed: Composed, results: list[Result]) -> list[Result]:
    """Return results with their percentiles, and what matches in words."""
    sample = catalogue.embedding[sample_rows(len(catalogue))]
    squared = target_distances(sample, composed.targets, catalogue.model.masks)
    total = np.sort(np.sqrt(squared @ composed.weights))
    parts = zip(catalogue.condition_names, np.sort(np.sqrt(squared), axis=0).T, composed.stands, strict=True)
    of_condition = {name: part for name, part, stands in parts if stands}
    near = max(NEAR_TEMPO, *map(abs, question.tempo_change or (0.0, 0.0)))
    return [
        found._replace(
            distances={name: found.distances[name] for name in of_condition},
            percentile=percentile(found.distance, total),
            percentiles={name: percentile(found.distances[name], part) for name, part in of_condition.items()},
            matches=explain(composed.labels, found.track, near, question.tempo_change),
        )
        for found in results
    ]
