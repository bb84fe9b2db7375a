"""Evaluation: 100,000 triplets, against embedding their chunks alone: ``python -m benchmarks.evaluation [device=cpu|cuda]``.

The limit has the chunks in memory and only runs the network over them, each once. Ours reads the shards, embeds, and reports
accuracy with intervals in all spaces. It is checked that the network is given each distinct chunk once.
"""

import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.catalogue import AUDIO, write_catalogue
from benchmarks.measurement import Measurement, compared, interleaved
from benchmarks.table import as_text
from datamodules.batches.streams import EvaluationStream, Source
from datamodules.shards.conditions import build_conditions
from datamodules.shards.tar import read_infos
from datamodules.triplet_lists.lists import ListSettings, kept_triplets
from disentangled_ml.builders import build_network
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.evaluation.listed_triplets import evaluation_report, listed_chunks
from disentangled_ml.network.model import embed_in_passes
from disentangled_ml.structures import chunk_grid, requested_starts
from disentangled_ml.systems import NetworkSystem

TRACKS, TRIPLETS, CHUNK_FRAMES, TRACKS_PER_BATCH = 512, 100_000, 129, 8
LIMIT = "embedding"
MOST = 1.2


def measure(device: str = "cpu") -> list[Measurement]:
    """Measure a small network of the default kind."""
    with tempfile.TemporaryDirectory() as folder:
        index = write_catalogue(Path(folder) / "shards", test=TRACKS)
        conditions, infos = build_conditions(index), read_infos(index, "test")
        settings = ListSettings(TRIPLETS // (len(conditions) + 1), 0, CHUNK_FRAMES)
        triplets = kept_triplets(index, "test", infos, conditions, settings)
        names = [condition.name for condition in conditions]
        config = load_config(TrainConfig, ["data=shards", f"data.shards={index.root}", "backbone.width=0.125"])
        network = build_network(config, names, AUDIO).to(device, memory_format=torch.channels_last).eval()
        system = NetworkSystem(network, index, CHUNK_FRAMES, TRACKS_PER_BATCH)
        source, wanted = Source(index, [], "mel", CHUNK_FRAMES), listed_chunks(triplets)
        stream = EvaluationStream(source, "test", TRACKS_PER_BATCH, requested_starts(wanted))
        batches = [chunks.audio.to(device) for chunks in stream]
        n_chunks = sum(len(audio) for audio in batches)
        distinct = wanted | {(info.track_id, s) for info in infos for s in chunk_grid(info.frames, CHUNK_FRAMES)}
        if n_chunks != len(distinct):
            raise ValueError(f"{n_chunks} chunks are embedded, {len(distinct)} are distinct")

        def ours() -> None:
            table = system.embed("test", wanted)
            evaluation_report(table, triplets, network.masks().detach().cpu(), names)

        @torch.inference_mode()
        def limit() -> None:
            for audio in batches:
                embed_in_passes(network, audio).cpu()

        times = interleaved({"ours": ours, LIMIT: limit}, 9)
        stage = f"evaluation of {len(triplets):,} triplets, {n_chunks:,} chunks, {device}"
        return [compared(stage, times, limit=LIMIT, most_overhead=MOST)]


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    sys.stdout.write(as_text(measure(**given)))
