"""Candidates of a large catalogue by FAISS, for any weights of the conditions (the only file that imports faiss).

The weights are known only at the search, and a track that is near by genre need not be near by mood. So the index neither sorts the
tracks into neighbourhoods nor keeps lists per condition: it keeps a short code of every track, in which any weights can be compared.
A product quantiser cuts the embedding into pairs of dimensions and rounds each to one of 16 points: 4 bits. A search stretches
query and points by sqrt(s), s = sum_c w_c m_c^2, which makes the weighted distance a plain one, and compares the query with all
codes, a sixteenth of the bytes of the embedding, in the registers of the processor (FAISS's "fast scan", after F. Andre, A.-M.
Kermarrec, N. Le Scouarnec, "Cache locality is not enough", VLDB 2015). The nearest by their codes are the candidates, which are then
compared by their embeddings.

Inverted files were tried beside it, of each condition's subspace and of the whole: docs/search.md.
"""

from pathlib import Path
from threading import Lock

import faiss
import numpy as np

from disentangled_ml.search.catalogue import CatalogueError, EmbeddedCatalogue
from disentangled_ml.search.weighted_distance import scales

# Per part: 16 points, which FAISS compares in registers.
BITS = 4
TRAINED_ON = 20_000  # tracks, drawn at random
LEAST_TRACKS = 16  # one per point
# Least number of tracks that are compared by their embeddings afterwards; for k results at least k / 10 times as many.
CANDIDATES = 1_000
ROWS_PER_BLOCK = 65_536


class ApproximateIndex:
    """Index that finds candidates by their codes, see ``similarity_search.Index``.

    Args:
        index: Of N tracks.
        masks: (C, D), of the conditions.
        n_candidates: At least; with N all are, and the search is exact.
    """

    def __init__(self, index: faiss.IndexPQFastScan, masks: np.ndarray, n_candidates: int = CANDIDATES):
        self.index, self.masks, self.n_candidates = index, masks, n_candidates
        quantizer = index.pq
        self.points = faiss.vector_to_array(quantizer.centroids).reshape(quantizer.M, quantizer.ksub, quantizer.dsub)
        # FAISS compares with one set of points at a time: those of one search.
        self.lock = Lock()

    def candidates(self, query: np.ndarray, weights: np.ndarray, allowed: np.ndarray | None, n: int) -> np.ndarray:
        """Return the rows of the allowed tracks that are probably the nearest, ascending: n and more, or all that are allowed.

        Where few are allowed more are asked for, until enough remain.

        Shape:
            query: (D,); weights: (C,); allowed: (N,) bool; returns: (R,) int64.
        """
        stretch = np.sqrt(scales(weights, self.masks)).astype(np.float32)
        wanted = max(self.n_candidates, n * CANDIDATES // 10)
        share = 1.0 if allowed is None else max(1, np.count_nonzero(allowed)) / self.index.ntotal
        asked = int(wanted / share)
        while asked < self.index.ntotal:
            rows = self.nearest_codes(query.astype(np.float32) * stretch, stretch, asked)
            rows = rows if allowed is None else rows[allowed[rows]]
            if len(rows) >= min(wanted, max(2 * n, wanted // 4)):
                return np.sort(rows)
            asked *= 4
        return np.arange(self.index.ntotal) if allowed is None else np.flatnonzero(allowed)

    def nearest_codes(self, query: np.ndarray, stretch: np.ndarray, n: int) -> np.ndarray:
        """Return the rows whose codes are nearest to a stretched query, with the points stretched as well."""
        parts, _, size = self.points.shape
        points = self.points * stretch.reshape(parts, 1, size)
        with self.lock:
            faiss.copy_array_to_vector(points.ravel(), self.index.pq.centroids)
            _, found = self.index.search(query[None], n)
        return found[0][found[0] >= 0]

    def as_bytes(self) -> bytes:
        with self.lock:
            faiss.copy_array_to_vector(self.points.ravel(), self.index.pq.centroids)
            return faiss.serialize_index(self.index).tobytes()


def build_index(embedding: np.ndarray, masks: np.ndarray, seed: int = 0) -> ApproximateIndex:
    """Build the index of a catalogue. Raises ValueError for fewer than ``LEAST_TRACKS`` tracks.

    Args:
        embedding: Of its tracks, (N, D) float32.
        masks: Of the conditions, (C, D).
        seed: Of the tracks that the points are chosen by.
    """
    n_tracks, size = embedding.shape
    if n_tracks < LEAST_TRACKS:
        raise ValueError(
            f"{n_tracks} tracks are too few for an index, which needs {LEAST_TRACKS}: use approximate=false"
        )
    parts = size // 2 if size % 2 == 0 else size
    index = faiss.IndexPQFastScan(size, parts, BITS)
    drawn = np.random.default_rng(seed).choice(n_tracks, min(TRAINED_ON, n_tracks), replace=False)
    index.train(np.ascontiguousarray(embedding[np.sort(drawn)]))
    for first in range(0, n_tracks, ROWS_PER_BLOCK):
        index.add(np.ascontiguousarray(embedding[first : first + ROWS_PER_BLOCK]))
    return ApproximateIndex(index, masks)


def read_index(path: Path, catalogue: EmbeddedCatalogue) -> ApproximateIndex:
    """Read the index of a catalogue. Raises CatalogueError if it is damaged, or of another catalogue."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).rpartition("Error: ")[2].splitlines()[0]
        raise CatalogueError(f"{path} is no index of FAISS ({reason}): embed the catalogue anew") from error
    if not isinstance(index, faiss.IndexPQFastScan) or (index.ntotal, index.d) != catalogue.embedding.shape:
        raise CatalogueError(f"{path} is the index of another catalogue: embed this one anew")
    return ApproximateIndex(index, catalogue.model.masks)
