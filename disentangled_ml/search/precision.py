"""Precision of search: how many of the tracks that are found by one condition alone share its labels with the query?

Every query is a track of the catalogue; its gallery and what is relevant in it are those of retrieval.py: the tracks that the
condition decides about, without the query itself and without tracks by the same known artist; relevant are the positives of the
condition's own relation. A query without any of them does not count.

Precision@K of a query is the share of relevant tracks among the K nearest (all, where the gallery has fewer), in the order of a
search with a weight for this condition alone, or with equal weights (``all``). Ties are broken against it: of tracks that are
equally near the irrelevant ones come first, so that a collapsed embedding earns nothing. Chance is the share in the gallery, which
is what a random order gives on average; best is what a perfect order gives, less than 1 where fewer than K tracks are relevant. All
are averaged over the queries that count.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disentangled_ml.evaluation.retrieval import (
    QUERIES_PER_BLOCK,
    artist_numbers,
    check_finite,
    distances_between,
    subspaces,
)
from disentangled_ml.objective.conditions import Condition, group_numbers, label_conditions
from disentangled_ml.search.catalogue import EmbeddedCatalogue
from disentangled_ml.structures import TrackInfo

MOST_QUERIES = 1_000  # of a large catalogue, evenly spaced


def precision_at_k(distance: Tensor, relevant: Tensor, gallery: Tensor, k: int) -> Tensor:
    """Compute Precision@K of each query, ties broken against it.

    Shape:
        distance: (Q, N) finite; relevant, gallery: (Q, N) bool.
        returns: (Q,) float64, NaN for a query without relevant tracks in its gallery.

    >>> distance = torch.tensor([[0.1, 0.2, 0.2, 0.3]]).expand(2, 4)
    >>> relevant = torch.tensor([[True, True, False, False], [False, False, False, True]])
    >>> everybody = torch.ones(2, 4, dtype=torch.bool)
    >>> precision_at_k(distance, relevant, everybody, 2).tolist(), precision_at_k(distance, relevant, everybody, 9).tolist()
    ([0.5, 0.0], [0.5, 0.25])
    """
    relevant = relevant & gallery
    taken = gallery.sum(1).clamp(max=k)
    apart = distance.masked_fill(~gallery, torch.inf)
    last = apart.kthvalue(min(k, distance.shape[1]), dim=1, keepdim=True).values
    nearer, tied = gallery & (distance < last), gallery & (distance == last)
    # Places among the k that irrelevant tracks leave to the tied relevant ones.
    room = taken - nearer.sum(1) - (tied & ~relevant).sum(1)
    hits = (nearer & relevant).sum(1) + room.clamp(min=0)
    return torch.where(relevant.any(1), hits.double() / taken, torch.nan)


def precision_report(
    embedding: Tensor, masks: Tensor, conditions: Sequence[Condition], infos: Sequence[TrackInfo], k: int = 10
) -> dict[str, Any]:
    """Report Precision@K per condition. Raises ValueError for shapes that do not fit, or a value that is not finite.

    Args:
        embedding: Of whole tracks, (N, D).
        masks: Condition masks (C, D), in the order of the conditions.
        conditions: By which is searched.
        infos: Labels and artists, in the order of the rows.
        k: Number of results.

    Returns:
        ``{"k": k, "conditions": {name: {"sub", "all", "chance", "best", "n"}}}``; None where ``n``, the queries that count, is 0.
    """
    if embedding.shape != (len(infos), masks.shape[1]) or len(masks) != len(conditions):
        shapes = f"embedding {tuple(embedding.shape)}, masks {tuple(masks.shape)}"
        raise ValueError(f"{len(infos)} tracks and {len(conditions)} conditions do not fit {shapes}")
    embedding, masks = check_finite(embedding, "embedding"), check_finite(masks, "masks")
    group = group_numbers(artist_numbers(infos))
    parts = subspaces(embedding, masks)
    whole = embedding * (masks**2).sum(0).sqrt()
    labels = [c.encode([info.labels.get(c.name) for info in infos]) for c in conditions]
    found: dict[str, list[Tensor]] = {condition.name: [] for condition in conditions}
    for rows in choose_rows(len(infos)).split(QUERIES_PER_BLOCK):
        apart = group[rows, None] != group
        in_whole = distances_between(whole[rows], whole)
        for condition, label, subspace in zip(conditions, labels, parts, strict=True):
            relation = condition.relate(label[rows], label)
            gallery = apart & (relation.positive | relation.negative)
            in_subspace = distances_between(subspace[rows], subspace)
            hits, size = (relation.positive & gallery).sum(1).double(), gallery.sum(1)
            scores = [
                precision_at_k(in_subspace, relation.positive, gallery, k),
                precision_at_k(in_whole, relation.positive, gallery, k),
                torch.where(hits > 0, hits / size, torch.nan),  # in a random order
                torch.where(hits > 0, hits.clamp(max=k) / size.clamp(max=k), torch.nan),  # in a perfect order
            ]
            found[condition.name].append(torch.stack(scores))
    return {"k": k, "conditions": {name: average(torch.cat(parts, 1)) for name, parts in found.items()}}


def catalogue_precision(catalogue: EmbeddedCatalogue, k: int) -> dict[str, Any]:
    infos = [TrackInfo(t.track_id, t.artist, 0, t.labels) for t in catalogue.tracks(range(len(catalogue)))]
    embedding, masks = torch.from_numpy(np.array(catalogue.embedding)), torch.from_numpy(catalogue.model.masks)
    conditions = label_conditions(catalogue.condition_names, [info.labels for info in infos], catalogue.model.tempo)
    return precision_report(embedding, masks, conditions, infos, k)


def choose_rows(n_tracks: int) -> Tensor:
    """Return the rows of the queries: all tracks, or ``MOST_QUERIES`` of them, evenly spaced.

    >>> choose_rows(3).tolist(), len(choose_rows(10_000))
    ([0, 1, 2], 1000)
    """
    n_queries = min(n_tracks, MOST_QUERIES)
    return torch.arange(n_queries) * n_tracks // max(1, n_queries)


def average(values: Tensor) -> dict[str, float | int | None]:
    """Average over the queries that count; the rows of (4, Q) are: in the subspace, in all, by chance, at best.

    >>> average(torch.tensor([[1.0, torch.nan], [0.5, torch.nan], [0.25, torch.nan], [1.0, torch.nan]]))
    {'sub': 1.0, 'all': 0.5, 'chance': 0.25, 'best': 1.0, 'n': 1}
    """
    values = values[:, ~values.isnan().any(0)]
    means = values.mean(1).tolist() if values.shape[1] else [None] * 4
    return {**dict(zip(("sub", "all", "chance", "best"), means, strict=True)), "n": values.shape[1]}
