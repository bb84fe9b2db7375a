import os
import tarfile
from pathlib import Path

import pytest

from datamodules.shards import subset
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.subset import write_subset
from datamodules.shards.tar import read_infos, read_samples, share_slices


def ids(index: ShardIndex, split: str) -> set[str]:
    return {info.track_id for info in read_infos(index, split)}


def samples(index: ShardIndex, split: str) -> dict[str, dict]:
    members = ("json", "mel.npy", "musicnn.npy")
    found = read_samples(index.root, share_slices(index.splits[split], 0, 1), members)
    return {sample["__key__"]: {member: sample[member] for member in members} for sample in found}


def test_a_subset_has_fewer_training_tracks_as_they_were_and_all_others(make_shards, tmp_path):
    index = make_shards(train=20, val=5, test=4, features=("msd",))
    write_subset(index, 7, tmp_path / "few")
    few = ShardIndex.read(tmp_path / "few")
    assert (few.count("train"), few.count("val"), few.count("test")) == (7, 5, 4)
    assert (few.audio, few.conditions, few.features) == (index.audio, index.conditions, index.features)
    whole = samples(index, "train")
    for key, sample in samples(few, "train").items():
        assert sample == whole[key]
    for split in ("val", "test"):
        assert samples(few, split) == samples(index, split)


def test_a_smaller_subset_is_part_of_a_larger_one(make_shards, tmp_path):
    index = make_shards(train=20, val=1, test=1)
    found = [ids(write_subset(index, n, tmp_path / str(n)), "train") for n in (3, 8, 20)]
    assert found[0] < found[1] < found[2] == ids(index, "train")


@pytest.mark.parametrize("n", [0, 21])
def test_other_numbers_are_refused(make_shards, tmp_path, n):
    with pytest.raises(ShardsError, match=rf"has 20 training tracks, no {n} of them"):
        write_subset(make_shards(train=20), n, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_subset_is_the_same_however_often_it_is_written(make_shards, tmp_path):
    index = make_shards(train=20, val=2)
    first, second = (write_subset(index, 7, tmp_path / name) for name in "ab")
    assert first.fingerprint() == second.fingerprint()


def test_samples_are_written_one_at_a_time(make_shards, tmp_path, monkeypatch):
    index, held = make_shards(train=20, val=2), []

    def write(path: Path, samples) -> None:
        held.append(iter(samples) is samples)
        return write_shard(path, samples)

    write_shard = subset.write_shard
    monkeypatch.setattr(subset, "write_shard", write)
    write_subset(index, 7, tmp_path / "few")
    assert held == [True]


@pytest.mark.parametrize("can_link", [True, False], ids=["links", "no links"])
def test_other_splits_are_links_where_there_can_be_some(make_shards, tmp_path, monkeypatch, can_link):
    index = make_shards(train=20, val=5, test=4)

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not can_link:
        monkeypatch.setattr(os, "link", refuse)
    few = write_subset(index, 7, tmp_path / "few")
    for split in ("val", "test"):
        for shard in index.splits[split]:
            assert (few.root / shard.file).samefile(index.root / shard.file) == can_link
            assert (few.root / shard.file).read_bytes() == (index.root / shard.file).read_bytes()


def test_a_missing_shard_is_named(make_shards, tmp_path):
    index = make_shards(train=20, val=5, test=4)
    (index.root / "test-000000.tar").unlink()
    with pytest.raises(ShardsError, match=r"shards/test-000000\.tar does not exist: prepare it anew"):
        write_subset(index, 7, tmp_path / "few")
    assert not (tmp_path / "few/index.json").exists()


def test_labels_of_other_tracks_are_refused(make_shards, tmp_path):
    index = make_shards(train=20)
    labels = index.root / "labels-train.jsonl"
    infos = [info._replace(track_id=f"other {info.track_id}") for info in read_infos(index, "train")]
    labels.write_text("".join(subset.as_json(info.as_plain()) + "\n" for info in infos))
    with pytest.raises(ShardsError, match=r"has other training tracks than labels-train\.jsonl names"):
        write_subset(index, 7, tmp_path / "few")
    assert not (tmp_path / "few/index.json").exists()


@pytest.mark.parametrize("kind", [{}, {"features": ("msd",)}, {"waveform": True}], ids=["mel", "features", "waveform"])
def test_samples_have_the_members_that_the_index_names(make_shards, tmp_path, kind):
    index = make_shards(train=4, **kind)
    write_subset(index, 2, tmp_path / "few")
    for root, shards in ((index.root, index), (tmp_path / "few", ShardIndex.read(tmp_path / "few"))):
        with tarfile.open(root / "train-000000.tar") as tar:
            found = {name.partition(".")[2] for name in tar.getnames()}
        assert found == set(shards.members())
