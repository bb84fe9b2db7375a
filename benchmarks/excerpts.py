"""How much of a recording is enough: ``python -m benchmarks.excerpts SHARDS``.

Tracks of the test split are embedded by musicnn's tags, without training, from some of their chunks only, spread as ``music`` spreads
them. The triplets are those of the shards' test list. Shards need ``features=musicnn_both``.
"""

import sys

import torch

from datamodules.batches.analysis import AnalysisSettings
from datamodules.shards.index import ShardIndex
from datamodules.triplet_lists.lists import ListSettings, kept_triplets
from disentangled_ml.baselines.controls import bandwidth
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable, evaluation_report
from disentangled_ml.reporting.cells import accuracy_text
from disentangled_ml.structures import TRACK, Member
from disentangled_ml.systems import NetworkSystem, fit_tags, list_conditions, read_infos

CHUNK_FRAMES, TRIPLETS = 129, 1_000
SECONDS = (3, 6, 9, 15, 21, 30)
TEMPO = {"relation": "absolute", "tolerance_bpm": 5.0, "tolerance": 0.04, "margin": 0.16}


def main(shards: str) -> None:
    index = ShardIndex.read(shards)
    network, _ = fit_tags(index)
    system = NetworkSystem(network, index, CHUNK_FRAMES, keep_sequences=True)
    conditions = list_conditions(index, system.condition_names, TEMPO)
    names = [condition.name for condition in conditions]
    settings = ListSettings(TRIPLETS, chunk_frames=CHUNK_FRAMES)
    triplets = kept_triplets(index, "test", read_infos(index, "test"), conditions, settings, bandwidth)
    triplets = [triplet for triplet in triplets if triplet.condition != TRACK]
    whole = system.embed("test", set())
    masks = system.masks(0)[[system.condition_names.index(name) for name in names]]
    sys.stdout.write("seconds | " + " | ".join(names) + "\n")
    for seconds in SECONDS:
        analysis = AnalysisSettings(index.audio, "mel", CHUNK_FRAMES, seconds)
        table = EmbeddingTable(normalised=network.normalised)
        for track_id, chunks in whole.sequences.items():
            kept = [start // CHUNK_FRAMES for start in analysis.starts(len(chunks) * CHUNK_FRAMES)]
            table.rows[Member(track_id)] = network.normalised(chunks[kept].sum(0, keepdim=True))[0]
        report = evaluation_report(table, triplets, masks, names)["sub"]
        sys.stdout.write(f"{seconds} | " + " | ".join(accuracy_text(report[name]) for name in names) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
