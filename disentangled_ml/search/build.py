"""Make an embedded catalogue, piece by piece: what a killed run has finished is kept, and another model's pieces are refused.

A piece is some hundred rows of a manifest, or one tar of shards. It is embedded by itself and written whole as one file,
``DIR/pieces/NAME.npz``, with the fingerprint of the model and of what it was made of. So a run that was killed loses the piece it was
at, and one that goes on makes the same arrays as one that was never interrupted. When all pieces are there the catalogue is put
together from them. The pieces stay: a manifest that has grown costs only its new rows.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from datamodules.audio.decoding import MISSING_FILE
from datamodules.batches.composer import StreamedTrack
from datamodules.batches.recordings import cut_recordings
from datamodules.batches.streams import Source
from datamodules.shards.index import Shard, ShardIndex, ShardsError
from datamodules.shards.tar import MEMBERS, ShardSlice, read_samples, sample_context
from datamodules.shards.workers import Workers
from disentangled_ml.files import as_json, atomic_write, read_object, remove_unfinished, write_json
from disentangled_ml.progress import Progress, progress
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

PIECES, CLAIM = "pieces", "model.json"
ROWS_PER_PIECE = 256  # of a manifest: some minutes of decoding
ROWS_PER_GROUP = 4  # recordings that a process is given at a time
logger = logging.getLogger("embed")
Chunks = tuple[CatalogueTrack, np.ndarray]


class Piece(NamedTuple):
    """Name a piece, and what it is made of.

    Attributes:
        name: Of its file.
        digest: Of the rows or the shard; another one makes it another piece.
        size: Number of tracks, rejected ones included.
    """

    name: str
    digest: str
    size: int


class Made(NamedTuple):
    """Hold a piece that is made.

    Shape:
        embedding: (n, D) float32, a row per track.
    """

    embedding: np.ndarray
    tracks: list[CatalogueTrack]
    rejected: list[Rejected]


class PieceStore:
    """Keep the pieces of a catalogue in its folder.

    Args:
        folder: Of the catalogue.
        model: Fingerprint of the model.

    Raises:
        CatalogueError: if the folder holds another model's pieces, or cannot be made.
    """

    def __init__(self, folder: Path, model: str):
        self.folder, self.model = folder / PIECES, model
        claim = self.folder / CLAIM
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CatalogueError(
                f"out={folder} cannot be made ({error.strerror}): give a folder that can be written to"
            ) from error
        found = read_object(claim).get("model")
        if found is None:
            write_json(claim, {"model": model})
        elif found != model:
            raise CatalogueError(
                f"{folder} holds embeddings of another checkpoint (sha256 {str(found)[:12]}..., not {model[:12]}...): give "
                "another out=DIR, or delete that folder"
            )

    def path(self, piece: Piece) -> Path:
        """Say where a piece lies."""
        return self.folder / f"{piece.name}.npz"

    def write(self, piece: Piece, made: Made) -> None:
        """Write a piece, whole or not at all."""
        notes = {
            "model": self.model,
            "digest": piece.digest,
            "tracks": [track._asdict() for track in made.tracks],
            "rejected": made.rejected,
        }
        with atomic_write(self.path(piece), "wb") as file:
            np.savez(file, embedding=made.embedding, notes=np.frombuffer(as_json(notes).encode(), np.uint8))

    def read(self, piece: Piece) -> Made | None:
        """Read a piece; None if it is not there whole, or of other rows or another model."""
        try:
            with np.load(self.path(piece), allow_pickle=False) as content:
                embedding, notes = content["embedding"], json.loads(content["notes"].tobytes())
            if (notes["model"], notes["digest"]) != (self.model, piece.digest):
                return None
            tracks = [CatalogueTrack(**track) for track in notes["tracks"]]
            made = Made(embedding, tracks, [Rejected(*line) for line in notes["rejected"]])
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, BadZipFile):
            return None
        return made if len(embedding) == len(tracks) and embedding.dtype == np.float32 else None

    def must_read(self, piece: Piece) -> Made:
        """Read a piece that was made.

        Raises:
            CatalogueError: if it is gone or damaged since.
        """
        made = self.read(piece)
        if made is None:
            raise CatalogueError(f"{self.path(piece)} is gone or damaged: repeat the command, which makes it anew")
        return made

    def is_made(self, piece: Piece) -> bool:
        """Tell whether a piece is there whole, and nothing that was missing or damaged may be there now."""
        made = self.read(piece)
        return made is not None and not any(may_be_mended(rejected) for rejected in made.rejected)


def may_be_mended(rejected: Rejected) -> bool:
    """Tell whether it is worth another try: a recording that was missing and is there now, or a damaged shard."""
    return not rejected.track_id or (rejected.reason == MISSING_FILE and Path(rejected.path).is_file())


def manifest_pieces(catalogue: Corpus, split: str | None) -> Iterator[tuple[Piece, list[TrackRecord | Rejected]]]:
    """Divide the rows of a catalogue into pieces, in reading order; a repeated track is rejected."""
    seen: set[int] = set()

    def rows() -> Iterator[TrackRecord | Rejected]:
        for row in catalogue.rows():
            if isinstance(row, Rejected):
                yield row
            elif split is None or row.split == split:
                key = name_code(row.track_id)
                row = row._replace(path=str(Path(row.path).absolute()))  # wherever the command is run
                yield Rejected(row.track_id, row.path, DUPLICATE) if key in seen else row
                seen.add(key)

    remaining, number = rows(), 0
    while part := list(islice(remaining, ROWS_PER_PIECE)):
        digest = hashlib.sha256(repr([tuple(row) for row in part]).encode()).hexdigest()
        yield Piece(f"rows-{number:06d}", digest, len(part)), part
        number += 1


def embed_manifest(
    embedder: Embedder, catalogue: Corpus, store: PieceStore, split: str | None, workers: int
) -> list[Piece]:
    """Embed the recordings of a manifest; give its pieces in order, all of them made."""
    pieces, begun, notes = [], deque(), embedder.model
    total = sum(piece.size for piece, _ in manifest_pieces(catalogue, split))
    work = partial(cut_recordings, audio=notes.audio, source=embedder.source, frames=notes.chunk_frames)
    pool = Workers(workers, work)
    with progress(total=total, unit="track", desc="embed") as counter:

        def groups() -> Iterator[list[TrackRecord | Rejected]]:
            for piece, rows in manifest_pieces(catalogue, split):
                pieces.append(piece)
                if store.is_made(piece):
                    counter.update(piece.size)
                else:
                    begun.append((piece, rows))
                    yield from (rows[first : first + ROWS_PER_GROUP] for first in range(0, len(rows), ROWS_PER_GROUP))

        try:
            results = pool.map(groups())
            for first in results:  # of a piece, the results of whose rows follow each other
                piece, rows = begun.popleft()
                cut = zip(rows, chain([first], islice(results, piece.size - 1)), strict=True)
                tracks = (with_record(row, result) for row, result in cut)
                store.write(piece, embed_piece(embedder, counted(tracks, counter)))
        finally:
            pool.stop()
    return pieces


def with_record(row: TrackRecord | Rejected, result: np.ndarray | Rejected) -> Chunks | Rejected:
    """Join the chunks of a recording with what is known about it."""
    if isinstance(result, Rejected):
        return result
    return CatalogueTrack(row.track_id, row.artist, row.path, dict(row.labels)), result


def embed_shards(embedder: Embedder, index: ShardIndex, store: PieceStore, splits: Sequence[str]) -> list[Piece]:
    """Embed the tracks of some splits of shards; give the pieces in order, all of them made.

    Raises:
        CatalogueError: if the shards do not fit the network.
    """
    if index.audio != embedder.model.audio:
        raise CatalogueError(
            f"{index.root} was prepared with {index.audio}, the checkpoint with {embedder.model.audio}"
        )
    if embedder.source == "waveform" and not index.has_waveform:
        raise CatalogueError(
            f"{index.root} holds no waveforms, which this checkpoint needs: prepare with store_waveform=true, or give manifest=CSV"
        )
    source = Source(index, [], embedder.source, embedder.model.chunk_frames)
    shards = [shard for split in splits for shard in index.splits[split]]
    pieces = [Piece(Path(shard.file).stem, f"{index.fingerprint()} {shard.file}", shard.samples) for shard in shards]
    with progress(total=sum(piece.size for piece in pieces), unit="track", desc="embed") as counter:
        for piece, shard in zip(pieces, shards, strict=True):
            if store.is_made(piece):
                counter.update(piece.size)
            else:
                store.write(piece, embed_piece(embedder, counted(read_shard(source, shard), counter)))
    return pieces


def read_shard(source: Source, shard: Shard) -> Iterator[Chunks | Rejected]:
    """Read the tracks of a shard with their chunks; what is damaged is rejected."""
    damaged: list[Rejected] = []
    root = source.index.root

    def reject(error: ShardsError, lost: int) -> None:
        damaged.append(Rejected("", str(root), f"{lost} tracks are lost: {error}"))

    members = ("json", MEMBERS[source.audio])
    for sample in read_samples(root, [ShardSlice(shard, 0, shard.samples)], members, reject):
        try:
            with sample_context(root, sample):
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


def embed_piece(embedder: Embedder, tracks: Iterable[Chunks | Rejected]) -> Made:
    """Embed the tracks of a piece."""
    rejected: list[Rejected] = []

    def usable() -> Iterator[Chunks]:
        for track in tracks:
            if isinstance(track, Rejected):
                rejected.append(track)
            else:
                yield track

    found: list[CatalogueTrack] = []
    rows: list[np.ndarray] = []
    for track, row in embedder.embed_tracks(usable()):
        if np.isfinite(row).all():
            found.append(track)
            rows.append(row)
        else:
            rejected.append(Rejected(track.track_id, track.path or "", "its embedding is not finite"))
    embedding = np.stack(rows) if rows else np.empty((0, embedder.model.masks.shape[1]), np.float32)
    return Made(embedding, found, rejected)


def counted(tracks: Iterable[Chunks | Rejected], counter: Progress) -> Iterator[Chunks | Rejected]:
    """Show the tracks as they come."""
    for track in tracks:
        counter.update()
        yield track


def put_together(folder: Path, embedder: Embedder, store: PieceStore, pieces: Sequence[Piece]) -> int:
    """Write the catalogue of pieces that are made, and what was rejected; give the number of its tracks.

    Its header goes first and ``write_header`` gives it back last: a folder with a header is whole.

    Raises:
        CatalogueError: if no track is usable.
    """
    counts = []
    with atomic_write(folder / "rejected.csv") as file:
        rejected = csv.writer(file)
        rejected.writerow(Rejected._fields)
        for piece in pieces:
            made = store.must_read(piece)
            counts.append(len(made.tracks))
            rejected.writerows(made.rejected)
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
        for piece in progress(pieces, unit="piece", desc="put together"):
            made = store.must_read(piece)
            arrays.write(made.embedding.astype("<f4").tobytes())
            for track in made.tracks:
                columns[row] = column_values(track, lines.tell())
                lines.write(as_json(track._asdict()).encode() + b"\n")
                row += 1
        np.save(file, columns, allow_pickle=False)
    return shape[0]


def write_index(folder: Path, masks: np.ndarray) -> None:
    """Build and write the index of the catalogue that was put together.

    Raises:
        ValueError: if it has too few tracks for one.
    """
    from disentangled_ml.search.approximate import build_index  # faiss, where it is needed

    index = build_index(np.load(folder / EMBEDDING, mmap_mode="r", allow_pickle=False), masks)
    with atomic_write(folder / INDEX, "wb") as file:
        file.write(index.as_bytes())


def write_header(folder: Path, embedder: Embedder, n_tracks: int) -> None:
    """Write what makes the folder a catalogue, and remove what killed processes have left."""
    write_json(
        folder / HEADER,
        {"format_version": FORMAT_VERSION, "tracks": n_tracks, **describe_model(embedder.model)},
        indent=None,
    )
    for part in (folder, folder / PIECES):
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
