"""Tiny shards whose chunks tell their track and frame, and tiny catalogues of real files.

Row 0 of a spectrogram holds the number of its track, row 1 the number of each frame: integers that float16 holds exactly.
"""

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pytest
import soundfile
import torch

from datamodules.audio.decoding import encode_flac, encode_mp3
from datamodules.audio.spectrogram import log_mel
from datamodules.batches import streams
from datamodules.shards import workers
from datamodules.shards.index import Shard, ShardIndex
from datamodules.shards.tar import read_infos, write_shard
from disentangled_ml.chunks import FEATURE_SIZE
from disentangled_ml.commands.schemas import PrepareConfig
from disentangled_ml.config import load_config
from disentangled_ml.prepare import main
from disentangled_ml.structures import SPLITS, AudioSettings, TrackInfo

CHUNK_FRAMES = 16
N_MELS = 4
SAMPLE_RATE = 22050
GENRES, MOODS = ("blues", "jazz", "rock"), ("calm", "dark", "happy", "sad")
CONDITIONS = [
    {"name": "genre", "kind": "tags", "vocabulary": list(GENRES)},
    {"name": "mood", "kind": "tags", "vocabulary": list(MOODS)},
    {"name": "tempo", "kind": "tempo"},
]


def labels_of(number: int) -> dict:
    """Label a track: every fifth has no genre, moods are one or two, every seventh has no tempo."""
    rng = np.random.default_rng(number)
    labels = {"mood": sorted(rng.choice(MOODS, rng.integers(1, 3), replace=False).tolist())}
    if number % 5:
        labels["genre"] = [str(rng.choice(GENRES))]
    if number % 7:
        labels["tempo"] = float(rng.uniform(60, 180))
    return labels


def info_of(number: int) -> TrackInfo:
    """Describe a track; its length runs through L, L + 1, ... frames, and every third has no artist."""
    artist = f"artist {number % 11}" if number % 3 else None
    return TrackInfo(f"t{number}", artist, CHUNK_FRAMES + number * 7 % 90, labels_of(number))


def counted_mel(number: int, frames: int) -> np.ndarray:
    """Make a spectrogram that tells its track and frames."""
    mel = np.zeros((N_MELS, frames), np.float16)
    mel[0], mel[1] = number, np.arange(frames)
    return mel


def counted_features(number: int, windows: int, networks: tuple[str, ...]) -> np.ndarray:
    """Make features that tell their track, window and network: 100 times the track, and the window, with msd's sign."""
    signs = np.repeat([1 if name == "msd" else -1 for name in networks], FEATURE_SIZE)
    return ((100 * number + np.arange(windows))[:, None] * signs).astype(np.float16)


