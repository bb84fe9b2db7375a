"""The commands end to end on tiny shards: what they leave, resuming, repeating, two processes, bad input."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.shards.index import Shard, ShardIndex, ShardsError
from disentangled_ml import builders
from disentangled_ml.builders import build_network
from disentangled_ml.commands.schemas import EvaluateConfig
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.config.loading import GROUPS, group_choices
from disentangled_ml.evaluate import main as evaluate
from disentangled_ml.network.backbones import BACKBONES
from disentangled_ml.network.checkpoint import FEATURES_ALONE, load_network
from disentangled_ml.network.frontends import FRONTENDS
from disentangled_ml.network.masks import MASKS
from disentangled_ml.objective.losses import LOSSES, MEANS, distances_to_points
from disentangled_ml.structures import AudioSettings, ChunkBatch
from disentangled_ml.training.checkpointing import WholeCheckpointIO
from disentangled_ml.training.run_folder import RUN_DIR_VARIABLE, choose_run_dir
from tests import warm

SPLIT_KEYS = {f"triplet_accuracy/{name}" for name in ("genre", "mood", "tempo", "track", "mean")} | {"loss"}


def cold(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run an entry point as a user does."""
    return subprocess.run(
        warm.cold(name, *arguments),
        env=warm.environment(**variables),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def metrics_of(run_dir: Path) -> dict[str, float]:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics.pop("train/seconds") > 0
    return metrics


def weights_of(run_dir: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_command_leaves_what_the_contract_names(tmp_path, tiny_arguments):
    arguments = [*tiny_arguments, "wandb.mode=auto", "training.max_epochs=2", "seed=3", f"runs={tmp_path}"]
    done = cold("train", *arguments, HOME=str(tmp_path))
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
    again = cold("evaluate", f"checkpoint={run_dir}/checkpoints/best.ckpt", f"shards={tiny_arguments[-1][12:]}",
                    "triplets_per_condition=60", "seed=3", f"out={tmp_path}/out/report.json")  # fmt: skip
    assert again.returncode == 0, again.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for name in ("genre", "mood", "tempo"):
        assert report["sub"][name]["accuracy"] == pytest.approx(metrics[f"test/triplet_accuracy/{name}"], abs=1e-6)
    assert report == json.loads((run_dir / "evaluation.json").read_text())
    assert set(report) == {
        *("sub", "all", "track", "skipped", "matrix", "disentanglement", "mean_ci95", "octaves_folded"),
        *("recall", "track_recall", "estimated"),
    }
    for name in ("genre", "mood", "tempo"):
        assert report["matrix"][name][name] == pytest.approx(report["sub"][name]["accuracy"])
        for space in ("sub", "all", "chance"):
            recall = report["recall"][space][name]
            assert 0 < recall["1"] <= recall["8"] <= 1
            assert 0 < recall["n"] <= 20
    assert report["track_recall"]["n"] == 20  # of test, each has three chunks or more
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["callbacks"]["Throughput"]["seconds"] > 0


triplet_choices = pytest.mark.parametrize(
    "choice",
    [
        pytest.param([], id="drawn"),
        pytest.param(["loss.gather=true"], id="drawn-together", marks=pytest.mark.slow),
        pytest.param(["loss.triplets=all", "loss.mean=violating"], id="all", marks=pytest.mark.slow),
    ],
)


@triplet_choices
def test_tiny_network_learns(run, choice):
    schedule = ("training.max_epochs=12", "training.lr_patience=20")
    metrics = metrics_of(run("learns", *schedule, *choice))
    assert metrics["test/triplet_accuracy/genre"] > 0.8
    assert metrics["test/triplet_accuracy/mood"] > 0.8
    assert metrics["test/triplet_accuracy/track"] > 0.6


@pytest.mark.slow
def test_seed_repeats_a_run_and_another_does_not(run, trained):
    first, second, other = trained, run("b", "training.max_epochs=1"), run("c", "training.max_epochs=1", "seed=2")
    assert metrics_of(first) == metrics_of(second)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(first).values(), weights_of(second).values(), strict=True))
    assert metrics_of(first) != metrics_of(other)


