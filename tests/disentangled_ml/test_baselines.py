"""Baselines against independent computations, and the properties that make them fair to compare with."""

import math

import librosa
import numpy as np
import pytest
import scipy.fft
import torch
import torchaudio

from disentangled_ml.baselines import BASELINES, Baseline
from disentangled_ml.baselines.controls import bandwidth, top_levels
from disentangled_ml.baselines.mfcc import MfccStatistics, mean_and_deviation, mfcc, mfcc_frames
from disentangled_ml.baselines.vector_quantization import (
    FRAMES_PER_BLOCK,
    VectorQuantization,
    find_words,
    sample_frames,
    word_histogram,
)

MEL_ARGUMENTS = {"n_fft": 1024, "hop_length": 512, "n_mels": 128, "power": 1.0, "norm": "slaney", "mel_scale": "slaney"}
# A stored value is off by 2^-12 of itself in float16: 0.01 dB where 10 S = 1, 0.02 dB at 100, adding up over 128 bands with
# random signs, since the transform is orthonormal.
HALF_PRECISION_DB = 0.2
SINGLE_PRECISION = 1e-4
SMALL = {name: {"words": 12, "max_frames": 100} for name in ("vq", "vq_soft", "vq_sqrt", "vq_soft_sqrt")}
pytestmark = pytest.mark.usefixtures("one_thread")


def magnitude_of(waveform: torch.Tensor) -> torch.Tensor:
    return torchaudio.transforms.MelSpectrogram(22050, **MEL_ARGUMENTS)(waveform)


def stored(magnitudes: torch.Tensor) -> torch.Tensor:
    return torch.log10(1 + 10 * magnitudes)


def noise(seed: int, samples: int = 22050) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) / 4


def random_mel(seed: int, frames: int = 40, n_mels: int = 20) -> torch.Tensor:
    return stored(torch.rand(n_mels, frames, generator=torch.Generator().manual_seed(seed)) + 0.01)


def decaying() -> torch.Tensor:
    return noise(1) * torch.logspace(0, -6, 22050)


def fitted(name: str, seed: int = 0, **options) -> Baseline:
    baseline = BASELINES[name](seed=seed, **{**SMALL.get(name, {}), **options})
    baseline.fit(random_mel(i) for i in range(5))
    return baseline


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 0.01), (torch.float16, HALF_PRECISION_DB)], ids=["float32", "float16"]
)
def test_mfcc_is_torchaudios(dtype, tolerance):
    """Torchaudio takes magnitudes for powers, so that its decibels are half of ours (of noise: nothing is cut)."""
    waveform = noise(0)
    expected = 2 * torchaudio.transforms.MFCC(22050, n_mfcc=13, melkwargs=MEL_ARGUMENTS)(waveform)
    actual = mfcc(stored(magnitude_of(waveform)).to(dtype))
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("waveform", [noise(0), decaying()], ids=["noise", "cut 80 dB below the highest"])
def test_mfcc_is_librosas(waveform):
    magnitudes = magnitude_of(waveform)
    level = librosa.amplitude_to_db(magnitudes.numpy(), ref=1.0, amin=1e-5, top_db=80)
    expected = scipy.fft.dct(level, axis=0, type=2, norm="ortho")[:13]
    np.testing.assert_allclose(mfcc(stored(magnitudes)).numpy(), expected, atol=0.05)


def test_differences_are_regression_slopes():
    frames = mfcc_frames(random_mel(0))
    assert frames.shape == (40, 39)
    for column in (0, 7, 12):
        for t in (2, 20, 37):
            slope = np.polyfit(np.arange(5), frames[t - 2 : t + 3, column].numpy(), 1)[0]
            second = np.polyfit(np.arange(5), frames[t - 2 : t + 3, 13 + column].numpy(), 1)[0]
            assert frames[t, 13 + column].item() == pytest.approx(slope, abs=1e-3)
            assert frames[t, 26 + column].item() == pytest.approx(second, abs=1e-3)


def test_a_gain_changes_only_the_loudness():
    quiet, loud = (mfcc(stored(gain * magnitude_of(noise(0)))) for gain in (1.0, 4.0))
    torch.testing.assert_close(loud[1:], quiet[1:], rtol=0, atol=0.01)
    louder = torch.full_like(quiet[0], 20 * math.log10(4) * math.sqrt(128))
    torch.testing.assert_close(loud[0] - quiet[0], louder, rtol=0, atol=0.01)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_short_excerpts_and_silence(frames):
    assert mfcc_frames(random_mel(0, frames)).isfinite().all()
    silence = mfcc_frames(torch.zeros(128, frames))
    assert silence[:, 0].tolist() == pytest.approx([-100 * math.sqrt(128)] * frames, abs=0.01)
    assert silence[:, 1:].abs().max() < 0.01


