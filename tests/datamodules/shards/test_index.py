"""The index round trip, and every way in which a file is no index."""

import hashlib
import json
from dataclasses import replace

import pytest

from datamodules.shards.index import INDEX_NAME, Shard, ShardIndex, ShardsError
from disentangled_ml.structures import AudioSettings


@pytest.fixture
def index(tmp_path) -> ShardIndex:
    conditions = [
        {"name": "genre", "kind": "tags", "vocabulary": ["jazz", "ópera"]},
        {"name": "tempo", "kind": "tempo"},
    ]
    splits = {"train": [Shard("train-000000.tar", 4), Shard("train-000001.tar", 3)], "val": [], "test": [Shard("x", 1)]}
    return ShardIndex(tmp_path, AudioSettings(n_mels=64), True, conditions, splits)


def test_round_trip(index):
    path = index.write()
    assert path == index.root / INDEX_NAME
    assert ShardIndex.read(index.root) == index
    assert [file.name for file in index.root.iterdir()] == [INDEX_NAME]


def test_count(index):
    assert [index.count(split) for split in ("train", "val", "test")] == [7, 0, 1]


def test_fingerprint_tells_contents_apart(index):
    index.write()
    others = [
        replace(index, audio=AudioSettings()),
        replace(index, has_waveform=False),
        replace(index, conditions=index.conditions[:1]),
        replace(index, splits={**index.splits, "test": []}),
    ]
    assert len({other.fingerprint() for other in [index, *others]}) == 5
    assert ShardIndex.read(index.root).fingerprint() == index.fingerprint()


def test_fingerprint_is_of_the_content_of_each_shard(index):
    first, *others = index.splits["train"]
    known = [
        replace(index, splits={**index.splits, "train": [replace(first, digest=d), *others]}) for d in ("", "a", "b")
    ]
    assert len({each.fingerprint() for each in known}) == 3
    assert json.loads(known[1].write().read_text())["digest"] == known[1].fingerprint()
    assert ShardIndex.read(index.root) == known[1]


def test_an_index_without_digests_is_read_and_has_the_fingerprint_that_it_had(index):
    """Old runs go on with old shards."""
    content = {key: value for key, value in json.loads(index.write().read_text()).items() if key != "digest"}
    assert all(set(shard) == {"file", "samples"} for shard in content["splits"]["train"]["shards"])
    (index.root / INDEX_NAME).write_text(json.dumps(content))
    old = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
    assert ShardIndex.read(index.root).fingerprint() == old


def test_missing_index_names_the_way_out(tmp_path):
    with pytest.raises(
        ShardsError, match=r"index.json does not exist: make the shards first, with prepare manifest=FILE"
    ):
        ShardIndex.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is not a shard index"),
        (b"{", "is not a shard index"),
        (b"\xff\xfe", "is not a shard index"),
        (b"[]", "is not a shard index"),
        (b"{}", "is not a shard index .*format_version"),
        (b'{"format_version": 2}', "has format version 2, expected 1: prepare it anew"),
        (b'{"format_version": 1}', "is not a shard index .*splits"),
    ],
)
def test_files_that_are_no_index(tmp_path, content, match):
    (tmp_path / INDEX_NAME).write_bytes(content)
    with pytest.raises(ShardsError, match=match) as error:
        ShardIndex.read(tmp_path)
    assert str(tmp_path / INDEX_NAME) in str(error.value)


@pytest.mark.parametrize("key", ["audio", "has_waveform", "conditions", "splits"])
def test_missing_keys(index, key):
    content = index.as_json()
    del content[key]
    (index.root / INDEX_NAME).write_text(json.dumps(content))
    with pytest.raises(ShardsError, match=f"is not a shard index .*{key}"):
        ShardIndex.read(index.root)


@pytest.mark.parametrize("key", ["audio", "splits"])
def test_keys_of_another_kind(index, key):
    content = {**index.as_json(), key: {"train": {"shards": [{"url": "x"}]}}}
    (index.root / INDEX_NAME).write_text(json.dumps(content))
    with pytest.raises(ShardsError, match="is not a shard index"):
        ShardIndex.read(index.root)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["splits"]["train"]["shards"][0].update(file="../x.tar"), "not the name of a file in this folder"),
        (lambda c: c["splits"]["train"]["shards"][0].update(file=5), "not the name of a file"),
        (lambda c: c["splits"]["train"]["shards"][0].update(samples=-1), "has -1 samples"),
        (lambda c: c["splits"]["train"]["shards"][0].update(digest=5), "the digest of shard 'train-000000.tar' is 5"),
        (lambda c: c["splits"]["val"].update(shards=c["splits"]["train"]["shards"]), "named twice"),
        (lambda c: c["audio"].update(n_mels=16.5), "n_mels is 16.5"),
        (lambda c: c.update(conditions=["genre"]), "not a shard index"),
        (lambda c: c["conditions"][0].update(kind="odd"), "of kind 'odd', legal: tags, tempo"),
        (lambda c: c["conditions"][0].update(name="mean"), "cannot be called 'mean'"),
        (lambda c: c["conditions"][0].update(vocabulary=["a", "a"]), "not a list of distinct tags"),
    ],
    ids=["outside", "no name", "samples", "digest", "twice", "audio", "condition", "kind", "reserved", "vocabulary"],
)
def test_hostile_contents(index, change, match):
    path = index.write()
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ShardsError, match=match):
        ShardIndex.read(index.root)


def test_a_folder_that_is_prepared_anew_is_noticed(make_shards):
    index = make_shards(train=7, val=3)
    index.check_unchanged()
    replace(index, has_waveform=not index.has_waveform).write()
    with pytest.raises(ShardsError, match=rf"^{index.root} was prepared anew, or is being, .* another run_name"):
        index.check_unchanged()
    (index.root / INDEX_NAME).unlink()  # as while shards are made anew
    with pytest.raises(ShardsError, match="was prepared anew, or is being"):
        index.check_unchanged()
    index.write()
    index.check_unchanged()


def test_a_folder_that_cannot_be_reached_for_a_moment_is_taken_to_be_the_same(make_shards, monkeypatch):
    index = make_shards(train=7)

    def fail(root, name):
        raise TimeoutError("the server has not answered")

    monkeypatch.setattr("datamodules.shards.index.opened", fail)
    index.check_unchanged()
