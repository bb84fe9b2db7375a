"""Embed a catalogue batch by batch: a killed run keeps what it has finished, and another model's batches are refused.

A batch is some hundred rows of a manifest, or one tar of shards. It is embedded by itself and written as one file,
``DIR/pieces/NAME.npz``, with the fingerprint of the model and of what it was made of. When all batches are there the catalogue is
assembled from them. They stay: a manifest that has grown costs only its new rows.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from datamodules.batches.composer import StreamedTrack
from datamodules.batches.cutting import cut_recordings
from datamodules.batches.streams import Source
from datamodules.shards.index import Shard, ShardIndex, ShardsError
from datamodules.shards.resumable import Batch, BatchStore, counted, usable, work_through
from datamodules.shards.tar import MEMBERS, ShardSlice, read_samples, sample_context
from datamodules.shards.workers import Workers
from disentangled_ml.files import as_json, atomic_write, remove_unfinished, write_json
from disentangled_ml.progress import show_progress
from disentangled_ml.search.catalogue import (
    COLUMNS,
    COLUMNS_FILE,
    EMBEDDING,
    FORMAT_VERSION,
    HEADER,
    INDEX,
    TRACKS,
    CatalogueError,
    CatalogueTrack,
    column_values,
    describe_model,
    read_catalogue,
)
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import DUPLICATE, Corpus, Rejected, TrackInfo, TrackRecord, chunk_grid, name_code

ROWS_PER_BATCH = 256  # of a manifest: some minutes of decoding
Chunks = tuple[CatalogueTrack, np.ndarray]


class EmbeddedBatch(NamedTuple):
    """A finished batch: embedding (n, D) float32, a row per track, and what was rejected."""

    embedding: np.ndarray
    tracks: list[CatalogueTrack]
    rejected: list[Rejected]


class EmbeddedStore(BatchStore):
    """The embedded batches of a catalogue, in its folder; the job is the fingerprint of the model."""

    FOLDER, CLAIM, KEY = "pieces", "model.json", "model"
    ERROR = CatalogueError
    ANOTHER = "embeddings of another checkpoint (sha256 {owner:.12}..., not {job:.12}...)"

    def path(self, batch: Batch) -> Path:
        return self.folder / f"{batch.name}.npz"

    def write(self, batch: Batch, embedded: EmbeddedBatch) -> None:
        notes = {
            "model": self.job,
            "digest": batch.digest,
            "tracks": [track._asdict() for track in embedded.tracks],
            "rejected": embedded.rejected,
        }
        with atomic_write(self.path(batch), "wb") as file:
            np.savez(file, embedding=embedded.embedding, notes=np.frombuffer(as_json(notes).encode(), np.uint8))

    def read(self, batch: Batch) -> EmbeddedBatch | None:
        """Read a batch; None if it is missing or damaged, or of other rows or another model."""
        try:
            with np.load(self.path(batch), allow_pickle=False) as content:
                embedding, notes = content["embedding"], json.loads(content["notes"].tobytes())
            if (notes["model"], notes["digest"]) != (self.job, batch.digest):
                return None
            tracks = [CatalogueTrack(**track) for track in notes["tracks"]]
            rejected = [Rejected(*line) for line in notes["rejected"]]
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, BadZipFile):
            return None
        is_whole = len(embedding) == len(tracks) and embedding.dtype == np.float32
        return EmbeddedBatch(embedding, tracks, rejected) if is_whole else None


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
        digest = hashlib.sha256(repr([tuple(row) for row in part]).encode()).hexdigest()
        yield Batch(f"rows-{number:06d}", len(part), digest), part
        number += 1


def embed_manifest(
    embedder: Embedder, corpus: Corpus, store: EmbeddedStore, split: str | None, workers: int
) -> list[Batch]:
    """Embed the recordings of a manifest; return its batches in order, all of them finished."""
    model, batches = embedder.model, [batch for batch, _ in manifest_batches(corpus, split)]
    work = partial(cut_recordings, audio=model.audio, source=embedder.source, frames=model.chunk_frames)
    total = sum(batch.size for batch in batches)
    with Workers(workers, work) as pool, show_progress(total=total, unit="track", desc="embed") as progress:
        for batch, rows, results in work_through(manifest_batches(corpus, split), store, pool, progress):
            store.write(batch, embed_batch(embedder, map(with_record, rows, results)))
    return batches


def with_record(row: TrackRecord | Rejected, result: np.ndarray | Rejected) -> Chunks | Rejected:
    """Join the chunks of a recording with what is known about it."""
    if isinstance(result, Rejected):
        return result
    return CatalogueTrack(row.track_id, row.artist, row.path, dict(row.labels), row.section), result


def embed_shards(embedder: Embedder, index: ShardIndex, store: EmbeddedStore, splits: Sequence[str]) -> list[Batch]:
    """Embed splits of shards; return the batches in order, all finished. Raises CatalogueError if they do not fit the network."""
    model = embedder.model
    if index.audio != model.audio:
        raise CatalogueError(f"{index.root} was prepared with {index.audio}, the checkpoint with {model.audio}")
    if embedder.source == "waveform" and not index.has_waveform:
        raise CatalogueError(
            f"{index.root} holds no waveforms, which this checkpoint needs: prepare with store_waveform=true, or give manifest=CSV"
        )
    source = Source(index, [], embedder.source, model.chunk_frames)
    shards = [shard for split in splits for shard in index.splits[split]]
    batches = [Batch(Path(shard.file).stem, shard.samples, f"{index.fingerprint()} {shard.file}") for shard in shards]
    with show_progress(total=sum(batch.size for batch in batches), unit="track", desc="embed") as progress:
        for batch, shard in zip(batches, shards, strict=True):
            if store.is_finished(batch):
                progress.update(batch.size)
            else:
                store.write(batch, embed_batch(embedder, counted(read_shard(source, shard), progress)))
    return batches


def read_shard(source: Source, shard: Shard) -> Iterator[Chunks | Rejected]:
    """Read the tracks of a shard with their chunks; what is damaged is rejected."""
    damaged: list[Rejected] = []
    root = source.index.root

    def reject(error: ShardsError, lost: int) -> None:
        damaged.append(Rejected("", str(root), f"{lost} tracks are lost: {error}"))

    members = ("json", MEMBERS[source.audio])
    for sample in read_samples(root, [ShardSlice(shard, 0, shard.samples)], members, reject):
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
    return EmbeddedBatch(embedding, found, rejected)


def assemble(folder: Path, embedder: Embedder, store: EmbeddedStore, batches: Sequence[Batch]) -> int:
    """Write the catalogue of finished batches, and what was rejected; return the number of its tracks.

    Its header is removed first and written last, by ``write_header``: a folder with a header is complete.
    Raises CatalogueError if no track is usable.
    """
    counts = []
    with atomic_write(folder / "rejected.csv") as file:
        rejected = csv.writer(file)
        rejected.writerow(Rejected._fields)
        for batch in batches:
            embedded = store.read_finished(batch)
            counts.append(len(embedded.tracks))
            rejected.writerows(embedded.rejected)
    if not sum(counts):
        raise CatalogueError(f"no track is usable, see the reasons in {folder / 'rejected.csv'}")
    (folder / HEADER).unlink(missing_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    shape = (sum(counts), embedder.model.masks.shape[1])
    columns, row = np.empty(shape[0], COLUMNS), 0
    with (
        atomic_write(folder / EMBEDDING, "wb") as arrays,
        atomic_write(folder / TRACKS, "wb") as lines,
        atomic_write(folder / COLUMNS_FILE, "wb") as file,
    ):
        np.lib.format.write_array_header_1_0(arrays, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for batch in show_progress(batches, unit="batch", desc="assemble"):
            embedded = store.read_finished(batch)
            arrays.write(embedded.embedding.astype("<f4").tobytes())
            for track in embedded.tracks:
                columns[row] = column_values(track, lines.tell())
                lines.write(as_json(track._asdict()).encode() + b"\n")
                row += 1
        np.save(file, columns, allow_pickle=False)
    return shape[0]


def write_index(folder: Path, masks: np.ndarray) -> None:
    """Build and write the index of the catalogue that was put together. Raises ValueError if it has too few tracks for one."""
    from disentangled_ml.search.approximate import build_index  # faiss, where it is needed

    index = build_index(np.load(folder / EMBEDDING, mmap_mode="r", allow_pickle=False), masks)
    with atomic_write(folder / INDEX, "wb") as file:
        file.write(index.as_bytes())


def write_header(folder: Path, embedder: Embedder, n_tracks: int) -> None:
    """Write what makes the folder a catalogue, and remove what killed processes left."""
    write_json(
        folder / HEADER,
        {"format_version": FORMAT_VERSION, "tracks": n_tracks, **describe_model(embedder.model)},
        indent=None,
    )
    for part in (folder, folder / EmbeddedStore.FOLDER):
        remove_unfinished(part)


def write_npz(path: Path, out: Path) -> None:
    """Write ids, embeddings, conditions and the model's fingerprint of a catalogue into one file for other programs; no pickles.

    Shape:
        in the file: track_id (N,) text, embedding (N, D) float32, condition (C,) text, mask (C, D), fingerprint () text.
    """
    catalogue = read_catalogue(out)
    content = {
        "track_id": np.array([track.track_id for track in catalogue.tracks(range(len(catalogue)))]),
        "embedding": catalogue.embedding,
        "condition": np.array(catalogue.condition_names),
        "mask": catalogue.model.masks,
        "fingerprint": np.array(catalogue.model.fingerprint),
    }
    with atomic_write(path, "wb") as file:
        np.savez(file, **content)
