"""The model without training: what it is fitted on, and that it is a checkpoint as any other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from datamodules.audio import musicnn
from datamodules.audio.content import MissingPackage
from datamodules.shards.index import Shard, ShardIndex, ShardsError
from datamodules.shards.tar import write_shard
from disentangled_ml import systems
from disentangled_ml.commands import embed, search, table, tags_model
from disentangled_ml.commands.human_triplets import embed_members, stored_tracks
from disentangled_ml.commands.schemas import EmbedConfig, EvaluateConfig, SearchConfig, TableConfig, TagsModelConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.evaluate import main as evaluate
from disentangled_ml.network.checkpoint import load_model
from disentangled_ml.search.catalogue import read_catalogue
from disentangled_ml.structures import AudioSettings
from tests.conftest import GENRES, MOODS, tiny_sample
from tests.disentangled_ml.catalogues import write_recordings

ROOT = Path(__file__).resolve().parents[3]
COUNTS = {"train": 6, "val": 2, "test": 12}
ROUNDING = 1e-3  # of features, which are kept in float16

pytestmark = pytest.mark.usefixtures("one_thread")


def sample(number: int, models: int) -> dict:
    """Make a track whose features point into the direction of its genre."""
    made, draw = tiny_sample(number, 129), np.random.default_rng(number)
    direction = np.random.default_rng(GENRES.index(made["info"].labels["genre"][0])).normal(size=200 * models)
    windows = direction + 0.3 * draw.normal(size=(made["mel"].shape[1] // 43, 200 * models))
    return {**made, "musicnn": windows.astype(np.float16)}


def unlabelled(made: dict) -> dict:
    """Take the genre from a track, and leave how probable each is."""
    labels = dict(made["info"].labels)
    (genre,) = labels.pop("genre")
    estimates = {"genre": {name: 0.75 if name == genre else 0.25 for name in GENRES}}
    return {**made, "info": made["info"]._replace(labels=labels, estimates=estimates)}


def labels_of(catalogue: Path) -> dict[str, list[str]]:
    """Read the genres of a catalogue's tracks that have one."""
    found = read_catalogue(catalogue)
    return {t.track_id: t.labels["genre"] for t in found.tracks(range(len(found))) if "genre" in t.labels}


def write_features(root: Path, features: tuple[str, ...]) -> Path:
    root.mkdir()
    splits, number = {}, 0
    for split, count in COUNTS.items():
        write_shard(root / f"{split}.tar", [sample(number + i, len(features)) for i in range(count)])
        splits[split], number = [Shard(f"{split}.tar", count)], number + count
    conditions = [
        {"name": "genre", "kind": "tags", "vocabulary": list(GENRES)},
        {"name": "mood", "kind": "tags", "vocabulary": list(MOODS)},
        {"name": "tempo", "kind": "tempo"},
    ]
    ShardIndex(root, AudioSettings(n_mels=16), False, conditions, splits, features).write()
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_features(tmp_path_factory.mktemp("tags") / "shards", ("msd",))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, shards) -> Path:
    out = tmp_path_factory.mktemp("made") / "tags.ckpt"
    tags_model.main(load_config(TagsModelConfig, [f"shards={shards}", f"out={out}"]))
    return out


def report_of(tmp_path: Path, *arguments: str) -> dict:
    given = [*arguments, "triplets_per_condition=100", "accelerator=cpu", f"out={tmp_path}/report.json"]
    evaluate(load_config(EvaluateConfig, given))
    return json.loads((tmp_path / "report.json").read_text())


def test_the_logits_of_the_training_tracks_are_standardised(shards):
    network, tags = systems.fit_tags(ShardIndex.read(shards))
    features = np.concatenate([sample(number, 1)["musicnn"] for number in range(COUNTS["train"])]).astype(np.float32)
    logits = musicnn.tag_logits(features, "msd")
    own = [musicnn.TAGS["msd"].index(tag) for tags in tags.values() for tag in tags]
    assert np.allclose(network.head.logits(torch.from_numpy(features)), logits[:, own], atol=ROUNDING)
    standardised = network.head(torch.from_numpy(features))
    assert torch.allclose(standardised.mean(0), torch.zeros(45), atol=ROUNDING)
    assert torch.allclose(standardised.std(0, correction=0), torch.ones(45), atol=ROUNDING)


