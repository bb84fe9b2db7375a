"""Curves, self-similarity, novelty and change points: re-derived by loops, their properties, and their edges."""

import math

import pytest
import torch
from scipy.signal import find_peaks

from disentangled_ml.evaluation.retrieval import subspaces
from disentangled_ml.trajectories.change_points import (
    Novelty,
    candidate_thresholds,
    change_points,
    chunk_starts,
    novelty,
    peaks,
    principal_curves,
    self_similarity,
)

ATOL = 1e-5  # float32
CHUNK, STEP = 3.0, 0.5


def random_rows(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def starts_of(n: int, hop: float = STEP) -> torch.Tensor:
    return hop * torch.arange(n, dtype=torch.float64)


def curve_of(values: list[float], step: float = 1.0) -> Novelty:
    return Novelty(step * torch.arange(len(values), dtype=torch.float64), torch.tensor(values))


def mean_of(rows: torch.Tensor, chosen: list[int]) -> list[float]:
    return [sum(float(rows[i, d]) for i in chosen) / len(chosen) for d in range(rows.shape[1])]


@pytest.mark.parametrize("context", [3.0, 4.25, 6.0, 100.0])
def test_novelty_is_the_distance_between_the_means_of_what_lies_before_and_after(context):
    n = 30
    rows, starts = random_rows(n), starts_of(n)
    curve = novelty(rows, starts, CHUNK, context, STEP)
    assert curve.times.tolist() == [CHUNK + STEP * k for k in range(len(curve.times))]
    assert curve.times[-1] == starts[-1]
    for time, value in zip(curve.times.tolist(), curve.values.tolist(), strict=True):
        before = [i for i in range(n) if STEP * i >= time - context and STEP * i + CHUNK <= time]
        after = [i for i in range(n) if STEP * i >= time and STEP * i + CHUNK <= time + context]
        assert value == pytest.approx(math.dist(mean_of(rows, before), mean_of(rows, after)), abs=ATOL)


def test_its_square_is_footes_checkerboard_on_squared_distances():
    """Without taper: alike within the sides minus alike across, of - D ** 2 / 2 over means of blocks."""
    n, w = 24, 4
    rows = random_rows(n)
    curve = novelty(rows, starts_of(n, hop=1.0), chunk=1.0, context=float(w), step=1.0)
    similarity = -(torch.cdist(rows, rows) ** 2) / 2
    for middle in range(w, n - w + 1):
        before, after = slice(middle - w, middle), slice(middle, middle + w)
        within = similarity[before, before].mean() + similarity[after, after].mean()
        foote = within - 2 * similarity[before, after].mean()
        assert curve.values[middle - 1] ** 2 == pytest.approx(float(foote), abs=10 * ATOL)


@pytest.mark.parametrize("change", [6.0, 10.0, 17.5])
def test_a_step_has_its_peak_at_the_change_and_its_full_height(change):
    n = 60
    starts = starts_of(n)
    share = ((starts + CHUNK - change) / CHUNK).clamp(0, 1)  # of each chunk that lies behind the change
    curve = novelty(share[:, None].float(), starts, CHUNK, 6.0, STEP)
    assert change_points(curve, threshold=0.9, min_gap=6.0) == [pytest.approx(change)]
    assert curve.values.max() == pytest.approx(1.0, abs=ATOL)


def test_a_steady_track_has_no_novelty_and_shifting_it_changes_nothing():
    rows = random_rows(20)
    steady = novelty(torch.ones(20, 4), starts_of(20), CHUNK, 6.0, STEP)
    assert steady.values.abs().max() < ATOL
    assert change_points(steady, threshold=0.1, min_gap=1.0) == []
    moved = novelty(rows + 7.0, starts_of(20), CHUNK, 6.0, STEP)
    assert torch.allclose(moved.values, novelty(rows, starts_of(20), CHUNK, 6.0, STEP).values, atol=ATOL)


def test_other_subspaces_play_no_part():
    masks = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5, 0.0]])
    rows = random_rows(20)
    other = torch.cat([rows[:, :2], 9 * random_rows(20, 3, seed=1)], dim=1)
    first, again = (
        novelty(subspaces(each, masks)[0], starts_of(20), CHUNK, 6.0, STEP).values for each in (rows, other)
    )
    assert torch.equal(first, again)
    masked = novelty(rows * masks[1], starts_of(20), CHUNK, 6.0, STEP).values
    assert torch.allclose(novelty(subspaces(rows, masks)[1], starts_of(20), CHUNK, 6.0, STEP).values, masked, atol=ATOL)


