"""Retrieval: do the nearest tracks of the test split have what the query has?

Every track is a query once. Its *gallery* under a condition holds the tracks that the condition decides about (positive or
negative), without the query itself and without tracks by the same known artist. So a track without a label is neither query
nor in anybody's gallery, and a pair in the undecided zone of relative tempo does not compete.

A query has *aspects*; the tracks of its gallery that have one too are the *carriers* of the aspect.

* Tags: each tag of the query is an aspect, the gallery's tracks with that tag are its carriers.
* Tempo: the query has one aspect, whose carriers are the positives of the relation.

Recall@K of a query is the share of its aspects that have a carrier among the K nearest. For tags that is the multi-label
Recall@K of J. Lee et al., "Metric Learning vs Classification for Disentangled Music Representation Learning", ISMIR 2020
(the share of the query's labels in the union of the labels of its K nearest; from memory), and the usual Recall@K where
every track has one tag. A tag that nobody in the gallery has counts as missed, but a query without any positive in its gallery
does not count at all. The average is over the queries that count, ``n`` of them.

Distances are Euclidean, masked as in the loss. Ties are broken against the aspect: a carrier comes after all non-carriers that
are as near. So a collapsed embedding, whose distances are all equal, finds only what cannot be missed.

Chance is exact: in a random order of a gallery of G with m carriers one is among the first K with the probability
1 - C(G - m, K) / C(G, K).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from disentangled_ml.evaluation.metrics import Accuracy, triplet_accuracy
from disentangled_ml.objective.conditions import Condition, TagCondition, group_numbers
from disentangled_ml.structures import TrackInfo

KS = (1, 2, 4, 8)
# Bounds the memory: 8 MB of distances per block among 30,000 tracks, times the tags of a query.
QUERIES_PER_BLOCK = 64


class Aspects(NamedTuple):
    """What Q queries look for among N tracks; queries that do not count have no aspect.

    Shape:
        gallery: (Q, N) bool.
        query: (P,) int64, the query of each aspect.
        carrier: (P, N) bool, who in the gallery of its query has the aspect.
    """

    gallery: Tensor
    query: Tensor
    carrier: Tensor


def find_aspects(condition: Condition, labels: Tensor, rows: Tensor, apart: Tensor) -> Aspects:
    """List the aspects of some tracks under a condition.

    Args:
        condition: Of the labels.
        labels: (N, V), of all tracks, as encoded by the condition.
        rows: (Q,), the queries.
        apart: (Q, N) bool, who may be in the gallery of a query for reasons besides labels.

    >>> genre = TagCondition("genre", ("jazz", "rock", "pop"))
    >>> labels = genre.encode([["jazz", "rock"], ["rock"], ["pop"], None])
    >>> aspects = find_aspects(genre, labels, torch.arange(4), ~torch.eye(4, dtype=torch.bool))
    >>> aspects.query.tolist()  # both tags of the first track, the tag of the second; the others do not count
    [0, 0, 1]
    >>> aspects.carrier.int().tolist()
    [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    """
    relation = condition.relate(labels[rows], labels)
    gallery = apart & (relation.positive | relation.negative)
    if isinstance(condition, TagCondition):
        query, tag = labels[rows].nonzero(as_tuple=True)
        carrier = labels.T[tag]
    else:
        query, carrier = torch.arange(len(rows)), relation.positive
    counts = (relation.positive & gallery).any(1)[query]
    return Aspects(gallery, query[counts], (carrier & gallery[query])[counts])


def carrier_ranks(distance: Tensor, carrier: Tensor, gallery: Tensor) -> Tensor:
    """Rank the nearest carrier of each of P aspects in its gallery, from 1, after all non-carriers that are as near; infinite without.

    >>> distance = torch.tensor([[0.1, 0.2, 0.2, 0.3]]).expand(2, 4)
    >>> carrier = torch.tensor([[False, True, False, True], [False, False, False, False]])
    >>> carrier_ranks(distance, carrier, torch.ones(2, 4, dtype=torch.bool)).tolist()
    [3.0, inf]
    """
    nearest = distance.masked_fill(~carrier, torch.inf).amin(1)
    before = ((distance <= nearest[:, None]) & gallery & ~carrier).sum(1)
    return torch.where(nearest.isinf(), torch.inf, 1.0 + before)


def average_per_query(outcome: Tensor, query: Tensor, n_queries: int) -> Tensor:
    """Average the outcomes (P, K) of aspects over those of each query, (n_queries, K) float64; NaN for a query without aspect.

    >>> average_per_query(torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([0, 0, 2]), 3).tolist()
    [[0.5], [nan], [1.0]]
    """
    total = torch.zeros(n_queries, outcome.shape[1], dtype=torch.float64).index_add_(0, query, outcome.double())
    return total / query.bincount(minlength=n_queries)[:, None]


def recall_at_k(distance: Tensor, aspects: Aspects) -> Tensor:
    """Compute Recall@K of each query, (Q, len(KS)) float64, by distances (Q, N); NaN for queries that do not count.

    >>> everybody = torch.ones(1, 4, dtype=torch.bool)
    >>> carrier = torch.tensor([[False, True, False, True], [False, False, True, False]])
    >>> aspects = Aspects(everybody, torch.tensor([0, 0]), carrier)
    >>> recall_at_k(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), aspects).tolist()
    [[0.0, 0.5, 1.0, 1.0]]
    """
    ranks = carrier_ranks(distance[aspects.query], aspects.carrier, aspects.gallery[aspects.query])
    return average_per_query(ranks[:, None] <= torch.tensor(KS), aspects.query, len(distance))


def hit_chance(carriers: Tensor, gallery: Tensor) -> Tensor:
    """Compute the probability that one of m carriers is among K drawn from a gallery of G, for every K of ``KS``; (P, len(KS)).

    >>> hit_chance(torch.tensor([1, 3, 0]), torch.tensor([4, 4, 4])).tolist()
    [[0.25, 0.5, 1.0, 1.0], [0.75, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    drawn = torch.arange(max(KS), dtype=torch.float64)
    left, others = gallery[:, None] - drawn, (gallery - carriers)[:, None] - drawn
    miss = torch.where(left > 0, others.clamp(min=0) / left, 1.0).cumprod(1)
    return 1 - miss[:, [k - 1 for k in KS]]


def chance_recall(aspects: Aspects) -> Tensor:
    """Compute the expected Recall@K of each query in a random order of its gallery, as ``recall_at_k``."""
    gallery = aspects.gallery.sum(1)
    chance = hit_chance(aspects.carrier.sum(1), gallery[aspects.query])
    return average_per_query(chance, aspects.query, len(gallery))


def distances_between(a: Tensor, b: Tensor) -> Tensor:
    """Compute Euclidean distances, (A, D) and (B, D) to (A, B).

    Each pair by itself: equal vectors have distance 0 exactly, and no distance depends on the others of its block.

    >>> distances_between(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[5.0, 0.0]]
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def subspaces(embedding: Tensor, masks: Tensor) -> list[Tensor]:
    """Return the part of an embedding (N, D) that each mask of (C, D) lets through, without the dimensions it shuts out.

    >>> [part.tolist() for part in subspaces(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))]
    [[[3.0]], [[8.0]]]
    """
    return [embedding[:, mask > 0] * mask[mask > 0] for mask in masks]


def check_finite(embedding: Tensor, what: str) -> Tensor:
    """Return the embedding (N, D) as float32 on the CPU. Raises ValueError for a value that is not finite."""
    embedding = embedding.detach().float().cpu()
    bad = (~embedding.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(
            f"{what} has values that are not finite in {len(bad)} of {len(embedding)} rows, first in {bad[0]}"
        )
    return embedding


def track_recall(first: Tensor, last: Tensor) -> Accuracy:
    """Compute track Recall@1: is the last chunk nearest to the first chunk of a track its own, among those of all tracks?

    Strictly nearer than that of any other track, so a collapsed embedding scores 0; chance is 1 / N. Distances are in all
    dimensions, the 95 % interval is by bootstrap over the tracks. A track of one chunk only is to be left out by the caller.
    First and last chunks are (N, D), one row per track.

    Raises:
        ValueError: for different shapes or a value that is not finite.

    >>> first = torch.tensor([[0.0], [1.0], [2.0]])
    >>> track_recall(first, torch.tensor([[0.1], [1.1], [1.2]])).n
    3
    >>> round(track_recall(first, torch.tensor([[0.1], [1.1], [1.05]])).accuracy, 3)
    0.333
    """
    if first.shape != last.shape or first.ndim != 2:
        raise ValueError(
            f"first and last chunks need one shape (N, D), got {tuple(first.shape)} and {tuple(last.shape)}"
        )
    first, last = check_finite(first, "first"), check_finite(last, "last")
    correct = [torch.empty(0, dtype=torch.bool)]
    for start in range(0, len(first), QUERIES_PER_BLOCK):
        distance = distances_between(first[start : start + QUERIES_PER_BLOCK], last)
        own = distance.diagonal(start).clone()
        distance.diagonal(start).fill_(torch.inf)
        correct.append(own < distance.amin(1))
    return triplet_accuracy(torch.cat(correct), [str(row) for row in range(len(first))])


def infos_of(track_ids: Sequence[str], infos: Sequence[TrackInfo]) -> list[TrackInfo]:
    """Return the infos of the tracks, in their order. Raises ValueError for a track that comes twice or has no info.

    >>> infos_of(["b"], [TrackInfo("a", None, 9, {}), TrackInfo("b", None, 9, {})])[0].track_id
    'b'
    """
    twice = sorted(track_id for track_id, count in Counter(track_ids).items() if count > 1)
    by_id = {info.track_id: info for info in infos}
    unknown = sorted(set(track_ids) - set(by_id))
    if twice or unknown:
        raise ValueError(f"tracks must come once and have an info; twice: {twice[:5]}, without info: {unknown[:5]}")
    return [by_id[track_id] for track_id in track_ids]


def artist_numbers(infos: Sequence[TrackInfo]) -> Tensor:
    """Number the artists (N,), -1 where unknown.

    >>> artist_numbers([TrackInfo("a", "X", 9, {}), TrackInfo("b", None, 9, {}), TrackInfo("c", "X", 9, {})]).tolist()
    [0, -1, 0]
    """
    names = dict.fromkeys(info.artist for info in infos if info.artist is not None)
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([-1 if info.artist is None else number[info.artist] for info in infos], dtype=torch.int64)


def recall_entry(recalls: list[Tensor]) -> dict[str, float | int | None]:
    """Average blocks of recalls (Q, len(KS)) over the queries that count; None where there are none.

    >>> recall_entry([torch.tensor([[0.0, 0.5, 1.0, 1.0]]), torch.tensor([[torch.nan] * 4])])
    {'1': 0.0, '2': 0.5, '4': 1.0, '8': 1.0, 'n': 1}
    """
    values = torch.cat(recalls) if recalls else torch.empty(0, len(KS))
    values = values[~values.isnan().any(1)]
    means = values.mean(0).tolist() if len(values) else [None] * len(KS)
    return {**{str(k): mean for k, mean in zip(KS, means, strict=True)}, "n": len(values)}


def retrieval_report(
    track_ids: Sequence[str],
    embedding: Tensor,
    masks: Tensor,
    conditions: Sequence[Condition],
    infos: Sequence[TrackInfo],
) -> dict[str, Any]:
    """Report Recall@K in the subspaces, in all dimensions, and by chance.

    Args:
        track_ids: Of the rows of the embedding.
        embedding: Of whole tracks, (N, D).
        masks: Condition masks (C, D), in the order of the conditions.
        conditions: What the model was trained for.
        infos: Labels and artists of these tracks, in any order; others are ignored.

    Returns:
        ``{"sub": {condition: {"1", "2", "4", "8", "n"}}, "all": {...}, "chance": {...}}``, ``n`` the queries that count.
        Recalls without such a query are None.

    Raises:
        ValueError: for shapes that do not fit, a value that is not finite, a track that comes twice or has no info.
    """
    if embedding.shape != (len(track_ids), masks.shape[1]) or len(masks) != len(conditions):
        shapes = f"embedding {tuple(embedding.shape)}, masks {tuple(masks.shape)}"
        raise ValueError(f"{len(track_ids)} tracks and {len(conditions)} conditions do not fit {shapes}")
    embedding, masks = check_finite(embedding, "embedding"), check_finite(masks, "masks")
    chosen = infos_of(track_ids, infos)
    labels = [c.encode([info.labels.get(c.name) for info in chosen]) for c in conditions]
    parts = subspaces(embedding, masks)
    group, everybody = group_numbers(artist_numbers(chosen)), torch.arange(len(chosen))
    recalls = {space: {c.name: [] for c in conditions} for space in ("sub", "all", "chance")}
    for start in range(0, len(chosen), QUERIES_PER_BLOCK):
        rows = everybody[start : start + QUERIES_PER_BLOCK]
        apart = group[rows, None] != group
        distance = distances_between(embedding[rows], embedding)
        for condition, label, subspace in zip(conditions, labels, parts, strict=True):
            aspects = find_aspects(condition, label, rows, apart)
            in_subspace = distances_between(subspace[rows], subspace)
            recalls["sub"][condition.name].append(recall_at_k(in_subspace, aspects))
            recalls["all"][condition.name].append(recall_at_k(distance, aspects))
            recalls["chance"][condition.name].append(chance_recall(aspects))
    return {space: {name: recall_entry(r) for name, r in found.items()} for space, found in recalls.items()}
