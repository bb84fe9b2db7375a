"""Exact search against a loop over all tracks; filters; what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from disentangled_ml.search import similarity_search
from disentangled_ml.search.similarity_search import SearchFilters, SimilaritySearch, open_search
from tests.disentangled_ml.catalogues import NAMES, SUBSPACE_DIM, disjoint_masks, track_of, unit_rows, write_catalogue

N = 150
MASKS = {
    "disjoint": disjoint_masks(),
    "overlapping": np.random.default_rng(5).uniform(0, 1, (3, 12)).astype(np.float32),
    "sparse": (np.random.default_rng(6).uniform(0, 2, (3, 12)) * (np.arange(12) % 3 > 0)).astype(np.float32),
    "none": np.ones((3, 12), np.float32),
}
WEIGHTS = {
    "one": {"genre": 1.0},
    "last": {"tempo": 3.0},
    "two": {"genre": 1.0, "mood": 0.5, "tempo": 0},
    "all": {"genre": 0.2, "mood": 7, "tempo": 1.0},
    "none": None,
}


def searched(tmp_path, masks: str = "disjoint", n: int = N) -> SimilaritySearch:
    return SimilaritySearch(write_catalogue(tmp_path / "index", unit_rows(n), MASKS[masks]))


def distance_by_loop(x, y, masks, weights) -> float:
    total = 0.0
    for mask, name in zip(masks, NAMES, strict=True):
        weight = 1.0 if weights is None else weights.get(name, 0.0)
        total += weight * sum(
            (float(a) * float(m) - float(b) * float(m)) ** 2 for a, b, m in zip(x, y, mask, strict=True)
        )
    return math.sqrt(total)


def ranking_by_loop(search, row, weights, is_allowed=lambda row: True) -> list[tuple[float, int]]:
    rows, masks = search.catalogue.embedding, search.catalogue.model.masks
    pairs = [(distance_by_loop(rows[row], rows[i], masks, weights), i) for i in range(len(rows)) if is_allowed(i)]
    return sorted(pairs)


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("masks", MASKS)
def test_exact_search_is_a_loop_over_all_tracks(tmp_path, monkeypatch, masks, weights):
    monkeypatch.setattr(similarity_search, "ROWS_PER_BLOCK", 7)
    search = searched(tmp_path, masks)
    for row in (0, 17, N - 1):
        expected = ranking_by_loop(search, row, weights)
        found = search.search(search.catalogue.embedding[row], weights, k=N, method="exact")
        assert [result.row for result in found] == [i for _, i in expected]
        np.testing.assert_allclose([result.distance for result in found], [d for d, _ in expected], atol=1e-12)
        few = search.search(search.catalogue.embedding[row], weights, k=5)
        assert [result.row for result in few] == [i for _, i in expected[:5]]


def test_results_say_why(tmp_path):
    search = searched(tmp_path, "overlapping")
    weights, query, masks = {"genre": 2.0, "mood": 0.5}, search.catalogue.embedding[3], search.catalogue.model.masks
    for result in search.search(query, weights, k=4):
        assert list(result.distances) == NAMES
        row = search.catalogue.embedding[result.row]
        for mask, name in zip(masks, NAMES, strict=True):
            own = math.sqrt(
                sum(((float(a) - float(b)) * float(m)) ** 2 for a, b, m in zip(query, row, mask, strict=True))
            )
            assert result.distances[name] == pytest.approx(own, abs=1e-12)
        total = sum(weights.get(name, 0) * result.distances[name] ** 2 for name in NAMES)
        assert result.distance**2 == pytest.approx(total, abs=1e-12)
        assert result.track == track_of(result.row)


def test_a_condition_of_weight_zero_has_no_say(tmp_path):
    rows = unit_rows(N)
    search = SimilaritySearch(write_catalogue(tmp_path / "a", rows))
    expected = search.search(rows[0], {"genre": 1.0, "tempo": 0.3, "mood": 0.0}, k=N)
    changed = rows.copy()
    changed[:, SUBSPACE_DIM : 2 * SUBSPACE_DIM] = np.random.default_rng(1).uniform(-0.5, 0.5, (N, SUBSPACE_DIM))
    other = SimilaritySearch(write_catalogue(tmp_path / "b", changed))
    found = other.search(changed[0], {"genre": 1.0, "tempo": 0.3}, k=N)
    assert [(r.row, r.distance) for r in found] == [(r.row, r.distance) for r in expected]
    assert [r.distances["mood"] for r in found] != [r.distances["mood"] for r in expected]


def test_scaling_the_weights_scales_the_distances(tmp_path):
    search = searched(tmp_path)
    one = search.search_like(4, {"genre": 1.0, "mood": 0.5}, k=20)
    four = search.search_like(4, {"genre": 4.0, "mood": 2.0}, k=20)
    assert [r.row for r in one] == [r.row for r in four]
    np.testing.assert_allclose([2 * r.distance for r in one], [r.distance for r in four])


def test_equally_near_tracks_come_in_the_order_of_their_rows(tmp_path):
    rows = np.tile(unit_rows(3), (20, 1))
    search = SimilaritySearch(write_catalogue(tmp_path / "index", rows))
    assert [r.row for r in search.search_like(3, k=7)] == [0, 6, 9, 12, 15, 18, 21]
    collapsed = SimilaritySearch(write_catalogue(tmp_path / "collapsed", np.tile(unit_rows(1), (N, 1))))
    assert [r.row for r in collapsed.search_like(2, k=4)] == [0, 1, 3, 4]


def test_rounding_does_not_change_the_ranking(tmp_path, monkeypatch):
    middle = unit_rows(1)[0].astype(np.float64)
    rows = middle + 1e-4 * np.random.default_rng(0).standard_normal((2000, 12))  # squares of 1e-8 beside products of 1
    search = SimilaritySearch(write_catalogue(tmp_path / "index", rows.astype(np.float32), tracks=[track_of(0)] * 2000))
    query = search.catalogue.embedding[0].astype(np.float64)
    expected = np.argsort(((search.catalogue.embedding - query) ** 2).sum(1), kind="stable")[:10].tolist()
    assert [r.row for r in search.search(query, k=10)] == expected
    monkeypatch.setattr(similarity_search, "rounding", lambda scale, query: 0.0)
    assert [r.row for r in search.search(query, k=10)] != expected  # so the bound is what makes it exact


def test_the_query_itself_is_not_found(tmp_path):
    search = searched(tmp_path)
    assert search.search(search.catalogue.embedding[9], k=1)[0].row == 9
    found = search.search_like(9, k=N)
    assert sorted(r.row for r in found) == [row for row in range(N) if row != 9]


def test_same_artist_off(tmp_path):
    search = searched(tmp_path)
    artists = [track_of(row).artist for row in range(N)]
    of_known, of_unknown = 10, 12
    assert artists[of_known]
    assert artists[of_unknown] is None
    for row in (of_known, of_unknown):
        expected = ranking_by_loop(
            search, row, None, lambda i, row=row: i != row and (artists[row] is None or artists[i] != artists[row])
        )
        assert [r.row for r in search.search_like(row, k=N, same_artist=False)] == [i for _, i in expected]
    assert any(r.track.artist == artists[of_known] for r in search.search_like(of_known, k=N))


@pytest.mark.parametrize("tempo", [(70.0, 90.0), (61.0, 61.0), (0.0, 1000.0)])
def test_tempo_range_includes_its_ends_and_leaves_out_unknown_tempi(tmp_path, tempo):
    search = searched(tmp_path)

    def is_allowed(row: int) -> bool:
        bpm = track_of(row).labels.get("tempo")
        return row != 1 and bpm is not None and tempo[0] <= bpm <= tempo[1]

    expected = [i for _, i in ranking_by_loop(search, 1, {"mood": 1.0}, is_allowed)]
    assert [r.row for r in search.search_like(1, {"mood": 1.0}, k=N, tempo=tempo)] == expected


def test_filters_together_and_few_that_are_left(tmp_path):
    search = searched(tmp_path)
    own = track_of(10).artist

    def is_allowed(row: int) -> bool:
        track = track_of(row)
        return row != 10 and track.artist != own and 60 <= track.labels.get("tempo", 0) <= 70

    expected = [i for _, i in ranking_by_loop(search, 10, None, is_allowed)]
    assert 0 < len(expected) * similarity_search.GATHERED < N  # so few that they are gathered
    found = search.search_like(10, k=N, same_artist=False, tempo=(60, 70))
    assert [r.row for r in found] == expected
    assert search.search_like(10, k=3, same_artist=False, tempo=(60, 70)) == found[:3]
    assert search.search_like(10, tempo=(400.0, 500.0)) == []


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"genre": -1.0}, r"weights\.genre=-1\.0 is not legal: give 0, or a number from 1e-06 to 1e\+06"),
        ({"genre": float("nan")}, r"weights\.genre=nan is not legal"),
        ({"genre": float("inf")}, r"weights\.genre=inf is not legal"),
        ({"genre": 1e39}, r"weights\.genre=1e\+39 is not legal"),
        ({"genre": 10**400}, r"weights\.genre=10+ is not legal"),
        ({"genre": True}, r"weights\.genre=True is not legal"),
        ({"genre": "1"}, r"weights\.genre=1 is not legal"),
        ({"genr": 1.0}, r"weights\.genr: the model knows no such condition, only genre, mood, tempo"),
        ({"genre": 0.0, "mood": 0}, "all weights are zero: give one of genre, mood, tempo a weight above 0"),
        ({}, "all weights are zero"),
    ],
)
def test_bad_weights(tmp_path, weights, message):
    with pytest.raises(ValueError, match=message):
        searched(tmp_path).search_like(0, weights)


def test_masks_that_are_0_are_refused_by_name(tmp_path):
    masks = disjoint_masks()
    masks[:2] = 0.0
    search = SimilaritySearch(write_catalogue(tmp_path / "index", unit_rows(N), masks))
    with pytest.raises(ValueError, match=r"mask of genre, mood is 0 throughout, .*: give tempo a weight$"):
        search.search_like(0, {"genre": 1.0, "mood": 2.0})
    assert len(search.search_like(0, {"genre": 1.0, "tempo": 1.0})) == 10
    search = SimilaritySearch(write_catalogue(tmp_path / "dead", unit_rows(N), 0 * masks))
    with pytest.raises(
        ValueError, match=r"mask of genre, mood, tempo is 0 throughout, .*: embed with the checkpoint of"
    ):
        search.search_like(0)


@pytest.mark.parametrize("tempo", [(100,), (120, 90), (-1, 50), (60, float("nan")), (60, float("inf")), (1, 2, 3)])
def test_bad_ranges_of_tempi(tmp_path, tempo):
    with pytest.raises(ValueError, match=r"tempo=\[.*\] is no range: give the slowest and the fastest in BPM"):
        searched(tmp_path).search_like(0, tempo=tempo)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_bad_k(tmp_path, k):
    with pytest.raises(ValueError, match=f"k={k} is not legal: give a number from 1 on"):
        searched(tmp_path).search_like(0, k=k)


@pytest.mark.parametrize("damage", [np.nan, np.inf, 1e38])
def test_embeddings_that_are_none_are_named(tmp_path, damage):
    rows = unit_rows(N)
    rows[3, 5] = damage
    with pytest.raises(ValueError, match=r"embedding\.npy holds numbers that are of no embedding: embed the catalogue"):
        SimilaritySearch(write_catalogue(tmp_path, rows)).search(rows[0])


def test_bad_queries_and_methods(tmp_path):
    search = searched(tmp_path)
    for query in (np.zeros(11), np.zeros((1, 12)), np.full(12, np.nan)):
        with pytest.raises(ValueError, match="the query is no embedding: 12 finite numbers expected"):
            search.search(query)
    with pytest.raises(ValueError, match="method=fast is unknown: choose one of auto, exact, approximate"):
        search.search_like(0, method="fast")
    with pytest.raises(ValueError, match=r"index has no index for method=approximate: embed it with approximate=true"):
        search.search_like(0, method="approximate")


def test_the_method_follows_the_number_of_tracks_that_compete(tmp_path, monkeypatch):
    asked = []

    class AllOfThem:
        def candidates(self, query, weights, allowed, n):
            asked.append(n)
            return np.arange(N) if allowed is None else np.flatnonzero(allowed)

    search = searched(tmp_path)
    search.index = AllOfThem()
    expected = search.search_like(0, method="exact")
    assert not asked
    assert search.search_like(0) == expected
    assert not asked  # few tracks: exact
    monkeypatch.setattr(similarity_search, "MOST_EXACT", N // 2)
    assert search.search_like(0) == expected
    assert asked == [10]
    search.search(search.catalogue.embedding[0], filters=SearchFilters(tempo=(60, 65)))
    assert asked == [10]  # few are left by the filter
    assert search.search_like(0, method="approximate") == expected
    assert asked == [10, 10]


def test_open_search_finds_no_index_in_a_small_catalogue(tmp_path):
    catalogue = write_catalogue(tmp_path / "index", unit_rows(5))
    search = open_search(tmp_path / "index")
    assert search.index is None
    assert [r.row for r in search.search_like(2, k=9)] == [
        r.row for r in SimilaritySearch(catalogue).search_like(2, k=9)
    ]
    assert replace(search.catalogue, folder=tmp_path).folder == tmp_path
