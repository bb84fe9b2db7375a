"""Scores of change points against mir_eval and plain arithmetic, and the choice of a threshold."""

import mir_eval
import numpy as np
import pytest
import torch

from disentangled_ml.trajectories.change_metrics import (
    WINDOWS,
    boundary_f,
    choose_threshold,
    found_in,
    intervals,
    mean_f,
    pooled_f,
)
from disentangled_ml.trajectories.change_points import Novelty


def bumps(*heights: tuple[float, float], seconds: int = 30) -> Novelty:
    """Make a curve of one value per second with peaks of some heights at some times."""
    values = torch.zeros(seconds)
    for time, height in heights:
        values[int(time)] = height
    return Novelty(torch.arange(seconds).double(), values)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("seed", range(4))
def test_counts_give_mir_evals_f(window, seed):
    rng = np.random.default_rng(seed)
    true, found = (sorted(rng.uniform(1, 59, n).tolist()) for n in (6, 8))
    expected = mir_eval.segment.detection(intervals(true, 60.0), intervals(found, 60.0), window, trim=True)[2]
    assert boundary_f(true, found, 60.0, window) == pytest.approx(expected)
    assert pooled_f([true], [found], window) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("true", "found", "expected"),
    [
        ([10.0], [10.0], 1.0),
        ([10.0], [13.0], 1.0),
        ([10.0], [13.01], 0.0),
        ([10.0], [9.0, 11.0], 2 / 3),
        ([10.0, 20.0], [10.0], 2 / 3),
        ([], [10.0], 0.0),
        ([10.0], [], 0.0),
        ([], [], 0.0),
    ],
)
def test_one_recording(true, found, expected):
    assert boundary_f(true, found, 30.0, 3.0) == pytest.approx(expected)


def test_all_recordings_together_count_false_alarms():
    true, found = [[10.0], [], [5.0]], [[10.0], [20.0], []]
    assert pooled_f(true, found) == 0.5  # one hit, two true, two found
    assert pooled_f([], []) == 0.0


def test_mean_over_recordings():
    report = mean_f([[10.0], [10.0], [10.0]], [[10.2], [12.0], []], [30.0] * 3)
    assert report["f_3"] == pytest.approx(2 / 3)
    assert report["f_0.5"] == pytest.approx(1 / 3)
    low, high = report["ci95"]
    assert 0 <= low < 2 / 3 < high <= 1
    assert report["n"] == 3
    perfect = mean_f([[10.0]], [[10.0]], [30.0])
    assert (perfect["f_3"], perfect["ci95"]) == (1.0, [1.0, 1.0])
    with pytest.raises(ValueError, match="no recording"):
        mean_f([], [], [])


def test_the_threshold_is_the_best_of_all():
    curves = [bumps((10, 0.8), (20, 0.3)), bumps((12, 0.5), (25, 0.45)), bumps((9, 0.4))]
    true = [[10.0], [12.0], []]
    chosen = choose_threshold(curves, true, min_gap=3.0)
    assert 0.45 < chosen <= 0.5
    scores = {
        threshold: pooled_f(true, found_in(curves, threshold, 3.0)) for threshold in np.arange(0.05, 1.0, 0.01).tolist()
    }
    assert pooled_f(true, found_in(curves, chosen, 3.0)) == max(scores.values()) == 1.0


def test_of_equally_good_thresholds_the_highest():
    # at 0.2: two hits and one false; at 0.6: one hit, none false; both give 2/3
    curves, true = [bumps((10, 0.6)), bumps((10, 0.2), (20, 0.25)), bumps((5, 0.22))], [[10.0], [10.0], []]
    assert pooled_f(true, found_in(curves, 0.2, 3.0)) == pytest.approx(2 / 3)
    assert pooled_f(true, found_in(curves, 0.6, 3.0)) == pytest.approx(2 / 3)
    assert choose_threshold(curves, true, 3.0) == pytest.approx((0.6 + 0.25) / 2)


def test_nothing_to_choose_by():
    with pytest.raises(ValueError, match="no threshold can be chosen"):
        choose_threshold([bumps((10, 0.5))], [[]], 3.0)
    with pytest.raises(ValueError, match="no threshold can be chosen"):
        choose_threshold([Novelty(torch.empty(0), torch.empty(0))], [[1.0]], 3.0)
