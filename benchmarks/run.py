"""Measure streaming and the training step beside their peers: ``python -m benchmarks.run [key=value ...]``.

* Streaming: an epoch of batches with triplets, against webdataset alone reading the members of the same shards.
* Training step: the loss of a batch embedded once, against the original conditional similarity network's way, which embeds
  three chunks per triplet (A. Veit et al., CVPR 2017), for as many chunks in a forward pass.

Runs are interleaved and the median of their ratios counts: absolute times are noise on shared machines. The keys are those of
``disentangled_ml.train``; the table is also written to ``bench/results.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from omegaconf import DictConfig

from datamodules.shards import read_samples, share_slices
from datamodules.similarity import SimilarityDataModule
from disentangled_ml import builders
from disentangled_ml.console import run_command
from disentangled_ml.losses import masked_distance, triplet_violation
from disentangled_ml.module import SimilarityModule
from disentangled_ml.structures import ChunkBatch

REPEATS = 5


def seconds(task: Callable[[], object]) -> float:
    """Time a task."""
    start = perf_counter()
    task()
    return perf_counter() - start


def compare(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[float, float]:
    """Time two tasks in turn, after a first round that does not count; give the median seconds of each."""
    rounds = [(seconds(ours), seconds(peer)) for _ in range(REPEATS + 1)][1:]
    return median(pair[0] for pair in rounds), median(pair[1] for pair in rounds)


def measure_streaming(data: SimilarityDataModule) -> dict[str, float]:
    """Compare an epoch of batches with reading the same shards."""
    loader, index = data.train_dataloader(), data.index
    slices = share_slices(index.splits["train"], 0, 1)

    def read() -> None:
        for sample in read_samples(index.root, slices, ("json", "mel.npy")):
            len(sample["mel.npy"])

    ours, peer = compare(lambda: [batch.audio.shape for batch in loader], read)
    chunks = sum(len(batch.audio) for batch in loader)
    return {"ours_s": ours, "peer_s": peer, "ratio": ours / peer, "ours_per_s": chunks / ours}


def measure_step(module: SimilarityModule, batch: ChunkBatch) -> dict[str, float]:
    """Compare forward and backward of a batch with a third of its chunks as triplets, embedded three times."""
    network, loss = module.network.train(), module.loss
    n = len(batch.audio) // 3

    def ours() -> None:
        loss(network.raw_embedding(batch.audio), network.masks(), batch.triplets, batch.targets).total.backward()

    def three_passes() -> None:
        anchor, positive, negative = (network(batch.audio[k * n : (k + 1) * n]) for k in range(3))
        mask = network.masks()[0]
        dist_ap, dist_an = masked_distance(anchor, positive, mask), masked_distance(anchor, negative, mask)
        triplet_violation(dist_ap, dist_an, loss.margin).mean().backward()

    seconds_ours, seconds_peer = compare(ours, three_passes)
    ours_rate, peer_rate = len(batch.triplets.condition) / seconds_ours, n / seconds_peer
    return {"ours_s": seconds_ours, "peer_s": seconds_peer, "ratio": ours_rate / peer_rate, "ours_per_s": ours_rate}


def main(config: DictConfig) -> None:
    """Measure, show and keep the results."""
    data = builders.build_data(config)
    module = builders.build_module(config, data.conditions, data.index.audio)
    batch = next(iter(data.train_dataloader()))
    results = {
        "streaming an epoch / webdataset alone (times, lower is better)": measure_streaming(data),
        "triplets per second / three passes per triplet (rates, higher is better)": measure_step(module, batch),
    }
    for name, values in results.items():
        sys.stdout.write(f"{name}: {values['ratio']:.2f} (ours {values['ours_per_s']:.0f}/s)\n")
    path = Path("bench") / "results.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"torch": torch.__version__, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main, "config", "train", __doc__)