@pytest.mark.parametrize("n", [1, 2, 6])
def test_a_track_without_two_chunks_in_a_row_has_no_novelty(n):
    assert novelty(random_rows(n), starts_of(n), CHUNK, 6.0, STEP).times.tolist() == []
    assert peaks(novelty(random_rows(n), starts_of(n), CHUNK, 6.0, STEP), 0.0, 1.0) == []


def test_the_shortest_track_with_novelty():
    assert novelty(random_rows(7), starts_of(7), CHUNK, 6.0, STEP).times.tolist() == [3.0]


@pytest.mark.parametrize(("context", "step"), [(2.9, 0.5), (6.0, 0.0)])
def test_illegal_windows(context, step):
    with pytest.raises(ValueError, match=r"must be at least a chunk, 3\.0 s, and step"):
        novelty(random_rows(9), starts_of(9), CHUNK, context, step)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gap", [1, 2, 5])
def test_peaks_are_scipys(seed, gap):
    values = torch.rand(60, generator=torch.Generator().manual_seed(seed))
    values[0] = values[-1] = 0.0  # scipy has no peaks at the ends
    expected = find_peaks(values.numpy(), height=0.5, distance=gap)[0].tolist()
    assert peaks(curve_of(values.tolist()), threshold=0.5, min_gap=float(gap)) == expected


@pytest.mark.parametrize(
    ("values", "threshold", "min_gap", "expected"),
    [
        ([3.0, 1.0, 2.0], 0.0, 1.0, [0, 2]),
        ([1.0, 1.0, 1.0], 0.0, 1.0, [1]),
        ([0.0, 2.0, 2.0, 2.0, 0.0], 2.0, 1.0, [2]),
        ([0.0, 2.0, 2.0, 3.0, 0.0], 2.0, 1.0, [3]),
        ([0.0, 1.0, 0.0, 2.0, 0.0, 1.5, 0.0], 0.5, 2.5, [3]),
        ([0.0, 1.0, 0.0, 2.0, 0.0, 1.5, 0.0], 0.5, 2.0, [1, 3, 5]),
        ([0.0, 1.0, 0.0], 1.1, 1.0, []),
        ([], 0.0, 1.0, []),
    ],
    ids=["ends", "flat", "top", "shoulder", "near", "apart", "low", "empty"],
)
def test_peaks_at_their_limits(values, threshold, min_gap, expected):
    assert peaks(curve_of(values), threshold, min_gap) == expected


def test_candidates_are_the_heights_of_the_maxima():
    curves = [curve_of([0.0, 0.5, 0.0, 0.2, 0.1]), curve_of([0.9, 0.1, 0.5, 0.4])]
    assert candidate_thresholds(curves) == pytest.approx([0.2, 0.5, 0.9])


def test_self_similarity_against_a_loop():
    rows = torch.nn.functional.normalize(random_rows(8), dim=1)
    found = self_similarity(rows)
    for i in range(8):
        for j in range(8):
            assert found[i, j] == pytest.approx(1 - math.dist(rows[i].tolist(), rows[j].tolist()) / 2, abs=ATOL)
    assert torch.equal(found, found.T)
    assert found.diagonal().tolist() == [1.0] * 8
    assert found.min() >= 0


def test_principal_curves_show_the_direction_of_most_change():
    rows = torch.zeros(6, 3)
    rows[:, 1] = torch.tensor([0.0, 0.0, 0.0, 5.0, 5.0, 6.0])
    rows[:, 2] = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    first, second = principal_curves(rows)
    assert first.abs().argmax() == first.argmax()
    assert (first[3:] - first[:3].max() > 4).all() or (first[:3] - first[3:].max() > 4).all()
    assert first.mean() == pytest.approx(0, abs=ATOL)
    assert (first**2).sum() >= (second**2).sum()
    both = torch.cdist(principal_curves(rows, 3).T, principal_curves(rows, 3).T)
    assert torch.allclose(both, torch.cdist(rows, rows), atol=ATOL)  # all components keep the distances


def test_missing_components_are_zero():
    assert principal_curves(torch.ones(1, 4)).tolist() == [[0.0], [0.0]]


def test_chunks_reach_the_first_and_the_last_start():
    for frames in (15, 16, 17, 20):
        if frames < 16:
            with pytest.raises(ValueError, match="15 frames hold no chunk of 16"):
                chunk_starts(frames, 16, 4)
        else:
            starts = chunk_starts(frames, 16, 1)
            assert (starts[0], starts[-1]) == (0, frames - 16)
