"""What is evaluated: networks, networks side by side, baselines; and the command that evaluates them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from datamodules.shards.conditions import build_conditions
from datamodules.shards.index import ShardIndex
from datamodules.shards.tar import read_infos
from datamodules.triplet_lists.lists import ListSettings, kept_triplets, make_triplets, read_levels
from disentangled_ml import systems
from disentangled_ml.baselines import BASELINES
from disentangled_ml.baselines.controls import bandwidth
from disentangled_ml.commands.schemas import EvaluateConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.evaluate import main as evaluate
from disentangled_ml.evaluation.listed_triplets import evaluation_report, listed_chunks
from disentangled_ml.network.masks import disjoint_blocks
from disentangled_ml.structures import SPLITS, TRACK, Member
from disentangled_ml.systems import (
    UNTRAINED,
    BaselineSystem,
    NetworkSystem,
    SpecialisedSystem,
    evaluate_split,
    load_network_system,
    read_mels,
)
from tests.conftest import train_here

NAMES = ["genre", "mood", "tempo"]
SETTINGS = ListSettings(60, 0, 16)
CHANCE = 0.15  # 3.6 standard deviations of 150 triplets


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_arguments) -> dict[str, Path]:
    """Train a network of all conditions and one of each, all of them for an epoch or two."""
    runs, found = tmp_path_factory.mktemp("systems"), {}
    systems = {
        "all": ["mask=learned"],
        **{name: ["experiment=specialised", "embedding_dim=8", f"data.conditions=[{name}]"] for name in NAMES},
        "wide": ["experiment=specialised", "embedding_dim=16", "data.conditions=[tempo]"],
    }
    for name, arguments in systems.items():
        given = (*arguments, f"runs={runs}", f"run_name={name}", "training.max_epochs=2")
        train_here(*tiny_arguments, *given)
        found[name] = runs / name / "checkpoints" / "best.ckpt"
    return found


@pytest.fixture(scope="module")
def index(tiny_shards) -> ShardIndex:
    return ShardIndex.read(tiny_shards)


@pytest.fixture(scope="module")
def load(checkpoints, index):
    """Load a network: ``load("genre")``."""
    return lambda name: load_network_system(checkpoints[name], index, "cpu")[0]


def report_of(tmp_path: Path, *arguments: str) -> dict:
    """Run the command in this process."""
    evaluate(load_config(EvaluateConfig, [*arguments, "accelerator=cpu", f"out={tmp_path}/report.json"]))
    return json.loads((tmp_path / "report.json").read_text())


@pytest.mark.slow
def test_specialised_networks_side_by_side_are_as_accurate_as_each_alone(load, index):
    alone = {name: load(name) for name in NAMES}
    system = SpecialisedSystem([alone[name] for name in ("tempo", "genre", "mood")])  # in another order than the shards
    assert system.n_parameters == sum(one.n_parameters for one in alone.values()) > 0
    conditions = build_conditions(index)
    report = evaluate_split(system, conditions, SETTINGS, probe=False)
    triplets = kept_triplets(index, "test", read_infos(index, "test"), conditions, SETTINGS)
    tables = {name: one.embed("test", listed_chunks(triplets)) for name, one in alone.items()}
    for own in NAMES:
        for other in NAMES:
            listed = [triplet._replace(condition=other) for triplet in triplets if triplet.condition == own]
            expected = evaluation_report(tables[other], listed, torch.ones(1, 8), [other])["sub"][other]
            assert expected["n"] == 60
            assert report["matrix"][own][other] == pytest.approx(expected["accuracy"])
            if own == other:
                assert report["sub"][own] == expected
    assert len({value for row in report["matrix"].values() for value in row.values()}) > 4


@pytest.mark.slow
def test_specialised_networks_embed_what_each_embeds(load, index):
    one, two = load("genre"), load("tempo")
    wanted, only = {Member("t64", 0), Member("t65", 16)}, frozenset(["t64", "t65", "t66"])
    table = SpecialisedSystem([one, two]).embed("test", wanted, only)
    parts = [system.embed("test", wanted, only) for system in (one, two)]
    assert set(table.rows) == {Member("t64"), Member("t65"), Member("t66"), *wanted}
    for member, row in table.rows.items():
        assert torch.equal(row, torch.cat([part.rows[member] for part in parts]))
    assert torch.equal(SpecialisedSystem([one, two]).masks(16), disjoint_blocks(2, 16))


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["genre", "genre"], r"need a condition each, given are \['genre', 'genre'\]"),
        (["all", "genre"], r"need a condition each, given are \['genre', 'mood', 'tempo', 'genre'\]"),
        (["genre", "wide"], r"need as many dimensions each, given are \[8, 16\]"),
    ],
    ids=["same", "several conditions", "size"],
)
def test_networks_that_do_not_stand_side_by_side(load, names, match):
    with pytest.raises(ConfigError, match=match):
        SpecialisedSystem([load(name) for name in names])


def test_conditions_in_another_order_or_fewer_keep_their_masks(load, index):
    system, infos = load("all"), read_infos(index, "test")
    conditions = build_conditions(index, ["tempo", "genre"])
    report = evaluate_split(system, conditions, SETTINGS, probe=False)
    triplets = kept_triplets(index, "test", infos, conditions, SETTINGS)
    masks = system.masks(24)[[2, 0]]
    assert not torch.equal(masks[0], masks[1])
    expected = evaluation_report(system.embed("test", listed_chunks(triplets)), triplets, masks, ["tempo", "genre"])
    assert {key: report[key] for key in expected} == expected
    assert report["sub"]["tempo"] != report["all"]["tempo"]


def test_a_network_system_embeds_every_track_once(load, index):
    system = load("all")
    assert isinstance(system, NetworkSystem)
    for split in SPLITS:
        ids, embedding = system.embed(split, set()).tracks()
        assert ids == sorted(info.track_id for info in read_infos(index, split))
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(len(ids)))


def test_spectrograms_of_a_split_are_all_read(index):
    for split, count in (("train", 48), ("val", 16), ("test", 20)):
        mels = list(read_mels(index, split))
        assert [track_id for track_id, _ in mels] == [info.track_id for info in read_infos(index, split)]
        assert len(mels) == count
        frames = {info.track_id: info.frames for info in read_infos(index, split)}
        assert all(mel.shape == (16, frames[track_id]) and mel.dtype == torch.float32 for track_id, mel in mels)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.startswith("vq_") else []) for name in BASELINES]
)
def test_every_baseline_is_evaluated_by_the_command(tmp_path, long_shards, monkeypatch, name):
    if name.startswith("vq"):  # fewer words than anybody would take, for they are searched for a long time
        monkeypatch.setitem(BASELINES, name, partial(BASELINES[name], words=16))
    arguments = [f"baseline={name}", f"shards={long_shards}", "triplets_per_condition=150", "probe=true", "seed=3"]
    report = report_of(tmp_path, *arguments)
    assert {entry["n"] for entry in (report["track"], *(report["sub"][condition] for condition in NAMES))} == {150}
    assert report["sub"] == report["all"]  # a baseline has no subspaces
    assert report["disentanglement"] == pytest.approx(0, abs=1e-9)
    assert set(report["probe"]) == {"genre", "mood"}
    assert report["track_recall"]["n"] == 20
    assert report["skipped"] == dict.fromkeys([*NAMES, TRACK], 0)

    index = ShardIndex.read(long_shards)
    infos = read_infos(index, "test")
    triplets = kept_triplets(index, "test", infos, build_conditions(index), ListSettings(150, 3, 129))
    if name == "random":  # another vector for every call
        for entry in (report["track"], *(report["sub"][condition] for condition in NAMES)):
            assert abs(entry["accuracy"] - 0.5) < CHANCE
        return
    baseline = BASELINES[name](seed=3)
    baseline.fit(mel for _, mel in read_mels(index, "train"))
    mels = dict(read_mels(index, "test"))

    def vector(member: Member) -> torch.Tensor:
        mel = mels[member.track_id]
        return baseline.embed(mel if member.start is None else mel[:, member.start : member.start + 129])

    outcomes = Counter()
    for condition, *members in triplets:
        anchor, positive, negative = map(vector, members)
        outcomes[condition] += bool((anchor - positive).norm() < (anchor - negative).norm())
    for condition in NAMES:
        assert report["sub"][condition]["accuracy"] == pytest.approx(outcomes[condition] / 150)
    assert report["track"]["accuracy"] == pytest.approx(outcomes[TRACK] / 150)


def test_a_matched_list_is_made_by_bandwidth(tmp_path, long_shards):
    """The genre of the tiny tracks is where their energy lies, so their bandwidth solves any list of genre."""
    arguments = ["baseline=bandwidth", f"shards={long_shards}", "triplets_per_condition=150"]
    plain, matched = (report_of(tmp_path, *arguments, f"match_bandwidth={value}") for value in ("false", "true"))
    assert plain["sub"]["genre"]["accuracy"] > 0.9
    assert plain != matched
    index = ShardIndex.read(long_shards)
    infos, conditions = read_infos(index, "test"), build_conditions(index)
    settings = ListSettings(150, 0, 129, match_bandwidth=True)
    triplets = make_triplets(infos, conditions, settings, read_levels(index, "test", bandwidth))
    system = BaselineSystem(BASELINES["bandwidth"](), index, NAMES, 129)
    table = system.embed("test", listed_chunks(triplets))
    expected = evaluation_report(table, triplets, system.masks(8), NAMES)
    assert {key: matched[key] for key in expected} == expected


def test_a_checkpoint_is_evaluated_with_matched_triplets(tmp_path, checkpoints, tiny_shards):
    report = report_of(tmp_path, f"checkpoint={checkpoints['all']}", f"shards={tiny_shards}", "match_bandwidth=true")
    assert report["sub"]["mood"]["n"] == 1000


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], r"give either checkpoint=FILE or baseline=vq\|.*\|bandwidth\|musicnn_tags$"),
        (["checkpoint={best}", "baseline=vq"], r"give either checkpoint=FILE or baseline=vq\|"),
        (["baseline=mp3"], rf"baseline=mp3 is unknown: choose one of {', '.join(UNTRAINED)}"),
    ],
    ids=["neither", "both", "unknown"],
)
def test_what_is_evaluated_is_said_once(checkpoints, tiny_shards, arguments, match):
    given = [argument.format(best=checkpoints["all"]) for argument in arguments]
    with pytest.raises(ConfigError, match=match):
        evaluate(load_config(EvaluateConfig, [*given, f"shards={tiny_shards}"]))


def test_without_shards_a_checkpoint_takes_its_own_and_a_baseline_asks(tmp_path, checkpoints, tiny_shards):
    best = f"checkpoint={checkpoints['all']}"
    assert report_of(tmp_path, best) == report_of(tmp_path, best, f"shards={tiny_shards}")
    with pytest.raises(ConfigError, match="a baseline needs shards=DIR"):
        evaluate(load_config(EvaluateConfig, ["baseline=vq"]))


def test_probes_are_reported_where_asked_for(tmp_path, checkpoints, tiny_shards):
    arguments = [f"checkpoint={checkpoints['all']}", f"shards={tiny_shards}", "triplets_per_condition=60"]
    without, report = report_of(tmp_path, *arguments), report_of(tmp_path, *arguments, "probe=true")
    assert "probe" not in without
    probe = report.pop("probe")
    assert report == without
    assert set(probe) == {"genre", "mood"}  # tempo has no tags
    for name, tags in (("genre", 2), ("mood", 3)):
        assert set(probe[name]) == {"sub", "all", "chance_pr"}
        for space in ("sub", "all"):
            assert probe[name][space]["tags"] == tags
            assert 0 <= probe[name][space]["roc_auc"] <= 1
    assert probe["genre"]["all"]["roc_auc"] > 0.8  # where the energy lies is easy to tell


@pytest.mark.parametrize("argument", ["probe=true", "match_bandwidth=true"])
def test_what_needs_a_split_is_refused_for_a_list(tmp_path, long_shards, argument):
    with pytest.raises(ConfigError, match=rf"^{argument} needs the list of the test split"):
        report_of(tmp_path, "baseline=mfcc", f"shards={long_shards}", f"triplets={tmp_path}/own.csv", argument)


def test_systems_say_whether_they_have_subspaces(load, index):
    assert [load(name).has_subspaces for name in ("all", "genre", "tempo")] == [True, False, False]
    assert SpecialisedSystem([load("genre"), load("tempo")]).has_subspaces
    assert not BaselineSystem(BASELINES["random"](), index, NAMES, 16).has_subspaces


def test_own_triplets_are_evaluated_by_a_baseline(tmp_path, long_shards):
    with open(tmp_path / "own.csv", "w", newline="") as file:
        roles = ("anchor", "positive", "negative")
        writer = csv.writer(file)
        writer.writerow(["condition", *(f"{role}_{part}" for role in roles for part in ("id", "start"))])
        writer.writerow(["genre", "t1", "", "t11", "", "t20", ""])  # of three splits
        writer.writerow(["track", "t20", "0", "t20", "3", "t1", "0"])
        writer.writerow(["mood", "t1", "", "nowhere", "", "t20", ""])
    report = report_of(tmp_path, "baseline=mfcc", f"shards={long_shards}", f"triplets={tmp_path}/own.csv")
    assert (report["sub"]["genre"]["n"], report["track"]["n"], report["sub"]["mood"]["n"]) == (1, 1, 0)
    assert report["skipped"] == {"genre": 0, "mood": 1, "tempo": 0, TRACK: 0}
    assert "recall" not in report  # which needs a whole split


def test_a_list_with_a_condition_that_the_checkpoint_lacks_is_refused(tmp_path, checkpoints, tiny_shards):
    (tmp_path / "own.csv").write_text(
        "condition,anchor_id,anchor_start,positive_id,positive_start,negative_id,negative_start\ngenre,t1,,t2,,t3,\n"
    )
    arguments = [f"checkpoint={checkpoints['tempo']}", f"shards={tiny_shards}", f"triplets={tmp_path}/own.csv"]
    with pytest.raises(ConfigError, match=r"has conditions \['genre'\], the checkpoint knows \['tempo', 'track'\]"):
        evaluate(load_config(EvaluateConfig, arguments))


def test_a_baseline_is_fitted_on_the_training_tracks(index):
    seen = []

    class Recorder(BASELINES["random"]):
        def fit(self, mels):
            seen.extend(mel.shape[1] for mel in mels)

    BaselineSystem(Recorder(), index, NAMES, 16)
    assert seen == [info.frames for info in read_infos(index, "train")]


@pytest.fixture
def bandwidths(index, monkeypatch) -> tuple[BaselineSystem, dict[str, torch.Tensor]]:
    """Make a system that measures the bandwidth of four tracks, and give their spectrograms."""
    generator = torch.Generator().manual_seed(0)
    frames = {"a": 50, "b": 16, "c": 10, "d": 47}
    mels = {name: torch.rand(128, n, generator=generator) for name, n in frames.items()}
    monkeypatch.setattr(systems, "read_mels", lambda *_: iter(mels.items()))
    return BaselineSystem(BASELINES["bandwidth"](), index, NAMES, 16), mels


def test_a_baseline_embeds_whole_tracks_and_the_wanted_chunks(bandwidths):
    system, mels = bandwidths
    chunks = {Member("a", 3), Member("a", 34), Member("b", 0)}
    table = system.embed("test", {*chunks, Member("e", 5), Member("d")})
    assert set(table.rows) == {Member(name) for name in mels} | chunks
    for (name, start), row in table.rows.items():
        excerpt = mels[name] if start is None else mels[name][:, start : start + 16]
        assert torch.equal(row, system.baseline.embed(excerpt))
    assert set(system.embed("test", set(), frozenset("ad")).rows) == {Member("a"), Member("d")}


@pytest.mark.parametrize("start", [-1, 35])
def test_a_wanted_chunk_outside_of_its_track(bandwidths, start):
    with pytest.raises(ValueError, match=r"^track 'a' has no chunk from -?0.* s on, the last one begins at 0.* s$"):
        bandwidths[0].embed("test", {Member("a", start)})