@pytest.mark.slow
@triplet_choices
def test_resumed_run_equals_uninterrupted(run, choice):
    schedule = ("training.lr_patience=0", "training.learning_rate=0.03", *choice)  # the rate falls
    whole = run("whole", "training.max_epochs=4", *schedule)
    run("parts", "training.max_epochs=2", *schedule)
    parts = run("parts", "training.max_epochs=4", "resume=true", *schedule)
    assert metrics_of(whole) == metrics_of(parts)
    for name, weight in weights_of(whole).items():
        assert torch.equal(weight, weights_of(parts)[name]), name
    assert torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 3


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_count_like_one(tmp_path, tiny_arguments, tiny_shards):
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "training.max_epochs=2")
    arguments = (*tiny_arguments, *two, f"runs={tmp_path}", "run_name=two")
    done = warm.run("train", *arguments, timeout=240)
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    checkpoint = tmp_path / "two" / "checkpoints" / "best.ckpt"
    arguments = [f"checkpoint={checkpoint}", f"shards={tiny_shards}", "triplets_per_condition=60", f"out={tmp_path}/r"]
    evaluate(load_config(EvaluateConfig, arguments))
    report = json.loads((tmp_path / "r").read_text())
    for name in ("genre", "mood", "tempo"):
        assert report["sub"][name]["accuracy"] == pytest.approx(metrics[f"test/triplet_accuracy/{name}"], abs=1e-6)
    assert report["track"]["accuracy"] == pytest.approx(metrics["test/triplet_accuracy/track"], abs=1e-6)


@pytest.mark.slow
def test_loading_processes_do_not_change_evaluation(tiny_arguments):
    found = []
    for workers in (0, 2):
        data = builders.build_data(load_config(TrainConfig, [*tiny_arguments, f"data.workers={workers}"]))
        data.setup("test")
        chunks = {}
        for batch in data.test_dataloader():
            for track, start, audio in zip(batch.track.tolist(), batch.start.tolist(), batch.audio, strict=True):
                chunks[batch.track_ids[track], start] = audio
        found.append(chunks)
    assert found[0].keys() == found[1].keys()
    assert len({track for track, _ in found[0]}) == 20
    assert all(torch.equal(audio, found[1][key]) for key, audio in found[0].items())


@pytest.mark.slow
def test_inference_needs_no_lightning():
    code = (
        "import sys, disentangled_ml.network.checkpoint; "
        "assert not {'pytorch_lightning', 'wandb', 'webdataset', 'madmom'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("change", ["seed=9", "loss.margin=0.3", "mask=learned", "data.tracks_per_batch=6"])
def test_resuming_with_other_settings_is_refused(run, copy_of_trained, change):
    key = change.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"last\.ckpt was trained with {key}"):
        run("trained", "training.max_epochs=2", "resume=true", change)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, "shards-conv-fixed-7-0"),
        ({"SLURM_JOB_ID": "7"}, "shards-conv-fixed"),
        ({"WANDB_RUN_ID": "abc"}, "shards-conv-fixed-abc"),
    ],
    ids=["srun", "in-an-allocation", "agent"],
)
def test_job_names_the_run_folder(tmp_path, monkeypatch, variables, name):
    for variable in (RUN_DIR_VARIABLE, "SLURM_JOB_ID", "SLURM_STEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert choose_run_dir(tmp_path, "shards-conv-fixed", None, resume=False) == tmp_path / name
    monkeypatch.delenv(RUN_DIR_VARIABLE)
    (tmp_path / name / "checkpoints").mkdir()
    if name == "shards-conv-fixed":
        assert choose_run_dir(tmp_path, "shards-conv-fixed", None, resume=False) == tmp_path / f"{name}-2"
    else:
        with pytest.raises(ConfigError, match="holds a run already"):
            choose_run_dir(tmp_path, "shards-conv-fixed", None, resume=False)
        assert choose_run_dir(tmp_path, "shards-conv-fixed", None, resume=True) == tmp_path / name
    monkeypatch.delenv(RUN_DIR_VARIABLE)


@pytest.mark.slow
def test_every_choice_of_every_group_loads():
    for group in GROUPS:
        for choice in group_choices(group):
            extra = ["data.shards=somewhere"] if (group, choice) == ("data", "shards") else []
            assert load_config(TrainConfig, [f"{group}={choice}", *extra]).choices[group] == choice
    assert set(group_choices("backbone")) == {*BACKBONES, FEATURES_ALONE}
    assert set(group_choices("frontend")) == set(FRONTENDS)
    assert set(group_choices("mask")) == set(MASKS)
    assert set(group_choices("loss")) == set(LOSSES)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_and_mask_trains_a_step(tiny_arguments, backbone, mask):
    config = load_config(TrainConfig, [*tiny_arguments, f"backbone={backbone}", "backbone.width=0.1", f"mask={mask}"])
    data = builders.build_data(config)
    module = builders.build_module(config, data.conditions, data.index.audio)
    batch: ChunkBatch = next(iter(data.train_dataloader()))
    terms = module.loss(module.network.raw_embedding(batch.audio), module.network.masks(), batch.triplets)
    terms.total.backward()
    assert terms.total > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.network.parameters())


