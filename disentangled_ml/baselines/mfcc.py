"""Mel-frequency cepstral coefficients of a stored spectrogram, and their statistics as a baseline.

A stored spectrogram is log10(1 + 10 S). S, the magnitude Slaney mel, is recovered from it, turned to decibels (20 log10 S, the
lowest 80 dB below the excerpt's highest, as torchaudio and librosa cut it) and transformed by an orthonormal DCT-II. First and
second differences are torchaudio's, over five frames with repeated ends. Coefficient 0 is the loudness; a gain changes no other
as long as nothing is cut.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torchaudio.functional import amplitude_to_DB, compute_deltas, create_dct

from disentangled_ml.baselines.base import Baseline, check_mel

# -100 dB, the floor of torchaudio's and librosa's decibels.
MIN_MAGNITUDE = 1e-5
TOP_DB = 80.0
N_COEFFICIENTS = 13
# In dB; what is less is the rounding of a constant.
MIN_DEVIATION = 1e-3


def magnitude(mel: Tensor) -> Tensor:
    """Invert the stored compression: log10(1 + 10 S) to S, any shape, in float32.

    >>> magnitude(torch.tensor([0.0, 1.0])).tolist()
    [0.0, 0.8999999761581421]
    """
    return torch.expm1(mel.float() * math.log(10)) / 10


def decibels(magnitudes: Tensor, top_db: float | None = None) -> Tensor:
    """Convert to dB, at least that of ``MIN_MAGNITUDE`` and at most ``top_db`` below the highest; (bands, F) to the same.

    >>> decibels(torch.tensor([[1.0, 0.1, 0.0]])).tolist()
    [[0.0, -20.0, -100.0]]
    >>> decibels(torch.tensor([[1.0, 0.1, 0.0]]), top_db=80).tolist()
    [[0.0, -20.0, -80.0]]
    """
    return amplitude_to_DB(magnitudes, multiplier=20, amin=MIN_MAGNITUDE, db_multiplier=0, top_db=top_db)


def mfcc(mel: Tensor, n_coefficients: int = N_COEFFICIENTS) -> Tensor:
    """Compute the cepstral coefficients (n_coefficients, F) of each frame of a log-mel as stored, (n_mels, F).

    Raises ValueError if there are more coefficients than bands, or no frames.

    >>> mfcc(torch.zeros(20, 5)).shape
    torch.Size([13, 5])
    """
    check_mel(mel, n_coefficients)
    return create_dct(n_coefficients, len(mel), norm="ortho").T @ decibels(magnitude(mel), TOP_DB)


def with_differences(coefficients: Tensor) -> Tensor:
    """Append first and second differences over time; (n, F) to (3 n, F).

    >>> with_differences(torch.arange(9.0)[None])[:, 4].tolist()
    [4.0, 1.0, 0.0]
    """
    first = compute_deltas(coefficients)
    return torch.cat([coefficients, first, compute_deltas(first)])


def mfcc_frames(mel: Tensor) -> Tensor:
    """Describe each frame by 13 coefficients and their differences; (n_mels, F) to (F, 39).

    >>> mfcc_frames(torch.zeros(20, 5)).shape
    torch.Size([5, 39])
    """
    return with_differences(mfcc(mel)).T


def mean_and_deviation(frames: Tensor) -> Tensor:
    """Concatenate the mean and the (population) deviation over the frames; (F, D) to (2 D,).

    >>> mean_and_deviation(torch.tensor([[0.0, 5.0], [2.0, 5.0]])).tolist()
    [1.0, 5.0, 1.0, 0.0]
    """
    return torch.cat([frames.mean(0), frames.std(0, correction=0)])


class MfccStatistics(Baseline):
    """Mean and deviation of the coefficients and their differences over the frames (78), without their order in time.

    Each is in units of the coefficient's deviation over the training frames. (Units of each value's deviation over the training
    tracks would not do: the mean difference over a whole track is all but zero, and a chunk's would outweigh everything.)
    """

    scale: Tensor | None = None

    def fit(self, mels: Iterable[Tensor]) -> None:
        count, moments = 0, torch.zeros(2, 3 * N_COEFFICIENTS, dtype=torch.float64)
        for mel in mels:
            frames = mfcc_frames(mel).double()
            count += len(frames)
            moments += torch.stack([frames.sum(0), frames.square().sum(0)])
        if not count:
            raise ValueError("there are no training frames, expected at least 1")
        mean, mean_square = moments / count
        deviation = (mean_square - mean.square()).clamp(min=0).sqrt()
        self.scale = torch.where(deviation > MIN_DEVIATION, deviation, 1.0).float().repeat(2)

    def embed(self, mel: Tensor) -> Tensor:
        if self.scale is None:
            raise ValueError("MfccStatistics has no scale yet: fit it on training tracks first")
        return mean_and_deviation(mfcc_frames(mel)) / self.scale
