"""Frontends: the spectrogram against torchaudio and librosa, precision, gradients, shapes."""

import math

import librosa
import pytest
import torch
import torchaudio

from disentangled_ml.network.frontends import FRONTENDS, MelFrontend, NnAudioFrontend, compress
from disentangled_ml.structures import AudioSettings

SETTINGS = AudioSettings()
SMALL = AudioSettings(sample_rate=8000, n_fft=256, hop_length=128, n_mels=24)
MEL_ERROR = 1e-5  # of the largest value: float32 sums of 1024 products
SPECT_ATOL = 2e-5  # the same after compression and division by 0.25
TRAINABLE = [(True, False), (False, True), (True, True)]


def noise_and_tones(samples: int = 65_536) -> torch.Tensor:
    noise = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    time = torch.arange(samples) / 22_050
    tones = sum(0.2 * torch.sin(2 * math.pi * hertz * time) for hertz in (110.0, 1000.0, 5000.0))
    return torch.stack([noise, tones, 0.01 * noise + tones])


def torchaudio_mel(waveform: torch.Tensor) -> torch.Tensor:
    return torchaudio.transforms.MelSpectrogram(
        22_050, 1024, hop_length=512, n_mels=128, power=1, norm="slaney", mel_scale="slaney", pad_mode="reflect"
    )(waveform)


def librosa_mel(waveform: torch.Tensor) -> torch.Tensor:
    mel = librosa.feature.melspectrogram(
        y=waveform.numpy(), sr=22_050, n_fft=1024, hop_length=512, n_mels=128, power=1, pad_mode="reflect"
    )
    return torch.from_numpy(mel)


@pytest.mark.parametrize("reference", [torchaudio_mel, librosa_mel])
def test_nnaudio_equals(reference):
    frontend, waveform = NnAudioFrontend(SETTINGS), noise_and_tones()
    expected = reference(waveform)
    assert (frontend.mel_spectrogram(waveform) - expected).abs().max() < MEL_ERROR * expected.abs().max()
    expected_spect = (torch.log10(1 + 10 * expected) - 0.2) / 0.25
    torch.testing.assert_close(frontend(waveform), expected_spect[:, None], atol=SPECT_ATOL, rtol=0)


def test_both_frontends_agree_on_the_same_audio():
    waveform = noise_and_tones()
    stored = torch.log10(1 + 10 * librosa_mel(waveform))[:, None].half()
    spect = NnAudioFrontend(SETTINGS)(waveform)
    half_precision = 2 * 2**-11 / 0.25  # of log-mel values below 4
    assert stored.max() < 4
    torch.testing.assert_close(MelFrontend(SETTINGS)(stored), spect, atol=half_precision, rtol=0)


@pytest.mark.parametrize(("trainable_stft", "trainable_mel"), TRAINABLE)
def test_trainable_filters_start_as_the_fixed_ones(trainable_stft, trainable_mel):
    waveform = noise_and_tones(8192)
    trainable = NnAudioFrontend(SETTINGS, trainable_stft, trainable_mel)(waveform)
    # nnAudio adds 1e-8 under the root of trainable kernels, against infinite gradients: 1e-4 in silent bins.
    torch.testing.assert_close(trainable, NnAudioFrontend(SETTINGS)(waveform), atol=1e-3, rtol=0)


def test_only_what_trains_is_a_parameter_and_is_saved():
    def names(frontend):
        assert all(parameter.requires_grad for parameter in frontend.parameters())
        assert dict(frontend.named_parameters()).keys() == frontend.state_dict().keys()
        return {name.split(".")[-1] for name in frontend.state_dict()}

    assert names(MelFrontend(SMALL)) == set()
    assert names(NnAudioFrontend(SMALL)) == set()
    assert names(NnAudioFrontend(SMALL, trainable_stft=True)) == {"wsin", "wcos"}
    assert names(NnAudioFrontend(SMALL, trainable_mel=True)) == {"mel_basis"}
    assert names(NnAudioFrontend(SMALL, trainable_stft=True, trainable_mel=True)) == {"wsin", "wcos", "mel_basis"}


