"""What the benchmarks work on, made by themselves: shards labelled as sparsely as real catalogues are, and recordings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datamodules.shards.index import Shard, ShardIndex
from datamodules.shards.tar import write_shard
from disentangled_ml.structures import SPLITS, AudioSettings, TrackInfo

AUDIO = AudioSettings()
TRACKS_PER_SHARD = 64
CLIP_FRAMES = 1292  # 30 s
# Number of tags, share of the tracks that have some: as in the Million Song Dataset.
CONDITIONS = {"genre": (28, 0.88), "mood": (12, 0.13), "instrument": (5, 0.13)}


def labels_of(number: int) -> dict[str, Any]:
    """Return the labels of a track."""
    rng = np.random.default_rng(number)
    labels: dict[str, Any] = {"tempo": float(rng.uniform(60, 180))}
    for name, (n_tags, share) in CONDITIONS.items():
        if rng.random() < share:
            labels[name] = sorted({f"{name} {tag}" for tag in rng.integers(n_tags, size=2)})
    return labels


def samples_of(first: int, n_tracks: int, frames: int, spread: int = 1) -> Iterator[dict[str, Any]]:
    """Yield the samples of a shard, of ``frames`` frames and up to ``spread - 1`` more."""
    for number in range(first, first + n_tracks):
        rng = np.random.default_rng(number)
        n_frames = frames + int(rng.integers(spread))
        mel = rng.random((AUDIO.n_mels, n_frames), np.float32).astype(np.float16)
        yield {"info": TrackInfo(f"track {number}", f"artist {number // 4}", n_frames, labels_of(number)), "mel": mel}


def condition_entries() -> list[dict[str, Any]]:
    """Return the conditions as an index describes them."""
    tags = [
        {"name": name, "kind": "tags", "vocabulary": sorted(f"{name} {tag}" for tag in range(n_tags))}
        for name, (n_tags, _) in CONDITIONS.items()
    ]
    return [*tags, {"name": "tempo", "kind": "tempo"}]


def write_catalogue(root: Path, frames: int = CLIP_FRAMES, **n_tracks: int) -> ShardIndex:
    """Write shards: ``write_catalogue(root, train=512, test=128)``."""
    root.mkdir(parents=True)
    splits: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    first = 0
    for split, total in n_tracks.items():
        for begun in range(0, total, TRACKS_PER_SHARD):
            shard = Shard(f"{split}-{len(splits[split]):06d}.tar", min(TRACKS_PER_SHARD, total - begun))
            write_shard(root / shard.file, samples_of(first, shard.samples, frames))
            splits[split].append(shard)
            first += shard.samples
    index = ShardIndex(root, AUDIO, False, condition_entries(), splits)
    index.write()
    return index


def clip(number: int, seconds: int, sample_rate: int) -> np.ndarray:
    """Return beats over noise in stereo, (samples, 2)."""
    rng = np.random.default_rng(number)
    n = seconds * sample_rate
    period = int(60 / rng.uniform(70, 160) * sample_rate)
    beat = np.exp(-(np.arange(n) % period) / 3000.0) * np.sin(2 * np.pi * 200 * np.arange(n) / sample_rate)
    return (0.5 * beat[:, None] + 0.05 * rng.standard_normal((n, 2))).astype(np.float32).clip(-1, 1)


def write_clips(folder: Path, n_clips: int, seconds: int = 30, sample_rate: int = 44_100) -> list[Path]:
    """Write recordings as MP3."""
    paths = [folder / f"{number}.mp3" for number in range(n_clips)]
    for number, path in enumerate(paths):
        soundfile.write(path, clip(number, seconds, sample_rate), sample_rate, format="MP3")
    return paths
