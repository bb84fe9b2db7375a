"""Bad input to the commands: a clear word that names the file or key, and nothing already made is lost."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from datamodules.shards.index import Shard, ShardIndex, labels_name
from datamodules.shards.tar import read_infos, write_shard
from disentangled_ml.__main__ import COMMANDS
from disentangled_ml.builders import build_network
from disentangled_ml.commands.schemas import TableConfig
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.files import as_json, read_json, writable, write_json
from disentangled_ml.network.checkpoint import load_checkpoint
from disentangled_ml.objective.conditions import TagCondition
from disentangled_ml.reporting.report_page import read_figures
from disentangled_ml.structures import TRIPLET_COLUMNS, AudioSettings
from tests.conftest import N_MELS, TINY, tiny_sample

VOTES = (
    "anchor_id,anchor_start_seconds,song1_id,song1_start_seconds,song1_vote,song2_id,song2_start_seconds,song2_vote\n"
    "t64,0,t65,0,3,t66,0,1\n"
)


def run(command: str, *arguments: str) -> None:
    """Run a command in this process."""
    module, schema = COMMANDS[command]
    importlib.import_module(module).main(load_config(schema, list(arguments)))


def write_shards(root: Path, conditions: list[dict] | None = None, **splits: list[dict]) -> Path:
    """Write shards of given samples."""
    root.mkdir()
    shards = {split: [Shard(f"{split}.tar", len(splits[split]))] if splits.get(split) else [] for split in SPLIT_NAMES}
    for split, found in shards.items():
        for shard in found:
            write_shard(root / shard.file, iter(splits[split]))
    conditions = conditions or [{"name": "genre", "kind": "tags", "vocabulary": ["bass", "treble"]}]
    ShardIndex(root, AudioSettings(n_mels=N_MELS), False, conditions, shards).write()
    return root


SPLIT_NAMES = ("train", "val", "test")


def samples(first: int, n: int = 6) -> list[dict]:
    """Make some tracks."""
    return [tiny_sample(first + i) for i in range(n)]


@pytest.fixture(autouse=True)
def own_signals(monkeypatch):
    """Keep the table from taking this process's signals."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.fixture(scope="module")
def parts(tiny_shards) -> dict:
    """Give the parts of a checkpoint, untrained."""
    config, names = load_config(TrainConfig, [*TINY, f"data.shards={tiny_shards}"]), ["genre", "mood", "tempo"]
    audio = AudioSettings(n_mels=N_MELS)
    network = build_network(config, names, audio)
    return {
        "state_dict": {f"network.{key}": value for key, value in network.state_dict().items()},
        "config": OmegaConf.to_container(config),
        "conditions": names,
        "audio": asdict(audio),
    }


@pytest.fixture
def save(tmp_path, parts):
    """Give a function that saves a checkpoint with some parts replaced."""

    def save_changed(**changed) -> Path:
        torch.save({**parts, **changed}, tmp_path / "x.ckpt")
        return tmp_path / "x.ckpt"

    return save_changed


def data_of(parts: dict, **changed) -> dict:
    """Give the configuration of a checkpoint with other data settings."""
    return {**parts["config"], "data": {**parts["config"]["data"], **changed}}


def not_finite(parts: dict) -> dict:
    """Give weights that are not finite."""
    return {k: v * float("nan") if v.is_floating_point() else v for k, v in parts["state_dict"].items()}


@pytest.mark.parametrize(
    ("part", "make"),
    [
        ("config.data", lambda parts: {"config": "nonsense"}),
        ("config.data", lambda parts: {"config": {}}),
        ("config.data.chunk_frames", lambda parts: {"config": data_of(parts, chunk_frames=0)}),
        ("config.data.chunk_frames", lambda parts: {"config": data_of(parts, chunk_frames="x")}),
        ("config.data.shards", lambda parts: {"config": data_of(parts, shards=None)}),
        ("config.data.tempo", lambda parts: {"config": data_of(parts, tempo=3)}),
        ("conditions", lambda parts: {"conditions": 3}),
        ("audio", lambda parts: {"audio": {"x": 1}}),
        ("audio", lambda parts: {"audio": [1]}),
        ("audio", lambda parts: {"audio": {**parts["audio"], "sample_rate": 1_000_000, "hop_length": 1}}),
        ("audio", lambda parts: {"audio": {**parts["audio"], "n_fft": 1_023}}),
        ("features", lambda parts: {"features": ["foo"]}),
        ("features", lambda parts: {"features": ["msd", "msd"]}),
        ("features", lambda parts: {"features": "msd"}),
        ("features", lambda parts: {"features": [["msd"]]}),
    ],
)
def test_a_checkpoint_with_a_wrong_part_is_refused_by_name(save, parts, part, make):
    with pytest.raises(ValueError, match=rf"x\.ckpt has no legal .*{part}.*: give one that train wrote"):
        run("evaluate", f"checkpoint={save(**make(parts))}")


