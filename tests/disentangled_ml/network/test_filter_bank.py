"""The learned filter bank: against a loop, against tones, against the log-mel of real instruments; its limits and gradients."""

import math

import pytest
import soundfile
import torch

from datamodules.corpora.demo.corpus import generate_demo
from disentangled_ml.network.filter_bank import (
    BANDWIDTHS,
    FilterBank,
    describe_responses,
    hz_to_mel,
    mel_bands,
    mel_to_hz,
    spectrogram_filters,
    within,
)
from disentangled_ml.network.frontends import NnAudioFrontend, WaveformFrontend
from disentangled_ml.structures import AudioSettings

SETTINGS = AudioSettings()
SMALL = AudioSettings(sample_rate=8000, n_fft=256, hop_length=128, n_mels=24)
ODD = AudioSettings(sample_rate=16_000, n_fft=400, hop_length=150, n_mels=20)
WIDE = AudioSettings(sample_rate=22_050, n_fft=1024, hop_length=441, n_mels=16)
EVERY = [SETTINGS, SMALL, ODD, WIDE]
FLOAT32 = 1e-5  # relative: float32 sums of up to 1024 products
CUT = 0.02  # of an energy response: the Gaussian is cut at three deviations
PARAMETERS = ("centre_mel", "log_bandwidth", "log_gain", "log_width")


def noise(samples: int, rows: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(0))


def tones(hz: torch.Tensor, settings: AudioSettings, samples: int) -> torch.Tensor:
    return (2 * math.pi * hz[:, None] * torch.arange(samples) / settings.sample_rate).sin()


def reflected(waveform: list[float], index: int) -> float:
    last = len(waveform) - 1
    index = abs(index)
    return waveform[index if index <= last else 2 * last - index]


