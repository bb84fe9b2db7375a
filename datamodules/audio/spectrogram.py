"""Waveform to resampled waveform to mel spectrogram (the only file of the data modules that imports torchaudio).

The log-mel spectrogram is ``log10(1 + 10 S)`` of the magnitude mel spectrogram ``S`` (Slaney scale and norm, Hann window, frames
centred with reflected ends: librosa's with ``power=1, pad_mode="reflect"``), as in J. Lee et al., ICASSP 2020. It is not
standardised here.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from math import ceil

import numpy as np
import torch
from torch.nn.functional import pad
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import Resample

from datamodules.audio.decoding import UnusableAudio
from disentangled_ml.structures import AudioSettings

# The resampling kernel has (up x down) entries, 8 GB for 44,099 -> 22,050 Hz. Up to this denominator all usual ratios are
# exact (192,000 -> 22,050 Hz is 147/1280), and no other is off by more than 1/2560: 0.7 cents.
MAX_DENOMINATOR = 1280
# Of a waveform to resample: in one piece an hour takes 5 GB and eight times as long.
BLOCK_SAMPLES = 1 << 20
BLOCK_FRAMES = 256  # of a spectrogram; 1 MB of frames
# Mel bands summed at a time, over the bins where they are not zero: 98 % of all weights are zeros.
BANDS_PER_PRODUCT = 16


@lru_cache(maxsize=8)
def _resampler(ratio: Fraction, filter_width: int, rolloff: float) -> Resample:
    return Resample(
        orig_freq=ratio.denominator, new_freq=ratio.numerator, lowpass_filter_width=filter_width, rolloff=rolloff
    )


def _ratio(sample_rate: int, new_sample_rate: int) -> Fraction:
    """Return the ratio of two rates, as it is resampled by. Raises ValueError as ``resample``."""
    if min(sample_rate, new_sample_rate) <= 0:
        raise ValueError(f"sample rates are positive, got {sample_rate} and {new_sample_rate}")
    ratio = Fraction(new_sample_rate, sample_rate).limit_denominator(MAX_DENOMINATOR)
    if ratio == 0:
        raise ValueError(f"cannot resample from {sample_rate} to {new_sample_rate} Hz: too far apart")
    return ratio


def resampled_length(n: int, sample_rate: int, new_sample_rate: int) -> int:
    """Return the number of samples that ``resample`` makes of n. Raises ValueError as it does.

    >>> resampled_length(44101, 44100, 22050), resampled_length(10**6, 47999, 16000), resampled_length(10**6, 48000, 16000)
    (22051, 333334, 333334)
    """
    return ceil(n * _ratio(sample_rate, new_sample_rate))


def resample(
    waveform: np.ndarray, sample_rate: int, new_sample_rate: int, filter_width: int = 6, rolloff: float = 0.99
) -> np.ndarray:
    """Resample a waveform of any length by windowed sinc interpolation, block by block.

    The result does not depend on ``BLOCK_SAMPLES``. The ratio of the rates is rounded to the nearest with a denominator
    of at most ``MAX_DENOMINATOR``; that of all usual rates is exact.

    Args:
        filter_width: Zero crossings of the filter on each side: the more, the steeper.
        rolloff: Where the filter has fallen to a half, as a share of the highest frequency that remains.

    Shape:
        waveform: (n,), n >= 1.
        returns: (``resampled_length(n, sample_rate, new_sample_rate)``,) float32; the waveform itself where the rates are equal.

    Raises: ValueError: If a rate is not positive, or the ratio of the rates is below 1 / (2 ``MAX_DENOMINATOR``).

    >>> resample(np.zeros(44101, np.float32), 44100, 22050).shape
    (22051,)
    """
    ratio = _ratio(sample_rate, new_sample_rate)
    if ratio == 1:
        return waveform
    transform = _resampler(ratio, filter_width, rolloff)
    samples = torch.from_numpy(np.require(waveform, np.float32, "CW"))
    # A period is `down` samples in and `up` samples out. A block is whole periods, and as many on both sides as the filter
    # reaches.
    up, down = ratio.as_integer_ratio()
    periods = max(1, BLOCK_SAMPLES // down)
    margin = transform.width // down + 1
    blocks = []
    for first in range(0, len(samples), periods * down):
        before = min(margin * down, first)
        block = samples[first - before : first + (periods + margin) * down]
        # Of whole periods torchaudio returns all; of a part, it counts the samples in float32.
        block = transform(pad(block, (0, -len(block) % down)))
        skipped = before // down * up
        blocks.append(block[skipped : skipped + periods * up].numpy())
    return np.concatenate(blocks)[: resampled_length(len(samples), sample_rate, new_sample_rate)]


@lru_cache(maxsize=8)
def _mel_filters(settings: AudioSettings) -> list[tuple[slice, torch.Tensor]]:
    """Return the mel filters, some neighbours at a time: the bins in which any of them has a weight, and the weights (bands, bins)."""
    weights = melscale_fbanks(
        settings.n_fft // 2 + 1,
        f_min=0.0,
        f_max=float(settings.sample_rate // 2),
        n_mels=settings.n_mels,
        sample_rate=settings.sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    groups = []
    for first in range(0, settings.n_mels, BANDS_PER_PRODUCT):
        neighbours = weights[:, first : first + BANDS_PER_PRODUCT]
        support = neighbours.any(1).nonzero()[:, 0].tolist() or [0]
        bins = slice(support[0], support[-1] + 1)
        groups.append((bins, neighbours[bins].T.contiguous()))
    return groups


def log_mel(waveform: np.ndarray, settings: AudioSettings) -> np.ndarray:
    """Compute the log-mel spectrogram of a track of any length, block by block of frames.

    A block stays in the processor's cache from the Fourier transform to the logarithm. Blocks share no frame and see the same
    samples as in one piece: the result does not depend on ``BLOCK_FRAMES``.

    Shape: waveform (n,), sampled at ``settings.sample_rate``; returns (n_mels, 1 + n // hop_length) float16.
    Raises: UnusableAudio: If the waveform is too short to be reflected at its ends: n < n_fft // 2 + 1.

    >>> log_mel(np.zeros(65536, np.float32), AudioSettings()).shape
    (128, 129)
    """
    half = settings.n_fft // 2
    if len(waveform) < half + 1:
        raise UnusableAudio(f"too short: {len(waveform)} samples (at least {half + 1} at {settings.sample_rate} Hz)")
    samples = torch.from_numpy(np.require(waveform, np.float32, "CW"))
    padded = torch.cat([samples[1 : half + 1].flip(0), samples, samples[-half - 1 : -1].flip(0)])
    spect = torch.empty(settings.n_mels, 1 + len(samples) // settings.hop_length, dtype=torch.float16)
    for block, magnitude in _magnitudes(padded, settings):
        spect[:, block] = _mel(magnitude, settings).mul_(10).add_(1).log10_()
    return spect.numpy()


def power_mel(waveform: np.ndarray, settings: AudioSettings) -> np.ndarray:
    """Compute the power mel spectrogram of a track of any length, without logarithm and with zeros beyond its ends.

    It is librosa's with ``power=2, pad_mode="constant"``, which are librosa's defaults, and not ``log_mel``'s.

    Shape: waveform (n,), sampled at ``settings.sample_rate``; returns (n_mels, 1 + n // hop_length) float32.

    >>> power_mel(np.zeros(47872, np.float32), AudioSettings(16000, 512, 256, 96)).shape
    (96, 188)
    """
    half = settings.n_fft // 2
    samples = torch.from_numpy(np.require(waveform, np.float32, "CW"))
    spect = torch.empty(settings.n_mels, 1 + len(samples) // settings.hop_length)
    for block, magnitude in _magnitudes(pad(samples, (half, half)), settings):
        spect[:, block] = _mel(magnitude.square_(), settings)
    return spect.numpy()


def _magnitudes(padded: torch.Tensor, settings: AudioSettings) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield blocks of frames, and the magnitudes of their spectra, (frames, bins)."""
    frames = padded.unfold(0, settings.n_fft, settings.hop_length)
    window = torch.hann_window(settings.n_fft)
    for first in range(0, len(frames), BLOCK_FRAMES):
        block = slice(first, first + BLOCK_FRAMES)
        spectrum = torch.fft.rfft(frames[block] * window)
        # NumPy's is six times as fast as torch's
        yield block, torch.from_numpy(np.abs(spectrum.numpy()))


def _mel(spectra: torch.Tensor, settings: AudioSettings) -> torch.Tensor:
    return torch.cat([weights @ spectra[:, bins].T for bins, weights in _mel_filters(settings)])
