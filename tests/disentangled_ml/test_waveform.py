"""From recordings to a network that reads waveforms: prepare with FLAC, then train the filters of its frontend."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import soundfile
import torch

from disentangled_ml import builders
from disentangled_ml.builders import build_network
from disentangled_ml.commands.schemas import PrepareConfig
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.network.backbones import BACKBONES
from disentangled_ml.network.checkpoint import load_network
from disentangled_ml.network.frontends import FRONTENDS
from disentangled_ml.prepare import main as prepare
from tests.conftest import train_here

SAMPLE_RATE = 22050
SPLITS = ("train",) * 6 + ("val",) * 2 + ("test",) * 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Prepare 20 recordings of 2 s: noise is one genre, tones are the other."""
    root = tmp_path_factory.mktemp("recordings")
    with open(root / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["track_id", "path", "split", "genre"])
        for i in range(20):
            rng = np.random.default_rng(i)
            time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
            noise = rng.uniform(-0.3, 0.3, len(time))
            tone = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time)
            soundfile.write(root / f"{i}.wav", tone if i % 2 else noise, SAMPLE_RATE)
            writer.writerow([f"r{i}", f"{i}.wav", SPLITS[i // 2], "tone" if i % 2 else "noise"])
    settings = ("chunk_frames=16", "store_waveform=true", "tempo=manifest", "tracks_per_shard=5", "workers=1")
    prepare(load_config(PrepareConfig, [f"manifest={root}/manifest.csv", f"out={root}/shards", *settings]))
    return root / "shards"


@pytest.fixture
def arguments(shards, tmp_path):
    """Give the arguments of a tiny run with the nnAudio frontend."""
    return [
        *("data=shards", f"data.shards={shards}", "data.chunk_frames=16", "data.tracks_per_batch=6"),
        *("data.chunks_per_track=2", "data.triplets_per_condition=16", "data.track_triplets=16"),
        *("frontend=nnaudio", "backbone=conv", "backbone.width=0.1", "embedding_dim=8", "trainer=cpu"),
        *("evaluation.triplets_per_condition=20", "training.max_epochs=1", "wandb.mode=disabled"),
        *(f"runs={tmp_path}", "run_name=waveform"),
    ]


TRAINABLE = {
    "mel": (["frontend.trainable_mel=true"], {"mel_basis"}),
    "stft": (["frontend.trainable_stft=true"], {"wsin", "wcos"}),
    "both": (["frontend.trainable_stft=true", "frontend.trainable_mel=true"], {"mel_basis", "wsin", "wcos"}),
    "bank": (["frontend=waveform"], {"centre_mel", "log_bandwidth", "log_gain", "log_width"}),
}


@pytest.mark.parametrize(("choice", "trained"), TRAINABLE.values(), ids=TRAINABLE)
def test_filters_are_trained_from_waveforms(arguments, tmp_path, choice, trained):
    train_here(*arguments, *choice)
    metrics = json.loads((tmp_path / "waveform" / "metrics.json").read_text())
    assert 0 <= metrics["test/triplet_accuracy/genre"] <= 1
    network = load_network(tmp_path / "waveform" / "checkpoints" / "best.ckpt")
    assert network.frontend.source == "waveform"
    embedding = network(torch.rand(3, 15 * 512) - 0.5)
    assert embedding.shape == (3, 8)
    fresh = build_network(load_config(TrainConfig, [*arguments, *choice]), ["genre"], network.frontend.audio_settings)
    before = fresh.frontend.state_dict()
    assert {name.split(".")[-1] for name in before} == trained
    for name, weight in network.frontend.state_dict().items():  # trained filters are kept
        assert weight.isfinite().all()
        assert not torch.equal(weight, before[name]), name
    assert (tmp_path / "waveform" / "figures" / "filters.png").is_file()


@pytest.mark.slow
def test_a_run_of_filters_goes_on(arguments, tmp_path):
    """With the rate of the filters lowered, noise and gain drawn, it equals the uninterrupted run."""
    choice = ["frontend=waveform", "augmentation=waveform", "augmentation.mask_frames=4"]
    choice += ["training.lr_patience=0", "frontend.learning_rate_scale=0.5"]
    for name, epochs in (("whole", 4), ("parts", 2), ("parts", 4)):
        last = [f"run_name={name}", "resume=true", f"training.max_epochs={epochs}"]
        train_here(*arguments, *choice, *last)
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight, parts["state_dict"][name]), name
    rates = [[group["lr"] for group in state["optimizer_states"][0]["param_groups"]] for state in (whole, parts)]
    assert rates[0] == rates[1]
    assert rates[0][1] == pytest.approx(rates[0][0] / 2)


def test_rates_of_the_frontend(arguments):
    def groups(*choice):
        config = load_config(TrainConfig, [*arguments, "training.weight_decay=0.1", *choice])
        data = builders.build_data(config)
        module = builders.build_module(config, data.conditions, data.index.audio)
        return module, module.configure_optimizers().param_groups

    assert len(groups("frontend=mel")[1]) == len(groups()[1]) == 1  # nothing in the frontend is trained
    module, (rest, frontend) = groups("frontend=waveform", "frontend.learning_rate_scale=0.25")
    assert (rest["lr"], frontend["lr"]) == (0.003, 0.00075)
    assert (rest["weight_decay"], frontend["weight_decay"]) == (0.1, 0.0)
    assert set(frontend["params"]) == set(module.network.frontend.parameters())
    assert len(rest["params"]) + len(frontend["params"]) == len(list(module.parameters()))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_every_frontend_feeds_every_backbone(arguments, frontend, backbone):
    # On some CPUs torch leaves gradients of bf16 undefined where a convolution steps over a single column, as in shorter chunks.
    choices = (f"frontend={frontend}", f"backbone={backbone}", "backbone.width=0.1", "data.chunk_frames=65")
    config = load_config(TrainConfig, [*arguments, *choices])
    data = builders.build_data(config)
    module = builders.build_module(config, data.conditions, data.index.audio)
    batch = next(iter(data.train_dataloader()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module.network.raw_embedding(batch.audio).sum().backward()
    assert all(
        parameter.grad.isfinite().all() for parameter in module.network.parameters() if parameter.grad is not None
    )
    assert all(parameter.grad is not None for parameter in module.network.frontend.parameters())


def test_both_frontends_embed_a_recording_alike(arguments):
    torch.manual_seed(0)
    networks, embeddings = {}, {}
    for name in ("nnaudio", "mel"):
        config = load_config(TrainConfig, [*arguments, f"frontend={name}"])
        data = builders.build_data(config)
        data.setup("test")
        networks[name] = build_network(config, ["genre"], data.index.audio).eval()
        networks[name].backbone.load_state_dict(networks["nnaudio"].backbone.state_dict())
        (batch,) = data.test_dataloader()
        embeddings[name] = networks[name](batch.audio)
    assert embeddings["mel"].shape == embeddings["nnaudio"].shape
    similarity = torch.nn.functional.cosine_similarity(embeddings["mel"], embeddings["nnaudio"])
    assert (similarity > 0.98).all()  # the first and last two frames differ: a chunk is reflected at its own ends


def test_stored_mel_has_nothing_to_train(arguments):
    with pytest.raises(ConfigError, match="needs frontend=nnaudio"):
        train_here(*arguments, "frontend=mel", "frontend.trainable_mel=true")


def test_the_bank_is_always_trained(arguments):
    with pytest.raises(ConfigError, match="filters of frontend=waveform are always trained"):
        train_here(*arguments, "frontend=waveform", "frontend.trainable_mel=true")
