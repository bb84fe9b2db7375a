"""Embed a catalogue batch by batch: a killed run keeps what it has finished, and another model's batches are refused.

A batch is some hundred rows of a manifest, or one tar of shards. It is embedded by itself and written as one file,
``DIR/pieces/NAME.npz``, with the fingerprint of the model and of what it was made of. When all batches are there a new state of the
catalogue is assembled from them (assembly.py). They stay: a manifest that has grown costs only its new rows, and recordings or
shards that have changed cost only their batches.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, NamedTuple
from zipfile import BadZipFile

import numpy as np

from datamodules.batches.composer import StreamedTrack
from datamodules.batches.cutting import cut_group
from datamodules.batches.streams import Source
from datamodules.shards.index import Shard, ShardIndex, ShardsError
from datamodules.shards.origin import Origin, results_of
from datamodules.shards.resumable import Batch, BatchStore, counted, usable, work_through
from datamodules.shards.tar import ShardSlice, read_samples, sample_context
from datamodules.shards.workers import Workers
from disentangled_ml.files import as_json, atomic_write
from disentangled_ml.progress import show_progress
from disentangled_ml.search.catalogue import (
    CatalogueError,
    CatalogueTrack,
    absolute_source,
)
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import (
    DUPLICATE,
    Corpus,
    Rejected,
    TrackInfo,
    TrackRecord,
    chunk_grid,
    name_code,
    stable_hash,
)

ROWS_PER_BATCH = 256  # of a manifest: some minutes of decoding
Chunks = tuple[CatalogueTrack, np.ndarray]


class EmbeddedBatch(NamedTuple):
    """A finished batch: embedding (n, D) float32, a row per track, what was rejected, and what its rows were made of.

    A batch of shards has an origin, None, for each damage alone: it is read again until that is mended.
    """

    embedding: np.ndarray
    tracks: list[CatalogueTrack]
    rejected: list[Rejected]
    origins: list[Origin | None]


class EmbeddedStore(BatchStore):
    """The embedded batches of a catalogue, in its folder, which is of one model and of one manifest or folder of shards."""

    FOLDER, CLAIM = "pieces", "model.json"
    ERROR = CatalogueError
    ANOTHER: ClassVar[dict[str, str]] = {
        "model": "embeddings of another checkpoint (sha256 {owner:.12}..., not {job:.12}...)",
        "source": "embeddings of {owner}, not of {job}",
    }

    def __init__(self, out: Path, model: str, source: str):
        super().__init__(out, {"model": model, "source": absolute_source(source)})

    def path(self, batch: Batch) -> Path:
        return self.folder / f"{batch.name}.npz"

    def save(self, batch: Batch, finished: EmbeddedBatch) -> None:
        notes = {
            "model": self.job["model"],
            "digest": batch.digest,
            "tracks": [track.as_plain() for track in finished.tracks],
            "rejected": finished.rejected,
            "origins": finished.origins,
        }
        with atomic_write(self.path(batch), "wb") as file:
            np.savez(file, embedding=finished.embedding, notes=np.frombuffer(as_json(notes).encode(), np.uint8))

    def read(self, batch: Batch) -> EmbeddedBatch | None:
        """Read a batch; None if it is missing or damaged, or of other rows or another model."""
        try:
            with np.load(self.path(batch), allow_pickle=False) as content:
                embedding, notes = content["embedding"], json.loads(content["notes"].tobytes())
            if (notes["model"], notes["digest"]) != (self.job["model"], batch.digest):
                return None
            tracks = [CatalogueTrack(**track) for track in notes["tracks"]]
            rejected = [Rejected(*line) for line in notes["rejected"]]
            origins = [origin and Origin(*origin) for origin in notes["origins"]]
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, BadZipFile):
            return None
        is_whole = len(embedding) == len(tracks) and embedding.dtype == np.float32
        return EmbeddedBatch(embedding, tracks, rejected, origins) if is_whole else None


def manifest_batches(corpus: Corpus, split: str | None) -> Iterator[tuple[Batch, list[TrackRecord | Rejected]]]:
    """Divide the rows of a corpus into batches, in reading order; a repeated track is rejected."""
    seen: set[int] = set()

    def rows() -> Iterator[TrackRecord | Rejected]:
        for row in corpus.rows():
            if isinstance(row, Rejected):
                yield row
            elif split is None or row.split == split:
                key = name_code(row.track_id)
                row = row._replace(path=str(Path(row.path).absolute()))  # wherever the command is run
                yield Rejected(row.track_id, row.path, DUPLICATE) if key in seen else row
                seen.add(key)

    remaining, number = rows(), 0
    while part := list(islice(remaining, ROWS_PER_BATCH)):
        digest = hashlib.sha256(repr([row_content(row) for row in part]).encode()).hexdigest()
        yield Batch(f"rows-{number:06d}", len(part), digest), part
        number += 1


def row_content(row: TrackRecord | Rejected) -> tuple:
    """Return what a batch depends on of a row; of one without metadata it is as before there were any."""
    return tuple(row) if isinstance(row, Rejected) or row.metadata is not None else tuple(row[:-1])


def embed_manifest(
    embedder: Embedder, corpus: Corpus, store: EmbeddedStore, split: str | None, workers: int
) -> list[Batch]:
    """Embed the recordings of a manifest; return its batches in order, all of them finished."""
    model, batches = embedder.model, [batch for batch, _ in manifest_batches(corpus, split)]
    work = partial(cut_group, audio=model.audio, source=embedder.source, frames=model.chunk_frames)
    total = sum(batch.size for batch in batches)
    with Workers(workers, work) as pool, show_progress(total=total, unit="track", desc="embed") as progress:
        for batch, rows, outcomes in work_through(manifest_batches(corpus, split), store, pool, progress):
            origins: list[Origin | None] = []
            embedded = embed_batch(embedder, map(with_record, rows, results_of(outcomes, origins)))
            store.save(batch, embedded._replace(origins=origins))
    return batches


def with_record(row: TrackRecord | Rejected, result: np.ndarray | Rejected) -> Chunks | Rejected:
    """Join the chunks of a recording with what is known about it."""
    if isinstance(result, Rejected):
        return result
    return CatalogueTrack(row.track_id, row.artist, row.path, dict(row.labels), row.section, row.metadata), result


def embed_shards(embedder: Embedder, index: ShardIndex, store: EmbeddedStore, splits: Sequence[str]) -> list[Batch]:
    """Embed splits of shards; return the batches in order, all finished.

    Raises:
        CatalogueError: if they do not fit the network.
        ShardsError: if they are prepared anew meanwhile.
    """
    model = embedder.model
    if index.audio != model.audio:
        raise CatalogueError(f"{index.root} was prepared with {index.audio}, the checkpoint with {model.audio}")
    try:
        source = Source(index, [], embedder.source, model.chunk_frames)
    except ShardsError as error:
        raise CatalogueError(f"{error}, or give manifest=CSV") from error
    shards = [shard for split in splits for shard in index.splits[split]]
    # An old index has no digests of its shards.
    digests = [shard.digest or f"{index.fingerprint()} {shard.file}" for shard in shards]
    if thresholds := index.thresholds():
        # What labels the tracks get depends on them too.
        digests = [f"{digest} {stable_hash(as_json(thresholds)):x}" for digest in digests]
    batches = [
        Batch(Path(shard.file).stem, shard.samples, digest) for shard, digest in zip(shards, digests, strict=True)
    ]
    made = []
    with show_progress(total=sum(batch.size for batch in batches), unit="track", desc="embed") as progress:
        for batch, shard in zip(batches, shards, strict=True):
            finished = store.read(batch)
            if finished is not None and not finished.origins:
                progress.update(batch.size)
            else:
                embedded = embed_batch(embedder, counted(read_shard(source, shard), progress))
                damages = [None for line in embedded.rejected if line.path == str(index.root)]
                store.save(batch, embedded._replace(origins=damages))
                made.append(batch)
    try:
        index.check_unchanged()
    except ShardsError:
        # They may be of the new shards, under the digests of the old ones.
        for batch in made:
            store.path(batch).unlink()
        raise
    return batches


def read_shard(source: Source, shard: Shard) -> Iterator[Chunks | Rejected]:
    """Read the tracks of a shard with their chunks; what is damaged is rejected."""
    damaged: list[Rejected] = []
    root = source.index.root

    def reject(error: ShardsError, lost: int) -> None:
        damaged.append(Rejected("", str(root), f"{lost} tracks are lost: {error}"))

    for sample in read_samples(root, [ShardSlice(shard, 0, shard.samples)], source.members, reject):
        try:
            with sample_context(sample):
                info, track = source.decode(sample)
        except ShardsError as error:
            reject(error, 1)
            continue
        yield cut_track(info, track, source.chunk_frames)
    yield from damaged


def cut_track(info: TrackInfo, track: StreamedTrack, frames: int) -> Chunks | Rejected:
    """Cut a track of shards into its non-overlapping chunks."""
    grid = chunk_grid(info.frames, frames)
    if not grid:
        return Rejected(info.track_id, "", f"shorter than a chunk: {info.frames} frames, {frames} needed")
    chunks = np.stack([track.read_chunk(start) for start in grid])
    return CatalogueTrack(info.track_id, info.artist, None, info.labels), chunks


def embed_batch(embedder: Embedder, tracks: Iterable[Chunks | Rejected]) -> EmbeddedBatch:
    rejected: list[Rejected] = []
    found: list[CatalogueTrack] = []
    rows: list[np.ndarray] = []
    for track, row in embedder.embed_tracks(usable(tracks, rejected)):
        if np.isfinite(row).all():
            found.append(track)
            rows.append(row)
        else:
            rejected.append(Rejected(track.track_id, track.path or "", "its embedding is not finite"))
    embedding = np.stack(rows) if rows else np.empty((0, embedder.model.masks.shape[1]), np.float32)
    return EmbeddedBatch(embedding, found, rejected, [])
