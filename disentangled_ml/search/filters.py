"""Which tracks of a catalogue may be found."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from disentangled_ml.search.catalogue import EmbeddedCatalogue
from disentangled_ml.structures import name_code

OCTAVES = (0.5, 1.0, 2.0)  # of a tempo, about which people and programs disagree


@dataclass(frozen=True)
class SearchFilters:
    """Tracks that may be found.

    Attributes:
        without_row: Row that is left out, that of the query.
        without_artist: Artist whose tracks are left out.
        tempo: Slowest and fastest in BPM; it leaves out tracks of unknown tempo.
    """

    without_row: int | None = None
    without_artist: str | None = None
    tempo: tuple[float, float] | None = None

    def allowed(self, catalogue: EmbeddedCatalogue) -> np.ndarray | None:
        """Return which rows may be found: (N,) bool, or None for all. Raises ValueError for a range of tempi that is none."""
        tempo = check_tempo(self.tempo)
        if self == SearchFilters():
            return None
        rows = () if self.without_row is None else (self.without_row,)
        artists = () if self.without_artist is None else (self.without_artist,)
        return others(catalogue, rows, artists) & (True if tempo is None else has_tempo(catalogue, tempo))


def others(catalogue: EmbeddedCatalogue, rows: Iterable[int], artists: Iterable[str | None]) -> np.ndarray:
    """Return which tracks are none of some rows, and by none of some artists, where these are known: (N,) bool."""
    allowed = np.ones(len(catalogue), bool)
    codes = sorted({name_code(artist) for artist in artists if artist})
    if codes:
        allowed &= ~np.isin(catalogue.columns["artist"], codes)
    allowed[list(rows)] = False
    return allowed


def has_tempo(
    catalogue: EmbeddedCatalogue, tempo: tuple[float, float], octaves: Sequence[float] = (1.0,)
) -> np.ndarray:
    """Return which tracks have a tempo in a range, itself or in one of the octaves: (N,) bool; unknown tempi are in none."""
    known = catalogue.columns["tempo"]
    return np.logical_or.reduce([(known * octave >= tempo[0]) & (known * octave <= tempo[1]) for octave in octaves])


def check_tempo(tempo: Sequence[float] | None) -> tuple[float, float] | None:
    """Return the range of tempi. Raises ValueError if it is none.

    >>> check_tempo([90, 120])
    (90.0, 120.0)
    """
    if tempo is None:
        return None
    if len(tempo) != 2 or not 0 <= tempo[0] <= tempo[1] < math.inf:
        raise ValueError(f"tempo={list(tempo)} is no range: give the slowest and the fastest in BPM, as tempo=[90,120]")
    return float(tempo[0]), float(tempo[1])


def check_change(change: Sequence[float] | None) -> tuple[float, float] | None:
    """Return the range of a relative tempo, as shares. Raises ValueError if it is none.

    >>> check_change([-0.15, -0.05])
    (-0.15, -0.05)
    """
    if change is None:
        return None
    if len(change) != 2 or not -1 < change[0] <= change[1] < math.inf:
        raise ValueError(
            f"tempo_change={list(change)} is no range: give the least and the most, as (-0.15, -0.05) for 5 to 15 % slower"
        )
    return float(change[0]), float(change[1])


def changed_tempo(tempo: float, change: tuple[float, float]) -> tuple[float, float]:
    """Return the range of tempi that a relative one means.

    >>> changed_tempo(100.0, (-0.5, 0.25))
    (50.0, 125.0)
    """
    return tempo * (1 + change[0]), tempo * (1 + change[1])
