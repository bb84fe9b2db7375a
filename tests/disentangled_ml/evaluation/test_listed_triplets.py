"""Evaluation on listed triplets: the table, the distances against a loop, and the report of DESIGN part 5."""

import json
import math

import pytest
import torch

from disentangled_ml.evaluation import listed_triplets as evaluation
from disentangled_ml.evaluation.listed_triplets import (
    EmbeddingTable,
    evaluation_report,
    listed_distances,
    listed_loss,
    without_nan,
)
from disentangled_ml.evaluation.metrics import accuracies, count_correct, mean_accuracy
from disentangled_ml.network.masks import disjoint_blocks
from disentangled_ml.objective.conditions import TagCondition, TempoCondition
from disentangled_ml.objective.losses import DisentangledTripletLoss
from disentangled_ml.reporting.report import accuracy_table
from disentangled_ml.structures import ListedTriplet, Member, TrackChunks, TrackInfo, TripletBatch

NAMES = ["genre", "mood", "tempo"]
D = 6
MASKS = disjoint_blocks(3, D)
DISTANCE_ERROR = 1e-6  # absolute: float32 against Python's float64, distances of at most 2


def listed_accuracy(found: evaluation.Distances, names: list[str]) -> dict[str, float]:
    return accuracies(*count_correct(found.dist_ap, found.dist_an, found.condition, len(names) + 1), names)


def unit_rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def chunks(track: list[int], start: list[int], in_mean: list[bool], ids: list[str]) -> TrackChunks:
    return TrackChunks(torch.empty(len(track), 0), torch.tensor(track), torch.tensor(start), torch.tensor(in_mean), ids)


def filled_table(n: int = 12, seed: int = 0) -> EmbeddingTable:
    rows = unit_rows(2 * n, seed)
    table = EmbeddingTable()
    for i in range(n):
        table.rows[Member(f"t{i}")] = rows[2 * i]
        table.rows[Member(f"t{i}", 64)] = rows[2 * i + 1]
    return table


def random_list(n: int = 80, seed: int = 0, tracks: int = 12) -> list[ListedTriplet]:
    generator = torch.Generator().manual_seed(seed)
    listed = []
    for _ in range(n):
        a, p, q = torch.randperm(tracks, generator=generator)[:3].tolist()
        c = int(torch.randint(4, (1,), generator=generator))
        if c == 3:
            listed.append(ListedTriplet("track", Member(f"t{a}", 64), Member(f"t{a}"), Member(f"t{q}", 64)))
        else:
            listed.append(ListedTriplet(NAMES[c], Member(f"t{a}"), Member(f"t{p}"), Member(f"t{q}")))
    return listed


def test_track_is_the_normalised_mean_of_its_in_mean_chunks():
    embedding = unit_rows(6)
    batch = chunks([1, 0, 0, 1, 1, 0], [0, 0, 64, 50, 129, 129], [True, True, False, False, True, True], ["x", "y"])
    table = EmbeddingTable()
    table.add(batch, embedding)
    for name, rows in (("x", [1, 5]), ("y", [0, 4])):
        mean = [sum(embedding[row, d].item() for row in rows) / len(rows) for d in range(D)]
        length = math.sqrt(sum(value**2 for value in mean))
        assert table.rows[Member(name)].tolist() == pytest.approx([value / length for value in mean], abs=1e-6)
    assert set(table.rows) == {Member("x"), Member("y")}


def test_wanted_chunks_are_kept_as_they_are():
    embedding = unit_rows(3)
    table = EmbeddingTable(wanted={Member("x", 50), Member("x", 129), Member("x", 7), Member("y", 0)})
    table.add(chunks([0, 0, 0], [0, 50, 129], [True, False, True], ["x"]), embedding)
    assert set(table.rows) == {Member("x"), Member("x", 50), Member("x", 129)}
    assert torch.equal(table.rows[Member("x", 50)], embedding[1])
    assert torch.equal(table.rows[Member("x", 129)], embedding[2])


