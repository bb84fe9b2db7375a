"""Shards that a tiny network can learn from in seconds, for the tests that train."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from datamodules.shards.index import Shard, ShardIndex
from datamodules.shards.tar import write_shard
from disentangled_ml.structures import AudioSettings, TrackInfo
from tests.quick_figures import save_quickly

N_MELS, CHUNK_FRAMES = 16, 16
GENRES, MOODS = ("bass", "treble"), ("dark", "bright", "plain")
TINY = (
    f"data.chunk_frames={CHUNK_FRAMES}",
    "data=shards",
    "data.tracks_per_batch=8",
    "data.chunks_per_track=2",
    "data.triplets_per_condition=32",
    "data.track_triplets=32",
    "backbone=conv",
    "backbone.width=0.1",
    "embedding_dim=24",
    "evaluation.triplets_per_condition=60",
    "training.learning_rate=0.01",
    "trainer=cpu",
    "wandb.mode=disabled",
)


def tiny_sample(number: int, chunk_frames: int = CHUNK_FRAMES) -> dict:
    """Make a track: its genre is where the energy lies, its mood the level, its tempo the period of a beat."""
    rng = np.random.default_rng(number)
    genre, mood = rng.integers(2), rng.integers(3)
    period = int(rng.integers(3, 9))
    frames = int(rng.integers(3, 6)) * chunk_frames + int(rng.integers(chunk_frames))
    mel = rng.uniform(0, 0.1, (N_MELS, frames))
    mel[8 * genre : 8 * genre + 8] += 0.2 + 0.2 * mood
    mel[:, ::period] += 0.3
    labels = {"genre": [GENRES[genre]], "mood": [MOODS[mood]], "tempo": 60.0 + 10 * period}
    artist = f"artist {number % 17}" if number % 3 else None
    return {"info": TrackInfo(f"t{number}", artist, frames, labels), "mel": mel.astype(np.float16)}


def write_tiny_shards(root: Path, chunk_frames: int = CHUNK_FRAMES, tracks_per_shard: int = 8, **counts: int) -> Path:
    """Write shards: ``write_tiny_shards(root, train=48, val=16, test=20)``."""
    root.mkdir(parents=True)
    splits: dict[str, list[Shard]] = {"train": [], "val": [], "test": []}
    number = 0
    for split, count in counts.items():
        for first in range(0, count, tracks_per_shard):
            shard = Shard(f"{split}-{len(splits[split]):06d}.tar", min(tracks_per_shard, count - first))
            write_shard(root / shard.file, (tiny_sample(number + i, chunk_frames) for i in range(shard.samples)))
            splits[split].append(shard)
            number += shard.samples
    conditions = [
        {"name": "genre", "kind": "tags", "vocabulary": list(GENRES)},
        {"name": "mood", "kind": "tags", "vocabulary": list(MOODS)},
        {"name": "tempo", "kind": "tempo"},
    ]
    ShardIndex(root, AudioSettings(n_mels=N_MELS), False, conditions, splits).write()
    return root


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory) -> Path:
    """Give a folder of shards with 48, 16 and 20 tracks."""
    return write_tiny_shards(tmp_path_factory.mktemp("tiny") / "shards", train=48, val=16, test=20)


@pytest.fixture(scope="session")
def long_shards(tmp_path_factory) -> Path:
    """Give a folder of shards with 10, 4 and 20 tracks that are long enough for chunks of the default length."""
    return write_tiny_shards(tmp_path_factory.mktemp("long") / "shards", chunk_frames=129, train=10, val=4, test=20)


@pytest.fixture(scope="session")
def many_shards(tmp_path_factory) -> Path:
    """Give a folder of shards with 800, 16 and 20 tracks: an epoch of 200 batches takes some seconds."""
    return write_tiny_shards(tmp_path_factory.mktemp("many") / "shards", train=800, val=16, test=20)


@pytest.fixture(scope="session")
def tiny_arguments(tiny_shards) -> tuple[str, ...]:
    """Give the arguments of ``train`` for a run of about a second per epoch."""
    return (*TINY, f"data.shards={tiny_shards}")


@pytest.fixture
def quick_figures(monkeypatch) -> None:
    """Draw no figure nicely."""
    monkeypatch.setattr(Figure, "savefig", save_quickly)


@pytest.fixture(autouse=True)
def own_signal_handlers():
    """Give the signals back: a run that is trained in this process keeps them until the process ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def one_thread():
    """Compute on one thread: the networks and matrices are so small that more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
