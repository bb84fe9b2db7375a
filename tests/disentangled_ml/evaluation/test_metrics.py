"""Triplet accuracy against a loop and against numpy's bootstrap; empty, collapsed, perfect."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from disentangled_ml.evaluation.metrics import count_correct, mean_intervals, triplet_accuracies, triplet_accuracy

INTERVAL_ERROR = 0.02  # two bootstraps of 1000 and 4000 resamples of an interval about 0.2 wide


def random_outcomes(seed: int, n: int = 200, n_conditions: int = 4):
    generator = torch.Generator().manual_seed(seed)
    dist_ap, dist_an = torch.randint(5, (2, n), generator=generator).float()  # ties occur
    return dist_ap, dist_an, torch.randint(n_conditions, (n,), generator=generator)


@pytest.mark.parametrize("seed", range(4))
def test_counts_against_a_loop(seed):
    dist_ap, dist_an, condition = random_outcomes(seed)
    expected_correct, expected_total = [0] * 5, [0] * 5
    for ap, an, c in zip(dist_ap.tolist(), dist_an.tolist(), condition.tolist(), strict=True):
        expected_correct[c] += ap < an
        expected_total[c] += 1
    correct, total = count_correct(dist_ap, dist_an, condition, 5)
    assert correct.tolist() == expected_correct
    assert total.tolist() == expected_total
    assert total[4] == 0  # a condition without triplets


def test_counts_of_batches_add_up():
    whole = random_outcomes(0)
    parts = [count_correct(*piece, 4) for piece in zip(*(values.split([1, 150, 49]) for values in whole), strict=True)]
    for one, summed in zip(count_correct(*whole, 4), map(sum, zip(*parts, strict=True)), strict=True):
        assert torch.equal(one, summed)


def test_swapping_positive_and_negative_flips_the_accuracy():
    dist_ap, dist_an, condition = random_outcomes(1)
    dist_an = dist_an + 0.5  # no ties
    correct, total = count_correct(dist_ap, dist_an, condition, 4)
    flipped, _ = count_correct(dist_an, dist_ap, condition, 4)
    assert torch.equal(flipped, total - correct)


def test_collapsed_embedding_scores_zero():
    same = torch.full((6,), 0.3)
    correct, total = count_correct(same, same, torch.zeros(6, dtype=torch.int64), 1)
    assert (correct.item(), total.item()) == (0, 6)


def test_nan_distances_are_wrong():
    nan = torch.tensor([float("nan"), 0.1])
    correct, _ = count_correct(nan, nan.flip(0), torch.tensor([0, 0]), 1)
    assert correct.item() == 0


def test_no_triplets_count_nothing():
    correct, total = count_correct(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64), 2)
    assert correct.tolist() == total.tolist() == [0, 0]


def clustered_outcomes(seed: int, n_anchors: int, per_anchor: int) -> tuple[torch.Tensor, list[str]]:
    """Draw outcomes that hang together by anchor: an anchor is mostly right or mostly wrong."""
    rng = np.random.default_rng(seed)
    share = rng.beta(1.0, 0.5, n_anchors)
    sizes = rng.integers(1, 2 * per_anchor, n_anchors)
    correct = np.concatenate([rng.random(size) < p for p, size in zip(share, sizes, strict=True)])
    anchors = [f"t{i}" for i, size in enumerate(sizes) for _ in range(size)]
    order = rng.permutation(len(anchors))
    return torch.from_numpy(correct[order]), [anchors[i] for i in order]


def numpy_interval(correct: torch.Tensor, anchors: list[str], resamples: int = 4000) -> np.ndarray:
    clusters = defaultdict(list)
    for outcome, anchor in zip(correct.tolist(), anchors, strict=True):
        clusters[anchor].append(outcome)
    outcomes, rng = list(clusters.values()), np.random.default_rng(9)
    accuracies = []
    for _ in range(resamples):
        drawn = [outcome for i in rng.integers(len(outcomes), size=len(outcomes)) for outcome in outcomes[i]]
        accuracies.append(np.mean(drawn))
    return np.percentile(accuracies, [2.5, 97.5])


@pytest.mark.parametrize(("n_anchors", "per_anchor"), [(60, 4), (60, 1), (25, 10)])
def test_interval_against_numpy_bootstrap(n_anchors, per_anchor):
    correct, anchors = clustered_outcomes(n_anchors, n_anchors, per_anchor)
    result = triplet_accuracy(correct, anchors)
    assert result.accuracy == pytest.approx(correct.double().mean().item())
    assert result.n == len(correct)
    assert list(result.ci95) == pytest.approx(list(numpy_interval(correct, anchors)), abs=INTERVAL_ERROR)
    assert result.ci95[0] < result.accuracy < result.ci95[1]


def test_interval_is_over_anchors_and_so_wider_than_over_triplets():
    correct, anchors = clustered_outcomes(3, 30, 20)
    clustered = triplet_accuracy(correct, anchors).ci95
    independent = triplet_accuracy(correct, [str(i) for i in range(len(correct))]).ci95
    assert clustered[1] - clustered[0] > 2 * (independent[1] - independent[0])


def test_interval_depends_on_the_seed_alone():
    correct, anchors = clustered_outcomes(5, 30, 3)
    first = triplet_accuracy(correct, anchors)
    torch.manual_seed(3)
    assert triplet_accuracy(correct, anchors) == first
    assert triplet_accuracy(correct, anchors, seed=1).ci95 != first.ci95
    assert triplet_accuracy(correct, anchors, seed=1).accuracy == first.accuracy


def test_names_of_anchors_do_not_matter():
    correct, anchors = clustered_outcomes(5, 30, 3)
    assert triplet_accuracy(correct, [f"other {anchor}" for anchor in anchors]) == triplet_accuracy(correct, anchors)


def test_several_spaces_are_each_as_if_alone(monkeypatch):
    """And so they are where few resamples are drawn at a time."""
    first, anchors = clustered_outcomes(5, 30, 3)
    second = first ^ (torch.arange(len(first)) % 5 == 0)
    expected = [triplet_accuracy(first, anchors), triplet_accuracy(second, anchors)]
    condition = torch.arange(len(first)) % 2
    means = [mean_intervals(outcomes[None], anchors, condition)[0] for outcomes in (first, second)]
    monkeypatch.setattr("disentangled_ml.evaluation.metrics.DRAWN_AT_A_TIME", 70)
    both = torch.stack([first, second])
    assert triplet_accuracies(both, anchors) == expected
    assert mean_intervals(both, anchors, condition) == means


@pytest.mark.parametrize("outcome", [True, False], ids=["perfect", "collapsed"])
def test_extremes_have_an_interval_of_no_width(outcome):
    result = triplet_accuracy(torch.full((8,), outcome), list("aabbccdd"))
    assert result.accuracy == float(outcome)
    assert result.ci95 == (float(outcome), float(outcome))


def test_one_anchor():
    result = triplet_accuracy(torch.tensor([True, False]), ["a", "a"])
    assert (result.accuracy, result.ci95, result.n) == (0.5, (0.5, 0.5), 2)


def test_no_triplets():
    result = triplet_accuracy(torch.empty(0, dtype=torch.bool), [])
    assert math.isnan(result.accuracy)
    assert all(map(math.isnan, result.ci95))
    assert result.n == 0


def numpy_mean_interval(correct, anchors: list[str], condition, resamples: int = 4000) -> np.ndarray:
    by_anchor = defaultdict(list)
    for outcome, anchor, c in zip(correct.tolist(), anchors, condition.tolist(), strict=True):
        by_anchor[anchor].append((c, outcome))
    groups, rng = list(by_anchor.values()), np.random.default_rng(9)
    means = []
    for _ in range(resamples):
        of_condition = defaultdict(list)
        for i in rng.integers(len(groups), size=len(groups)):
            for c, outcome in groups[i]:
                of_condition[c].append(outcome)
        means.append(np.mean([np.mean(outcomes) for outcomes in of_condition.values()]))
    return np.percentile(means, [2.5, 97.5])


@pytest.mark.parametrize("shares", [(0.3, 0.3, 0.4), (0.9, 0.05, 0.05)], ids=["even", "uneven"])
def test_interval_of_the_mean_against_numpy_bootstrap(shares):
    correct, anchors = clustered_outcomes(4, 60, 5)
    generator = torch.Generator().manual_seed(6)
    condition = torch.multinomial(torch.tensor(shares), len(correct), replacement=True, generator=generator)
    correct = correct ^ (condition == 0)  # conditions differ in accuracy
    (found,) = mean_intervals(correct[None], anchors, condition)
    assert list(found) == pytest.approx(list(numpy_mean_interval(correct, anchors, condition)), abs=INTERVAL_ERROR)
    mean = np.mean([correct[condition == c].double().mean().item() for c in range(3)])
    assert found[0] < mean < found[1]


def test_interval_of_the_mean_of_one_condition_is_that_of_its_accuracy():
    correct, anchors = clustered_outcomes(5, 30, 3)
    expected = triplet_accuracy(correct, anchors).ci95
    for c in (0, 2):  # whatever its number: conditions without a triplet do not count
        condition = torch.full((len(correct),), c)
        assert mean_intervals(correct[None], anchors, condition) == [pytest.approx(expected)]


def test_interval_of_the_mean_of_nothing():
    (found,) = mean_intervals(torch.empty(1, 0, dtype=torch.bool), [], torch.empty(0, dtype=torch.int64))
    assert all(map(math.isnan, found))