def chosen_loss(tiny_arguments, *arguments: str):
    """Give the loss of a configuration, its network's module and a batch."""
    config = load_config(TrainConfig, [*tiny_arguments, *arguments])
    data = builders.build_data(config)
    module = builders.build_module(config, data.conditions, data.index.audio)
    batch: ChunkBatch = next(iter(data.train_dataloader()))
    return module.loss, module, batch


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_built_from_the_configuration_and_trains_a_step(tiny_arguments, loss, mask):
    weights = ["loss.margin=0.3", "loss.track_weight=0.7", "mask.embedding_penalty=0.01", "mask.mask_penalty=0.02"]
    weights += ["loss.condition_weight=0.9"]
    built, module, batch = chosen_loss(
        tiny_arguments, f"loss={loss}", f"mask={mask}", *weights, "loss.temperature=0.125"
    )
    assert type(built) is LOSSES[loss]
    assert (built.margin, built.track_weight, built.condition_weight) == (0.3, 0.7, 0.9)
    assert (built.embedding_penalty, built.mask_penalty) == (0.01, 0.02)
    if loss == "classification":
        assert built.temperature == 0.125
    if loss != "triplet":
        assert [tuple(points.shape) for points in built.points] == [(2, 24), (3, 24), (27, 24)]
    optimised = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert {id(parameter) for parameter in built.parameters()} <= optimised
    module.log = lambda *_, **__: None
    module.training_step(batch, 0)["loss"].backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert all(points.grad.abs().sum() > 0 for points in getattr(built, "points", ()))


