"""A path through a catalogue: from track A to track B in n steps, each of them small.

On the straight line from A to B lie n - 1 points, evenly spaced. Of the tracks nearest to each of them, some ``WIDTH``, one is chosen,
so that the sum of the squared steps is the least (Viterbi's algorithm). Squared, since of two ways of one length the one of even steps
then costs less. Where the best way has a track twice, a duplicate, or more of an artist or album than is allowed, the first place where
it has is closed to all tracks that may not follow those before it, and the way is chosen anew.

A and B are tracks of the catalogue or other recordings; what lies between them is of the catalogue.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from disentangled_ml.search.answering import KnownSeed, find_seed
from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.search.composition import target_distances
from disentangled_ml.search.folding import Folding
from disentangled_ml.search.question import Seed
from disentangled_ml.search.results import Result
from disentangled_ml.search.similarity_search import SimilaritySearch
from disentangled_ml.search.weighted_distance import check_weights, scales

WIDTH = 64  # tracks that compete for a place, and one more for each step
MOST_STEPS = 100
# What is known of an end that is no track of the catalogue.
OUTSIDE = CatalogueTrack("", None, None, {})


def path_between(
    search: SimilaritySearch,
    a: Seed,
    b: Seed,
    n: int,
    weights: Mapping[str, float] | None = None,
    per_artist: int | None = None,
    per_album: int | None = None,
    method: str = "auto",
) -> list[Result]:
    """Return n + 1 tracks, the first A and the last B; the distances of each are from the one before it, those of A are 0.

    The result of an end that is no track has no row, and ``OUTSIDE`` as its track.

    Raises ValueError if A or B is not there or they are the same, for an illegal argument, and where too few tracks are left.

    Args:
        search: Of the catalogue.
        a: Where it begins: id of a track, or a recording, see ``Seed``.
        b: Where it ends.
        n: Number of steps.
        weights: Per condition, see ``check_weights``.
        per_artist: Most tracks by one artist, A and B included; None: any number.
        per_album: The same of albums.
        method: How the tracks near a point are found: ``auto``, ``exact`` or ``approximate``.
    """
    if type(n) is not int or not 1 <= n <= MOST_STEPS:
        raise ValueError(f"steps={n} is not legal: give a number from 1 to {MOST_STEPS}")
    weight = check_weights(weights, search.catalogue.condition_names)
    ends = [find_seed(search, seed, {}) for seed in (a, b)]
    if ends[0].row == ends[1].row and np.array_equal(ends[0].embedding, ends[1].embedding):
        raise ValueError(f"the path begins and ends at {end_name(a)}: give two different ones")
    layers = near_the_line(search, ends, n, weight, method)
    points = [ends[0].embedding[None], *(search.catalogue.embedding[rows] for rows in layers), ends[1].embedding[None]]
    scale = np.sqrt(scales(weight, search.catalogue.model.masks))
    steps = squared_steps([each.astype(np.float64) * scale for each in points])
    tracks = [search.catalogue.tracks(rows.tolist()) for rows in layers]
    while (places := shortest_way(steps)) is not None:
        chosen = places[1:-1]
        closed = first_closed(search, ends, chosen, layers, tracks, per_artist, per_album)
        if closed is None:
            return results_of(
                search, ends, [int(rows[place]) for rows, place in zip(layers, chosen, strict=True)], weight
            )
        place, is_closed = closed
        steps[place][:, is_closed] = np.inf
    line = f"the line from {end_name(a)} to {end_name(b)}"
    raise ValueError(f"too few tracks are near {line}: ask for fewer steps than {n}, or larger caps")


def end_name(seed: Seed) -> str:
    return seed if isinstance(seed, str) else "a recording of yours"


def near_the_line(
    search: SimilaritySearch, ends: Sequence[KnownSeed], n: int, weights: np.ndarray, method: str
) -> list[np.ndarray]:
    """Return the rows that compete for each of the n - 1 places between two ends, each (R,)."""
    embedding, masks = search.catalogue.embedding, search.catalogue.model.masks
    allowed = np.ones(len(embedding), bool)
    allowed[[end.row for end in ends if end.row is not None]] = False
    first, last = (end.embedding.astype(np.float64) for end in ends)
    layers = []
    for share in np.arange(1, n) / n:
        point = (1 - share) * first + share * last
        rows, squared = search.nearest(np.broadcast_to(point, masks.shape), weights, WIDTH + n, allowed, method)
        layers.append(rows[np.lexsort((rows, squared @ weights))[: WIDTH + n]])
    return layers


def squared_steps(layers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the squared distances of the points of each layer (R, D) from those of the next (S, D): arrays (R, S)."""
    return [
        np.maximum((one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T, 0.0)
        for one, other in pairwise(layers)
    ]


def shortest_way(steps: Sequence[np.ndarray]) -> list[int] | None:
    """Return which point of each layer the way of least cost goes through, the first of equal ones; None if all ways are closed.

    Args:
        steps: Costs from the points of each layer to those of the next, (R, S); infinite where the way is closed.

    >>> shortest_way([np.array([[25.0, 1.2]]), np.array([[9.0], [0.8]])])
    [0, 1, 0]
    """
    cost, came_from = np.zeros(len(steps[0])), []
    for step in steps:
        total = cost[:, None] + step
        came_from.append(total.argmin(0))
        cost = total.min(0)
    if np.isinf(cost).all():
        return None
    way = [int(cost.argmin())]
    for origin in reversed(came_from):
        way.append(int(origin[way[-1]]))
    return way[::-1]


def first_closed(
    search: SimilaritySearch,
    ends: Sequence[KnownSeed],
    chosen: Sequence[int],
    layers: Sequence[np.ndarray],
    tracks: Sequence[Sequence[CatalogueTrack]],
    per_artist: int | None,
    per_album: int | None,
) -> tuple[int, np.ndarray] | None:
    """Return the first place whose track may not be there, and which of its layer (R,) may not either; None if the way is right.

    Args:
        search: Of the catalogue.
        ends: Of the way.
        chosen: Which of its layer is at each place between them.
        layers: Rows that compete for each of these places, (R,).
        tracks: Of these rows.
        per_artist: See ``path_between``.
        per_album: The same of albums.
    """
    folding, before = Folding(search.catalogue, per_artist, per_album, search.duplicate_threshold), set[int]()
    for end in ends:
        if end.row is None:
            folding.add_seed(end.recording, None)
        else:
            folding.keep(end.row, end.track)

    def are_refused(place: int, part: slice) -> list[bool]:
        rows = layers[place][part].tolist()
        of_rows = zip(rows, tracks[place][part], folding.first_alike(rows), strict=True)
        return [
            row in before or folding.is_beyond(track) or folding.fold(row, track, alike)
            for row, track, alike in of_rows
        ]

    for place, choice in enumerate(chosen):
        if any(are_refused(place, slice(choice, choice + 1))):
            return place, np.array(are_refused(place, slice(None)))
        row = int(layers[place][choice])
        before.add(row)
        folding.keep(row, tracks[place][choice])
    return None


def results_of(
    search: SimilaritySearch, ends: Sequence[KnownSeed], between: Sequence[int], weights: np.ndarray
) -> list[Result]:
    """Return the tracks of a way, each with its distances from the one before."""
    names, masks = search.catalogue.condition_names, search.catalogue.model.masks
    tracks = [KnownSeed(search.catalogue.recording(row), row, search.catalogue.track(row)) for row in between]
    way = [ends[0], *tracks, ends[1]]
    results = []
    for before, found in pairwise([way[0], *way]):
        squared = target_distances(found.embedding[None], np.broadcast_to(before.embedding, masks.shape), masks)[0]
        distances = dict(zip(names, np.sqrt(squared).tolist(), strict=True))
        results.append(Result(found.row, found.track or OUTSIDE, float(np.sqrt(squared @ weights)), distances))
    return results
