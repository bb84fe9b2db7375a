"""Triplet accuracy: the share of triplets with D(anchor, positive) < D(anchor, negative), strictly.

A collapsed embedding, whose distances are all equal, scores 0. Counts are summed over batches and processes before they
are divided: never means of means. Intervals are 95 % bootstrap intervals over the anchor tracks, since triplets with one
anchor are not independent.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disentangled_ml.structures import TRACK

N_RESAMPLES = 1000
# Items: bounds the memory of many resamples of many anchors.
DRAWN_AT_A_TIME = 1 << 22
ONE = torch.ones((), dtype=torch.float64)


def count_correct(dist_ap: Tensor, dist_an: Tensor, condition: Tensor, n_conditions: int) -> tuple[Tensor, Tensor]:
    """Count correct and all of T triplets per condition; both (n_conditions,) float64.

    >>> correct, total = count_correct(torch.tensor([.1, .5, .5]), torch.tensor([.2, .5, .6]), torch.tensor([0, 0, 1]), 2)
    >>> correct.tolist(), total.tolist()
    ([1.0, 1.0], [2.0, 1.0])
    """
    correct, total = torch.zeros(2, n_conditions, dtype=torch.float64, device=dist_ap.device)
    correct.index_add_(0, condition, (dist_ap < dist_an).double())
    total.index_add_(0, condition, torch.ones_like(condition, dtype=torch.float64))
    return correct, total


def accuracies(correct: Tensor, total: Tensor, condition_names: Sequence[str]) -> dict[str, float]:
    """Divide counts (C + 1,): one accuracy per condition, ``track``, and ``mean`` over the conditions that have triplets.

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
    """Triplet accuracy with its 95 % interval and the number of triplets; NaN without any."""

    accuracy: float
    ci95: tuple[float, float]
    n: int

    def entry(self) -> dict[str, Any]:
        """Return what a report holds of it."""
        return {"accuracy": self.accuracy, "ci95": list(self.ci95), "n": self.n}


def resample(n: int, seed: int) -> Iterator[Tensor]:
    """Draw n of n items with replacement ``N_RESAMPLES`` times; yield how often each was drawn, some (R, n) float64 at a time."""
    generator = torch.Generator().manual_seed(seed)
    for size in torch.arange(N_RESAMPLES).split(max(1, DRAWN_AT_A_TIME // n)):
        drawn = torch.randint(n, (len(size), n), generator=generator)
        yield torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, ONE.expand(drawn.shape))


def interval(values: Tensor) -> tuple[float, float]:
    """Return the middle 95 % of resampled values."""
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def count_by_anchor(correct: Tensor, anchors: Sequence[str], condition: Tensor) -> Tensor:
    """Count the correct triplets of each anchor and condition in each of S spaces, and all triplets; (A, C, S + 1) float64.

    Anchors are in order of appearance. Outcomes are (S, T) bool, the condition (T,) int64.
    """
    row = {anchor: i for i, anchor in enumerate(dict.fromkeys(anchors))}
    rows = np.fromiter(map(row.__getitem__, anchors), np.int64, len(anchors))
    cell = torch.from_numpy(rows), condition
    counts = torch.zeros(len(row), int(condition.max()) + 1, len(correct) + 1, dtype=torch.float64)
    outcomes = torch.cat([correct, torch.ones_like(correct[:1])]).T.double()
    return counts.index_put_(cell, outcomes, accumulate=True)


def resampled_shares(counts: Tensor, seed: int) -> Tensor:
    """Resample the anchors and return the share of correct triplets each time, (S, ``N_RESAMPLES``, C) float64.

    Counts are those of ``count_by_anchor``; NaN where a condition was left without a triplet.
    """
    drawn = torch.cat([times @ counts.flatten(1) for times in resample(len(counts), seed)])
    drawn = drawn.unflatten(1, counts.shape[1:])
    return (drawn[..., :-1] / drawn[..., -1:]).movedim(-1, 0)


def mean_intervals(
    correct: Tensor, anchors: Sequence[str], condition: Tensor, seed: int = 0
) -> list[tuple[float, float]]:
    """Compute the 95 % interval of the mean accuracy over the conditions in each space, by bootstrap over anchor tracks.

    An anchor is drawn with its triplets of all conditions; a resample that leaves a condition without a triplet counts the others.
    Outcomes are (S, T) bool, the condition (T,) int64.

    >>> mean_intervals(torch.tensor([[True, True]]), ["a", "b"], torch.tensor([0, 1]))
    [(1.0, 1.0)]
    """
    if not anchors:
        return [(float("nan"), float("nan"))] * len(correct)
    shares = resampled_shares(count_by_anchor(correct, anchors, condition), seed)
    return [interval(means) for means in shares.nanmean(2)]


def triplet_accuracies(correct: Tensor, anchors: Sequence[str], seed: int = 0) -> list[Accuracy]:
    """Average the outcomes (S, T) of the same triplets in several spaces, with bootstrap intervals over their anchor tracks."""
    if not anchors:
        return [Accuracy(float("nan"), (float("nan"), float("nan")), 0)] * len(correct)
    everywhere = torch.zeros(len(anchors), dtype=torch.int64)
    shares = resampled_shares(count_by_anchor(correct, anchors, everywhere), seed)[..., 0]
    means = correct.double().mean(1).tolist()
    return [Accuracy(mean, interval(values), len(anchors)) for mean, values in zip(means, shares, strict=True)]


def triplet_accuracy(correct: Tensor, anchors: Sequence[str], seed: int = 0) -> Accuracy:
    """Average the outcomes (T,) of triplets: ``triplet_accuracies`` in one space.

    >>> triplet_accuracy(torch.tensor([True, True, False, True]), ["a", "a", "b", "c"]).accuracy
    0.75
    """
    return triplet_accuracies(correct[None], anchors, seed)[0]
