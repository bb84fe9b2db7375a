"""Questions against loops in float64: composed queries, seeds to avoid, labels, relative tempi, caps, folding, percentiles, words."""

from __future__ import annotations

import numpy as np
import pytest

from disentangled_ml.search import duplicates, explanation, similarity_search
from disentangled_ml.search.catalogue import CatalogueTrack, EmbeddedCatalogue
from disentangled_ml.search.duplicates import DUPLICATE, VERSION
from disentangled_ml.search.folding import Folding
from disentangled_ml.search.question import Question
from disentangled_ml.search.similarity_search import SimilaritySearch
from tests.disentangled_ml.catalogues import NAMES, disjoint_masks, track_of, unit_rows, write_catalogue

N = 120
MASKS = {
    "disjoint": disjoint_masks(),
    "overlapping": np.random.default_rng(5).uniform(0, 1, (3, 12)).astype(np.float32),
}
SEEDS = {"genre": ["t3"], "mood": ["t7", "t20"]}
WEIGHTS = {"genre": 1.0, "mood": 0.5, "tempo": 2.0}


@pytest.fixture(params=MASKS)
def search(tmp_path, request) -> SimilaritySearch:
    return SimilaritySearch(write_catalogue(tmp_path / "index", unit_rows(N), MASKS[request.param]))


def small(tmp_path, tracks: list[CatalogueTrack], embedding: np.ndarray | None = None) -> SimilaritySearch:
    embedding = unit_rows(len(tracks)) if embedding is None else embedding
    return SimilaritySearch(write_catalogue(tmp_path / "small", embedding, tracks=tracks))


def rows_of(answer) -> list[int]:
    return [result.row for result in answer.results]


def part(x, y, mask) -> float:
    """Return the squared distance in a subspace by a loop."""
    return sum(((float(a) - float(b)) * float(m)) ** 2 for a, b, m in zip(x, y, mask, strict=True))


def ranked_by_loop(search, seeds: dict[str, list[str]], weights, avoid: dict[str, list[str]] | None = None):
    """Return all rows that are no seeds, by the formula of composition.py, with their squared distances."""
    rows, masks, avoid = search.catalogue.embedding.astype(np.float64), search.catalogue.model.masks, avoid or {}
    named = {int(name[1:]) for own in (*seeds.values(), *avoid.values()) for name in own}
    found = []
    for row in set(range(len(rows))) - named:
        total = 0.0
        for name, mask in zip(NAMES, masks, strict=True):
            if name not in seeds:
                continue
            target = [sum(rows[int(seed[1:])][d] for seed in seeds[name]) / len(seeds[name]) for d in range(12)]
            for d in range(12) if avoid.get(name) else ():
                target[d] = 2 * target[d] - sum(rows[int(seed[1:])][d] for seed in avoid[name]) / len(avoid[name])
            total += weights[name] * part(rows[row], target, mask)
        found.append((total, row))
    return sorted(found)


def test_one_seed_is_the_plain_search(search):
    for weights in (None, {"mood": 1.0}, WEIGHTS):
        plain = search.search_like(5, weights, k=N)
        found = search.ask(Question(seeds=["t5"], weights=weights, k=N, fold_duplicates=False)).results
        assert [(r.row, r.distance, r.distances) for r in found] == [(r.row, r.distance, r.distances) for r in plain]


def test_a_seed_per_condition_is_a_loop_over_all_tracks(search, monkeypatch):
    monkeypatch.setattr(similarity_search, "ROWS_PER_BLOCK", 7)
    monkeypatch.setattr("disentangled_ml.search.answering.LOOKED_AT", 0)  # so the point alone chooses them
    expected = ranked_by_loop(search, SEEDS, WEIGHTS)
    answer = search.ask(Question(seeds_of=SEEDS, weights=WEIGHTS, k=20, fold_duplicates=False))
    assert rows_of(answer) == [row for _, row in expected][:20]
    np.testing.assert_allclose([r.distance**2 for r in answer.results], [d for d, _ in expected][:20], atol=1e-12)
    assert answer.weights == {"genre": 1.0, "mood": 0.5, "tempo": 0.0}  # nothing stands for tempo


