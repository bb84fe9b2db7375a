"""The real networks from the installed package on synthetic sound; damaged packages and none; what the networks read, by NumPy."""

import importlib.util
import shutil
import sys
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import librosa
import numpy as np
import pytest
import torch

from datamodules.audio import musicnn
from datamodules.audio.content import MissingPackage
from datamodules.audio.musicnn import MODELS, SAMPLE_RATE, TAGS, features_at, log_mel_16k, tag_logits, window_features
from tests.datamodules.audio.make_musicnn_features import FILE, SECONDS
from tests.datamodules.audio.sounds import chords

SAME = 1e-5  # of features and logits of order one, by another order of sums
SAME_MEL = 1e-4  # torchaudio's filters are of float32, which shows where a band barely hears a bin
RESAMPLED = (
    0.01  # of the features' norm, which depend on what is next to 8 kHz; 0.02 and more with torchaudio's usual filter
)
LEAST = 185 * 256  # samples
BOTH = tuple(MODELS)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    return chords(SECONDS, SAMPLE_RATE)


@pytest.fixture(scope="module")
def features(music) -> np.ndarray:
    """Return the features of both networks, (3, 400)."""
    return window_features(music, SAMPLE_RATE, BOTH)


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """Return a copy of the installed package that is found in its place, with MSD_musicnn alone."""
    installed = Path(importlib.util.find_spec("musicnn").submodule_search_locations[0])
    copy = tmp_path / "musicnn"
    shutil.copytree(installed / "MSD_musicnn", copy / "MSD_musicnn")
    (record,) = installed.parent.glob("musicnn-*.dist-info")
    shutil.copytree(record, tmp_path / record.name)
    spec = SimpleNamespace(submodule_search_locations=[str(copy)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    musicnn._load.cache_clear()
    yield copy
    musicnn._load.cache_clear()


def test_features_and_logits_are_those_of_the_network_that_was_checked_against_the_original(features):
    expected = np.load(FILE, allow_pickle=False)
    assert features.shape == (3, 400)
    for number, model in enumerate(MODELS):
        found = features[:, 200 * number : 200 * (number + 1)]
        np.testing.assert_allclose(found, expected[model], rtol=0, atol=SAME)
        np.testing.assert_allclose(tag_logits(found, model), expected[f"{model}_logits"], rtol=0, atol=SAME)


def test_tags():
    assert [len(set(tags)) for tags in TAGS.values()] == [50, 50]
    assert [TAGS["msd"][number] for number in (0, 5, 41, 49)] == ["rock", "female vocalists", "electro", "happy"]
    assert [TAGS["mtt"][number] for number in (0, 21, 28, 49)] == ["guitar", "no vocals", "no vocal", "choral"]


def slaney_filters() -> np.ndarray:
    """Return triangles of area one on Slaney's scale, linear up to 1 kHz and logarithmic above, (257, 96)."""
    mel = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 98)
    hertz = np.where(mel < 15, 200 / 3 * mel, 1000 * 6.4 ** ((mel - 15) / 27))
    bins = np.arange(257)[:, None] * 16000 / 512
    low, centre, high = hertz[:-2], hertz[1:-1], hertz[2:]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return np.maximum(triangles, 0) * 2 / (high - low)


@pytest.mark.parametrize("n", [0, 1, 255, 256, 70_000])
def test_what_the_networks_read(n):
    waveform = chords(70_000 / 16000, 16000)[:n]
    padded = np.pad(waveform.astype(np.float64), 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = np.stack([padded[start : start + 512] * window for start in range(0, n + 1, 256)])
    expected = np.log10(1 + 10_000 * np.abs(np.fft.rfft(frames)) ** 2 @ slaney_filters())
    found = log_mel_16k(waveform)
    assert (found.dtype, found.shape) == (np.float32, (1 + n // 256, 96))
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME_MEL)


def test_loud_sound_is_finite():
    assert np.isfinite(window_features(np.tile(np.float32([1, -1]), LEAST), SAMPLE_RATE)).all()


@pytest.mark.parametrize(
    ("n", "windows"),
    [(LEAST, 1), (LEAST + 256, 1), (62 * 256 + LEAST - 1, 1), (62 * 256 + LEAST, 2), (32_000 + LEAST, 3)],
)
def test_a_window_for_every_whole_second(music, n, windows):
    found = window_features(music[:n], SAMPLE_RATE)
    assert (found.dtype, found.shape) == (np.float32, (windows, 200))
    for second in range(windows):
        frames = log_mel_16k(music[:n])[round(62.5 * second) :][:187]
        assert len(frames) >= 186
        alone = musicnn.network("msd")(torch.from_numpy(frames[None])).numpy()
        np.testing.assert_allclose(found[second], alone[0], rtol=0, atol=SAME)


@pytest.mark.parametrize("n", [0, 1, 300, LEAST - 1])
def test_too_short(music, n):
    with pytest.raises(ValueError, match=rf"{n / 16000:.3f} s are too short for musicnn \(at least 2.96 s\)"):
        window_features(music[:n], SAMPLE_RATE)


@pytest.mark.parametrize("rate", [44_100, 44_099, 8_000])
def test_the_least_length_at_other_rates(rate):
    assert len(window_features(chords(2.97, rate), rate)) == 1
    with pytest.raises(ValueError, match="too short"):
        window_features(chords(2.95, rate), rate)


@pytest.mark.parametrize(("n", "rate"), [(189_690, 47_999), (189_700, 47_999), (150_000, 44_100)])
def test_the_number_of_windows_is_known_beforehand(n, rate):
    assert len(window_features(chords(4.5, rate)[:n], rate)) == musicnn.n_windows(n, rate)


def test_features_at_given_seconds(music, features):
    np.testing.assert_allclose(features_at(music, SAMPLE_RATE, BOTH, [2, 0, 2]), features[[2, 0, 2]], rtol=0, atol=SAME)
    between = features_at(music, SAMPLE_RATE, ("mtt",), np.array([0.512]))
    later = window_features(music[32 * 256 - 256 :], SAMPLE_RATE, ("mtt",))  # whose second frame is that one
    assert between.shape == (1, 200)
    assert np.abs(between - later[:1]).max() < np.abs(between - features[:1, 200:]).max()
    assert features_at(music, SAMPLE_RATE, BOTH, []).shape == (0, 400)


@pytest.mark.parametrize("start", [-0.1, 2.6, 1e6])
def test_windows_outside_the_recording(music, start):
    with pytest.raises(ValueError, match=rf"at second {start} of a recording in which 0 to 2\.53 are legal"):
        features_at(music, SAMPLE_RATE, ("msd",), [0, start])


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_features_at_other_sample_rates_are_about_those_behind_librosas_resampling(rate):
    waveform = chords(SECONDS, rate)
    found = window_features(waveform, rate, BOTH)
    resampled = librosa.resample(waveform, orig_sr=rate, target_sr=SAMPLE_RATE)
    expected = window_features(resampled, SAMPLE_RATE, BOTH)
    assert np.linalg.norm(found - expected) < RESAMPLED * np.linalg.norm(expected)


def test_columns_are_those_of_the_models_in_their_order(music, features):
    np.testing.assert_array_equal(window_features(music, SAMPLE_RATE, ("mtt",)), features[:, 200:])
    np.testing.assert_array_equal(window_features(music, SAMPLE_RATE, ("mtt", "msd"))[:, 200:], features[:, :200])


def test_the_package_is_never_imported(features):
    assert not any(name.split(".")[0] in ("musicnn", "tensorflow") for name in sys.modules)


def test_an_intact_copy_is_taken(package, music, features):
    musicnn.require(["msd"])
    np.testing.assert_array_equal(window_features(music, SAMPLE_RATE), features[:, :200])


def test_without_the_package_the_error_says_what_to_do(monkeypatch, package, music):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (musicnn.require, lambda: window_features(music, SAMPLE_RATE)):
        with pytest.raises(MissingPackage, match=r"pip install --no-deps musicnn==0\.1\.0 .* or do without"):
            call()


@pytest.mark.parametrize("name", [".index", ".data-00000-of-00001"])
def test_damaged_files_are_told(package, music, name):
    file = package / "MSD_musicnn" / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for call in (lambda: musicnn.require(["msd"]), lambda: window_features(music, SAMPLE_RATE)):
        with pytest.raises(ValueError, match=rf"MSD_musicnn/{name} is not as musicnn published it \(another sha256\)"):
            call()


def test_missing_files_are_told(package):
    with pytest.raises(ValueError, match=r"MTT_musicnn/.index is not as musicnn published it \(missing\)"):
        musicnn.require()


def test_a_package_without_its_list_of_files_is_told(package):
    (record,) = package.parent.glob("*/RECORD")
    record.unlink()
    with pytest.raises(ValueError, match="is not as musicnn published it"):
        musicnn.require(["msd"])


@pytest.mark.parametrize("models", [("vgg",), ("msd", "MSD_musicnn")])
def test_unknown_models(music, models):
    with pytest.raises(ValueError, match=rf"'{models[-1]}' is no model of musicnn, choose one of msd, mtt"):
        window_features(music, SAMPLE_RATE, models)
    with pytest.raises(ValueError, match="is no model of musicnn"):
        musicnn.require(models)


def test_threads_load_a_network_once(monkeypatch):
    read, loaded = musicnn.read_bundle, []
    monkeypatch.setattr(musicnn, "read_bundle", lambda *files: loaded.append(files) or read(*files))
    musicnn._load.cache_clear()
    threads = [Thread(target=musicnn.network, args=("msd",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1
