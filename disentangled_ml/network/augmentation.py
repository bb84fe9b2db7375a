"""Augmentation of the training chunks: gain and noise on the waveform, masking of the spectrogram. None changes pitch or tempo.

Stretching in time changes the tempo, and so its label, from which triplets are drawn: that is done where batches are composed
(datamodules/batches/composer.py). What is changed here leaves every label true.

What is drawn depends on (seed, step, rank) alone, so a resumed run draws what an uninterrupted one would have. Only the training
step augments: evaluation sees the chunks as they are.

Gain and noise need the waveform: in ``log10(1 + 10 S)`` of a stored magnitude neither is a sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchaudio.functional import mask_along_axis_iid

from disentangled_ml.structures import seeded_generator

# Separates these draws from others of the same seed and step.
SALT = 2
# Axes of a spectrogram (B, 1, bands, frames).
BANDS, FRAMES = 2, 3


@contextmanager
def drawing_from(device: torch.device, *numbers: int) -> Iterator[None]:
    """Seed torch by these numbers within the context, on the CPU and the device: torchaudio's masks take no generator."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seeded_generator(*numbers).initial_seed())
        yield


def uniform(like: Tensor, low: float, high: float) -> Tensor:
    """Draw a number for each chunk of a batch; (B, samples) to (B, 1)."""
    return low + (high - low) * torch.rand(len(like), 1, device=like.device)


def change_gain(waveform: Tensor, gain_db: float) -> Tensor:
    """Change the level of each chunk (B, samples) by up to ``gain_db``, up or down, uniformly in dB.

    >>> levels = change_gain(torch.ones(50, 2), 6.0)[:, 0]
    >>> bool((levels > 0.5).all() and (levels < 2.0).all() and levels.std() > 0.2)
    True
    """
    return waveform * 10 ** (uniform(waveform, -gain_db, gain_db) / 20)


def add_noise(waveform: Tensor, lowest: float, highest: float) -> Tensor:
    """Add white noise to chunks (B, samples), each at a signal-to-noise ratio drawn uniformly in dB; silence stays silent.

    >>> noise = add_noise(torch.ones(1, 10_000), 20.0, 20.0) - 1
    >>> round(noise.std().item(), 2)
    0.1
    """
    level = waveform.square().mean(dim=1, keepdim=True).sqrt()
    return waveform + torch.randn_like(waveform) * level * 10 ** (-uniform(waveform, lowest, highest) / 20)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the chunks of a step.

    Attributes:
        gain_db: Largest change of the level; 0: none.
        snr_db: Lowest and highest signal-to-noise ratio; None: no noise.
        mask_bands: Largest number of neighbouring bands masked in each chunk; 0: none.
        mask_frames: Largest number of consecutive frames masked in each chunk; 0: none.
        seed: Of what is drawn.
        place: Further numbers to draw from, such as step and rank.
    """

    gain_db: float = 0.0
    snr_db: tuple[float, float] | None = None
    mask_bands: int = 0
    mask_frames: int = 0
    seed: int = 0
    place: tuple[int, ...] = ()

    def at(self, *place: int) -> Augmentation:
        return replace(self, place=place)

    def change_audio(self, audio: Tensor) -> Tensor:
        """Change the level of waveforms (B, samples) and add noise. Raises ValueError if they are no waveforms."""
        if not self.gain_db and self.snr_db is None:
            return audio
        if audio.ndim != 2:
            raise ValueError(f"gain and noise change waveforms (B, samples), got the shape {tuple(audio.shape)}")
        with drawing_from(audio.device, self.seed, *self.place, SALT, 0):
            if self.gain_db:
                audio = change_gain(audio, self.gain_db)
            return audio if self.snr_db is None else add_noise(audio, *self.snr_db)

    def change_spect(self, spect: Tensor) -> Tensor:
        """Mask bands and frames of standardised spectrograms (B, 1, n_mels, frames), each its own: SpecAugment without warping.

        D. S. Park et al., "SpecAugment", Interspeech 2019. Masked values are 0, about the mean.
        """
        with drawing_from(spect.device, self.seed, *self.place, SALT, 1):
            spect = mask_along_axis_iid(spect, self.mask_bands, 0.0, BANDS)
            return mask_along_axis_iid(spect, self.mask_frames, 0.0, FRAMES)
