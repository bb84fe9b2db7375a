"""Audio fingerprints: what they tell apart, and what they do not."""

import numpy as np
import pytest
import soundfile

from datamodules.audio.decoding import decode
from datamodules.audio.fingerprint import SIZE, audio_fingerprint, unit_fingerprints
from datamodules.batches.cutting import cut_waveform
from disentangled_ml.search.duplicates import CORRELATION
from disentangled_ml.structures import AudioSettings
from tests.disentangled_ml.catalogues import SAMPLE_RATE

AUDIO, FRAMES = AudioSettings(), 129


def music(seed: int, seconds: float = 6.0) -> np.ndarray:
    """Return some notes after each other, each with overtones, over noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = 0.003 * rng.standard_normal(len(time))
    for onset in np.arange(0, seconds, 0.25):
        after = time - onset
        envelope = np.where(after >= 0, np.exp(-6 * np.maximum(after, 0)), 0)
        pitch = rng.uniform(120, 1000)
        sound += 0.1 * rng.random() * envelope * sum(np.sin(2 * np.pi * pitch * n * time) / n for n in (1, 2, 3))
    return sound.astype(np.float32)


def fingerprint_of(waveform: np.ndarray, rate: int = SAMPLE_RATE, source: str = "mel") -> np.ndarray:
    return audio_fingerprint(cut_waveform(waveform, rate, AUDIO, source, FRAMES), AUDIO)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    a, b = unit_fingerprints(np.stack([one, other]))
    return float(a @ b)


def encoded(waveform: np.ndarray, container: str, quality: float, tmp_path) -> tuple[np.ndarray, int]:
    path = tmp_path / f"copy.{container.lower()}"
    soundfile.write(path, waveform, SAMPLE_RATE, format=container, compression_level=quality)
    return decode(path)


@pytest.mark.parametrize(("container", "quality"), [("MP3", 0.99), ("OGG", 0.99), ("FLAC", 0.5)])
def test_a_copy_has_the_fingerprint_of_its_original_however_it_is_encoded(tmp_path, container, quality):
    own = fingerprint_of(music(0))
    assert own.shape == (SIZE,)
    assert own.dtype == np.int8
    assert correlation(own, fingerprint_of(*encoded(music(0), container, quality, tmp_path))) >= CORRELATION


def test_gain_and_filters_change_little_and_another_recording_all():
    own, sound = fingerprint_of(music(0)), music(0)
    assert correlation(own, fingerprint_of(0.4 * sound)) >= CORRELATION
    muffled = np.convolve(sound, np.full(5, 0.2, np.float32), "same")
    assert correlation(own, fingerprint_of(muffled)) >= CORRELATION
    assert max(correlation(own, fingerprint_of(music(seed))) for seed in range(1, 12)) < 0.6


def test_what_never_changes_is_like_nothing():
    silence = fingerprint_of(np.zeros(3 * SAMPLE_RATE + 512, np.float32))
    assert not silence.any()
    assert correlation(silence, silence) == 0
    broken = audio_fingerprint(np.full((1, 1, AUDIO.n_mels, FRAMES), np.nan, np.float16), AUDIO)
    assert not broken.any()


def test_features_below_the_spectrogram_and_waveforms_have_the_same_fingerprint():
    sound = music(0)
    own = fingerprint_of(sound)
    chunks = cut_waveform(sound, SAMPLE_RATE, AUDIO, "mel", FRAMES)
    below = np.concatenate([chunks, np.full((*chunks.shape[:2], 2, FRAMES), 7, chunks.dtype)], axis=2)
    assert np.array_equal(audio_fingerprint(below, AUDIO), own)
    assert correlation(fingerprint_of(sound, source="waveform"), own) > 0.99
