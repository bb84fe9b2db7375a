"""What is kept of a recording to be found by: its embedding, and the fingerprint by which its copies are known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datamodules.audio.fingerprint import SIZE


class EmbeddedRecording(NamedTuple):
    """What is kept of a recording to be found by.

    Attributes:
        embedding: (D,) float32, of length 1.
        audio_fingerprint: (``SIZE``,) int8, see ``audio_fingerprint``.
    """

    embedding: np.ndarray
    audio_fingerprint: np.ndarray


def stacked(recordings: Sequence[EmbeddedRecording], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings (n, ``dim``) float32 and fingerprints (n, ``SIZE``) int8 of n recordings, n >= 0."""
    if not recordings:
        return np.empty((0, dim), np.float32), np.empty((0, SIZE), np.int8)
    return np.stack([each.embedding for each in recordings]), np.stack([each.audio_fingerprint for each in recordings])