def test_the_tags_are_those_that_the_million_song_dataset_is_sorted_into(shards):
    _, tags = systems.fit_tags(ShardIndex.read(shards))
    ours = yaml.safe_load((ROOT / "conf" / "data" / "msd.yaml").read_text())["corpus"]["tags"]
    assert {name: set(own) for name, own in tags.items()} == {name: set(own) for name, own in ours.items()}


def test_the_command_evaluates_it_with_and_without_a_checkpoint(tmp_path, shards, checkpoint):
    fitted = report_of(tmp_path, "baseline=musicnn_tags", f"shards={shards}")
    loaded = report_of(tmp_path, f"checkpoint={checkpoint}")
    assert fitted == loaded
    assert list(fitted["sub"]) == ["genre", "mood", "tempo", "mean"]
    assert fitted["sub"]["genre"]["accuracy"] > 0.95


def test_human_triplets_compares_the_tracks_as_evaluation_does(shards, checkpoint):
    model, index = load_model(checkpoint), ShardIndex.read(shards)
    expected = systems.NetworkSystem(model.network, index, model.chunk_frames).embed("test", set()).rows
    wanted = {member.track_id: {None} for member in expected}
    assert len(wanted) == COUNTS["test"]
    tracks = stored_tracks(index, model.network.source, model.chunk_frames)
    table_of, reasons = embed_members(model, (track for track in tracks if track[0] in wanted), wanted)
    assert reasons == {}
    for member, row in expected.items():
        torch.testing.assert_close(table_of.rows[member], row)


def test_evaluation_on_estimated_labels_is_marked(tmp_path, shards, checkpoint, capsys):
    """Genre is taken as estimated: labels, as training and the lists read them, are made of probabilities and thresholds."""
    index, root = ShardIndex.read(shards), tmp_path / "estimated"
    root.mkdir()
    for split, number in zip(COUNTS, (0, 6, 8), strict=True):
        write_shard(root / f"{split}.tar", [unlabelled(sample(number + i, 1)) for i in range(COUNTS[split])])
    entry = {"name": "genre", "kind": "tags", "vocabulary": list(GENRES), "estimated": "musicnn"}
    entry |= {"share": 0.5, "thresholds": dict.fromkeys(GENRES, 0.5)}
    replace(index, root=root, conditions=[entry, *index.conditions[1:]]).write()
    report = report_of(tmp_path, "baseline=musicnn_tags", f"shards={root}")
    assert report["estimated"] == ["genre"]
    shown = capsys.readouterr().out
    assert "genre* " in shown
    assert "* labels estimated, not given: genre" in shown
    given = report_of(tmp_path, "baseline=musicnn_tags", f"shards={shards}")
    assert given["estimated"] == []
    assert {**report, "estimated": []} == given  # the labels are the same

    out = tmp_path / "catalogue"
    arguments = [f"checkpoint={checkpoint}", f"shards={root}", f"out={out}", "accelerator=cpu"]
    embed.main(load_config(EmbedConfig, arguments))
    before = labels_of(out)
    assert len(before) == sum(COUNTS.values())
    assert all(
        track.estimated == ["genre"] for track in read_catalogue(out).every_track()
    )  # the other labels are given
    entry["thresholds"]["bass"] = 1.1
    replace(index, root=root, conditions=[entry, *index.conditions[1:]]).write()
    embed.main(load_config(EmbedConfig, arguments))
    assert labels_of(out) == {track_id: tags for track_id, tags in before.items() if tags != ["bass"]}


