"""Filters between a waveform and its spectrogram: a bank that is learned, and what any filters let through.

Filter k of the bank is a Gabor filter: a complex tone of frequency ``centre`` under a Gaussian, so its energy response is a Gaussian
too, ``2 ** -((2 * (f - centre) / bandwidth) ** 2)``, half of it at ``bandwidth / 2`` from the centre (-3 dB). The waveform is
convolved with it, the squared modulus is averaged under a Gaussian in time, once per hop, and its root times a ``gain`` stands
where the mel spectrogram has its magnitude. Each filter learns its centre, bandwidth, gain and the width of its Gaussian in time:
four numbers. After N. Zeghidour et al., "LEAF: A Learnable Frontend for Audio Classification", ICLR 2021.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from disentangled_ml.structures import AudioSettings

# Slaney's scale: linear up to 1 kHz, which is 15 mels, logarithmic above.
LINEAR_HZ, LINEAR_MELS = 200.0 / 3.0, 15.0
LOG_STEP = math.log(6.4) / 27.0
SHORTEST = 16  # samples of a kernel
ROOT_LN2 = math.sqrt(math.log(2.0))
BANDWIDTHS = (6 * ROOT_LN2 / math.pi, 24 * ROOT_LN2 / math.pi)  # of a kernel, in sample_rate / its length
WIDTHS = (1 / 16, 1 / 2)  # of the Gaussian in time, in hops
FIRST_BANDWIDTH = 1.0  # in distances between mel bands
FIRST_WIDTH = 1 / 4
# Energy at which the root's slope ends; 16 bits resolve 1e-9.
TINY = 1e-12
# Frequencies per bin at which responses are computed.
RESPONSE_POINTS = 4


def hz_to_mel(hz: Tensor) -> Tensor:
    """Convert frequencies in Hz to mels on Slaney's scale.

    >>> hz_to_mel(torch.tensor([0.0, 200.0, 1000.0, 6400.0])).tolist()
    [0.0, 3.0, 15.0, 42.0]
    """
    logarithmic = LINEAR_MELS + (hz.clamp(min=1.0) / 1000.0).log() / LOG_STEP
    return torch.where(hz < 1000.0, hz / LINEAR_HZ, logarithmic)


def mel_to_hz(mel: Tensor) -> Tensor:
    """Convert mels on Slaney's scale to frequencies in Hz, the inverse of ``hz_to_mel``.

    >>> mel_to_hz(torch.tensor([0.0, 3.0, 15.0, 42.0])).round().tolist()
    [0.0, 200.0, 1000.0, 6400.0]
    """
    logarithmic = 1000.0 * ((mel - LINEAR_MELS) * LOG_STEP).exp()
    return torch.where(mel < LINEAR_MELS, mel * LINEAR_HZ, logarithmic)


def mel_bands(n_mels: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Return the centres of the mel bands in mels, (n_mels,), and their distances in Hz, (n_mels,).

    >>> centre, distance = mel_bands(3, 2000)
    >>> centre.tolist(), distance.round().tolist()
    ([3.75, 7.5, 11.25], [250.0, 250.0, 250.0])
    """
    nyquist = torch.tensor(sample_rate / 2)
    edges = torch.linspace(0.0, hz_to_mel(nyquist).item(), n_mels + 2)
    hz = mel_to_hz(edges)
    return edges[1:-1].clone(), (hz[2:] - hz[:-2]) / 2