def plain_histogram(frames: np.ndarray, words: np.ndarray, nearest: int) -> np.ndarray:
    histogram = np.zeros(len(words))
    for frame in frames:
        distances = [sum((frame - word) ** 2) for word in words]
        for k in sorted(range(len(words)), key=distances.__getitem__)[:nearest]:
            histogram[k] += 1 / (nearest * len(frames))
    return histogram


@pytest.mark.parametrize("square_root", [False, True], ids=["plain", "root"])
@pytest.mark.parametrize("nearest", [1, 3, 8], ids="nearest {}".format)
def test_distance_by_hand(nearest, square_root):
    baseline = fitted("vq", words=10, nearest=nearest, square_root=square_root)
    words = baseline.words.double().numpy()
    mels = [random_mel(10, 50), random_mel(11, 33)]
    a, b = (plain_histogram(mfcc_frames(mel).double().numpy(), words, nearest) for mel in mels)
    expected = math.sqrt(sum((np.sqrt(a) - np.sqrt(b)) ** 2 if square_root else (a - b) ** 2))
    embedding = [baseline.embed(mel) for mel in mels]
    assert (embedding[0] - embedding[1]).norm().item() == pytest.approx(expected, abs=SINGLE_PRECISION)
    assert expected > 0.01


@pytest.mark.parametrize("nearest", [1, 4])
def test_histograms_sum_to_one_whatever_the_order_and_the_blocks(nearest):
    generator = torch.Generator().manual_seed(0)
    frames, words = (torch.randn(n, 39, generator=generator) for n in (FRAMES_PER_BLOCK + 100, 7))
    histogram = word_histogram(frames, words, nearest)
    assert histogram.sum().item() == pytest.approx(1)
    shuffled = word_histogram(frames[torch.randperm(len(frames), generator=generator)], words, nearest)
    assert torch.equal(histogram, shuffled)
    assert torch.equal(word_histogram(words, words), torch.full((7,), 1 / 7))


def test_the_order_of_frames_changes_no_statistics():
    frames = mfcc_frames(random_mel(0))
    shuffled = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(mean_and_deviation(shuffled), mean_and_deviation(frames), rtol=0, atol=SINGLE_PRECISION)


def test_words_are_the_clusters():
    rng = np.random.default_rng(0)
    centers = 100 * rng.standard_normal((5, 39)).astype(np.float32)
    words = find_words(np.repeat(centers, 30, axis=0), 5, rng)
    assert {tuple(np.round(word)) for word in words} == {tuple(np.round(center)) for center in centers}


def test_few_frames_are_all_drawn_in_order():
    tracks = [np.arange(6.0).reshape(3, 2), np.arange(6.0, 10.0).reshape(2, 2)]
    drawn = sample_frames(tracks, 5, np.random.default_rng(0))
    assert np.array_equal(drawn, np.arange(10.0).reshape(5, 2))


def test_frames_are_drawn_uniformly_and_once():
    count, rounds = np.zeros(30), 2000
    for seed in range(rounds):
        tracks = (np.arange(first, first + 10.0)[:, None] for first in (0, 10, 20))
        drawn = sample_frames(tracks, 6, np.random.default_rng(seed))[:, 0].astype(int)
        assert len(set(drawn)) == 6
        count[drawn] += 1
    expected = rounds * 6 / 30
    assert ((count - expected) ** 2 / expected).sum() < 2 * 30  # chi-square: far beyond chance


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_embeds(name):
    baseline = fitted(name)
    whole, chunk = baseline.embed(random_mel(7, 300)), baseline.embed(random_mel(7).half())
    size = 12 if name.startswith("vq") else {"mfcc": 78, "random": 64, "bandwidth": 8}[name]
    assert whole.shape == chunk.shape == (size,)
    assert whole.dtype == chunk.dtype == torch.float32
    assert whole.isfinite().all()


@pytest.mark.parametrize("name", BASELINES)
def test_a_seed_decides(name):
    assert torch.equal(fitted(name, seed=3).embed(random_mel(7)), fitted(name, seed=3).embed(random_mel(7)))


@pytest.mark.parametrize("name", ["vq", "vq_soft", "random"])
def test_other_seeds_differ(name):
    assert not torch.equal(fitted(name, seed=3).embed(random_mel(7)), fitted(name, seed=4).embed(random_mel(7)))


