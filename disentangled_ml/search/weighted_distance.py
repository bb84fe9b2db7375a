"""The distance of two tracks in several conditions at once, each with its weight.

With a weight w_c >= 0 per condition and the masks m_c of the model

    D(x, y)^2 = sum_c w_c || x * m_c - y * m_c ||^2 = sum_d s_d (x_d - y_d)^2,    s = sum_c w_c m_c^2

(a mask enters squared, as in the loss). A condition of weight zero does not count. Scaling all weights scales all distances alike and
changes no ranking.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np


def check_weights(weights: Mapping[str, float] | None, condition_names: Sequence[str]) -> np.ndarray:
    """Return the weights (C,) float64 in the order of the conditions; those not given are zero, without any (None) each is one.

    Raises ValueError for an unknown condition, or weights that are negative, not finite or all zero.

    >>> check_weights({"mood": 0.5}, ["genre", "mood"]).tolist(), check_weights(None, ["genre", "mood"]).tolist()
    ([0.0, 0.5], [1.0, 1.0])
    """
    if weights is None:
        return np.ones(len(condition_names))
    unknown = [name for name in weights if name not in condition_names]
    if unknown:
        raise ValueError(f"weights.{unknown[0]}: the model knows no such condition, only {', '.join(condition_names)}")
    for name, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"weights.{name}={value} is not legal: give a finite number >= 0")
    if not any(weights.values()):
        raise ValueError(f"all weights are zero: give one of {', '.join(condition_names)} a weight above 0")
    return np.array([float(weights.get(name, 0.0)) for name in condition_names])


def scales(weights: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the weight of each dimension, s = sum_c w_c m_c^2: (C,) and (C, D) to (D,) float64.

    >>> scales(np.array([1.0, 0.5]), np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])).tolist()
    [1.0, 3.0, 0.5]
    """
    return weights @ masks.astype(np.float64) ** 2


def condition_distances(embedding: np.ndarray, query: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Compute the squared distance of each track from the query in each subspace, from the differences.

    Shape:
        embedding: (R, D); query: (D,); masks: (C, D); returns: (R, C) float64.

    >>> condition_distances(np.array([[3.0, 4.0]]), np.zeros(2), np.eye(2)).tolist()
    [[9.0, 16.0]]
    """
    difference = embedding.astype(np.float64) - query.astype(np.float64)
    return difference**2 @ (masks.astype(np.float64) ** 2).T