def test_seeds_for_all_stand_where_a_condition_has_none(search):
    given = search.ask(Question(seeds=["t9"], seeds_of=SEEDS, weights=WEIGHTS, fold_duplicates=False))
    spelled = search.ask(Question(seeds_of={**SEEDS, "tempo": ["t9"]}, weights=WEIGHTS, fold_duplicates=False))
    assert rows_of(given) == rows_of(spelled)
    assert given.weights["tempo"] == 2.0


def test_tempi_are_relative_to_a_seed_whose_tempo_is_known(search):
    change = {"tempo_change": (-0.15, -0.05), "k": N, "fold_duplicates": False}
    own = search.ask(Question(seeds=["t4"], seeds_of={"genre": ["t85"]}, **change))  # the tempo of t4 is not known
    expected = search.ask(Question(seeds=["t85"], **change))
    assert set(rows_of(own)) == set(rows_of(expected)) - {4}


def test_without_a_seed_for_tempo_it_is_relative_to_the_first_that_has_one(search):
    own = {"genre": ["t4"], "mood": ["t85"]}  # the tempo of t4 is not known
    answer = search.ask(Question(seeds_of=own, tempo_change=(-0.15, -0.05), k=N, fold_duplicates=False))
    seeded = search.ask(Question(seeds=["t85"], tempo_change=(-0.15, -0.05), k=N, fold_duplicates=False))
    assert set(rows_of(answer)) == set(rows_of(seeded)) - {4}
    assert "tempo" not in answer.results[0].distances
    assert all("tempo 145 / " in found.matches for found in answer.results)


def test_the_order_of_seeds_and_a_seed_given_twice_over_change_nothing(search):
    first = search.ask(Question(seeds=["t1", "t2", "t3"], avoid=["t4", "t5"]))
    assert rows_of(first) == rows_of(search.ask(Question(seeds=["t3", "t1", "t2"], avoid=["t5", "t4"])))
    embedding = search.catalogue.embedding[1]
    assert rows_of(search.ask(Question(seeds=["t1", embedding]))) == rows_of(search.ask(Question(seeds=["t1"])))


@pytest.mark.parametrize("k", [1, 7, N - 5])
def test_seeds_to_avoid_are_a_loop_over_all_tracks(search, k):
    avoid = {"mood": ["t30", "t31"], "genre": ["t32"]}
    expected = ranked_by_loop(search, SEEDS, WEIGHTS, avoid)
    question = Question(seeds_of=SEEDS, avoid_of=avoid, weights=WEIGHTS, k=k, fold_duplicates=False)
    assert rows_of(search.ask(question)) == [row for _, row in expected][:k]
    everywhere = {name: ["t30"] for name in NAMES}
    spelled = search.ask(Question(seeds=["t3"], avoid_of=everywhere, k=k))
    assert rows_of(search.ask(Question(seeds=["t3"], avoid=["t30"], k=k))) == rows_of(spelled)
    seeds = {name: ["t3"] for name in NAMES}
    assert (
        rows_of(spelled) == [row for _, row in ranked_by_loop(search, seeds, dict.fromkeys(NAMES, 1.0), everywhere)][:k]
    )


def test_a_label_is_the_direction_of_its_tracks_as_far_out_as_they_are(search):
    rows, mask = search.catalogue.embedding.astype(np.float64), search.catalogue.model.masks[1].astype(np.float64)
    calm = [row for row in range(N) if track_of(row).labels["mood"] == ["calm"]]
    mean = sum(rows[row] for row in calm) / len(calm) * mask
    typical = sum(np.sqrt(sum((rows[row] * mask) ** 2)) for row in calm) / len(calm)
    target = mean * typical / np.sqrt(sum(mean**2))
    expected = sorted((sum((rows[row] * mask - target) ** 2), row) for row in range(N))
    answer = search.ask(Question(labels={"mood": "calm"}, k=9, fold_duplicates=False))
    assert rows_of(answer) == [row for _, row in expected[:9]]
    np.testing.assert_allclose([r.distance**2 for r in answer.results], [d for d, _ in expected[:9]], atol=1e-12)
    assert answer.weights == {"genre": 0.0, "mood": 1.0, "tempo": 0.0}
    assert {r.matches for r in answer.results if r.row in calm} <= {"mood calm"}


