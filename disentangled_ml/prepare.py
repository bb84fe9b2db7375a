"""Turn recordings and labels (a manifest) into shards: ``python -m disentangled_ml.prepare manifest=FILE out=DIR``.

Repeat the command to continue where an earlier one stopped. What was rejected, and why, stands in DIR/rejected.csv.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from omegaconf import DictConfig

from datamodules.corpora.manifest import read_manifest
from datamodules.preparation import PreparationSettings, prepare_shards
from disentangled_ml.console import run_command
from disentangled_ml.structures import SPLITS, AudioSettings

logger = logging.getLogger("prepare")


def main(config: DictConfig) -> None:
    """Prepare the shards of a configuration."""
    settings = PreparationSettings(
        audio=AudioSettings(**config.audio),
        min_frames=config.chunk_frames,
        store_waveform=config.store_waveform,
        estimate_tempo=config.tempo == "madmom" and (config.conditions is None or "tempo" in config.conditions),
        tracks_per_shard=config.tracks_per_shard,
    )
    catalogue = read_manifest(Path(config.manifest), config.split_shares, config.conditions)
    workers = config.workers or os.cpu_count() or 1
    index = prepare_shards(catalogue, Path(config.out), settings, workers)
    counts = ", ".join(f"{index.count(split)} {split}" for split in SPLITS)
    names = ", ".join(entry["name"] for entry in index.conditions)
    logger.info("%s: %s tracks; conditions: %s", index.root, counts, names)
    if not index.conditions:
        logger.warning(
            "no track has a tag or a tempo, so nothing can be trained on these shards: see the manifest's columns"
        )
    n_rejected = len(catalogue.records) + len(catalogue.rejected) - sum(index.count(split) for split in SPLITS)
    if n_rejected:
        logger.info("%d tracks rejected, see %s", n_rejected, index.root / "rejected.csv")


if __name__ == "__main__":
    run_command(main, "prepare", "prepare", __doc__)
