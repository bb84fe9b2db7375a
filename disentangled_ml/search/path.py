"""A path through a catalogue: from track A to track B in n steps, each of them small.

On the straight line from A to B lie n - 1 points, evenly spaced. Of the tracks nearest to each of them, some ``WIDTH``, one is chosen,
so that the sum of the squared steps is the least (Viterbi's algorithm). Squared, since of two ways of one length the one of even steps
then costs less. Where the best way has a track twice, a duplicate, or more of an artist or album than is allowed, the later track is
struck from its place and the way is chosen anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from disentangled_ml.search.composition import target_distances
from disentangled_ml.search.folding import Folding
from disentangled_ml.search.results import Result
from disentangled_ml.search.weighted_distance import check_weights, scales

if TYPE_CHECKING:
    from disentangled_ml.search.similarity_search import SimilaritySearch

WIDTH = 64  # tracks that compete for a place
MOST_STEPS = 200


def path_between(
    search: SimilaritySearch,
    a: str,
    b: str,
    n: int,
    weights: Mapping[str, float] | None = None,
    per_artist: int | None = None,
    per_album: int | None = None,
    method: str = "auto",
) -> list[Result]:
    """Return n + 1 tracks, the first A and the last B; the distances of each are from the one before it, those of A are 0.

    Raises ValueError if A or B is not there or they are the same, for an illegal argument, and where too few tracks are left.

    Args:
        search: Of the catalogue.
        a: Id of the first track.
        b: Id of the last one.
        n: Number of steps.
        weights: Per condition, see ``check_weights``.
        per_artist: Most tracks by one artist, A and B included; None: any number.
        per_album: The same of albums.
        method: How the tracks near a point are found: ``auto``, ``exact`` or ``approximate``.
    """
    if type(n) is not int or not 1 <= n <= MOST_STEPS:
        raise ValueError(f"steps={n} is not legal: give a number from 1 to {MOST_STEPS}")
    weight = check_weights(weights, search.catalogue.condition_names)
    ends = [find_end(search, track_id) for track_id in (a, b)]
    if ends[0] == ends[1]:
        raise ValueError(f"the path begins and ends at {a}: give two tracks")
    layers = near_the_line(search, *ends, n, weight, method)
    embedding, scale = search.catalogue.embedding, np.sqrt(scales(weight, search.catalogue.model.masks))
    while True:
        if not all(map(len, layers)):
            raise ValueError(
                f"too few tracks are near the line from {a} to {b}: ask for fewer steps than {n}, or larger caps"
            )
        places = shortest_way([embedding[rows].astype(np.float64) * scale for rows in layers])
        way = [int(rows[place]) for rows, place in zip(layers, places, strict=True)]
        struck = first_refused(search, way, per_artist, per_album)
        if struck is None:
            return results_of(search, way, weight)
        layers[struck] = np.delete(layers[struck], places[struck])


def find_end(search: SimilaritySearch, track_id: str) -> int:
    row = search.catalogue.find(track_id)
    if row is None:
        raise ValueError(f"{track_id} is no track of {search.catalogue.folder}")
    return row


def near_the_line(
    search: SimilaritySearch, first: int, last: int, n: int, weights: np.ndarray, method: str
) -> list[np.ndarray]:
    """Return the rows that compete for each of the n + 1 places, each (R,); the ends have one."""
    embedding, masks = search.catalogue.embedding, search.catalogue.model.masks
    allowed = np.ones(len(embedding), bool)
    allowed[[first, last]] = False
    layers = []
    for share in np.arange(1, n) / n:
        point = (1 - share) * embedding[first].astype(np.float64) + share * embedding[last]
        rows, squared = search.nearest(np.broadcast_to(point, masks.shape), weights, WIDTH + n, allowed, method)
        layers.append(rows[np.lexsort((rows, squared @ weights))[: WIDTH + n]])
    return [np.array([first]), *layers, np.array([last])]


def shortest_way(layers: Sequence[np.ndarray]) -> list[int]:
    """Return which point of each layer the way with the least sum of squared steps goes through; the first where several are equal.

    Shape:
        layers: L arrays (R, D), R >= 1; returns: L numbers.

    >>> shortest_way([np.array([[0.0]]), np.array([[5.0], [1.1]]), np.array([[2.0]])])
    [0, 1, 0]
    """
    cost, came_from = np.zeros(len(layers[0])), []
    for before, points in pairwise(layers):
        steps = (before**2).sum(1)[:, None] + (points**2).sum(1) - 2 * before @ points.T
        total = cost[:, None] + np.maximum(steps, 0.0)
        came_from.append(total.argmin(0))
        cost = total.min(0)
    way = [int(cost.argmin())]
    for origin in reversed(came_from):
        way.append(int(origin[way[-1]]))
    return way[::-1]


def first_refused(
    search: SimilaritySearch, way: Sequence[int], per_artist: int | None, per_album: int | None
) -> int | None:
    """Return the first place between the ends whose track must not be there, beside those before it and the ends; None if all may."""
    folding = Folding(search.catalogue, per_artist, per_album)
    for end in (way[0], way[-1]):
        folding.keep(end, search.catalogue.track(end))
    for place, row in enumerate(way[1:-1], start=1):
        track = search.catalogue.track(row)
        if row in way[:place] or folding.is_folded(row, track) or folding.is_beyond(track):
            return place
        folding.keep(row, track)
    return None


def results_of(search: SimilaritySearch, way: Sequence[int], weights: np.ndarray) -> list[Result]:
    """Return the tracks of a way, each with its distances from the one before."""
    embedding, masks = search.catalogue.embedding, search.catalogue.model.masks
    before = [way[0], *way[:-1]]
    squared = np.concatenate(
        [
            target_distances(embedding[[row]], np.broadcast_to(embedding[origin], masks.shape), masks)
            for row, origin in zip(way, before, strict=True)
        ]
    )
    return search.results(np.array(way), squared @ weights, squared)
