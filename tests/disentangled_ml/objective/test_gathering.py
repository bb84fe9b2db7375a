"""Two real processes against one on the concatenated batch: the same loss and the same gradients, by drawn and by all triplets."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from disentangled_ml.network.masks import LearnedMasks
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.objective.conditions import TagCondition, TempoCondition
from disentangled_ml.objective.gathering import EveryTriplet, GatheredTriplets, join_tracks, mean_over_ranks
from disentangled_ml.objective.losses import MEANS, DisentangledTripletLoss
from disentangled_ml.objective.triplets import TripletMiner
from disentangled_ml.structures import BatchTracks, ChunkBatch, TripletBatch
from disentangled_ml.training.module import SimilarityModule

CONDITIONS = [TagCondition("genre", ("jazz", "rock", "folk")), TempoCondition()]
MINER = TripletMiner(CONDITIONS, min_gap=8, per_condition=20, track_triplets=10)
CHUNKS_PER_TRACK = 3
SIZES = (5, 3)  # tracks of the ranks' batches: damaged shards can make them unequal
SEED = 7
KINDS = [
    (True,),
    (False,),
    *((True, True, mean) for mean in MEANS),
    (True, False, "violating"),
    (False, True, "violating"),
]
ATOL = 1e-5  # float32 sums in another order


def batch_of(rank: int) -> ChunkBatch:
    """Make the batch of a rank: random chunks, labels and triplets of its own."""
    generator = torch.Generator().manual_seed(rank)
    n = SIZES[rank]
    tags = torch.nn.functional.one_hot(torch.randint(3, (n,), generator=generator), 3).bool()
    tempo = 60 + 60 * torch.rand(n, 1, generator=generator)
    start = 20 * torch.rand(n, CHUNKS_PER_TRACK, generator=generator).argsort(1)
    tracks = BatchTracks([tags, tempo], torch.randint(-1, 3, (n,), generator=generator), start)
    audio = torch.rand(n * CHUNKS_PER_TRACK, 1, 4, 4, generator=generator)
    return ChunkBatch(audio, MINER.draw(tracks, generator), [], tracks)


class Step(nn.Module):
    """Wrap the training step as the trainer's strategy does; there is no batch norm in the network."""

    def __init__(self, gather: bool, every: bool = False, mean: str = "all"):
        super().__init__()
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 8))
        network = ConditionalSimilarityNetwork(nn.Identity(), backbone, LearnedMasks(2, 8), ["genre", "tempo"])
        average = mean_over_ranks if gather else None
        loss = DisentangledTripletLoss(0.3, embedding_penalty=0.1, mask_penalty=0.2, mean=mean, average=average)
        drawn = GatheredTriplets(MINER, SEED) if gather else None
        selection = EveryTriplet(CONDITIONS, MINER.min_gap, gather) if every else drawn
        self.module = SimilarityModule(network, loss, selection=selection)
        self.module.log = lambda *_, **__: None

    def forward(self, batch: ChunkBatch) -> Tensor:
        self.counts = self.module.training_step(batch, 0)
        return self.counts["loss"]

    def gradients(self) -> list[Tensor]:
        return [parameter.grad.clone() for parameter in self.module.parameters()]


