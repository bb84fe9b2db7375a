"""The loss, derived again by loops over plain numbers for every kind of mask; and its properties."""

import math

import pytest
import torch

from disentangled_ml.losses import (
    DisentangledTripletLoss,
    masked_distance,
    masked_mean,
    triplet_distances,
    triplet_violation,
    with_track,
)
from disentangled_ml.masks import FixedMasks, LearnedMasks, NoMasks
from disentangled_ml.structures import TripletBatch

LOSS_ERROR = 1e-5  # relative: float32 against Python's float64
B, C, D, T = 9, 3, 12, 60

MASK_KINDS = {
    "fixed": lambda: FixedMasks(C, D),
    "learned-disjoint": lambda: LearnedMasks(C, D),
    "learned-random": lambda: LearnedMasks(C, D, start="random"),
    "none": lambda: NoMasks(C, D),
}


def make_masks(kind: str) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MASK_KINDS[kind]()


def random_batch(seed: int = 0) -> tuple[torch.Tensor, TripletBatch]:
    generator = torch.Generator().manual_seed(seed)
    raw = 3 * torch.randn(B, D, generator=generator)
    indices = torch.stack([torch.randperm(B, generator=generator)[:3] for _ in range(T)])
    return raw, TripletBatch(indices, torch.randint(C + 1, (T,), generator=generator))


def loop_distance(x: list[float], y: list[float], mask: list[float]) -> float:
    return math.sqrt(sum((m * a - m * b) ** 2 for a, b, m in zip(x, y, mask, strict=True)))


def loop_loss(raw, masks, triplets, margin, track_weight, embedding_penalty, mask_penalty) -> dict[str, float]:
    unit = []
    for row in raw.double().tolist():
        length = math.sqrt(sum(v * v for v in row))
        unit.append([v / length for v in row])
    rows = masks.detach().double().tolist()
    sums, counts = {"conditions": 0.0, "track": 0.0}, {"conditions": 0, "track": 0}
    for (a, p, n), c in zip(triplets.indices.tolist(), triplets.condition.tolist(), strict=True):
        part = "track" if c == len(rows) else "conditions"
        mask = [1.0] * raw.shape[1] if part == "track" else rows[c]
        difference = loop_distance(unit[a], unit[p], mask) - loop_distance(unit[a], unit[n], mask)
        sums[part] += max(0.0, difference + margin)
        counts[part] += 1
    terms = {part: sums[part] / max(1, counts[part]) for part in sums}
    terms["total"] = terms["conditions"] + track_weight * terms["track"]
    terms["total"] += (
        embedding_penalty * math.sqrt(sum(v * v for row in raw.tolist() for v in row)) / math.sqrt(len(raw))
    )
    terms["total"] += mask_penalty * sum(abs(v) for row in rows for v in row) / len(raw)
    return terms


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize(
    "weights",
    [(0.1, 0.5, 0.0, 0.0), (0.3, 0.0, 0.0, 0.0), (0.0, 2.0, 5e-3, 5e-4), (0.1, 0.5, 0.7, 0.0), (0.1, 0.5, 0.0, 0.9)],
    ids=["paper", "no-track", "no-margin", "embedding-penalty", "mask-penalty"],
)
def test_loss_against_loops(kind, weights):
    masks = make_masks(kind)()
    for seed in range(3):
        raw, triplets = random_batch(seed)
        terms = DisentangledTripletLoss(*weights)(raw, masks, triplets)
        expected = loop_loss(raw, masks, triplets, *weights)
        for name, value in expected.items():
            assert getattr(terms, name).item() == pytest.approx(value, rel=LOSS_ERROR), name
        assert expected["conditions"] > 0
        assert expected["track"] > 0


def test_loss_by_hand():
    raw = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [-1.0, 0.0]])
    masks = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    triplets = TripletBatch(torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 3]]), torch.tensor([0, 1, 2]))
    terms = DisentangledTripletLoss(margin=0.25, track_weight=0.5)(raw, masks, triplets)
    assert terms.dist_ap.tolist() == pytest.approx([1.0, 0.5, math.sqrt(2)])
    assert terms.dist_an.tolist() == pytest.approx([0.0, 0.0, 2.0])
    assert terms.conditions.item() == pytest.approx((1.25 + 0.75) / 2)
    assert terms.track.item() == 0.0
    assert terms.total.item() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_gradient_flows(kind):
    module = make_masks(kind)
    raw, triplets = random_batch()
    raw.requires_grad_()
    DisentangledTripletLoss(embedding_penalty=5e-3, mask_penalty=5e-4)(raw, module(), triplets).total.backward()
    assert (raw.grad.norm(dim=1) > 0).all()
    assert raw.grad.isfinite().all()
    for parameter in module.parameters():
        assert parameter.grad.abs().sum() > 0


def test_gradient_against_differences():
    masks = make_masks("learned-random")().detach().double().requires_grad_()
    raw, triplets = random_batch()
    loss = DisentangledTripletLoss(0.5, 0.5, 0.1, 0.1)
    assert torch.autograd.gradcheck(
        lambda e, m: loss(e, m, triplets).total, (raw.double().requires_grad_(), masks), eps=1e-7, atol=1e-5
    )


