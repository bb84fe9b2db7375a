"""Evaluate on triplets: ``disentangled evaluate (checkpoint=FILE | baseline=NAME) shards=DIR``."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Before the imports, which take seconds: help and slips are answered at once.
    from disentangled_ml.__main__ import main as run

    sys.exit(run(["evaluate", *sys.argv[1:]]))

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.tar import read_infos
from datamodules.triplet_lists.lists import ListSettings, kept_triplets, read_triplets
from disentangled_ml.baselines import BASELINES, bandwidth
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.evaluation.listed_triplets import (
    EmbeddingTable,
    end_chunks,
    evaluation_report,
    listed_chunks,
    split_report,
)
from disentangled_ml.evaluation.matching import MEAN
from disentangled_ml.evaluation.probe import probe_report
from disentangled_ml.files import writable, write_json
from disentangled_ml.network.checkpoint import choose, choose_device, load_checkpoint
from disentangled_ml.objective.conditions import Condition
from disentangled_ml.reporting.report import accuracy_table, retrieval_table
from disentangled_ml.structures import SPLITS, TRACK, ListedTriplet
from disentangled_ml.systems import BaselineSystem, System, list_conditions, load_network_system


def choose_shards(config: DictConfig) -> str:
    """Give the folder of the shards to evaluate on: the given one, or that which the checkpoint was trained on.

    Raises:
        ConfigError: unless there is either a checkpoint or a baseline, and for a baseline the shards.
    """
    if (config.checkpoint is None) == (config.baseline is None):
        raise ConfigError(f"give either checkpoint=FILE or baseline={'|'.join(BASELINES)}")
    if config.shards is not None:
        return config.shards
    if config.checkpoint is None:
        raise ConfigError("no value for shards: a baseline needs shards=DIR")
    return load_checkpoint(Path(config.checkpoint))["config"]["data"]["shards"]


def load_system(config: DictConfig, index: ShardIndex, device: torch.device) -> tuple[System, DictConfig]:
    """Load what is evaluated, and the training configuration that its triplets follow (of a baseline: the default one)."""
    if config.checkpoint is not None:
        keep_sequences = config.match != MEAN
        return load_network_system(Path(config.checkpoint), index, device, config.tracks_per_batch, keep_sequences)
    baseline = choose(BASELINES, config.baseline, "baseline")(seed=config.seed)
    defaults = load_config(TrainConfig, ["data=shards", f"data.shards={index.root}"])
    names = [entry["name"] for entry in index.conditions]
    return BaselineSystem(baseline, index, names, defaults.data.chunk_frames), defaults


def evaluate_split(
    system: System,
    index: ShardIndex,
    conditions: list[Condition],
    settings: ListSettings,
    probe: bool,
    match: str = MEAN,
) -> dict[str, Any]:
    """Evaluate on the kept list of the test split; with probes if wanted, which take the training tracks too.

    Raises:
        ShardsError: if there are no such tracks.
    """
    for split in ("train", "test") if probe else ("test",):
        if not index.count(split):
            raise ShardsError(f"{index.root} has no {split} tracks: check the manifest's split column")
    infos = read_infos(index, "test")
    triplets = kept_triplets(index, "test", infos, conditions, settings, bandwidth)
    table = system.embed("test", listed_chunks(triplets) | end_chunks(infos, settings.chunk_frames))
    ids, embedding = table.tracks()
    names = [condition.name for condition in conditions]
    masks = system.masks(embedding.shape[1])[[system.condition_names.index(name) for name in names]]
    report = split_report(table, triplets, masks, conditions, infos, match)
    if probe:
        train_ids, train = system.embed("train", set()).tracks()
        by_id = {info.track_id: info for info in (*infos, *read_infos(index, "train"))}
        train_infos, test_infos = ([by_id[track_id] for track_id in part] for part in (train_ids, ids))
        report["probe"] = probe_report(train, train_infos, embedding, test_infos, masks, conditions)
    return report


def evaluate_list(system: System, index: ShardIndex, path: Path, match: str = MEAN) -> dict[str, Any]:
    """Evaluate on a given list, whose tracks may be of any split.

    Raises:
        ConfigError: for a condition that the system does not know, or if the tracks of no triplet are there.
    """
    triplets, names = read_triplets(path, index.audio), system.condition_names
    unknown = {triplet.condition for triplet in triplets} - {*names, TRACK}
    if unknown:
        raise ConfigError(f"triplets={path} has conditions {sorted(unknown)}, the checkpoint knows {[*names, TRACK]}")
    table = embed_named(system, triplets)
    if not any(all(member in table.rows for member in members) for _, *members in triplets):
        raise ConfigError(f"triplets={path}: {index.root} has the tracks of none of its {len(triplets)} triplets")
    embedding_dim = table.tracks()[1].shape[1]
    return evaluation_report(table, triplets, system.masks(embedding_dim), names, match)


def embed_named(system: System, triplets: list[ListedTriplet]) -> EmbeddingTable:
    """Embed the tracks that triplets name, of any split, each chunk once."""
    named = frozenset(member.track_id for _, *members in triplets for member in members)
    table = EmbeddingTable()
    for split in SPLITS:
        found = system.embed(split, listed_chunks(triplets), named)
        table.rows.update(found.rows)
        table.sequences.update(found.sequences)
    return table


def main(config: DictConfig) -> None:
    """Evaluate the checkpoint or the baseline of a configuration."""
    out = None if config.out is None else writable(config.out)
    for key in ("probe", "match_bandwidth"):
        if config[key] and config.triplets is not None:
            raise ConfigError(f"{key}=true needs the list of the test split: leave triplets={config.triplets} out")
    if config.match != MEAN and (config.baseline is not None or config.probe):
        taken = "probe=true takes" if config.probe else "a baseline takes"
        raise ConfigError(
            f"match={config.match} compares chunks of a checkpoint, {taken} whole tracks: use match={MEAN}"
        )
    index = ShardIndex.read(choose_shards(config))
    system, trained = load_system(config, index, choose_device(config.accelerator))
    if config.triplets is not None:
        report = evaluate_list(system, index, Path(config.triplets), config.match)
    else:
        settings = ListSettings(
            config.triplets_per_condition, config.seed, trained.data.chunk_frames, config.match_bandwidth
        )
        conditions = list_conditions(index, system.condition_names, trained)
        report = evaluate_split(system, index, conditions, settings, config.probe, config.match)
    if out is not None:
        write_json(out, report)
    sys.stdout.write(accuracy_table(report) + "\n")
    if "recall" in report:
        sys.stdout.write("\n" + retrieval_table(report) + "\n")
