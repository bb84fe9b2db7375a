"""Retrieval: Recall@K, track recall and chance against plain loops; ties, galleries and blocks."""

import itertools
import json
import math
import random

import pytest
import torch

from disentangled_ml.evaluation import retrieval
from disentangled_ml.evaluation.retrieval import Aspects, hit_chance, recall_at_k, retrieval_report, track_recall
from disentangled_ml.network.masks import disjoint_blocks
from disentangled_ml.objective.conditions import TagCondition, TempoCondition
from disentangled_ml.structures import TrackInfo

D = 6
GENRE = TagCondition("genre", ("jazz", "rock", "pop", "folk"))
MOOD = TagCondition("mood", ("sad", "happy"))
TEMPO = TempoCondition()
CONDITIONS = [GENRE, MOOD, TEMPO]
MASKS = disjoint_blocks(3, D)
SOFT_MASKS = torch.rand(3, D, generator=torch.Generator().manual_seed(3)) + 0.1
MEAN_ERROR = 1e-9  # relative: sums of float64 in another order
SIMULATION_ERROR = 0.02  # four standard errors of a share over 10,000 draws


def make_infos(n: int, seed: int = 0) -> list[TrackInfo]:
    """Make tracks with zero to three genres (one of them unheard of), few moods and tempi, and artists known or not."""
    draw = random.Random(seed)
    infos = []
    for i in range(n):
        labels: dict[str, list[str] | float] = {}
        if draw.random() < 0.8:
            labels["genre"] = draw.sample([*GENRE.vocabulary, "polka"], draw.randint(0, 3))
        if draw.random() < 0.4:
            labels["mood"] = [draw.choice(MOOD.vocabulary)]
        if draw.random() < 0.7:
            labels["tempo"] = draw.uniform(60, 140)
        infos.append(TrackInfo(f"t{i}", draw.choice(["X", "Y", "Z", None, None]), 500, labels))
    return infos


def ids_of(infos: list[TrackInfo]) -> list[str]:
    return [info.track_id for info in infos]


