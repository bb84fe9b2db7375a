import math

import numpy as np
import pytest
import torch

from datamodules.audio.spectrogram import log_mel
from datamodules.batches.streams import mel_chunk
from disentangled_ml.chunks import pack, tempo_ratio
from disentangled_ml.network.augmentation import Augmentation
from disentangled_ml.network.checkpoint import make_network
from disentangled_ml.network.frontends import standardise
from disentangled_ml.network.rhythm import (
    FASTEST,
    N_GROUPS,
    N_TEMPI,
    SLOWEST,
    RhythmBranch,
    TempoSpectrum,
    autocorrelation,
    onset_strength,
    tempo_axis,
)
from disentangled_ml.structures import AudioSettings

AUDIO = AudioSettings()
STEP = math.log(FASTEST / SLOWEST) / (N_TEMPI - 1)  # of the axis, in the logarithm of the tempo


def click_track(bpm: float, seconds: float = 3.2, seed: int = 0) -> np.ndarray:
    """Return short bursts of noise at a tempo, sampled at 22,050 Hz."""
    generator = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * AUDIO.sample_rate), np.float32)
    burst = generator.standard_normal(400).astype(np.float32) * np.exp(-np.arange(400) / 80, dtype=np.float32) / 4
    for beat in np.arange(0.1, seconds - 0.05, 60 / bpm):
        first = round(beat * AUDIO.sample_rate)
        samples[first : first + 400] += burst[: len(samples) - first]
    return samples


def chunk(bpm: float, frames: int = 129) -> torch.Tensor:
    seconds = AUDIO.seconds(frames) + 0.2
    mel = log_mel(click_track(bpm, seconds), AUDIO)[:, :frames]
    return standardise(torch.from_numpy(mel).float())[None, None]


def spectrum(spect: torch.Tensor) -> torch.Tensor:
    return TempoSpectrum(AUDIO)(spect)


@pytest.mark.parametrize("frames", [129, 130, 258, 517])
@pytest.mark.parametrize("bpm", [62.0, 87.0, 121.0, 150.0, 176.0])
def test_the_tempo_of_a_click_track_is_the_maximum(bpm, frames):
    rows = spectrum(chunk(bpm, frames))[0]
    place = round(math.log(bpm / SLOWEST) / STEP)
    for row in rows:
        # Twice and three times the period are as good, so what is slower than two thirds is left out.
        faster = row[place - round(math.log(1.5) / STEP) :]
        assert abs(int(faster.argmax()) - round(math.log(1.5) / STEP)) <= 1
        assert row[place - 1 : place + 2].max() > 0.4  # between two lags it is shared by both


@pytest.mark.parametrize("steps", [-9, 5, 12])
def test_a_stretch_in_time_shifts_the_axis(steps):
    near, far = (spectrum(chunk(bpm, 517))[0, -1] for bpm in (110.0, 110.0 * math.exp(steps * STEP)))
    middle = slice(30, 70)
    shifted = far[30 + steps : 70 + steps]
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(near[middle], shifted, dim=0) > 0.9
    assert cosine(near[middle], far[middle], dim=0) < 0.7


@pytest.mark.parametrize("span", [108, 117, 141, 154])
@pytest.mark.parametrize("bpm", [87.0, 121.0, 150.0])
def test_a_stretched_chunk_has_the_tempo_of_its_changed_label(bpm, span):
    mel = log_mel(click_track(bpm, AUDIO.seconds(span) + 0.2), AUDIO).astype(np.float16)
    stretched = torch.from_numpy(mel_chunk(mel, 129, 0, span)).float()
    label = bpm * tempo_ratio(span, 129)
    row = spectrum(standardise(stretched)[None])[0, -1]
    first = round(math.log(label / 1.5 / SLOWEST) / STEP)
    assert abs(first + int(row[first:].argmax()) - round(math.log(label / SLOWEST) / STEP)) <= 1


def test_neither_a_gain_nor_an_offset_of_the_log_mel_changes_anything():
    spect = chunk(100.0)
    torch.testing.assert_close(spectrum(3 * spect - 7), spectrum(spect), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [5, 87, 128, 257, 600])