def test_track_that_comes_again_counts_once():
    embedding = unit_rows(4)
    table = EmbeddingTable()
    table.add(chunks([0, 0], [0, 129], [True, True], ["x"]), embedding[:2])
    first = table.rows[Member("x")]
    table.add(chunks([1, 0], [0, 0], [True, True], ["y", "z"]), embedding[2:])
    table.add(chunks([0, 0], [0, 129], [True, True], ["x"]), embedding[:2])
    assert torch.equal(table.rows[Member("x")], first)
    assert table.tracks()[0] == ["x", "y", "z"]


def test_table_keeps_no_graph_and_is_float32():
    embedding = unit_rows(2).half().requires_grad_()
    table = EmbeddingTable(wanted={Member("x", 0)})
    table.add(chunks([0, 0], [0, 129], [True, True], ["x"]), embedding)
    assert all(row.dtype == torch.float32 and not row.requires_grad for row in table.rows.values())


def test_tracks_are_sorted_and_without_chunks():
    table = EmbeddingTable(wanted={Member("b", 0)})
    embedding = unit_rows(3)
    table.add(chunks([0, 1, 2], [0, 0, 0], [True] * 3, ["b", "c", "a"]), embedding)
    ids, rows = table.tracks()
    assert ids == ["a", "b", "c"]
    torch.testing.assert_close(rows, embedding[[2, 0, 1]])


def test_tracks_of_an_empty_table():
    ids, rows = EmbeddingTable().tracks()
    assert ids == []
    assert len(rows) == 0


def loop_distances(table, listed, masks):
    pairs = []
    for t in listed:
        mask = [1.0] * D if t.condition == "track" else masks[NAMES.index(t.condition)].tolist()
        rows = [table.rows[member].tolist() for member in (t.anchor, t.positive, t.negative)]
        pairs.append(
            [
                math.sqrt(sum(((a - b) * m) ** 2 for a, b, m in zip(rows[0], other, mask, strict=True)))
                for other in rows[1:]
            ]
        )
    return pairs


@pytest.mark.parametrize("block", [1, 7, 79, 80, 81, 8192])
@pytest.mark.parametrize(
    "masks", [MASKS, torch.rand(3, D, generator=torch.Generator().manual_seed(5))], ids=["fixed", "soft"]
)
def test_distances_against_a_loop(monkeypatch, block, masks):
    monkeypatch.setattr(evaluation, "TRIPLETS_PER_BLOCK", block)
    table, listed = filled_table(), random_list(80)
    found = listed_distances(table, listed, masks, NAMES)
    expected = torch.tensor(loop_distances(table, listed, masks))
    torch.testing.assert_close(found.dist_ap, expected[:, 0], atol=DISTANCE_ERROR, rtol=0)
    torch.testing.assert_close(found.dist_an, expected[:, 1], atol=DISTANCE_ERROR, rtol=0)
    assert found.condition.tolist() == [[*NAMES, "track"].index(t.condition) for t in listed]
    assert found.anchors == [t.anchor.track_id for t in listed]
    assert found.skipped == {"genre": 0, "mood": 0, "tempo": 0, "track": 0}


def test_swapping_positive_and_negative_flips_the_accuracy():
    table, listed = filled_table(), random_list(200)
    swapped = [ListedTriplet(t.condition, t.anchor, t.negative, t.positive) for t in listed]
    there, back = (listed_accuracy(listed_distances(table, x, MASKS, NAMES), NAMES) for x in (listed, swapped))
    for name in (*NAMES, "track", "mean"):
        assert 0 < there[name] < 1
        assert back[name] == pytest.approx(1 - there[name])


@pytest.mark.parametrize("member", ["anchor", "positive", "negative"])
def test_triplets_with_a_missing_member_are_skipped_and_counted(member):
    table = filled_table()
    listed = random_list(20)
    absent = [
        listed[0]._replace(condition="genre", **{member: Member("nowhere")}),
        listed[0]._replace(condition="genre", **{member: Member("t0", 65)}),  # the track is there, the chunk is not
        listed[0]._replace(condition="track", **{member: Member("nowhere", 0)}),
    ]
    found = listed_distances(table, [*absent[:1], *listed, *absent[1:]], MASKS, NAMES)
    expected = listed_distances(table, listed, MASKS, NAMES)
    assert found.skipped == {"genre": 2, "mood": 0, "tempo": 0, "track": 1}
    assert torch.equal(found.dist_ap, expected.dist_ap)
    assert torch.equal(found.condition, expected.condition)
    assert found.anchors == expected.anchors