@pytest.mark.parametrize(
    ("name", "nearest", "square_root"),
    [("vq", 1, False), ("vq_soft", 8, False), ("vq_sqrt", 1, True), ("vq_soft_sqrt", 8, True)],
)
def test_the_kinds_of_vector_quantization(name, nearest, square_root):
    baseline = BASELINES[name](seed=0)
    assert (baseline.nearest, baseline.square_root) == (nearest, square_root)
    assert (baseline.n_words, baseline.max_frames) == (1024, 2_500_000)
    histogram = fitted(name).embed(random_mel(7))
    assert (histogram.square() if square_root else histogram).sum().item() == pytest.approx(1)


def test_statistics_are_in_units_of_the_frames_deviation():
    mels = [random_mel(i, 20 + i) for i in range(5)]
    baseline = MfccStatistics()
    baseline.fit(mels)
    frames = np.concatenate([mfcc_frames(mel).double().numpy() for mel in mels])
    excerpt = mfcc_frames(random_mel(9)).double().numpy()
    expected = np.concatenate([excerpt.mean(0) / frames.std(0), excerpt.std(0) / frames.std(0)])
    np.testing.assert_allclose(baseline.embed(random_mel(9)).numpy(), expected, rtol=1e-3, atol=1e-3)


def test_statistics_of_a_constant_stay_finite():
    baseline = MfccStatistics()
    baseline.fit([torch.zeros(20, 9)])
    assert baseline.scale.tolist() == [1.0] * 78


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: VectorQuantization(words=0), "words=0 and max_frames=2500000 must be at least 1"),
        (lambda: VectorQuantization(max_frames=0), "max_frames=0 must be at least 1"),
        (lambda: VectorQuantization(nearest=0), "nearest=0 must be from 1 to words=1024"),
        (lambda: VectorQuantization(words=4, nearest=5), "nearest=5 must be from 1 to words=4"),
        (lambda: VectorQuantization().fit([]), "no training frames"),
        (lambda: MfccStatistics().fit([]), "no training frames"),
        (lambda: VectorQuantization().fit([random_mel(0)]), "words=1024, but there are only 40 distinct"),
        (lambda: find_words(np.ones((9, 3)), 2, np.random.default_rng(0)), "words=2, but there are only 1 distinct"),
        (lambda: VectorQuantization().embed(random_mel(0)), "has no words yet: fit it"),
        (lambda: MfccStatistics().embed(random_mel(0)), "has no scale yet: fit it"),
        (lambda: fitted("vq").embed(random_mel(0, 0)), r"mel of shape \(20, 0\), expected \(n_mels >= 13, frames >= 1"),
        (lambda: fitted("mfcc").embed(random_mel(0, n_mels=12)), r"mel of shape \(12, 40\), expected \(n_mels >= 13"),
        (lambda: fitted("bandwidth").embed(random_mel(0, n_mels=7)), r"\(7, 40\), expected \(n_mels >= 8"),
        (lambda: bandwidth(random_mel(0)[None]), r"mel of shape \(1, 20, 40\)"),
    ],
)
def test_errors(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_random_vector_is_at_chance():
    baseline = fitted("random")
    anchor, positive, negative = (torch.stack([baseline.embed(random_mel(0)) for _ in range(4000)]) for _ in range(3))
    assert torch.allclose(anchor.norm(dim=1), torch.ones(4000))
    accuracy = ((anchor - positive).norm(dim=1) < (anchor - negative).norm(dim=1)).float().mean().item()
    assert abs(accuracy - 0.5) < 4 * 0.5 / math.sqrt(4000)  # four standard deviations


def low_passed(seed: int) -> torch.Tensor:
    return torchaudio.functional.resample(torchaudio.functional.resample(noise(seed), 22050, 11025), 11025, 22050)


def test_bandwidth_tells_a_low_passed_signal():
    full, low = ([stored(magnitude_of(make(seed))) for seed in range(3)] for make in (noise, low_passed))
    assert max(map(bandwidth, low)) < min(map(bandwidth, full)) - 20
    baseline = fitted("bandwidth")
    within = (baseline.embed(low[0]) - baseline.embed(low[1])).norm()
    assert 5 * within < (baseline.embed(low[0]) - baseline.embed(full[0])).norm()


def test_top_levels_by_hand():
    mel = random_mel(0)
    magnitudes = (10 ** mel.double().numpy() - 1) / 10
    expected = [20 * math.log10(sum(row) / len(row)) for row in magnitudes[-8:]]
    assert top_levels(mel).tolist() == pytest.approx(expected, abs=1e-3)
    assert bandwidth(mel) == pytest.approx(sum(expected) / 8, abs=1e-3)


@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_a_gain_moves_the_bandwidth_by_its_decibels(gain):
    magnitudes = torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    moved = bandwidth(stored(gain * magnitudes)) - bandwidth(stored(magnitudes))
    assert moved == pytest.approx(20 * math.log10(gain), abs=1e-3)
