"""Evaluate a checkpoint on triplets: ``python -m disentangled_ml.evaluate checkpoint=FILE shards=DIR``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from datamodules.index import ShardIndex
from datamodules.shards import read_infos
from datamodules.similarity import build_conditions
from datamodules.streams import EvaluationStream, Source
from datamodules.triplet_lists import ListSettings, kept_triplets, read_triplets, requested_starts
from disentangled_ml import builders
from disentangled_ml.config import ConfigError
from disentangled_ml.console import run_command
from disentangled_ml.evaluation import EmbeddingTable, evaluation_report
from disentangled_ml.model import ConditionalSimilarityNetwork
from disentangled_ml.module import embed, wanted_chunks
from disentangled_ml.networks import load_checkpoint, network_from
from disentangled_ml.report import accuracy_table
from disentangled_ml.run_folder import write_json
from disentangled_ml.structures import SPLITS, TRACK, AudioSettings, ListedTriplet

logger = logging.getLogger("evaluate")


def choose_device(accelerator: str) -> torch.device:
    """Take a GPU where there is one and it is not refused.

    Raises:
        ConfigError: if one is asked for and there is none.
    """
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("accelerator=gpu, but there is no CUDA device: use accelerator=auto or cpu")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def writable(out: str) -> Path:
    """Make the folder of the report, before anything long begins.

    Raises:
        ConfigError: if there can be no such file.
    """
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={out}: {path.parent} cannot be made ({error.strerror}), give out=FILE.json") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"out={out} is a folder, or in one that cannot be written to: give out=FILE.json")
    return path


def list_triplets(
    config: DictConfig, index: ShardIndex, names: list[str], trained: DictConfig
) -> tuple[list[ListedTriplet], tuple[str, ...]]:
    """Read the given list, or take that of the test split; give it with the splits that hold its tracks."""
    if config.triplets is not None:
        triplets = read_triplets(Path(config.triplets), index.audio)
        unknown = {triplet.condition for triplet in triplets} - {*names, TRACK}
        if unknown:
            raise ConfigError(
                f"triplets={config.triplets} has conditions {sorted(unknown)}, the checkpoint knows {[*names, TRACK]}"
            )
        return triplets, SPLITS
    known = {entry["name"] for entry in index.conditions}
    common = [name for name in names if name in known]
    if len(common) < len(names):
        logger.warning("%s has no labels of: %s", index.root, ", ".join(sorted(set(names) - known)))
    conditions = build_conditions(index, common, builders.build_tempo(trained))
    settings = ListSettings(config.triplets_per_condition, config.seed, trained.data.chunk_frames)
    return kept_triplets(index, "test", read_infos(index, "test"), conditions, settings), ("test",)


@torch.inference_mode()
def embed_tracks(
    network: ConditionalSimilarityNetwork,
    source: Source,
    triplets: list[ListedTriplet],
    splits: tuple[str, ...],
    tracks_per_batch: int,
) -> EmbeddingTable:
    """Embed the tracks that the triplets name, each chunk once."""
    device = next(network.parameters()).device
    named = frozenset(member.track_id for _, *members in triplets for member in members)
    table = EmbeddingTable(wanted=wanted_chunks(triplets))
    for split in splits:
        stream = EvaluationStream(source, split, tracks_per_batch, requested_starts(triplets), named)
        for chunks in tqdm(stream, desc=f"embed {split}", unit="batch"):
            table.add(chunks, embed(network, chunks.audio.to(device)))
    return table


def main(config: DictConfig) -> None:
    """Evaluate the checkpoint of a configuration."""
    out = None if config.out is None else writable(config.out)
    device = choose_device(config.accelerator)
    checkpoint = load_checkpoint(Path(config.checkpoint))
    network = network_from(checkpoint).to(device)
    trained = OmegaConf.create(checkpoint["config"])
    index = ShardIndex.read(Path(config.shards))
    if index.audio != AudioSettings(**checkpoint["audio"]):
        raise ConfigError(f"{config.shards} was prepared with {index.audio}, the checkpoint with {checkpoint['audio']}")
    triplets, splits = list_triplets(config, index, network.condition_names, trained)
    source = Source(index, [], network.frontend.source, trained.data.chunk_frames)
    table = embed_tracks(network, source, triplets, splits, config.tracks_per_batch)
    report = evaluation_report(table, triplets, network.masks(), network.condition_names)
    if out is not None:
        write_json(out, report)
    sys.stdout.write(accuracy_table(report) + "\n")


if __name__ == "__main__":
    run_command(main, "evaluate", "evaluate", __doc__)
