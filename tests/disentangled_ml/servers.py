"""A small embedded catalogue of own recordings, whose names are as hostile as names can be, and servers of it."""

from __future__ import annotations

import csv
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import nn

from datamodules.audio.decoding import encode_mp3
from datamodules.batches.cutting import cut_waveform
from disentangled_ml.builders import build_network, model_settings
from disentangled_ml.commands import embed
from disentangled_ml.commands.schemas import EmbedConfig
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.structures import AudioSettings
from tests import warm

CONDITIONS = ["genre", "mood", "tempo"]
AUDIO = AudioSettings(n_mels=16)
RATE = AUDIO.sample_rate
ROOT = Path(__file__).resolve().parents[2]
HOSTILE_IDS = (
    "<script>window.hacked=1</script>",
    "\"quoted\" & 'single' </script>",
    "--><img src=x onerror=window.hacked=1>",
    "../../etc/passwd",
    "a/b?c=d&e#f%2e",
    "日本語 ö \u202e",
    "x" * 10_000,
)
IDS = (*HOSTILE_IDS, *(f"t{i}" for i in range(13)))
ARTISTS = ("<b onclick=window.hacked=1>Ann</b>", "Bob", "", "y" * 10_000)
NEW = "the new track, which comes first"
GENRES, MOODS = ("<i>rock</i>", "jazz"), ("calm", '"happy" onload="window.hacked=1"', "sad")


class Made(NamedTuple):
    """Hold the files of a catalogue."""

    checkpoint: Path
    index: Path
    folder: Path

    def arguments(self, *more: str) -> list[str]:
        return [f"checkpoint={self.checkpoint}", f"index={self.index}", "accelerator=cpu", *more]


def sound(number: int, seconds: float = 2.0) -> np.ndarray:
    """Make a recording that is not like the others."""
    time_ = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(number).normal(0, 0.02, len(time_))
    return 0.3 * np.sin(2 * np.pi * (120 + 160 * number) * time_) + noise


def write_recordings(folder: Path) -> None:
    """Write the manifest and the recordings of ``IDS``, which are the titles too; every format occurs."""
    (folder / "audio").mkdir(parents=True)
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["track_id", "path", "artist", "genre", "mood", "tempo", "title"])
        for i, track_id in enumerate(IDS):
            name = f"audio/{i}.{('wav', 'flac', 'ogg', 'mp3')[i % 4]}"
            if i % 4 == 3:
                (folder / name).write_bytes(encode_mp3(sound(i), RATE))
            else:
                soundfile.write(folder / name, sound(i), RATE)
            writer.writerow([track_id, name, ARTISTS[i % 4], GENRES[i % 2], MOODS[i % 3], 80 + 5 * i, track_id])


def hear(network: nn.Module) -> None:
    """Fit the batch norms of an untrained network to the recordings, which it would else map to nearly one point."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    pieces = [cut_waveform(sound(i).astype(np.float32), RATE, AUDIO, network.source, 16) for i in range(len(IDS))]
    with torch.no_grad():
        network.train()(torch.from_numpy(np.concatenate(pieces)))
    network.eval()


def make_catalogue(folder: Path) -> Made:
    """Embed the recordings by a network that nothing was taught."""
    write_recordings(folder)
    settings = ["data=shards", "data.shards=nowhere", "data.chunk_frames=16", "backbone=conv", "backbone.width=0.1"]
    config = load_config(TrainConfig, [*settings, "embedding_dim=24", "trainer=cpu"])
    torch.manual_seed(0)
    network = build_network(config, CONDITIONS, AUDIO)
    hear(network)
    settings = model_settings(config, CONDITIONS, AUDIO)
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": weights, **settings}, folder / "best.ckpt")
    made = Made(folder / "best.ckpt", folder / "index", folder)
    embed_again(made)
    return made


def embed_again(made: Made) -> None:
    """Embed the manifest of a catalogue into its index."""
    given = [f"checkpoint={made.checkpoint}", f"manifest={made.folder}/manifest.csv", f"out={made.index}", "workers=1"]
    embed.main(load_config(EmbedConfig, [*given, "accelerator=cpu"]))


def grow(made: Made) -> None:
    """Embed the manifest with a track more, before all others."""
    soundfile.write(made.folder / "new.wav", sound(99), RATE)
    header, *rows = (made.folder / "manifest.csv").read_text().splitlines(keepends=True)
    row = f'"{NEW}",new.wav,New,new genre,calm,150,"{NEW}"\n'
    (made.folder / "manifest.csv").write_text("".join([header, row, *rows]))
    embed_again(made)


class Served:
    """Run ``disentangled serve`` on a free port until the test ends."""

    def __init__(self, made: Made, log: Path, *arguments: str):
        self.log = log
        with open(log, "ab") as file:
            file.truncate(0)
            command = warm.cold("serve", *made.arguments("port=0", *arguments))
            self.process = warm.Popen(command, stdout=file, stderr=file)
        until = time.monotonic() + 180
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", self.said())):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.1)
        self.address, self.port = found[0], int(found[1])

    def said(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Interrupt it as Ctrl-C does; give its status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)
