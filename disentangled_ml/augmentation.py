"""Augmentation of log-mel chunks in training: a random equaliser, the same for all frames of a chunk.

Recordings differ in level, tone and bandwidth for reasons that are no part of the music (mastering, microphones, codecs), and
a network with few tracks learns those. Each chunk is weighted per band by a random smooth curve: straight lines, in dB over
the mel bands, between a few random points. Tempo, and everything else in time, stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

POINTS = 5  # of the curve; 128 bands give one per five semitones at the low end, one per octave at the high end


def equalise(log_mel: Tensor, gain_db: Tensor) -> Tensor:
    """Weigh the bands of ``log10(1 + 10 S)`` as if S had been: to ``log10(1 + 10 g S)``.

    Shape:
        log_mel: (B, 1, n_mels, frames) float32.
        gain_db: (B, n_mels).

    >>> equalise(torch.log10(torch.tensor([1 + 10 * 0.5])).reshape(1, 1, 1, 1), torch.tensor([[20.0]])).exp2().isclose(
    ...     torch.log10(torch.tensor(1 + 10 * 5.0)).exp2()).item()
    True
    """
    gain = torch.pow(10.0, gain_db / 20)[:, None, :, None]
    return torch.log10(1 + gain * (torch.pow(10.0, log_mel) - 1))


class RandomEqualiser(nn.Module):
    """Equalise each chunk by a random smooth curve; does nothing in evaluation mode.

    Args:
        deviation_db: Standard deviation of the curve's points, in dB; 0: no augmentation.

    Raises:
        ValueError: if the deviation is negative.
    """

    def __init__(self, deviation_db: float):
        super().__init__()
        if deviation_db < 0:
            raise ValueError(f"the equaliser's deviation must not be negative, got {deviation_db} dB")
        self.deviation_db = deviation_db

    def forward(self, log_mel: Tensor) -> Tensor:
        """Equalise chunks.

        Shape:
            log_mel: (B, 1, n_mels, frames), any floating type; returned in float32.
        """
        log_mel = log_mel.float()
        if not self.training or not self.deviation_db:
            return log_mel
        points = self.deviation_db * torch.randn(len(log_mel), 1, POINTS, device=log_mel.device)
        curve = interpolate(points, size=log_mel.shape[2], mode="linear", align_corners=True)
        return equalise(log_mel, curve[:, 0])
