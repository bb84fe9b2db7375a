"""Every track, over any number of workers and ranks; legal chunks; the same for a seed, another for another epoch or worker."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import zip_longest

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.audio.spectrogram import log_mel
from datamodules.batches import streams
from datamodules.batches.composer import BatchPlan
from datamodules.batches.streams import EvaluationStream, Source, TrainingStream, mel_chunk, packed_chunk
from datamodules.shards.conditions import build_conditions
from datamodules.shards.index import ShardsError
from datamodules.shards.tar import write_shard
from disentangled_ml.chunks import unpack
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable
from disentangled_ml.structures import AudioSettings, ChunkBatch, Member, TrackInfo, name_code, seeded_generator

CHUNK_FRAMES = 16
PLAN = BatchPlan(
    CHUNK_FRAMES, chunks_per_track=2, tracks_per_batch=8, pool_tracks=10, triplets_per_condition=12, track_triplets=9
)
PLACES = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 2), (3, 5)]  # ranks, workers of each
PLACE_IDS = [f"{ranks} ranks x {workers} workers" for ranks, workers in PLACES]
FLAC_ATOL = 2e-3  # of the log-mel, for 16-bit samples
FLOAT16_ATOL = 0.04  # of numbers up to 128
EDGE = 2  # frames at either end of a chunk whose window reaches beyond it


@pytest.fixture
def source_of():
    def source_of(index, **where) -> Source:
        return Source(index, build_conditions(index), chunk_frames=CHUNK_FRAMES, **where)

    return source_of


@pytest.fixture
def everywhere(as_worker):
    """Iterate over a stream in every loading process of every rank: the batches, per rank and worker."""

    def everywhere(source: Source, make, ranks: int, workers: int) -> list[list[list]]:
        placed = [replace(source, rank=rank, world_size=ranks, workers=workers) for rank in range(ranks)]
        return [[as_worker(make(here), worker) for worker in range(max(1, workers))] for here in placed]

    return everywhere


def training(source: Source, seed: int = 0, epoch: int = 0, plan: BatchPlan = PLAN) -> TrainingStream:
    stream = TrainingStream(source, plan, seed)
    stream.set_epoch(epoch)
    return stream


def equal(a: ChunkBatch, b: ChunkBatch) -> bool:
    parts = [(batch.audio, *batch.triplets, *map(torch.nan_to_num, batch.tracks.labels)) for batch in (a, b)]
    return all(torch.equal(x, y) for x, y in zip(*parts, strict=True))


@pytest.mark.parametrize(("ranks", "workers"), PLACES, ids=PLACE_IDS)
@pytest.mark.parametrize(("n", "per_batch"), [(15, 8), (16, 8), (17, 8), (61, 8), (61, 2)])
def test_an_epoch_shows_every_track(make_shards, source_of, everywhere, recognise, n, per_batch, ranks, workers):
    index = make_shards(train=n, val=3)
    plan = replace(PLAN, tracks_per_batch=per_batch, pool_tracks=per_batch + 2)
    for epoch in range(2):
        batches = everywhere(source_of(index), partial(training, epoch=epoch, plan=plan), ranks, workers)
        chunks = [chunk for rank in batches for worker in rank for batch in worker for chunk in recognise(batch.audio)]
        assert {track for track, _ in chunks} == set(range(n))
        per_rank = {sum(map(len, rank)) for rank in batches}
        source = source_of(index, world_size=ranks, workers=workers)
        assert per_rank == {len(training(source, plan=plan))}


def test_chunks_are_legal_and_reach_both_ends(make_shards, source_of, recognise):
    frames = {0: CHUNK_FRAMES, 1: CHUNK_FRAMES + 1, 2: CHUNK_FRAMES + 2, 3: 40}

    def info(number: int) -> TrackInfo:
        return TrackInfo(f"t{number}", None, frames[number % 4], {"genre": ["rock"]})

    stream, seen = training(source_of(make_shards(train=8, info=info))), Counter()
    for epoch in range(60):
        stream.set_epoch(epoch)
        seen.update(chunk for batch in stream for chunk in recognise(batch.audio))
    starts = {number: {start for track, start in seen if track == number} for number in range(8)}
    assert {number: (min(s), max(s)) for number, s in starts.items()} == {
        number: (0, frames[number % 4] - CHUNK_FRAMES) for number in range(8)
    }


def test_a_track_shorter_than_a_chunk_is_an_error(make_shards, source_of):
    index = make_shards(
        train=3, info=lambda number: TrackInfo(f"t{number}", None, CHUNK_FRAMES - 1, {"genre": ["jazz"]})
    )
    with pytest.raises(ShardsError, match=r"track t\d of .* has 15 frames, fewer than data.chunk_frames=16"):
        list(training(source_of(index)))


def test_every_triplet_of_real_shards_is_valid(make_shards, source_of, recognise, check_triplets):
    source = source_of(make_shards(train=60))
    names = [condition.name for condition in source.conditions]
    counts = Counter()
    for batch in training(source):
        chunks, rows = recognise(batch.audio), []
        counts += Counter(batch.triplets.condition.tolist())
        for members, c in zip(batch.triplets.indices.tolist(), batch.triplets.condition.tolist(), strict=True):
            (anchor, start), (positive, other), (negative, _) = (chunks[i] for i in members)
            if c < 3:
                rows.append((names[c], anchor, positive, negative))
            else:
                assert anchor == positive != negative
                assert abs(start - other) >= CHUNK_FRAMES / 2
        check_triplets(rows)
    assert counts == {c: (9 if c == 3 else 12) * 15 for c in range(4)}


def test_a_seed_repeats_an_epoch_and_no_two_epochs_are_alike(make_shards, source_of):
    source = source_of(make_shards(train=40))
    stream = training(source)
    epochs = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        epochs.append(list(stream))
        assert all(equal(a, b) for a, b in zip(epochs[-1], stream, strict=True))
        assert all(equal(a, b) for a, b in zip(epochs[-1], training(source, epoch=epoch), strict=True))
    assert not any(equal(a, b) for a, b in zip(epochs[0], epochs[1], strict=True))
    other = list(training(source, seed=1))
    assert not any(equal(a, b) for a, b in zip(epochs[0], other, strict=True))


def test_consumers_draw_differently_and_change_their_tracks(make_shards, source_of, everywhere, recognise):
    source = source_of(make_shards(train=40, tracks_per_shard=40))  # one shard: its order does not depend on the epoch

    def tracks(epoch: int) -> list[set[int]]:
        (rank,) = everywhere(source, partial(training, epoch=epoch), 1, 2)
        return [{track for batch in worker for track, _ in recognise(batch.audio)} for worker in rank]

    first, second = tracks(0), tracks(1)
    assert not first[0] & first[1]
    assert first == second[::-1]


def test_consumers_do_not_draw_the_same_places(make_shards, source_of, everywhere):
    """With tracks that are all alike, what is drawn would else be the same in every loading process."""
    info = TrackInfo("", None, 99, {"genre": ["rock"]})
    source = source_of(make_shards(train=40, info=lambda number: info._replace(track_id=f"t{number}")))
    (rank,) = everywhere(source, training, 1, 2)
    a, b = (torch.cat([batch.triplets.indices for batch in worker]) for worker in rank)
    assert a.shape == b.shape
    assert not torch.equal(a, b)


@pytest.mark.parametrize("stretch", [0.0, 0.25])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 1), (1, 3), (2, 0), (2, 1), (2, 3)])
def test_what_is_left_of_an_epoch_is_its_tail(make_shards, source_of, everywhere, ranks, workers, stretch):
    """From any batch on, a loader, which asks its workers in turn, gets what it would have got."""
    source = source_of(make_shards(train=61))

    def loaded(first_batch: int) -> list[list[ChunkBatch]]:
        def make(here: Source) -> TrainingStream:
            stream = TrainingStream(here, replace(PLAN, stretch=stretch), seed=3)
            stream.set_epoch(2, first_batch)
            return stream

        rounds = [zip_longest(*rank) for rank in everywhere(source, make, ranks, workers)]
        return [[batch for turn in rank for batch in turn if batch is not None] for rank in rounds]

    whole = loaded(0)
    assert len(whole) == ranks
    for first_batch in range(len(whole[0]) + 1):
        for rest, batches in zip(loaded(first_batch), whole, strict=True):
            assert len(rest) == len(batches) - first_batch
            assert all(equal(a, b) for a, b in zip(rest, batches[first_batch:], strict=True))


def test_no_chunk_of_what_is_left_out_is_read(make_shards, source_of, monkeypatch):
    read = []
    monkeypatch.setattr(streams, "mel_chunk", lambda *a: read.append(a) or np.zeros((1, 4, CHUNK_FRAMES), np.float16))
    stream = training(source_of(make_shards(train=40)))
    for first_batch, n_read in ((0, 10), (7, 3), (10, 0)):
        stream.set_epoch(0, first_batch)
        read.clear()
        list(stream)
        assert len(read) == n_read * 16


@pytest.mark.slow
@pytest.mark.parametrize("stretch", [0.0, 0.25])
def test_real_workers_give_what_they_should(make_shards, source_of, everywhere, stretch):
    """Two ranks of two loading processes each, over two epochs, against the same streams in this process."""
    index, plan = make_shards(train=61), replace(PLAN, stretch=stretch)
    here = [everywhere(source_of(index), partial(training, epoch=epoch, plan=plan), 2, 2) for epoch in range(2)]
    tracks = [set(), set()]
    for rank in range(2):
        stream = training(source_of(index, rank=rank, world_size=2, workers=2), plan=plan)
        loader = DataLoader(
            stream, batch_size=None, num_workers=2, multiprocessing_context="forkserver", persistent_workers=True
        )
        assert len(loader) == len(stream)
        for epoch in range(2):
            stream.set_epoch(epoch)
            batches = list(loader)
            expected = [batch for pair in zip(*here[epoch][rank], strict=True) for batch in pair]
            assert all(equal(a, b) for a, b in zip(batches, expected, strict=True))
            stream.set_epoch(epoch, 3)
            assert all(equal(a, b) for a, b in zip(loader, expected[3:], strict=True))
            tracks[epoch] |= {int(track) for batch in batches for track in batch.audio[:, 0, 0, 0]}
    assert tracks == [set(range(61))] * 2


def test_chunks_of_stretched_tracks_are_made_of_their_spans(make_shards, source_of):
    """The frames of a chunk run evenly from the first to the last one of its span, within the track, and its bands stay apart."""
    source, seen = source_of(make_shards(train=40)), set()
    for batch in training(source, plan=replace(PLAN, stretch=0.25)):
        track, frame = batch.audio[:, 0, 0], batch.audio[:, 0, 1].float()
        assert batch.audio.dtype == torch.float16
        assert (track == track[:, :1]).all()
        assert (batch.audio[:, 0, 2:] == 0).all()
        for number, first, last in zip(
            track[:, 0].int().tolist(), frame[:, 0].tolist(), frame[:, -1].tolist(), strict=True
        ):
            assert 0 <= first < last <= CHUNK_FRAMES + number * 7 % 90 - 1
            assert last - first == int(last - first)
            seen.add(int(last - first) + 1)
        even = frame[:, :1] + (frame[:, -1:] - frame[:, :1]) * torch.linspace(0, 1, CHUNK_FRAMES)
        assert (frame - even).abs().max() < FLOAT16_ATOL
    assert seen == set(range(13, 20))


@pytest.mark.parametrize("span", [13, 19])
def test_features_of_a_stretched_chunk_are_those_of_its_span_as_it_was(span):
    audio, mel = AudioSettings(n_mels=4), np.random.default_rng(0).random((4, 500)).astype(np.float16)
    features = np.random.default_rng(1).random((9, 40)).astype(np.float16)
    second = audio.frames(1.0)
    for frames, start, rows in ((16, 3 * second, slice(3, 4)), (8 * second, second, None)):
        wide = span * frames // 16
        rows = rows or slice(1, 1 + round(1 + audio.seconds(wide) - 3))
        spect, stretched = unpack(torch.from_numpy(packed_chunk(mel, features, audio, frames, start, wide))[None], 40)
        np.testing.assert_array_equal(spect[0], mel_chunk(mel, frames, start, wide))
        np.testing.assert_allclose(stretched[0], features[rows].mean(0, dtype=np.float32), atol=1e-3)


def test_no_training_tracks(make_shards, source_of):
    with pytest.raises(ShardsError, match="has no training tracks: check the manifest's split column"):
        training(source_of(make_shards(val=3)))


def test_fewer_training_tracks_than_loading_processes(make_shards, source_of):
    index = make_shards(train=3)
    training(source_of(index, world_size=3, workers=1))
    with pytest.raises(ShardsError, match=r"has 3 training tracks for 4 loading processes: use fewer devices"):
        training(source_of(index, world_size=2, workers=2))


def test_waveform_chunks_are_those_of_the_spectrogram(make_shards, source_of):
    """The same seed draws the same chunks of both, and the spectrogram of the one is the other."""
    source = source_of(make_shards(train=10, waveform=True))
    settings = AudioSettings()
    mels, waveforms = (list(training(replace(source, source=audio))) for audio in ("mel", "waveform"))
    for mel, waveform in zip(mels, waveforms, strict=True):
        assert waveform.audio.shape == (len(mel.audio), settings.chunk_samples(CHUNK_FRAMES))
        assert torch.equal(mel.triplets.indices, waveform.triplets.indices)
        for spect, samples in zip(mel.audio, waveform.audio, strict=True):
            expected = spect[0, :, EDGE:-EDGE].numpy().astype(np.float32)
            np.testing.assert_allclose(log_mel(samples.numpy(), settings)[:, EDGE:-EDGE], expected, atol=FLAC_ATOL)


def test_waveforms_must_be_there(make_shards, source_of):
    with pytest.raises(ShardsError, match=r"holds no waveforms, .*: prepare with store_waveform=true"):
        source_of(make_shards(train=3), source="waveform")


def test_a_spectrogram_must_be_as_long_as_its_labels_say(make_shards, source_of):
    index = make_shards(train=1)
    info = TrackInfo("liar", None, 60, {})
    write_shard(
        index.root / index.splits["train"][0].file,
        iter([{"info": info, "mel": np.zeros((4, 50), np.float16)}]),
    )
    with pytest.raises(
        ShardsError, match=r"sample 'liar': its spectrogram has shape \(4, 50\), its labels say 60 frames"
    ):
        list(training(source_of(index)))


def evaluation(source: Source, requested=None, split: str = "val", tracks_per_batch: int = 3) -> EvaluationStream:
    return EvaluationStream(source, split, tracks_per_batch, requested or {})


@pytest.mark.parametrize(("ranks", "workers"), [*PLACES, (4, 3)], ids=[*PLACE_IDS, "more than tracks"])
@pytest.mark.parametrize("n", [1, 6, 11])
def test_evaluation_shows_every_track_once(make_shards, source_of, everywhere, n, ranks, workers):
    index = make_shards(train=5, val=n, tracks_per_shard=4)
    batches = everywhere(source_of(index), evaluation, ranks, workers)
    consumers = [worker for rank in batches for worker in rank]
    assert len({len(worker) for worker in consumers}) == 1, "ranks or workers with more batches than others"
    assert sum(map(len, batches[0])) == len(evaluation(source_of(index, world_size=ranks, workers=workers)))
    ids = [track_id for worker in consumers for batch in worker for track_id in batch.track_ids]
    assert set(ids) == {f"t{5 + i}" for i in range(n)}
    # What comes again is alone in its batch, and only where a consumer had less than the others.
    share = -(-n // len(consumers))
    filled = len(consumers) * -(-share // 3)
    needed = sum(-(-(n * (c + 1) // len(consumers) - n * c // len(consumers)) // 3) for c in range(len(consumers)))
    assert len(ids) == n + filled - needed


@pytest.mark.parametrize("n_shards", [1, 2, 3, 4, 5])
def test_any_number_of_shards_workers_and_ranks(make_shards, source_of, everywhere, recognise, n_shards):
    """Training: as many batches on each rank, and every track. Evaluation: as many, and every track once when gathered."""
    n = 13  # as few as the most loading processes can share; no number of shards here divides it
    index = make_shards(train=n, val=n, tracks_per_shard=-(-n // n_shards))
    assert [len(index.splits[split]) for split in ("train", "val")] == [n_shards] * 2
    plan = replace(PLAN, tracks_per_batch=2, pool_tracks=4)
    for ranks, workers in np.ndindex(5, 4):
        if not ranks:
            continue
        where = f"{n_shards} shards, {ranks} ranks x {workers} workers"
        source = source_of(index)
        epoch = everywhere(source, partial(training, epoch=ranks, plan=plan), ranks, workers)
        assert len({sum(map(len, rank)) for rank in epoch}) == 1, where
        seen = [chunk for rank in epoch for worker in rank for batch in worker for chunk in recognise(batch.audio)]
        assert {track for track, _ in seen} == set(range(n)), where
        evaluated = everywhere(source, evaluation, ranks, workers)
        assert len({sum(map(len, rank)) for rank in evaluated}) == 1, where
        gathered = {}
        for rank in evaluated:
            table = EmbeddingTable()
            for batch in (batch for worker in rank for batch in worker):
                table.add(batch, batch.audio[:, 0, 0, :1] + torch.tensor([1.0, 0.0]))  # tells the track
            for member, row in table.rows.items():
                assert torch.equal(row, gathered.setdefault(member, row)), where
        assert gathered.keys() == {Member(f"t{number}") for number in range(n, 2 * n)}, where
        own = [{i for worker in rank for batch in worker for i in batch.track_ids} for rank in evaluated]
        assert sum(map(len, own)) - n <= ranks - 1, f"{where}: more than the filling tracks is read twice"


def test_evaluation_cuts_the_grid_and_the_requested_chunks(make_shards, source_of, recognise):
    source = source_of(make_shards(val=9))
    requested = {"t0": {0}, "t5": {1, 16, 30}, "t8": {56}, "unknown": {3}}
    seen = {}
    for batch in evaluation(source, requested):
        for i, (number, start) in enumerate(recognise(batch.audio)):
            assert batch.track_ids[batch.track[i]] == f"t{number}"
            assert batch.start[i] == start
            assert (number, start) not in seen
            seen[number, start] = batch.in_mean[i].item()
    for number in range(9):
        grid = set(range(0, number * 7 % 90 + 1, CHUNK_FRAMES))
        starts = {start for track, start in seen if track == number}
        assert starts == grid | requested.get(f"t{number}", set())
        assert {start for start in starts if seen[number, start]} == grid


def test_evaluation_is_the_same_every_time(make_shards, source_of):
    stream = evaluation(source_of(make_shards(val=11)), {"t3": {5}})
    for a, b in zip(list(stream), list(stream), strict=True):
        assert a.track_ids == b.track_ids
        assert all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


def test_evaluation_of_some_tracks_alone(make_shards, source_of, everywhere):
    only = frozenset({"t1", "t7", "nobody"})
    source = source_of(make_shards(val=11))
    batches = everywhere(source, lambda here: EvaluationStream(here, "val", 3, {}, only), 2, 0)
    assert [batch.track_ids for rank in batches for worker in rank for batch in worker] == [["t1"], ["t7"]]


def test_evaluation_of_an_empty_split(make_shards, source_of):
    stream = evaluation(source_of(make_shards(train=3)), split="test")
    assert (len(stream), list(stream)) == (0, [])


def test_a_requested_chunk_beyond_the_end(make_shards, source_of):
    source = source_of(make_shards(val=3))  # t1 has 23 frames
    list(evaluation(source, {"t1": {7}}))
    with pytest.raises(ShardsError, match=r"^track 't1' has no chunk from 0\.19 s on, the last one begins at 0\.16 s$"):
        list(evaluation(source, {"t1": {8}}))


def test_codes_of_artists():
    assert name_code(None) == name_code("") == -1
    codes = {name_code(f"a{i}") for i in range(1000)}
    assert len(codes) == 1000
    assert min(codes) >= 0
    assert name_code("Björk") == 6973878284831211479  # the same in every process


def test_generators_differ_by_each_of_their_numbers():
    def draw(*numbers: int) -> int:
        return int(torch.randint(2**62, (1,), generator=seeded_generator(*numbers)))

    assert len({draw(*numbers) for numbers in np.ndindex(5, 5, 5)}) == 125
    assert draw(1, 2, 3) == draw(1, 2, 3)
