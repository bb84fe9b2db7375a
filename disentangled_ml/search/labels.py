"""Which tracks of a catalogue have a label."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from disentangled_ml.search.catalogue import CatalogueTrack, EmbeddedCatalogue
from disentangled_ml.structures import TEMPO


@dataclass(frozen=True)
class LabelledTracks:
    """Rows of the tracks of each label, ``{condition: {label: rows}}``."""

    rows: dict[str, dict[str, np.ndarray]]

    @classmethod
    def read(cls, catalogue: EmbeddedCatalogue) -> "LabelledTracks":
        return cls(rows_by_label(catalogue.every_track()))

    def find(self, condition: str, label: str) -> np.ndarray:
        """Return the rows (R,) of a label, R >= 1. Raises ValueError if no track has it, naming labels that are near.

        >>> LabelledTracks({"mood": {"calm": np.array([3])}}).find("mood", "calm").tolist()
        [3]
        """
        if condition == TEMPO:
            raise ValueError(
                f"labels.{TEMPO}={label}: a tempo is no label, give it as a range, tempo=[slowest,fastest]"
            )
        known = self.rows.get(condition, {})
        if label not in known:
            near = difflib.get_close_matches(str(label), known, n=3, cutoff=0.5) or sorted(known)[:10]
            there = f"; there are {', '.join(near)}" if near else f", and no track has a label of {condition}"
            raise ValueError(f"labels.{condition}={label}: no track of the catalogue has it{there}")
        return known[label]


def rows_by_label(tracks: Iterable[CatalogueTrack]) -> dict[str, dict[str, np.ndarray]]:
    """Return the rows of each label of each condition.

    >>> tracks = [CatalogueTrack("a", None, None, {"mood": ["calm"]}), CatalogueTrack("b", None, None, {"tempo": 90.0})]
    >>> rows_by_label(tracks)
    {'mood': {'calm': array([0])}}
    """
    found: dict[str, dict[str, list[int]]] = {}
    for row, track in enumerate(tracks):
        for condition, labels in track.labels.items():
            for label in labels if isinstance(labels, list) else ():
                found.setdefault(condition, {}).setdefault(label, []).append(row)
    return {name: {label: np.array(rows) for label, rows in own.items()} for name, own in found.items()}
