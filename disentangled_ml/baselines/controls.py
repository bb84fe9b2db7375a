"""Baselines that no method should fail to beat: chance, and the bandwidth that codecs leave.

Low-rate codecs empty the top bands, so two excerpts of one file can be told from a third by their bandwidth alone, without
listening to the music.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from disentangled_ml.baselines.base import Baseline, check_mel
from disentangled_ml.baselines.mfcc import decibels, magnitude

TOP_BANDS = 8
RANDOM_DIM = 64


def top_levels(mel: Tensor) -> Tensor:
    """Measure the level of the top 8 bands, averaged over time, in dB, from -100; the order of the frames changes nothing.

    ``mel`` is a log-mel as stored, (n_mels, F). Raises ValueError if there are fewer bands, or no frames.

    >>> top_levels(torch.zeros(128, 5)).tolist() == [-100.0] * 8
    True
    """
    check_mel(mel, TOP_BANDS)
    return decibels(magnitude(mel[-TOP_BANDS:]).mean(1, keepdim=True))[:, 0]


def bandwidth(mel: Tensor) -> float:
    """Compute the mean of ``top_levels`` in dB, a measure of the bandwidth.

    >>> bandwidth(torch.zeros(128, 5))
    -100.0
    """
    return top_levels(mel).mean().item()


class Bandwidth(Baseline):
    """The levels of the top 8 bands, and nothing else."""

    def embed(self, mel: Tensor) -> Tensor:
        return top_levels(mel)


class RandomVector(Baseline):
    """A random unit vector, another one for every call: chance.

    A random projection would not do, since it keeps distances.
    """

    def __init__(self, seed: int = 0):
        super().__init__(seed)
        self.generator = Generator().manual_seed(seed)

    def embed(self, mel: Tensor) -> Tensor:
        """Draw a vector (64,), whatever the excerpt; the n-th call after construction gives the n-th vector of the seed."""
        return normalize(torch.randn(RANDOM_DIM, generator=self.generator), dim=0)
