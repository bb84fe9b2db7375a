"""Results of a search in the order of their matching stretches instead of their means (see matching.py)."""

import numpy as np
import torch
from torch import Tensor

from datamodules.audio.decoding import UnusableAudio
from datamodules.batches.cutting import cut_record
from datamodules.corpora.manifest import section_of
from disentangled_ml.evaluation.matching import MEAN, match_distances
from disentangled_ml.progress import show_progress
from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.similarity_search import Result
from disentangled_ml.search.weighted_distance import scales
from disentangled_ml.structures import TrackRecord


def rematch(
    embedder: Embedder, query: CatalogueTrack, found: list[Result], weights: np.ndarray, match: str
) -> list[Result]:
    """Return results, all with a recording, with the distances of their chunks from the query's, nearest first.

    The weights are (C,). Raises UnusableAudio, naming a recording that cannot be decoded.
    """
    scale = torch.from_numpy(scales(weights, embedder.model.masks)).sqrt().float()
    tracks = show_progress([query, *(result.track for result in found)], desc="match", unit="track")
    first, *others = (read_chunks(embedder, track) * scale for track in tracks)
    distances = match_distances([first] * len(others), others, match).tolist()
    matched = [result._replace(distance=distance) for result, distance in zip(found, distances, strict=True)]
    return sorted(matched, key=lambda result: result.distance)


def read_chunks(embedder: Embedder, track: CatalogueTrack) -> Tensor:
    """Embed the non-overlapping chunks of a track's recording: (n, D)."""
    # Catalogues of before sections were kept have them in the ids alone.
    section = section_of(track.track_id) if track.section is None else tuple(track.section)
    record = TrackRecord(track.track_id, track.path, None, "", {}, section)
    try:
        chunks = cut_record(record, embedder.model.audio, embedder.source, embedder.model.chunk_frames)
    except UnusableAudio as error:
        raise UnusableAudio(f"{track.path}: {error}; use match={MEAN}") from error
    return embedder.embed_chunks(chunks)