@pytest.mark.parametrize("table", [EmbeddingTable(), filled_table()], ids=["empty table", "full table"])
@pytest.mark.parametrize("listed", [[], random_list(5, tracks=3)], ids=["empty list", "list"])
def test_nothing_to_compare(table, listed):
    if table.rows and listed:
        listed = [t._replace(anchor=Member("nowhere")) for t in listed]
    found = listed_distances(table, listed, MASKS, NAMES)
    assert found.dist_ap.shape == found.dist_an.shape == found.condition.shape == (0,)
    assert sum(found.skipped.values()) == len(listed)
    assert all(math.isnan(value) for value in listed_accuracy(found, NAMES).values())
    assert listed_loss(found, 3, 0.1, 0.5) == 0.0


def test_unknown_condition():
    listed = [*random_list(3), random_list(1)[0]._replace(condition="colour")]
    with pytest.raises(ValueError, match=r"\['colour'\].*\['genre', 'mood', 'tempo', 'track'\]"):
        listed_distances(filled_table(), listed, MASKS, NAMES)


def test_listed_loss_is_the_loss_of_training():
    table, listed = filled_table(), random_list(80)
    row = {member: i for i, member in enumerate(table.rows)}
    indices = torch.tensor([[row[member] for member in t[1:]] for t in listed])
    condition = torch.tensor([[*NAMES, "track"].index(t.condition) for t in listed])
    for weight in (1.0, 0.0, 0.3):
        terms = DisentangledTripletLoss(0.2, 0.7, condition_weight=weight)(
            torch.stack(list(table.rows.values())), MASKS, TripletBatch(indices, condition)
        )
        found = listed_loss(listed_distances(table, listed, MASKS, NAMES), 3, 0.2, 0.7, weight)
        assert found == pytest.approx(terms.total.item(), rel=1e-5)
        assert found > 0


def test_listed_accuracy_against_a_loop_and_plain_mean_over_conditions():
    table, listed = filled_table(), random_list(90)
    found = listed_accuracy(listed_distances(table, listed, MASKS, NAMES), NAMES)
    outcomes: dict[str, list[bool]] = {}
    for t, (ap, an) in zip(listed, loop_distances(table, listed, MASKS), strict=True):
        outcomes.setdefault(t.condition, []).append(ap < an)
    expected = {name: sum(values) / len(values) for name, values in outcomes.items()}
    assert found == pytest.approx({**expected, "mean": sum(expected[name] for name in NAMES) / 3})


def test_mean_leaves_out_conditions_without_triplets():
    assert mean_accuracy([0.25, float("nan"), 0.75]) == 0.5
    assert math.isnan(mean_accuracy([float("nan")]))
    assert math.isnan(mean_accuracy([]))


def test_report_has_the_form_of_the_contract():
    table, listed = filled_table(), random_list(120)
    listed.append(ListedTriplet("mood", Member("gone"), Member("t1"), Member("t2")))
    report = json.loads(json.dumps(evaluation_report(table, listed, MASKS, NAMES), allow_nan=False))
    assert set(report) == {"sub", "all", "track", "skipped", "matrix", "disentanglement", "mean_ci95"}
    for space in ("sub", "all"):
        low, high = report["mean_ci95"][space]
        assert low < report[space]["mean"] < high
    assert report["disentanglement"] == evaluation.disentanglement(report["matrix"])
    assert report["skipped"] == {"genre": 0, "mood": 1, "tempo": 0, "track": 0}
    for space, masks in (("sub", MASKS), ("all", torch.ones_like(MASKS))):
        assert set(report[space]) == {*NAMES, "mean"}
        found = listed_distances(table, listed, masks, NAMES)
        for c, name in enumerate(NAMES):
            entry, of_condition = report[space][name], found.condition == c
            assert set(entry) == {"accuracy", "ci95", "n"}
            assert entry["n"] == of_condition.sum() == sum(t.condition == name for t in listed) - (name == "mood")
            correct = (found.dist_ap < found.dist_an)[of_condition]
            assert entry["accuracy"] == pytest.approx(correct.double().mean().item())
            assert 0 <= entry["ci95"][0] <= entry["accuracy"] <= entry["ci95"][1] <= 1
        assert report[space]["mean"] == pytest.approx(sum(report[space][name]["accuracy"] for name in NAMES) / 3)
    assert report["sub"] != report["all"]
    assert set(report["track"]) == {"accuracy", "ci95", "n"}
    assert report["track"]["n"] == sum(t.condition == "track" for t in listed)


