"""Embed a catalogue batch by batch: a killed run keeps what it has finished, and another model's batches are refused.

A batch is some hundred rows of a manifest, or one tar of shards. It is embedded by itself and written as one file,
``DIR/pieces/NAME.npz``, with the fingerprint of the model and of what it was made of. When all batches are there a new state of the
catalogue is assembled from them (assembly.py). They stay: a manifest that has grown costs only its new rows, and recordings or
shards that have changed cost only their batches.

Which batches there are follows from the manifest or the shards alone, so that processes on several machines can embed a part each
(parts.py). None of them holds the rows of a manifest: it is read once to number them, and once for the rows of the part.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from datamodules.audio.fingerprint import SIZE, audio_fingerprint
from datamodules.batches.composer import StreamedTrack
from datamodules.batches.cutting import cut_group
from datamodules.batches.streams import Source
from datamodules.shards.estimates import estimated_of
from datamodules.shards.index import Shard, ShardIndex, ShardsError
from datamodules.shards.origin import Origin, results_of
from datamodules.shards.parts import UNDIVIDED, Part, describe_missing, note_division
from datamodules.shards.plan import CHANGED
from datamodules.shards.resumable import Batch, BatchStore, Rows, counted, usable, work_through
from datamodules.shards.tar import ShardSlice, read_samples, sample_context
from datamodules.shards.workers import Workers
from disentangled_ml.files import DAMAGED_NPZ, as_json, atomic_write
from disentangled_ml.progress import show_progress
from disentangled_ml.search.catalogue import (
    CatalogueError,
    CatalogueTrack,
    absolute_source,
)
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.recording import EmbeddedRecording, stacked
from disentangled_ml.structures import (
    DUPLICATE,
    UNKNOWN,
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
    """A finished batch: a row per track, what was rejected, and what its rows were made of.

    A batch of shards has an origin, None, for each damage alone: it is read again until that is mended.

    Shape:
        embedding: (n, D) float32; audio_fingerprint: (n, SIZE) int8.
    """

    embedding: np.ndarray
    audio_fingerprint: np.ndarray
    tracks: list[CatalogueTrack]
    rejected: list[Rejected]
    origins: list[Origin | None]


class EmbeddedStore(BatchStore):
    """The embedded batches of a catalogue, in its folder, which is of one model and of one manifest or folder of shards."""

    FOLDER, CLAIM = "pieces", "model.json"
    ERROR = CatalogueError
    UNCLAIMED = "embed the parts first; if they are embedded, delete {out}"
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
            text = np.frombuffer(as_json(notes).encode(), np.uint8)
            np.savez(file, embedding=finished.embedding, audio_fingerprint=finished.audio_fingerprint, notes=text)

    def read(self, batch: Batch) -> EmbeddedBatch | None:
        """Read a batch; None if it is missing or damaged, of other rows or another model, or of before there were fingerprints."""
        try:
            with np.load(self.path(batch), allow_pickle=False) as content:
                notes = json.loads(content["notes"].tobytes())
                embedding, fingerprint = content["embedding"], content["audio_fingerprint"]
            if (notes["model"], notes["digest"]) != (self.job["model"], batch.digest):
                return None
            tracks = [CatalogueTrack(**track) for track in notes["tracks"]]
            rejected = [Rejected(*line) for line in notes["rejected"]]
            origins = [origin and Origin(*origin) for origin in notes["origins"]]
        except (OSError, *DAMAGED_NPZ):
            return None
        is_whole = len(embedding) == len(tracks) and embedding.dtype == np.float32
        is_whole = is_whole and fingerprint.shape == (len(tracks), SIZE) and fingerprint.dtype == np.int8
        return EmbeddedBatch(embedding, fingerprint, tracks, rejected, origins) if is_whole else None


class RowPlan(NamedTuple):
    """Which rows of a manifest are embedded: how many, and the numbers of those whose track is in a row above."""

    n_rows: int
    repeated: frozenset[int]

    def batches(self, part: Part = UNDIVIDED) -> dict[int, Batch]:
        """Return the batches of a part by their number, without digests."""
        numbers = part.of(-(-self.n_rows // ROWS_PER_BATCH))
        return {n: Batch(f"rows-{n:06d}", min(ROWS_PER_BATCH, self.n_rows - n * ROWS_PER_BATCH)) for n in numbers}


def plan_rows(corpus: Corpus, split: str | None) -> RowPlan:
    """Number the rows of a corpus, holding 8 bytes of each."""
    codes = array("q")
    for row in rows_of(corpus, split):
        codes.append(UNKNOWN if isinstance(row, Rejected) else name_code(row.track_id))
    keys = np.asarray(codes)
    # Stable: the row that is read first comes first.
    order = np.argsort(keys, kind="stable")
    is_repeated = (keys[order[1:]] == keys[order[:-1]]) & (keys[order[1:]] != UNKNOWN)
    return RowPlan(len(keys), frozenset(order[1:][is_repeated].tolist()))


def rows_of(corpus: Corpus, split: str | None) -> Iterator[TrackRecord | Rejected]:
    return (row for row in corpus.rows() if isinstance(row, Rejected) or split is None or row.split == split)


def manifest_batches(
    corpus: Corpus, split: str | None, plan: RowPlan, part: Part = UNDIVIDED
) -> Iterator[tuple[Batch, list[TrackRecord | Rejected]]]:
    """Read the batches of a part in reading order; a repeated track is rejected.

    Raises:
        CatalogueError: if the corpus has other rows than when it was planned.
    """
    rows, n_read = rows_of(corpus, split), 0
    for number, batch in plan.batches(part).items():
        first = number * ROWS_PER_BATCH
        own = list(islice(rows, first - n_read, first - n_read + batch.size))
        n_read = first + batch.size
        if len(own) < batch.size:
            raise CatalogueError(CHANGED)
        own = [prepared_row(row, place in plan.repeated) for place, row in enumerate(own, first)]
        digest = hashlib.sha256(repr([row_content(row) for row in own]).encode()).hexdigest()
        yield batch._replace(digest=digest), own
    if n_read + sum(1 for _ in rows) != plan.n_rows:
        raise CatalogueError(CHANGED)


def prepared_row(row: TrackRecord | Rejected, is_repeated: bool) -> TrackRecord | Rejected:
    """Return a row with the path of its recording wherever the command is run; rejected if its track is in a row above."""
    if isinstance(row, Rejected):
        return row
    path = str(Path(row.path).absolute())
    return Rejected(row.track_id, path, DUPLICATE) if is_repeated else row._replace(path=path)


def row_content(row: TrackRecord | Rejected) -> tuple:
    """Return what a batch depends on of a row; of one without metadata it is as before there were any."""
    return tuple(row) if isinstance(row, Rejected) or row.metadata is not None else tuple(row[:-1])


def embed_manifest(
    embedder: Embedder, corpus: Corpus, store: EmbeddedStore, split: str | None, workers: int, part: Part = UNDIVIDED
) -> list[Batch]:
    """Embed the recordings of a part of a manifest; return its batches in order, all of them finished."""
    model, plan = embedder.model, plan_rows(corpus, split)
    note_division(store.folder, part)
    work = partial(cut_group, audio=model.audio, source=embedder.source, frames=model.chunk_frames)
    total = sum(batch.size for batch in plan.batches(part).values())
    batches: list[Batch] = []

    def noted() -> Iterator[tuple[Batch, Rows]]:
        for batch, rows in manifest_batches(corpus, split, plan, part):
            batches.append(batch)
            yield batch, rows

    with Workers(workers, work) as pool, show_progress(total=total, unit="track", desc="embed") as progress:
        for batch, rows, outcomes in work_through(noted(), store, pool, progress):
            origins: list[Origin | None] = []
            embedded = embed_batch(embedder, map(with_record, rows, results_of(outcomes, origins)))
            store.save(batch, embedded._replace(origins=origins))
    return batches


def merge_manifest(corpus: Corpus, store: EmbeddedStore, split: str | None) -> list[Batch]:
    """Return the batches of all parts of a manifest in order.

    Raises:
        CatalogueError: naming those that are not there, or not as the rows and recordings are now, and the parts that make them.
    """
    batches, missing = [], []
    for number, (batch, rows) in enumerate(manifest_batches(corpus, split, plan_rows(corpus, split))):
        batches.append(batch)
        # What fails each time, as a recording that crashes its decoder, must not keep the parts from being merged.
        if not store.is_kept(batch, rows, retry=False):
            missing.append(number)
    check_all_there(store, batches, missing)
    return batches


def check_all_there(store: EmbeddedStore, batches: Sequence[Batch], missing: Sequence[int]) -> None:
    if missing:
        names, parts = describe_missing(store.folder, [batch.name for batch in batches], missing)
        raise CatalogueError(
            f"{store.out} lacks {len(missing)} of {len(batches)} batches ({names}): run embed with part={parts} first, "
            f"then merge=true again"
        )


def with_record(row: TrackRecord | Rejected, result: np.ndarray | Rejected) -> Chunks | Rejected:
    """Join the chunks of a recording with what is known about it."""
    if isinstance(result, Rejected):
        return result
    return CatalogueTrack(row.track_id, row.artist, row.path, dict(row.labels), row.section, row.metadata), result


def shard_batches(index: ShardIndex, splits: Sequence[str]) -> list[tuple[Batch, Shard]]:
    """Return the batches of splits of shards in order, a tar each."""
    shards = [shard for split in splits for shard in index.splits[split]]
    # An old index has no digests of its shards.
    digests = [shard.digest or f"{index.fingerprint()} {shard.file}" for shard in shards]
    if thresholds := index.thresholds():
        # What labels the tracks get depends on them too.
        digests = [f"{digest} {stable_hash(as_json(thresholds)):x}" for digest in digests]
    batches = [
        Batch(Path(shard.file).stem, shard.samples, digest) for shard, digest in zip(shards, digests, strict=True)
    ]
    return list(zip(batches, shards, strict=True))


def embed_shards(
    embedder: Embedder, index: ShardIndex, store: EmbeddedStore, splits: Sequence[str], part: Part = UNDIVIDED
) -> list[Batch]:
    """Embed a part of splits of shards; return its batches in order, all finished.

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
    note_division(store.folder, part)
    pairs = shard_batches(index, splits)
    own, made = [pairs[number] for number in part.of(len(pairs))], []
    with show_progress(total=sum(batch.size for batch, _ in own), unit="track", desc="embed") as progress:
        for batch, shard in own:
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
    return [batch for batch, _ in own]