def test_the_most_dissimilar_are_the_last(search):
    everything = rows_of(search.ask(Question(seeds=["t8"], k=N, fold_duplicates=False)))
    last = search.ask(Question(seeds=["t8"], k=6, most_dissimilar=True, fold_duplicates=False))
    assert rows_of(last) == everything[::-1][:6]
    assert last.results[0].percentile == 0


def test_tempi_relative_to_the_seed_count_octaves(search):
    answer = search.ask(Question(seeds=["t85"], tempo_change=(-0.15, -0.05), k=N, fold_duplicates=False))
    own = track_of(85).labels["tempo"]
    known = {row: track_of(row).labels.get("tempo") for row in range(N) if row != 85}
    expected = {
        row
        for row, bpm in known.items()
        if bpm and any(0.85 * own <= bpm * octave <= 0.95 * own for octave in (0.5, 1, 2))
    }
    assert set(rows_of(answer)) == expected
    assert any(known[row] < own / 2 for row in expected)
    assert answer.without_tempo == sum(bpm is None for bpm in known.values())
    assert all("tempo" in result.matches for result in answer.results)


def test_percentiles_are_shares_of_the_catalogue(search, monkeypatch):
    answer = search.ask(Question(seeds_of=SEEDS, weights=WEIGHTS, k=N, fold_duplicates=False))
    distances = [total for total, _ in ranked_by_loop(search, SEEDS, WEIGHTS)]
    for result in answer.results[::9]:
        farther = sum(d > result.distance**2 + 1e-12 for d in distances)
        assert abs(result.percentile - 100 * farther / N) < 100 * 3.5 / N  # the three seeds are in the sample
    assert set(answer.results[0].percentiles) == set(answer.results[0].distances) == set(SEEDS)
    monkeypatch.setattr(explanation, "SAMPLE", 50)
    drawn = explanation.sample_rows(N)
    assert len(set(drawn.tolist())) == 50
    assert drawn.tolist() == explanation.sample_rows(N).tolist()


def tracks_with_albums() -> list[CatalogueTrack]:
    metadata = [{"title": f"song {n}", "album": f"album {n % 4}"} if n % 5 else None for n in range(60)]
    return [
        CatalogueTrack(f"t{n}", f"artist {n % 3}" if n % 4 else None, None, {}, metadata=metadata[n]) for n in range(60)
    ]


@pytest.mark.parametrize("read_whole", [1, 500])
def test_caps_skip_in_the_order_of_the_ranking_and_count(tmp_path, monkeypatch, read_whole):
    monkeypatch.setattr("disentangled_ml.search.answering.READ_WHOLE", read_whole)
    monkeypatch.setattr("disentangled_ml.search.answering.LOOKED_AT", 1)  # so it has to look deeper
    tracks = tracks_with_albums()
    search = small(tmp_path, tracks)
    everything = rows_of(search.ask(Question(seeds=["t0"], k=99)))
    kept, beyond = [], {"artist": 0, "album": 0}
    for row in everything:
        artist, album = tracks[row].artist, (tracks[row].artist, (tracks[row].metadata or {}).get("album"))
        if artist and sum(tracks[other].artist == artist for other in kept) == 3:
            beyond["artist"] += 1
        elif album[1] and sum((tracks[o].artist, (tracks[o].metadata or {}).get("album")) == album for o in kept) == 1:
            beyond["album"] += 1
        else:
            kept.append(row)
        if len(kept) == 10:
            break
    answer = search.ask(Question(seeds=["t0"], per_artist=3, per_album=1))
    assert rows_of(answer) == kept
    assert {"artist": answer.beyond_artist, "album": answer.beyond_album} == beyond
    assert all(beyond.values())
    loose = search.ask(Question(seeds=["t0"], k=99, per_artist=60, per_album=60))
    assert rows_of(loose) == everything
    assert loose.beyond_artist == loose.beyond_album == 0
    without = search.ask(Question(seeds=["t1"], k=99, other_artists=True))
    assert rows_of(without)
    assert all(tracks[row].artist != "artist 1" for row in rows_of(without))


