"""The log-mel spectrogram against librosa and torchaudio; resampling against torchaudio in one piece."""

import math

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from torchaudio.transforms import Resample

from datamodules.audio import spectrogram
from datamodules.audio.decoding import UnusableAudio
from datamodules.audio.spectrogram import log_mel, power_mel, resample, resampled_length
from disentangled_ml.structures import AudioSettings

SETTINGS = AudioSettings()
HALF_ULP = 1e-3  # float16 between 1 and 4
FLOAT_ATOL = 2e-6  # order of summation in float32
FILTER_RTOL = 1e-5  # of the highest band: torchaudio computes its mel filters in float32
RATIO_RTOL = 1 / 2560  # of a ratio of rates rounded to MAX_DENOMINATOR
MAX_KERNEL = 20_000_000  # entries, 80 MB; without a bound 1e9


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, n).astype(np.float32)


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, AudioSettings(16000, 512, 160, 40), AudioSettings(n_mels=400)],
    ids=["paper", "other", "bands that hear no bin"],
)
def test_log_mel_equals_librosa(settings):
    waveform = noise(40_000)
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=settings.sample_rate, n_fft=settings.n_fft, hop_length=settings.hop_length, n_mels=settings.n_mels,
        power=1.0, pad_mode="reflect",
    )  # fmt: skip
    spect = log_mel(waveform, settings)
    assert spect.dtype == np.float16
    np.testing.assert_allclose(spect, np.log10(1 + 10 * mel), atol=HALF_ULP)


@pytest.mark.parametrize("block_frames", [1, 7, 64, 4096])
def test_log_mel_in_blocks_equals_torchaudio_in_one_piece(block_frames, monkeypatch):
    monkeypatch.setattr(spectrogram, "BLOCK_FRAMES", block_frames)
    waveform = noise(64 * 512)  # 65 frames: one more than a block
    transform = torchaudio.transforms.MelSpectrogram(
        22050, 1024, hop_length=512, n_mels=128, power=1.0, norm="slaney", mel_scale="slaney"
    )
    whole = torch.log10(1 + 10 * transform(torch.from_numpy(waveform))).numpy()
    np.testing.assert_allclose(log_mel(waveform, SETTINGS), whole, atol=HALF_ULP)


@pytest.mark.parametrize("block_frames", [7, 256])
@pytest.mark.parametrize("n", [0, 1, 255, 256, 40_000])
def test_power_mel_equals_librosa(n, block_frames, monkeypatch):
    monkeypatch.setattr(spectrogram, "BLOCK_FRAMES", block_frames)
    expected = librosa.feature.melspectrogram(
        y=np.pad(noise(n), 256), sr=16000, n_fft=512, hop_length=256, n_mels=96, center=False
    )
    mel = power_mel(noise(n), AudioSettings(16000, 512, 256, 96))
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, expected, rtol=0, atol=FILTER_RTOL * expected.max())