def test_gathering_changes_who_draws_and_nothing_else(tiny_arguments):
    (_, module, batch), (_, gathering, same) = (
        chosen_loss(tiny_arguments, f"loss.gather={gather}", "seed=3") for gather in ("false", "true")
    )
    assert torch.equal(batch.audio, same.audio)
    assert module.selection is None
    miner = gathering.selection.miner
    assert (miner.min_gap, miner.per_condition, miner.track_triplets) == (8, 32, 32)
    assert gathering.selection.seed == 3


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize(("loss", "gather"), [*((loss, "false") for loss in LOSSES), ("triplet", "true")])
def test_every_loss_takes_all_triplets(tiny_arguments, loss, mean, gather):
    """None is drawn with the batch, and more are counted than would be."""
    built, module, batch = chosen_loss(
        tiny_arguments, f"loss={loss}", "loss.triplets=all", f"loss.mean={mean}", f"loss.gather={gather}"
    )
    assert built.mean == mean
    assert (built.average is None) == (gather == "false")
    assert module.selection.min_gap == 8
    assert batch.triplets.indices.shape == (0, 3)
    module.log = lambda *_, **__: None
    step = module.training_step(batch, 0)
    step["loss"].backward()
    assert step["total"].min() > 32
    assert 0 < step["correct"].sum() < step["total"].sum()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_batch_norm_over_all_processes_is_of_gpus(tmp_path, tiny_arguments, accelerator, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [*tiny_arguments, f"trainer.accelerator={accelerator}", "trainer.sync_batchnorm=true"]
    with pytest.raises(ConfigError, match="sync_batchnorm=true needs GPUs"):
        builders.build_trainer(load_config(TrainConfig, arguments), tmp_path)


def test_batch_norm_over_all_processes_reaches_the_trainer(tmp_path, tiny_arguments, monkeypatch):
    """What can be seen without a GPU: the option is handed on, and the network's layers are those that it converts."""
    given = {}
    monkeypatch.setattr(builders.pl, "Trainer", lambda **options: given.update(options))
    monkeypatch.setattr(builders, "watch_ranks", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = load_config(TrainConfig, [*tiny_arguments, "trainer.accelerator=gpu", "trainer.sync_batchnorm=true"])
    builders.build_trainer(config, tmp_path)
    assert given["sync_batchnorm"] is True
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(build_network(config, ["genre"], AudioSettings(n_mels=16)))
    kinds = {type(module).__name__ for module in network.modules() if "BatchNorm" in type(module).__name__}
    assert kinds == {"SyncBatchNorm"}


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "triplet"])
def test_a_batch_is_learned_by_classes(tiny_arguments, loss):
    torch.manual_seed(0)
    # Of such short chunks the rhythm branch hears nothing.
    more = ("rhythm=false", "loss.track_weight=0", "loss.margin=0.5")
    built, module, batch = chosen_loss(tiny_arguments, f"loss={loss}", *more)

    def share_right() -> list[float]:
        """Give the share of chunks that are nearest to the point of their class, per condition."""
        embedding, masks = module.network(batch.audio), module.network.masks()
        unit = [torch.nn.functional.normalize(points, dim=1) for points in built.points]
        nearest = [distances_to_points(embedding, *pair).argmin(1) for pair in zip(unit, masks, strict=True)]
        return [(n == t.argmax(1)).float().mean().item() for n, t in zip(nearest, batch.targets, strict=True)]

    optimizer = module.configure_optimizers()
    before, module.log = share_right(), lambda *_, **__: None
    for _ in range(150):
        optimizer.zero_grad()
        module.training_step(batch, 0)["loss"].backward()
        optimizer.step()
    assert min(share_right()) > 0.85
    assert max(before) < 0.8


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "triplet"])
def test_tiny_network_learns_by_classes(run, loss):
    schedule = ("training.max_epochs=8", "training.lr_patience=20", "seed=2")
    run_dir = run(loss, f"loss={loss}", "loss.track_weight=0", *schedule)
    metrics = metrics_of(run_dir)
    assert metrics["test/triplet_accuracy/genre"] > 0.75
    assert metrics["test/triplet_accuracy/mood"] > 0.75
    assert [name for name in weights_of(run_dir) if name.startswith("loss.")] == [f"loss.points.{c}" for c in range(3)]
    network = load_network(run_dir / "checkpoints" / "best.ckpt")  # which the points of the loss are not part of
    assert network(torch.rand(2, 1, 16, 16)).shape == (2, 24)


@pytest.mark.slow
def test_a_run_of_proxies_goes_on(run):
    whole = run("whole", "loss=proxy", "training.max_epochs=2")
    run("parts", "loss=proxy", "training.max_epochs=1")
    parts = run("parts", "loss=proxy", "training.max_epochs=2", "resume=true")
    assert metrics_of(whole) == metrics_of(parts)
    assert all(torch.equal(weight, weights_of(parts)[name]) for name, weight in weights_of(whole).items())
    with pytest.raises(ConfigError, match=r"was trained with loss.name=proxy, not triplet"):
        run("parts", "loss=triplet", "training.max_epochs=5", "resume=true")


@pytest.mark.parametrize(("arguments", "name"), [([], "mean"), (["loss.condition_weight=0"], "track")])
def test_the_best_network_is_chosen_by_what_is_trained(tmp_path, tiny_arguments, arguments, name):
    config = load_config(TrainConfig, [*tiny_arguments, *arguments, "training.early_stopping_patience=3"])
    monitors = [c.monitor for c in builders.build_callbacks(config, tmp_path) if getattr(c, "monitor", None)]
    assert monitors[0] == "val/loss"  # of the learning rate
    assert monitors[1:] == [f"val/triplet_accuracy/{name}"] * 2  # of the best checkpoint and of early stopping


