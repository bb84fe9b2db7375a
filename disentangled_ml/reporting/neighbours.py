"""Nearest neighbours of tracks, by the masked distance of the loss: what "similar" sounds like in a subspace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from disentangled_ml.objective.conditions import Condition
from disentangled_ml.objective.losses import masked_distance
from disentangled_ml.reporting.page_tables import show
from disentangled_ml.structures import TrackInfo

WHOLE = "all dimensions"


class Neighbour(NamedTuple):
    """Row of a track, and its distance from the query."""

    row: int
    distance: float


class TrackView(NamedTuple):
    """What is shown of a track: name, artist, a label per condition, and the number of its clip, if it has one."""

    name: str
    artist: str
    labels: dict[str, str]
    clip: int | None


@dataclass(frozen=True)
class EmbeddedTracks:
    """Tracks whose neighbours are shown: their embedding (N, D), and a mask (D,) per condition."""

    infos: list[TrackInfo]
    embedding: Tensor
    masks: dict[str, Tensor]
    conditions: list[Condition]


def nearest(
    embedding: Tensor, mask: Tensor, queries: Sequence[int], k: int, artists: Sequence[str | None] | None = None
) -> list[list[Neighbour]]:
    """Return the nearest neighbours of some tracks, nearest first; of equally near ones the first row comes first.

    A query is no neighbour of itself, nor are the tracks by its artist, where that is known: they would be found by the
    sound of one recording studio. Scaling the dimensions outside of the mask changes nothing.

    Args:
        embedding: Of the tracks, (N, D).
        mask: Of the subspace, (D,); ones to compare in all dimensions.
        queries: Rows of the embedding.
        k: Neighbours of each, at least 1; fewer where there are fewer tracks.
        artists: Of the N tracks, None where unknown.

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
    """Return the rows of n tracks, evenly spaced among those labelled for the most conditions; fewer where there are fewer.

    >>> tracks = [TrackInfo(str(i), None, 129, {"genre": ["rock"]} if i % 2 else {}) for i in range(10)]
    >>> choose_queries(tracks, 2)
    [1, 5]
    """
    most = max((len(track.labels) for track in tracks), default=0)
    rows = [row for row, track in enumerate(tracks) if len(track.labels) == most]
    n = min(n, len(rows))
    return [rows[i * len(rows) // n] for i in range(n)]


def neighbours_by_space(
    tracks: EmbeddedTracks, queries: Sequence[int], k: int
) -> dict[str | None, list[list[Neighbour]]]:
    """Return the neighbours of the queries in every subspace, and in all dimensions under None."""
    masks: dict[str | None, Tensor] = {**tracks.masks, None: torch.ones(tracks.embedding.shape[1])}
    artists = [info.artist for info in tracks.infos]
    return {space: nearest(tracks.embedding, mask, queries, k, artists) for space, mask in masks.items()}


def similar_tracks(condition: Condition, infos: Sequence[TrackInfo], queries: Sequence[int]) -> list[dict[int, bool]]:
    """Return for each query which tracks are positives (True) or negatives by their labels; others are absent."""
    labels = condition.encode([info.labels.get(condition.name) for info in infos])
    positive, negative = condition.relate(labels[queries], labels)
    return [
        {row: bool(is_similar) for row, (is_similar, decided) in enumerate(pairs) if decided}
        for pairs in torch.stack([positive, positive | negative], dim=2).tolist()
    ]


def view_track(info: TrackInfo, clips: Mapping[str, int]) -> TrackView:
    """Return what is shown of a track.

    >>> view_track(TrackInfo("a", None, 129, {"genre": ["rock"], "tempo": 119.6}), {}).labels
    {'genre': 'rock', 'tempo': '120 BPM'}
    """
    labels = {
        name: f"{label:.0f} BPM" if isinstance(label, int | float) else show(label)
        for name, label in info.labels.items()
    }
    return TrackView(info.track_id, info.artist or "", labels, clips.get(info.track_id))


def view_queries(
    tracks: EmbeddedTracks,
    queries: Sequence[int],
    found: Mapping[str | None, list[list[Neighbour]]],
    clips: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Return what the page shows of queries, given their neighbours in every space and the numbers of the clips by track id.

    Returns:
        ``[{"track": TrackView, "spaces": [{"title", "condition", "neighbours": [{"track", "distance", "similar"}]}]}]``. ``similar``
        is the relation of the labels of query and neighbour, None where they do not decide.
    """
    views = [view_track(info, clips) for info in tracks.infos]
    similar = {condition.name: similar_tracks(condition, tracks.infos, queries) for condition in tracks.conditions}
    shown = [{"track": views[query], "spaces": []} for query in queries]
    for space, lists in found.items():
        marks = similar.get(space, [{}] * len(queries))
        for entry, near, mark in zip(shown, lists, marks, strict=True):
            rows = [{"track": views[n.row], "distance": n.distance, "similar": mark.get(n.row)} for n in near]
            entry["spaces"].append({"title": space or WHOLE, "condition": space, "neighbours": rows})
    return shown
