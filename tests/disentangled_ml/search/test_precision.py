"""Precision by label against a loop, against chance, and by what search finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from disentangled_ml.objective.conditions import TagCondition, TempoCondition, label_conditions
from disentangled_ml.search.precision import choose_rows, precision_at_k, precision_report
from disentangled_ml.search.similarity_search import SimilaritySearch
from disentangled_ml.structures import TrackInfo
from tests.disentangled_ml.catalogues import NAMES, SUBSPACE_DIM, disjoint_masks, track_of, unit_rows, write_catalogue

N, K = 60, 5
MASKS = torch.from_numpy(disjoint_masks())
INFOS = [TrackInfo(t.track_id, t.artist, 0, t.labels) for t in map(track_of, range(N))]
CONDITIONS = [TagCondition("genre", ("jazz", "rock")), TagCondition("mood", ("calm", "happy", "sad")), TempoCondition()]


def is_relevant(name: str, a: TrackInfo, b: TrackInfo) -> bool | None:
    """Tell whether two tracks have in common what a condition is about; None where it does not decide."""
    if name not in a.labels or name not in b.labels:
        return None
    if name == "tempo":
        return abs(a.labels[name] - b.labels[name]) <= 5
    return bool(set(a.labels[name]) & set(b.labels[name]))


def gallery_of(name: str, query: int) -> list[int]:
    artist = INFOS[query].artist
    return [
        row
        for row in range(N)
        if row != query
        and (artist is None or INFOS[row].artist != artist)
        and is_relevant(name, INFOS[query], INFOS[row]) is not None
    ]


def test_precision_is_that_of_a_loop(monkeypatch):
    monkeypatch.setattr("disentangled_ml.search.precision.QUERIES_PER_BLOCK", 7)
    embedding = unit_rows(N)
    report = precision_report(torch.from_numpy(embedding), MASKS, CONDITIONS, INFOS, K)
    assert report["k"] == K
    for c, name in enumerate(NAMES):
        part = slice(c * SUBSPACE_DIM, (c + 1) * SUBSPACE_DIM)
        for space, rows in (("sub", embedding[:, part]), ("all", embedding)):
            values, chances, best = [], [], []
            for query in range(N):
                gallery = gallery_of(name, query)
                relevant = [is_relevant(name, INFOS[query], INFOS[row]) for row in gallery]
                if not any(relevant):
                    continue
                order = np.argsort([np.linalg.norm(rows[query] - rows[row]) for row in gallery])[:K]
                values.append(np.mean([relevant[i] for i in order]))
                chances.append(np.mean(relevant))
                best.append(np.mean(sorted(relevant, reverse=True)[:K]))
            assert report["conditions"][name][space] == pytest.approx(np.mean(values))
            assert report["conditions"][name]["chance"] == pytest.approx(np.mean(chances))
            assert report["conditions"][name]["best"] == pytest.approx(np.mean(best))
            assert report["conditions"][name]["n"] == len(values)


def test_precision_is_that_of_a_search_by_one_condition(tmp_path):
    tracks = [track_of(number)._replace(labels={**track_of(number).labels, "genre": ["jazz"]}) for number in range(N)]
    tracks = [t._replace(labels={**t.labels, "genre": [("jazz", "rock")[i % 2]]}) for i, t in enumerate(tracks)]
    search = SimilaritySearch(write_catalogue(tmp_path / "index", unit_rows(N), tracks=tracks))  # all have a genre
    infos = [TrackInfo(t.track_id, t.artist, 0, t.labels) for t in tracks]
    report = precision_report(torch.from_numpy(unit_rows(N)), MASKS, CONDITIONS, infos, K)
    hits = [
        result.track.labels["genre"] == tracks[row].labels["genre"]
        for row in range(N)
        for result in search.search_like(row, {"genre": 1.0}, K, same_artist=False)
    ]
    assert report["conditions"]["genre"]["sub"] == pytest.approx(np.mean(hits))


def test_perfect_and_collapsed_embeddings():
    rows = np.zeros((N, 12), np.float32)
    for row, info in enumerate(INFOS):
        rows[row, SUBSPACE_DIM + ("calm", "happy", "sad").index(info.labels["mood"][0])] = 1
    perfect = precision_report(torch.from_numpy(rows), MASKS, CONDITIONS, INFOS, K)["conditions"]
    assert perfect["mood"]["sub"] == perfect["mood"]["best"] == 1
    collapsed = precision_report(torch.ones(N, 12), MASKS, CONDITIONS, INFOS, K)["conditions"]
    assert collapsed["mood"]["sub"] == collapsed["mood"]["all"] == 0
    assert collapsed["mood"]["chance"] == perfect["mood"]["chance"]


def test_random_embeddings_are_near_chance():
    infos = [TrackInfo(str(i), None, 0, {"genre": [("jazz", "rock", "pop")[i % 3]]}) for i in range(900)]
    embedding = torch.randn(900, 12, generator=torch.Generator().manual_seed(0))
    condition = [TagCondition("genre", ("jazz", "pop", "rock"))]
    entry = precision_report(embedding, MASKS[:1], condition, infos)["conditions"]["genre"]
    assert entry["chance"] == pytest.approx(299 / 899)
    assert entry["sub"] == pytest.approx(entry["chance"], abs=0.03)


def test_ties_at_the_last_place_are_broken_against_the_query():
    distance = torch.tensor([[0.0, 1.0, 1.0, 1.0, 2.0]])
    relevant = torch.tensor([[True, True, True, False, True]])
    everybody = torch.ones(1, 5, dtype=torch.bool)
    expected = {1: 1, 2: 1 / 2, 3: 2 / 3, 4: 3 / 4, 5: 4 / 5}
    assert {k: precision_at_k(distance, relevant, everybody, k).item() for k in expected} == pytest.approx(expected)


def test_queries_without_anything_relevant_do_not_count():
    infos = [TrackInfo(str(i), None, 0, {"genre": [tag]}) for i, tag in enumerate(["jazz", "rock", "rock"])]
    entry = precision_report(torch.from_numpy(unit_rows(3)), MASKS[:1], CONDITIONS[:1], infos)["conditions"]["genre"]
    assert entry["n"] == 2
    alone = [TrackInfo("a", None, 0, {})]
    report = precision_report(torch.from_numpy(unit_rows(1)), MASKS, CONDITIONS, alone)
    assert all(
        entry == {"sub": None, "all": None, "chance": None, "best": None, "n": 0}
        for entry in report["conditions"].values()
    )


def test_conditions_come_from_the_labels(tmp_path):
    notes = write_catalogue(tmp_path / "index", unit_rows(3)).model
    conditions = label_conditions(notes.condition_names, [info.labels for info in INFOS], notes.tempo)
    assert conditions == CONDITIONS


def test_of_many_tracks_some_are_asked_about():
    rows = choose_rows(2500)
    assert len(rows) == len(set(rows.tolist())) == 1000
    assert rows[0] == 0
    assert rows[-1] > 2490


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="3 tracks and 3 conditions do not fit"):
        precision_report(torch.zeros(2, 12), MASKS, CONDITIONS, INFOS[:3])
    with pytest.raises(ValueError, match="values that are not finite in 1 of 3 rows"):
        precision_report(torch.tensor([[0.0] * 12] * 2 + [[float("nan")] * 12]), MASKS, CONDITIONS, INFOS[:3])
