"""Nearest neighbours of tracks, by the masked distance of the loss: what "similar" sounds like in a subspace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from disentangled_ml.objective.losses import masked_distance
from disentangled_ml.structures import TrackInfo


class Neighbour(NamedTuple):
    """Name a track by its row, with its distance from the query."""

    row: int
    distance: float


def nearest(
    embedding: Tensor, mask: Tensor, queries: Sequence[int], k: int, artists: Sequence[str | None] | None = None
) -> list[list[Neighbour]]:
    """Find the nearest neighbours of some tracks, nearest first; of equally near ones the first row comes first.

    A query is no neighbour of itself, nor are the tracks by its artist, where that is known: they would be found by the
    sound of one recording studio. Scaling the dimensions outside of the mask changes nothing.

    Args:
        embedding: Of the tracks.
        mask: Of the subspace; ones to compare in all dimensions.
        queries: Rows of the embedding.
        k: Neighbours of each; fewer where there are fewer tracks.
        artists: Of the tracks, None where unknown.

    Shape:
        embedding: (N, D); mask: (D,).

    Raises:
        ValueError: if k is not positive or the artists are not N.

    >>> points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.0, 9.0]])
    >>> nearest(points, torch.tensor([1.0, 0.0]), [0], k=2)
    [[Neighbour(row=2, distance=1.0), Neighbour(row=1, distance=3.0)]]
    >>> nearest(points, torch.tensor([1.0, 1.0]), [0], k=1, artists=["Ann", "Ann", None])[0][0].row
    2
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    artists = [None] * len(embedding) if artists is None else artists
    if len(artists) != len(embedding):
        raise ValueError(f"{len(artists)} artists for {len(embedding)} tracks")
    found = []
    for query in queries:
        distance = masked_distance(embedding, embedding[query], mask)
        own = [row == query or (bool(artist) and artist == artists[query]) for row, artist in enumerate(artists)]
        order = torch.argsort(distance, stable=True)
        rows = order[~torch.tensor(own)[order]][:k].tolist()
        found.append([Neighbour(row, distance[row].item()) for row in rows])
    return found


def choose_queries(tracks: Sequence[TrackInfo], n: int) -> list[int]:
    """Choose n tracks evenly from those with labels for the most conditions; always the same, fewer where there are fewer.

    >>> tracks = [TrackInfo(str(i), None, 129, {"genre": ["rock"]} if i % 2 else {}) for i in range(10)]
    >>> choose_queries(tracks, 2)
    [1, 5]
    """
    most = max((len(track.labels) for track in tracks), default=0)
    rows = [row for row, track in enumerate(tracks) if len(track.labels) == most]
    n = min(n, len(rows))
    return [rows[i * len(rows) // n] for i in range(n)]