def run_rank(rank: int, folder: Path) -> None:
    """Do a step of each kind in one of two processes; leave the loss, the averaged gradients and the triplets that it drew."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    batch = batch_of(rank)
    drawn = [GatheredTriplets(MINER, SEED)(torch.zeros(len(batch.audio), 8), batch.tracks, n) for n in (0, 0, 1)]
    left = {"drawn": [tuple(triplets) for _, triplets in drawn]}
    for number, options in enumerate(KINDS):
        step = Step(*options)
        averaging = DistributedDataParallel(step)  # as long as it lives
        loss = averaging(batch)
        loss.backward()
        counts = {name: step.counts[name] for name in ("correct", "total")}
        left[str(number)] = {"loss": loss.detach(), "gradients": step.gradients(), **counts}
        del (
            averaging,
            loss,
        )  # a group that they destroy last may wait for ever, for a thread that waits for Python's lock
    torch.save(left, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> list[dict]:
    """Give what each of two processes left."""
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(run_rank, (folder,), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture
def two_ranks(left):
    """Give what each process left of one kind: ``two_ranks(gather)``; further options are those of ``Step``."""
    return lambda *options: [{**rank[str(KINDS.index(options))], "drawn": rank["drawn"]} for rank in left]


def one_process(batch: ChunkBatch, *options: bool | str) -> tuple[Tensor, list[Tensor]]:
    """Give loss and gradients of one process on a batch with its triplets, or with all of them."""
    step = Step(False, *options)
    loss = step(batch)
    loss.backward()
    return loss.detach(), step.gradients()


def concatenated(triplets: list[TripletBatch]) -> ChunkBatch:
    """Join the batches of the ranks, with given triplets of all chunks."""
    batches = [batch_of(rank) for rank in range(2)]
    joined = TripletBatch(*(torch.cat(rows) for rows in zip(*triplets, strict=True)))
    tracks = join_tracks([batch.tracks for batch in batches])
    return ChunkBatch(torch.cat([batch.audio for batch in batches]), joined, [], tracks)


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=ATOL, rtol=0)


@pytest.mark.slow
@pytest.mark.ddp
def test_with_gathering_two_processes_are_one_on_both_batches(two_ranks):
    ranks = two_ranks(True)
    loss, gradients = one_process(concatenated([TripletBatch(*rank["drawn"][0]) for rank in ranks]))
    torch.testing.assert_close(sum(rank["loss"] for rank in ranks) / 2, loss, atol=ATOL, rtol=0)
    for rank in ranks:
        assert_close(rank["gradients"], gradients)
    assert max(gradient.abs().max() for gradient in gradients) > 100 * ATOL
    # Each rank draws its own share, over the chunks of both, the same at the same step.
    (first, again, later), (other, *_) = (rank["drawn"] for rank in ranks)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], later[0])
    assert not torch.equal(first[0], other[0])
    border = SIZES[0] * CHUNKS_PER_TRACK
    for indices, condition in (first, other):
        assert torch.bincount(condition).tolist() == [20, 20, 10]
        is_second = indices >= border
        assert {tuple(pair) for pair in is_second[:, [0, 2]].tolist()} == {
            (a, b) for a in (False, True) for b in (False, True)
        }
        assert indices.max() < sum(SIZES) * CHUNKS_PER_TRACK


@pytest.mark.slow
@pytest.mark.ddp
def test_without_gathering_two_processes_are_the_mean_of_both(two_ranks):
    ranks = two_ranks(False)
    alone = [one_process(batch_of(rank)) for rank in range(2)]
    for rank, (loss, _) in zip(ranks, alone, strict=True):
        torch.testing.assert_close(rank["loss"], loss, atol=ATOL, rtol=0)
        assert_close(rank["gradients"], [(a + b) / 2 for a, b in zip(*(grads for _, grads in alone), strict=True)])


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("mean", MEANS)
def test_all_triplets_of_two_processes_are_those_of_one_on_both_batches(two_ranks, mean):
    ranks = two_ranks(True, True, mean)
    batch = concatenated([batch_of(0).triplets])
    loss, gradients = one_process(batch, True, mean)
    torch.testing.assert_close(sum(rank["loss"] for rank in ranks) / 2, loss, atol=ATOL, rtol=0)
    for rank in ranks:
        assert_close(rank["gradients"], gradients)
    assert max(gradient.abs().max() for gradient in gradients) > 100 * ATOL
    counts = Step(False, True).module.training_step(batch, 0)
    for name in ("correct", "total"):
        assert torch.equal(ranks[0][name] + ranks[1][name], counts[name])
        assert (ranks[0][name] != ranks[1][name]).any()  # the shares differ


@pytest.mark.slow
@pytest.mark.ddp
def test_the_mean_of_violating_drawn_triplets_is_that_of_both_ranks(two_ranks):
    ranks = two_ranks(True, False, "violating")
    batch = concatenated([TripletBatch(*rank["drawn"][0]) for rank in ranks])
    loss, gradients = one_process(batch, False, "violating")
    torch.testing.assert_close(sum(rank["loss"] for rank in ranks) / 2, loss, atol=ATOL, rtol=0)
    for rank in ranks:
        assert_close(rank["gradients"], gradients)


@pytest.mark.slow
@pytest.mark.ddp
def test_all_triplets_without_gathering_are_each_ranks_own(two_ranks):
    ranks = two_ranks(False, True, "violating")
    alone = [one_process(batch_of(rank), True, "violating") for rank in range(2)]
    for rank, (loss, _) in zip(ranks, alone, strict=True):
        torch.testing.assert_close(rank["loss"], loss, atol=ATOL, rtol=0)
        assert_close(rank["gradients"], [(a + b) / 2 for a, b in zip(*(grads for _, grads in alone), strict=True)])


def test_drawn_triplets_are_valid():
    batch = concatenated([batch_of(0).triplets])
    _, (indices, condition) = GatheredTriplets(MINER, SEED)(torch.zeros(len(batch.audio), 8), batch.tracks, 0)
    tracks, start = batch.tracks, batch.tracks.start.flatten()
    for members, c in zip(indices.tolist(), condition.tolist(), strict=True):
        a, p, n = (index // CHUNKS_PER_TRACK for index in members)
        if c == 2:
            assert a == p != n
            assert abs(start[members[0]] - start[members[1]]) >= MINER.min_gap
            continue
        assert a != p
        assert tracks.artist[a] != tracks.artist[p] or tracks.artist[a] == -1
        tags, tempo = tracks.labels
        if c == 0:
            assert torch.equal(tags[a], tags[p])
            assert not torch.equal(tags[a], tags[n])
        else:
            assert abs(tempo[a] - tempo[p]) <= 5 < abs(tempo[a] - tempo[n])


def test_one_process_draws_over_its_own_batch():
    batch = batch_of(0)
    draw = GatheredTriplets(MINER, SEED)
    embedding = torch.rand(len(batch.audio), 8)
    same, first = draw(embedding, batch.tracks, 0)
    assert same is embedding
    assert first.indices.max() < len(embedding)
    steps = [draw(embedding, batch.tracks, step)[1].indices for step in range(5)]
    assert torch.equal(steps[0], first.indices)
    assert not any(torch.equal(a, b) for a, b in pairwise(steps))
    other = GatheredTriplets(MINER, SEED + 1)(embedding, batch.tracks, 0)[1]
    assert not torch.equal(first.indices, other.indices)


def test_one_process_takes_all_triplets_of_its_own_batch():
    batch = batch_of(0)
    embedding = torch.rand(len(batch.audio), 8)
    found = [EveryTriplet(CONDITIONS, MINER.min_gap, gather)(embedding, batch.tracks, 0) for gather in (False, True)]
    (same, triplets), (gathered, again) = found
    assert same is gathered is embedding
    assert triplets.first == again.first == 0
    assert torch.equal(triplets.positive, again.positive)
    assert torch.equal(triplets.negative, again.negative)


def test_with_one_process_what_relates_the_chunks_may_be_on_a_device():
    """Triplets are drawn on the CPU; here the embeddings' device is one that computes nothing."""
    tracks = BatchTracks(
        [torch.tensor([[True, False], [False, True], [True, False]])], torch.arange(3), torch.zeros(3, 1).long()
    )
    moved = []

    class Elsewhere(torch.Tensor):
        def cpu(self):
            moved.append(self)
            return self.as_subclass(torch.Tensor)

    labels, artist, start = ([tracks.labels[0].as_subclass(Elsewhere)], *(t.as_subclass(Elsewhere) for t in tracks[1:]))
    miner = TripletMiner([TagCondition("genre", ("a", "b"))], 8, 5, 0)
    _, triplets = GatheredTriplets(miner, SEED)(torch.zeros(3, 4), BatchTracks(labels, artist, start), 0)
    assert len(moved) == 3
    assert len(triplets.condition) == 5
