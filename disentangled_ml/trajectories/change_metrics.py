"""How well change points are found: mir_eval's boundary measures (the only file besides tempo_metrics.py that imports it).

A hit is a true change with a found one within a window, 0.5 s or 3 s, each matched at most once (MIREX structural segmentation).
The ends of a recording are no changes and do not count (``trim``). Times are in seconds.

A *source* is what a novelty curve is measured on: a subspace, all dimensions, or the mel spectrogram. A source that looks for the
changes of one condition is asked two questions. In the recordings in which that condition changes: are the changes found (the
mean of the recordings' F-measures)? In all recordings: is nothing else taken for one (the F-measure of all hits together, which
counts every change point of another kind as false)? Thresholds are chosen by the second, on validation recordings.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import mir_eval
import numpy as np
import torch

from disentangled_ml.evaluation.metrics import interval, resample
from disentangled_ml.trajectories.change_points import Novelty, candidate_thresholds, change_points

WINDOWS = (3.0, 0.5)
Times = Sequence[float]  # of changes in a recording, in seconds


def boundary_f(true: Times, found: Times, seconds: float, window: float) -> float:
    """Return mir_eval's boundary F-measure of one recording of ``seconds`` seconds.

    >>> boundary_f([10.0], [12.0], 24.0, 3.0), boundary_f([10.0], [12.0], 24.0, 0.5), boundary_f([10.0], [], 24.0, 3.0)
    (1.0, 0.0, 0.0)
    >>> round(boundary_f([10.0], [10.0, 20.0], 24.0, 0.5), 3)
    0.667
    """
    with warnings.catch_warnings():
        # It warns of recordings without a change, whose F-measure is 0.
        warnings.simplefilter("ignore")
        return mir_eval.segment.detection(intervals(true, seconds), intervals(found, seconds), window, trim=True)[2]


def intervals(times: Times, seconds: float) -> np.ndarray:
    """Return the intervals into which some times cut a recording: (len(times) + 1, 2) float64.

    >>> intervals([4.0], 10.0).tolist()
    [[0.0, 4.0], [4.0, 10.0]]
    """
    edges = np.array([0.0, *times, seconds])
    return np.stack([edges[:-1], edges[1:]], axis=1)


def pooled_f(true: Sequence[Times], found: Sequence[Times], window: float = WINDOWS[0]) -> float:
    """Compute the F-measure 2 PR / (P + R) of all recordings together; hits are counted by the largest matching.

    >>> pooled_f([[10.0], []], [[9.0, 11.0], [3.0]]), pooled_f([[]], [[]])
    (0.5, 0.0)
    """
    pairs = [(np.array(t), np.array(f)) for t, f in zip(true, found, strict=True) if t and f]
    hits = sum(len(mir_eval.util.match_events(*pair, window)) for pair in pairs)
    return 2 * hits / (sum(map(len, true)) + sum(map(len, found))) if hits else 0.0


def found_in(curves: Sequence[Novelty], threshold: float, min_gap: float) -> list[list[float]]:
    """Return the change points of each recording."""
    return [change_points(curve, threshold, min_gap) for curve in curves]


def choose_threshold(curves: Sequence[Novelty], true: Sequence[Times], min_gap: float) -> float:
    """Choose the threshold with the best F-measure at 3 s of all recordings together.

    Thresholds between two neighbouring maxima find the same, so it is the middle of those; of several equally good ones the highest.
    Raises ValueError if the curves have no maximum to choose by, or nothing changes.

    >>> curve = Novelty(torch.arange(9.0), torch.tensor([0.0, 0.2, 0.0, 0.0, 0.8, 0.0, 0.0, 0.1, 0.0]))
    >>> round(choose_threshold([curve], [[4.0]], min_gap=1.0), 3)
    0.5
    """
    candidates = candidate_thresholds(curves)
    if not candidates or not any(true):
        raise ValueError("no threshold can be chosen: the validation recordings have no change, or no novelty")
    best = max(reversed(candidates), key=lambda threshold: pooled_f(true, found_in(curves, threshold, min_gap)))
    below = [value for value in candidates if value < best]
    return (best + (below[-1] if below else best)) / 2


def mean_f(true: Sequence[Times], found: Sequence[Times], seconds: Sequence[float]) -> dict[str, Any]:
    """Average the recordings' boundary F-measures, with a 95 % bootstrap interval over them at 3 s.

    Returns ``{"f_3": number, "ci95": [low, high], "f_0.5": number, "n": recordings}``. Raises ValueError if there is no recording.

    >>> mean_f([[10.0], [10.0]], [[10.2], []], [24.0, 24.0])["f_3"]
    0.5
    """
    if not true:
        raise ValueError("no recording to average over")
    rows = list(zip(true, found, seconds, strict=True))
    wide, narrow = (torch.tensor([boundary_f(*row, window) for row in rows], dtype=torch.float64) for window in WINDOWS)
    means = torch.cat([times @ wide for times in resample(len(wide), seed=0)]) / len(wide)
    return {"f_3": wide.mean().item(), "ci95": list(interval(means)), "f_0.5": narrow.mean().item(), "n": len(rows)}
