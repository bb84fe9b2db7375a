"""Damaged, truncated and missing shards are skipped, counted and named; too many of them end the run."""

import logging
import re
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from datamodules.batches.composer import BatchPlan
from datamodules.batches.loaders import StreamLoader
from datamodules.batches.streams import EvaluationStream, Source, TrainingStream
from datamodules.datamodule import SimilarityDataModule
from datamodules.shards.conditions import build_conditions
from datamodules.shards.index import ShardIndex, ShardsError

CHUNK_FRAMES = 16
PLAN = BatchPlan(
    CHUNK_FRAMES, chunks_per_track=2, tracks_per_batch=8, pool_tracks=10, triplets_per_condition=12, track_triplets=9
)
N_TRACKS = 24  # in four shards of six
SHARD = "train-000001.tar"  # t6 to t11


def rewrite(path: Path, member: str, data: bytes | None) -> None:
    """Replace a member of a tar, or leave it out."""
    with tarfile.open(path) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    assert member in members
    members[member] = data
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, BytesIO(content))


def spoil(path: Path, member: str, value: float) -> None:
    """Replace a value of a spectrogram in a tar."""
    with tarfile.open(path) as tar:
        mel = np.load(BytesIO(tar.extractfile(member).read()))
    mel[0, 3] = value
    buffer = BytesIO()
    np.save(buffer, mel)
    rewrite(path, member, buffer.getvalue())


def cut(path: Path) -> None:
    """Cut a tar in its second sample."""
    with tarfile.open(path) as tar:
        second = tar.getmember("t7.mel.npy").offset_data
    path.write_bytes(path.read_bytes()[: second + 100])


DAMAGE: dict[
    str, tuple[Callable[[Path], object], set[int], str]
] = {  # what is done, which tracks are lost, what is said
    "missing shard": (Path.unlink, {6, 7, 8, 9, 10, 11}, rf"shard .*{SHARD} cannot be read"),
    "truncated": (cut, {7, 8, 9, 10, 11}, rf"shard .*{SHARD} (cannot be read|ends after 1)"),
    "another file": (lambda p: p.write_bytes(b"<html>" * 999), {6, 7, 8, 9, 10, 11}, rf"{SHARD} cannot be read"),
    "labels": (lambda p: rewrite(p, "t8.json", b"{"), {8}, r"sample 't8': member json does not hold"),
    "spectrogram": (lambda p: rewrite(p, "t9.mel.npy", b"\0" * 99), {9}, r"sample 't9': member mel.npy is not"),
    "not a number": (
        lambda p: spoil(p, "t9.mel.npy", np.nan),
        {9},
        rf"{SHARD}, sample 't9': .*value nan in band 0 of frame 3",
    ),
    "a flipped bit": (
        lambda p: spoil(p, "t9.mel.npy", 6e4),
        {9},
        rf"{SHARD}, sample 't9': its spectrogram has the value 6",
    ),
    "negative": (
        lambda p: spoil(p, "t9.mel.npy", -1.0),
        {9},
        rf"{SHARD}, sample 't9': .*value -1.0 in band 0 of frame 3",
    ),
    "no member": (lambda p: rewrite(p, "t10.json", None), {10}, rf"{SHARD}, sample 4: no member 'json'"),
}


@pytest.fixture
def index(make_shards) -> ShardIndex:
    return make_shards(train=N_TRACKS, val=N_TRACKS)


def source_of(index: ShardIndex, max_damaged: float, **where: int) -> Source:
    return Source(index, build_conditions(index), chunk_frames=CHUNK_FRAMES, max_damaged=max_damaged, **where)


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_can_be_read_is_read_and_the_rest_is_counted(index, recognise, caplog, kind):
    damage, lost, said = DAMAGE[kind]
    damage(index.root / SHARD)
    stream = TrainingStream(source_of(index, 0.25), PLAN, seed=0)
    with caplog.at_level(logging.WARNING):
        batches = list(stream)
    assert len(batches) == len(stream)
    seen = {track for batch in batches for track, _ in recognise(batch.audio)}
    assert seen == set(range(N_TRACKS)) - lost
    assert stream.lost.tolist() == [[0, len(lost), 0, 0]]
    (message,) = (record.getMessage() for record in caplog.records)
    assert re.search(rf"skipped: .*{said}.*; {len(lost)} of {N_TRACKS} samples are lost", message)


