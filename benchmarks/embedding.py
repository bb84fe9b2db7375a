"""What it costs to embed a catalogue, per track of 4 minutes and core: ``python -m benchmarks.embedding [clips=3] [rows=300000]``.

Measures the processor time (not the clock, so that other work on the machine matters little) of decoding a generated stereo mp3 of
44,100 Hz, of cutting and embedding it for two networks, and of reading such a track from a shard; then, on as many simulated rows,
of reading a manifest, of checking and assembling their embedded batches and of the index, with the memory that the whole program
held by then. The hours, disks and memory of a large catalogue follow from these: docs/scale.md.
With ``clips=0`` or ``rows=0`` the one or the other is left out.
"""

import csv
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from types import SimpleNamespace

import numpy as np
import soundfile
import torch

from benchmarks.catalogue import AUDIO, clip, write_catalogue
from benchmarks.rates import timed
from datamodules.audio.decoding import decode
from datamodules.audio.fingerprint import SIZE
from datamodules.batches.cutting import cut_waveform
from datamodules.batches.streams import Source
from datamodules.corpora.manifest import read_manifest
from datamodules.shards.origin import Origin
from datamodules.shards.parts import Part
from disentangled_ml.builders import build_network
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.network.checkpoint import ModelDescription
from disentangled_ml.network.model import embed_in_passes
from disentangled_ml.search.assembly import assemble, write_index
from disentangled_ml.search.build import (
    EmbeddedBatch,
    EmbeddedStore,
    manifest_batches,
    merge_manifest,
    plan_rows,
    read_shard,
    with_record,
)
from disentangled_ml.search.catalogue import read_catalogue

SECONDS, SAMPLE_RATE, CHUNK_FRAMES = 240, 44_100, 129
NAMES = ["genre", "mood", "instrument", "tempo"]
NETWORKS = {"spectrogram (resnet)": ("backbone=resnet", ()), "musicnn's features": ("experiment=musicnn", ("msd",))}
PARTS, DIM = 40, 256
FRAMES = 1 + SECONDS * AUDIO.sample_rate // AUDIO.hop_length


def measure_tracks(n_clips: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Measure what a track costs, by the median over the clips; yield lines of the report."""
    networks = {}
    for name, (argument, features) in NETWORKS.items():
        config = load_config(TrainConfig, [argument, "data=shards", "data.shards=x"])
        networks[name] = build_network(config, NAMES, AUDIO, features).eval()
    seconds: dict[str, list[float]] = {}
    for number in range(n_clips + 1):
        path = folder / "clip.mp3"
        soundfile.write(path, clip(number, SECONDS, SAMPLE_RATE), SAMPLE_RATE, format="MP3")
        times = {}
        times["decode"], decoded = timed(decode, path)
        for name, network in networks.items():
            times[f"cut for {name}"], chunks = timed(cut_waveform, *decoded, AUDIO, network.source, CHUNK_FRAMES)
            with torch.inference_mode():
                times[f"embed by {name}"], _ = timed(embed_in_passes, network, torch.from_numpy(chunks))
        # The first one pays for imports and tables.
        for name, found in times.items() if number else ():
            seconds.setdefault(name, []).append(found)
    index = write_catalogue(folder / "shards", FRAMES, train=32)
    source = Source(index, [], networks["spectrogram (resnet)"].source, CHUNK_FRAMES)
    shard = index.splits["train"][0]
    reading = min(timed(lambda: [None for _ in read_shard(source, shard)])[0] for _ in range(3)) / shard.samples
    for name, found in {
        **{name: median(found) for name, found in seconds.items()},
        "read from a shard": reading,
    }.items():
        yield name, f"{found * 1000:.0f} ms"


def write_manifest(path: Path, n_rows: int) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["track_id", "path", "artist", "title", "split", "genre", "tempo"])
        for i in range(n_rows):
            genre = ("jazz", "rock;pop")[i % 2]
            rows.writerow(
                [f"track{i:08d}", f"{i:08d}.mp3", f"artist {i // 5}", f"Title {i}", "train", genre, 60 + i % 100]
            )


def measure_merging(n_rows: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Measure what a row costs from the manifest to the index; yield lines of the report, with the peak memory by then."""
    write_manifest(folder / "manifest.csv", n_rows)
    masks = np.kron(np.eye(len(NAMES)), np.ones((1, DIM // len(NAMES)))).astype(np.float32)
    embedder = SimpleNamespace(
        checkpoint=folder / "x.ckpt",
        condition_names=NAMES,
        model=ModelDescription("0" * 64, NAMES, masks, AUDIO, CHUNK_FRAMES, {}),
    )
    store = EmbeddedStore(folder / "index", "0" * 64, str(folder / "manifest.csv"))
    store.claim()

    def line(name: str, seconds: float) -> tuple[str, str]:
        return (
            name,
            f"{seconds / n_rows * 1e6:.1f} us per row, {getrusage(RUSAGE_SELF).ru_maxrss / 1024:.0f} MB by then",
        )

    took, corpus = timed(read_manifest, folder / "manifest.csv", (1.0, 0.0, 0.0))
    yield line("survey a manifest", took)
    took, plan = timed(plan_rows, corpus, None)
    yield line("number its rows", took)
    took, _ = timed(lambda: [None for _ in manifest_batches(corpus, None, plan, Part(1, PARTS))])
    yield line(f"read a part of {PARTS}", took)
    rng = np.random.default_rng(0)
    for batch, rows in manifest_batches(corpus, None, plan):
        embedding = rng.standard_normal((len(rows), DIM), np.float32)
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
        fingerprints = rng.integers(-127, 128, (len(rows), SIZE), np.int8)
        tracks = [with_record(row, embedding)[0] for row in rows]
        origins = [Origin(row.path, None, 0, "0" * 32) for row in rows]
        store.save(batch, EmbeddedBatch(embedding, fingerprints, tracks, [], origins))
    took, batches = timed(merge_manifest, corpus, store, None)
    yield line("check all batches", took)
    took, _ = timed(assemble, folder / "index", embedder, store, batches, False)
    yield line("assemble", took)
    files = read_catalogue(folder / "index").files
    took, _ = timed(write_index, files, masks)
    yield line("index", took)
    sizes = {path.name: path.stat().st_size for path in files.iterdir()}
    sizes["pieces"] = sum(path.stat().st_size for path in store.folder.iterdir())
    for name, size in sizes.items():
        yield name, f"{size / n_rows:.0f} bytes per row"


def main(n_clips: int, n_rows: int) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for measure, size in ((measure_tracks, n_clips), (measure_merging, n_rows)):
        if not size:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for name, value in measure(size, Path(folder)):
                sys.stdout.write(f"{name:>30}  {value}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if given.keys() - {"clips", "rows"}:
        raise SystemExit(__doc__)
    main(int(given.get("clips", 3)), int(given.get("rows", 300_000)))
