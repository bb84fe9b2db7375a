"""Features in shards: streamed with the chunks that they describe, of the networks that are asked for, or refused."""

import numpy as np
import pytest
import torch

from datamodules.batches.composer import BatchPlan
from datamodules.batches.streams import EvaluationStream, Source, TrainingStream
from datamodules.shards.conditions import build_conditions
from datamodules.shards.copies import without
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.tar import write_shard
from disentangled_ml.chunks import FEATURE_SIZE, unpack
from tests.datamodules.conftest import CHUNK_FRAMES, N_MELS, counted_features, counted_mel, info_of

PLAN = BatchPlan(CHUNK_FRAMES, chunks_per_track=2, tracks_per_batch=4, pool_tracks=8, track_triplets=4)


def source_of(index: ShardIndex, source: str) -> Source:
    return Source(index, build_conditions(index), source, CHUNK_FRAMES)


@pytest.mark.parametrize(
    ("stored", "source", "signs"),
    [
        (("msd",), "mel+msd", (1,)),
        (("msd", "mtt"), "mel+msd+mtt", (1, -1)),
        (("msd", "mtt"), "mel+mtt", (-1,)),
        (("msd", "mtt"), "mel+mtt+msd", (-1, 1)),
    ],
)
def test_every_chunk_comes_with_the_features_of_its_track(make_shards, stored, source, signs):
    stream = TrainingStream(source_of(make_shards(train=9, features=stored), source), PLAN, 0)
    n_chunks = 0
    for batch in stream:
        mels, features = unpack(batch.audio, FEATURE_SIZE * len(signs))
        assert mels.shape[1:] == (1, N_MELS, CHUNK_FRAMES)
        for mel, row in zip(mels, features.unflatten(1, (len(signs), FEATURE_SIZE)), strict=True):
            # A chunk of a third of a second at the beginning of its track is in window 0, and so is one of any track of a window.
            window = row[0, 0].abs() - 100 * mel[0, 0, 0]
            assert window in (0, 1)
            torch.testing.assert_close(row, row[:1].abs() * torch.tensor(signs)[:, None])
            n_chunks += 1
    assert n_chunks >= 18


def test_evaluation_sees_them_too(make_shards):
    stream = EvaluationStream(source_of(make_shards(val=4, features=("msd",)), "mel+msd"), "val")
    (batch,) = stream
    mels, features = unpack(batch.audio, FEATURE_SIZE)
    torch.testing.assert_close(features[:, 0] - features[:, 0] % 100, 100 * mels[:, 0, 0, 0])


def test_without_them_the_same_shards_are_read_as_ever(make_shards):
    with_features = make_shards(train=9, features=("msd",))
    batches = list(TrainingStream(source_of(with_features, "mel"), PLAN, 0))
    assert batches[0].audio.shape[1:] == (1, N_MELS, CHUNK_FRAMES)


@pytest.mark.parametrize(
    ("stored", "wanted", "held"),
    [((), "mel+msd", "but none"), (("msd",), "mel+msd+mtt", "of mtt, which this network reads, but those of msd")],
)
def test_features_must_be_there(make_shards, stored, wanted, held):
    with pytest.raises(ShardsError, match=rf"holds no musicnn features.*{held}: prepare with features=musicnn"):
        source_of(make_shards(train=3, features=stored), wanted)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 100), np.float16), r"its features have shape \(3, 100\), expected \(windows, 200\)"),
        (np.zeros((0, 200), np.float16), r"its features have shape \(0, 200\)"),
        (np.full((2, 200), np.nan, np.float16), "its features are not finite"),
        (np.zeros((2, 200), np.float32), r"member musicnn\.npy is not a float16 matrix"),
    ],
)
def test_damaged_features_are_named(make_shards, features, message):
    index = make_shards(train=1, features=("msd",))
    info = info_of(0)
    sample = {"info": info, "mel": counted_mel(0, info.frames), "musicnn": features}
    write_shard(index.root / index.splits["train"][0].file, iter([sample]))
    with pytest.raises(ShardsError, match=rf"sample 't0': {message}.*: prepare it anew"):
        list(TrainingStream(source_of(index, "mel+msd"), PLAN, 0))


def test_an_index_names_the_networks_and_no_others(make_shards):
    index = make_shards(train=1, features=("msd", "mtt"))
    assert ShardIndex.read(index.root).features == ("msd", "mtt")
    path = index.root / "index.json"
    path.write_text(path.read_text().replace('"mtt"', '"vgg"'))
    with pytest.raises(ShardsError, match=r"features are of \('msd', 'vgg'\), known are"):
        ShardIndex.read(index.root)


def test_a_shard_that_loses_a_track_keeps_the_features_of_the_others(make_shards, tmp_path):
    index = make_shards(train=3, features=("msd",))
    (shard,) = index.splits["train"]
    before = (index.root / shard.file).read_bytes()
    write_shard(tmp_path / "same.tar", without([], index.root, shard, ("mel.npy", "musicnn.npy")))
    assert (tmp_path / "same.tar").read_bytes() == before
    kept = list(without(["t1"], index.root, shard, ("mel.npy", "musicnn.npy")))
    assert [sample["info"].track_id for sample in kept] == ["t0", "t2"]
    np.testing.assert_array_equal(kept[1]["musicnn"], counted_features(2, 3, ("msd",)))