def vectors(n: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def loop_distance(a: list[float], b: list[float], mask: list[float]) -> float:
    return math.sqrt(sum(((x - y) * m) ** 2 for x, y, m in zip(a, b, mask, strict=True)))


def known(condition, info: TrackInfo) -> set[str] | float | None:
    label = info.labels.get(condition.name)
    if isinstance(condition, TagCondition):
        return set(label or ()) & set(condition.vocabulary) or None
    return label


def loop_recall(embedding, mask, condition, infos, k) -> list[float]:
    """Give the recall of every query that counts; sorting puts those without the wanted tag first among equals."""
    rows, mask = embedding.tolist(), mask.tolist()
    recalls = []
    for q, query in enumerate(infos):
        label = known(condition, query)
        if label is None:
            continue
        gallery = [
            (loop_distance(rows[q], rows[g], mask), known(condition, other))
            for g, other in enumerate(infos)
            if g != q and known(condition, other) is not None and (other.artist is None or other.artist != query.artist)
        ]
        if isinstance(condition, TagCondition):
            wanted = [lambda other, tag=tag: tag in other for tag in sorted(label)]
        else:
            wanted = [lambda other, bpm=label: abs(other - bpm) <= condition.tolerance_bpm]
        found = [any(has(other) for _, other in sorted(gallery, key=lambda g: (g[0], has(g[1])))[:k]) for has in wanted]
        if any(has(other) for has in wanted for _, other in gallery):
            recalls.append(sum(found) / len(found))
    return recalls


@pytest.mark.parametrize("masks", [MASKS, SOFT_MASKS], ids=["fixed", "soft"])
@pytest.mark.parametrize("seed", [0, 1])
def test_recall_against_a_loop(masks, seed):
    infos = make_infos(40, seed)
    embedding = vectors(40, seed)
    report = retrieval_report(ids_of(infos), embedding, masks, CONDITIONS, infos)
    assert set(report) == {"sub", "all", "chance"}
    for space, masks_of_space in (("sub", masks), ("all", torch.ones_like(masks))):
        assert list(report[space]) == ["genre", "mood", "tempo"]
        for condition, mask in zip(CONDITIONS, masks_of_space, strict=True):
            entry = report[space][condition.name]
            assert list(entry) == ["1", "2", "4", "8", "n"]
            for k in (1, 2, 4, 8):
                expected = loop_recall(embedding, mask, condition, infos, k)
                assert 0 < entry["n"] == len(expected)
                assert entry[str(k)] == pytest.approx(sum(expected) / len(expected), rel=MEAN_ERROR)
    assert report["sub"] != report["all"]


def test_the_loop_sees_partial_recall():
    """Guard the reference: some query of several tags must find a part of them."""
    infos = make_infos(40)
    assert set(loop_recall(vectors(40), MASKS[0], GENRE, infos, 1)) - {0.0, 1.0}


def test_ties_against_a_loop():
    infos = make_infos(40)
    embedding = vectors(40).mul(2).round()  # few different vectors: many equal distances
    report = retrieval_report(ids_of(infos), embedding, MASKS, CONDITIONS, infos)
    for condition, mask in zip(CONDITIONS, MASKS, strict=True):
        for k in (1, 2, 4, 8):
            expected = loop_recall(embedding, mask, condition, infos, k)
            assert report["sub"][condition.name][str(k)] == pytest.approx(sum(expected) / len(expected))


def test_multi_label_recall_by_hand():
    tags = [["jazz", "rock"], ["rock"], ["pop"], ["jazz"], ["folk"]]
    infos = [TrackInfo(f"t{i}", None, 9, {"genre": t}) for i, t in enumerate(tags)]
    embedding = torch.tensor([[0.0], [0.1], [0.25], [0.4], [0.8]])
    entry = retrieval_report(ids_of(infos), embedding, torch.ones(1, 1), [GENRE], infos)["sub"]["genre"]
    # t0 finds rock first and jazz third; t1 finds rock first; t3 finds jazz third; t2 and t4 have no positive
    assert entry == {"1": (0.5 + 1) / 3, "2": (0.5 + 1) / 3, "4": 1.0, "8": 1.0, "n": 3}


def test_unreachable_tag_counts_as_missed():
    tags = [["jazz", "rock"], ["rock"]]
    infos = [TrackInfo(f"t{i}", None, 9, {"genre": t}) for i, t in enumerate(tags)]
    report = retrieval_report(ids_of(infos), vectors(2), torch.ones(1, D), [GENRE], infos)
    expected = {"1": 0.75, "2": 0.75, "4": 0.75, "8": 0.75, "n": 2}
    assert report["sub"]["genre"] == report["chance"]["genre"] == expected


def test_single_labels_give_the_usual_recall():
    infos = [TrackInfo(f"t{i}", None, 9, {"genre": [GENRE.vocabulary[i % 4]]}) for i in range(20)]
    embedding = vectors(20)
    report = retrieval_report(ids_of(infos), embedding, torch.ones(1, D), [GENRE], infos)
    order = torch.cdist(embedding, embedding).fill_diagonal_(torch.inf).argsort(1)
    for k in (1, 2, 4, 8):
        hits = ((order[:, :k] % 4) == (torch.arange(20) % 4)[:, None]).any(1)
        assert report["all"]["genre"][str(k)] == pytest.approx(hits.double().mean().item())


def test_same_artist_is_never_found_and_unknown_artists_are_nobody():
    def first(*artists: str | None) -> float | None:
        infos = [TrackInfo(f"t{i}", artist, 9, {"genre": ["jazz"]}) for i, artist in enumerate(artists[:-1])]
        infos.append(TrackInfo("other", artists[-1], 9, {"genre": ["rock"]}))
        embedding = torch.tensor([[0.0], [0.1], [5.0]])
        return retrieval_report(ids_of(infos), embedding, torch.ones(1, 1), [GENRE], infos)["sub"]["genre"]["1"]

    assert first("X", "Y", "Z") == 1.0
    assert first(None, None, None) == 1.0
    assert first("X", "X", "Y") is None


def test_unlabelled_tracks_are_neither_queries_nor_found():
    infos = make_infos(30)
    embedding = vectors(30)
    expected = retrieval_report(ids_of(infos), embedding, MASKS, CONDITIONS, infos)
    nobody = [TrackInfo(f"u{i}", None, 9, {"genre": ["polka"], "mood": []}) for i in range(30)]
    crowd = torch.cat([embedding, embedding])  # at distance zero from every query
    assert retrieval_report(ids_of(infos + nobody), crowd, MASKS, CONDITIONS, infos + nobody) == expected


def test_undecided_tempi_do_not_compete():
    tempo = TempoCondition(relation="relative")
    bpm = [100.0, 110.0, 102.0, 130.0]  # 110 is neither similar to 100 nor different
    infos = [TrackInfo(f"t{i}", None, 9, {"tempo": value}) for i, value in enumerate(bpm)]
    labels = tempo.encode(bpm)
    aspects = retrieval.find_aspects(tempo, labels, torch.tensor([0]), torch.tensor([[False, True, True, True]]))
    assert aspects.gallery.tolist() == [[False, False, True, True]]
    assert aspects.carrier.tolist() == [[False, False, True, False]]
    embedding = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    entry = retrieval_report(ids_of(infos), embedding, torch.ones(1, 1), [tempo], infos)["sub"]["tempo"]
    assert (entry["1"], entry["n"]) == (1.0, 2)


def test_perfect_embedding():
    infos = make_infos(60)
    genres = [sorted(known(GENRE, info) or ()) for info in infos]
    points = {key: i for i, key in enumerate(sorted({tuple(genre) for genre in genres}))}
    embedding = torch.nn.functional.one_hot(torch.tensor([points[tuple(g)] for g in genres])).float()
    infos = [info._replace(artist=None) for info in infos]
    shared = {tuple(g) for g in genres if genres.count(g) > 1}
    infos = [info for info, g in zip(infos, genres, strict=True) if tuple(g) in shared]
    rows = torch.tensor([tuple(g) in shared for g in genres])
    masks = torch.ones(1, embedding.shape[1])
    entry = retrieval_report(ids_of(infos), embedding[rows], masks, [GENRE], infos)["sub"]["genre"]
    assert [entry[k] for k in ("1", "2", "4", "8")] == [1.0] * 4


@pytest.mark.parametrize("masks", [MASKS, torch.zeros_like(MASKS)], ids=["fixed", "dead"])
def test_collapsed_embedding_scores_zero(masks):
    infos = [TrackInfo(f"t{i}", None, 9, {"genre": [GENRE.vocabulary[i % 4]], "tempo": 60.0 + i}) for i in range(80)]
    report = retrieval_report(ids_of(infos), torch.ones(80, D), masks[:2], [GENRE, TEMPO], infos)
    for space, name in itertools.product(("sub", "all"), ("genre", "tempo")):
        assert report[space][name] == {"1": 0.0, "2": 0.0, "4": 0.0, "8": 0.0, "n": 80}
        assert report["chance"][name]["1"] > 0


def test_collapsed_embedding_finds_what_cannot_be_missed():
    everybody = torch.ones(1, 9, dtype=torch.bool)
    for carriers, expected in ((9, [1.0] * 4), (8, [0.0, 1.0, 1.0, 1.0]), (1, [0.0, 0.0, 0.0, 0.0])):
        carrier = torch.arange(9)[None] < carriers
        aspects = Aspects(everybody, torch.tensor([0]), carrier)
        assert recall_at_k(torch.zeros(1, 9), aspects).tolist() == [expected]


@pytest.mark.parametrize(("gallery", "carriers"), [(20, 3), (5, 1), (5, 5), (9, 2), (3, 1), (6, 0), (3, 0), (0, 0)])
def test_chance_is_the_hypergeometric_formula(gallery, carriers):
    found = hit_chance(torch.tensor([carriers]), torch.tensor([gallery]))[0].tolist()
    for k, value in zip((1, 2, 4, 8), found, strict=True):
        drawn = min(k, gallery)
        assert value == pytest.approx(1 - math.comb(gallery - carriers, drawn) / math.comb(gallery, drawn), abs=1e-12)


def test_chance_against_a_simulation():
    draw = random.Random(0)
    for k, value in zip((1, 2, 4, 8), hit_chance(torch.tensor([3]), torch.tensor([20]))[0].tolist(), strict=True):
        hits = sum(min(draw.sample(range(20), k)) < 3 for _ in range(10_000))
        assert hits / 10_000 == pytest.approx(value, abs=SIMULATION_ERROR)


def test_chance_of_the_report_is_the_mean_over_random_embeddings():
    infos = make_infos(25)
    runs = [retrieval_report(ids_of(infos), vectors(25, seed), MASKS, CONDITIONS, infos) for seed in range(300)]
    for name in ("genre", "mood", "tempo"):
        for k in ("1", "2", "4", "8"):
            values = torch.tensor([run["sub"][name][k] for run in runs])
            error = 4 * values.std().item() / len(values) ** 0.5 + 1e-6
            assert values.mean().item() == pytest.approx(runs[0]["chance"][name][k], abs=error)
        assert runs[0]["chance"][name]["n"] == runs[0]["sub"][name]["n"]


@pytest.mark.parametrize("block", [1, 7, 39, 40, 41])
def test_blocks_change_nothing(monkeypatch, block):
    infos, embedding = make_infos(40), vectors(40)
    expected = retrieval_report(ids_of(infos), embedding, MASKS, CONDITIONS, infos)
    expected_track = track_recall(embedding, vectors(40, 1) + embedding)
    monkeypatch.setattr(retrieval, "QUERIES_PER_BLOCK", block)
    assert retrieval_report(ids_of(infos), embedding, MASKS, CONDITIONS, infos) == expected
    assert track_recall(embedding, vectors(40, 1) + embedding) == expected_track


def test_order_of_tracks_and_of_infos_changes_nothing():
    infos, embedding = make_infos(40), vectors(40)
    report = retrieval_report(ids_of(infos), embedding, MASKS, CONDITIONS, infos)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    more = [*make_infos(50)[40:], *reversed(infos)]
    shuffled = retrieval_report([infos[i].track_id for i in order], embedding[order], MASKS, CONDITIONS, more)
    for space, name in itertools.product(report, ("genre", "mood", "tempo")):
        assert shuffled[space][name] == pytest.approx(report[space][name], rel=MEAN_ERROR)


def test_scaling_the_other_subspaces_changes_nothing():
    infos, embedding = make_infos(40), vectors(40)
    other = torch.where(MASKS[0] > 0, embedding, 10 * embedding)
    there, back = (
        retrieval_report(ids_of(infos), x, MASKS[:1], [GENRE], infos)["sub"]["genre"] for x in (embedding, other)
    )
    assert there == back


@pytest.mark.parametrize("n", [0, 1])
def test_report_without_queries_has_null(n):
    infos = make_infos(n)
    report = retrieval_report(ids_of(infos), vectors(n), MASKS, CONDITIONS, infos)
    nothing = {"1": None, "2": None, "4": None, "8": None, "n": 0}
    assert report == {space: dict.fromkeys(["genre", "mood", "tempo"], nothing) for space in ("sub", "all", "chance")}
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"track_ids": ["t0", "t1", "t1"]}, r"twice: \['t1'\]"),
        ({"track_ids": ["t0", "t1", "t9"]}, r"without info: \['t9'\]"),
        ({"track_ids": ["t0", "t1"]}, r"2 tracks and 3 conditions do not fit embedding \(3, 6\)"),
        ({"masks": MASKS[:2]}, r"3 conditions do not fit .* masks \(2, 6\)"),
        ({"masks": MASKS[:, :4]}, r"masks \(3, 4\)"),
        (
            {"embedding": torch.tensor([[0.0] * D, [0.0] * D, [torch.nan] * D])},
            r"not finite in 1 of 3 rows, first in 2",
        ),
        ({"masks": MASKS * torch.inf}, "masks has values that are not finite"),
    ],
)
def test_malformed(change, match):
    arguments = {"track_ids": ["t0", "t1", "t2"], "embedding": vectors(3), "masks": MASKS}
    with pytest.raises(ValueError, match=match):
        retrieval_report(**{**arguments, **change}, conditions=CONDITIONS, infos=make_infos(3))