def noise(seed: int, n: int) -> np.ndarray:
    """Make n samples that no other seed gives."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let torch compute as a loading process does; on such small tensors its threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_shards(tmp_path) -> Callable[..., ShardIndex]:
    """Write shards of ``info_of(0), info_of(1), ...``: ``make_shards(train=40, test=9)``."""

    def make(
        tracks_per_shard: int = 6,
        waveform: bool = False,
        info: Callable[[int], TrackInfo] = info_of,
        features: tuple[str, ...] = (),
        **counts: int,
    ) -> ShardIndex:
        root = tmp_path / "shards"
        root.mkdir()
        settings = AudioSettings() if waveform else AudioSettings(n_mels=N_MELS)

        def sample(number: int) -> dict:
            track = info(number)
            if not waveform:
                found = {"musicnn": counted_features(number, 1 + number % 3, features)} if features else {}
                return {"info": track, "mel": counted_mel(number, track.frames), **found}
            samples = noise(number, settings.chunk_samples(track.frames) + 100)
            return {"info": track, "mel": log_mel(samples, settings), "flac": encode_flac(samples, SAMPLE_RATE)}

        splits: dict[str, list[Shard]] = {"train": [], "val": [], "test": []}
        number = 0
        for split, count in counts.items():
            end = number + count
            while number < end:
                numbers = range(number, min(number + tracks_per_shard, end))
                file = f"{split}-{len(splits[split]):06d}.tar"
                write_shard(root / file, map(sample, numbers))
                splits[split].append(Shard(file, len(numbers)))
                number = numbers.stop
        index = ShardIndex(root, settings, waveform, CONDITIONS, splits, features)
        index.write()
        return index

    return make


@pytest.fixture
def recognise() -> Callable[[torch.Tensor], list[tuple[int, int]]]:
    """Give the track and first frame of every chunk of a batch, and check that its frames follow each other."""

    def recognise(audio: torch.Tensor) -> list[tuple[int, int]]:
        assert audio.shape[1:] == (1, N_MELS, CHUNK_FRAMES)
        track, frame = audio[:, 0, 0], audio[:, 0, 1]
        assert (track == track[:, :1]).all()
        assert (frame == frame[:, :1] + torch.arange(CHUNK_FRAMES)).all()
        return list(zip(track[:, 0].int().tolist(), frame[:, 0].int().tolist(), strict=True))

    return recognise


@pytest.fixture
def check_triplets() -> Callable[..., None]:
    """Check the condition triplets of a list of (condition, anchor, positive, negative) by the definitions, in plain Python."""

    def check(
        rows: list[tuple[str, int, int, int]], info: Callable[[int], TrackInfo] = info_of, tolerance_bpm: float = 5.0
    ) -> None:
        for condition, *numbers in rows:
            anchor, positive, negative = (info(number) for number in numbers)
            assert anchor.track_id != positive.track_id
            assert anchor.artist is None or anchor.artist != positive.artist
            label, near, far = (track.labels[condition] for track in (anchor, positive, negative))
            if condition == "tempo":
                assert abs(label - near) <= tolerance_bpm < abs(label - far)
            else:
                assert set(label) & set(near)
                assert not set(label) & set(far)

    return check


@pytest.fixture
def as_worker(monkeypatch) -> Callable[[object, int], list]:
    """Iterate over a stream as its loading process with a number would, but here."""

    def run(stream: object, worker: int) -> list:
        monkeypatch.setattr(streams, "get_worker_info", lambda: SimpleNamespace(id=worker))
        return list(stream)

    return run


def write_catalogue(folder: Path, n: int, *extra: dict, seconds: float = 0.5, extension: str = "wav") -> Path:
    """Write recordings of noise and the manifest of them; ``extra`` rows are appended as they are."""
    root = folder / "catalogue"
    root.mkdir()
    rows = []
    for i in range(n):
        soundfile.write(root / f"{i}.{extension}", noise(i, int(seconds * SAMPLE_RATE)), SAMPLE_RATE)
        label = {"genre": "jazz;blues" if i % 3 else "rock", "tempo": "" if i % 4 else str(60 + i)}
        rows.append({"track_id": f"t{i}", "path": f"{i}.{extension}", "artist": f"a{i % 9}", **label})
    manifest = root / "manifest.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["track_id", "path", "artist", "split", "genre", "tempo"])
        writer.writeheader()
        writer.writerows([*rows, *extra])
    return manifest


@pytest.fixture
def make_catalogue(tmp_path) -> Callable[..., Path]:
    """Write recordings of noise and the manifest of them; ``extra`` rows are appended as they are."""

    return partial(write_catalogue, tmp_path)


@pytest.fixture
def write_noise() -> Callable[[Path], None]:
    """Write half a second of noise as mp3, a different one for each name, with the folders that it is in."""

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_mp3(noise(crc32(path.name.encode()), SAMPLE_RATE // 2), SAMPLE_RATE))

    return write


@pytest.fixture
def prepare_corpus(tmp_path, monkeypatch) -> Callable[..., tuple[dict, dict]]:
    """Run ``prepare`` on a data set, with threads for processes; give the tracks of the shards by split, and the rejected ones."""

    def prepare(*arguments: str) -> tuple[dict[str, list[TrackInfo]], dict[str, str]]:
        out = tmp_path / "prepared"
        monkeypatch.setattr(workers, "new_pool", lambda n, *_: ThreadPoolExecutor(n))
        keys = [f"out={out}", "tempo=manifest", "chunk_frames=16", "workers=1"]
        main(load_config(PrepareConfig, [*keys, *arguments]))
        index = ShardIndex.read(out)
        with open(out / "rejected.csv", newline="", encoding="utf-8") as file:
            rejected = {row["track_id"]: row["reason"] for row in csv.DictReader(file)}
        tracks = {split: sorted(read_infos(index, split)) for split in SPLITS}
        return {split: [info._replace(frames=0) for info in found] for split, found in tracks.items()}, rejected

    return prepare
