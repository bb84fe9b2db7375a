"""The same recording under several ids: it may stand in one split alone, else what is tested has been trained on.

Recordings are compared by a code of their log-mel, which the note of each shard holds: the same sound in another file, or with
other tags in its file, is found. A copy stays in the test split, else in validation, so that these are what they were chosen to
be; in the other splits it is rejected. Copies within a split stay.
"""

import hashlib
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.index import Shard
from datamodules.shards.plan import ShardPlan
from datamodules.shards.resumable import Batch, BatchStore
from datamodules.shards.tar import ShardSlice, decode_info, decode_mel, read_samples
from disentangled_ml.structures import SPLITS, quoted

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


def find_copies(plan: ShardPlan, store: BatchStore) -> dict[str, str]:
    """Return the tracks whose recording another split keeps, and the reason for which each is rejected."""
    shared = shared_codes([split_codes(plan, store, split) for split in KEEPERS])
    keepers: dict[int, tuple[str, str]] = {}
    copies = {}
    for split in KEEPERS if shared else ():
        for batch in plan.batches(split):
            note = store.read_finished(batch)
            for track, code in zip(note.tracks, note.sounds, strict=True):
                if code in shared:
                    keeper, name = keepers.setdefault(code, (split, track.track_id))
                    if keeper != split:
                        copies[track.track_id] = f"the same recording as {quoted(name)} in {keeper}, which keeps it"
    return copies


def former_copies(plan: ShardPlan, store: BatchStore) -> Iterator[tuple[Batch, list[str]]]:
    """Yield the tracks of each shard that were rejected as copies, of recordings that no split has any more that would keep them."""
    for number, split in enumerate(KEEPERS):
        rejected = [(batch, copies) for batch in plan.batches(split) if (copies := store.read_finished(batch).copies)]
        if rejected:
            kept = {code for keeper in KEEPERS[:number] for code in split_codes(plan, store, keeper).tolist()}
            for batch, copies in rejected:
                if released := [name for name, code in copies.items() if code not in kept]:
                    yield batch, released


def split_codes(plan: ShardPlan, store: BatchStore, split: str) -> np.ndarray:
    """Return the codes of the recordings of a split, (N,) uint64."""
    codes = array("Q")
    for batch in plan.batches(split):
        codes.extend(store.read_finished(batch).sounds)
    return np.asarray(codes, np.uint64)


def without(left_out: Collection[str], root: Path, shard: Shard, members: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the samples of a shard as they were, but for some tracks."""
    for sample in read_samples(root, [ShardSlice(shard, 0, shard.samples)], ("json", *members)):
        info = decode_info(sample["json"])
        if info.track_id not in left_out:
            others = {"flac": sample["flac"]} if "flac" in sample else {}
            yield {"info": info, "mel": decode_mel(sample["mel.npy"]), **others}
