"""Conditions by name, and the data module without a trainer."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from datamodules.batches.composer import BatchPlan
from datamodules.datamodule import SimilarityDataModule
from datamodules.shards.conditions import build_conditions
from datamodules.shards.index import ShardsError
from disentangled_ml.objective.conditions import TagCondition, TempoCondition
from disentangled_ml.structures import ChunkBatch, TrackChunks

PLAN = BatchPlan(
    chunk_frames=16, chunks_per_track=2, tracks_per_batch=8, pool_tracks=16, triplets_per_condition=12, track_triplets=9
)
TEMPO = TempoCondition(relation="relative", margin=0.2)


@pytest.fixture
def index(make_shards):
    return make_shards(train=30, val=10, test=12)


def test_all_conditions_of_the_shards(index):
    genre, mood, tempo = build_conditions(index)
    assert genre == TagCondition("genre", ("blues", "jazz", "rock"))
    assert (mood.name, tempo) == ("mood", TempoCondition())


def test_named_conditions_in_their_order(index):
    assert [condition.name for condition in build_conditions(index, ["tempo", "genre"])] == ["tempo", "genre"]
    assert build_conditions(index, ["tempo"], TEMPO) == [TEMPO]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["genre", "gnere"], "condition 'gnere' is not in .*: choose from genre, mood, tempo"),
        ([], r"conditions \[\] are none or not distinct; .* has genre, mood, tempo"),
        (["mood", "mood"], "are none or not distinct"),
    ],
)
def test_conditions_that_cannot_be(index, names, match):
    with pytest.raises(ShardsError, match=match):
        build_conditions(index, names)


def test_shards_without_any_label(index):
    with pytest.raises(ShardsError, match="has no conditions"):
        build_conditions(replace(index, conditions=[]))


@pytest.fixture
def data(index):
    data = SimilarityDataModule(index, build_conditions(index), plan=PLAN, list_size=20, eval_tracks_per_batch=4)
    data.setup("fit")
    return data


def test_training_batches(data):
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 8
    for batch in batches:
        assert isinstance(batch, ChunkBatch)
        assert batch.audio.shape == (16, 1, 4, 16)
        assert torch.bincount(batch.triplets.condition).tolist() == [12, 12, 12, 9]


@pytest.mark.parametrize(("split", "n"), [("val", 10), ("test", 12)])
def test_evaluation_batches_hold_every_member_of_the_list(data, split, n):
    loader = getattr(data, f"{split}_dataloader")()
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert all(isinstance(batch, TrackChunks) for batch in batches)
    there = set()
    for batch in batches:
        there |= {
            (batch.track_ids[row], start) for row, start in zip(batch.track.tolist(), batch.start.tolist(), strict=True)
        }
    assert {track_id for track_id, _ in there} == {info.track_id for info in data.infos[split]}
    assert len(data.infos[split]) == n
    for triplet in data.triplets[split]:
        for member in triplet[1:]:
            assert (member.track_id, member.start or 0) in there


def test_setup_reads_once(data, monkeypatch):
    before = dict(data.triplets)
    monkeypatch.setattr("datamodules.datamodule.read_infos", None)
    data.setup("test")
    assert data.triplets == before


def test_place_and_epoch_are_the_trainer_s(data):
    device = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=1, world_size=3, global_step=0, strategy=device)
    loader = data.train_dataloader()
    assert (loader.dataset.source.rank, loader.dataset.source.world_size) == (1, 3)
    assert data.val_dataloader().dataset.source.rank == 1
    for epoch, batch in ((0, 0), (0, 1), (1, 0), (1, 0), (1, len(loader) - 1), (2, 0)):
        data.trainer.global_step = epoch * len(loader) + batch
        iter(loader)
        assert (loader.dataset.epoch, loader.dataset.first_batch) == (epoch, batch)
    state, data.epoch = data.state_dict(), {}
    data.trainer.global_step = 5 * len(loader) + 1  # of a checkpoint that does not tell the epoch
    assert data.place() == (5, 1)
    data.load_state_dict({**state, "epoch": {"number": 2, "first_step": 2 * len(loader), "steps": 10**6}})
    data.trainer.global_step = 2 * len(loader)
    assert data.place() == (2, 0)
    assert data.epoch["steps"] == len(loader)  # the number of processes may have changed between two epochs
    data.load_state_dict(state)
    data.trainer.global_step = 2 * len(loader) + 1
    assert data.place() == (2, 1)
    data.epoch = {"number": 6, "first_step": 100, "steps": 7}  # of other numbers of processes or workers
    for step, place in ((101, (6, 1)), (106, (6, 6)), (107, (7, 0)), (108, (7, 1)), (107 + len(loader), (8, 0))):
        data.trainer.global_step = step
        assert data.place() == place


def test_a_run_goes_on_with_the_same_content_alone(index):
    """Labels, artists and sound are seen in the digests of the shards, where all else is the same."""

    def data_of(digest: str) -> SimilarityDataModule:
        first, *others = index.splits["train"]
        changed = replace(index, splits={**index.splits, "train": [replace(first, digest=digest), *others]})
        return SimilarityDataModule(changed, build_conditions(index), plan=PLAN)

    state = {"epoch": {}, "shards": data_of("a").index.fingerprint()}
    data_of("a").load_state_dict(state)
    with pytest.raises(ShardsError, match=rf"{index.root} was prepared anew since the checkpoint was made"):
        data_of("b").load_state_dict(state)


def test_within_an_epoch_the_number_of_loading_processes_is_kept(data, index):
    loader = data.train_dataloader()
    loader.load_state_dict(loader.state_dict())
    other = SimilarityDataModule(index, build_conditions(index), plan=PLAN, workers=2).train_dataloader()
    with pytest.raises(
        ShardsError,
        match=r"within an epoch of 1 processes with data.workers=0, not 1 processes with data.workers=2: go on",
    ):
        other.load_state_dict(loader.state_dict())


def test_without_a_trainer_epoch_follows_epoch(data):
    loader = data.train_dataloader()
    first, second = list(loader), list(loader)
    assert not any(torch.equal(a.audio, b.audio) for a, b in zip(first, second, strict=True))


def test_the_pool_is_shared_by_the_workers(index):
    def pool(workers: int) -> int:
        data = SimilarityDataModule(index, build_conditions(index), plan=PLAN, workers=workers)
        return data.train_dataloader().dataset.plan.pool_tracks

    assert [pool(workers) for workers in (0, 1, 2)] == [16, 16, 8]