@pytest.mark.parametrize(("trainable_stft", "trainable_mel"), TRAINABLE)
@pytest.mark.parametrize("silent", [True, False])
def test_gradients_are_finite(trainable_stft, trainable_mel, silent):
    frontend = NnAudioFrontend(SMALL, trainable_stft, trainable_mel)
    waveform = noise_and_tones(2048)
    waveform[0] = 0
    frontend(waveform[:1] if silent else waveform).square().sum().backward()
    for parameter in frontend.parameters():
        assert parameter.grad.isfinite().all()
        assert silent or parameter.grad.abs().max() > 0


def test_negative_trained_filters_give_no_nan():
    frontend = NnAudioFrontend(SMALL, trainable_mel=True)
    with torch.no_grad():
        frontend.mel_spectrogram.mel_basis.neg_()
    spect = frontend(noise_and_tones(2048))
    torch.testing.assert_close(spect, torch.full_like(spect, -0.8))
    spect.sum().backward()
    assert frontend.mel_spectrogram.mel_basis.grad.isfinite().all()


def test_computes_in_float32_under_autocast():
    frontend, waveform = NnAudioFrontend(SETTINGS), noise_and_tones(8192)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        spect = frontend(waveform)
        stored = MelFrontend(SETTINGS)(torch.zeros(1, 1, 128, 129, dtype=torch.float16))
    assert spect.dtype == stored.dtype == torch.float32
    assert torch.equal(spect, frontend(waveform))


@pytest.mark.parametrize("frames", [2, 129, 258])
def test_frames(frames):
    assert NnAudioFrontend(SETTINGS)(torch.zeros(2, SETTINGS.chunk_samples(129))).shape == (2, 1, 128, 129)
    for settings in (SETTINGS, SMALL):
        samples = max(settings.chunk_samples(frames), settings.n_fft // 2 + 1)
        spect = NnAudioFrontend(settings)(torch.zeros(1, samples))
        assert spect.shape == (1, 1, settings.n_mels, frames)


def test_silence_and_standardisation():
    spect = NnAudioFrontend(SMALL)(torch.zeros(1, 2048))
    torch.testing.assert_close(spect, torch.full_like(spect, -0.8))
    stored = torch.tensor([0.2, 0.45, -0.05]).expand(2, 1, 128, 3)
    assert torch.allclose(MelFrontend(SETTINGS)(stored), torch.tensor([0.0, 1.0, -1.0]), atol=1e-6)


def test_mel_computes_half_in_float32():
    stored = torch.rand(2, 1, 128, 9, generator=torch.Generator().manual_seed(0)).half()
    spect = MelFrontend(SETTINGS)(stored)
    assert spect.dtype == torch.float32
    assert torch.equal(spect, (stored.float() - 0.2) / 0.25)


@pytest.mark.parametrize("name", FRONTENDS)
def test_registry_and_source(name):
    frontend = FRONTENDS[name](SETTINGS)
    audio = {"mel": torch.zeros(2, 1, 128, 17), "waveform": torch.zeros(2, 16 * 512)}[frontend.source]
    assert frontend(audio).shape == (2, 1, 128, 17)
    compiled = torch.compile(frontend, backend="eager", fullgraph=True)
    assert torch.equal(compiled(audio), frontend(audio))


@pytest.mark.parametrize("shape", [(2, 65_536), (2, 128, 129), (2, 2, 128, 129), (2, 1, 96, 129)], ids=str)
def test_mel_rejects_shape(shape):
    with pytest.raises(ValueError, match=r"log-mel chunks \(B, 1, 128, frames\), got the shape"):
        MelFrontend(SETTINGS)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(65_536,), (2, 1, 65_536), (2, 1, 128, 129), (2, 512)], ids=str)
def test_nnaudio_rejects_shape(shape):
    with pytest.raises(ValueError, match=r"waveforms \(B, samples\) of more than 512 samples .* got the shape"):
        NnAudioFrontend(SETTINGS)(torch.zeros(shape))


def test_nnaudio_takes_the_shortest_waveform():
    assert NnAudioFrontend(SETTINGS)(torch.zeros(1, 513)).shape == (1, 1, 128, 2)


def test_compress_clamps():
    assert torch.equal(compress(torch.tensor([-5.0, 0.0])), torch.zeros(2))
