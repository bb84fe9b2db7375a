"""Evaluation on a fixed list of triplets: every chunk is embedded once, then each triplet is three rows of a table.

A whole track's embedding is the mean of the unit embeddings of its non-overlapping chunks, normalised again, so that the
masked distance is that of the loss (J. Lee et al., ICASSP 2020, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from disentangled_ml.losses import masked_distance, masked_mean, triplet_violation, with_track
from disentangled_ml.metrics import Accuracy, mean_accuracy, triplet_accuracy
from disentangled_ml.structures import TRACK, ListedTriplet, Member, TrackChunks

TRIPLETS_PER_BLOCK = 8192  # bounds the memory of the distances


@dataclass
class EmbeddingTable:
    """Collect embeddings of whole tracks and of single chunks, on the CPU.

    Attributes:
        wanted: Chunks to keep by themselves.
        rows: Embedding (D,) per member; that of a whole track is normalised.
    """

    wanted: set[Member] = field(default_factory=set)
    rows: dict[Member, Tensor] = field(default_factory=dict)

    def add(self, batch: TrackChunks, embedding: Tensor) -> None:
        """Add the embeddings (B, D) of a batch; a track that comes again replaces itself."""
        embedding = embedding.detach().float().cpu()
        track, start, in_mean = batch.track.cpu(), batch.start.cpu(), batch.in_mean.cpu()
        total = torch.zeros(len(batch.track_ids), embedding.shape[1])
        total.index_add_(0, track[in_mean], embedding[in_mean])
        for track_id, row in zip(batch.track_ids, normalize(total, dim=1), strict=True):
            self.rows[Member(track_id)] = row
        for i, (row, frame) in enumerate(zip(track.tolist(), start.tolist(), strict=True)):
            member = Member(batch.track_ids[row], frame)
            if member in self.wanted:
                self.rows[member] = embedding[i].clone()

    def tracks(self) -> tuple[list[str], Tensor]:
        """Give the ids and embeddings (N, D) of the whole tracks, sorted by id."""
        ids = sorted(member.track_id for member in self.rows if member.start is None)
        return ids, torch.stack([self.rows[Member(track_id)] for track_id in ids]) if ids else torch.empty(0, 0)


@dataclass(frozen=True)
class Distances:
    """Hold the distances of listed triplets whose members are all there.

    Shape:
        dist_ap, dist_an: (T,); condition: (T,) int64, C for track.

    Attributes:
        anchors: Anchor track of each triplet.
        skipped: Number of triplets left out per condition, for want of a member.
    """

    dist_ap: Tensor
    dist_an: Tensor
    condition: Tensor
    anchors: list[str]
    skipped: dict[str, int]


def listed_distances(
    table: EmbeddingTable, triplets: Sequence[ListedTriplet], masks: Tensor, condition_names: Sequence[str]
) -> Distances:
    """Compute the distances of listed triplets, each with the mask of its condition.

    Args:
        table: Of the embeddings.
        triplets: The list.
        masks: Condition masks; of ones to compare in all dimensions.
        condition_names: Of the masks, in order.

    Shape:
        masks: (C, D).

    Raises:
        ValueError: for a condition that the model does not have.
    """
    names = [*condition_names, TRACK]
    unknown = {triplet.condition for triplet in triplets} - set(names)
    if unknown:
        raise ValueError(f"the triplet list has conditions {sorted(unknown)}, the model knows {names}")
    present = [t for t in triplets if all(member in table.rows for member in t[1:])]
    skipped = dict.fromkeys(names, 0)
    for triplet in triplets:
        skipped[triplet.condition] += 1
    for triplet in present:
        skipped[triplet.condition] -= 1
    row = {member: i for i, member in enumerate(table.rows)}
    embedding = torch.stack(list(table.rows.values())) if row else torch.empty(0, masks.shape[1])
    indices = torch.tensor([[row[member] for member in t[1:]] for t in present], dtype=torch.int64).reshape(-1, 3)
    condition = torch.tensor([names.index(t.condition) for t in present], dtype=torch.int64)
    all_masks = with_track(masks.detach().float().cpu())
    dist_ap, dist_an = [torch.empty(0)], [torch.empty(0)]
    for rows, c in zip(indices.split(TRIPLETS_PER_BLOCK), condition.split(TRIPLETS_PER_BLOCK), strict=True):
        anchor, positive, negative = embedding[rows].unbind(1)
        dist_ap.append(masked_distance(anchor, positive, all_masks[c]))
        dist_an.append(masked_distance(anchor, negative, all_masks[c]))
    return Distances(torch.cat(dist_ap), torch.cat(dist_an), condition, [t.anchor.track_id for t in present], skipped)


def listed_loss(distances: Distances, n_conditions: int, margin: float, track_weight: float) -> float:
    """Compute the loss of listed triplets, as in training: conditions + track_weight * track."""
    violation = triplet_violation(distances.dist_ap, distances.dist_an, margin)
    is_track = distances.condition == n_conditions
    return (masked_mean(violation, ~is_track) + track_weight * masked_mean(violation, is_track)).item()


def evaluation_report(
    table: EmbeddingTable, triplets: Sequence[ListedTriplet], masks: Tensor, condition_names: Sequence[str]
) -> dict[str, Any]:
    """Report the accuracy in the subspaces, in all dimensions, and of track, with 95 % intervals.

    Shape:
        masks: (C, D).

    Returns:
        ``{"sub": {condition: {"accuracy", "ci95", "n"}, ..., "mean"}, "all": {...}, "track": {...}, "skipped": {...}}``.
        Accuracies without a triplet are None.
    """
    sub = listed_distances(table, triplets, masks, condition_names)
    whole = listed_distances(table, triplets, torch.ones_like(masks), condition_names)

    def entry(distances: Distances, c: int) -> dict[str, Any]:
        chosen = distances.condition == c
        anchors = [anchor for anchor, take in zip(distances.anchors, chosen.tolist(), strict=True) if take]
        result: Accuracy = triplet_accuracy((distances.dist_ap < distances.dist_an)[chosen], anchors)
        return {"accuracy": result.accuracy, "ci95": list(result.ci95), "n": result.n}

    report: dict[str, Any] = {}
    for space, distances in (("sub", sub), ("all", whole)):
        entries = {name: entry(distances, c) for c, name in enumerate(condition_names)}
        report[space] = {**entries, "mean": mean_accuracy([e["accuracy"] for e in entries.values()])}
    report["track"] = entry(whole, len(condition_names))
    report["skipped"] = sub.skipped
    return without_nan(report)


def without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
