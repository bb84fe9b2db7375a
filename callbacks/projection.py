"""Projection of an embedding to a plane, for maps."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

SEED = 0
# Fewer have no neighbourhoods that t-SNE could keep.
MIN_TRACKS = 10


def plane(points: np.ndarray) -> np.ndarray:
    """Project points to two dimensions: by t-SNE, or by PCA where they are few or do not vary.

    Shape: points (N, D), N >= 1; returns: (N, 2).

    >>> plane(np.zeros((3, 5))).shape
    (3, 2)
    """
    points = points[:, points.any(axis=0)]
    spread = points.std(axis=0) if points.size else np.zeros(0)
    if not spread.any():
        return np.zeros((len(points), 2))
    if len(points) >= MIN_TRACKS:
        perplexity = min(30.0, (len(points) - 1) / 3)
        init = "pca" if points.shape[1] >= 2 else "random"
        return TSNE(2, perplexity=perplexity, init=init, random_state=SEED).fit_transform(points)
    flat = PCA(min(2, *points.shape)).fit_transform(points)
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
