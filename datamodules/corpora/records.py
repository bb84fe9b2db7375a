"""What every reader of a data set gives: a catalogue, whose rows are streamed as often as they are asked for.

A catalogue can have millions of rows, so a reader holds none of them: ``rows()`` begins to read anew each time, always in the
same order. A row that cannot be used is given as ``Rejected``, with the reason, and reading goes on. Whether a recording is there
is found out when it is decoded, not by the reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from disentangled_ml.structures import SPLITS

TEMPO = "tempo"
WHOLE = (0.0, None)


class TrackRecord(NamedTuple):
    """Hold one recording and its labels as a catalogue gives them.

    Attributes:
        track_id: Unique name.
        path: Of the audio file.
        artist: None where unknown.
        split: ``train``, ``val`` or ``test``.
        labels: Tags (list of str) per tag condition, and ``tempo`` (float, BPM); a missing label is absent.
        section: Stretch of the recording, from and to where in seconds; None: to its end.
    """

    track_id: str
    path: str
    artist: str | None
    split: str
    labels: dict[str, list[str] | float]
    section: tuple[float, float | None] = WHOLE

    def content(self) -> str:
        """Give the text that the record is known by in a plan; records of whole recordings keep that which they had before sections.

        >>> TrackRecord("a", "a.wav", None, "val", {}).content()
        "TrackRecord(track_id='a', path='a.wav', artist=None, split='val', labels={})"
        """
        return repr(self).replace(f", section={WHOLE})", ")") if self.section == WHOLE else repr(self)


class Rejected(NamedTuple):
    """Hold one line of ``rejected.csv``."""

    track_id: str
    path: str
    reason: str


class Catalogue(NamedTuple):
    """Hold what a reader gives.

    Attributes:
        conditions: Names, in order.
        rows: Streams all rows from the beginning at each call; a track_id may come twice, the first one counts.
    """

    conditions: list[str]
    rows: Callable[[], Iterator[TrackRecord | Rejected]]


DUPLICATE = "duplicate track_id, the first one is kept"


def collect(catalogue: Catalogue) -> tuple[list[TrackRecord], list[Rejected]]:
    """Read all rows at once, usable ones and others; for catalogues that are small."""
    records: dict[str, TrackRecord] = {}
    rejected = []
    for row in catalogue.rows():
        if isinstance(row, Rejected):
            rejected.append(row)
        elif row.track_id in records:
            rejected.append(Rejected(row.track_id, row.path, DUPLICATE))
        else:
            records[row.track_id] = row
    return list(records.values()), rejected


def draw_split(group: str, shares: Sequence[float]) -> str:
    """Draw the split of an artist or a track from a stable hash of its name.

    >>> draw_split("Miles Davis", [0.7, 0.1, 0.2]) == draw_split("Miles Davis", [0.7, 0.1, 0.2])
    True
    """
    point = int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "big") / 2**64
    for split, share in zip(SPLITS, shares, strict=True):
        if point < share:
            return split
        point -= share
    return SPLITS[0]
