"""The way of a catalogue with musicnn's features: prepare, train a head, evaluate, embed and search; and what is said without them."""

import csv
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.audio import musicnn
from datamodules.audio.content import MissingPackage
from datamodules.shards.index import ShardIndex
from disentangled_ml import evaluate, prepare
from disentangled_ml.__main__ import COMMANDS
from disentangled_ml.commands import embed
from disentangled_ml.commands.schemas import EmbedConfig, EvaluateConfig, PrepareConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.console import run_command
from disentangled_ml.network.checkpoint import load_model
from disentangled_ml.search.catalogue import read_catalogue
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import SPLITS
from disentangled_ml.training.module import SimilarityModule
from tests.conftest import train_here
from tests.disentangled_ml.catalogues import write_recordings

N = 16
MISSING = re.compile(r"error: [^\n]*pip install --no-deps musicnn==0\.1\.0[^\n]*")
SPLITS_OF = [*["train"] * 8, *["val"] * 4, *["test"] * 4]
SMALL = [
    *("experiment=small_catalogue", "data=shards", "wandb.mode=disabled", "trainer=cpu", "training.max_epochs=2"),
    *("data.tracks_per_batch=6", "data.pool_tracks=6", "evaluation.triplets_per_condition=20"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Make recordings and shards of them with features, and train on these."""
    folder = tmp_path_factory.mktemp("music")
    manifest = write_recordings(folder / "recordings", N, 3.2)
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(manifest, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "split": split} for row, split in zip(rows, SPLITS_OF, strict=True))
    run_prepare(folder, f"out={folder}/shards", "features=musicnn_both")
    train_here(*SMALL, f"data.shards={folder}/shards", f"runs={folder}", "run_name=run")
    return folder


def prepare_arguments(folder: Path, *arguments: str) -> list[str]:
    return ["workers=1", "tempo=manifest", f"manifest={folder}/recordings/manifest.csv", *arguments]


def run_prepare(folder: Path, *arguments: str) -> None:
    prepare.main(load_config(PrepareConfig, prepare_arguments(folder, *arguments)))


def said_by(command: str, *arguments: str) -> str:
    """Return the last words of a command that fails."""
    with pytest.raises(SystemExit) as ended:
        run_command(*COMMANDS[command], list(arguments))
    return str(ended.value)


def test_a_run_is_evaluated_as_any_other(folder, tmp_path):
    checkpoint = folder / "run/checkpoints/best.ckpt"
    assert load_model(checkpoint).network.features == ("msd", "mtt")
    evaluate.main(
        load_config(
            EvaluateConfig,
            [f"checkpoint={checkpoint}", f"out={tmp_path}/r.json", "triplets_per_condition=20", "accelerator=cpu"],
        )
    )
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["sub"] == json.loads((folder / "run/evaluation.json").read_text())["sub"]
    assert set(report["octaves_folded"]) == {"tempo"}


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(folder, tmp_path, monkeypatch):
    """With dropout in head and rhythm branch, stretched chunks and a cosine."""
    arguments = [*SMALL, f"data.shards={folder}/shards", f"runs={tmp_path}", "training.max_epochs=3"]
    train_here(*arguments, "run_name=whole")

    def interrupt(self: SimilarityModule) -> None:
        if self.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SimilarityModule, "on_train_epoch_start", interrupt)
        with pytest.raises(SystemExit):
            train_here(*arguments, "run_name=parts")
    with pytest.raises(ConfigError, match=r"trained with training\.max_epochs=3, not 4"):
        train_here(*arguments, "run_name=parts", "resume=true", "training.max_epochs=4")
    train_here(*arguments, "run_name=parts", "resume=true")
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


@pytest.mark.slow
def test_features_stand_beside_a_backbone_too(folder, tmp_path):
    fused = ["backbone=conv", "backbone.width=0.05", "backbone.features=true", "training.max_epochs=1"]
    train_here(*SMALL, *fused, f"data.shards={folder}/shards", f"runs={tmp_path}", "run_name=fused")
    network = load_model(tmp_path / "fused/checkpoints/best.ckpt").network
    assert network.source == "mel+msd+mtt"
    assert None not in (network.backbone, network.head, network.rhythm)


def test_shards_and_recordings_are_embedded_alike(folder, tmp_path):
    checkpoint = f"checkpoint={folder}/run/checkpoints/best.ckpt"
    sources = {"shards": f"shards={folder}/shards", "files": f"manifest={folder}/recordings/manifest.csv"}
    found = {}
    for name, source in sources.items():
        embed.main(
            load_config(EmbedConfig, [checkpoint, source, f"out={tmp_path}/{name}", "workers=1", "accelerator=cpu"])
        )
        catalogue = read_catalogue(tmp_path / name)
        tracks = catalogue.tracks(range(N))
        found[name] = {track.track_id: row for track, row in zip(tracks, catalogue.embedding, strict=True)}
    assert set(found["files"]) == {f"r{number}" for number in range(N)}
    for track_id, row in found["shards"].items():
        np.testing.assert_allclose(row, found["files"][track_id], atol=2e-3)
    model = Embedder(folder / "run/checkpoints/best.ckpt").open(tmp_path / "files")
    assert model.search(f"{folder}/recordings/4.flac", k=1)[0].track.track_id == "r4"


def test_an_index_says_whose_features_it_has(folder):
    index = ShardIndex.read(folder / "shards")
    assert index.features == ("msd", "mtt")
    assert sum(index.count(split) for split in SPLITS) == N


def test_prepared_again_nothing_is_made_anew(folder, caplog):
    before = {path.name: path.read_bytes() for path in (folder / "shards").glob("*-*.*")}
    with caplog.at_level("INFO"):
        run_prepare(folder, f"out={folder}/shards", "features=musicnn_both")
    assert "shards were there already" in caplog.text
    assert {path.name: path.read_bytes() for path in (folder / "shards").glob("*-*.*")} == before


def test_other_features_need_another_folder(folder):
    with pytest.raises(ValueError, match="other settings: give another out=DIR"):
        run_prepare(folder, f"out={folder}/shards", "features=musicnn")


@pytest.mark.parametrize("key", ["backbone=musicnn", "backbone.features=true"])
def test_shards_without_features_are_refused(folder, tmp_path, key):
    run_prepare(folder, f"out={tmp_path}/plain")
    arguments = ["data=shards", f"data.shards={tmp_path}/plain", "wandb.mode=disabled", f"runs={tmp_path}", key]
    with pytest.raises(
        ConfigError, match=rf"^{key} reads musicnn's features, and .*plain holds none: prepare with feat"
    ):
        train_here(*arguments)


def test_features_beside_a_waveform_are_refused(folder, tmp_path):
    arguments = [*SMALL, f"data.shards={folder}/shards", f"runs={tmp_path}", "frontend=nnaudio"]
    with pytest.raises(ValueError, match=r"features come with the stored mel, not with frontend=nnaudio"):
        train_here(*arguments)


@pytest.fixture
def no_package(monkeypatch) -> None:
    """Hide musicnn, and forget its networks."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "musicnn" else find(name, *more)
    )
    musicnn._load.cache_clear()


def test_without_the_package_features_are_not_prepared(folder, tmp_path, no_package):
    assert MISSING.fullmatch(said_by("prepare", *prepare_arguments(folder, f"out={tmp_path}/x", "features=musicnn")))
    assert not (tmp_path / "x").exists()
    run_prepare(folder, f"out={tmp_path}/y")  # all else works


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("embed", ["manifest={folder}/no.csv", "out={out}"]),
        ("trajectory", ["path={folder}/no.flac", "out={out}"]),
        ("changes", ["changes={folder}/no"]),
        ("human_triplets", ["triplets={folder}/no.csv", "audio={folder}/recordings"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_the_package_no_recordings_are_read(folder, tmp_path, no_package, command, arguments):
    given = [argument.format(folder=folder, out=tmp_path / "x") for argument in arguments]
    assert MISSING.fullmatch(said_by(command, f"checkpoint={folder}/run/checkpoints/best.ckpt", *given))
    assert not (tmp_path / "x").exists()


def test_without_the_package_shards_are_embedded_and_no_file_is_searched_for(folder, tmp_path, no_package):
    checkpoint, out = folder / "run/checkpoints/best.ckpt", tmp_path / "x"
    given = [f"checkpoint={checkpoint}", f"shards={folder}/shards", f"out={out}", "accelerator=cpu"]
    embed.main(load_config(EmbedConfig, given))
    recording = f"{folder}/recordings/4.flac"
    assert MISSING.fullmatch(said_by("search", f"index={out}", f"like={recording}"))
    assert MISSING.fullmatch(said_by("serve", f"index={out}"))
    with pytest.raises(MissingPackage):
        Embedder(checkpoint).embed(recording)
