"""Relations to triplets: drawn without loops and deterministic given a generator.

Anchors are drawn uniformly among the rows that have at least one positive and one negative, then a positive
and a negative uniformly among those of the anchor's row. Drawing is with replacement. Negatives can be matched to the positives
instead, so that a nuisance such as bandwidth does not tell them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from disentangled_ml.objective.conditions import Condition, Relation, forbid_positives, group_numbers, relate_tracks
from disentangled_ml.structures import AllTriplets, BatchTracks, TripletBatch

# Rows of a relation held at a time when a whole split is related.
ANCHORS_PER_BLOCK = 256


def draw_columns(allowed: Tensor, generator: Generator) -> Tensor:
    """Draw one True column per row, uniformly, of (N, B) with at least one in each; (N,) int64.

    >>> draw_columns(torch.tensor([[False, True, False], [True, False, False]]), torch.Generator()).tolist()
    [1, 0]
    """
    rank = allowed.cumsum(1, dtype=torch.int32)
    chance = torch.rand(len(allowed), generator=generator, dtype=torch.float64)
    number = (chance * rank[:, -1]).int()  # of the column among the True ones, from 0
    return torch.searchsorted(rank, number[:, None] + 1)[:, 0]


def nearest_columns(allowed: Tensor, level: Tensor, target: Tensor) -> Tensor:
    """Keep the allowed columns (N, B) whose level (B,) is nearest to a row's target (N,): one per row, or several at the same distance.

    >>> allowed = torch.tensor([[True, True, False, True]])
    >>> nearest_columns(allowed, torch.tensor([1.0, 3.0, 4.1, 5.0]), torch.tensor([4.0])).int().tolist()
    [[0, 1, 0, 1]]
    """
    gap = (target[:, None] - level).abs().masked_fill(~allowed, torch.inf)
    return allowed & (gap == gap.amin(1, keepdim=True))


def no_triplets() -> TripletBatch:
    return TripletBatch(torch.empty(0, 3, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


def listed_columns(allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the True columns (M,) of all rows of (N, B), where those of each row begin (N,), and how many they are (N,).

    >>> [part.tolist() for part in listed_columns(np.array([[True, False, True], [False, True, False]]))]
    [[0, 2, 1], [0, 2], [2, 1]]
    """
    rows, columns = allowed.nonzero()
    count = np.bincount(rows, minlength=len(allowed))
    return columns, count.cumsum() - count, count


def draw_batch(relations: Sequence[Relation], counts: Sequence[int], generator: Generator) -> TripletBatch:
    """Draw ``counts[c]`` triplets from each relation c (B, B), of arrays; the position of a relation becomes the condition index.

    A relation that allows no triplet yields none. Only the random numbers are drawn for one relation after the other. The matrices are
    small, so NumPy is used, whose calls take less time than torch's.
    """
    n_rows = len(relations[0].positive)
    listed = [listed_columns(np.concatenate(kind)) for kind in zip(*relations, strict=True)]
    has_triplet = np.logical_and(*(count > 0 for _, _, count in listed)).reshape(len(relations), n_rows)
    anchors, first, n_anchors = listed_columns(has_triplet)
    sizes = [n if available else 0 for n, available in zip(counts, n_anchors, strict=True)]
    if not any(sizes):
        return no_triplets()
    number, chance = [], []
    for n, available in zip(sizes, n_anchors.tolist(), strict=True):
        if n:
            number.append(torch.randint(available, (n,), generator=generator).numpy())
            chance.append(torch.rand(2, n, generator=generator, dtype=torch.float64).numpy())
    condition = np.repeat(np.arange(len(relations)), sizes)
    members = [anchors[first[condition] + np.concatenate(number)]]
    row = condition * n_rows + members[0]
    for (columns, first, count), share in zip(listed, np.concatenate(chance, axis=1), strict=True):
        members.append(columns[first[row] + (share * count[row]).astype(np.int64)])
    return TripletBatch(torch.from_numpy(np.stack(members, axis=1)), torch.from_numpy(condition))


def relate_conditions(
    conditions: Sequence[Condition], tracks: BatchTracks, rows: slice = slice(None)
) -> list[Relation]:
    """Relate A tracks of a batch to all N by each condition; anchor and positive are two tracks, and not by one artist."""
    group = group_numbers(tracks.artist)
    forbidden = group[rows, None] == group
    return [
        forbid_positives(condition.relate(labels[rows], labels), forbidden)
        for condition, labels in zip(conditions, tracks.labels, strict=True)
    ]


