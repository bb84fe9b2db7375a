"""How near is near: distances as percentiles of the catalogue, and what matches in words."""

from collections.abc import Iterable, Mapping

import numpy as np

from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.structures import TEMPO

SAMPLE, SEED = 4_096, 0  # tracks that stand for a catalogue, always the same
NEAR_TEMPO = 0.08  # share by which tempi may differ to be called near, octaves apart
ROUNDING = 1e-9  # of a share


def sample_rows(n_tracks: int) -> np.ndarray:
    """Return the rows that stand for a catalogue: all of a small one, (R,) ascending.

    >>> sample_rows(3).tolist(), len(sample_rows(1_000_000))
    ([0, 1, 2], 4096)
    """
    if n_tracks <= SAMPLE:
        return np.arange(n_tracks)
    return np.sort(np.random.default_rng(SEED).choice(n_tracks, SAMPLE, replace=False))


def percentile(value: float, of_sample: np.ndarray) -> float:
    """Return how much of a sample, in percent, is farther away than a value; the sample (R,) is sorted.

    >>> percentile(2.0, np.array([1.0, 2.0, 3.0, 4.0]))
    50.0
    """
    return 100.0 * (1 - float(np.searchsorted(of_sample, value, "right")) / len(of_sample))


def joint_labels(tracks: Iterable[CatalogueTrack], condition: str) -> list[str] | float | None:
    """Return what several seeds say of a condition: all their tags, or the middle of their tempi; None if nothing.

    >>> tracks = [CatalogueTrack(str(bpm), None, None, {"tempo": bpm}) for bpm in (90.0, 120.0, 125.0)]
    >>> round(joint_labels(tracks, "tempo"), 3)
    120.0
    """
    found = [track.labels[condition] for track in tracks if condition in track.labels]
    tempi = [label for label in found if not isinstance(label, list)]
    if tempi:
        return float(np.exp(np.median(np.log(tempi))))
    return list(dict.fromkeys(label for labels in found for label in labels)) or None


def explain(
    seed_labels: Mapping[str, list[str] | float],
    track: CatalogueTrack,
    near_tempo: float = NEAR_TEMPO,
    change: tuple[float, float] | None = None,
) -> str:
    """Return in words what a track has in common with the seeds; the seeds' tempo comes first.

    Args:
        seed_labels: What the seeds are, per condition.
        track: The track.
        near_tempo: Share by which tempi may differ, octaves apart.
        change: Least and most change of tempo, as shares, that was asked for; None: none was.

    >>> explain({"tempo": 124.0, "mood": ["calm"]}, CatalogueTrack("a", None, None, {"mood": ["calm", "sad"], "tempo": 126.0}))
    'tempo 124 / 126, mood calm'
    >>> explain({"tempo": 124.0}, CatalogueTrack("a", None, None, {"tempo": 90.0}))
    ''
    >>> explain({"tempo": 68.0}, CatalogueTrack("a", None, None, {"tempo": 125.0}), 0.15)
    'tempo 68 / 125 (half: 62)'
    """
    words = []
    for name, wanted in seed_labels.items():
        own = track.labels.get(name)
        if isinstance(own, list) and isinstance(wanted, list):
            shared = [label for label in own if label in wanted]
            words += [f"{name} {', '.join(shared)}"] if shared else []
        elif name == TEMPO and own and not isinstance(wanted, list) and is_near_tempo(wanted, own, near_tempo):
            words.append(
                f"{name} {wanted:.0f} / {own:.0f}{octave_note(wanted, own, change or (-near_tempo, near_tempo))}"
            )
    return ", ".join(words)


def octave_note(wanted: float, own: float, change: tuple[float, float]) -> str:
    """Return in words that not a tempo itself but its half or double is as it was wanted; empty where the tempo is.

    Args:
        wanted: Of the seeds.
        own: Of the track.
        change: Least and most change, as shares, that is wanted.

    >>> octave_note(120, 62, (-0.08, 0.08)), octave_note(120, 125, (-0.08, 0.08))
    (' (double: 124)', '')
    >>> octave_note(100, 130, (-0.4, -0.15)), octave_note(100, 130, (0.15, 0.4)), octave_note(100, 62, (-0.4, -0.15))
    (' (half: 65)', '', '')
    """
    word, octave = ("half", own / 2) if own > wanted else ("double", own * 2)
    is_own, is_octave = (change[0] - ROUNDING <= bpm / wanted - 1 <= change[1] + ROUNDING for bpm in (own, octave))
    # Where neither is, by a hair, the nearer one was meant.
    is_meant = is_octave or abs(np.log2(own / wanted)) > 0.5
    return f" ({word}: {octave:.0f})" if is_meant and not is_own else ""


def octaves_of(share: float) -> float:
    """Return by how many octaves tempi may differ; half of a tempo is an octave already."""
    return -float(np.log2(1 - min(share, 0.5)))


def is_near_tempo(one: float, other: float, share: float = NEAR_TEMPO) -> bool:
    """Return whether two tempi are near, or an octave apart.

    >>> is_near_tempo(124, 126), is_near_tempo(124, 62), is_near_tempo(124, 90)
    (True, True, False)
    >>> is_near_tempo(100, 150, 1.5)
    True
    """
    octaves = np.log2(one / other)
    nearest = min(1.0, max(-1.0, float(np.round(octaves))))
    return bool(abs(octaves - nearest) <= octaves_of(share))
