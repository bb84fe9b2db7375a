"""Whole trainings on a GPU: ``python -m benchmarks.training [shards=DIR] [backbones=inception] [tracks=64,256] [device=cuda]
[epochs=4] [workers=8] [experiment=icassp2020]``.

Trains by float32 as written and by bf16 with channels last. Of the last half of the epochs, by their median: chunks
per second, the share of the time that waits for data, and the memory of the device. Validation is a small list and not counted.
Without ``shards``: 4,096 tracks of 12 s, of noise. Also written to ``bench/training.json``.
"""

import gc
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import pytorch_lightning as pl
import torch

from benchmarks.catalogue import write_catalogue
from benchmarks.table import surroundings
from disentangled_ml import builders
from disentangled_ml.config.loading import load_config
from disentangled_ml.config.schema import TrainConfig
from disentangled_ml.train import quieten

FAST = ["trainer.precision=bf16-mixed", "trainer.channels_last=true"]
SETTINGS = {
    "float32": ["trainer.precision=32-true", "trainer.channels_last=false"],
    "bf16, channels last": FAST,
}
LOGGED = ("train/chunks_per_second", "train/data_wait_share")
TRACKS, FRAMES = 4096, 517  # of the catalogue of noise


class Epochs(pl.Callback):
    """Keep what ``Throughput`` logs of each epoch, and the seconds from the start to the end of the first."""

    def __init__(self) -> None:
        self.found: list[list[float]] = []
        self.first_epoch = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.since = perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.first_epoch = self.first_epoch or perf_counter() - self.since
        self.found.append([float(trainer.callback_metrics[name]) for name in LOGGED])


def train(arguments: list[str]) -> dict[str, float]:
    """Train by a configuration and return its figures."""
    config, epochs = load_config(TrainConfig, [*arguments, "wandb.mode=disabled"]), Epochs()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = builders.build_data(config)
    module = builders.build_module(config, data.conditions, data.index.audio)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        builders.build_trainer(config, Path(folder), epochs).fit(module, data)
    speed, share = (median(values[len(values) // 2 :]) for values in zip(*epochs.found, strict=True))
    memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan")
    return {
        "chunks_per_second": speed,
        "data_wait_share": share,
        "gigabytes": memory,
        "first_epoch_seconds": epochs.first_epoch,
    }


def main(
    shards: str = "",
    backbones: str = "inception",
    tracks: str = "64,256",
    device: str = "cuda",
    epochs: str = "4",
    workers: str = "8",
    experiment: str = "icassp2020",
    settings: str = ",".join(map(str, range(len(SETTINGS)))),
) -> None:
    """Train by all settings, or by those of some numbers, print the figures and save them."""
    quieten()
    folder = tempfile.TemporaryDirectory()
    if not shards:
        shards = f"{folder.name}/noise"
        write_catalogue(Path(shards), FRAMES, train=TRACKS, val=64, test=64)
    common = [f"experiment={experiment}", f"trainer={'gpu' if device == 'cuda' else 'cpu'}", "data=shards"]
    common += [f"data.shards={shards}", f"data.workers={workers}", f"training.max_epochs={epochs}"]
    common += ["evaluation.triplets_per_condition=50"]
    path, lines = Path("bench") / "training.json", []
    path.parent.mkdir(exist_ok=True)
    runs = [
        (b, int(n), list(SETTINGS)[int(s)])
        for b in backbones.split(",")
        for n in tracks.split(",")
        for s in settings.split(",")
    ]
    for backbone, n_tracks, name in runs:
        arguments = [f"backbone={backbone}", "backbone.width=1.0", f"data.tracks_per_batch={n_tracks}", *SETTINGS[name]]
        figures = train([*common, *arguments])
        gc.collect()
        lines.append({"backbone": backbone, "tracks_per_batch": n_tracks, "settings": name, **figures})
        sys.stdout.write(
            f"{backbone}, {n_tracks} tracks a batch, {name}: {figures['chunks_per_second']:.0f} chunks/s, "
            f"{figures['data_wait_share']:.1%} waiting for data, {figures['gigabytes']:.1f} GB, "
            f"first epoch {figures['first_epoch_seconds']:.0f} s\n"
        )
        sys.stdout.flush()
        path.write_text(json.dumps({"surroundings": surroundings(), "lines": lines}, indent=1) + "\n")
    folder.cleanup()


if __name__ == "__main__":
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