def test_a_checkpoint_without_network_is_named(save, tiny_shards):
    with pytest.raises(ValueError, match=r"x\.ckpt: no network can be made of it"):
        run("evaluate", f"checkpoint={save(state_dict=3)}", f"shards={tiny_shards}")


def test_weights_of_another_network_are_named(save, parts, tiny_shards):
    """torch's message names them behind a colon and a line break."""
    weights = {name.replace("backbone", "trunk"): value for name, value in parts["state_dict"].items()}
    with pytest.raises(
        ValueError, match=r"x\.ckpt: no network .*Missing key\(s\) in state_dict: .backbone.*: give one"
    ):
        run("evaluate", f"checkpoint={save(state_dict=weights)}", f"shards={tiny_shards}")


def test_nobody_is_told_to_unpickle(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="holds more than tensors and plain values") as caught:
        load_checkpoint(tmp_path / "x.ckpt")
    assert "weights_only" not in str(caught.value)


def test_weights_that_are_not_finite_are_no_result(tmp_path, save, parts, tiny_shards):
    checkpoint = save(state_dict=not_finite(parts))
    with pytest.raises(ValueError, match=r"embedding of track 't\d+' of .* is not finite"):
        run("evaluate", f"checkpoint={checkpoint}")
    (tmp_path / "h.csv").write_text(VOTES)
    with pytest.raises(ValueError, match=r"embedding of track 't6\d' of .* is not finite"):
        run("human_triplets", f"checkpoint={checkpoint}", f"triplets={tmp_path}/h.csv", f"shards={tiny_shards}")


def test_shards_without_common_conditions_are_named(tmp_path, save):
    styles = [{"name": "style", "kind": "tags", "vocabulary": ["a"]}]
    shards = write_shards(tmp_path / "s", styles, test=samples(0))
    with pytest.raises(ValueError, match=r"s has labels of style, none of genre, mood, tempo"):
        run("evaluate", f"checkpoint={save()}", f"shards={shards}")


@pytest.mark.parametrize(
    ("splits", "arguments", "message"),
    [
        ({"train": samples(0)}, ["baseline=random"], "s has no test tracks"),
        ({"test": samples(0)}, ["baseline=random", "probe=true"], "s has no train tracks"),
        ({"test": samples(0)}, ["baseline=mfcc"], r"cannot be used on .*s \(there are no training frames"),
        ({"train": samples(0), "test": samples(9)}, ["baseline=vq"], r"cannot be used on .*s \(words=1024"),
    ],
)
def test_shards_that_cannot_be_evaluated_on_are_named(tmp_path, splits, arguments, message):
    shards = write_shards(tmp_path / "s", **splits)
    with pytest.raises(ValueError, match=message):
        run("evaluate", *arguments, f"shards={shards}")


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (
            np.full((N_MELS, 64), np.nan, np.float16),
            r"test.tar, sample 't9': its spectrogram has the value nan in band 0 of frame 0",
        ),
        (np.zeros((N_MELS - 2, 64), np.float16), r"sample 't9': its spectrogram has shape \(14, 64\), expected \(16, "),
    ],
)
def test_a_damaged_spectrogram_is_named(tmp_path, mel, message):
    bad = tiny_sample(9)
    bad = {"info": bad["info"]._replace(frames=64), "mel": mel}
    shards = write_shards(tmp_path / "s", train=samples(0), test=[*samples(10), bad])
    with pytest.raises(ValueError, match=message):
        run("evaluate", "baseline=mfcc", f"shards={shards}")


