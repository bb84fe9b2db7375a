"""One training in two real processes: the same weights as by hand in one, the same metrics within a tolerance, one W&B run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from disentangled_ml import builders
from disentangled_ml.commands.schemas import EvaluateConfig
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.evaluate import main as evaluate
from tests.conftest import TINY, write_tiny_shards
from tests.disentangled_ml.real_runs import MINUTE, TWO, RealRun

pytestmark = [pytest.mark.ddp, pytest.mark.slow]
ATOL = 1e-5  # of weights after an epoch: float32 sums in another order
# Of accuracies. Over six seeds they deviated by up to 0.009 within one, two and two gathering processes alike; between two runs
# that is 0.013, of which this is almost four. Tempo, which so small a network hardly learns, deviated by 0.14: it is left out.
TOLERANCE = 0.05


def trained(folder: Path, *arguments: str) -> Path:
    """Train by the command; give the run folder."""
    folder.mkdir()
    with RealRun(folder, *TINY, *arguments) as run:
        assert run.end(4 * MINUTE) == 0, run.said()[-3000:]
    return run.dir


def metrics_of(run_dir: Path) -> dict[str, float]:
    return json.loads((run_dir / "metrics.json").read_text())


@pytest.mark.parametrize("gather", ["false", "true"])
def test_a_single_shard_one_loading_process_each_and_one_wandb_run(tmp_path, gather):
    shards = write_tiny_shards(tmp_path / "shards", tracks_per_shard=99, train=48, val=16, test=19)
    arguments = (f"data.shards={shards}", "data.workers=1", "training.max_epochs=2", f"loss.gather={gather}")
    run_dir = trained(tmp_path / "two", *TWO, *arguments, "wandb.mode=offline")
    (wandb_run,) = run_dir.glob("wandb/offline-run-*")
    assert wandb_run.name.endswith((run_dir / "wandb_run_id").read_text())
    assert not list(tmp_path.glob("two/*/wandb/run-*"))
    metrics = metrics_of(run_dir)
    checkpoint = f"checkpoint={run_dir}/checkpoints/best.ckpt"
    given = [checkpoint, f"shards={shards}", "triplets_per_condition=60", f"out={tmp_path}/one.json"]
    evaluate(load_config(EvaluateConfig, given))
    report = json.loads((tmp_path / "one.json").read_text())
    assert report["track_recall"]["n"] == 19  # every track of test, once
    assert report == json.loads((run_dir / "evaluation.json").read_text())
    for name in ("genre", "mood", "tempo"):
        assert report["sub"][name]["accuracy"] == pytest.approx(metrics[f"test/triplet_accuracy/{name}"], abs=1e-6)


def by_hand(*arguments: str) -> dict[str, torch.Tensor]:
    """Train an epoch in this process, in plain PyTorch, on the batches that two ranks of one loading process each would get.

    Two loading processes of one rank read the same shares, in turn. As in DDP the gradients of both batches are averaged, batch
    norm takes each batch by itself, and its running statistics are those of the first rank.
    """
    config = load_config(TrainConfig, [*TINY, *arguments, "data.workers=2"])
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = builders.build_data(config)
    module = builders.build_module(config, data.conditions, data.index.audio)
    module.log = lambda *_, **__: None
    optimizer, batches = module.configure_optimizers(), iter(data.train_dataloader())
    for first, second in zip(batches, batches, strict=True):
        optimizer.zero_grad()
        (module.training_step(first, 0)["loss"] / 2).backward()
        running = {name: buffer.clone() for name, buffer in module.named_buffers()}
        (module.training_step(second, 0)["loss"] / 2).backward()
        for name, buffer in module.named_buffers():
            buffer.copy_(running[name])
        optimizer.step()
    return module.state_dict()


def test_two_processes_train_as_one_on_the_same_batches(tmp_path, tiny_shards, one_thread):
    # Dropout, of the rhythm branch, draws otherwise on each rank.
    common = (f"data.shards={tiny_shards}", "rhythm=false")
    run_dir = trained(tmp_path / "two", *TWO, *common, "data.workers=1", "training.max_epochs=1")
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6  # of two batches of four fresh tracks each
    expected = by_hand(*common)
    for name, weight in checkpoint["state_dict"].items():
        torch.testing.assert_close(weight, expected[name], atol=ATOL, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_the_same_global_batch_gives_the_same_metrics(tmp_path):
    """The batches are composed differently, of one stream or of two, and batch norm sees half of them: so within a tolerance."""
    shards = write_tiny_shards(tmp_path / "shards", train=96, val=48, test=48)
    common = (f"data.shards={shards}", "evaluation.triplets_per_condition=400", "training.max_epochs=12")
    whole = ("data.tracks_per_batch=16", "data.triplets_per_condition=64", "data.track_triplets=64")
    one, two, gathering = (
        metrics_of(trained(tmp_path / name, *common, *arguments))
        for name, arguments in (("one", whole), ("two", TWO), ("gathering", (*TWO, "loss.gather=true")))
    )
    for split in ("val", "test"):
        for name in ("genre", "mood", "track"):
            key = f"{split}/triplet_accuracy/{name}"
            assert one[key] > 0.9
            assert two[key] == pytest.approx(one[key], abs=TOLERANCE), key
            assert gathering[key] == pytest.approx(one[key], abs=TOLERANCE), key
