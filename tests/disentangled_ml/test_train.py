"""The commands end to end on tiny shards: what they leave, resuming, repeating, two processes, bad input."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from disentangled_ml import builders
from disentangled_ml.backbones import BACKBONES
from disentangled_ml.config import GROUPS, ConfigError, group_choices, load_config
from disentangled_ml.evaluate import main as evaluate
from disentangled_ml.frontends import FRONTENDS
from disentangled_ml.masks import MASKS
from disentangled_ml.run_folder import RUN_DIR_VARIABLE
from disentangled_ml.structures import ChunkBatch
from disentangled_ml.train import main as train

SPLIT_KEYS = {f"triplet_accuracy/{name}" for name in ("genre", "mood", "tempo", "track", "mean")} | {"loss"}


def command(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run an entry point as a user does, without an API key of W&B."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SLURM_", RUN_DIR_VARIABLE))}
    return subprocess.run(
        [sys.executable, "-m", f"disentangled_ml.{module}", *arguments],
        env={**inherited, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def run(tmp_path, tiny_arguments, monkeypatch):
    """Train in this process: ``run("name", "key=value", ...)`` gives the run folder."""

    def train_run(name: str, *arguments: str) -> Path:
        monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
        train(load_config("config", [*tiny_arguments, f"runs={tmp_path}", f"run_name={name}", *arguments]))
        monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
        return tmp_path / name

    return train_run


def metrics_of(run_dir: Path) -> dict[str, float]:
    return json.loads((run_dir / "metrics.json").read_text())


def weights_of(run_dir: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_command_leaves_what_the_contract_names(tmp_path, tiny_arguments):
    arguments = [*tiny_arguments, "wandb.mode=auto", "training.max_epochs=2", "seed=3", f"runs={tmp_path}"]
    done = command("train", *arguments, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    (run_dir,) = tmp_path.glob("shards-*")
    assert run_dir.name == "shards-conv-fixed"
    metrics = metrics_of(run_dir)
    assert set(metrics) >= {f"{split}/{key}" for split in ("val", "test") for key in SPLIT_KEYS}
    assert all(isinstance(value, float) for value in metrics.values())
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {path.stem for path in (run_dir / "figures").glob("*.png")} == {"embedding_map", "masks", "triplet_accuracy"}
    assert OmegaConf.load(run_dir / "config.yaml").seed == 3
    assert re.search(rf"^genre +{metrics['test/triplet_accuracy/genre']:.3f} ", done.stdout, re.MULTILINE)
    (log,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    logged = log.read_bytes()
    for split, name in itertools.product(("train", "val", "test"), ("genre", "mood", "tempo", "track", "mean")):
        assert f"{split}/triplet_accuracy/{name}".encode() in logged
    assert b"train/chunks_per_second" in logged
    again = command("evaluate", f"checkpoint={run_dir}/checkpoints/best.ckpt", f"shards={tiny_arguments[-1][12:]}",
                    "triplets_per_condition=60", "seed=3", f"out={tmp_path}/out/report.json")  # fmt: skip
    assert again.returncode == 0, again.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for name in ("genre", "mood", "tempo"):
        assert report["sub"][name]["accuracy"] == pytest.approx(metrics[f"test/triplet_accuracy/{name}"], abs=1e-6)
    assert report == json.loads((run_dir / "evaluation.json").read_text())


def test_tiny_network_learns(run):
    metrics = metrics_of(run("learns", "training.max_epochs=12"))
    assert metrics["test/triplet_accuracy/genre"] > 0.8
    assert metrics["test/triplet_accuracy/mood"] > 0.8
    assert metrics["test/triplet_accuracy/track"] > 0.6


def test_seed_repeats_a_run_and_another_does_not(run):
    first, second, other = (
        run(name, "training.max_epochs=1", f"seed={seed}") for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert metrics_of(first) == metrics_of(second)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(first).values(), weights_of(second).values(), strict=True))
    assert metrics_of(first) != metrics_of(other)


def test_resumed_run_equals_uninterrupted(run):
    schedule = ("training.lr_patience=0", "training.learning_rate=0.03")  # so that the rate falls on the way
    whole = run("whole", "training.max_epochs=6", *schedule)
    run("parts", "training.max_epochs=3", *schedule)
    parts = run("parts", "training.max_epochs=6", "resume=true", *schedule)
    assert metrics_of(whole) == metrics_of(parts)
    for name, weight in weights_of(whole).items():
        assert torch.equal(weight, weights_of(parts)[name]), name
    assert torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 5


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_count_like_one(tmp_path, tiny_arguments, tiny_shards):
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "training.max_epochs=2")
    done = command("train", *tiny_arguments, *two, f"runs={tmp_path}", "run_name=two")
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    checkpoint = tmp_path / "two" / "checkpoints" / "best.ckpt"
    arguments = [f"checkpoint={checkpoint}", f"shards={tiny_shards}", "triplets_per_condition=60", f"out={tmp_path}/r"]
    evaluate(load_config("evaluate", arguments))
    report = json.loads((tmp_path / "r").read_text())
    for name in ("genre", "mood", "tempo"):
        assert report["sub"][name]["accuracy"] == pytest.approx(metrics[f"test/triplet_accuracy/{name}"], abs=1e-6)
    assert report["track"]["accuracy"] == pytest.approx(metrics["test/triplet_accuracy/track"], abs=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_processes_do_not_change_evaluation(run, workers):
    metrics = metrics_of(run(f"w{workers}", "training.max_epochs=1", f"data.workers={workers}"))
    assert 0 < metrics["test/triplet_accuracy/mean"] < 1


def test_every_choice_of_every_group_loads():
    for group in GROUPS:
        for choice in group_choices(group):
            extra = ["data.shards=somewhere"] if (group, choice) == ("data", "shards") else []
            assert load_config("config", [f"{group}={choice}", *extra]).choices[group] == choice
    assert set(group_choices("backbone")) == set(BACKBONES)
    assert set(group_choices("frontend")) == set(FRONTENDS)
    assert set(group_choices("mask")) == set(MASKS)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_and_mask_trains_a_step(tiny_arguments, backbone, mask):
    config = load_config("config", [*tiny_arguments, f"backbone={backbone}", "backbone.width=0.1", f"mask={mask}"])
    data = builders.build_data(config)
    module = builders.build_module(config, data.conditions, data.index.audio)
    batch: ChunkBatch = next(iter(data.train_dataloader()))
    terms = module.loss(module.network.raw_embedding(batch.audio), module.network.masks(), batch.triplets)
    terms.total.backward()
    assert terms.total > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.network.parameters())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_precision_and_layout_train(run, precision, channels_last):
    name = f"{precision}-{channels_last}"
    run_dir = run(name, "training.max_epochs=1", f"trainer.precision={precision}", "training.gradient_clip=1.0",
                  f"trainer.channels_last={channels_last}", "training.early_stopping_patience=1")  # fmt: skip
    assert metrics_of(run_dir)["test/triplet_accuracy/track"] > 0


def test_indivisible_embedding_is_refused(tiny_arguments):
    config = load_config("config", [*tiny_arguments, "embedding_dim=256"])
    data = builders.build_data(config)
    with pytest.raises(ValueError, match=r"embedding_dim=256 cannot be shared equally by 3 conditions.*255"):
        builders.build_module(config, data.conditions, data.index.audio)


def test_embedding_has_64_dimensions_per_condition_by_default(tiny_arguments):
    config = load_config("config", [*tiny_arguments, "embedding_dim=null"])
    data = builders.build_data(config)
    masks = builders.build_network(config, [c.name for c in data.conditions], data.index.audio).masks()
    assert masks.shape == (3, 192)
    assert (masks.sum(1) == 64).all()


def test_loaded_network_gives_the_embeddings_of_the_run(run, tiny_shards):
    run_dir = run("loaded", "training.max_epochs=1", "mask=learned")
    network = builders.load_network(run_dir / "checkpoints" / "best.ckpt")
    assert not network.training
    embedding = network(torch.rand(5, 1, 16, 16))
    assert embedding.shape == (5, 24)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(5), atol=1e-5)
    assert network.condition_names == ["genre", "mood", "tempo"]


def test_own_triplets_are_evaluated_and_missing_tracks_counted(run, tmp_path, tiny_shards, capsys):
    run_dir = run("own", "training.max_epochs=1")
    with open(tmp_path / "own.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["condition", "anchor_id", "anchor_start", "positive_id", "positive_start", "negative_id", "negative_start"]
        )
        writer.writerow(["genre", "t1", "", "t50", "", "t70", ""])  # of three splits
        writer.writerow(["track", "t1", "0", "t1", "0.3715", "t70", "0"])
        writer.writerow(["genre", "t1", "", "nowhere", "", "t70", ""])
    arguments = [f"checkpoint={run_dir}/checkpoints/last.ckpt", f"shards={tiny_shards}", f"triplets={tmp_path}/own.csv"]
    evaluate(load_config("evaluate", [*arguments, f"out={tmp_path}/own.json"]))
    report = json.loads((tmp_path / "own.json").read_text())
    assert report["skipped"] == {"genre": 1, "mood": 0, "tempo": 0, "track": 0}
    assert (report["sub"]["genre"]["n"], report["track"]["n"]) == (1, 1)
    assert report["sub"]["mood"]["accuracy"] is None
    assert "skipped for missing tracks: 1 genre" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "does not exist"), (b"nonsense", "cannot be read"), ({"weights": 1}, "lacks")],
    ids=["missing", "damaged", "foreign"],
)
def test_bad_checkpoint_is_refused(tmp_path, content, match):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=match):
        builders.load_network(path)


def test_pickled_checkpoint_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"state_dict": {}, "config": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        builders.load_network(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


def test_run_folder_is_never_overwritten(run):
    run("twice", "training.max_epochs=1")
    with pytest.raises(ConfigError, match=r"holds a run already.*resume=true"):
        run("twice", "training.max_epochs=1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backbone=transformer",), "choose one of conv, inception, resnet, se"),
        (("data=shards", "data.shards=nowhere"), "prepare"),
        (("data.shards={tiny}", "resume=true"), "resume=true needs run_name"),
        (("data.shards={tiny}", "embedding_dim=256"), "cannot be shared equally"),
    ],
    ids=["choice", "shards", "resume", "embedding"],
)
def test_bad_input_ends_the_command_with_one_clear_line(tmp_path, tiny_shards, arguments, message):
    given = [argument.format(tiny=tiny_shards) for argument in arguments]
    done = command("train", "data=shards", "trainer=cpu", "wandb.mode=disabled", *given, f"runs={tmp_path}/runs")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