@pytest.mark.parametrize("system", ["baseline=mfcc", "checkpoint=x.ckpt"])
def test_a_tar_of_another_split_is_named(tmp_path, parts, monkeypatch, system):
    monkeypatch.chdir(tmp_path)
    torch.save(parts, "x.ckpt")
    shards = write_shards(tmp_path / "s", train=samples(0), test=samples(10))
    index = ShardIndex.read(shards)
    for split in ("train", "test"):
        lines = (as_json(info._asdict()) + "\n" for info in read_infos(index, split))
        (shards / labels_name(split)).write_text("".join(lines))
    shutil.copy(shards / "train.tar", shards / "test.tar")
    with pytest.raises(
        ValueError, match=r"test\.tar, sample 't0': it is not of the test tracks that labels-test.jsonl"
    ):
        run("evaluate", system, f"shards={shards}")


@pytest.mark.parametrize("system", ["baseline=mfcc", "checkpoint=x.ckpt"])
def test_a_triplet_beyond_the_end_of_its_track_is_named(tmp_path, parts, tiny_shards, monkeypatch, system):
    monkeypatch.chdir(tmp_path)
    torch.save(parts, "x.ckpt")
    Path("l.csv").write_text(",".join(TRIPLET_COLUMNS) + "\ntrack,t64,0,t64,3000,t65,0\n")
    beyond = r"(the last one begins at \d\.\d\d s|it is shorter than one)"
    message = rf"triplets=l\.csv: track 't64' has no chunk from \d+\.\d\d s on, {beyond}: correct"
    with pytest.raises(ValueError, match=message):
        run("evaluate", system, f"shards={tiny_shards}", "triplets=l.csv")


def test_a_list_without_known_tracks_is_refused(tmp_path, tiny_shards):
    columns = [f"{role}_{part}" for role in ("anchor", "positive", "negative") for part in ("id", "start")]
    (tmp_path / "l.csv").write_text(",".join(["condition", *columns]) + "\ngenre,x,,y,,z,\n")
    with pytest.raises(ValueError, match=r"l\.csv: .* has the tracks of none of its 1 triplets"):
        run("evaluate", "baseline=random", f"shards={tiny_shards}", f"triplets={tmp_path}/l.csv")


@pytest.mark.parametrize("label", [[["x"]], {"bass": 1}, 3, "rock"])
def test_what_is_no_list_of_tags_is_refused(label):
    with pytest.raises(ValueError, match=r"condition genre: label .* is not a list of tags"):
        TagCondition("genre", ("bass",)).encode([label])


def test_reports_overwrite_nothing_else(tmp_path):
    (tmp_path / "r.tmp").write_text("mine")
    write_json(tmp_path / "r.json", {})
    assert (tmp_path / "r.tmp").read_text() == "mine"
    assert writable(str(tmp_path / "r.json")) == tmp_path / "r.json"
    with pytest.raises(ValueError, match=r"r\.tmp is there and would be lost: give out=FILE\.json"):
        writable(str(tmp_path / "r.tmp"))


