"""What readers of data sets share: rows held at once, where there are few, and the split of rows without one."""

from collections.abc import Sequence

from disentangled_ml.structures import DUPLICATE, SPLITS, Corpus, Rejected, TrackRecord, stable_hash


def collect(corpus: Corpus) -> tuple[list[TrackRecord], list[Rejected]]:
    """Read all rows at once, usable ones and others; for data sets that are small."""
    records: dict[str, TrackRecord] = {}
    rejected = []
    for row in corpus.rows():
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
    point = stable_hash(group) / 2**64
    for split, share in zip(SPLITS, shares, strict=True):
        if point < share:
            return split
        point -= share
    return SPLITS[0]
