"""The rhythm branch: tempo from the autocorrelation of the onset strength.

A spectrogram network does not learn tempo from a few hundred tracks: two-dimensional pooling and the average over a chunk keep
timbre and lose the period. Here the period comes first: half-wave rectified
differences of the log-mel, summed into groups of bands, are correlated with themselves and read at tempi evenly spaced on a logarithmic
axis, on which a stretch in time is a shift (M. Gagnere, S. Essid, G. Peeters, "Adapting pitch-based self supervised learning models for
tempo estimation", ICASSP 2024). Convolutions run along that axis, which is never pooled. After H. Foroughmand and G. Peeters,
"Deep-Rhythm for tempo estimation and rhythm pattern recognition", ISMIR 2019, in the onset strength of each group of bands.
"""

import torch
from torch import Tensor, nn

from disentangled_ml.structures import AudioSettings

N_TEMPI, SLOWEST, FASTEST = 96, 30.0, 320.0  # BPM
# Groups of neighbouring bands; all bands together are one more.
N_GROUPS = 8
CHANNELS, LAST_CHANNELS, KERNEL, HIDDEN, DROPOUT = 32, 8, 5, 128, 0.5
# Of the autocorrelation; of a chunk of 3 s the slowest tempo has 40.
MIN_TERMS = 20
# Of the onsets' variance; what is less is the rounding of a constant.
MIN_VARIANCE = 1e-10


def tempo_axis() -> Tensor:
    """Return the tempi (96,) in BPM at which the autocorrelation is read, evenly spaced in their logarithm.

    >>> [round(bpm) for bpm in tempo_axis()[[0, 48, 95]].tolist()]
    [30, 99, 320]
    """
    return torch.logspace(0, 1, N_TEMPI, base=FASTEST / SLOWEST, dtype=torch.float64) * SLOWEST


def reading_matrix(audio: AudioSettings) -> Tensor:
    """Return the matrix (lags, 96) that reads an autocorrelation over lags in frames at the tempi, by linear interpolation.

    Shape: lags, from 0 on, are as many as the period of the slowest tempo needs.
    """
    period = 60 * audio.sample_rate / (audio.hop_length * tempo_axis())
    lags = torch.arange(int(period.max()) + 2, dtype=torch.float64)
    return (1 - (lags[:, None] - period).abs()).clamp(min=0).float()


def onset_strength(spect: Tensor) -> Tensor:
    """Return the rising energy of 8 groups of bands and of all bands, without its mean over time.

    Shape:
        spect: (B, 1, n_mels, frames), n_mels >= 8; returns (B, 9, frames - 1).
    """
    rising = spect[:, 0].diff(dim=2).relu()
    groups = torch.stack([group.sum(1) for group in rising.tensor_split(N_GROUPS, dim=1)], dim=1)
    onsets = torch.cat([groups, rising.sum(1, keepdim=True)], dim=1)
    return onsets - onsets.mean(dim=2, keepdim=True)


def autocorrelation(signal: Tensor, n_lags: int) -> Tensor:
    """Return the autocorrelation at lags 0 to ``n_lags - 1``, the mean over its terms, as a share of that at lag 0.

    It is 0 at lags of which the signal has fewer than ``MIN_TERMS`` terms, whose mean would say nothing, and for a signal of zeros.

    Shape:
        signal: (..., n) float32; returns (..., n_lags).

    >>> autocorrelation(torch.tensor([1.0, -1.0] * 20), 40)[[0, 1, 2, 20, 21]].round(decimals=3).tolist()
    [1.0, -1.0, 1.0, 1.0, 0.0]
    """
    n = signal.shape[-1]
    power = torch.fft.rfft(signal, 2 * n).abs().square()
    lags = torch.fft.irfft(power, 2 * n)[..., : max(1, min(n - MIN_TERMS + 1, n_lags))]
    terms = torch.arange(n, n - lags.shape[-1], -1, device=signal.device)
    means = lags / terms
    shares = means / means[..., :1].clamp(min=MIN_VARIANCE)
    return nn.functional.pad(shares, (0, n_lags - lags.shape[-1]))


class TempoSpectrum(nn.Module):
    """Onset autocorrelation of standardised log-mel chunks at 96 tempi, not learned; in float32 under autocast too.

    Neither a gain nor an offset of the log-mel changes it.

    Shape:
        spect: (B, 1, n_mels, frames), n_mels >= 8, frames >= 3; output: (B, 9, 96).
    """

    def __init__(self, audio: AudioSettings):
        super().__init__()
        self.register_buffer("reading", reading_matrix(audio), persistent=False)

    def forward(self, spect: Tensor) -> Tensor:
        with torch.autocast(spect.device.type, enabled=False):
            return autocorrelation(onset_strength(spect.float()), len(self.reading)) @ self.reading


class RhythmBranch(nn.Module):
    """Convolutions along the tempo axis of the onset autocorrelation.

    Args:
        audio: Settings of the spectrograms.
        embedding_dim: D.

    Shape:
        spect: as of ``TempoSpectrum``; output: (B, D), not normalised.
    """

    def __init__(self, audio: AudioSettings, embedding_dim: int):
        super().__init__()
        self.spectrum = TempoSpectrum(audio)
        self.layers = nn.Sequential(
            *conv_norm_relu(N_GROUPS + 1, CHANNELS),
            *conv_norm_relu(CHANNELS, CHANNELS),
            nn.Conv1d(CHANNELS, LAST_CHANNELS, 1),
            nn.Flatten(),
            nn.Dropout(DROPOUT),
            nn.Linear(LAST_CHANNELS * N_TEMPI, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, embedding_dim),
        )

    def forward(self, spect: Tensor) -> Tensor:
        return self.layers(self.spectrum(spect))


class PlainRhythm(nn.Module):
    """The onset autocorrelation of all bands together, with nothing learned on top.

    Shape:
        spect: as of ``TempoSpectrum``; output: (B, 96), not normalised.
    """

    def __init__(self, audio: AudioSettings):
        super().__init__()
        self.spectrum = TempoSpectrum(audio)

    def forward(self, spect: Tensor) -> Tensor:
        # With the groups of bands it is no better (.857 against .860 on Emotify's training and validation tracks).
        return self.spectrum(spect)[:, -1]


def conv_norm_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    conv = nn.Conv1d(in_channels, out_channels, KERNEL, padding=KERNEL // 2, bias=False)
    return [conv, nn.BatchNorm1d(out_channels), nn.ReLU(inplace=True)]