@pytest.mark.parametrize("chosen", ["nothing", "conditions", "track"])
def test_parts_without_a_triplet_are_zero_and_keep_the_graph(chosen):
    raw, triplets = random_batch()
    raw.requires_grad_()
    keep = {
        "nothing": torch.zeros(T, dtype=torch.bool),
        "conditions": triplets.condition < C,
        "track": triplets.condition == C,
    }[chosen]
    module = make_masks("learned-disjoint")
    terms = DisentangledTripletLoss()(raw, module(), TripletBatch(triplets.indices[keep], triplets.condition[keep]))
    for name in ("conditions", "track"):
        value = getattr(terms, name)
        assert value.requires_grad
        assert (value.item() == 0) == (name != chosen)
    terms.total.backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert module.weight.grad.isfinite().all()


def test_collapsed_embedding_has_a_finite_gradient():
    raw = torch.ones(B, D, requires_grad=True)
    _, triplets = random_batch()
    terms = DisentangledTripletLoss(margin=0.2)(raw, make_masks("fixed")(), triplets)
    terms.total.backward()
    assert terms.conditions.item() == pytest.approx(0.2)
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_swapping_positive_and_negative_swaps_the_distances(kind):
    raw, triplets = random_batch()
    masks = make_masks(kind)()
    dist_ap, dist_an = triplet_distances(raw, masks, triplets)
    swapped = TripletBatch(triplets.indices[:, [0, 2, 1]], triplets.condition)
    assert all(map(torch.equal, triplet_distances(raw, masks, swapped), (dist_an, dist_ap)))


def test_permuting_dimensions_inside_a_subspace_changes_nothing():
    raw, triplets = random_batch()
    masks, size = make_masks("fixed")(), D // C
    generator = torch.Generator().manual_seed(4)
    order = torch.cat([c * size + torch.randperm(size, generator=generator) for c in range(C)])
    assert not torch.equal(order, torch.arange(D))
    for one, other in zip(
        triplet_distances(raw, masks, triplets), triplet_distances(raw[:, order], masks, triplets), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_scaling_other_subspaces_changes_nothing():
    raw, triplets = random_batch()
    masks = make_masks("fixed")()
    for c in range(C):
        own = TripletBatch(triplets.indices, torch.full((T,), c))
        scaled = raw * torch.where(masks[c] > 0, 1.0, 7.0)
        assert all(map(torch.equal, triplet_distances(raw, masks, own), triplet_distances(scaled, masks, own)))
        track = TripletBatch(triplets.indices, torch.full((T,), C))
        assert not torch.allclose(triplet_distances(raw, masks, track)[0], triplet_distances(scaled, masks, track)[0])


def test_without_masks_a_condition_is_compared_like_track():
    raw, triplets = random_batch()
    masks = make_masks("none")()
    as_track = TripletBatch(triplets.indices, torch.full((T,), C))
    assert all(map(torch.equal, triplet_distances(raw, masks, triplets), triplet_distances(raw, masks, as_track)))


def test_the_loss_ignores_the_length_of_embeddings():
    raw, triplets = random_batch()
    masks, loss = make_masks("fixed")(), DisentangledTripletLoss()
    longer = raw * torch.linspace(0.5, 9, B)[:, None]
    torch.testing.assert_close(loss(raw, masks, triplets).total, loss(longer, masks, triplets).total)


def test_the_order_of_triplets_does_not_matter():
    raw, triplets = random_batch()
    masks, loss = make_masks("learned-random")(), DisentangledTripletLoss()
    order = torch.randperm(T, generator=torch.Generator().manual_seed(2))
    other = TripletBatch(triplets.indices[order], triplets.condition[order])
    torch.testing.assert_close(loss(raw, masks, triplets).total, loss(raw, masks, other).total)


def test_the_mask_enters_squared_under_the_root():
    x, y = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])
    assert masked_distance(x, y, torch.tensor([3.0, 4.0])).item() == pytest.approx(5.0)


def test_distance_at_zero_has_gradient_zero():
    x = torch.ones(4, requires_grad=True)
    masked_distance(x, torch.ones(4), torch.ones(4)).backward()
    assert x.grad.tolist() == [0.0] * 4


def test_with_track_appends_ones():
    assert with_track(torch.tensor([[0.5, 0.0]])).tolist() == [[0.5, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize(("dist_an", "expected"), [(1.0, 0.0), (0.75, 0.0), (0.625, 0.125), (0.5, 0.25), (0.25, 0.5)])
def test_violation_limits(dist_an, expected):
    assert triplet_violation(torch.tensor([0.5]), torch.tensor([dist_an]), margin=0.25).tolist() == [expected]


def test_masked_mean():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert masked_mean(values, torch.tensor([True, False, True])).item() == 3.5
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)).item() == 0.0


@pytest.mark.parametrize("name", ["margin", "track_weight", "embedding_penalty", "mask_penalty"])
def test_negative_weights(name):
    with pytest.raises(ValueError, match=f"loss {name} must not be negative, got -0.1"):
        DisentangledTripletLoss(**{name: -0.1})
    DisentangledTripletLoss(**{name: 0.0})
