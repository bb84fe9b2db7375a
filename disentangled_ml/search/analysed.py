"""A catalogue of analysed recordings, for a folder of music that changes: what is new is analysed and embedded, nothing else.

Recordings are known by their content (``datamodules/batches/analysis.py``), and so are their embeddings, which lie in
``embeddings.npz`` beside the catalogue: ``digest`` (N,), ``embedding`` (N, D) float32, ``audio_fingerprint`` (N, SIZE) int8, and
``fingerprint``, that of the model. The catalogue itself is written anew each time, as ``assembly.py`` does; that takes seconds for
10,000 tracks.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.audio.fingerprint import SIZE
from datamodules.audio.tempo import grouped
from datamodules.batches.analysis import Analysis, AnalysisStore, features_of, keep_analyses
from datamodules.corpora.cells import tag_key
from datamodules.corpora.records import collect
from datamodules.shards.estimates import labelled, threshold
from datamodules.shards.origin import is_unexpected
from datamodules.shards.resumable import Batch
from datamodules.shards.workers import Workers
from disentangled_ml.files import DAMAGED_NPZ, atomic_write
from disentangled_ml.progress import show_progress
from disentangled_ml.search.build import EmbeddedBatch
from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.recording import EmbeddedRecording, stacked
from disentangled_ml.structures import TEMPO, Corpus, Rejected, TrackInfo, TrackRecord

EMBEDDINGS = "embeddings.npz"
ROWS_PER_BATCH = 4_096
MOST_FITTED = 2_000  # recordings over whose windows the tags are standardised
# A condition of which fewer of the tracks have labels gets estimated ones too.
LABELLED_ENOUGH = 0.5
SAVE_SECONDS = 60.0  # between two writes of the embeddings while they are made
# What a recording is rejected for whose analysis cannot be read, which is removed, or whose embedding cannot be used
DAMAGED, NOT_FINITE = "its analysis is gone or damaged: repeat the command", "its embedding is not finite"


class AnalysedTrack(NamedTuple):
    """A track of a manifest, and the digest of its recording, whose analysis is kept."""

    record: TrackRecord
    digest: str


def analyse_rows(
    corpus: Corpus, digests: Mapping[str, str], store: AnalysisStore, workers: int
) -> tuple[list[AnalysedTrack], list[Rejected]]:
    """Analyse the recordings of a manifest that are not known yet; return the usable tracks in order, and the others.

    Args:
        corpus: The manifest's rows.
        digests: Of the recordings, by their tracks, as far as they are known.
        store: Of the analyses.
        workers: Number of processes.

    Raises: OSError: if analyses cannot be kept: it would be useless to go on.
    """
    store.remove_unfinished()
    records, rejected = collect(corpus)
    found = {record.track_id: digests.get(record.track_id, "") for record in records}
    missing = [record for record in records if not (found[record.track_id] and store.has(found[record.track_id]))]
    if missing:
        with (
            Workers(min(workers, len(missing)), partial(keep_analyses, store=store)) as pool,
            show_progress(total=len(missing), unit="track", desc="analyse") as progress,
        ):
            for record, digest in zip(missing, pool.map(grouped(missing)), strict=True):
                if isinstance(digest, Rejected) and is_unexpected(digest):
                    store.check_room()
                found[record.track_id] = digest
                progress.update()
    tracks = []
    for record in records:
        digest = found[record.track_id]
        if isinstance(digest, Rejected):
            rejected.append(digest)
        else:
            tracks.append(AnalysedTrack(record, digest))
    return tracks, rejected


def usable_digests(tracks: Sequence[AnalysedTrack], store: AnalysisStore) -> list[str]:
    """Return the digests of the recordings that can be used, each once, sorted."""
    digests = sorted({track.digest for track in tracks})
    return [digest for digest in digests if isinstance(store.read(digest, chunks=False), Analysis)]


def read_windows(tracks: Sequence[AnalysedTrack], store: AnalysisStore) -> Iterator[Tensor]:
    """Yield the features (n, F), float32, of some thousand usable recordings at most, spread evenly over the tracks."""
    digests = usable_digests(tracks, store)
    for digest in digests[:: -(-len(digests) // MOST_FITTED) or 1]:
        analysis = store.read(digest)
        if isinstance(analysis, Analysis):
            yield torch.from_numpy(features_of(analysis.chunks, store.settings.source))


def embed_contents(
    embedder: Embedder, tracks: Sequence[AnalysedTrack], store: AnalysisStore, folder: Path
) -> dict[str, EmbeddedRecording]:
    """Return the embedding and fingerprint of each recording by its digest; those that are not kept in the folder are made.

    A recording that cannot be used has none.
    """
    known = read_embeddings(folder / EMBEDDINGS, embedder.model.fingerprint)
    digests = dict.fromkeys(track.digest for track in tracks)
    unknown = [digest for digest in digests if digest not in known]
    missing = [digest for digest in unknown if isinstance(store.read(digest, chunks=False), Analysis)]
    if missing:
        with show_progress(total=len(missing), unit="track", desc="embed") as progress:

            def chunks() -> Iterator[tuple[tuple[str, np.ndarray], np.ndarray]]:
                for digest in missing:
                    progress.update()
                    analysis = store.read(digest)
                    if isinstance(analysis, Analysis):
                        yield (digest, analysis.audio_fingerprint), analysis.chunks

            saved = time.monotonic()
            for (digest, fingerprint), row in embedder.embed_tracks(chunks()):
                known[digest] = EmbeddedRecording(row, fingerprint)
                if time.monotonic() - saved >= SAVE_SECONDS:
                    write_embeddings(folder / EMBEDDINGS, embedder.model.fingerprint, known)
                    saved = time.monotonic()
        write_embeddings(folder / EMBEDDINGS, embedder.model.fingerprint, known)
    return {digest: known[digest] for digest in digests if digest in known}


def read_embeddings(path: Path, fingerprint: str) -> dict[str, EmbeddedRecording]:
    """Read the embeddings that are kept of a model; none where they are another's, missing, damaged, or with other fingerprints."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if str(content["fingerprint"]) != fingerprint:
                return {}
            embedding, fingerprints = content["embedding"], content["audio_fingerprint"]
            if embedding.dtype != np.float32 or fingerprints.dtype != np.int8 or fingerprints.shape[1:] != (SIZE,):
                return {}
            rows = map(EmbeddedRecording, embedding, fingerprints)
            return dict(zip(content["digest"].tolist(), rows, strict=True))
    except (OSError, *DAMAGED_NPZ):
        return {}


