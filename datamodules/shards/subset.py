"""Fewer training tracks of some shards, to learn how accuracy grows with their number."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.shards.index import Shard, ShardIndex, ShardsError, labels_name
from datamodules.shards.storage import Root, locate, opened
from datamodules.shards.tar import (
    decode_sample,
    read_infos,
    read_samples,
    sample_context,
    sample_key,
    share_slices,
    write_shard,
)
from disentangled_ml.files import as_json, atomic_write
from disentangled_ml.structures import SPLITS, TrackInfo, stable_hash


def write_subset(index: ShardIndex, n_tracks: int, out: Path) -> ShardIndex:
    """Write shards of ``n_tracks`` training tracks, and of all others; return their index.

    The tracks are those whose ids have the smallest hash, so that a smaller subset is part of a larger one. The other splits are
    linked to where the file system can, else copied.

    Args:
        index: Of shards in a folder, or behind an address.
        n_tracks: At most the number of training tracks.
        out: Folder of the new shards.

    Raises: ShardsError: if there are not so many, or a shard is missing or damaged.
    """
    if not 1 <= n_tracks <= index.count("train"):
        raise ShardsError(f"{index.root} has {index.count('train')} training tracks, no {n_tracks} of them")
    ids = sorted((info.track_id for info in read_infos(index, "train")), key=stable_hash)[:n_tracks]
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS[1:]:
        for shard in index.splits[split]:
            take_over(index.root, shard.file, out)
        take_over(index.root, labels_name(split), out, is_optional=True)
    infos: list[TrackInfo] = []
    written = write_shard(out / "train-000000.tar", named_samples(index, ids, infos))
    if len(infos) < n_tracks:
        raise ShardsError(f"{index.root} has other training tracks than {labels_name('train')} names: prepare it anew")
    with atomic_write(out / labels_name("train")) as labels:
        labels.writelines(as_json(info.as_plain()) + "\n" for info in infos)
    shard = Shard("train-000000.tar", n_tracks, written.digest)
    subset = replace(index, root=out, splits={**index.splits, "train": [shard]})
    subset.write()
    return subset


def named_samples(index: ShardIndex, ids: list[str], infos: list[TrackInfo]) -> Iterator[dict[str, Any]]:
    """Yield the samples of some training tracks, one at a time, in the order of the shards; add their labels to ``infos``."""
    keys = set(map(sample_key, ids))
    for sample in read_samples(index.root, share_slices(index.splits["train"], 0, 1), index.members()):
        if sample["__key__"] in keys:
            with sample_context(sample):
                decoded = decode_sample(sample)
            infos.append(decoded["info"])
            yield decoded


def take_over(root: Root, name: str, out: Path, is_optional: bool = False) -> None:
    """Link to a file of shards, or copy it. Raises ShardsError if it cannot be read, or is missing and not optional."""
    target = out / name
    if isinstance(root, Path):
        target.unlink(missing_ok=True)
        try:
            os.link((root / name).resolve(), target)
            return
        except OSError:
            # Another file system, one without links, or no file at all, which is told below.
            pass
    try:
        with opened(root, name) as source, atomic_write(target, "wb") as file:
            shutil.copyfileobj(source, file)
    except FileNotFoundError as error:
        if not is_optional:
            raise ShardsError(f"shard {locate(root, name)} does not exist: prepare it anew") from error
    except OSError as error:
        raise ShardsError(f"{locate(root, name)} cannot be copied ({error})") from error
