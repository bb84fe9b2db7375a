"""The same recording under several ids: it may stand in one split alone, else what is tested has been trained on.

Recordings are compared by a code of their log-mel, which the note of each shard holds: the same sound in another file, or with
other tags in its file, is found. A copy stays in the test split, else in validation, so that these are what they were chosen to
be; in the other splits it is rejected. Copies within a split stay.
"""

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.index import Shard
from datamodules.shards.plan import ShardPlan, usable_rows
from datamodules.shards.resumable import BatchStore
from datamodules.shards.tar import ShardSlice, decode_info, decode_mel, read_samples
from disentangled_ml.structures import SPLITS, Corpus, Rejected

KEEPERS = SPLITS[::-1]  # which split keeps a recording, if several have it


def sound_code(mel: np.ndarray) -> int:
    """Return a number, from 0 to 2**64 - 1, that stands for a log-mel.

    >>> sound_code(np.zeros((2, 3), np.float16)) == sound_code(np.zeros((2, 3), np.float16)) != sound_code(np.ones((2, 3), np.float16))
    True
    """
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(mel), digest_size=8).digest(), "big")


def shared_codes(codes: list[np.ndarray]) -> set[int]:
    """Return the codes that several splits have, given those of each.

    >>> sorted(shared_codes([np.array([1, 1, 2]), np.array([2, 3]), np.array([3])]))
    [2, 3]
    """
    values, counts = np.unique(np.concatenate([np.unique(each) for each in codes]), return_counts=True)
    return set(values[counts > 1].tolist())


def reject_copies(corpus: Corpus, plan: ShardPlan, store: BatchStore, members: Sequence[str]) -> None:
    """Reject the tracks whose recording is in another split, which keeps it; their shards are written anew.

    Args:
        corpus: As it was planned.
        plan: Of the shards.
        store: Of the shards, all of which are finished.
        members: Of each sample, besides its labels.
    """
    copies = find_copies(plan, store)
    if not copies:
        return
    paths: dict[str, str] = {}
    for record in usable_rows(corpus):
        if record.track_id in copies:
            paths.setdefault(record.track_id, record.path)
    rejected = {name: Rejected(name, paths[name], reason) for name, reason in copies.items()}
    for batch in plan.batches():
        note = store.read_finished(batch)
        if any(track.track_id in rejected for track in note.tracks):
            shard = Shard(store.tar_path(batch).name, len(note.tracks))
            store.write(batch, chain(note.rejected, without(rejected, store.out, shard, members)))


def find_copies(plan: ShardPlan, store: BatchStore) -> dict[str, str]:
    """Return the tracks whose recording another split keeps, and the reason for which each is rejected."""
    shared = shared_codes([split_codes(plan, store, split) for split in KEEPERS])
    keepers: dict[int, tuple[str, str]] = {}
    copies = {}
    for split in KEEPERS if shared else ():
        for batch in plan.batches(split):
            note = store.read_finished(batch)
            # The notes of shards that were made before codes have none.
            for track, code in zip(note.tracks, note.sounds, strict=False):
                if code in shared:
                    keeper, name = keepers.setdefault(code, (split, track.track_id))
                    if keeper != split:
                        copies[track.track_id] = f"the same recording as {name!r} in {keeper}, which keeps it"
    return copies


def split_codes(plan: ShardPlan, store: BatchStore, split: str) -> np.ndarray:
    """Return the codes of the recordings of a split, (N,) uint64."""
    codes = array("Q")
    for batch in plan.batches(split):
        codes.extend(store.read_finished(batch).sounds)
    return np.asarray(codes, np.uint64)


def without(
    rejected: Mapping[str, Rejected], root: Path, shard: Shard, members: Sequence[str]
) -> Iterator[dict[str, Any] | Rejected]:
    """Yield the samples of a shard as they were, and in the place of those that are rejected their reason."""
    for sample in read_samples(root, [ShardSlice(shard, 0, shard.samples)], ("json", *members)):
        info = decode_info(sample["json"])
        if info.track_id in rejected:
            yield rejected[info.track_id]
        else:
            others = {"flac": sample["flac"]} if "flac" in members else {}
            yield {"info": info, "mel": decode_mel(sample["mel.npy"]), **others}