def test_it_is_a_row_of_the_table_without_training(tmp_path, shards, monkeypatch):
    monkeypatch.setattr(table.signal, "signal", lambda *_: None)
    given = [f"shards={shards}", f"out={tmp_path}/table", "systems=[random,musicnn_tags]", "triplets_per_condition=60"]
    table.main(load_config(TableConfig, [*given, "seeds=[0,1]"]))
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert [(row["system"], row["space"]) for row in rows] == [
        ("random", "all"),
        ("musicnn_tags", "all"),
        ("musicnn_tags", "sub"),
    ]
    assert rows[2]["genre"]["accuracy"] > 0.95
    assert (rows[2]["parameters"], rows[2]["seconds"]) == (None, None)


def test_a_checkpoint_whose_tags_do_not_fit(tmp_path, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    for change in ({"conditions": ["genre", "tempo"]}, {"tags": ["rock"]}, {"tags": {"genre": ["rock"]}}):
        torch.save({**content, **change}, tmp_path / "x.ckpt")
        with pytest.raises(ValueError, match=r"x\.ckpt: no network can be made of it .*: give one that train wrote"):
            load_model(tmp_path / "x.ckpt")


def test_instruments_are_told_by_the_network_that_knows_them(tmp_path):
    both, mtt = (
        systems.fit_tags(ShardIndex.read(write_features(tmp_path / "-".join(names), names)))
        for names in (("msd", "mtt"), ("mtt",))
    )
    assert list(both[1]) == ["genre", "mood", "instrument"]
    assert list(mtt[1]) == ["instrument"]
    assert both[1]["instrument"] == mtt[1]["instrument"]
    assert "harpsichord" in mtt[1]["instrument"]
    # Each condition reads its own network's features.
    assert not both[0].head.weight[200:, :40].any()
    assert not both[0].head.weight[:200, 40:].any()
    assert torch.equal(both[0].head.weight[200:, 40:], mtt[0].head.weight)


def test_recordings_are_embedded_and_searched_with_it(tmp_path, checkpoint, capsys):
    manifest = write_recordings(tmp_path / "recordings", 3, 4.0)
    out = tmp_path / "catalogue"
    given = [f"checkpoint={checkpoint}", f"manifest={manifest}", f"out={out}", "workers=1", "accelerator=cpu"]
    embed.main(load_config(EmbedConfig, given))
    catalogue = read_catalogue(out)
    assert catalogue.condition_names == ["genre", "mood", "instrument", "tempo"]
    assert np.allclose(np.linalg.norm(catalogue.embedding, axis=1), 1, atol=1e-5)
    like = next(iter(catalogue.tracks(range(1)))).track_id
    capsys.readouterr()
    search.main(load_config(SearchConfig, [f"index={out}", f"like={like}", "weights.genre=1", "k=2"]))
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_shards_and_recordings_are_embedded_alike(tmp_path, shards, checkpoint):
    out = tmp_path / "catalogue"
    given = [f"checkpoint={checkpoint}", f"shards={shards}", f"out={out}", "accelerator=cpu"]
    embed.main(load_config(EmbedConfig, given))
    model = load_model(checkpoint)
    system = systems.NetworkSystem(model.network, ShardIndex.read(shards), model.chunk_frames)
    ids, embedding = system.embed("test", set()).tracks()
    catalogue = read_catalogue(out)
    rows = [catalogue.find(track_id) for track_id in ids]
    assert np.allclose(catalogue.embedding[rows], embedding.numpy(), atol=1e-5)


def test_what_the_shards_lack(tmp_path, tiny_shards, shards, monkeypatch, caplog):
    with pytest.raises(ConfigError, match=r"holds no features.*prepare with features=musicnn"):
        systems.fit_tags(ShardIndex.read(tiny_shards))
    index = ShardIndex.read(shards)
    with pytest.raises(ShardsError, match=r"has no train tracks"):
        systems.fit_tags(replace(index, splits={**index.splits, "train": []}))
    theme = {"name": "theme", "kind": "tags", "vocabulary": ["film"]}
    systems.fit_tags(replace(index, conditions=[*index.conditions, theme]))
    assert "no tags for theme" in caplog.text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pip install --no-deps musicnn"):
        systems.fit_tags(index)
