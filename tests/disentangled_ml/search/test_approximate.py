"""Approximate search: with all candidates it is the exact one; filters; damaged and foreign indexes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from disentangled_ml.search import approximate
from disentangled_ml.search.approximate import build_index, read_index
from disentangled_ml.search.catalogue import INDEX, CatalogueError
from disentangled_ml.search.question import Question
from disentangled_ml.search.similarity_search import SimilaritySearch, open_search
from tests.disentangled_ml.catalogues import SUBSPACE_DIM, disjoint_masks, track_of, unit_rows, write_catalogue

N = 3000
WEIGHTS = {
    "one": {"genre": 1.0},
    "two": {"genre": 1.0, "mood": 0.5},
    "all": None,
    "nearly one": {"tempo": 1.0, "genre": 0.001},
}


def clustered(n: int, seed: int = 0) -> np.ndarray:
    """Draw embeddings around a few centres per condition."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.standard_normal((6, SUBSPACE_DIM))[rng.integers(6, size=n)] + 0.2 * rng.standard_normal((n, SUBSPACE_DIM))
        for _ in range(3)
    ]
    rows = np.concatenate(parts, axis=1)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return write_catalogue(tmp_path_factory.mktemp("catalogue") / "index", clustered(N))


@pytest.fixture(scope="module")
def index(catalogue):
    return build_index(catalogue.embedding, catalogue.model.masks)


def rows_of(results) -> list[int]:
    return [result.row for result in results]


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize(
    "filters", [{}, {"same_artist": False}, {"tempo": (70.0, 90.0)}], ids=["none", "artist", "tempo"]
)
def test_with_all_candidates_it_is_exact(catalogue, monkeypatch, index, weights, filters):
    monkeypatch.setattr(index, "n_candidates", N)
    search = SimilaritySearch(catalogue, index)
    for row in (0, 1, 1234, N - 1):
        exact = search.search_like(row, weights, k=20, method="exact", **filters)
        assert search.search_like(row, weights, k=20, method="approximate", **filters) == exact


def test_a_composed_query_has_candidates_of_its_own(catalogue, index):
    search, found = SimilaritySearch(catalogue, index), []
    for row in range(0, 400, 40):
        asked = {"seeds": [f"t{row}"], "seeds_of": {"mood": [f"t{row + 1}", f"t{row + 2}"]}, "avoid": [f"t{row + 3}"]}
        exact = search.ask(Question(**asked, fold_duplicates=False, method="exact"))
        approximate = search.ask(Question(**asked, fold_duplicates=False, method="approximate"))
        found.append(len({*rows_of(exact.results)} & {*rows_of(approximate.results)}) / 10)
    assert np.mean(found) > 0.95


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("masks", ["disjoint", "overlapping"])
def test_a_tenth_of_the_candidates_finds_nearly_all(catalogue, weights, masks, tmp_path):
    if masks == "overlapping":
        masks = np.random.default_rng(5).uniform(0, 1, (3, 12)).astype(np.float32)
        catalogue = write_catalogue(tmp_path / "index", clustered(N), masks)
    index = build_index(catalogue.embedding, catalogue.model.masks)
    index.n_candidates = N // 10
    search, found = SimilaritySearch(catalogue, index), []
    for row in range(0, N, 100):
        exact = set(rows_of(search.search_like(row, weights, method="exact")))
        found.append(len(exact & set(rows_of(search.search_like(row, weights, method="approximate")))) / 10)
    assert np.mean(found) > 0.95


def test_candidates_are_no_more_than_asked_for(index, catalogue, monkeypatch):
    monkeypatch.setattr(index, "n_candidates", 50)
    monkeypatch.setattr(approximate, "CANDIDATES", 50)
    rows = index.candidates(catalogue.embedding[3], np.array([1.0, 0, 0]), None, 10)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 50


