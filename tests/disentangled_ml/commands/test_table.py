"""The comparison of systems end to end on tiny shards: what it makes, what it keeps, what it refuses."""

from __future__ import annotations

import csv
import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from datamodules.shards.index import ShardIndex
from disentangled_ml import processes
from disentangled_ml.builders import build_network
from disentangled_ml.commands import table
from disentangled_ml.commands.schemas import EvaluateConfig, TableConfig
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.evaluate import main as evaluate
from disentangled_ml.files import locked
from disentangled_ml.network.checkpoint import load_network
from disentangled_ml.reporting.comparison import SPACES
from disentangled_ml.structures import AudioSettings
from tests import warm

NAMES = ("genre", "mood", "tempo")
TRAIN = (
    *("backbone=conv", "backbone.width=0.1", "data.chunk_frames=16", "data.tracks_per_batch=8"),
    *("data.chunks_per_track=2", "data.triplets_per_condition=32", "data.track_triplets=32"),
    *("evaluation.triplets_per_condition=60", "training.max_epochs=1", "trainer=cpu", "wandb.mode=disabled"),
)

SYSTEMS = ("random", "category", "disentangled_track", "specialised")
RUNS = ("category-seed0", "disentangled_track-seed0", *(f"specialised-{name}-seed0" for name in NAMES))