@pytest.mark.parametrize("per_artist", [1, 2, 5])
@pytest.mark.parametrize("k", [4, 7, 12, 99])
def test_what_is_skipped_unread_changes_no_answer(tmp_path, monkeypatch, k, per_artist):
    monkeypatch.setattr("disentangled_ml.search.answering.LOOKED_AT", 1)
    search = small(tmp_path, tracks_with_albums())
    answers = []
    for read_whole in (1, 500):
        monkeypatch.setattr("disentangled_ml.search.answering.READ_WHOLE", read_whole)
        for asked in ({}, {"most_dissimilar": True}, {"per_album": 1}):
            question = Question(seeds=["t7"], k=k, per_artist=per_artist, fold_duplicates=False, **asked)
            answers.append(search.ask(question))
    for one, other in zip(answers[:3], answers[3:], strict=True):
        assert rows_of(one) == rows_of(other)
        assert (one.beyond_artist, one.beyond_album) == (other.beyond_artist, other.beyond_album)


@pytest.mark.parametrize("last", ["artist 0", "another"])
def test_few_lines_are_read_where_all_artists_have_enough(tmp_path, monkeypatch, last):
    embedding = unit_rows(9_000)
    farthest = int(np.argmax(np.linalg.norm(embedding - embedding[0], axis=1)))
    tracks = [CatalogueTrack(f"t{n}", f"artist {n % 5}", None, {}) for n in range(9_000)]
    tracks[farthest] = tracks[farthest]._replace(artist=last)
    search, read, n_read = small(tmp_path, tracks, embedding), EmbeddedCatalogue.tracks, []
    monkeypatch.setattr(EmbeddedCatalogue, "tracks", lambda self, rows: n_read.append(len(rows)) or read(self, rows))
    answer = search.ask(Question(seeds=["t0"], k=50, per_artist=2, fold_duplicates=False))
    assert len(answer.results) == (10 if last == "artist 0" else 11)
    assert len(answer.results) + answer.beyond_artist == 8_999
    assert sum(n_read) < 8_999


def test_duplicates_and_versions_are_folded_into_one_row(tmp_path):
    embedding = unit_rows(40)
    near = duplicates.duplicate_threshold(embedding) / 2 / np.sqrt(12)
    embedding[10], embedding[20] = embedding[3] + near, embedding[0] + near
    tracks = [CatalogueTrack(f"t{n}", "a", None, {}) for n in range(40)]
    tracks[11] = tracks[11]._replace(metadata={"isrc": "X1"})
    tracks[12] = tracks[12]._replace(metadata={"isrc": "X1", "title": "Song"})
    tracks[13] = tracks[13]._replace(metadata={"title": "Song (Live)"})
    search = small(tmp_path, tracks, embedding)
    answer = search.ask(Question(seeds=["t0"], k=40))
    assert [(d.track.track_id, d.kind) for d in answer.seed_duplicates] == [("t20", DUPLICATE)]
    folded = {r.track.track_id: [(d.track.track_id, d.kind) for d in r.duplicates] for r in answer.results}
    assert sum(map(len, folded.values())) == 40 - 1 - 1 - len(folded)
    assert (folded.get("t3"), folded.get("t10")) in (([("t10", DUPLICATE)], None), (None, [("t3", DUPLICATE)]))
    of_song = {name for name in ("t11", "t12", "t13") if name in folded}
    assert {*of_song, *(name for own in of_song for name, _ in folded[own])} == {"t11", "t12", "t13"}
    assert len(rows_of(search.ask(Question(seeds=["t0"], k=40, fold_duplicates=False)))) == 39


