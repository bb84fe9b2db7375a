"""Fewer training tracks of some shards, to learn how accuracy grows with their number."""

import shutil
from dataclasses import replace
from pathlib import Path

from datamodules.shards.index import Shard, ShardIndex, ShardsError, labels_name
from datamodules.shards.tar import FEATURES, MEMBERS, decode_sample, read_samples, share_slices, write_shard
from disentangled_ml.files import as_json, atomic_write
from disentangled_ml.structures import SPLITS, stable_hash


def write_subset(index: ShardIndex, n_tracks: int, out: Path) -> ShardIndex:
    """Write shards of ``n_tracks`` training tracks, and of all others; return their index.

    The tracks are those whose ids have the smallest hash, so that a smaller subset is part of a larger one.

    Args:
        index: Of shards in a folder.
        n_tracks: At most the number of training tracks.
        out: Folder of the new shards.

    Raises: ShardsError: if there are not so many, or a shard is damaged.
    """
    if not 1 <= n_tracks <= index.count("train"):
        raise ShardsError(f"{index.root} has {index.count('train')} training tracks, no {n_tracks} of them")
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS[1:]:
        for name in (labels_name(split), *(shard.file for shard in index.splits[split])):
            if (Path(index.root) / name).is_file():
                shutil.copyfile(Path(index.root) / name, out / name)
    members = (
        "json",
        MEMBERS["mel"],
        *([FEATURES] if index.features else []),
        *(["flac"] if index.has_waveform else []),
    )
    samples = map(decode_sample, read_samples(index.root, share_slices(index.splits["train"], 0, 1), members))
    kept = sorted(samples, key=lambda sample: stable_hash(sample["info"].track_id))[:n_tracks]
    shard = Shard("train-000000.tar", n_tracks, write_shard(out / "train-000000.tar", kept).digest)
    with atomic_write(out / labels_name("train")) as labels:
        labels.writelines(as_json(sample["info"].as_plain()) + "\n" for sample in kept)
    subset = replace(index, root=out, splits={**index.splits, "train": [shard]})
    subset.write()
    return subset