def merge_shards(index: ShardIndex, store: EmbeddedStore, splits: Sequence[str]) -> list[Batch]:
    """Return the batches of all parts of splits of shards in order.

    Raises:
        CatalogueError: naming those that are not there, or not of the shards as they are now, and the parts that make them.
    """
    batches = [batch for batch, _ in shard_batches(index, splits)]
    check_all_there(store, batches, [number for number, batch in enumerate(batches) if store.read(batch) is None])
    return batches


def read_shard(source: Source, shard: Shard) -> Iterator[Chunks | Rejected]:
    """Read the tracks of a shard with their chunks; what is damaged is rejected."""
    damaged: list[Rejected] = []
    root, names, thresholds = source.index.root, source.index.estimated(), source.index.thresholds()

    def reject(error: ShardsError, lost: int) -> None:
        damaged.append(Rejected("", str(root), f"{lost} tracks are lost: {error}"))

    for sample in read_samples(root, [ShardSlice(shard, 0, shard.samples)], source.members, reject):
        try:
            with sample_context(sample):
                info, track = source.decode(sample)
        except ShardsError as error:
            reject(error, 1)
            continue
        estimated = estimated_of(info, names, thresholds) if names else None
        yield cut_track(info, track, source.chunk_frames, estimated)
    yield from damaged


