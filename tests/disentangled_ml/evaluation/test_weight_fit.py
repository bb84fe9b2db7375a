"""Weights fitted to people: against scikit-learn, on simulated raters of known weights, and where there is little to fit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks.weights import WEIGHTS, simulate
from disentangled_ml.evaluation.weight_fit import PRIOR, Votes, fit, held_out_scores, weight_report

NAMES, TRUE = list(WEIGHTS), np.array([*WEIGHTS.values()])


def drawn(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    votes, _ = simulate(TRUE, n, 4, seed=seed)
    return votes.difference, votes.counts()


@pytest.fixture(scope="module")
def simulated() -> tuple[Votes, dict]:
    votes, _ = simulate(TRUE, 300, 5, seed=1)
    return votes, weight_report(votes, NAMES)


def test_known_weights_are_recovered_within_their_intervals(simulated):
    _, report = simulated
    for name, share in zip(NAMES, TRUE / TRUE.sum(), strict=True):
        low, high = report["shares"][name]["ci95"]
        assert low <= share <= high
        assert high - low < 0.12
    assert max(report["weights"].values()) == report["weights"]["genre"] == 1
    assert report["accuracy"]["gain"]["ci95"][0] > 0


def test_interior_weights_are_those_of_scikit_learn():
    difference, counts = drawn(200)
    unit = np.sqrt((difference**2).mean())
    x, y = np.concatenate([difference, difference]) / unit, np.repeat([1, 0], len(difference))
    peer = LogisticRegression(C=1 / PRIOR, fit_intercept=False, tol=1e-10, max_iter=10_000)
    peer.fit(x, y, sample_weight=counts.T.ravel())
    assert (peer.coef_ > 0).all()
    assert fit(difference, counts) * unit == pytest.approx(peer.coef_[0], rel=0.01)


def test_a_condition_that_people_go_against_gets_no_weight():
    votes, _ = simulate(np.array([*TRUE, -0.6]), 100, 4)
    assert fit(votes.difference, votes.counts())[3] == 0


def test_a_condition_that_tells_nothing_apart_gets_no_weight():
    difference, counts = drawn()
    v = fit(np.column_stack([difference, np.zeros(len(difference))]), counts)
    assert v[3] == 0
    assert v[0] > 0


def test_swapping_the_two_candidates_changes_nothing():
    difference, counts = drawn()
    swapped = np.arange(len(difference)) % 2 == 0
    turned = np.where(swapped[:, None], counts[:, ::-1], counts)
    other = np.where(swapped[:, None], -difference, difference)
    assert fit(other, turned) == pytest.approx(fit(difference, counts), rel=0.01)


def test_no_question_takes_part_in_its_own_judgement():
    difference, counts = drawn()
    before = held_out_scores(difference, counts)
    counts[7] = [1000.0, 0.0]
    after = held_out_scores(difference, counts)
    assert after[7] == pytest.approx(before[7])
    assert (after != before).sum() > len(before) // 2


def test_figures_against_a_loop_over_the_votes(simulated):
    votes, report = simulated
    equal = [
        (votes.difference[q].sum() > 0) == is_first for q, is_first in zip(votes.question, votes.is_first, strict=True)
    ]
    entry = report["accuracy"]["equal"]
    assert entry["accuracy"] == pytest.approx(np.mean(equal))
    assert entry["ci95"][0] < entry["accuracy"] < entry["ci95"][1]
    of_one = [right for right, rater in zip(equal, votes.rater, strict=True) if rater == "rater 2"]
    assert report["raters"]["rater 2"]["equal"] == pytest.approx(np.mean(of_one))
    assert report["accuracy"]["fitted"]["accuracy"] <= report["agreement"]["majority"]


def test_votes_that_weights_separate_stay_finite_and_are_told():
    difference = drawn(60)[0]
    # Far from the border, where the prior could turn an answer.
    difference = difference[np.abs(difference @ TRUE).argsort()[-20:]]
    first = difference @ TRUE > 0
    report = weight_report(Votes(difference, np.arange(20), first, ["Ann"] * 20), NAMES)
    assert report["separated"]
    assert report["agreement"] is None
    assert np.isfinite([*report["weights"].values()]).all()


@pytest.mark.parametrize(
    ("difference", "first", "reason"),
    [
        (np.ones((4, 3)), np.ones(4, bool), "4 questions have a vote: at least 5"),
        (np.zeros((9, 3)), np.ones(9, bool), "all distances are equal"),
        (np.ones((9, 3)), np.zeros(9, bool), "no condition agrees"),
    ],
    ids=["few", "collapsed", "against"],
)
def test_what_cannot_be_fitted_is_told(difference, first, reason):
    with pytest.raises(ValueError, match=reason):
        weight_report(Votes(difference, np.arange(len(first)), first, ["Ann"] * len(first)), NAMES)
