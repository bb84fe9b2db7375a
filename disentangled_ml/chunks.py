"""What the array of a chunk holds: its spectrogram or waveform, and perhaps frozen features below the spectrogram.

A *source* names it: ``mel``, ``waveform``, or ``mel+msd+mtt``, the spectrogram with the features of two networks. Features travel in
further rows of the spectrogram's array, so that every stage carries one array per chunk, whatever it holds.

A training chunk can be made of more or fewer frames than it has, its *span*: then the sound is faster or slower at the same pitch.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

FEATURE_NETWORKS = ("msd", "mtt")  # of musicnn: trained on the Million Song Dataset, on MagnaTagATune
FEATURE_SIZE = 200  # of one network
WINDOW_SECONDS = 3.0  # that a row of features describes; a row begins at each second
SEPARATOR = "+"

Array = TypeVar("Array", float, np.ndarray)


class ChunkSource(NamedTuple):
    """A source, taken apart: ``mel`` or ``waveform``, and the networks whose features come with it."""

    audio: str
    features: tuple[str, ...]


def join_source(audio: str, features: Sequence[str]) -> str:
    """Name a source.

    >>> join_source("mel", ["msd", "mtt"]), join_source("mel", [])
    ('mel+msd+mtt', 'mel')
    """
    return SEPARATOR.join([audio, *features])


def split_source(source: str) -> ChunkSource:
    """Take a source apart.

    >>> split_source("mel+msd")
    ChunkSource(audio='mel', features=('msd',))
    """
    audio, *features = source.split(SEPARATOR)
    return ChunkSource(audio, tuple(features))


def tempo_ratio(span: Array, frames: int) -> Array:
    """Return by how much a chunk of some frames is faster than the sound that it is made of, ``span`` frames.

    The first frame stays the first and the last the last, so it is the steps between them that count.

    >>> tempo_ratio(np.array([103, 129, 161]), 129).tolist()
    [0.796875, 1.0, 1.25]
    """
    return (span - 1) / (frames - 1)


def stretch(mel: np.ndarray, frames: int) -> np.ndarray:
    """Resample a spectrogram along time by linear interpolation: (n_mels, F) to (n_mels, frames), of the same type.

    >>> stretch(np.array([[0, 2, 4]], np.float16), 5).tolist()
    [[0.0, 1.0, 2.0, 3.0, 4.0]]
    """
    spect = torch.tensor(mel)[None]
    return interpolate(spect.float(), frames, mode="linear", align_corners=True)[0].to(spect.dtype).numpy()


def feature_rows(n_features: int, frames: int) -> int:
    """Return the number of rows that features take below a spectrogram of some frames.

    >>> feature_rows(200, 129), feature_rows(0, 129)
    (2, 0)
    """
    return -(-n_features // frames)


def pack(mel: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Append features (F,) below a spectrogram (1, n_mels, frames): (1, n_mels + rows, frames), the rest of the rows zero."""
    rows = np.zeros((1, feature_rows(len(features), mel.shape[2]), mel.shape[2]), mel.dtype)
    rows.reshape(-1)[: len(features)] = features
    return np.concatenate([mel, rows], axis=1)


def unpack(chunks: Tensor, n_features: int) -> tuple[Tensor, Tensor]:
    """Separate chunks (B, 1, n_mels + rows, frames) into spectrograms (B, 1, n_mels, frames) and features (B, F).

    Raises ValueError if the chunks have no room for the features.
    """
    rows = feature_rows(n_features, chunks.shape[-1])
    if chunks.ndim != 4 or chunks.shape[2] <= rows:
        raise ValueError(
            f"chunks of shape {tuple(chunks.shape)} hold no spectrogram with {n_features} features below it"
        )
    mel, features = chunks.split([chunks.shape[2] - rows, rows], dim=2)
    return mel, features.flatten(1)[:, :n_features]


def windows_of(start: float, seconds: float, n_windows: int) -> slice:
    """Return the rows of a track's features that describe a chunk: the windows that lie in it, to the nearest second.

    A chunk that is shorter than a window gets the one that begins with it, or, at the end, the last one.

    Args:
        start: Of the chunk, in seconds.
        seconds: Length of the chunk.
        n_windows: Of the track; at least one.

    >>> windows_of(4.4, 3.0, 28), windows_of(4.0, 6.0, 28), windows_of(27.4, 3.0, 27)
    (slice(4, 5, None), slice(4, 8, None), slice(26, 27, None))
    """
    first = min(round(start), n_windows - 1)
    return slice(first, max(first + 1, min(round(start + seconds - WINDOW_SECONDS) + 1, n_windows)))
