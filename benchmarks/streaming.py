"""Streaming: an epoch of batches with triplets, against what webdataset alone needs to read and decode the same shards.

``python -m benchmarks.streaming`` prints the lines. webdataset's own pipeline stands for the limit: tars read in order, every member
decoded. Ours reads the same bytes, and also mixes tracks, composes batches in which every condition has triplets, draws these, and
cuts four chunks of each track twice over (half of a batch are partners).
"""

import sys
import tempfile
from pathlib import Path

import webdataset

from benchmarks.catalogue import write_catalogue
from benchmarks.measurement import Measurement, compared, interleaved
from benchmarks.table import as_text
from datamodules.datamodule import SimilarityDataModule
from datamodules.shards.conditions import build_conditions

TRACKS = 1024
LIMIT = "webdataset"
MOST = 1.3


def measure_workers(data: SimilarityDataModule, workers: int) -> Measurement:
    """Compare an epoch by some loading processes; 0 means this process."""
    loader, index = data.train_dataloader(), data.index
    urls = [str(index.root / shard.file) for shard in index.splits["train"]]
    plain = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    peer = webdataset.WebLoader(
        plain, batch_size=None, num_workers=workers, persistent_workers=workers > 0,
        multiprocessing_context="forkserver" if workers else None,
    )  # fmt: skip
    seen = {"ours": 0, LIMIT: 0}

    def ours() -> None:
        seen["ours"] = sum(len(batch.audio) for batch in loader)

    def limit() -> None:
        seen[LIMIT] = sum(sample["mel.npy"].shape[0] > 0 for sample in peer)

    times = interleaved({"ours": ours, LIMIT: limit}, 15)
    if seen[LIMIT] != TRACKS:
        raise ValueError(f"webdataset gave {seen[LIMIT]} of {TRACKS} tracks")
    note = f"{seen['ours'] / min(times['ours']):.0f} chunks/s"
    return compared(f"streaming, {workers} workers", times, limit=LIMIT, most_overhead=MOST, note=note)


def measure() -> list[Measurement]:
    """Measure in this process, then with loading processes."""
    with tempfile.TemporaryDirectory() as folder:
        index = write_catalogue(Path(folder) / "shards", train=TRACKS)
        modules = [(SimilarityDataModule(index, build_conditions(index), workers=n), n) for n in (0, 2)]
        return [measure_workers(data, workers) for data, workers in modules]


if __name__ == "__main__":
    sys.stdout.write(as_text(measure()))