def expand_to_chunks(relation: Tensor, k: int) -> Tensor:
    """Expand a relation of tracks to the k chunks of each; (..., A, N) to (..., A * k, N * k).

    >>> expand_to_chunks(torch.tensor([[True, False]]), 2).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    *further, a, n = relation.shape
    return relation[..., :, None, :, None].expand(*further, a, k, n, k).reshape(*further, a * k, n * k)


def relate_chunks(conditions: Sequence[Condition], tracks: BatchTracks, min_gap: int, own: slice) -> AllTriplets:
    """Relate the chunks of some tracks of a batch, the anchors, to all chunks; where the tracks are, without waiting for a GPU.

    Args:
        conditions: In order.
        tracks: N of them, k chunks each.
        min_gap: Frames that anchor and positive of a track triplet begin apart, at least.
        own: The tracks whose chunks are anchors.
    """
    n, k = tracks.start.shape
    anchors = slice(own.start * k, own.stop * k)
    number = torch.arange(n, device=tracks.start.device).repeat_interleave(k)
    between = zip(*relate_conditions(conditions, tracks, own), strict=True)
    within = relate_tracks(number, tracks.start.flatten(), min_gap, anchors)
    related = [
        torch.cat([expand_to_chunks(torch.stack(kind), k), of_track[None]])
        for kind, of_track in zip(between, within, strict=True)
    ]
    return AllTriplets(*related, anchors.start)


@dataclass(frozen=True)
class TripletMiner:
    """Sampler of the triplets of a batch.

    Attributes:
        conditions: In order.
        min_gap: Frames that anchor and positive of a track triplet begin apart, at least.
        per_condition: Triplets drawn for each condition, between tracks, then a chunk of each.
        track_triplets: Triplets drawn for the track condition, between chunks.
    """

    conditions: Sequence[Condition]
    min_gap: int
    per_condition: int
    track_triplets: int

    def draw(self, tracks: BatchTracks, generator: Generator) -> TripletBatch:
        """Draw triplets of the chunks of some tracks, on the CPU; none for a condition that allows none."""
        if not (self.per_condition or self.track_triplets):
            return no_triplets()
        n, k = tracks.start.shape
        labels, start = [encoded.numpy() for encoded in tracks.labels], tracks.start.numpy()
        relations = relate_conditions(self.conditions, BatchTracks(labels, tracks.artist.numpy(), start))
        between = draw_batch(relations, [self.per_condition] * len(relations), generator)
        chunk = torch.randint(k, between.indices.shape, generator=generator)
        same_track = relate_tracks(np.arange(n).repeat(k), start.ravel(), self.min_gap)
        within = draw_batch([same_track], [self.track_triplets], generator)
        return TripletBatch(
            torch.cat([between.indices * k + chunk, within.indices]),
            torch.cat([between.condition, within.condition + len(relations)]),
        )


def draw_from_split(
    condition: Condition, labels: Tensor, artist: Tensor, n: int, generator: Generator, level: Tensor | None = None
) -> Tensor:
    """Draw n triplets of whole tracks from a split, of which only a block of labelled rows is related at a time.

    Tracks are tried as anchors in random order, over and over, until n triplets are found or a whole round finds none. With
    levels, the negative is the allowed one whose level is nearest to the positive's (drawn among those equally near).

    Shape:
        labels: (N, V) as encoded by the condition.
        artist: (N,) int64, -1 where unknown; anchor and positive are never by the same artist.
        level: (N,) float, finite.
        returns: (n, 3) int64, fewer rows (0, 3) only where the split allows no triplet at all.
    """
    n_tracks, is_labelled = len(labels), condition.rarity(labels) > 0
    # Of each row from here on: the others take no part.
    track = is_labelled.nonzero()[:, 0]
    row, labels, group = is_labelled.cumsum(0) - 1, labels[track], group_numbers(artist)[track]
    level = None if level is None else level[track]
    found, wanted = [torch.empty(0, 3, dtype=torch.int64)], n if len(track) else 0
    while wanted > 0:
        before = wanted
        for block in torch.randperm(n_tracks, generator=generator).split(ANCHORS_PER_BLOCK):
            anchor = row[block[is_labelled[block]]]
            related = condition.relate(labels[anchor], labels)
            positive, negative = forbid_positives(related, group[anchor, None] == group)
            valid = positive.any(1) & negative.any(1)
            anchor, positive, negative = anchor[valid][:wanted], positive[valid][:wanted], negative[valid][:wanted]
            drawn = draw_columns(positive, generator)
            if level is not None:
                negative = nearest_columns(negative, level, level[drawn])
            found.append(torch.stack([anchor, drawn, draw_columns(negative, generator)], dim=1))
            wanted -= len(anchor)
            if wanted == 0:
                break
        if wanted == before:
            break
    return track[torch.cat(found)]
