"""The distance of two tracks in several conditions at once, each with its weight.

With a weight w_c >= 0 per condition and the masks m_c of the model

    D(x, y)^2 = sum_c w_c || x * m_c - y * m_c ||^2 = sum_d s_d (x_d - y_d)^2,    s = sum_c w_c m_c^2

(a mask enters squared, as in the loss). A condition of weight zero does not count. Scaling all weights scales all distances alike and
changes no ranking.
"""

from collections.abc import Mapping, Sequence

import numpy as np

# Of weights: only their ratios count, and within these limits neither float32 nor float64 loses any.
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6


def check_weights(weights: Mapping[str, float] | None, condition_names: Sequence[str]) -> np.ndarray:
    """Return the weights (C,) float64 in the order of the conditions; those not given are zero, without any (None) each is one.

    Raises ValueError for an unknown condition, or weights that are beyond the limits or all zero.

    >>> check_weights({"mood": 0.5}, ["genre", "mood"]).tolist(), check_weights(None, ["genre", "mood"]).tolist()
    ([0.0, 0.5], [1.0, 1.0])
    """
    if weights is None:
        return np.ones(len(condition_names))
    unknown = [name for name in weights if name not in condition_names]
    if unknown:
        raise ValueError(f"weights.{unknown[0]}: the model knows no such condition, only {', '.join(condition_names)}")
    for name, value in weights.items():
        if type(value) not in (int, float) or not (value == 0 or LEAST_WEIGHT <= value <= MOST_WEIGHT):
            raise ValueError(
                f"weights.{name}={value} is not legal: give 0, or a number from {LEAST_WEIGHT} to {MOST_WEIGHT:g}"
            )
    if not any(weights.values()):
        raise ValueError(f"all weights are zero: give one of {', '.join(condition_names)} a weight above 0")
    return np.array([float(weights.get(name, 0.0)) for name in condition_names])


def check_masks(weights: np.ndarray, condition_names: Sequence[str], masks: np.ndarray) -> None:
    """Raise ValueError if the masks (C, D) of all conditions that have a weight are 0 throughout: every distance would be 0."""
    if scales(weights, masks).any():
        return
    weighted = ", ".join(name for name, weight in zip(condition_names, weights, strict=True) if weight)
    living = [name for name, mask in zip(condition_names, masks, strict=True) if mask.any()]
    way_out = f"give {' or '.join(living)} a weight" if living else "embed with the checkpoint of another training"
    raise ValueError(f"the model's mask of {weighted} is 0 throughout, so it tells nothing apart: {way_out}")


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
