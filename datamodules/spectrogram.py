"""Waveform to resampled waveform to log-mel spectrogram (the only file of the data modules that imports torchaudio).

The spectrogram is ``log10(1 + 10 S)`` of the magnitude mel spectrogram ``S`` (Slaney scale and norm, Hann window, frames
centred with reflected ends: librosa's with ``power=1, pad_mode="reflect"``), as in J. Lee et al., ICASSP 2020. It is not
standardised here.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import embedding_bag
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import Resample

from datamodules.audio import UnusableAudio
from disentangled_ml.structures import AudioSettings

# The resampling kernel has (up x down) entries, 8 GB for 44,099 -> 22,050 Hz. Up to this denominator all usual ratios are
# exact (192,000 -> 22,050 Hz is 147/1280), and no other is off by more than 1/2560: 0.7 cents.
MAX_DENOMINATOR = 1280
BLOCK_SAMPLES = 1 << 20  # of a waveform to resample; in one piece an hour takes 5 GB and eight times as long
BLOCK_FRAMES = 256  # of a spectrogram; 1 MB of frames


@lru_cache(maxsize=8)
def _resampler(ratio: Fraction) -> Resample:
    return Resample(orig_freq=ratio.denominator, new_freq=ratio.numerator)


def resample(waveform: np.ndarray, sample_rate: int, new_sample_rate: int) -> np.ndarray:
    """Resample a waveform of any length by windowed sinc interpolation, block by block.

    The result does not depend on ``BLOCK_SAMPLES``. The ratio of the rates is rounded to the nearest with a denominator
    of at most ``MAX_DENOMINATOR``; that of all usual rates is exact.

    Shape:
        waveform: (n,), n >= 1.
        returns: (ceil(n * new_sample_rate / sample_rate),) float32; the waveform itself where the rates are equal.

    Raises:
        ValueError: If a rate is not positive, or the ratio of the rates is below 1 / (2 ``MAX_DENOMINATOR``).

    >>> resample(np.zeros(44101, np.float32), 44100, 22050).shape
    (22051,)
    """
    if min(sample_rate, new_sample_rate) <= 0:
        raise ValueError(f"sample rates are positive, got {sample_rate} and {new_sample_rate}")
    ratio = Fraction(new_sample_rate, sample_rate).limit_denominator(MAX_DENOMINATOR)
    if ratio == 0:
        raise ValueError(f"cannot resample from {sample_rate} to {new_sample_rate} Hz: too far apart")
    if ratio == 1:
        return waveform
    transform = _resampler(ratio)
    samples = torch.from_numpy(np.require(waveform, np.float32, "CW"))
    # A period is `down` samples in and `up` samples out. A block is whole periods, and as many on both sides as the filter
    # reaches.
    up, down = ratio.as_integer_ratio()
    periods = max(1, BLOCK_SAMPLES // down)
    margin = transform.width // down + 1
    blocks = []
    for first in range(0, len(samples), periods * down):
        before = min(margin * down, first)
        block = transform(samples[first - before : first + (periods + margin) * down])
        skipped = before // down * up
        blocks.append(block[skipped : skipped + periods * up].numpy())
    return np.concatenate(blocks)


_window = lru_cache(maxsize=8)(torch.hann_window)


@lru_cache(maxsize=8)
def _mel_filters(settings: AudioSettings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give the weights of the mel filters that are not zero, 2 % of all, band after band: their bins, they, where each band begins."""
    weights = melscale_fbanks(
        settings.n_fft // 2 + 1,
        f_min=0.0,
        f_max=float(settings.sample_rate // 2),
        n_mels=settings.n_mels,
        sample_rate=settings.sample_rate,
        norm="slaney",
        mel_scale="slaney",
    ).T
    band, bins = weights.nonzero(as_tuple=True)
    return bins, weights[band, bins], torch.searchsorted(band, torch.arange(settings.n_mels))


def _reflected(samples: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Give the samples from ``start`` on, up to ``stop``; beyond the ends of the track they are reflected.

    >>> _reflected(torch.arange(5), -2, 7).tolist(), _reflected(torch.arange(5), 1, 3).tolist()
    ([2, 1, 0, 1, 2, 3, 4, 3, 2], [1, 2])
    """
    inside = samples[max(0, start) : stop]
    before, beyond = max(0, -start), max(0, stop - len(samples))
    if not (before or beyond):
        return inside
    return torch.cat([samples[1 : before + 1].flip(0), inside, samples[len(samples) - beyond - 1 : -1].flip(0)])


def log_mel(waveform: np.ndarray, settings: AudioSettings) -> np.ndarray:
    """Compute the log-mel spectrogram of a track of any length, block by block of frames.

    A block stays in the processor's cache from the Fourier transform to the logarithm. Blocks share no frame and see the same
    samples as in one piece: the result does not depend on ``BLOCK_FRAMES``. A band is summed as a bag of weighted bins
    (``embedding_bag``): 0.02 ms a block, where a product with all weights takes 0.5.

    Shape:
        waveform: (n,), sampled at ``settings.sample_rate``.
        returns: (n_mels, 1 + n // hop_length) float16.

    Raises:
        UnusableAudio: If the waveform is too short to be reflected at its ends: n < n_fft // 2 + 1.

    >>> log_mel(np.zeros(65536, np.float32), AudioSettings()).shape
    (128, 129)
    """
    size, hop, half = settings.n_fft, settings.hop_length, settings.n_fft // 2
    if len(waveform) < half + 1:
        raise UnusableAudio(f"too short: {len(waveform)} samples (at least {half + 1} at {settings.sample_rate} Hz)")
    samples = torch.from_numpy(np.require(waveform, np.float32, "CW"))
    window, (bins, weights, firsts) = _window(size), _mel_filters(settings)
    n_frames = 1 + len(samples) // hop
    spect = torch.empty(settings.n_mels, n_frames, dtype=torch.float16)
    for first in range(0, n_frames, BLOCK_FRAMES):
        end = min(first + BLOCK_FRAMES, n_frames)
        frames = _reflected(samples, first * hop - half, (end - 1) * hop + half).unfold(0, size, hop)
        spectrum = torch.fft.rfft(frames * window)
        magnitude = np.ascontiguousarray(np.abs(spectrum.numpy()).T)  # both several times as fast as torch's
        mel = embedding_bag(bins, torch.from_numpy(magnitude), firsts, mode="sum", per_sample_weights=weights)
        spect[:, first:end] = mel.mul_(10).add_(1).log10_()
    return spect.numpy()
