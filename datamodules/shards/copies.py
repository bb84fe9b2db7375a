"""The same recording under several ids: it may stand in one split alone, else what is tested has been trained on.

Recordings are compared by a code of their log-mel, which the note of each shard holds: the same sound in another file, or with
other tags in its file, is found. A copy stays in the test split, else in validation, so that these are what they were chosen to
be; in the other splits it is rejected. Copies within a split stay.
"""

import hashlib
from array import array
from collections.abc import Collection, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.shards.index import Shard
from datamodules.shards.plan import ShardPlan
from datamodules.shards.resumable import Batch, BatchStore
from datamodules.shards.tar import ShardSlice, decode_sample, read_samples
from disentangled_ml.structures import SPLITS, quoted

KEEPERS = SPLITS[::-1]  # which split keeps a recording, if several have it


def sound_code(mel: np.ndarray) -> int:
    """Return a number, from 0 to 2**64 - 1, that stands for a log-mel.

    >>> sound_code(np.zeros((2, 3), np.float16)) == sound_code(np.zeros((2, 3), np.float16)) != sound_code(np.ones((2, 3), np.float16))
    True
    """
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(mel), digest_size=8).digest(), "big")


class NotedSounds(NamedTuple):
    """What the notes of all shards say about sound, some bytes of each track, so that the notes are read once.

    Attributes:
        codes: Per split those of its tracks in order, (N,) uint64.
        sizes: Per split the number of tracks in each shard.
        copies: Per split the shards of which tracks were rejected as copies, and the codes of these.
    """

    codes: dict[str, np.ndarray]
    sizes: dict[str, list[int]]
    copies: dict[str, dict[Batch, dict[str, int]]]

    def shards_with(self, codes: Collection[int], split: str, plan: ShardPlan) -> Iterator[Batch]:
        """Yield the shards of a split that have a recording with one of some codes."""
        is_one = np.isin(self.codes[split], np.array([*codes], np.uint64))
        ends = np.cumsum(self.sizes[split])
        for batch, end, size in zip(plan.batches(split), ends, self.sizes[split], strict=True):
            if is_one[end - size : end].any():
                yield batch


def read_sounds(plan: ShardPlan, store: BatchStore) -> NotedSounds:
    """Read what the notes of all shards, which are finished, say about sound."""
    sounds = NotedSounds({}, {}, {})
    for split in KEEPERS:
        codes, sizes = array("Q"), []
        sounds.copies[split] = {}
        for batch in plan.batches(split):
            note = store.read_finished(batch)
            codes.extend(note.sounds)
            sizes.append(len(note.sounds))
            if note.copies:
                sounds.copies[split][batch] = note.copies
        sounds.codes[split], sounds.sizes[split] = np.asarray(codes, np.uint64), sizes
    return sounds


def shared_codes(codes: list[np.ndarray]) -> set[int]:
    """Return the codes that several splits have, given those of each.

    >>> sorted(shared_codes([np.array([1, 1, 2]), np.array([2, 3]), np.array([3])]))
    [2, 3]
    """
    values, counts = np.unique(np.concatenate([np.unique(each) for each in codes]), return_counts=True)
    return set(values[counts > 1].tolist())


def find_copies(sounds: NotedSounds, plan: ShardPlan, store: BatchStore) -> dict[Batch, dict[str, str]]:
    """Return, of each shard that has some, the tracks whose recording another split keeps, and the reason for which each is rejected.

    Only notes of shards with a recording that several splits have are read again.
    """
    shared = shared_codes([sounds.codes[split] for split in KEEPERS])
    keepers: dict[int, tuple[str, str]] = {}
    copies: dict[Batch, dict[str, str]] = {}
    for split in KEEPERS if len(shared) else ():
        for batch in sounds.shards_with(shared, split, plan):
            note = store.read_finished(batch)
            for track, code in zip(note.tracks, note.sounds, strict=True):
                if code in shared:
                    keeper, name = keepers.setdefault(code, (split, track.track_id))
                    if keeper != split:
                        reason = f"the same recording as {quoted(name)} in {keeper}, which keeps it"
                        copies.setdefault(batch, {})[track.track_id] = reason
    return copies


def former_copies(sounds: NotedSounds) -> Iterator[tuple[Batch, list[str]]]:
    """Yield the tracks of each shard that were rejected as copies, of recordings that no split has any more that would keep them."""
    for number, split in enumerate(KEEPERS):
        kept = [sounds.codes[keeper] for keeper in KEEPERS[:number]]
        for batch, copies in sounds.copies[split].items():
            codes = np.array([*copies.values()], np.uint64)
            is_kept = np.any([np.isin(codes, each) for each in kept], axis=0) if kept else np.zeros(len(codes), bool)
            if released := [*compress(copies, ~is_kept)]:
                yield batch, released


def without(left_out: Collection[str], root: Path, shard: Shard, members: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the samples of a shard as they were, but for some tracks."""
    for sample in read_samples(root, [ShardSlice(shard, 0, shard.samples)], ("json", *members)):
        decoded = decode_sample(sample)
        if decoded["info"].track_id not in left_out:
            yield decoded
