"""Paths: the least sum of squared steps by a loop, no track twice, caps and duplicates."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest

from disentangled_ml.search import path
from disentangled_ml.search.path import path_between, shortest_way, squared_steps
from disentangled_ml.search.similarity_search import SimilaritySearch
from tests.disentangled_ml.catalogues import disjoint_masks, unit_rows, write_catalogue

N = 200
WEIGHTS = {"genre": 1.0, "mood": 0.5}
MASKS = {
    "disjoint": disjoint_masks(),
    "overlapping": np.random.default_rng(5).uniform(0, 1, (3, 12)).astype(np.float32),
}


@pytest.fixture(params=MASKS)
def search(tmp_path, request) -> SimilaritySearch:
    return SimilaritySearch(write_catalogue(tmp_path / "index", unit_rows(N), MASKS[request.param]))


def squared_step(search, one: int, other: int) -> float:
    rows, masks = search.catalogue.embedding.astype(np.float64), search.catalogue.model.masks.astype(np.float64)
    return sum(
        weight * sum(((rows[one] - rows[other]) * mask) ** 2) for weight, mask in zip((1.0, 0.5, 0), masks, strict=True)
    )


def test_the_shortest_way_is_that_of_a_loop_over_all_ways():
    rng = np.random.default_rng(0)
    for _ in range(20):
        layers = [rng.standard_normal((n, 3)) for n in (1, 4, 3, 5, 1)]
        ways = product(*(range(len(points)) for points in layers))

        def cost(way, layers=layers) -> float:
            points = [points[place] for points, place in zip(layers, way, strict=True)]
            return sum(sum((a - b) ** 2) for a, b in pairwise(points))

        assert tuple(shortest_way(squared_steps(layers))) == min(ways, key=cost)


def test_a_path_begins_and_ends_where_it_should_and_tells_its_steps(search):
    found = path_between(search, "t3", "t9", 8, WEIGHTS)
    rows = [result.row for result in found]
    assert (rows[0], rows[-1], len(set(rows))) == (3, 9, 9)
    assert found[0].distance == 0
    for before, result in pairwise(found):
        assert result.distance**2 == pytest.approx(squared_step(search, before.row, result.row), abs=1e-9)
    random = np.random.default_rng(0).choice(N, 9, replace=False)
    steps = [result.distance**2 for result in found]
    assert sum(steps) < sum(squared_step(search, *pair) for pair in pairwise(random)) / 2


def test_one_step_is_from_one_end_to_the_other(search):
    assert [result.row for result in path_between(search, "t3", "t9", 1)] == [3, 9]


def test_an_end_may_be_a_recording_that_the_catalogue_has_not(search):
    """Its path is that of a track with the same embedding, which itself is a duplicate and left out; so the ends differ alone."""
    catalogue = search.catalogue
    rows = catalogue.embedding[[3, 9]].copy()
    of_tracks = path_between(search, "t3", "t9", 8, WEIGHTS)
    for ends, outside in (((rows[0], "t9"), [0]), (("t3", rows[1]), [8]), ((rows[0], rows[1]), [0, 8])):
        found = path_between(search, *ends, 8, WEIGHTS)
        assert [place for place, result in enumerate(found) if result.row is None] == outside
        assert all((result.track == path.OUTSIDE) == (result.row is None) for result in found)
        assert [result.row for result in found[1:-1]] == [result.row for result in of_tracks[1:-1]]
        assert [result.distance for result in found] == pytest.approx([result.distance for result in of_tracks])
        assert [result.distances for result in found] == [pytest.approx(result.distances) for result in of_tracks]
    assert [result.row for result in path_between(search, rows[0], rows[1], 1)] == [None, None]


def test_caps_and_duplicates_hold_on_the_way(search, tmp_path):
    capped = path_between(search, "t4", "t10", 6, WEIGHTS, per_artist=2)
    artists = Counter(result.track.artist for result in capped if result.track.artist)
    assert max(artists.values()) <= 2
    rows = unit_rows(N)
    middle = rows[3] + rows[9]
    rows[20:60] = middle / np.linalg.norm(middle)  # forty copies of one recording lie on the line
    copies = SimilaritySearch(write_catalogue(tmp_path / "copies", rows))
    found = path_between(copies, "t3", "t9", 6)
    assert sum(20 <= result.row < 60 for result in found) == 1


def test_a_short_line_has_tracks_for_all_steps(search, monkeypatch):
    monkeypatch.setattr(path, "WIDTH", 1)
    search.duplicate_threshold = 0.0  # so no track is taken for a duplicate, not even of itself
    near = search.search_like(3, WEIGHTS, k=1)[0].track.track_id
    assert len({result.row for result in path_between(search, "t3", near, 20, WEIGHTS)}) == 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("t1", "t2", 0), "steps=0 is not legal: give a number from 1 to 100"),
        (("t1", "t1", 3), "the path begins and ends at t1: give two different ones"),
        (("t1", "x", 3), "x is no track of"),
        (("t1", np.ones(3), 3), "the query is no embedding: 12 finite numbers expected"),
        ((np.ones(12), np.ones(12), 3), "the path begins and ends at a recording of yours: give two different ones"),
        (("t1", "t3", 60, None, 1), "too few tracks are near the line from t1 to t3"),
    ],
)
def test_what_cannot_be_a_path(search, monkeypatch, arguments, message):
    monkeypatch.setattr(path, "WIDTH", 4)
    with pytest.raises(ValueError, match=message):
        path_between(search, *arguments)
