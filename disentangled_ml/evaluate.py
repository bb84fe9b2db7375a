"""Evaluate on triplets: ``disentangled evaluate (checkpoint=FILE | baseline=NAME) shards=DIR``."""

import sys

if __name__ == "__main__":
    # Before the imports, which take seconds: help and slips are answered at once.
    from disentangled_ml.__main__ import main as run

    sys.exit(run(["evaluate", *sys.argv[1:]]))

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from datamodules.shards.index import ShardIndex
from datamodules.triplet_lists.lists import ListSettings
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.evaluation.matching import MEAN
from disentangled_ml.files import writable, write_json
from disentangled_ml.reporting.report import accuracy_table, retrieval_table
from disentangled_ml.systems import (
    UNTRAINED,
    System,
    evaluate_list,
    evaluate_split,
    list_conditions,
    load_network_system,
    untrained_system,
)


def check_settings(config: DictConfig) -> None:
    """Check that the keys fit together. Raises ConfigError, naming those that do not."""
    if (config.checkpoint is None) == (config.baseline is None):
        raise ConfigError(f"give either checkpoint=FILE or baseline={'|'.join(UNTRAINED)}")
    if config.baseline is not None and config.baseline not in UNTRAINED:
        raise ConfigError(f"baseline={config.baseline} is unknown: choose one of {', '.join(UNTRAINED)}")
    if config.checkpoint is None and config.shards is None:
        raise ConfigError("no value for shards: a baseline needs shards=DIR")
    for key in ("probe", "match_bandwidth"):
        if config[key] and config.triplets is not None:
            raise ConfigError(f"{key}=true needs the list of the test split: leave triplets={config.triplets} out")
    if config.match != MEAN and (config.baseline is not None or config.probe):
        taken = "probe=true takes" if config.probe else "a baseline takes"
        raise ConfigError(f"match={config.match} compares chunks of a checkpoint, {taken} whole tracks: use match=mean")


def load_system(config: DictConfig) -> tuple[System, Mapping[str, Any]]:
    """Load the system, and the tempo relation of its triplets: the trained one, or the default for a baseline."""
    index = None if config.shards is None else ShardIndex.read(config.shards)
    if config.checkpoint is not None:
        batch, keep_sequences = config.tracks_per_batch, config.match != MEAN
        system, model = load_network_system(config.checkpoint, index, config.accelerator, batch, keep_sequences)
        return system, model.tempo
    data = load_config(TrainConfig, ["data=shards", f"data.shards={index.root}"]).data
    names = [entry["name"] for entry in index.conditions]
    system = untrained_system(config.baseline, index, names, data.chunk_frames, config.seed, config.tracks_per_batch)
    return system, data.tempo


def main(config: DictConfig) -> None:
    out = None if config.out is None else writable(config.out)
    check_settings(config)
    system, tempo = load_system(config)
    if config.triplets is not None:
        report = evaluate_list(system, Path(config.triplets), config.match)
    else:
        settings = ListSettings(config.triplets_per_condition, config.seed, system.chunk_frames, config.match_bandwidth)
        conditions = list_conditions(system.index, system.condition_names, tempo)
        report = evaluate_split(system, conditions, settings, config.probe, config.match)
    system.index.check_unchanged()
    if out is not None:
        write_json(out, report)
    sys.stdout.write(accuracy_table(report) + "\n")
    if "recall" in report:
        sys.stdout.write("\n" + retrieval_table(report) + "\n")
