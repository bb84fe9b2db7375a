"""Measure the loss beside a peer, and its share of a training step: ``python -m benchmarks.loss [device=cpu]``.

* All triplets of one condition's labels, forward and backward, against pytorch-metric-learning's ``TripletMarginLoss`` on the same
  embeddings. Both give the mean over the violating triplets, which is compared before anything is timed.
* The peak memory of ours, which grows with the square of the batch.
* Loss and choice of triplets, of four conditions and track, in a whole step of a small network on 64 chunks.

pytorch-metric-learning comes with ``pip install --constraint constraints.txt '.[bench]'``.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import Tensor
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile

from benchmarks.batch import CHUNKS, DIM, MIN_GAP, TRACKS, small_network, step_conditions, step_tracks, timed
from benchmarks.measurement import Measurement, compared, interleaved
from benchmarks.table import as_text
from disentangled_ml.objective.all_triplets import sum_all_triplets
from disentangled_ml.objective.gathering import EveryTriplet
from disentangled_ml.objective.losses import DisentangledTripletLoss
from disentangled_ml.objective.triplets import TripletMiner
from disentangled_ml.structures import AllTriplets, seeded_generator

PEER = "pytorch-metric-learning"
MARGIN, CLASSES = 0.1, 16
TARGETS = {64: 1.0, 256: 1.0, 1024: 20.0}  # least speed-up, by the number of chunks
ROUNDS = {64: 100, 256: 20, 1024: 3}  # the peer takes ten seconds for the last
# Relative: the peer sums millions of terms in float32.
SAME = 1e-4
# Triplets of each condition, as configured by default.
DRAWN = 256
MOST_OF_STEP = 0.05
STEP_ROUNDS = 15


def all_triplets_loss(embedding: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean hinge over the violating triplets among all: (B, D), (B,) to a scalar."""
    same = labels[:, None] == labels
    triplets = AllTriplets((same & ~torch.eye(len(labels), dtype=torch.bool, device=same.device))[None], ~same[None], 0)
    violation, violating, *_ = sum_all_triplets(embedding[None], triplets, MARGIN)
    return (violation / violating.clamp(min=1)).squeeze()


def labelled(n_chunks: int, device: str) -> tuple[Tensor, Tensor]:
    """Return unit embeddings (B, D), slightly grouped by class, and the classes (B,)."""
    generator = torch.Generator().manual_seed(n_chunks)
    labels = torch.randint(CLASSES, (n_chunks,), generator=generator)
    centres, noise = torch.randn(CLASSES, DIM, generator=generator), torch.randn(n_chunks, DIM, generator=generator)
    return normalize(0.3 * centres[labels] + noise, dim=1).to(device).requires_grad_(), labels.to(device)


def check_same(ours: Tensor, peer: Tensor) -> None:
    """Check that the peer computes the same loss.

    Raises:
        ValueError: if not.
    """
    if not torch.allclose(ours.float(), peer.float(), rtol=SAME, atol=0):
        raise ValueError(f"the loss is {ours.item()}, that of {PEER} {peer.item()}: they are not of the same triplets")


def peak_bytes(task: Callable[[], object], device: str) -> int:
    """Return the peak memory of a task's tensors, beyond what was there before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        task()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = torch.tensor([change for _, change in changes]).cumsum(0)
    return int(held.max())


def measure_all_triplets(n_chunks: int, device: str) -> tuple[Measurement, int]:
    """Compare the loss of all triplets with the peer; return its peak memory too, in bytes."""
    embedding, labels = labelled(n_chunks, device)
    peer = TripletMarginLoss(margin=MARGIN, distance=LpDistance(normalize_embeddings=False))
    check_same(all_triplets_loss(embedding, labels), peer(embedding, labels))
    tasks = {
        "ours": timed(lambda: all_triplets_loss(embedding, labels).backward(), device),
        PEER: timed(lambda: peer(embedding, labels).backward(), device),
    }
    times, peak = interleaved(tasks, ROUNDS[n_chunks]), peak_bytes(tasks["ours"], device)
    stage, note = f"loss of all triplets, {n_chunks} chunks, {device}", f"peak memory {peak / 1e6:.1f} MB"
    return compared(stage, times, peer=PEER, least_speedup=TARGETS[n_chunks], note=note), peak


def measure_step(triplets: str, device: str) -> Measurement:
    """Compare the loss and the choice of triplets, ``sampled`` or ``all``, with the whole step."""
    conditions = step_conditions()
    tracks, elsewhere = step_tracks(conditions, device), step_tracks(conditions, "cpu")
    names = [condition.name for condition in conditions]
    network = small_network(names, device)
    audio = torch.rand(TRACKS * CHUNKS, 1, 128, 129, device=device)
    loss, generator = DisentangledTripletLoss(MARGIN), seeded_generator(0)
    every, miner = EveryTriplet(conditions, MIN_GAP), TripletMiner(conditions, MIN_GAP, DRAWN, DRAWN)

    def finish(raw_embedding: Tensor) -> None:
        if triplets == "all":
            chosen = every(raw_embedding, tracks, 0)[1]
        else:
            drawn = miner.draw(elsewhere, generator)
            chosen = type(drawn)(*(rows.to(device) for rows in drawn))
        loss(raw_embedding, network.masks(), chosen).total.backward()

    leaf = network.raw_embedding(audio).detach().requires_grad_()
    tasks = {
        "ours": timed(lambda: finish(leaf), device),
        "whole step": timed(lambda: finish(network.raw_embedding(audio)), device),
    }
    times = interleaved(tasks, STEP_ROUNDS)
    return compared(
        f"loss and {triplets} triplets of a step, {device}", times, limit="whole step", most_overhead=MOST_OF_STEP
    )


def measure(device: str = "cpu") -> list[Measurement]:
    """Measure the loss at every size, and its share of a step."""
    lines, peaks = zip(*(measure_all_triplets(n_chunks, device) for n_chunks in TARGETS), strict=True)
    growth = f"{peaks[2] / peaks[1]:.1f} times that of 256 chunks (16 is the square)"
    largest = replace(lines[2], note=f"{lines[2].note}, {growth}")
    return [*lines[:2], largest, *(measure_step(kind, device) for kind in ("sampled", "all"))]


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    sys.stdout.write(as_text(measure(**given)))
