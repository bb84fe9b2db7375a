"""Shards that a tiny network can learn from in seconds, for the tests that train."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from xdist.scheduler import LoadScopeScheduling

from datamodules.shards.index import Shard, ShardIndex
from datamodules.shards.tar import write_shard
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.structures import AudioSettings, TrackInfo
from disentangled_ml.training.run_folder import RUN_DIR_VARIABLE
from tests.quick_figures import save_quickly

N_MELS, CHUNK_FRAMES = 16, 16
# Files of tests by their time. Of the first ones no two functions share what takes long to make.
APART = ("test_train.py", "test_sweeps.py", "test_ranks.py", "test_tracking.py", "test_preemption.py")
APART += ("test_two_processes.py", "test_unwritable_run_folder.py")
LONGEST = (
    *APART,
    "test_table.py",
    "test_gathering.py",
    "test_preparation.py",
    "test_systems.py",
    "test_serve.py",
    "test_config.py",
)
TRAINING = {"run", "trained", "run_here", "checkpoints", "whole"}  # fixtures that train
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


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Call slow what trains; begin with the files that take longest, which else might be left to one process at the end."""
    for item in items:
        if not TRAINING.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Deal the tests out to the processes by files, and those of the longest files by functions."""

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid.partition("[")[0] if Path(file).name in APART else file

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory) -> Path:
    """Give a folder of shards with 48, 16 and 20 tracks."""
    return write_tiny_shards(tmp_path_factory.mktemp("tiny") / "shards", train=48, val=16, test=20)


@pytest.fixture(scope="session")
def long_shards(tmp_path_factory) -> Path:
    """Give a folder of shards with 10, 4 and 20 tracks that are long enough for chunks of the default length."""
    return write_tiny_shards(tmp_path_factory.mktemp("long") / "shards", chunk_frames=129, train=10, val=4, test=20)


@pytest.fixture(scope="session")
def tiny_arguments(tiny_shards) -> tuple[str, ...]:
    """Give the arguments of ``train`` for a run of about a second per epoch."""
    return (*TINY, f"data.shards={tiny_shards}")


def train_here(*arguments: str) -> None:
    """Train in this process, with figures that nobody looks at."""
    from disentangled_ml.train import main  # here: most tests do not train

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(RUN_DIR_VARIABLE, raising=False)
        patch.setattr(Figure, "savefig", save_quickly)
        try:
            main(load_config(TrainConfig, list(arguments)))
        finally:
            os.environ.pop(RUN_DIR_VARIABLE, None)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_arguments) -> Path:
    """Train for an epoch, once for all that need any run, and return its folder, which nobody changes."""
    runs = tmp_path_factory.mktemp("trained")
    train_here(*tiny_arguments, f"runs={runs}", "run_name=trained", "training.max_epochs=1")
    return runs / "trained"


@pytest.fixture
def copy_of_trained(trained, tmp_path) -> Path:
    """Return a copy of ``trained``, in ``tmp_path``."""
    return Path(shutil.copytree(trained, tmp_path / "trained"))


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
