"""Triplet accuracy: the share of triplets with D(anchor, positive) < D(anchor, negative), strictly.

A collapsed embedding, whose distances are all equal, scores 0. Counts are summed over batches and processes before they
are divided: never means of means. Intervals are 95 % bootstrap intervals over the anchor tracks, since triplets with one
anchor are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from disentangled_ml.structures import TRACK

N_RESAMPLES = 1000


def count_correct(dist_ap: Tensor, dist_an: Tensor, condition: Tensor, n_conditions: int) -> tuple[Tensor, Tensor]:
    """Count correct and all triplets per condition.

    Shape:
        dist_ap, dist_an, condition: (T,).
        returns: correct, total, both (n_conditions,) float64.

    >>> correct, total = count_correct(torch.tensor([.1, .5, .5]), torch.tensor([.2, .5, .6]), torch.tensor([0, 0, 1]), 2)
    >>> correct.tolist(), total.tolist()
    ([1.0, 1.0], [2.0, 1.0])
    """
    correct, total = torch.zeros(2, n_conditions, dtype=torch.float64, device=dist_ap.device)
    correct.index_add_(0, condition, (dist_ap < dist_an).double())
    total.index_add_(0, condition, torch.ones_like(condition, dtype=torch.float64))
    return correct, total


def accuracies(correct: Tensor, total: Tensor, condition_names: Sequence[str]) -> dict[str, float]:
    """Divide counts: one accuracy per condition, ``track``, and ``mean`` over the conditions that have triplets.

    Shape:
        correct, total: (C + 1,), track last.

    >>> accuracies(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([4.0, 0.0, 1.0]), ["genre", "mood"])
    {'genre': 0.75, 'mood': nan, 'track': 1.0, 'mean': 0.75}
    """
    accuracy = (correct / total).tolist()
    return {**dict(zip([*condition_names, TRACK], accuracy, strict=True)), "mean": mean_accuracy(accuracy[:-1])}


def mean_accuracy(accuracies: Sequence[float]) -> float:
    """Average over the conditions that have triplets.

    >>> mean_accuracy([0.5, 1.0, float("nan")])
    0.75
    """
    known = [value for value in accuracies if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


@dataclass(frozen=True)
class Accuracy:
    """Hold a triplet accuracy with its 95 % interval and the number of triplets; NaN where there are none."""

    accuracy: float
    ci95: tuple[float, float]
    n: int


def resample(n: int, seed: int) -> Iterator[Tensor]:
    """Draw ``N_RESAMPLES`` times n of n items with replacement, (n,) each."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(N_RESAMPLES):
        yield torch.randint(n, (n,), generator=generator)


def interval(values: Tensor) -> tuple[float, float]:
    """Give the middle 95 % of resampled values."""
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def mean_interval(correct: Tensor, anchors: Sequence[str], condition: Tensor, seed: int = 0) -> tuple[float, float]:
    """Give the 95 % interval of the mean accuracy over the conditions, by bootstrap over anchor tracks.

    An anchor is drawn with its triplets of all conditions; a resample that leaves a condition without a triplet counts the others.

    Shape:
        correct: (T,) bool; condition: (T,) int64.

    >>> mean_interval(torch.tensor([True, True]), ["a", "b"], torch.tensor([0, 1]))
    (1.0, 1.0)
    """
    if len(correct) == 0:
        return float("nan"), float("nan")
    row = {anchor: i for i, anchor in enumerate(dict.fromkeys(anchors))}
    cell = torch.tensor([row[anchor] for anchor in anchors]), condition
    counts = torch.zeros(len(row), int(condition.max()) + 1, 2, dtype=torch.float64)
    counts.index_put_(cell, torch.stack([correct, torch.ones_like(correct)], dim=1).double(), accumulate=True)
    return interval(resampled_shares(counts, seed).nanmean(1))


def resampled_shares(counts: Tensor, seed: int) -> Tensor:
    """Draw anchors with replacement, again and again, and give the share of correct triplets each time.

    Shape:
        counts: (A, C, 2) correct and all triplets of each anchor and condition.
        returns: (``N_RESAMPLES``, C) float64, NaN where a condition was left without a triplet.
    """
    drawn = torch.stack([counts[rows].sum(0) for rows in resample(len(counts), seed)])
    return drawn[..., 0] / drawn[..., 1]


def triplet_accuracy(correct: Tensor, anchors: Sequence[str], seed: int = 0) -> Accuracy:
    """Average the outcomes of triplets, with a bootstrap interval over anchor tracks.

    Args:
        correct: Outcome per triplet.
        anchors: Anchor track of each triplet.
        seed: Of the resampling.

    Shape:
        correct: (T,) bool.

    >>> triplet_accuracy(torch.tensor([True, True, False, True]), ["a", "a", "b", "c"]).accuracy
    0.75
    """
    if len(correct) == 0:
        return Accuracy(float("nan"), (float("nan"), float("nan")), 0)
    row = {anchor: i for i, anchor in enumerate(dict.fromkeys(anchors))}
    counts = torch.zeros(len(row), 1, 2, dtype=torch.float64)
    outcomes = torch.stack([correct, torch.ones_like(correct)], dim=1).double()[:, None]
    counts.index_add_(0, torch.tensor([row[anchor] for anchor in anchors]), outcomes)
    return Accuracy(correct.double().mean().item(), interval(resampled_shares(counts, seed)[:, 0]), len(correct))
