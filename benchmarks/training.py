"""Whole trainings on a GPU: ``python -m benchmarks.training shards=DIR [backbones=inception,resnet] [device=cuda] [epochs=8]
[tracks=64] [workers=8] [experiment=icassp2020]``.

Trains by float32 as written, by bf16 with channels last, and by that compiled, each in a process of its own. Of the last half of the
epochs, by their median: chunks per second, the share of the time that waits for data, and the memory of the device. Validation is a
small list and not counted. Also written to ``bench/training.json``.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import pytorch_lightning as pl
import torch

from benchmarks.table import surroundings
from disentangled_ml import builders
from disentangled_ml.config.loading import load_config
from disentangled_ml.config.schema import TrainConfig
from disentangled_ml.train import quieten

SETTINGS = {
    "float32": ["trainer.precision=32-true", "trainer.channels_last=false"],
    "bf16, channels last": ["trainer.precision=bf16-mixed", "trainer.channels_last=true"],
    "bf16, channels last, compiled": [
        "trainer.precision=bf16-mixed",
        "trainer.channels_last=true",
        "trainer.compile=true",
    ],
}
LOGGED = ("train/chunks_per_second", "train/data_wait_share")


class Epochs(pl.Callback):
    """Keep what ``Throughput`` logs of each epoch."""

    def __init__(self) -> None:
        self.found: list[list[float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.found.append([float(trainer.callback_metrics[name]) for name in LOGGED])


def train(arguments: list[str]) -> dict[str, float]:
    """Train by a configuration and return its figures."""
    quieten()
    config, epochs = load_config(TrainConfig, [*arguments, "wandb.mode=disabled"]), Epochs()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = builders.build_data(config)
    module = builders.build_module(config, data.conditions, data.index.audio)
    with tempfile.TemporaryDirectory() as folder:
        builders.build_trainer(config, Path(folder), epochs).fit(module, data)
    speed, share = (median(values[len(values) // 2 :]) for values in zip(*epochs.found, strict=True))
    memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan")
    return {"chunks_per_second": speed, "data_wait_share": share, "gigabytes": memory}


def main(
    shards: str,
    backbones: str = "inception,resnet",
    device: str = "cuda",
    epochs: str = "8",
    tracks: str = "64",
    workers: str = "8",
    experiment: str = "icassp2020",
) -> None:
    """Train by all settings, print the figures and save them."""
    common = [f"experiment={experiment}", f"trainer={'gpu' if device == 'cuda' else 'cpu'}", f"data.shards={shards}"]
    common += [f"data.tracks_per_batch={tracks}", f"data.workers={workers}", f"training.max_epochs={epochs}"]
    common += ["data=shards", "evaluation.triplets_per_condition=50"]
    lines = []
    for backbone in backbones.split(","):
        for name, settings in SETTINGS.items():
            arguments = [*common, f"backbone={backbone}", "backbone.width=1.0", *settings]
            command = [sys.executable, "-m", "benchmarks.training", "--train", *arguments]
            # Its output ends with the figures.
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures = json.loads(process.stdout.splitlines()[-1])
            lines.append({"backbone": backbone, "settings": name, **figures})
            sys.stdout.write(
                f"{backbone}, {name}: {figures['chunks_per_second']:.0f} chunks/s, "
                f"{figures['data_wait_share']:.1%} waiting for data, {figures['gigabytes']:.1f} GB\n"
            )
            sys.stdout.flush()
    path = Path("bench") / "training.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"surroundings": surroundings(), "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        sys.stdout.write(json.dumps(train(sys.argv[2:])) + "\n")
    else:
        main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
