"""Disentangled multidimensional metric learning for music similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from disentangled_ml.search.embedder import Embedder


def load(checkpoint: str | Path, device: str = "cpu") -> Embedder:
    """Load a trained model for use: to embed recordings and to search catalogues. See ``disentangled_ml.search.embedder``.

    Args:
        checkpoint: File of a run, or folder that ``disentangled export`` made.
        device: That it computes on.

    Raises:
        ValueError: if it is no checkpoint of this project.
    """
    from disentangled_ml.search.embedder import Embedder  # only here: importing the package itself costs nothing

    return Embedder(checkpoint, device)