def cut_track(info: TrackInfo, track: StreamedTrack, frames: int, estimated: list[str] | None) -> Chunks | Rejected:
    """Cut a track of shards, some of whose labels are estimated, into its non-overlapping chunks."""
    grid = chunk_grid(info.frames, frames)
    if not grid:
        return Rejected(info.track_id, "", f"shorter than a chunk: {info.frames} frames, {frames} needed")
    chunks = np.stack([track.read_chunk(start) for start in grid])
    return CatalogueTrack(info.track_id, info.artist, None, info.labels, estimated=estimated), chunks


def embed_batch(embedder: Embedder, tracks: Iterable[Chunks | Rejected]) -> EmbeddedBatch:
    rejected: list[Rejected] = []
    found: list[CatalogueTrack] = []
    rows: list[EmbeddedRecording] = []
    audio = embedder.model.audio
    known = (((track, audio_fingerprint(chunks, audio)), chunks) for track, chunks in usable(tracks, rejected))
    for (track, fingerprint), row in embedder.embed_tracks(known):
        if np.isfinite(row).all():
            found.append(track)
            rows.append(EmbeddedRecording(row, fingerprint))
        else:
            rejected.append(Rejected(track.track_id, track.path or "", "its embedding is not finite"))
    return EmbeddedBatch(*stacked(rows, embedder.model.masks.shape[1]), found, rejected, [])