def write_embeddings(path: Path, fingerprint: str, recordings: Mapping[str, EmbeddedRecording]) -> None:
    embedding, fingerprints = stacked([*recordings.values()], 0)
    content = {
        "digest": np.array([*recordings]),
        "embedding": embedding,
        "audio_fingerprint": fingerprints,
        "fingerprint": np.array(fingerprint),
    }
    with atomic_write(path, "wb") as file:
        np.savez(file, **content)


class AnalysedCatalogue:
    """The batches of a catalogue of analysed tracks, for ``assembly.assemble``.

    Args:
        source: The manifest.
        tracks: Usable or not, with what is known about them, in order.
        embedded: Recordings by their digests.
        store: Of the analyses.
        rejected: Rows that were rejected before.
        tag_share: Of the tracks that have an estimated tag, each.
    """

    def __init__(
        self,
        source: str,
        tracks: Sequence[AnalysedTrack],
        embedded: Mapping[str, EmbeddedRecording],
        store: AnalysisStore,
        rejected: Sequence[Rejected],
        tag_share: float,
    ):
        self.job = {"source": source}
        notes = {digest: store.read(digest, chunks=False) for digest in {track.digest for track in tracks}}
        self.rejected, usable = [*rejected], []
        for track in tracks:
            reason = reason_against(notes[track.digest], embedded.get(track.digest))
            if reason is None:
                usable.append(track)
            else:
                if reason == DAMAGED:
                    store.remove(track.digest)
                self.rejected.append(Rejected(track.record.track_id, track.record.path, reason))
        self.warnings = sum(len(notes[track.digest].warnings) for track in usable)
        described = describe_tracks(
            [track.record for track in usable], [notes[track.digest] for track in usable], tag_share
        )
        self.tracks, self.estimated = described
        self.embedded = [embedded[track.digest] for track in usable]

    def batches(self) -> list[Batch]:
        sizes = [
            len(self.tracks[first : first + ROWS_PER_BATCH]) for first in range(0, len(self.tracks), ROWS_PER_BATCH)
        ]
        return [Batch(str(number), size) for number, size in enumerate(sizes or [0])]

    def read_finished(self, batch: Batch) -> EmbeddedBatch:
        """Return some of the tracks; what was rejected comes with the first of them."""
        first = int(batch.name) * ROWS_PER_BATCH
        part = slice(first, first + batch.size)
        rejected = self.rejected if first == 0 else []
        return EmbeddedBatch(*stacked(self.embedded[part], 0), self.tracks[part], rejected, [])