def within(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Clamp values, with the gradient of the identity, so that a value at its limit can come back.

    >>> value = torch.tensor([-1.0, 0.5], requires_grad=True)
    >>> limited = within(value, 0.0, 1.0)
    >>> limited.sum().backward()
    >>> limited.tolist(), value.grad.tolist()
    ([0.0, 0.5], [1.0, 1.0])
    """
    return value.clamp(low, high).detach() + (value - value.detach())


def gabor_kernels(centre: Tensor, bandwidth: Tensor, sample_rate: int, size: int) -> Tensor:
    """Make the real parts, then the imaginary parts of K Gabor filters, (2 K, size); a tone of the centre has the modulus 1/2.

    Args:
        centre, bandwidth: (K,), in Hz; the bandwidth is between the points of half the energy.
        sample_rate: In Hz.
        size: Samples of a kernel.
    """
    time = torch.arange(size, device=centre.device) - size // 2
    deviation = ROOT_LN2 / math.pi * sample_rate / bandwidth  # in samples
    envelope = (-0.5 * (time / deviation[:, None]).square()).exp()
    envelope = envelope / envelope.sum(dim=1, keepdim=True)
    phase = 2 * math.pi / sample_rate * centre[:, None] * time
    return torch.cat([envelope * phase.cos(), envelope * phase.sin()])


def pool(energy: Tensor, deviation: Tensor, stride: int, hop_length: int) -> Tensor:
    """Average energies (B, K, steps) under a Gaussian around every hop, cut one hop from its middle, to (B, K, frames).

    Args:
        energy: From one hop before the first frame to one after the last, in steps of ``stride`` samples.
        deviation: (K,), of the Gaussians, in samples.
        stride: Samples; divides ``hop_length``.
        hop_length: Samples.

    >>> pool(torch.ones(1, 1, 9), torch.tensor([3.0]), 2, 4).shape
    torch.Size([1, 1, 3])
    """
    time = torch.arange(-hop_length, hop_length + 1, stride, device=energy.device)
    weight = (-0.5 * (time / deviation[:, None]).square()).exp()
    weight = weight / weight.sum(dim=1, keepdim=True)
    return conv1d(energy, weight[:, None], stride=hop_length // stride, groups=len(weight))


def longest_step(hop_length: int, size: int) -> int:
    """Return the longest step that divides a hop and is at most an eighth of a kernel.

    >>> longest_step(512, 1024), longest_step(441, 2048), longest_step(1, 16)
    (128, 147, 1)
    """
    return max(step for step in range(1, max(1, size // 8) + 1) if hop_length % step == 0)


class FilterResponse(NamedTuple):
    """Centres (K,) and bandwidths (K,) of filters in Hz, the latter between the points of half the energy."""

    centre: Tensor
    bandwidth: Tensor


def describe_responses(response: Tensor, frequencies: Tensor) -> FilterResponse:
    """Describe filters of any form: by the mean of their energy response over frequency, and by how much white noise they pass.

    The bandwidth is that of the Gaussian that passes as much, with the same peak. It depends little on what leaks in far from the
    peak; the centre does more.

    Shape:
        response: (K, F), magnitudes; frequencies: (F,), in Hz and evenly spaced.

    >>> f = torch.arange(0.0, 1000.0)
    >>> energy = torch.exp2(-((2 * (f - 400) / 50) ** 2))
    >>> [round(x.item(), 1) for x in describe_responses(energy.sqrt()[None], f)]
    [400.0, 50.0]
    """
    energy = response.square()
    tiny = torch.finfo(energy.dtype).tiny
    total = energy.sum(dim=1)
    centre = (energy @ frequencies) / total.clamp(min=tiny)
    passed = total * (frequencies[1] - frequencies[0]) / energy.max(dim=1).values.clamp(min=tiny)
    return FilterResponse(centre, 2 * ROOT_LN2 / math.sqrt(math.pi) * passed)


def spectrogram_filters(cosines: Tensor, sines: Tensor, mel_basis: Tensor, sample_rate: int) -> FilterResponse:
    """Describe what the bands of a magnitude mel spectrogram let through: to tones, Fourier kernels and mel filters together.

    Shape:
        cosines, sines: (bins, n_fft), windowed; mel_basis: (n_mels, bins).
    """
    n_points = RESPONSE_POINTS * cosines.shape[1]
    kernels = torch.fft.fft(torch.complex(cosines, sines), n=n_points)[:, : n_points // 2 + 1]
    frequencies = torch.linspace(0.0, sample_rate / 2, n_points // 2 + 1)
    return describe_responses(mel_basis @ kernels.abs(), frequencies)


class Octave(NamedTuple):
    """Filters of one length: rows ``first`` to ``stop``, kernels of ``size`` samples in steps of ``stride``."""

    first: int
    stop: int
    size: int
    stride: int


class FilterBank(nn.Module):
    """Learned filters on the waveform, whose energies are pooled to frames; they are initialised as mel bands.

    The kernels are convolved with the waveform in steps, not at every sample. To lose nothing between two steps, wide filters,
    which are short in time, take small ones: kernels have ``n_fft``, ``n_fft / 2``, ``n_fft / 4``, ... samples and move by an eighth
    of that. So every filter costs the same, 16 products per sample of the waveform: with the default settings all together as much
    as the STFT of nnAudio, which is a convolution too. A filter keeps the length that suits its mel band, and with it a range of
    bandwidths two octaves wide: the longest Gaussian, cut at three deviations, fills the kernel; of the shortest, a step is
    three deviations.

    Args:
        audio_settings: Of the spectrogram that it stands for; ``n_fft`` is the length of the longest kernels.

    Shape:
        waveform: (B, samples), samples > n_fft / 2 + hop_length; output: (B, n_mels, samples // hop_length + 1), a magnitude.
    """

    def __init__(self, audio_settings: AudioSettings):
        super().__init__()
        self.audio_settings = audio_settings
        rate, n_fft, hop = audio_settings.sample_rate, audio_settings.n_fft, audio_settings.hop_length
        centre, distance = mel_bands(audio_settings.n_mels, rate)
        wanted = FIRST_BANDWIDTH * distance
        middle = math.sqrt(BANDWIDTHS[0] * BANDWIDTHS[1]) * rate / n_fft  # of the range of the longest kernels
        shortest = max(0, int(math.log2(n_fft / SHORTEST)))
        level = (wanted / middle).log2().round().clamp(0, shortest).long()
        sizes = [n_fft >> n for n in level.tolist()]
        starts = [k for k, size in enumerate(sizes) if k == 0 or size != sizes[k - 1]]
        self.octaves = [
            Octave(first, stop, sizes[first], longest_step(hop, sizes[first]))
            for first, stop in zip(starts, [*starts[1:], len(sizes)], strict=True)
        ]
        unit = rate / torch.tensor(sizes)
        self.register_buffer("narrowest", (BANDWIDTHS[0] * unit).log(), persistent=False)
        self.register_buffer("widest", (BANDWIDTHS[1] * unit).log(), persistent=False)
        log_bandwidth = wanted.log().clamp(self.narrowest, self.widest)
        deviation = ROOT_LN2 / math.pi * rate / log_bandwidth.exp()
        # Root of the energy that white noise gives.
        noise = (1 / (2 * math.sqrt(math.pi) * deviation)).sqrt()
        # What it gives in Slaney's mel spectrogram.
        mel_noise = math.sqrt(math.pi / 4 * 3 / 8 * n_fft) * n_fft / rate
        self.centre_mel = nn.Parameter(centre)
        self.log_bandwidth = nn.Parameter(log_bandwidth)
        self.log_gain = nn.Parameter((mel_noise / noise).log())
        self.log_width = nn.Parameter(torch.full_like(centre, FIRST_WIDTH).log())

    def centre(self) -> Tensor:
        """Compute the centre frequencies (K,) in Hz, from 0 to the Nyquist frequency."""
        nyquist = torch.tensor(self.audio_settings.sample_rate / 2)
        return mel_to_hz(within(self.centre_mel, 0.0, hz_to_mel(nyquist).item()))

    def bandwidth(self) -> Tensor:
        """Compute the bandwidths (K,) in Hz."""
        return within(self.log_bandwidth, self.narrowest, self.widest).exp()

    def width(self) -> Tensor:
        """Compute the deviations (K,) of the Gaussians in time, in samples."""
        low, high = (math.log(width) for width in WIDTHS)
        return within(self.log_width, low, high).exp() * self.audio_settings.hop_length

    def filters(self) -> FilterResponse:
        return FilterResponse(self.centre().detach(), self.bandwidth().detach())

    def forward(self, waveform: Tensor) -> Tensor:
        rate, hop = self.audio_settings.sample_rate, self.audio_settings.hop_length
        edge = self.audio_settings.n_fft // 2 + hop
        if waveform.ndim != 2 or waveform.shape[1] <= edge:
            raise ValueError(
                f"the waveform frontend expects waveforms (B, samples) of more than {edge} samples (n_fft / 2 + hop_length), "
                f"got the shape {tuple(waveform.shape)}"
            )
        centre, bandwidth, width = self.centre(), self.bandwidth(), self.width()
        bands = []
        for first, stop, size, stride in self.octaves:
            kernels = gabor_kernels(centre[first:stop], bandwidth[first:stop], rate, size)
            margin = hop + size // 2
            filtered = conv1d(pad(waveform[:, None], (margin, margin), "reflect"), kernels[:, None], stride=stride)
            real, imaginary = filtered.square().chunk(2, dim=1)
            bands.append(pool(real + imaginary, width[first:stop], stride, hop))
        frames = waveform.shape[1] // hop + 1
        energy = torch.cat([band[..., :frames] for band in bands], dim=1)
        return self.log_gain.exp()[:, None] * (energy + TINY).sqrt()