def test_track_triplets_alone_train(run):
    """The loss is that of track alone, and the best network is the best by track."""
    run_dir = run("track", "experiment=track_only", "training.max_epochs=6", "training.learning_rate=0.1")
    best = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    (state,) = (value for value in best["callbacks"].values() if value.get("best_model_score") is not None)
    assert state["monitor"] == "val/triplet_accuracy/track"
    assert state["best_model_score"] == pytest.approx(metrics_of(run_dir)["val/triplet_accuracy/track"], abs=1e-6)
    assert json.loads((run_dir / "evaluation.json").read_text())["disentanglement"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("precision", "channels_last"), [("32-true", False), ("bf16-mixed", True)])
def test_precision_and_layout_train(run, precision, channels_last):
    name = f"{precision}-{channels_last}"
    run_dir = run(name, "training.max_epochs=1", f"trainer.precision={precision}", "training.gradient_clip=1.0",
                  f"trainer.channels_last={channels_last}", "training.early_stopping_patience=1")  # fmt: skip
    assert metrics_of(run_dir)["test/triplet_accuracy/track"] > 0


def test_indivisible_embedding_is_refused(tiny_arguments):
    config = load_config(TrainConfig, [*tiny_arguments, "embedding_dim=256"])
    data = builders.build_data(config)
    with pytest.raises(ValueError, match=r"embedding_dim=256 cannot be shared equally by 3 conditions.*255"):
        builders.build_module(config, data.conditions, data.index.audio)


def test_icassp2020_is_the_papers_recipe_at_full_width():
    config = load_config(TrainConfig, ["experiment=icassp2020", "data=shards", "data.shards=nowhere"])
    network = build_network(config, ["genre", "mood", "instrument", "tempo"], AudioSettings())
    assert sum(p.numel() for p in network.parameters()) == 2_806_464
    assert network.masks().shape == (4, 256)
    assert network.eval()(torch.rand(1, 1, 128, 129)).shape == (1, 256)
    assert (config.training.learning_rate, config.loss.margin, config.loss.track_weight) == (0.01, 0.1, 0.5)
    assert (config.training.lr_factor, config.training.lr_patience, config.training.lr_reductions) == (0.2, 4, 5)


def test_embedding_has_64_dimensions_per_condition_by_default(tiny_arguments):
    config = load_config(TrainConfig, [*tiny_arguments, "embedding_dim=null"])
    data = builders.build_data(config)
    masks = build_network(config, [c.name for c in data.conditions], data.index.audio).masks()
    assert masks.shape == (3, 192)
    assert (masks.sum(1) == 64).all()


def test_loaded_network_gives_the_embeddings_of_the_run(run, tiny_shards):
    run_dir = run("loaded", "training.max_epochs=1", "mask=learned")
    network = load_network(run_dir / "checkpoints" / "best.ckpt")
    assert not network.training
    embedding = network(torch.rand(5, 1, 16, 16))
    assert embedding.shape == (5, 24)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(5), atol=1e-5)
    assert network.condition_names == ["genre", "mood", "tempo"]


def test_own_triplets_are_evaluated_and_missing_tracks_counted(trained, tmp_path, tiny_shards, capsys):
    with open(tmp_path / "own.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["condition", "anchor_id", "anchor_start", "positive_id", "positive_start", "negative_id", "negative_start"]
        )
        writer.writerow(["genre", "t1", "", "t50", "", "t70", ""])  # of three splits
        writer.writerow(["track", "t1", "0", "t1", "0.3715", "t70", "0"])
        writer.writerow(["genre", "t1", "", "nowhere", "", "t70", ""])
    arguments = [f"checkpoint={trained}/checkpoints/last.ckpt", f"shards={tiny_shards}", f"triplets={tmp_path}/own.csv"]
    evaluate(load_config(EvaluateConfig, [*arguments, f"out={tmp_path}/own.json"]))
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
        load_network(path)


