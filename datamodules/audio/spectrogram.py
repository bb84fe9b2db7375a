"""Waveform to resampled waveform to log-mel spectrogram (the only file of the data modules that imports torchaudio).

The spectrogram is ``log10(1 + 10 S)`` of the magnitude mel spectrogram ``S`` (Slaney scale and norm, Hann window, frames
centred with reflected ends: librosa's with ``power=1, pad_mode="reflect"``), as in J. Lee et al., ICASSP 2020. It is not
standardised here.
"""

from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
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
def _resampler(ratio: Fraction) -> Resample:
    return Resample(orig_freq=ratio.denominator, new_freq=ratio.numerator)


def resample(waveform: np.ndarray, sample_rate: int, new_sample_rate: int) -> np.ndarray:
    """Resample a waveform of any length by windowed sinc interpolation, block by block.

    The result does not depend on ``BLOCK_SAMPLES``. The ratio of the rates is rounded to the nearest with a denominator
    of at most ``MAX_DENOMINATOR``; that of all usual rates is exact.

    Shape:
        waveform: (n,), n >= 1.
        returns: (ceil(n * new_sample_rate / sample_rate),) float32; the waveform itself where the rates are equal.

    Raises: ValueError: If a rate is not positive, or the ratio of the rates is below 1 / (2 ``MAX_DENOMINATOR``).

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
    frames = padded.unfold(0, settings.n_fft, settings.hop_length)
    window, filters = torch.hann_window(settings.n_fft), _mel_filters(settings)
    spect = torch.empty(settings.n_mels, len(frames), dtype=torch.float16)
    for first in range(0, len(frames), BLOCK_FRAMES):
        block = slice(first, first + BLOCK_FRAMES)
        spectrum = torch.fft.rfft(frames[block] * window)
        magnitude = torch.from_numpy(np.abs(spectrum.numpy()))  # NumPy's is six times as fast as torch's
        mel = torch.cat([weights @ magnitude[:, bins].T for bins, weights in filters])
        spect[:, block] = mel.mul_(10).add_(1).log10_()
    return spect.numpy()
