"""Search an embedded catalogue: "like this track, as to genre 1.0, mood 0.5, tempo 0".

The distance is that of weighted_distance.py. Results come nearest first, of equally near ones the first row first.

The exact search takes the distances to all tracks from one product of a matrix and a vector in float32, which is fast but rounds;
every track that rounding could have kept out of the first k is then compared by the differences themselves, in float64. So
its result is that of a loop over all tracks. Of large catalogues an index gives the candidates instead (approximate.py); they are
compared in the same way.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from disentangled_ml.search.answering import answer
from disentangled_ml.search.catalogue import EMBEDDING, INDEX, CatalogueError, EmbeddedCatalogue, read_catalogue
from disentangled_ml.search.composition import centre, target_distances
from disentangled_ml.search.duplicates import duplicate_threshold
from disentangled_ml.search.filters import SearchFilters
from disentangled_ml.search.labels import LabelledTracks
from disentangled_ml.search.question import Question
from disentangled_ml.search.results import Answer, Result
from disentangled_ml.search.weighted_distance import check_masks, check_weights, scales

ROWS_PER_BLOCK = 16_384  # of a matrix product
# Only the allowed tracks are read where fewer than one in this many is allowed.
GATHERED = 8
FLOAT32_UNIT = 2.0**-24  # of rounding
METHODS = ("auto", "exact", "approximate")
# Number of tracks that are compared one by one in some 20 ms.
MOST_EXACT = 100_000


class Index(Protocol):
    """Index of a large catalogue, which finds candidates."""

    def candidates(self, query: np.ndarray, weights: np.ndarray, allowed: np.ndarray | None, n: int) -> np.ndarray:
        """Return the rows of at least n tracks that are probably the nearest, or of all allowed ones where they are fewer."""


class SimilaritySearch:
    """Search in a catalogue.

    Args:
        catalogue: To be searched.
        index: That gives the candidates of a large one; None: it has none, every search is exact.
    """

    def __init__(self, catalogue: EmbeddedCatalogue, index: Index | None = None):
        self.catalogue, self.index = catalogue, index

    def search(
        self,
        query: np.ndarray,
        weights: Mapping[str, float] | None = None,
        k: int = 10,
        filters: SearchFilters | None = None,
        method: str = "auto",
    ) -> list[Result]:
        """Find the nearest tracks, nearest first. Raises ValueError for any argument that is not legal.

        Args:
            query: Embedding (D,) of the query, by the model of the catalogue.
            weights: Per condition, see ``check_weights``.
            k: How many; fewer where fewer are allowed.
            filters: Which tracks are allowed.
            method: ``exact``; ``approximate``, by the index; or ``auto``: approximate where there is an index and more than
                ``MOST_EXACT`` tracks are allowed.
        """
        names, masks = self.catalogue.condition_names, self.catalogue.model.masks
        if type(k) is not int or k < 1:
            raise ValueError(f"k={k} is not legal: give a number from 1 on")
        targets = np.broadcast_to(self.checked(query), masks.shape)
        allowed = (filters or SearchFilters()).allowed(self.catalogue)
        weight = check_weights(weights, names)
        rows, squared = self.nearest(targets, weight, k, allowed, method)
        total = squared @ weight
        order = np.lexsort((rows, total))[:k]
        return self.results(rows[order], total[order], squared[order])

    def ask(self, question: Question) -> Answer:
        """Answer a question, see question.py. Raises ValueError for what is not legal."""
        return answer(self, question)

    def checked(self, embedding: np.ndarray) -> np.ndarray:
        """Return the embedding of a query. Raises ValueError if it is none."""
        embedding, size = np.asarray(embedding), self.catalogue.model.masks.shape[1]
        if embedding.shape != (size,) or not np.isfinite(embedding).all():
            raise ValueError(f"the query is no embedding: {size} finite numbers expected")
        return embedding

    def nearest(
        self,
        targets: np.ndarray,
        weights: np.ndarray,
        k: int,
        allowed: np.ndarray | None = None,
        method: str = "auto",
        farthest: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of at least k tracks, the k nearest among them, and their squared distance from the target of each condition.

        Raises ValueError for masks that tell nothing apart, or an illegal method.

        Args:
            targets: (C, D), see composition.py.
            weights: (C,).
            k: How many are wanted.
            allowed: Which may be found, (N,) bool; None: all.
            method: See ``search``.
            farthest: The farthest instead, always exactly.

        Returns:
            (R,) int64 ascending, R >= k where so many are allowed; (R, C) float64.
        """
        names, masks = self.catalogue.condition_names, self.catalogue.model.masks
        check_masks(weights, names, masks)
        point = centre(targets, weights, masks)
        if self.is_approximate(method, allowed) and not farthest:
            rows = self.index.candidates(point, weights, allowed, k)
        else:
            rows = self.exact_candidates(point, weights, allowed, k, farthest)
        return rows, target_distances(self.catalogue.embedding[rows], targets, masks)

    def results(self, rows: np.ndarray, total: np.ndarray, squared: np.ndarray) -> list[Result]:
        """Return the results of rows (R,), of their squared distances (R,) in all and (R, C) per condition."""
        names = self.catalogue.condition_names
        found = zip(
            rows.tolist(),
            self.catalogue.tracks(rows.tolist()),
            np.sqrt(total).tolist(),
            np.sqrt(squared).tolist(),
            strict=True,
        )
        return [
            Result(row, track, distance, dict(zip(names, per_condition, strict=True)))
            for row, track, distance, per_condition in found
        ]

    @cached_property
    def duplicate_threshold(self) -> float:
        """Distance below which two tracks are duplicates."""
        return duplicate_threshold(self.catalogue.embedding, self.catalogue.audio_fingerprint)

    @cached_property
    def labelled(self) -> LabelledTracks:
        """The tracks of each label, which are read once."""
        return LabelledTracks.read(self.catalogue)

    @cached_property
    def squared_lengths(self) -> np.ndarray:
        """Squared length of each track in each subspace, (N, C) float32. Raises CatalogueError if one is not finite."""
        embedding, squares = self.catalogue.embedding, self.catalogue.model.masks.astype(np.float32) ** 2
        blocks = range(0, len(embedding), ROWS_PER_BLOCK)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.concatenate([embedding[first : first + ROWS_PER_BLOCK] ** 2 @ squares.T for first in blocks])
        if not np.isfinite(lengths).all():
            path = self.catalogue.files / EMBEDDING
            raise CatalogueError(f"{path} holds numbers that are of no embedding: embed the catalogue anew")
        return lengths

    def exact_candidates(
        self, query: np.ndarray, weights: np.ndarray, allowed: np.ndarray | None, k: int, farthest: bool = False
    ) -> np.ndarray:
        """Return the rows of all tracks that may be among the k nearest, or farthest, whatever float32 rounds away.

        Shape:
            query: (D,); weights: (C,); allowed: (N,) bool; returns: (R,) int64, ascending; R >= k where so many are allowed.
        """
        embedding, scale = self.catalogue.embedding, scales(weights, self.catalogue.model.masks)
        used = np.flatnonzero(scale)
        # A condition's dimensions lie side by side, as a rule.
        part = slice(used[0], used[-1] + 1)
        rows = None if allowed is None else np.flatnonzero(allowed)
        few = rows is not None and len(rows) * GATHERED < len(embedding)
        squared = self.squared_lengths[rows if few else slice(None)] @ weights.astype(np.float32)
        product = (2 * scale * query)[part].astype(np.float32)
        for first in range(0, len(squared), ROWS_PER_BLOCK):
            block = slice(first, first + ROWS_PER_BLOCK)
            squared[block] -= embedding[rows[block] if few else block, part] @ product
        if rows is None or few:
            rows = np.arange(len(embedding)) if rows is None else rows
        else:
            squared = squared[rows]
        if len(rows) <= k:
            return rows
        if farthest:
            np.negative(squared, out=squared)
        return rows[squared <= np.partition(squared, k - 1)[k - 1] + rounding(scale, query)]

    def search_like(
        self,
        row: int,
        weights: Mapping[str, float] | None = None,
        k: int = 10,
        same_artist: bool = True,
        tempo: tuple[float, float] | None = None,
        method: str = "auto",
    ) -> list[Result]:
        """Find the tracks nearest to that of a row, without itself, and without those by its artist unless ``same_artist``."""
        artist = None if same_artist else self.catalogue.track(row).artist
        return self.search(self.catalogue.embedding[row], weights, k, SearchFilters(row, artist, tempo), method)

    def is_approximate(self, method: str, allowed: np.ndarray | None) -> bool:
        if method not in METHODS:
            raise ValueError(f"method={method} is unknown: choose one of {', '.join(METHODS)}")
        if method == "approximate" and self.index is None:
            raise ValueError(
                f"{self.catalogue.folder} has no index for method=approximate: embed it with approximate=true, or use exact"
            )
        n_allowed = len(self.catalogue) if allowed is None else np.count_nonzero(allowed)
        return method == "approximate" or (method == "auto" and self.index is not None and n_allowed > MOST_EXACT)


def open_search(folder: str | Path) -> SimilaritySearch:
    """Open a catalogue to be searched, with its index where it has one. Raises CatalogueError if there is none, or it is damaged."""
    catalogue = read_catalogue(folder)
    if not (catalogue.files / INDEX).is_file():
        return SimilaritySearch(catalogue)
    from disentangled_ml.search.approximate import read_index  # faiss, for those who need it

    return SimilaritySearch(catalogue, read_index(catalogue.files / INDEX, catalogue))


def rounding(scale: np.ndarray, query: np.ndarray) -> float:
    """Bound the rounding error of the squared distances of two tracks in float32, whose embeddings have length 1.

    Each of the sums over D dimensions is off by D units at most, of the sum of the sizes of what it adds up (N. Higham, "Accuracy and
    Stability of Numerical Algorithms", section 3.1): the length of a track, twice its product with the query; and there are two tracks.

    >>> rounding(np.ones(256), np.eye(256)[0]) < 1e-3
    True
    """
    length = max(1.0, float(np.linalg.norm(query)))
    return 8 * (len(scale) + 8) * FLOAT32_UNIT * float(scale.max()) * length