def test_pickled_checkpoint_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"state_dict": {}, "config": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_network(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


def test_run_folder_is_never_overwritten(run, copy_of_trained):
    with pytest.raises(ConfigError, match=r"holds a run already.*resume=true"):
        run("trained", "training.max_epochs=1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backbone=transformer",), "choose one of conv, inception, musicnn, resnet, se"),
        (("data=shards", "data.shards=nowhere"), "prepare"),
        (("data.shards={tiny}", "resume=true"), "resume=true needs run_name"),
        (("data.shards={tiny}", "embedding_dim=256"), "cannot be shared equally"),
    ],
    ids=["choice", "shards", "resume", "embedding"],
)
def test_bad_input_ends_the_command_with_one_clear_line(tmp_path, tiny_shards, arguments, message):
    given = [argument.format(tiny=tiny_shards) for argument in arguments]
    done = warm.run("train", "data=shards", "trainer=cpu", "wandb.mode=disabled", *given, f"runs={tmp_path}/runs")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../x", "a/b", "/absolute", ".", ".."])
def test_run_name_is_that_of_a_folder(run, name):
    with pytest.raises(ConfigError, match="is not the name of a folder"):
        run(name)


def test_resuming_needs_the_same_network_and_a_whole_checkpoint(run, copy_of_trained):
    before = (copy_of_trained / "config.yaml").read_text()
    for argument, match in [
        ("backbone=resnet", "was trained with backbone.name="),
        ("mask=learned", "was trained with mask.name="),
        ("data.conditions=[mood,genre,tempo]", "was trained with (data.)?conditions="),
        ("embedding_dim=48", "was trained with embedding_dim=24, not 48"),
    ]:
        with pytest.raises(ConfigError, match=match):
            run("trained", "resume=true", "training.max_epochs=2", argument)
    last = copy_of_trained / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read"):
        run("trained", "resume=true", "training.max_epochs=2")
    assert (copy_of_trained / "config.yaml").read_text() == before


def test_divergence_is_said_so(run):
    with pytest.raises(ValueError, match=r"diverged.*lower training.learning_rate"):
        run("diverged", "training.max_epochs=1", "training.learning_rate=1e30")


def test_a_failed_write_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def fail(checkpoint, file):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        WholeCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_fails_and_says_how_to_go_on(tmp_path, tiny_arguments, number):
    arguments = [
        *tiny_arguments,
        f"runs={tmp_path}",
        "run_name=cut",
        "training.max_epochs=9999",
        "training.lr_reductions=999",
    ]
    log = tmp_path / "log"
    with log.open("w") as output:  # a pipe that nobody reads would fill
        process = warm.Popen(warm.cold("train", *arguments), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "cut/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        process.wait(timeout=300)
    finally:
        process.kill()
    said = log.read_text()
    assert process.returncode == 1
    assert "interrupted: run_name=cut resume=true goes on" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("workers", [(0, 2), (2, 0)], ids=["more", "fewer"])
@pytest.mark.slow
def test_an_epoch_is_whole_after_the_number_of_workers_has_changed(tmp_path, run, tiny_shards, workers):
    """The numbers of steps of an epoch differ: 12 by one loading process of 48 tracks, 2 x 6 by two; so one track less."""
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "shards", ignore=shutil.ignore_patterns("triplets")))
    index = ShardIndex.read(shards)
    train_shards = index.splits["train"]
    first = train_shards[0]
    kept = [Shard(first.file, first.samples - 7), *train_shards[1:]]
    replace(index, splits={**index.splits, "train": kept}).write()
    steps, before = [], 0
    for epoch, number in enumerate(workers, start=1):
        arguments = (f"data.shards={shards}", f"data.workers={number}", f"training.max_epochs={epoch}", "resume=true")
        run_dir = run("changing", *arguments, "training.early_stopping_patience=5")
        last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
        steps.append(last["global_step"] - before)
        before = last["global_step"]
        assert last["epoch"] == epoch - 1
    by_workers = {0: -(-41 // 4), 2: 2 * -(-21 // 4)}
    assert by_workers[0] != by_workers[2]
    assert steps == [by_workers[number] for number in workers]


@pytest.mark.slow
def test_a_run_does_not_go_on_with_shards_that_were_prepared_anew(tmp_path, run, tiny_shards):
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "shards", ignore=shutil.ignore_patterns("triplets")))
    run("anew", f"data.shards={shards}", "training.max_epochs=1")
    index = ShardIndex.read(shards)
    replace(index, splits={**index.splits, "train": index.splits["train"][1:]}).write()
    with pytest.raises(ShardsError, match="was prepared anew since the checkpoint was made"):
        run("anew", f"data.shards={shards}", "training.max_epochs=2", "resume=true")