def test_a_page_does_not_overwrite_the_run(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ValueError, match=r"config\.yaml is there and would be lost"):
        run("html_report", f"run={tmp_path}", f"out={tmp_path}/config.yaml", "queries=0")
    assert (tmp_path / "config.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize("setup", ["1", "[" * 10_000])
def test_a_page_names_a_setup_that_is_none(tmp_path, caplog, setup):
    (tmp_path / "config.yaml").write_text(setup)
    run("html_report", f"run={tmp_path}", "queries=0")
    assert "config.yaml: cannot be read (" in caplog.text
    assert "()" not in caplog.text


def test_a_page_is_made_of_odd_tables_and_figures(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert read_figures(tmp_path) == []
    (tmp_path / "table.json").write_text(
        '{"rows": [{"system": 1, "space": {"a": 1}, "genre": 3}], "columns": ["genre"]}'
    )
    run("html_report", f"run={tmp_path}")
    assert (tmp_path / "report.html").is_file()


def test_tempi_do_not_overwrite_their_manifest(tmp_path):
    (tmp_path / "m.csv").write_text("track_id,path,tempo\na,a.wav,100\n")
    with pytest.raises(ValueError, match=r"m\.csv is the manifest, which would be lost"):
        run("tempo_check", f"manifest={tmp_path}/m.csv", f"out={tmp_path}/m.csv")
    (tmp_path / "m.csv").write_text("track_id,path,tempo\na,a.wav,0\n")
    with pytest.raises(ValueError, match="give column=NAME; the first row: tempo '0' is not a number of BPM"):
        run("tempo_check", f"manifest={tmp_path}/m.csv")


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "[" * 100_000, ""])
def test_json_that_is_no_object_is_named(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json holds no JSON object \(.*\): give another file$"):
        read_json(tmp_path / "x.json")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Give shards of a few tracks."""
    return write_shards(tmp_path_factory.mktemp("small") / "shards", train=samples(0), test=samples(10))


def make_table(shards: Path, out: Path) -> None:
    """Make a table of a control."""
    run("table", f"shards={shards}", f"out={out}", "systems=[random]", "triplets_per_condition=10")


@pytest.mark.parametrize("name", ["title", "system", "recall", "parameters"])
def test_a_condition_cannot_be_called_as_a_column_of_the_table(tmp_path, name):
    conditions = [{"name": name, "kind": "tags", "vocabulary": ["a"]}]
    shards = write_shards(tmp_path / "s", conditions, train=samples(0), test=samples(10))
    with pytest.raises(ValueError, match=f"s: a table cannot have conditions called {name}: rename them"):
        make_table(shards, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_table_needs_tracks(tmp_path, split):
    shards = write_shards(tmp_path / "s", **{split: samples(0)})
    with pytest.raises(ValueError, match=r"s has no (train|test) tracks"):
        make_table(shards, tmp_path / "out")


def test_a_table_does_not_overwrite_other_files(tmp_path, small):
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(ValueError, match=r"holds table\.md, but not of a table: give another folder"):
        make_table(small, tmp_path)
    assert (tmp_path / "table.md").read_text() == "mine"


def test_a_damaged_table_is_named_and_gone_on_with(tmp_path, small):
    out = tmp_path / "out"
    make_table(small, out)
    cell = out / "cells" / "random-seed0.json"
    for content in ({}, {"system": "random", "seed": 0}):
        cell.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"random-seed0\.json is damaged .*: delete it, it is made anew"):
            make_table(small, out)
    shutil.rmtree(out / "cells")
    make_table(small, out)
    assert cell.is_file()
    (out / "settings.json").write_text("[]")
    with pytest.raises(ValueError, match=r"settings\.json is damaged, .*: give another out"):
        make_table(small, out)


@pytest.mark.parametrize("name", ["a,b", "null", "{x", "#1", "x: y", "ä b", "a/b"])
def test_specialised_networks_get_conditions_of_any_name(tmp_path, name):
    table = importlib.import_module("disentangled_ml.commands.table")
    index = ShardIndex(tmp_path, AudioSettings(), False, [{"name": name, "kind": "tempo"}], {})
    config = load_config(TableConfig, [f"shards={tmp_path}", "systems=[specialised]"])
    made = table.SystemsTable(config, index, tmp_path / "out", config, ["specialised"])
    (run,) = made.runs("specialised", 0)
    trained = load_config(TrainConfig, made.arguments(run))
    assert list(trained.data.conditions) == [name]
    assert Path(trained.run_name).name == trained.run_name


@pytest.mark.parametrize("part", ["0/4", "5/4", "3", "/4", "1/", "a/b", "-1/4", "1/4/2", "½/4"])
def test_parts_that_are_none(tmp_path, part):
    with pytest.raises(ConfigError, match=r"part=.* is not legal: give part=1/40 to part=40/40"):
        run("prepare", f"manifest={tmp_path}/m.csv", f"out={tmp_path}/out", f"part={part}")


def test_a_part_is_not_merged_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"part=1/4 and merge=true are two steps: make all parts first"):
        run("prepare", f"manifest={tmp_path}/m.csv", f"out={tmp_path}/out", "part=1/4", "merge=true")
