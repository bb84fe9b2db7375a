"""The linear probe: its averages against loops, what it may see, and degenerate embeddings."""

import json
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from disentangled_ml.evaluation.probe import probe_report, probed_tags
from disentangled_ml.network.masks import disjoint_blocks
from disentangled_ml.objective.conditions import TagCondition, TempoCondition
from disentangled_ml.structures import TrackInfo

D = 8
GENRE = TagCondition("genre", ("jazz", "rock", "pop"))
MOOD = TagCondition("mood", ("sad", "happy"))
CONDITIONS = [GENRE, TempoCondition(), MOOD]
MASKS = disjoint_blocks(3, 9)[:, :D]
SCORE_ERROR = 1e-6  # the solver stops at a gradient, not at the optimum; ranks hardly ever differ


def make_tracks(n: int, seed: int) -> tuple[torch.Tensor, list[TrackInfo]]:
    """Make tracks whose genres shift dimensions 0 to 2 and whose moods shift dimension 6; some have no label."""
    generator = np.random.default_rng(seed)
    embedding = generator.normal(size=(n, D))
    infos = []
    for i in range(n):
        labels: dict[str, list[str] | float] = {"tempo": 100.0}
        if i % 5:
            labels["genre"] = [tag for tag in GENRE.vocabulary if generator.random() < 0.4] or ["polka"]
            embedding[i, :3] += [1.5 * (tag in labels["genre"]) for tag in GENRE.vocabulary]
        if i % 3:
            labels["mood"] = [MOOD.vocabulary[int(generator.random() < 0.3)]]
            embedding[i, 6] += 1.5 * (labels["mood"] == ["happy"])
        infos.append(TrackInfo(f"t{i}", None, 500, labels))
    return torch.tensor(embedding, dtype=torch.float32), infos


TRAIN, TRAIN_INFOS = make_tracks(150, 0)
TEST, TEST_INFOS = make_tracks(90, 1)


def loop_auc(has_tag: list[bool], scores: list[float]) -> float:
    pairs = [
        (p > n) + (p == n) / 2
        for p, positive in zip(scores, has_tag, strict=True)
        if positive
        for n, other in zip(scores, has_tag, strict=True)
        if not other
    ]
    return sum(pairs) / len(pairs)


def loop_precision(has_tag: list[bool], scores: list[float]) -> float:
    """Average the precision at each track with the tag; scores are all different."""
    ranked = [tag for _, tag in sorted(zip(scores, has_tag, strict=True), reverse=True)]
    precisions = [sum(ranked[: i + 1]) / (i + 1) for i, tag in enumerate(ranked) if tag]
    return sum(precisions) / len(precisions)


def labelled(condition: TagCondition, infos: list[TrackInfo]) -> list[int]:
    return [i for i, info in enumerate(infos) if set(info.labels.get(condition.name, ())) & set(condition.vocabulary)]


def loop_probe(condition: TagCondition, columns: list[int]) -> tuple[float, float]:
    rows, test_rows = labelled(condition, TRAIN_INFOS), labelled(condition, TEST_INFOS)
    x, y = TRAIN[rows][:, columns].double().numpy(), TEST[test_rows][:, columns].double().numpy()
    mean, deviation = x.mean(0), x.std(0)
    x, y = (x - mean) / deviation, (y - mean) / deviation
    aucs, precisions = [], []
    for tag in condition.vocabulary:
        has_tag = [tag in TRAIN_INFOS[i].labels[condition.name] for i in rows]
        model = LogisticRegression(C=1.0, max_iter=1000).fit(x, has_tag)
        scores = [float(row @ model.coef_[0]) for row in y]
        truth = [tag in TEST_INFOS[i].labels[condition.name] for i in test_rows]
        aucs.append(loop_auc(truth, scores))
        precisions.append(loop_precision(truth, scores))
    return sum(aucs) / len(aucs), sum(precisions) / len(precisions)


@pytest.mark.parametrize("condition", [GENRE, MOOD], ids=["several tags", "one tag"])
def test_report_against_loops(condition):
    report = json.loads(
        json.dumps(probe_report(TRAIN, TRAIN_INFOS, TEST, TEST_INFOS, MASKS, CONDITIONS), allow_nan=False)
    )
    assert list(report) == ["genre", "mood"]
    entry = report[condition.name]
    mask = MASKS[CONDITIONS.index(condition)]
    for space, columns in (("sub", mask.nonzero()[:, 0].tolist()), ("all", list(range(D)))):
        auc, precision = loop_probe(condition, columns)
        assert entry[space]["roc_auc"] == pytest.approx(auc, abs=SCORE_ERROR)
        assert entry[space]["pr_auc"] == pytest.approx(precision, abs=SCORE_ERROR)
        assert entry[space]["tags"] == len(condition.vocabulary)
        assert entry[space]["roc_auc"] > 0.75
    tags = [TEST_INFOS[i].labels[condition.name] for i in labelled(condition, TEST_INFOS)]
    prevalence = [sum(tag in of_track for of_track in tags) / len(tags) for tag in condition.vocabulary]
    assert entry["chance_pr"] == pytest.approx(sum(prevalence) / len(prevalence))


def test_only_the_own_subspace_is_seen():
    swapped = MASKS[[2, 1, 0]]
    report = probe_report(TRAIN, TRAIN_INFOS, TEST, TEST_INFOS, swapped, CONDITIONS)
    for name in ("genre", "mood"):
        assert report[name]["sub"]["roc_auc"] < 0.65 < 0.75 < report[name]["all"]["roc_auc"]