@pytest.mark.parametrize("left", [0, 1, 7, 40])
def test_a_strict_filter_leaves_what_it_leaves(catalogue, index, monkeypatch, left):
    monkeypatch.setattr(index, "n_candidates", 30)
    monkeypatch.setattr(approximate, "CANDIDATES", 30)
    query, weights = catalogue.embedding[0], np.array([1.0, 0.0, 0.0])
    order = np.argsort(((catalogue.embedding[:, :SUBSPACE_DIM] - query[:SUBSPACE_DIM]) ** 2).sum(1))
    allowed = np.zeros(N, bool)
    allowed[order[N - left :]] = True  # the farthest of all
    rows = index.candidates(query, weights, allowed, 10)
    assert allowed[rows].all()
    assert len(rows) >= min(left, 10)
    if left <= 10:
        assert len(rows) == left


def test_filters_hold_in_approximate_search(catalogue, index):
    search = SimilaritySearch(catalogue, index)
    for row in (1, 2, 3, 4):
        found = search.search_like(row, {"mood": 1.0}, k=50, same_artist=False, tempo=(80, 82), method="approximate")
        assert len(found) == 50
        for result in found:
            assert result.row != row
            assert result.track.artist is None or result.track.artist != track_of(row).artist
            assert 80 <= result.track.labels["tempo"] <= 82


def test_searches_at_the_same_time_do_not_disturb_each_other(catalogue, index, monkeypatch):
    monkeypatch.setattr(index, "n_candidates", 100)
    monkeypatch.setattr(approximate, "CANDIDATES", 100)
    tasks = [(row, weights) for row in range(0, 200, 2) for weights in ([1.0, 0, 0], [0, 1.0, 0], [0, 0.5, 1])]

    def search(task) -> list[int]:
        row, weights = task
        return index.candidates(catalogue.embedding[row], np.array(weights), None, 5).tolist()

    alone = [search(task) for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(search, tasks)) == alone


def test_an_index_is_read_as_it_was_built(catalogue, index, tmp_path):
    content = index.as_bytes()
    index.candidates(catalogue.embedding[0], np.array([0.0, 0.0, 9.0]), None, 3)
    assert index.as_bytes() == content  # a search leaves nothing behind
    (tmp_path / INDEX).write_bytes(content)
    again = read_index(tmp_path / INDEX, catalogue)
    for weights in ([1.0, 0, 0], [0.3, 2, 1]):
        arguments = catalogue.embedding[5], np.array(weights), None, 4
        assert again.candidates(*arguments).tolist() == index.candidates(*arguments).tolist()
    assert build_index(catalogue.embedding, catalogue.model.masks).as_bytes() == content  # the same each time


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, "cut off"])
def test_a_damaged_index_is_named(catalogue, index, tmp_path, content):
    (tmp_path / INDEX).write_bytes(index.as_bytes()[:2000] if content == "cut off" else content)
    with pytest.raises(
        CatalogueError, match=r"index\.faiss is no index of FAISS \(.+\): embed the catalogue anew"
    ) as error:
        read_index(tmp_path / INDEX, catalogue)
    assert os.linesep not in str(error.value)


def test_the_index_of_another_catalogue_is_refused(catalogue, tmp_path):
    few = write_catalogue(tmp_path / "few", unit_rows(20))
    (tmp_path / "few" / INDEX).write_bytes(build_index(few.embedding, few.model.masks).as_bytes())
    assert open_search(tmp_path / "few").index is not None
    with pytest.raises(CatalogueError, match="is the index of another catalogue"):
        read_index(tmp_path / "few" / INDEX, catalogue)


def test_an_odd_number_of_dimensions():
    rows = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    index = build_index(rows, np.eye(3, dtype=np.float32))
    found = index.candidates(rows[0], np.ones(3), None, 5)
    assert found.tolist() == list(range(100))


def test_too_few_tracks():
    with pytest.raises(ValueError, match="15 tracks are too few for an index, which needs 16: use approximate=false"):
        build_index(unit_rows(15), disjoint_masks())