@pytest.mark.parametrize(
    ("one", "other", "distance", "kind"),
    [
        ({}, {}, 0.199, DUPLICATE),
        ({}, {}, 0.201, None),
        ({"isrc": "A"}, {"isrc": "A"}, 1.0, DUPLICATE),
        ({"isrc": "A"}, {"isrc": "B"}, 1.0, None),
        ({"musicbrainz_recording": "A"}, {"musicbrainz_recording": "A"}, 1.0, DUPLICATE),
        ({"title": "Song"}, {"title": "Song [Remix]"}, 1.0, VERSION),
        ({"title": "Song"}, {"title": "Song"}, 0.0, DUPLICATE),
        ({"title": "Song"}, {"title": "Other"}, 1.0, None),
        ({"title": "(Live)"}, {"title": "(Live)"}, 1.0, None),
    ],
)
def test_kinds_of_duplicates(tmp_path, one, other, distance, kind):
    tracks = [CatalogueTrack(name, "A", None, {}, metadata=m) for name, m in (("a", one), ("b", other))]
    embedding = np.zeros((2, 12), np.float32)
    embedding[1, 3] = distance
    catalogue = write_catalogue(tmp_path / "two", embedding, tracks=tracks)
    for first, second in ((0, 1), (1, 0)):
        folding = Folding(catalogue, threshold=0.2)
        folding.keep(first, tracks[first])
        assert folding.fold(second, tracks[second], folding.first_alike([second])[0]) == (kind is not None)
        assert [(d.row, d.kind) for d in folding.folded[first]] == ([(second, kind)] if kind else [])


def test_the_threshold_is_a_share_of_the_distance_of_nearest_neighbours(monkeypatch):
    rows = unit_rows(50).astype(np.float64)
    nearest = sorted(min(np.sqrt(sum((rows[i] - rows[j]) ** 2)) for j in range(50) if j != i) for i in range(50))
    expected = duplicates.SHARE * (nearest[24] + nearest[25]) / 2
    assert duplicates.duplicate_threshold(rows) == pytest.approx(expected)
    assert duplicates.duplicate_threshold(3 * rows) == pytest.approx(3 * expected)
    assert duplicates.duplicate_threshold(rows[:1]) == duplicates.duplicate_threshold(np.ones((9, 4))) == 0
    monkeypatch.setattr(duplicates, "SAMPLE", 10)
    assert duplicates.duplicate_threshold(rows) > expected  # fewer tracks lie farther apart


def test_a_collapsed_model_folds_nothing(tmp_path):
    search = SimilaritySearch(write_catalogue(tmp_path / "index", np.repeat(unit_rows(1), 9, axis=0)))
    assert len(rows_of(search.ask(Question(seeds=["t0"])))) == 8


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing is asked for: give a seed to be like, or a label"),
        ({"seeds": ["x"]}, "x is no track of"),
        ({"seeds": "t1"}, "seeds='t1' is one name: give a list"),
        ({"avoid_of": {"mood": "t1"}, "seeds": ["t2"]}, r"avoid_of\.mood='t1' is one name: give a list"),
        ({"seeds": [np.zeros(3)]}, "the query is no embedding"),
        ({"seeds_of": {"genr": ["t1"]}}, r"seeds_of\.genr: the model knows no such condition, only genre, mood, tempo"),
        ({"labels": {"mood": "clam"}}, r"labels\.mood=clam: no track of the catalogue has it; there are calm"),
        ({"labels": {"tempo": "90"}}, r"labels\.tempo=90: a tempo is no label"),
        (
            {"labels": {"mood": "calm"}, "seeds_of": {"mood": ["t1"]}},
            r"mood has seeds and a label: give seeds_of\.mood or",
        ),
        ({"labels": {"mood": "calm"}, "weights": {"genre": 1}}, "no seed or label stands for genre"),
        (
            {"seeds": ["t4"], "tempo_change": (0.0, 0.1)},
            "no seed has a known tempo that others could be slower or faster than",
        ),
        ({"seeds": ["t1"], "tempo_change": (0.2, 0.1)}, r"tempo_change=\[0.2, 0.1\] is no range"),
        ({"seeds": ["t1"], "per_album": 0}, "per_album=0 is not legal"),
        ({"seeds": ["t1"], "k": None}, "k=None is not legal"),
    ],
)
def test_what_cannot_be_asked(tmp_path, asked, message):
    search = SimilaritySearch(write_catalogue(tmp_path / "index", unit_rows(N)))
    with pytest.raises(ValueError, match=message):
        search.ask(Question(**asked))
