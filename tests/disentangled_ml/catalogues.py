"""Small embedded catalogues, checkpoints and recordings, for the tests of search."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
import torch
from omegaconf import OmegaConf

from disentangled_ml.builders import build_network
from disentangled_ml.commands import embed
from disentangled_ml.commands.schemas import EmbedConfig
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.network.checkpoint import ModelDescription
from disentangled_ml.search.catalogue import (
    COLUMNS,
    COLUMNS_FILE,
    EMBEDDING,
    FORMAT_VERSION,
    HEADER,
    TRACKS,
    CatalogueTrack,
    EmbeddedCatalogue,
    column_values,
    describe_model,
    read_catalogue,
)
from disentangled_ml.structures import AudioSettings
from tests.conftest import N_MELS, TINY

NAMES, SUBSPACE_DIM = ["genre", "mood", "tempo"], 4
TEMPO = {"relation": "absolute", "tolerance_bpm": 5.0, "tolerance": 0.04, "margin": 0.16}
SAMPLE_RATE = 22050


def disjoint_masks() -> np.ndarray:
    """Give each condition its own four dimensions."""
    return np.repeat(np.eye(len(NAMES), dtype=np.float32), SUBSPACE_DIM, axis=1)


def unit_rows(n_tracks: int, seed: int = 0) -> np.ndarray:
    """Draw embeddings."""
    rows = np.random.default_rng(seed).standard_normal((n_tracks, len(NAMES) * SUBSPACE_DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def track_of(number: int) -> CatalogueTrack:
    """Describe a track; every third has no artist, every fourth no tempo, every fifth no genre."""
    labels: dict = {"mood": [("calm", "happy", "sad")[number % 3]]}
    if number % 5:
        labels["genre"] = [("jazz", "rock")[number % 2]]
    if number % 4:
        labels["tempo"] = 60.0 + number % 90
    return CatalogueTrack(f"t{number}", f"artist {number % 7}" if number % 3 else None, None, labels)


def write_catalogue(
    folder: Path, embedding: np.ndarray, masks: np.ndarray | None = None, **changed
) -> EmbeddedCatalogue:
    """Write a catalogue by hand, as its module describes it."""
    folder.mkdir(parents=True, exist_ok=True)
    tracks = changed.pop("tracks", [track_of(number) for number in range(len(embedding))])
    lines = [json.dumps(track._asdict()).encode() + b"\n" for track in tracks]
    offsets = np.cumsum([0, *map(len, lines)])
    columns = [column_values(track, offset) for track, offset in zip(tracks, offsets, strict=False)]
    (folder / TRACKS).write_bytes(b"".join(lines))
    np.save(folder / EMBEDDING, embedding.astype("<f4"))
    np.save(folder / COLUMNS_FILE, np.array(columns, COLUMNS))
    masks = disjoint_masks() if masks is None else masks
    model = ModelDescription("0" * 64, NAMES, masks, AudioSettings(n_mels=N_MELS), 16, TEMPO)
    header = {"format_version": FORMAT_VERSION, "tracks": len(embedding), **describe_model(model), **changed}
    (folder / HEADER).write_text(json.dumps(header))
    return read_catalogue(folder)


def save_checkpoint(path: Path, shards: Path | str = "shards/x", seed: int = 0, *arguments: str) -> Path:
    """Save the checkpoint of an untrained network."""
    config, audio = load_config(TrainConfig, [*TINY, f"data.shards={shards}", *arguments]), AudioSettings(n_mels=N_MELS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(config, NAMES, audio)
    content = {
        "state_dict": {f"network.{key}": value for key, value in network.state_dict().items()},
        "config": OmegaConf.to_container(config),
        "conditions": NAMES,
        "audio": asdict(audio),
    }
    torch.save(content, path)
    return path


def write_recordings(folder: Path, n: int, seconds: float = 1.5) -> Path:
    """Write recordings, each a chord over noise, and their manifest; give the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["track_id", "path", "artist", "split", "genre", "tempo"])
        for number in range(n):
            rng = np.random.default_rng(number)
            time = np.arange(int((seconds + 0.1 * (number % 5)) * SAMPLE_RATE)) / SAMPLE_RATE
            chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in rng.uniform(100, 4000, 3))
            soundfile.write(folder / f"{number}.flac", 0.1 * chord + 0.01 * rng.standard_normal(len(time)), SAMPLE_RATE)
            artist, split = f"artist {number % 4}" if number % 3 else "", "test" if number % 4 == 0 else "train"
            writer.writerow([f"r{number}", f"{number}.flac", artist, split, ("jazz", "rock")[number % 2], 60 + number])
    return folder / "manifest.csv"


def embed_recordings(folder: Path, n_tracks: int) -> Path:
    """Fill a folder with a checkpoint, ``x.ckpt``, recordings and the catalogue of them, ``index``."""
    save_checkpoint(folder / "x.ckpt")
    manifest = write_recordings(folder / "recordings", n_tracks)
    arguments = [f"checkpoint={folder}/x.ckpt", f"manifest={manifest}", f"out={folder}/index", "workers=1"]
    embed.main(load_config(EmbedConfig, arguments))
    return folder
