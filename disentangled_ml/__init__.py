"""Disentangled multidimensional metric learning for music similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from disentangled_ml.search.embedder import Embedder


def load(checkpoint: str | Path, device: str = "cpu") -> Embedder:
    """Load a trained model for use: to embed recordings and to search catalogues. See ``disentangled_ml.search.embedder``.

    Raises:
        ValueError: if the file is no checkpoint of this project.
    """
    from disentangled_ml.search.embedder import Embedder  # only here: importing the package itself costs nothing

    return Embedder(checkpoint, device)