def test_track_recall_against_a_loop():
    first = vectors(30)
    last = first + 0.7 * vectors(30, seed=1)
    hits = []
    for i, query in enumerate(first.tolist()):
        distances = [loop_distance(query, other, [1.0] * D) for other in last.tolist()]
        hits.append(all(distances[i] < d for j, d in enumerate(distances) if j != i))
    found = track_recall(first, last)
    assert found.accuracy == pytest.approx(sum(hits) / 30)
    assert 0 < found.ci95[0] < found.accuracy < found.ci95[1] < 1
    assert found.n == 30


def test_track_recall_of_perfect_collapsed_tied_and_empty():
    assert track_recall(vectors(100), vectors(100)).accuracy == 1.0
    assert track_recall(torch.ones(100, D), torch.ones(100, D)).accuracy == 0.0
    twins = torch.tensor([[0.0], [0.0], [1.0]])
    assert track_recall(twins, twins).accuracy == pytest.approx(1 / 3)
    empty = track_recall(torch.empty(0, D), torch.empty(0, D))
    assert math.isnan(empty.accuracy)
    assert empty.n == 0


@pytest.mark.parametrize(
    ("first", "last", "match"),
    [
        (torch.ones(2, D), torch.ones(3, D), r"\(2, 6\) and \(3, 6\)"),
        (torch.ones(2), torch.ones(2), r"one shape \(N, D\)"),
        (torch.ones(1, D), torch.full((1, D), torch.nan), "last has values that are not finite"),
    ],
)
def test_malformed_chunks(first, last, match):
    with pytest.raises(ValueError, match=match):
        track_recall(first, last)