@pytest.mark.parametrize("kind", DAMAGE)
def test_too_much_damage_ends_the_run_and_names_the_shard(index, kind):
    damage, lost, said = DAMAGE[kind]
    damage(index.root / SHARD)
    just_too_little = (len(lost) - 0.5) / N_TRACKS
    with pytest.raises(
        ShardsError, match=rf"{said}.*; {len(lost)} of {N_TRACKS} samples are lost, more than data.max_d"
    ):
        list(TrainingStream(source_of(index, just_too_little), PLAN, seed=0))


def test_damage_of_several_shards_adds_up(index):
    (index.root / SHARD).unlink()
    (index.root / "train-000003.tar").unlink()
    stream = TrainingStream(source_of(index, 0.5), PLAN, seed=0)
    assert len(list(stream)) == len(stream)
    assert stream.lost.tolist() == [[0, 6, 0, 6]]
    with pytest.raises(ShardsError, match=r"12 of 24 samples are lost, more than data.max_damaged=0.49"):
        list(TrainingStream(source_of(index, 0.49), PLAN, seed=0))


def test_each_epoch_counts_anew(index):
    (index.root / SHARD).unlink()
    stream = TrainingStream(source_of(index, 0.25), PLAN, seed=0)
    for epoch in range(3):
        stream.set_epoch(epoch)
        list(stream)
        assert stream.lost.tolist() == [[0, 6, 0, 0]]


def test_evaluation_gives_what_is_left(index):
    (index.root / "val-000002.tar").unlink()
    batches = list(EvaluationStream(source_of(index, 0.25), "val", tracks_per_batch=4))
    seen = {track_id for batch in batches for track_id in batch.track_ids}
    assert seen == {f"t{N_TRACKS + i}" for i in range(N_TRACKS) if not 12 <= i < 18}
    with pytest.raises(ShardsError, match=r"val-000002.tar cannot be read"):
        list(EvaluationStream(source_of(index, 0.0), "val", tracks_per_batch=4))


@pytest.mark.slow
def test_real_workers_tell_what_they_lost(index, recognise):
    (index.root / SHARD).unlink()
    stream = TrainingStream(source_of(index, 0.5, workers=2), PLAN, seed=0)
    batches = list(StreamLoader(stream, workers=2))
    assert len(batches) == len(stream)
    assert {track for batch in batches for track, _ in recognise(batch.audio)} == set(range(N_TRACKS)) - set(
        range(6, 12)
    )
    assert int(stream.lost.sum()) == 6


def test_of_several_processes_each_bears_what_the_split_may_lose(index):
    """A shard of six is half of the twelve tracks that a second process reads, and a quarter of the split."""
    (index.root / SHARD).unlink()
    for most, ends in ((0.25, False), (0.2, True)):
        streams = [TrainingStream(source_of(index, most, rank=rank, world_size=2), PLAN, seed=0) for rank in range(2)]
        said = []
        for stream in streams:
            try:
                assert len(list(stream)) == len(stream)
            except ShardsError as error:
                said.append(str(error))
        assert any("6 of 24 samples are lost, more than data.max_damaged=0.2" in text for text in said) == ends
        assert ends or sum(int(stream.lost.sum()) for stream in streams) == 6


def test_a_process_that_loses_more_than_half_of_its_share_ends_the_run(index):
    (index.root / SHARD).unlink()
    streams = [TrainingStream(source_of(index, 0.5, rank=rank, world_size=4), PLAN, seed=0) for rank in range(4)]
    said = []
    for stream in streams:
        try:
            assert len(list(stream)) == len(stream)
        except ShardsError as error:
            said.append(str(error))
    assert len(said) == 1
    assert said[0].endswith("more than half of what this process reads is lost")
    assert SHARD in said[0]


def test_the_losses_of_all_ranks_are_judged_together(index):
    (index.root / SHARD).unlink()
    data = SimilarityDataModule(index, build_conditions(index), plan=PLAN, max_damaged=0.25)
    list(data.train_dataloader())
    assert data.skipped_tracks() == {SHARD: 6}
    data.check_skipped(6)
    message = rf"7 of 24 training tracks cannot be read, more than data.max_damaged=0.25 allows \(.*/{SHARD} lacks 6\)"
    with pytest.raises(ShardsError, match=message):
        data.check_skipped(7)