def test_report_intervals_are_over_anchor_tracks():
    table = filled_table()
    one_anchor = [t for t in random_list(300) if t.condition == "genre" and t.anchor.track_id == "t1"]
    entry = evaluation_report(table, one_anchor, MASKS, NAMES)["sub"]["genre"]
    assert 0 < entry["accuracy"] < 1
    assert entry["ci95"] == [entry["accuracy"], entry["accuracy"]]


def test_interval_of_the_mean_is_over_the_conditions_alone():
    table, listed = filled_table(), random_list(120)
    report = evaluation_report(table, listed, MASKS, NAMES)
    without_track = evaluation_report(table, [t for t in listed if t.condition != "track"], MASKS, NAMES)
    assert report["mean_ci95"] == without_track["mean_ci95"]
    assert report["mean_ci95"]["sub"] != report["mean_ci95"]["all"]
    genre = evaluation_report(table, [t for t in listed if t.condition == "genre"], MASKS, NAMES)
    for space in ("sub", "all"):
        assert genre["mean_ci95"][space] == pytest.approx(genre[space]["genre"]["ci95"])


def test_report_of_a_perfect_and_a_collapsed_embedding():
    rows = {"a": 1.0, "b": 0.9, "c": -1.0}
    table = EmbeddingTable(rows={Member(name): torch.full((D,), value) for name, value in rows.items()})
    listed = [ListedTriplet(name, Member("a"), Member("b"), Member("c")) for name in (*NAMES, "track")]
    for accuracy in (1.0, 0.0):
        report = evaluation_report(table, listed, MASKS, NAMES)
        assert report["sub"]["mean"] == report["all"]["mean"] == report["track"]["accuracy"] == accuracy
        table.rows = dict.fromkeys(table.rows, torch.ones(D))


def test_report_without_triplets_has_null_for_nan():
    report = evaluation_report(filled_table(), [], MASKS, NAMES)
    nothing = {"accuracy": None, "ci95": [None, None], "n": 0}
    space = {**dict.fromkeys(NAMES, nothing), "mean": None}
    assert report == {
        **{"sub": space, "all": space, "track": nothing, "skipped": dict.fromkeys([*NAMES, "track"], 0)},
        **{"matrix": dict.fromkeys(NAMES, dict.fromkeys(NAMES)), "disentanglement": None},
        "mean_ci95": {"sub": [None, None], "all": [None, None]},
    }
    json.dumps(report, allow_nan=False)


def test_report_where_one_condition_has_no_triplets():
    listed = [t for t in random_list(100) if t.condition != "mood"]
    report = evaluation_report(filled_table(), listed, MASKS, NAMES)
    assert report["sub"]["mood"]["accuracy"] is None
    known = [report["sub"][name]["accuracy"] for name in ("genre", "tempo")]
    assert report["sub"]["mean"] == pytest.approx(sum(known) / 2)


def test_without_nan():
    nan = float("nan")
    assert without_nan({"a": [nan, 1.0], "b": {"c": nan, "d": 0}, "e": "x"}) == {
        "a": [None, 1.0],
        "b": {"c": None, "d": 0},
        "e": "x",
    }


def test_matrix_against_a_loop():
    table, listed = filled_table(), random_list(200)
    masks = torch.rand(3, D, generator=torch.Generator().manual_seed(5))
    matrix = evaluation_report(table, listed, masks, NAMES)["matrix"]
    assert list(matrix) == NAMES
    for row in NAMES:
        assert list(matrix[row]) == NAMES
        own = [t for t in listed if t.condition == row]
        for column, mask in zip(NAMES, masks, strict=True):
            outcomes = [ap < an for ap, an in loop_distances(table, own, mask.expand(3, D))]
            assert matrix[row][column] == pytest.approx(sum(outcomes) / len(outcomes))
    assert len({value for values in matrix.values() for value in values.values()}) > 3