def test_weights_of_the_mask_do_not_matter():
    weights = torch.rand(D, generator=torch.Generator().manual_seed(0)) + 0.1
    plain, weighted = (
        probe_report(TRAIN, TRAIN_INFOS, TEST, TEST_INFOS, m, CONDITIONS) for m in (MASKS, MASKS * weights)
    )
    assert plain == weighted


def test_unlabelled_tracks_take_no_part():
    report = probe_report(TRAIN, TRAIN_INFOS, TEST, TEST_INFOS, MASKS, CONDITIONS)
    nobody = [TrackInfo(f"u{i}", None, 9, {"genre": ["polka"]}) for i in range(20)]
    train, test = (torch.cat([x, 100 * torch.ones(20, D)]) for x in (TRAIN, TEST))
    assert probe_report(train, TRAIN_INFOS + nobody, test, TEST_INFOS + nobody, MASKS, CONDITIONS) == report


def test_two_runs_are_equal():
    first, second = (probe_report(TRAIN, TRAIN_INFOS, TEST, TEST_INFOS, MASKS, CONDITIONS) for _ in range(2))
    assert first == second


def test_order_of_test_tracks_and_order_within_a_subspace_change_nothing():
    report = probe_report(TRAIN, TRAIN_INFOS, TEST, TEST_INFOS, MASKS, CONDITIONS)
    order, columns = list(range(len(TEST)))[::-1], [2, 0, 1, 5, 3, 4, 7, 6]
    shuffled = probe_report(
        TRAIN[:, columns], TRAIN_INFOS, TEST[order][:, columns], [TEST_INFOS[i] for i in order], MASKS, CONDITIONS
    )
    for name, entry in report.items():
        for space in ("sub", "all"):
            assert shuffled[name][space] == pytest.approx(
                entry[space], abs=1e-3
            )  # one swapped pair of near-equal scores


@pytest.mark.parametrize("masks", [MASKS, torch.zeros_like(MASKS)], ids=["fixed", "dead"])
def test_collapsed_embedding_is_at_chance(masks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = probe_report(torch.ones(150, D), TRAIN_INFOS, torch.ones(90, D), TEST_INFOS, masks, CONDITIONS)
    for entry in report.values():
        for space in ("sub", "all"):
            assert entry[space]["roc_auc"] == 0.5
            assert entry[space]["pr_auc"] == pytest.approx(entry["chance_pr"])


def test_perfect_embedding():
    def told(infos):
        return GENRE.encode([info.labels.get("genre") for info in infos]).float()

    entry = probe_report(told(TRAIN_INFOS), TRAIN_INFOS, told(TEST_INFOS), TEST_INFOS, torch.ones(1, 3), [GENRE])[
        "genre"
    ]
    assert entry["sub"] == entry["all"] == {"roc_auc": 1.0, "pr_auc": 1.0, "tags": 3}


def test_tags_without_both_classes_are_left_out():
    train = np.array([[1, 0, 1, 1, 0], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1]], dtype=bool)
    test = np.array([[1, 1, 0, 1, 0], [0, 0, 1, 1, 0]], dtype=bool)
    assert probed_tags(train, test).tolist() == [2]


def test_a_tag_of_one_split_only_changes_no_average():
    def rarer(infos):
        return [i._replace(labels={k: [*v, "rare"] if k == "genre" else v for k, v in i.labels.items()}) for i in infos]

    wider = TagCondition("genre", ("rare", *GENRE.vocabulary))
    rows, test_rows = labelled(GENRE, TRAIN_INFOS), labelled(GENRE, TEST_INFOS)
    train_infos, test_infos = [TRAIN_INFOS[i] for i in rows], [TEST_INFOS[i] for i in test_rows]
    expected = probe_report(TRAIN[rows], train_infos, TEST[test_rows], test_infos, MASKS[:1], [GENRE])
    found = probe_report(TRAIN[rows], train_infos, TEST[test_rows], rarer(test_infos), MASKS[:1], [wider])
    assert found == expected


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (TRAIN_INFOS, [i._replace(labels={}) for i in TEST_INFOS]),
        ([i._replace(labels={}) for i in TRAIN_INFOS], TEST_INFOS),
    ],
    ids=["no test labels", "no training labels"],
)
def test_no_tag_gives_null(train, test):
    nothing = {"roc_auc": None, "pr_auc": None, "tags": 0}
    report = probe_report(TRAIN, train, TEST, test, MASKS, CONDITIONS)
    assert report == {name: {"sub": nothing, "all": nothing, "chance_pr": None} for name in ("genre", "mood")}


def test_no_tracks_give_null():
    report = probe_report(TRAIN[:0], [], TEST[:0], [], MASKS, CONDITIONS)
    assert report["genre"] == {
        "sub": {"roc_auc": None, "pr_auc": None, "tags": 0},
        "all": {"roc_auc": None, "pr_auc": None, "tags": 0},
        "chance_pr": None,
    }


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"masks": MASKS[:2]}, r"2 masks do not fit the conditions \['genre', 'tempo', 'mood'\]"),
        ({"masks": MASKS[:, :5]}, r"train embedding is \(150, 8\), .* need \(150, 5\)"),
        ({"train": TRAIN[:9]}, r"train embedding is \(9, 8\), .* need \(150, 8\)"),
        ({"test_infos": TEST_INFOS[:9]}, r"test embedding is \(90, 8\), .* need \(9, 8\)"),
        ({"test": torch.full((90, D), torch.nan)}, "test embedding of track 't0' is not finite"),
    ],
)
def test_malformed(change, match):
    arguments = {"train": TRAIN, "train_infos": TRAIN_INFOS, "test": TEST, "test_infos": TEST_INFOS, "masks": MASKS}
    with pytest.raises(ValueError, match=match):
        probe_report(**{**arguments, **change}, conditions=CONDITIONS)