@pytest.mark.parametrize("n", [513, 1023, 1024, 65535, 65536, 65537, 66047, 66048])
def test_number_of_frames(n):
    assert log_mel(noise(n), SETTINGS).shape == (128, 1 + n // 512)


def test_chunk_samples_give_the_frames_of_a_chunk():
    assert log_mel(noise(SETTINGS.chunk_samples(129)), SETTINGS).shape[1] == 129


@pytest.mark.parametrize("n", [0, 1, 512])
def test_too_short(n):
    with pytest.raises(UnusableAudio, match=rf"too short: {n} samples \(at least 513 at 22050 Hz\)"):
        log_mel(noise(n), SETTINGS)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_float16_suffices(scale):
    sign = np.sign(noise(22050)) * np.float32(scale)
    spect = log_mel(sign, SETTINGS)
    assert np.isfinite(spect).all()
    assert spect.min() >= 0


def test_tone_lies_in_its_band():
    waveform = np.sin(2 * np.pi * 440 * np.arange(22050) / 22050).astype(np.float32)
    centres = librosa.mel_frequencies(130, fmax=11025)[1:-1]
    band = log_mel(waveform, SETTINGS).mean(axis=1, dtype=np.float32).argmax()
    assert abs(centres[band] - 440) < 25


@pytest.mark.parametrize("rates", [(44100, 22050), (48000, 22050), (192000, 22050), (16000, 22050), (22050, 44100)])
@pytest.mark.parametrize("block_samples", [700, 5000, 1 << 20])
def test_resample_in_blocks_equals_torchaudio_in_one_piece(rates, block_samples, monkeypatch):
    monkeypatch.setattr(spectrogram, "BLOCK_SAMPLES", block_samples)
    waveform = noise(9973)
    whole = Resample(*rates)(torch.from_numpy(waveform)).numpy()
    np.testing.assert_allclose(resample(waveform, *rates), whole, atol=FLOAT_ATOL)
    whole = Resample(*rates, lowpass_filter_width=32, rolloff=0.95)(torch.from_numpy(waveform)).numpy()
    np.testing.assert_allclose(resample(waveform, *rates, filter_width=32, rolloff=0.95), whole, atol=FLOAT_ATOL)


@pytest.mark.parametrize("n", [1, 2, 4999, 5000, 5001, 10000])
def test_resampled_length(n, monkeypatch):
    monkeypatch.setattr(spectrogram, "BLOCK_SAMPLES", 5000)
    assert resample(noise(n), 44100, 22050).shape == (math.ceil(n / 2),)
    assert resample(noise(n), 48000, 22050).shape == (math.ceil(n * 147 / 320),)


@pytest.mark.parametrize(
    ("n", "rates"),
    [
        (189_690, (47_999, 16_000)),  # by the rates 63,232 samples, by their ratio as it is rounded 63,230
        (1_000_075, (44_100, 16_000)),  # 1/441 sample more than a whole number, which float32 does not tell
        (3_000_000, (44_100, 16_000)),
        (100, (22_050, 22_050)),
    ],
)
def test_the_length_is_known_beforehand(n, rates):
    assert len(resample(noise(n), *rates)) == resampled_length(n, *rates)


def test_equal_rates_change_nothing():
    waveform = noise(100)
    assert resample(waveform, 22050, 22050) is waveform


@pytest.mark.parametrize("rate", [44099, 44101, 47953, 11027])
def test_odd_rates_keep_length_and_frequency(rate):
    waveform = np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate).astype(np.float32)
    resampled = resample(waveform, rate, 22050)
    assert len(resampled) == pytest.approx(2 * 22050, rel=RATIO_RTOL)
    spectrum = np.abs(np.fft.rfft(resampled * np.hanning(len(resampled)), 8 * 22050))
    assert spectrum.argmax() / 8 == pytest.approx(1000, rel=RATIO_RTOL)


@pytest.mark.parametrize("rate", [44099, 11027, 22049, 5003])
@pytest.mark.parametrize("new_rate", [22050, 44100])
def test_kernels_of_odd_rates_are_bounded(rate, new_rate, monkeypatch):
    built = []
    monkeypatch.setattr(spectrogram, "Resample", lambda **rates: built.append(Resample(**rates)) or built[-1])
    spectrogram._resampler.cache_clear()
    resample(noise(100), rate, new_rate)
    spectrogram._resampler.cache_clear()
    assert sum(transform.kernel.numel() for transform in built) < MAX_KERNEL


def test_read_only_and_double_precision_inputs():
    waveform = noise(1000).astype(np.float64)
    waveform.flags.writeable = False
    assert resample(waveform, 44100, 22050).dtype == np.float32
    assert log_mel(waveform, SETTINGS).dtype == np.float16


@pytest.mark.parametrize("rates", [(0, 22050), (22050, -1)])
def test_rates_are_positive(rates):
    with pytest.raises(ValueError, match="sample rates are positive"):
        resample(noise(10), *rates)


def test_rates_too_far_apart():
    with pytest.raises(ValueError, match="too far apart"):
        resample(noise(10), 10**9, 22050)
