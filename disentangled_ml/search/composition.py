"""Compose a query of several seeds: a target per condition, and how far a track is from all of them together.

With targets q_c, weights w_c >= 0 and the masks m_c of the model

    D(x)^2 = sum_c w_c || (x - q_c) * m_c ||^2

which is, with s = sum_c w_c m_c^2 and the point z_d = sum_c w_c m_cd^2 q_cd / s_d,

    D(x)^2 = sum_d s_d (x_d - z_d)^2 + a number that does not depend on x.

So tracks are ranked by a composed query as by a plain one at the point z, and a search that finds the nearest tracks to any point,
exactly or by an index, finds those of a composed query. Where all targets are one point z is that point.

Seeds to avoid move a target away from them (J. Rocchio, "Relevance feedback in information retrieval", 1971): the target becomes
q_c + ``AWAY`` (q_c - mean of the seeds to avoid). So they too change nothing but the point. A penalty for tracks that are nearer to
them than to the target was tried beside it: docs/search.md.
"""

from collections.abc import Sequence

import numpy as np

from disentangled_ml.search.weighted_distance import scales

ROWS_PER_BLOCK = 16_384  # compared at a time, in float64
AWAY = 1.0  # how far, as a share of the distance of target and seeds to avoid


def centre(targets: np.ndarray, weights: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the point that ranks tracks as the targets do, 0 in dimensions that do not count.

    Shape:
        targets: (C, D); weights: (C,); masks: (C, D); returns: (D,) float64.

    >>> centre(np.array([[1.0, 9.0], [3.0, 5.0]]), np.array([1.0, 1.0]), np.array([[1.0, 0.0], [1.0, 1.0]])).tolist()
    [2.0, 5.0]
    """
    scale = scales(weights, masks)
    pull = (weights[:, None] * masks.astype(np.float64) ** 2 * targets).sum(0)
    return np.divide(pull, scale, out=np.zeros_like(scale), where=scale > 0)


def mean_target(seeds: Sequence[np.ndarray]) -> np.ndarray:
    """Return the target of seeds, the point with the least sum of squared distances from them: their mean, (D,) float64."""
    return np.mean([np.asarray(seed, np.float64) for seed in seeds], axis=0)


def moved_away(target: np.ndarray, avoided: Sequence[np.ndarray]) -> np.ndarray:
    """Return a target (D,) as far again from the mean of seeds to avoid; itself where there are none.

    >>> moved_away(np.array([2.0, 1.0]), [np.array([1.0, 1.0])]).tolist()
    [3.0, 1.0]
    """
    return target + AWAY * (target - mean_target(avoided)) if avoided else target


def label_target(members: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the target of a label: the direction of its tracks' mean in the subspace, as far out as the tracks are on average.

    A mean of scattered tracks is shorter than each of them, and nearer to tracks that are like nothing.

    Shape:
        members: (R, D), the tracks with the label; mask: (D,); returns: (D,) float64.

    >>> label_target(np.array([[2.0, 0.0, 5.0], [0.0, 2.0, 7.0]]), np.array([1.0, 1.0, 0.0])).round(3).tolist()
    [1.414, 1.414, 6.0]
    """
    members, mask = members.astype(np.float64), mask.astype(np.float64)
    mean = members.mean(0)
    length = np.linalg.norm(mean * mask)
    typical = np.linalg.norm(members * mask, axis=1).mean()
    return np.where(mask > 0, mean * (typical / length if length else 1.0), mean)


def target_distances(embedding: np.ndarray, targets: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Compute the squared distance of each track from the target of each subspace, from the differences.

    Shape:
        embedding: (R, D); targets, masks: (C, D); returns: (R, C) float64.

    >>> target_distances(np.array([[3.0, 4.0]]), np.array([[0.0, 0.0], [3.0, 3.0]]), np.eye(2)).tolist()
    [[9.0, 1.0]]
    """
    squares, found = masks.astype(np.float64) ** 2, np.empty((len(embedding), len(masks)))
    for first in range(0, len(embedding), ROWS_PER_BLOCK):
        rows = slice(first, first + ROWS_PER_BLOCK)
        block = embedding[rows].astype(np.float64)
        for condition, (target, square) in enumerate(zip(targets, squares, strict=True)):
            found[rows, condition] = (block - target) ** 2 @ square
    return found