def test_autocorrelation_is_exact_at_any_length(n):
    signal = torch.randn(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    signal -= signal.mean(1, keepdim=True)
    lags = max(1, min(n - 19, 88))  # of fewer than 20 terms there is none
    direct = torch.stack([(signal[:, : n - lag] * signal[:, lag:]).mean(1) for lag in range(lags)], 1)
    expected = torch.nn.functional.pad(direct / direct[:, :1], (0, 88 - lags))
    torch.testing.assert_close(autocorrelation(signal.float(), 88), expected.float(), atol=2e-5, rtol=0)


def test_onsets_are_rising_energy_by_groups_and_together_without_their_mean():
    spect = torch.zeros(1, 1, 16, 5)
    spect[0, 0, 0, 2:] = 3.0  # rises once, in the first group
    spect[0, 0, 15, 3] = 2.0  # rises and falls, in the last
    onsets = onset_strength(spect)[0]
    assert onsets.shape == (N_GROUPS + 1, 4)
    torch.testing.assert_close(onsets[0], torch.tensor([0.0, 3.0, 0.0, 0.0]) - 0.75)
    torch.testing.assert_close(onsets[7], torch.tensor([0.0, 0.0, 2.0, 0.0]) - 0.5)
    torch.testing.assert_close(onsets[8], onsets[0] + onsets[7])
    assert not onsets[1:7].any()


def test_silence_has_no_rhythm_and_a_gradient_that_is_finite():
    spect = torch.zeros(2, 1, 128, 129, requires_grad=True)
    found = spectrum(spect)
    assert not found.any()
    found.sum().backward()
    assert spect.grad.isfinite().all()


def test_it_is_differentiable():
    spect = chunk(120.0).requires_grad_()
    spectrum(spect)[0, -1, 50].backward()
    assert spect.grad.isfinite().all()
    assert spect.grad.abs().max() > 0


def test_under_autocast_it_computes_in_float32():
    spect = chunk(90.0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = spectrum(spect)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, spectrum(spect), atol=0, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_the_same():
    spect = torch.cat([chunk(bpm) for bpm in (70.0, 120.0, 160.0)])
    torch.testing.assert_close(TempoSpectrum(AUDIO).cuda()(spect.cuda()).cpu(), spectrum(spect), atol=1e-5, rtol=0)


def test_other_settings_of_the_spectrogram_read_the_same_tempi():
    audio = AudioSettings(sample_rate=16000, n_fft=512, hop_length=256, n_mels=40)
    signal = np.random.default_rng(0).standard_normal((1, 1, 40, 400)).astype(np.float32) * 0.01
    period = 60 * audio.sample_rate / audio.hop_length / tempo_axis()[60].item()
    for beat in np.arange(3, 399, period):
        signal[..., round(beat)] += 1
    found = TempoSpectrum(audio)(torch.from_numpy(signal))[0, -1]
    assert abs(int(found[50:].argmax()) + 50 - 60) <= 1


def test_the_branch_maps_chunks_to_the_embedding():
    branch = RhythmBranch(AUDIO, 256).eval()
    assert branch(torch.cat([chunk(80.0), chunk(140.0)])).shape == (2, 256)
    assert sum(parameter.numel() for parameter in branch.parameters()) < 250_000


@pytest.mark.parametrize("mask", ["learned", "none"])
def test_it_is_added_to_any_backbone_where_dimensions_are_shared(mask):
    network = make_network(["genre", "tempo"], AUDIO, backbone="conv", width=0.05, mask=mask, rhythm=True).eval()
    without = make_network(["genre", "tempo"], AUDIO, backbone="conv", width=0.05, mask=mask).eval()
    without.load_state_dict({key: value for key, value in network.state_dict().items() if "rhythm" not in key})
    spect = chunk(100.0)
    torch.testing.assert_close(
        network.raw_embedding(spect), without.raw_embedding(spect) + network.rhythm(network.frontend(spect))
    )


@pytest.mark.parametrize("names", [["tempo", "genre"], ["genre", "tempo", "mood"], ["genre", "tempo"]])
def test_under_fixed_masks_it_alone_has_the_dimensions_of_tempo(names):
    network = make_network(names, AUDIO, backbone="conv", width=0.05, rhythm=True).eval()
    spect, own = chunk(100.0), network.masks()[names.index("tempo")].bool()
    raw, seen = network.raw_embedding(spect), network.frontend(spect)
    assert raw.shape == (1, 64 * len(names))
    torch.testing.assert_close(raw[:, own], network.rhythm(seen))
    torch.testing.assert_close(raw[:, ~own], network.backbone(seen))


def test_without_tempo_there_is_none_and_for_tempo_alone_it_is_added():
    assert make_network(["genre", "mood"], AUDIO, backbone="conv", width=0.05, rhythm=True).rhythm is None
    network = make_network(["tempo"], AUDIO, backbone="conv", width=0.05, rhythm=True).eval()
    seen = network.frontend(chunk(100.0))
    torch.testing.assert_close(network.raw_embedding(chunk(100.0)), network.backbone(seen) + network.rhythm(seen))


def test_beside_features_the_three_parts_are_put_together():
    network = make_network(["genre", "tempo"], AUDIO, backbone="conv", width=0.05, rhythm=True, features=["msd"]).eval()
    mel, features = chunk(100.0), torch.randn(1, 200)
    packed = torch.from_numpy(pack(mel[0].numpy(), features[0].numpy()))[None]
    seen = network.frontend(mel)
    expected = torch.cat([network.backbone(seen) + network.head(features), network.rhythm(seen)], dim=1)
    torch.testing.assert_close(network.raw_embedding(packed), expected)


def test_masks_of_the_spectrogram_do_not_reach_the_rhythm():
    network = make_network(["genre", "tempo"], AUDIO, backbone="conv", width=0.05, rhythm=True).eval()
    plain, masked = (
        network.raw_embedding(chunk(100.0), augmentation)
        for augmentation in (None, Augmentation(mask_frames=60, mask_bands=40, seed=1))
    )
    assert torch.equal(plain[:, 64:], masked[:, 64:])
    assert not torch.allclose(plain[:, :64], masked[:, :64])