def test_matrix_has_the_accuracies_of_the_report_on_its_diagonal():
    table, listed = filled_table(), random_list(100)
    report = evaluation_report(table, listed, MASKS, NAMES)
    diagonal = [report["matrix"][name][name] for name in NAMES]
    assert diagonal == pytest.approx([report["sub"][name]["accuracy"] for name in NAMES])


def test_matrix_of_a_disentangled_and_a_collapsed_embedding():
    # a is near p in the condition's own dimensions and near n in all others
    listed, rows = [], {}
    for c, name in enumerate(NAMES):
        a, p, n = (Member(f"{name}-{role}") for role in ("anchor", "positive", "negative"))
        rows |= {a: torch.zeros(D), p: 1 - MASKS[c], n: MASKS[c]}
        listed.append(ListedTriplet(name, a, p, n))
    matrix = evaluation_report(EmbeddingTable(rows=rows), listed, MASKS, NAMES)["matrix"]
    assert matrix == {row: {column: float(row == column) for column in NAMES} for row in NAMES}
    assert evaluation.disentanglement(matrix) == 1.0
    collapsed = EmbeddingTable(rows=dict.fromkeys(rows, torch.ones(D)))
    matrix = evaluation_report(collapsed, listed, MASKS, NAMES)["matrix"]
    assert matrix == {row: dict.fromkeys(NAMES, 0.0) for row in NAMES}


def test_without_masks_there_is_no_disentanglement():
    matrix = evaluation_report(filled_table(), random_list(100), torch.ones_like(MASKS), NAMES)["matrix"]
    assert evaluation.disentanglement(matrix) == pytest.approx(0, abs=1e-12)


def test_disentanglement_leaves_out_conditions_without_triplets():
    listed = [t for t in random_list(100) if t.condition != "mood"]
    report = evaluation_report(filled_table(), listed, MASKS, NAMES)
    matrix = report["matrix"]
    assert all(value is None for value in matrix["mood"].values())
    own = (matrix["genre"]["genre"] + matrix["tempo"]["tempo"]) / 2
    others = [matrix["genre"]["mood"], matrix["genre"]["tempo"], matrix["tempo"]["genre"], matrix["tempo"]["mood"]]
    assert report["disentanglement"] == pytest.approx(own - sum(others) / 4)


def test_disentanglement_needs_two_conditions():
    listed = [t for t in random_list(50) if t.condition == "genre"]
    assert evaluation_report(filled_table(), listed, MASKS[:1], ["genre"])["disentanglement"] is None
    assert math.isnan(evaluation.disentanglement({}))


def test_octaves_folded_leaves_out_the_triplets_that_only_an_octave_decides():
    tempi = {"a": 90.0, "b": 92.0, "twice": 181.0, "half": 45.0, "other": 120.0}
    infos = [TrackInfo(name, None, 1, {"tempo": bpm}) for name, bpm in tempi.items()]
    # In its subspace a is nearest to twice: wrong by an octave alone. The rest of the space is the same for all.
    places = {"a": 0.0, "twice": 0.1, "b": 0.2, "half": 0.4, "other": 0.8}
    tempo = MASKS[NAMES.index("tempo")]
    table = EmbeddingTable(rows={Member(name): place * tempo for name, place in places.items()})
    listed = [ListedTriplet("tempo", Member("a"), Member("b"), Member(n)) for n in ("twice", "half", "other")]
    listed.append(ListedTriplet("genre", Member("a"), Member("b"), Member("twice")))
    conditions = [TagCondition("genre", ("x",)), TagCondition("mood", ("y",)), TempoCondition("tempo")]
    report = evaluation.split_report(table, listed, MASKS, conditions, infos)
    assert report["sub"]["tempo"]["accuracy"] == pytest.approx(2 / 3)
    assert set(report["octaves_folded"]) == {"tempo"}
    for space in ("sub", "all"):
        assert report[space]["tempo"]["n"] == 3
        folded = report["octaves_folded"]["tempo"][space]
        assert (folded["accuracy"], folded["n"]) == (1.0, 1)
    row = next(line for line in accuracy_table(report).split("\n") if line.startswith("- octaves folded"))
    assert " ".join(row.split()) == "- octaves folded 1.000 [1.000, 1.000] 1.000 [1.000, 1.000] 1"
