"""Tracks that change: curves over time, self-similarity, novelty and change points of a track, condition by condition.

A track is a sequence of overlapping chunks; row i of the embedding (N, D) is the chunk that begins at ``starts[i]``. A condition
looks at it through its mask, as the loss does.

* *Curves*: the first two principal components of the track's chunks in the subspace, in the unit of the embedding's distances. They
  show when a track moves, where it stays, and whether it comes back.
* *Self-similarity*: 1 - D / 2, of the masked distances D of all pairs of chunks, of which none exceeds 2.
* *Novelty* at a time: the masked distance between the mean of the chunks that lie wholly within ``context`` before it and the mean of
  those wholly within ``context`` after it, so that no chunk has music of both sides. Its square is J. Foote's novelty ("Automatic audio
  segmentation using a measure of audio novelty", ICME 2000) with a flat checkerboard kernel on the similarities
  - D ** 2 / 2, up to a factor and without the chunks across the middle; a test holds this. At the ends of a track
  the context is cut off there.
* *Change points*: local maxima of the novelty that reach a threshold, the highest first, none nearer to a higher one than ``min_gap``.

Times are in seconds; a chunk's time is its middle.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# In seconds, for the rounding of chunk starts.
TOLERANCE = 1e-6


class Novelty(NamedTuple):
    """Novelty curve: times (M,) float64 in seconds, values (M,) float32 in distances."""

    times: Tensor
    values: Tensor


def principal_curves(rows: Tensor, n: int = 2) -> Tensor:
    """Project a track's chunks on their first principal components; each curve's value of largest size is positive.

    From rows (N, D) of one subspace to (n, N), zeros where there are fewer components.

    >>> principal_curves(torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 5.0]]), 1).abs().tolist()
    [[2.0, 0.0, 2.0]]
    """
    centred = rows - rows.mean(0)
    _, _, directions = torch.linalg.svd(centred.double(), full_matrices=False)
    curves = (centred.double() @ directions[:n].T).T
    peak = curves.gather(1, curves.abs().argmax(1, keepdim=True))
    curves = torch.where(peak < 0, -curves, curves)
    return torch.cat([curves, curves.new_zeros(n - len(curves), len(rows))]).float()


def self_similarity(rows: Tensor) -> Tensor:
    """Compute the similarity 1 - D / 2 of all pairs of chunks of a track, masked parts (N, D) of unit vectors.

    It is (N, N), from 0 to 1, symmetric, with 1 on the diagonal.

    >>> self_similarity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return 1 - torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") / 2


def novelty(rows: Tensor, starts: Tensor, chunk: float, context: float, step: float) -> Novelty:
    """Compute the novelty of a track, how much it differs before and after each time, none if no two chunks follow each other.

    Args:
        rows: Of one subspace, in order of time, (N, D).
        starts: Of the chunks, in seconds, (N,) float64.
        chunk: Length of each in seconds.
        context: Seconds before and after a time that are compared, at least a chunk (else it raises ValueError).
        step: Seconds > 0 between the times, which begin where the first chunk ends; the last is where the last chunk begins.

    >>> rows = torch.tensor([[1.0], [1.0], [5.0], [5.0]])
    >>> curve = novelty(rows, torch.tensor([0.0, 1.0, 2.0, 3.0]).double(), chunk=1.0, context=2.0, step=1.0)
    >>> curve.times.tolist(), curve.values.tolist()
    ([1.0, 2.0, 3.0], [2.0, 4.0, 2.0])
    """
    if context < chunk or step <= 0:
        raise ValueError(f"context={context} must be at least a chunk, {chunk} s, and step={step} positive")
    first, last = float(starts[0]) + chunk, float(starts[-1])
    times = first + step * torch.arange(max(0, int((last - first + TOLERANCE) // step) + 1), dtype=torch.float64)
    # Start of each chunk relative to each time: (M, N).
    from_time = starts - times[:, None]
    before = (from_time >= -context - TOLERANCE) & (from_time <= -chunk + TOLERANCE)
    after = (from_time >= -TOLERANCE) & (from_time <= context - chunk + TOLERANCE)
    # A side may be empty where chunks are far apart.
    both = before.any(1) & after.any(1)
    means = [side[both].to(rows) @ rows / side[both].sum(1, keepdim=True) for side in (before, after)]
    return Novelty(times[both], torch.linalg.vector_norm(means[1] - means[0], dim=1))


def peaks(curve: Novelty, threshold: float, min_gap: float) -> list[int]:
    """Return the rows of the local maxima that reach a threshold, in order of time, none within ``min_gap`` seconds of a higher one.

    A flat top counts once, at its middle; the first and last value count as maxima where the next is lower.

    >>> curve = Novelty(torch.arange(7.0), torch.tensor([0.0, 2.0, 0.0, 3.0, 3.0, 3.0, 0.0]))
    >>> peaks(curve, threshold=1.0, min_gap=2.0), peaks(curve, threshold=1.0, min_gap=4.0), peaks(curve, 4.0, 1.0)
    ([1, 4], [4], [])
    """
    values, times = curve.values.tolist(), curve.times.tolist()
    tops, begin = [], 0
    for i in range(1, len(values) + 1):
        if i < len(values) and values[i] == values[begin]:
            continue
        rises = begin == 0 or values[begin - 1] < values[begin]
        falls = i == len(values) or values[i] < values[begin]
        if rises and falls and values[begin] >= threshold:
            tops.append((begin + i - 1) // 2)
        begin = i
    kept: list[int] = []
    for top in sorted(tops, key=lambda row: -values[row]):
        if all(abs(times[top] - times[other]) >= min_gap - TOLERANCE for other in kept):
            kept.append(top)
    return sorted(kept)


def change_points(curve: Novelty, threshold: float, min_gap: float) -> list[float]:
    """Return the times in seconds of the peaks of a novelty curve.

    >>> change_points(Novelty(torch.tensor([1.0, 1.5, 2.0]), torch.tensor([0.0, 1.0, 0.0])), threshold=0.5, min_gap=1.0)
    [1.5]
    """
    return [float(curve.times[row]) for row in peaks(curve, threshold, min_gap)]


def chunk_starts(frames: int, chunk_frames: int, hop_frames: int) -> list[int]:
    """Return the first frames of the overlapping chunks of a track, as many as fit. Raises ValueError if none does.

    >>> chunk_starts(10, chunk_frames=4, hop_frames=3)
    [0, 3, 6]
    """
    if frames < chunk_frames or hop_frames < 1:
        raise ValueError(f"{frames} frames hold no chunk of {chunk_frames}, or hop_frames={hop_frames} is below 1")
    return list(range(0, frames - chunk_frames + 1, hop_frames))


def candidate_thresholds(curves: Sequence[Novelty]) -> list[float]:
    """Return the values of the local maxima of curves, lowest first: between two of them all thresholds find the same peaks.

    >>> candidate_thresholds([Novelty(torch.arange(3.0), torch.tensor([0.0, 0.5, 0.0]))])
    [0.5]
    """
    return sorted({float(curve.values[row]) for curve in curves for row in peaks(curve, 0.0, 0.0)})
