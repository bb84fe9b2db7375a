"""Which track goes into which shard: planned from the corpus alone, so that every process on every machine plans the same.

The rows of a corpus are streamed, never held: the plan keeps a few bytes of each, by their number in reading order. Tracks are
mixed by a stable hash of their ids, since catalogues are often sorted by genre. The plan knows nothing of parts: part k of n makes
every n-th shard from the k-th on, so that the shards are the same for any n.
"""

import hashlib
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.shards.resumable import Batch
from disentangled_ml.structures import DUPLICATE, SPLITS, Corpus, Rejected, TrackRecord, stable_hash

CHANGED = "the corpus changed while it was read: begin anew when it is at rest"


@dataclass(frozen=True)
class ShardPlan:
    """Which usable row of a corpus goes where.

    Attributes:
        fingerprint: Of the tracks of each shard and of the settings, not of what else is known about the tracks.
        names: Of the shards.
        shard: (N,) int64, number of the shard of each usable row in reading order, -1 for a repeated track.
        place: (N,) int64, place in the shard.
    """

    fingerprint: str
    names: list[str]
    shard: np.ndarray
    place: np.ndarray

    def batches(self, split: str = "") -> list[Batch]:
        """Return the shards, of one split or of all; those tracks count that turn out to be unusable."""
        sizes = np.bincount(self.shard[self.shard >= 0], minlength=len(self.names)).tolist()
        return [Batch(*shard) for shard in zip(self.names, sizes, strict=True) if shard[0].startswith(split)]


def plan_shards(corpus: Corpus, settings: str, tracks_per_shard: int) -> ShardPlan:
    """Plan the shards of a corpus.

    Args:
        corpus: To be divided.
        settings: Text that tells all else that the content of the shards depends on; enters the fingerprint.
        tracks_per_shard: Tracks in a tar.
    """
    content = hashlib.blake2b(settings.encode(), digest_size=16)
    splits, keys = array("b"), array("Q")
    for record in usable_rows(corpus):
        splits.append(SPLITS.index(record.split))
        keys.extend(divmod(stable_hash(record.track_id, 64) >> 384, 1 << 64))
    split, key = np.asarray(splits), np.asarray(keys).reshape(-1, 2)
    # Stable: of a repeated track, the row that is read first comes first.
    order = np.lexsort((key[:, 1], key[:, 0]))
    repeated = np.zeros(len(split), bool)
    repeated[order[1:]] = (key[order[1:]] == key[order[:-1]]).all(1)
    shard, place = np.full((2, len(split)), -1, np.int64)
    names: list[str] = []
    for code, name in enumerate(SPLITS):
        members = order[(split[order] == code) & ~repeated[order]]
        rank = np.arange(len(members))
        content.update(f"{name} {len(members)}".encode() + key[members].tobytes())
        shard[members], place[members] = len(names) + rank // tracks_per_shard, rank % tracks_per_shard
        names += [f"{name}-{number:06d}" for number in range(-(-len(members) // tracks_per_shard))]
    return ShardPlan(content.hexdigest(), names, shard, place)


def usable_rows(corpus: Corpus) -> Iterator[TrackRecord]:
    """Stream the rows of a corpus that the reader did not reject; the plan numbers them."""
    return (row for row in corpus.rows() if not isinstance(row, Rejected))


def read_members(corpus: Corpus, plan: ShardPlan, wanted: Collection[int]) -> dict[int, list[TrackRecord]]:
    """Read the records of some shards, in the order in which they stand in them.

    Raises: ValueError: if the corpus has other rows than when it was planned.
    """
    found: dict[int, dict[int, TrackRecord]] = {shard: {} for shard in wanted}
    number = -1
    for number, record in enumerate(usable_rows(corpus)):
        if number == len(plan.shard):
            raise ValueError(CHANGED)
        shard = int(plan.shard[number])
        if shard in found:
            found[shard][int(plan.place[number])] = record
    if number + 1 < len(plan.shard):
        raise ValueError(CHANGED)
    return {shard: [members[place] for place in sorted(members)] for shard, members in found.items()}


def rows_digest(rows: Iterable[TrackRecord]) -> str:
    """Return the digest of what rows say, but for where the recordings lie: a corpus may lie elsewhere today.

    >>> row = TrackRecord("a", "a.wav", None, "val", {"genre": ["jazz"]})
    >>> rows_digest([row]) == rows_digest([row._replace(path="b/a.wav")]) != rows_digest([row._replace(artist="Ann")])
    True
    """
    content = "\n".join(row._replace(path="").content() for row in rows)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def unusable_rows(corpus: Corpus, plan: ShardPlan) -> Iterator[Rejected]:
    """Stream the rows that are in no shard: those the reader rejected and those that repeat a track."""
    number = -1
    for row in corpus.rows():
        if isinstance(row, Rejected):
            yield row
            continue
        number += 1
        if plan.shard[number] < 0:
            yield Rejected(row.track_id, row.path, DUPLICATE)
