"""Embed a catalogue to search it: ``disentangled embed checkpoint=FILE (manifest=CSV | shards=DIR) out=DIR``.

Repeat the command to resume an interrupted one, or when the manifest, a recording or the shards have changed: what changed is
embedded anew, and a server that has DIR open takes up the new catalogue once it is whole. DIR/rejected.csv lists the rejected tracks
with the reasons. Then search: ``disentangled search index=DIR like=TRACK_ID``.
To divide the work among processes or machines that share DIR, run the command with part=1/40, part=2/40, ..., in any order,
then once with merge=true.
"""

import csv
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig

from datamodules.audio import musicnn
from datamodules.corpora.manifest import ALL_TRAIN, count_drawn_splits, read_manifest
from datamodules.shards.index import ShardIndex
from datamodules.shards.parts import UNDIVIDED, Part
from datamodules.shards.resumable import Batch
from disentangled_ml.commands.schemas import parse_part
from disentangled_ml.config import ConfigError
from disentangled_ml.files import locked, output_context, writable
from disentangled_ml.network.checkpoint import choose_device
from disentangled_ml.search.analysed import EMBEDDINGS
from disentangled_ml.search.assembly import assemble, write_npz
from disentangled_ml.search.build import EmbeddedStore, embed_manifest, embed_shards, merge_manifest, merge_shards
from disentangled_ml.search.catalogue import INDEX, EmbeddedCatalogue, read_catalogue
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.parquet import require_pyarrow, write_parquet
from disentangled_ml.structures import SPLITS, Corpus

logger = logging.getLogger("embed")


def main(config: DictConfig) -> None:
    if (config.manifest is None) == (config.shards is None):
        raise ConfigError("the recordings come from manifest=CSV or from shards=DIR: give one of the two")
    out, npz = Path(config.out), None if config.npz is None else writable(config.npz, "npz", "npz")
    parquet = None if config.parquet is None else writable(config.parquet, "parquet", "parquet")
    if (out / EMBEDDINGS).exists():
        raise ConfigError(f"{out} holds a catalogue that music made, which would be lost: give another out=DIR")
    if parquet is not None:
        require_pyarrow()  # before anything long begins
    # Nothing is embedded when parts are merged.
    embedder = Embedder(config.checkpoint, choose_device("cpu" if config.merge else config.accelerator))
    source = read_source(config, embedder)
    store = EmbeddedStore(out, embedder.model.fingerprint, config.manifest or config.shards)
    if config.merge:
        store.check()
    else:
        store.claim()
    with output_context(out):
        if part := parse_part(config.part):
            embed(embedder, source, store, config, part)
            done = "is embedded; when all parts are, run the command with merge=true instead"
            logger.info("%s: part %s %s", out, config.part, done)
            return
        with locked(out):
            batches = embed(embedder, source, store, config, UNDIVIDED)
            estimated = source.estimated() if isinstance(source, ShardIndex) else ()
            assemble(out, embedder, store, batches, config.approximate, estimated)
            if npz is not None:
                write_npz(npz, out)
            if parquet is not None:
                write_parquet(parquet, read_catalogue(out))
    show_summary(read_catalogue(out), source.notes if isinstance(source, Corpus) else ())


def read_source(config: DictConfig, embedder: Embedder) -> Corpus | ShardIndex:
    """Read which recordings there are. Raises ConfigError or ManifestError if they cannot be embedded as they are."""
    if config.shards is not None:
        return ShardIndex.read(config.shards)
    musicnn.require(embedder.network.features)
    manifest = Path(config.manifest)
    corpus = read_manifest(manifest, ALL_TRAIN, unknown_values=config.unknown_values)
    if config.split:
        check_splits(manifest, config.split, config.unknown_values)
    return corpus


def embed(
    embedder: Embedder, source: Corpus | ShardIndex, store: EmbeddedStore, config: DictConfig, part: Part
) -> list[Batch]:
    """Embed a part, or check before a merge that all parts are embedded; return its batches, or all."""
    if isinstance(source, ShardIndex):
        splits = [config.split] if config.split else SPLITS
        if config.merge:
            return merge_shards(source, store, splits)
        return embed_shards(embedder, source, store, splits, part)
    if config.merge:
        return merge_manifest(source, store, config.split)
    return embed_manifest(embedder, source, store, config.split, config.workers or os.cpu_count() or 1, part)


def check_splits(manifest: Path, split: str, unknown_values: Iterable[str]) -> None:
    """Check that a manifest says the split of every track. Raises ConfigError if not: only ``prepare`` knows how it drew them."""
    if n_drawn := count_drawn_splits(manifest, unknown_values):
        raise ConfigError(
            f"split={split}: {n_drawn} tracks of {manifest} have no split there, and how prepare drew theirs is known to the shards "
            f"alone: give shards=DIR instead of manifest, or fill the manifest's column split"
        )


def show_summary(catalogue: EmbeddedCatalogue, notes: Iterable[str]) -> None:
    """Log what the reader of the manifest has changed and what was rejected; print what is in the catalogue."""
    out = catalogue.folder
    for note in notes:
        logger.info(note)
    with open(out / "rejected.csv", newline="", encoding="utf-8") as file:
        n_rejected = sum(1 for _ in csv.DictReader(file))
    if n_rejected:
        logger.info("%d rejected, see %s", n_rejected, out / "rejected.csv")
    names, dim = ", ".join(catalogue.condition_names), catalogue.embedding.shape[1]
    has_index = (catalogue.files / INDEX).is_file()
    how = "with an index for approximate search" if has_index else "searched exactly"
    sys.stdout.write(f"{out}: {len(catalogue):,} tracks, {dim} dimensions, {how}; conditions: {names}\n")
