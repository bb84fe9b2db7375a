"""From recordings to a network that reads waveforms: prepare with FLAC, then train the filters of the nnAudio frontend."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import soundfile
import torch

from disentangled_ml import builders
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.networks import build_network, load_network
from disentangled_ml.prepare import main as prepare
from disentangled_ml.run_folder import RUN_DIR_VARIABLE
from disentangled_ml.train import main as train

SAMPLE_RATE = 22050
SPLITS = ("train",) * 6 + ("val",) * 2 + ("test",) * 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Prepare 20 recordings of 1.5 s: noise is one genre, tones are the other."""
    root = tmp_path_factory.mktemp("recordings")
    with open(root / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["track_id", "path", "split", "genre"])
        for i in range(20):
            rng = np.random.default_rng(i)
            time = np.arange(int(1.5 * SAMPLE_RATE)) / SAMPLE_RATE
            noise = rng.uniform(-0.3, 0.3, len(time))
            tone = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time)
            soundfile.write(root / f"{i}.wav", tone if i % 2 else noise, SAMPLE_RATE)
            writer.writerow([f"r{i}", f"{i}.wav", SPLITS[i // 2], "tone" if i % 2 else "noise"])
    settings = ("chunk_frames=16", "store_waveform=true", "tempo=manifest", "tracks_per_shard=5", "workers=1")
    prepare(load_config("prepare", [f"manifest={root}/manifest.csv", f"out={root}/shards", *settings]))
    return root / "shards"


@pytest.fixture
def arguments(shards, tmp_path, monkeypatch):
    """Give the arguments of a tiny run with the nnAudio frontend."""
    monkeypatch.setenv(RUN_DIR_VARIABLE, "")
    return [
        *("data=shards", f"data.shards={shards}", "data.chunk_frames=16", "data.tracks_per_batch=6"),
        *("data.chunks_per_track=2", "data.triplets_per_condition=16", "data.track_triplets=16"),
        *("frontend=nnaudio", "backbone=conv", "backbone.width=0.1", "embedding_dim=8", "trainer=cpu"),
        *("evaluation.triplets_per_condition=20", "training.max_epochs=1", "wandb.mode=disabled"),
        *(f"runs={tmp_path}", "run_name=waveform"),
    ]


def test_filters_are_trained_from_waveforms(arguments, tmp_path):
    train(load_config("config", [*arguments, "frontend.trainable_stft=true", "frontend.trainable_mel=true"]))
    metrics = json.loads((tmp_path / "waveform" / "metrics.json").read_text())
    assert 0 <= metrics["test/triplet_accuracy/genre"] <= 1
    network = load_network(tmp_path / "waveform" / "checkpoints" / "best.ckpt")
    assert network.frontend.source == "waveform"
    embedding = network(torch.rand(3, 15 * 512) - 0.5)
    assert embedding.shape == (3, 8)
    fresh = load_config("config", arguments)
    assert not fresh.frontend.trainable_mel
    assert any(name.startswith("frontend.") for name in network.state_dict())  # trained filters are kept


def test_both_frontends_embed_a_recording_alike(arguments):
    torch.manual_seed(0)
    networks, embeddings = {}, {}
    for name in ("nnaudio", "mel"):
        config = load_config("config", [*arguments, f"frontend={name}"])
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
        train(load_config("config", [*arguments, "frontend=mel", "frontend.trainable_mel=true"]))
