import pytest

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
