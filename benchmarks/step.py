"""The training step, against the original conditional similarity network's (A. Veit et al., CVPR 2017), on the same backbone.

That step embeds three chunks per triplet, of one condition each, in three forward passes. ``python -m benchmarks.step
[device=cpu|cuda]`` compares, forward and backward, with the choice of the triplets:

* at the same number of chunks embedded: 64 a step, of which the three passes make 21 triplets;
* for the same number of distinct triplets: the time of one of ours, by the number of triplets that count in it (all valid ones of
  the batch), against the time of one of theirs.
"""

import sys
from collections.abc import Callable

import torch

from benchmarks.batch import (
    BACKBONE,
    CHUNKS,
    MIN_GAP,
    TRACKS,
    WIDTH,
    small_network,
    step_conditions,
    step_tracks,
    timed,
)
from benchmarks.measurement import Measurement, compared, interleaved
from benchmarks.table import as_text
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.objective.gathering import EveryTriplet
from disentangled_ml.objective.losses import DisentangledTripletLoss, masked_distance, triplet_violation

MARGIN = 0.1
ROUNDS = 25
PEER = "three passes"


def three_passes(network: ConditionalSimilarityNetwork, audio: torch.Tensor, n_triplets: int) -> Callable[[], None]:
    """Return the peer's step: chunks ``[0, n)`` are anchors, then positives, then negatives, each with a condition."""
    masks = network.masks()[torch.arange(n_triplets, device=audio.device) % len(network.condition_names)]

    def run() -> None:
        anchor, positive, negative = (network(part) for part in audio[: 3 * n_triplets].split(n_triplets))
        dist_ap, dist_an = masked_distance(anchor, positive, masks), masked_distance(anchor, negative, masks)
        triplet_violation(dist_ap, dist_an, MARGIN).mean().backward()

    return run


def measure(device: str = "cpu") -> list[Measurement]:
    """Compare steps of 64 chunks."""
    conditions = step_conditions()
    tracks, names = step_tracks(conditions, device), [condition.name for condition in conditions]
    network, n_chunks = small_network(names, device), TRACKS * CHUNKS
    audio = torch.rand(n_chunks, 1, 128, 129, device=device)
    loss, every = DisentangledTripletLoss(MARGIN), EveryTriplet(conditions, MIN_GAP)

    def ours() -> None:
        raw_embedding, triplets = every(network.raw_embedding(audio), tracks, 0)
        loss(raw_embedding, network.masks(), triplets).total.backward()

    n_theirs = n_chunks // 3
    tasks = {"ours": timed(ours, device), PEER: timed(three_passes(network, audio, n_theirs), device)}
    times = interleaved(tasks, ROUNDS)
    triplets = every(network.raw_embedding(audio), tracks, 0)[1]
    n_ours = int((triplets.positive.sum(-1) * triplets.negative.sum(-1)).sum())
    per_triplet = {"ours": [t / n_ours for t in times["ours"]], PEER: [t / n_theirs for t in times[PEER]]}
    what = f"{BACKBONE} of width {WIDTH:g}, {device}"
    rate, counts = f"{n_chunks / min(times['ours']):.0f} chunks/s", f"{n_ours:,} triplets a step against {n_theirs}"
    return [
        compared(f"step of {n_chunks} chunks, {what}", times, peer=PEER, least_speedup=1.0, note=rate),
        compared(f"a distinct triplet, {what}", per_triplet, peer=PEER, least_speedup=20.0, note=counts),
    ]


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    sys.stdout.write(as_text(measure(**given)))