@pytest.fixture(autouse=True)
def same_signals():
    """Undo what the command does about SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def make(shards: Path, out: Path, *arguments: str) -> None:
    """Run the command in this process; the trainings have theirs."""
    given = [f"shards={shards}", f"out={out}", f"systems=[{','.join(SYSTEMS)}]", f"train=[{','.join(TRAIN)}]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "start", start_warm)
        table.main(load_config(TableConfig, [*given, "triplets_per_condition=60", "jobs=2", *arguments]))


def start_warm(job: processes.Job, environment: dict[str, str], lock: int) -> warm.Popen:
    """Start a training; what a job holds and what its environment lacks is tested in test_processes."""
    with open(job.log, "w") as log:
        return warm.Popen(job.command, env={**processes.own_environment(), **environment}, stdout=log, stderr=log)


def written(out: Path) -> dict[str, int]:
    """Tell when what a table keeps was written."""
    paths = [*out.glob("cells/*.json"), *out.glob("runs/*/evaluation.json"), *out.glob("runs/*/checkpoints/best.ckpt")]
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in paths}


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def rows_of(out: Path) -> dict[tuple[str, str], dict]:
    return {(row["system"], row["space"]): row for row in read(out / "table.json")["rows"]}


@pytest.fixture(scope="module")
def made(tiny_shards, tmp_path_factory):
    """Make a table of which a training cannot begin, then, with that out of the way, go on with it."""
    out = tmp_path_factory.mktemp("table") / "out"
    before = signal.getsignal(signal.SIGTERM)
    make(tiny_shards, out, "systems=[random]")
    (out / "runs" / "category-seed0").write_text("in the way")
    with pytest.raises(ConfigError) as error:
        make(tiny_shards, out)
    log = out / "logs" / "category-seed0.log"
    first = SimpleNamespace(error=str(error.value), log=log.read_text(), written=written(out), rows=rows_of(out))
    (out / "runs" / "category-seed0").unlink()
    make(tiny_shards, out)
    signal.signal(signal.SIGTERM, before)
    return SimpleNamespace(out=out, first=first)


@pytest.mark.slow
def test_a_failed_training_is_named_and_all_else_is_made(made):
    first = made.first
    assert first.error.startswith("category-seed0 failed, see the logs in ")
    assert str(made.out / "logs") in first.error
    assert "cannot be made" in first.log
    assert "Traceback" not in first.log
    assert {name for name in first.written if name.startswith("runs/")} == {
        f"runs/{run}/{file}" for run in RUNS[1:] for file in ("evaluation.json", "checkpoints/best.ckpt")
    }
    assert {name for name in first.written if name.startswith("cells/")} == {
        f"cells/{system}-seed0.json" for system in SYSTEMS if system != "category"
    }
    assert {system for system, _ in first.rows} == set(SYSTEMS) - {"category"}


@pytest.mark.slow
def test_the_next_call_adds_what_was_missing_and_nothing_else(made):
    now = written(made.out)
    assert {name: now[name] for name in made.first.written} == made.first.written
    added = {
        "cells/category-seed0.json",
        *(f"runs/category-seed0/{f}" for f in ("evaluation.json", "checkpoints/best.ckpt")),
    }
    assert set(now) - set(made.first.written) == added
    rows = rows_of(made.out)
    assert list(rows) == [
        *((system, "all") for system in SYSTEMS[:3]),
        *(("disentangled_track", "sub"), ("specialised", "sub")),
    ]
    assert {key: rows[key] for key in made.first.rows} == made.first.rows


@pytest.mark.slow
def test_rows_are_what_the_networks_give_when_evaluated(made, tiny_shards, tmp_path):
    rows = rows_of(made.out)
    for system, spaces in (("category", ["all"]), ("disentangled_track", ["all", "sub"])):
        best = made.out / "runs" / f"{system}-seed0" / "checkpoints" / "best.ckpt"
        arguments = [f"checkpoint={best}", f"shards={tiny_shards}", "triplets_per_condition=60", "probe=true"]
        evaluate(load_config(EvaluateConfig, [*arguments, f"out={tmp_path}/report.json", "accelerator=cpu"]))
        report, cell = read(tmp_path / "report.json"), read(made.out / "cells" / f"{system}-seed0.json")
        assert {key: cell[key] for key in report} == report
        for space in spaces:
            for name in NAMES:
                assert rows[system, space][name] == report[space][name]
                assert rows[system, space][name]["n"] == 60
        assert cell["parameters"] == sum(parameter.numel() for parameter in load_network(best).parameters())
        assert cell["seconds"] > 0
    assert rows["disentangled_track", "sub"]["genre"] != rows["disentangled_track", "all"]["genre"]


@pytest.mark.slow
def test_each_training_has_the_configuration_of_its_system(made):
    runs = {run: OmegaConf.load(made.out / "runs" / run / "config.yaml") for run in RUNS}
    assert {run: (c.mask.name, c.loss.track_weight) for run, c in runs.items()} == {
        "category-seed0": ("none", 0.0),
        "disentangled_track-seed0": ("fixed", 0.5),
        **{f"specialised-{name}-seed0": ("none", 0.0) for name in NAMES},
    }
    for name in NAMES:
        assert list(runs[f"specialised-{name}-seed0"].data.conditions) == [name]
        assert runs[f"specialised-{name}-seed0"].embedding_dim == 64
    for config in runs.values():
        assert (config.data.chunk_frames, config.backbone.width, config.training.max_epochs) == (16, 0.1, 1)


@pytest.mark.slow
def test_specialised_networks_are_counted_together(made):
    cell = read(made.out / "cells" / "specialised-seed0.json")
    seconds = 0.0
    for name in NAMES:
        run = made.out / f"runs/specialised-{name}-seed0"
        took = read(run / "metrics.json")["train/seconds"]
        last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert took == pytest.approx(last["callbacks"]["Throughput"]["seconds"], abs=1)
        seconds += took
    assert cell["seconds"] == pytest.approx(seconds)
    one = read(made.out / "cells" / "category-seed0.json")  # one network of three times the dimensions
    assert 2 * one["parameters"] < cell["parameters"] < 3 * one["parameters"]
    assert read(made.out / "cells" / "random-seed0.json")["parameters"] is None


@pytest.mark.slow
def test_the_forms_of_the_table_hold_the_same_numbers(made):
    comparison = read(made.out / "table.json")
    with open(made.out / "table.csv", newline="") as file:
        flat = {(row["system"], row["space"]): row for row in csv.DictReader(file)}
    text = (made.out / "table.md").read_text()
    for row in comparison["rows"]:
        part = text.split(f"**{SPACES[row['space']]}**")[1]
        line = next(line for line in part.split("\n") if line.startswith(f"| {row['title']} |"))
        shown = [cell.strip() for cell in line.strip("|").split("|")][1:]
        for column, cell in zip(comparison["columns"], shown, strict=False):
            number = flat[row["system"], row["space"]][column]
            if row[column] is None:
                assert (number, cell) == ("", "")
            else:
                assert float(number) == row[column]["accuracy"]
                assert cell.startswith(f"{row[column]['accuracy']:.3f} [")
    for figure in ("table.png", "matrices.png"):
        assert (made.out / figure).stat().st_size > 0
        assert len(Image.open(made.out / figure).convert("RGB").getcolors(1 << 22)) > 20


@pytest.mark.slow
def test_only_what_is_deleted_is_made_again(made, tiny_shards):
    before, rows = written(made.out), rows_of(made.out)
    (made.out / "cells" / "random-seed0.json").unlink()
    (made.out / "runs" / "disentangled_track-seed0" / "evaluation.json").unlink()
    make(tiny_shards, made.out)
    now = written(made.out)
    assert set(now) == set(before)
    again = {name for name in now if now[name] != before[name]}
    assert again == {
        "cells/random-seed0.json",
        "runs/disentangled_track-seed0/evaluation.json",
        "cells/disentangled_track-seed0.json",  # of a network that may be another now
    }
    assert rows_of(made.out) == rows


@pytest.mark.slow
def test_a_table_that_is_whole_is_only_written_anew(made, tiny_shards, monkeypatch):
    monkeypatch.setattr(table, "evaluate_split", lambda *_, **__: pytest.fail("evaluated again"))
    before = written(made.out)
    text = (made.out / "table.md").read_text()
    (made.out / "table.md").unlink()
    make(tiny_shards, made.out)
    assert written(made.out) == before
    assert (made.out / "table.md").read_text() == text


@pytest.mark.slow
def test_systems_may_be_added_and_left_out(made, tiny_shards):
    before = written(made.out)
    make(tiny_shards, made.out, "systems=[mfcc,category]")
    assert list(rows_of(made.out)) == [("mfcc", "all"), ("category", "all")]
    now = written(made.out)
    assert set(now) - set(before) == {"cells/mfcc-seed0.json"}
    assert {name: now[name] for name in before} == before
    make(tiny_shards, made.out)  # as it was, for the other tests


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "match"),
    [
        ("triplets_per_condition=61", "was begun with triplets_per_condition=60, not 61"),
        ("match_bandwidth=true", "was begun with match_bandwidth=False, not True"),
        ("base=demo", "was begun with base=table, not demo"),
        ("train=[backbone=conv]", r"was begun with train=\[.*\], not \['backbone=conv'\]"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(made, tiny_shards, argument, match):
    before = written(made.out)
    with pytest.raises(ConfigError, match=match):
        make(tiny_shards, made.out, argument)
    assert written(made.out) == before


@pytest.mark.slow
def test_other_shards_in_the_same_folder_are_refused(made, long_shards):
    with pytest.raises(ConfigError, match="was begun with shards="):
        make(long_shards, made.out)


@pytest.mark.slow
def test_a_damaged_cell_is_named(made, tiny_shards):
    path = made.out / "cells" / "random-seed0.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    try:
        with pytest.raises(
            ValueError, match=r"random-seed0\.json (is damaged|holds no JSON object) .*: delete it, it is made anew"
        ):
            make(tiny_shards, made.out)
    finally:
        path.write_text(whole)


@pytest.mark.slow
def test_a_folder_that_is_worked_in_is_refused(made, tiny_shards):
    with locked(made.out), pytest.raises(ConfigError, match="being worked in by another process"):
        make(tiny_shards, made.out)


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        (
            "systems=[vq,paper]",
            r"^systems: paper is unknown: choose of vq, .*bandwidth, musicnn_tags, category, .*track_only",
        ),
        ("systems=[]", r"systems=\[\] must be some, each once"),
        ("systems=[vq,category,vq]", r"systems=\['vq', 'category', 'vq'\] must be some, each once"),
        ("seeds=[]", r"seeds=\[\] must be some, each once"),
        ("seeds=[1,1]", r"seeds=\[1, 1\] must be some, each once"),
        ("seeds=[0,-1]", r"seeds=\[0, -1\] must not be negative"),
        ("base=paper", "experiment=paper is unknown"),
        ("train=[backbone=vgg]", "backbone=vgg is unknown: choose one of conv"),
        ("train=[nothing=1]", "key 'nothing' is unknown"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_made(tiny_shards, tmp_path, argument, match):
    with pytest.raises(ConfigError, match=match):
        make(tiny_shards, tmp_path / "out", argument)
    assert not (tmp_path / "out" / "table.json").exists()
    assert not list((tmp_path / "out").glob("runs/*"))


@pytest.mark.parametrize(
    "argument",
    [
        *("mask=learned", "mask.start=random", "--loss=proxy", "loss.track_weight=3", "choices.mask=none"),
        *("experiment=demo", "embedding_dim=24", "seed=3", "runs=elsewhere", "run_name=x", "resume=false"),
        *("data.shards=elsewhere", "data.conditions=[genre]", "rhythm=true", "backbone.features=[msd]"),
    ],
)
def test_trainings_cannot_be_made_other_systems(tiny_shards, tmp_path, argument):
    with pytest.raises(ConfigError, match="would change what the systems are, or is set by the table"):
        make(tiny_shards, tmp_path / "out", f"train=['{argument}']")


@pytest.mark.parametrize("name", ["table.md", "runs/mine/config.yaml"])
def test_a_folder_of_something_else_is_left_alone(tiny_shards, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ConfigError, match=rf"holds {name.partition('/')[0]}, but not of a table"):
        make(tiny_shards, tmp_path / "out")
    assert path.read_text() == "mine"
    assert not (tmp_path / "out" / "settings.json").exists()


def test_seeds_are_trained_one_by_one_and_of_baselines_one_is_enough(tiny_shards, tmp_path):
    """Which cells and trainings there are, without making them."""
    given = [f"shards={tiny_shards}", "systems=[vq,category,specialised]", "seeds=[3,5]"]
    config = load_config(TableConfig, given)
    index = SimpleNamespace(conditions=[{"name": name} for name in NAMES])
    whole = table.SystemsTable(config, index, tmp_path, None, list(config.systems))
    systems = [(system, seed) for system in ("category", "specialised") for seed in (3, 5)]
    assert whole.cells() == [("vq", 3), *systems]
    names = [run.name for cell in whole.cells() for run in whole.runs(*cell)]
    of_specialised = [f"specialised-{name}-seed{seed}" for seed in (3, 5) for name in NAMES]
    assert names == ["category-seed3", "category-seed5", *of_specialised]
    for cell in systems:
        for run in whole.runs(*cell):
            tree = load_config(TrainConfig, whole.arguments(run))
            assert (tree.seed, tree.run_name, tree.resume) == (cell[1], run.name, True)
            assert tree.choices.experiment == f"table,{cell[0]}"
            assert Path(tree.runs) == tmp_path / "runs"


def test_systems_that_the_shards_have_no_features_for_are_left_out(tiny_shards, caplog):
    index = ShardIndex.read(tiny_shards)
    config = load_config(TableConfig, [f"shards={tiny_shards}"])
    ours = ["musicnn_tags", "musicnn", "musicnn_rhythm"]
    assert table.trainable_systems(config, index) == [name for name in config.systems if name not in ours]
    assert [record.getMessage().split()[0] for record in caplog.records] == ours
    assert "prepare with features=musicnn" in caplog.text
    assert table.trainable_systems(config, replace(index, features=("msd",))) == list(config.systems)


def test_no_system_may_be_left(tiny_shards):
    config = load_config(TableConfig, [f"shards={tiny_shards}", "systems=[musicnn_tags]"])
    with pytest.raises(
        ConfigError,
        match=r"systems=\['musicnn_tags'\].* lacks what every one of them needs: prepare with features=musicnn",
    ):
        table.trainable_systems(config, ShardIndex.read(tiny_shards))


def test_tags_are_left_out_for_conditions_without_some(tiny_shards, caplog):
    index = ShardIndex.read(tiny_shards)
    theme = {"name": "theme", "kind": "tags", "vocabulary": ["film"]}
    index = replace(index, features=("msd",), conditions=[*index.conditions, theme])
    config = load_config(TableConfig, [f"shards={tiny_shards}", "systems=[vq,musicnn_tags]"])
    assert table.trainable_systems(config, index) == ["vq"]
    assert "musicnn has no tags for theme" in caplog.text


@pytest.mark.parametrize("backbone", ["backbone=conv", "--backbone=conv"])
def test_systems_keep_the_backbone_and_the_branch_that_they_are_named_for(backbone):
    config = load_config(TableConfig, ["shards=x", f"train=[{backbone}]"])
    trained = [system for system in config.systems if system not in table.UNTRAINED]
    trees = {system: load_config(TrainConfig, table.common_arguments(config, system)) for system in trained}
    own = {"musicnn": "musicnn", "musicnn_rhythm": "musicnn"}
    assert {system: tree.backbone.name for system, tree in trees.items()} == {**dict.fromkeys(trained, "conv"), **own}
    assert [system for system, tree in trees.items() if tree.rhythm] == ["rhythm", "musicnn_rhythm"]


def test_every_network_of_the_default_can_be_built():
    config = load_config(TableConfig, ["shards=x"])
    for system in set(config.systems) - set(table.UNTRAINED):
        tree = load_config(TrainConfig, table.common_arguments(config, system))
        features = ("msd",) if tree.backbone.name == "musicnn" else ()
        assert build_network(tree, ["genre", "tempo"], AudioSettings(), features).condition_names == ["genre", "tempo"]


def test_the_systems_of_the_default_differ():
    config = load_config(TableConfig, ["shards=x"])
    table.check_distinct(config, config.systems)


@pytest.mark.parametrize("pair", [("rhythm", "musicnn_rhythm"), ("disentangled_track", "musicnn")])
def test_systems_that_a_base_makes_the_same_are_refused(tiny_shards, tmp_path, monkeypatch, pair):
    monkeypatch.setattr(table, "trainable_systems", lambda config, _: list(config.systems))
    given = ["base=small_catalogue", f"systems=[vq,{','.join(pair)}]", "train=[]"]
    with pytest.raises(ConfigError, match=rf"{pair[0]} and {pair[1]} are the same network .*: .* another base"):
        make(tiny_shards, tmp_path / "out", *given)
    assert not (tmp_path / "out").exists()