def by_loop(bank: FilterBank, waveform: list[float], k: int, frame: int) -> float:
    """Compute one value from the formulas of the module's docstring, filter by filter and sample by sample."""
    settings = bank.audio_settings
    rate, hop = settings.sample_rate, settings.hop_length
    centre, bandwidth, width = (values[k].item() for values in (bank.centre(), bank.bandwidth(), bank.width()))
    (octave,) = [octave for octave in bank.octaves if octave.first <= k < octave.stop]
    deviation = math.sqrt(math.log(2)) / (math.pi * bandwidth) * rate
    times = [n - octave.size // 2 for n in range(octave.size)]
    envelope = [math.exp(-0.5 * (t / deviation) ** 2) for t in times]
    total = weights = 0.0
    for offset in range(-hop, hop + 1, octave.stride):
        at = frame * hop + offset
        filtered = sum(
            e * complex(math.cos(p), math.sin(p)) * reflected(waveform, at + t)
            for e, t, p in ((e, t, 2 * math.pi * centre * t / rate) for e, t in zip(envelope, times, strict=True))
        ) / sum(envelope)
        weight = math.exp(-0.5 * (offset / width) ** 2)
        total, weights = total + weight * abs(filtered) ** 2, weights + weight
    return math.exp(bank.log_gain[k].item()) * math.sqrt(total / weights)


@pytest.mark.parametrize("settings", [SMALL, ODD], ids=["small", "odd"])
def test_equals_a_loop(settings):
    bank = FilterBank(settings)
    with torch.no_grad():
        for name in PARAMETERS:
            getattr(bank, name).add_(0.1 * torch.randn(settings.n_mels, generator=torch.Generator().manual_seed(1)))
    waveform = noise(7 * settings.hop_length + 5, 1)
    output = bank(waveform)[0]
    assert output.shape == (settings.n_mels, 8)
    for k in (0, settings.n_mels // 2, settings.n_mels - 1):
        for frame in (0, 3, 7):
            expected = by_loop(bank, waveform[0].tolist(), k, frame)
            assert output[k, frame].item() == pytest.approx(expected, rel=10 * FLOAT32)


@pytest.mark.parametrize("settings", EVERY, ids=["default", "small", "odd", "wide"])
def test_tones_pass_as_the_bandwidth_says(settings):
    bank = FilterBank(settings)
    filters = bank.filters()
    chosen = range(2, settings.n_mels, max(1, settings.n_mels // 12))  # not those that hear negative frequencies too
    for k in chosen:
        centre, half = filters.centre[k], filters.bandwidth[k] / 2
        waveform = tones(centre + half * torch.tensor([0.0, -1.0, 1.0, -3.0]), settings, 16 * settings.n_fft)
        energy = bank(waveform)[:, k, 4:-4].detach().square().mean(dim=1)  # a reflected tone is none
        assert energy[0].sqrt() == pytest.approx(bank.log_gain[k].exp().item() / 2, rel=CUT)
        assert torch.allclose(energy / energy[0], torch.tensor([1.0, 0.5, 0.5, 2.0**-9]), atol=CUT)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> torch.Tensor:
    """Render four pieces of real instruments, 3 s each."""
    manifest = generate_demo(tmp_path_factory.mktemp("demo"), 12, seed=1, seconds=4.0, workers=1)
    paths = sorted((manifest.parent / "audio").glob("*.flac"))[:4]
    waveforms = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]
    return torch.stack([waveform[: SETTINGS.chunk_samples(129)] for waveform in waveforms])


def correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].item()


def test_begins_near_the_log_mel(pieces):
    with torch.no_grad():
        mel, learned = NnAudioFrontend(SETTINGS)(pieces), WaveformFrontend(SETTINGS)(pieces)
    assert mel.shape == learned.shape == (4, 1, 128, 129)
    for one, other in zip(mel, learned, strict=True):
        assert correlation(one, other) > 0.98
        over_time = [correlation(a, b) for a, b in zip(one[0], other[0], strict=True) if a.std() > 0.1]
        assert len(over_time) > 40
        assert sum(over_time) / len(over_time) > 0.95
    assert (learned - mel).mean().abs() < 0.05
    assert correlation(mel, learned.roll(1, dims=2)) < 0.98  # one band off is worse than this
    assert correlation(mel, learned.roll(1, dims=3)) < 0.98  # and so is one frame


def test_begins_at_the_level_of_the_mel_spectrogram():
    waveform = noise(20 * 65_536, 1)
    with torch.no_grad():
        mel = NnAudioFrontend(SETTINGS).mel_spectrogram(waveform)[0].mean(dim=1)
        learned = FilterBank(SETTINGS)(waveform)[0].mean(dim=1)
    assert ((learned / mel)[4:] - 1).abs().max() < 0.2  # one mean of a root, the other the root of a mean


@pytest.mark.parametrize("settings", EVERY, ids=["default", "small", "odd", "wide"])
@pytest.mark.parametrize("frames", [9, 33])
def test_frames(settings, frames):
    for more in (0, settings.hop_length - 1):
        output = FilterBank(settings)(torch.zeros(1, settings.chunk_samples(frames) + more))
        assert output.shape == (1, settings.n_mels, frames)


def test_every_filter_is_in_one_octave():
    for settings in EVERY:
        bank = FilterBank(settings)
        rows = [k for octave in bank.octaves for k in range(octave.first, octave.stop)]
        assert rows == list(range(settings.n_mels))
        for octave in bank.octaves:
            assert settings.hop_length % octave.stride == 0
            assert 1 <= octave.stride <= max(1, octave.size / 8)


@pytest.mark.parametrize("beyond", [-1e6, -50.0, 50.0, 1e6])
def test_whatever_the_parameters_are_the_filters_are_legal(beyond):
    bank = FilterBank(SMALL)
    with torch.no_grad():
        for name in ("centre_mel", "log_bandwidth", "log_width"):
            getattr(bank, name).add_(beyond)
    assert ((bank.centre() >= 0) & (bank.centre() <= SMALL.sample_rate / 2 * (1 + FLOAT32))).all()
    low, high = (limit * SMALL.sample_rate / SMALL.n_fft for limit in BANDWIDTHS)
    assert (bank.bandwidth() >= low * (1 - FLOAT32)).all()
    assert (bank.bandwidth() <= high * SMALL.n_fft / 16 * (1 + FLOAT32)).all()
    hop = SMALL.hop_length
    assert ((bank.width() >= hop / 16 * (1 - FLOAT32)) & (bank.width() <= hop / 2 * (1 + FLOAT32))).all()
    output = bank(noise(2048))
    assert output.isfinite().all()
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in bank.parameters())


def test_one_that_is_beyond_a_limit_comes_back():
    bank = FilterBank(SMALL)
    with torch.no_grad():
        bank.centre_mel.add_(100.0)
    optimizer = torch.optim.SGD([bank.centre_mel], lr=10.0)
    for _ in range(15):
        optimizer.zero_grad()
        (bank.centre() - 1000.0).square().mean().sqrt().backward()
        bank.centre_mel.grad.sign_()
        optimizer.step()
    assert (bank.centre() < SMALL.sample_rate / 2).all()


@pytest.mark.parametrize("silent", [True, False])
def test_gradients_are_finite_and_reach_every_parameter(silent):
    frontend = WaveformFrontend(SMALL)
    waveform = noise(2048)
    waveform[0] = 0
    frontend(waveform[:1] if silent else waveform).square().sum().backward()
    assert {name.removeprefix("bank.") for name, _ in frontend.named_parameters()} == set(PARAMETERS)
    for parameter in frontend.parameters():
        assert parameter.grad.isfinite().all()
        assert silent or (parameter.grad != 0).all()


def test_a_filter_finds_a_tone():
    bank = FilterBank(SMALL)
    k = 8
    start, wanted = bank.centre()[k].item(), bank.centre()[k].item() + 40.0
    waveform = tones(torch.tensor([wanted]), SMALL, 2048)
    optimizer = torch.optim.Adam(bank.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        (-bank(waveform)[:, k].mean() / bank.log_gain[k].exp()).backward()
        optimizer.step()
    assert abs(bank.centre()[k].item() - wanted) < 10.0 < abs(start - wanted)


def test_silence_and_precision():
    frontend = WaveformFrontend(SETTINGS)
    assert torch.allclose(frontend(torch.zeros(1, 8192)), torch.tensor(-0.8), atol=1e-3)
    waveform = noise(8192)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        spect = frontend(waveform)
    assert spect.dtype == torch.float32
    assert torch.equal(spect, frontend(waveform))


@pytest.mark.parametrize("shape", [(65_536,), (2, 1, 65_536), (2, 1, 128, 129), (2, 1024)], ids=str)
def test_rejects_shape(shape):
    with pytest.raises(ValueError, match=r"waveforms \(B, samples\) of more than 1024 samples .* got the shape"):
        WaveformFrontend(SETTINGS)(torch.zeros(shape))


def test_takes_the_shortest_waveform():
    assert WaveformFrontend(SETTINGS)(torch.zeros(1, 1025)).shape == (1, 1, 128, 3)


def test_mel_scale():
    hz = torch.tensor([0.0, 10.0, 999.0, 1000.0, 1001.0, 11_025.0])
    assert torch.allclose(mel_to_hz(hz_to_mel(hz)), hz, rtol=1e-4)
    centre, distance = mel_bands(128, 22_050)
    assert centre.shape == distance.shape == (128,)
    assert (centre.diff() > 0).all()
    assert distance[0] == pytest.approx(25.8, abs=0.1)  # linear below 1 kHz


def test_bands_of_the_spectrogram_are_where_mel_has_them():
    for frontend in (NnAudioFrontend(SETTINGS), NnAudioFrontend(SETTINGS, trainable_stft=True, trainable_mel=True)):
        filters = frontend.filters()
        assert not filters.centre.requires_grad
        centre, distance = mel_bands(128, 22_050)
        off = (filters.centre - mel_to_hz(centre)).abs() / distance
        assert off[2:].max() < 0.3
        assert (filters.bandwidth[-20:] / distance[-20:]).sub(0.65).abs().max() < 0.1  # the square of a triangle
        assert (filters.bandwidth[:40] > distance[:40]).all()  # where the window is wider than a band


def test_descriptions_follow_kernels_that_move():
    time = torch.arange(256)
    window = torch.hann_window(256)
    kernel = (2 * math.pi * 0.1 * time).cos() * window, (2 * math.pi * 0.1 * time).sin() * window
    cosines, sines = (part[None] for part in kernel)
    filters = spectrogram_filters(cosines, sines, torch.ones(1, 1), 8000)
    assert filters.centre.item() == pytest.approx(800.0, abs=1.0)
    assert filters.bandwidth.item() == pytest.approx(1.44 * 8000 / 256, rel=0.1)  # of a Hann window, at half the energy


def test_descriptions_of_nothing_are_finite():
    filters = describe_responses(torch.zeros(2, 5), torch.arange(5.0))
    assert filters.centre.tolist() == filters.bandwidth.tolist() == [0.0, 0.0]


def test_within_takes_limits_of_each_value():
    assert within(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0]), torch.tensor([3.0, 4.0])).tolist() == [2.0, 4.0]
