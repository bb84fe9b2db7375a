"""Embed a catalogue to search it: ``disentangled embed checkpoint=FILE (manifest=CSV | shards=DIR) out=DIR``.

Repeat the command to resume an interrupted one, or when the manifest has grown. DIR/rejected.csv lists the rejected tracks with
the reasons. Then search: ``disentangled search index=DIR like=TRACK_ID``.
"""

import csv
import logging
import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from datamodules.corpora.manifest import read_manifest
from datamodules.shards.index import ShardIndex
from disentangled_ml.config import ConfigError
from disentangled_ml.files import locked, output_context, writable
from disentangled_ml.network.checkpoint import choose_device
from disentangled_ml.search.build import (
    EmbeddedStore,
    assemble,
    embed_manifest,
    embed_shards,
    write_header,
    write_index,
    write_npz,
)
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.similarity_search import MOST_EXACT
from disentangled_ml.structures import SPLITS

SPLIT_SHARES = (0.7, 0.1, 0.2)  # as prepare's, for rows of a manifest without a split
logger = logging.getLogger("embed")


def main(config: DictConfig) -> None:
    if (config.manifest is None) == (config.shards is None):
        raise ConfigError("the recordings come from manifest=CSV or from shards=DIR: give one of the two")
    out, npz = Path(config.out), None if config.npz is None else writable(config.npz, "npz", "npz")
    embedder = Embedder(config.checkpoint, choose_device(config.accelerator))
    if config.shards is not None:
        index = ShardIndex.read(config.shards)
    else:
        corpus = read_manifest(Path(config.manifest), SPLIT_SHARES, unknown_values=config.unknown_values)
    store = EmbeddedStore(out, embedder.model.fingerprint)
    store.claim()
    with output_context(out), locked(out):
        if config.shards is not None:
            batches = embed_shards(embedder, index, store, [config.split] if config.split else SPLITS)
        else:
            batches = embed_manifest(embedder, corpus, store, config.split, config.workers or os.cpu_count() or 1)
        n_tracks = assemble(out, embedder, store, batches)
        has_index = config.approximate if config.approximate is not None else n_tracks > MOST_EXACT
        if has_index:
            write_index(out, embedder.model.masks)
        write_header(out, embedder, n_tracks)
        if npz is not None:
            write_npz(npz, out)
    show_summary(out, embedder, n_tracks, has_index)


def show_summary(out: Path, embedder: Embedder, n_tracks: int, has_index: bool) -> None:
    with open(out / "rejected.csv", newline="", encoding="utf-8") as file:
        n_rejected = sum(1 for _ in csv.DictReader(file))
    if n_rejected:
        logger.info("%d rejected, see %s", n_rejected, out / "rejected.csv")
    names, dim = ", ".join(embedder.condition_names), embedder.model.masks.shape[1]
    how = "with an index for approximate search" if has_index else "searched exactly"
    sys.stdout.write(f"{out}: {n_tracks:,} tracks, {dim} dimensions, {how}; conditions: {names}\n")