def reason_against(notes: Analysis | str | None, embedded: EmbeddedRecording | None) -> str | None:
    """Return why a recording is not in the catalogue; None if it is."""
    if isinstance(notes, str):
        return notes
    if notes is None or embedded is None:
        return DAMAGED
    return None if np.isfinite(embedded.embedding).all() else NOT_FINITE


def describe_tracks(
    records: Sequence[TrackRecord], notes: Sequence[Analysis], tag_share: float
) -> tuple[list[CatalogueTrack], dict[str, int]]:
    """Return what a catalogue tells of tracks, and of how many of them the labels of each condition are estimated.

    A tempo that is not given is the estimated one. Tags are estimated where fewer than half of the tracks have given ones, as
    ``prepare tags=musicnn`` does.
    """
    given = {name: sum(name in record.labels for record in records) for name in notes[0].tags} if notes else {}
    names = [name for name, count in given.items() if count < LABELLED_ENOUGH * len(records)]
    spellings = {name: given_spellings(record.labels.get(name, ()) for record in records) for name in names}
    estimates = [respelled(analysis.tags, spellings) for analysis in notes]
    bounds = tag_thresholds(estimates, names, tag_share)
    estimated: dict[str, int] = defaultdict(int)
    tracks = []
    for record, analysis, probabilities in zip(records, notes, estimates, strict=True):
        labels: dict[str, Any] = dict(record.labels)
        if TEMPO not in labels and analysis.tempo is not None:
            labels[TEMPO] = analysis.tempo.bpm
        info = TrackInfo(record.track_id, record.artist, 0, labels, estimates=probabilities)
        labels = labelled(info, bounds).labels
        found = [name for name in labels if name not in record.labels]
        for name in found:
            estimated[name] += 1
        metadata = {**(record.metadata or {}), "duration": f"{analysis.seconds:.1f}"}
        path = str(Path(record.path).absolute())
        tracks.append(CatalogueTrack(record.track_id, record.artist, path, labels, record.section, metadata, found))
    return (tracks if estimated else [track._replace(estimated=None) for track in tracks]), dict(estimated)


def given_spellings(tags: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return how the tags that are given are written, by what all spellings have in common.

    >>> given_spellings([["Rock", "Hip Hop"], ["Rock"]])
    {'rock': 'Rock', 'hip hop': 'Hip Hop'}
    """
    return {tag_key(tag): tag for own in tags for tag in own}


def respelled(
    estimates: Mapping[str, Mapping[str, float]], spellings: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, float]]:
    """Return the probabilities of tags with the tags written as given ones are, so that they are the same tags.

    >>> respelled({"genre": {"Hip-Hop": 0.1, "rock": 0.2, "folk": 0.3}}, {"genre": {"hip hop": "hip hop", "rock": "Rock"}})
    {'genre': {'hip hop': 0.1, 'Rock': 0.2, 'folk': 0.3}}
    """
    return {
        name: {spellings.get(name, {}).get(tag_key(tag), tag): share for tag, share in tags.items()}
        for name, tags in estimates.items()
    }


def tag_thresholds(
    tags: Sequence[Mapping[str, Mapping[str, float]]], names: Sequence[str], share: float
) -> dict[str, dict[str, float]]:
    """Return from which probability on a track has a tag, so that each tag of some conditions is had by a share of the tracks.

    >>> tag_thresholds([{"mood": {"sad": 0.1}}, {"mood": {"sad": 0.3}}], ["mood"], 0.5)
    {'mood': {'sad': 0.3}}
    """
    found = {name: sorted({tag for each in tags for tag in each.get(name, ())}) for name in names}
    return {
        name: {tag: threshold([each[name][tag] for each in tags], share) for tag in vocabulary}
        for name, vocabulary in found.items()
    }
