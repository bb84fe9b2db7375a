"""The loss, derived again by loops over plain numbers for every kind of mask; and its properties."""

import math

import pytest
import torch

from disentangled_ml.network.masks import FixedMasks, LearnedMasks, NoMasks
from disentangled_ml.objective.losses import (
    LOSSES,
    ClassificationLoss,
    ClassLoss,
    DisentangledLoss,
    DisentangledTripletLoss,
    ProxyLoss,
    distances_to_points,
    masked_distance,
    masked_mean,
    proxy_violation,
    softmax_entropy,
    triplet_distances,
    triplet_violation,
    with_track,
)
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
    assert terms.correct.tolist() == [0, 0, 1]
    assert terms.n_triplets.tolist() == [1, 1, 1]
    assert terms.conditions.item() == pytest.approx((1.25 + 0.75) / 2)
    assert terms.track.item() == 0.0
    assert terms.total.item() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_masking_the_batch_once_changes_neither_distances_nor_gradients(kind):
    raw, triplets = random_batch()
    found = []
    for by_triplet in (False, True):
        embedding, masks = raw.clone().requires_grad_(), make_masks(kind)().detach().requires_grad_()
        if by_triplet:
            anchor, positive, negative = embedding[triplets.indices].unbind(1)
            mask = with_track(masks)[triplets.condition]
            distances = masked_distance(anchor, positive, mask), masked_distance(anchor, negative, mask)
        else:
            distances = triplet_distances(embedding, masks, triplets)
        (distances[0].sum() - 2 * distances[1].sum()).backward()
        found.append([*distances, embedding.grad, masks.grad])
    for once, each in zip(*found, strict=True):
        torch.testing.assert_close(once, each)


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


@pytest.mark.parametrize("name", ["margin", "track_weight", "embedding_penalty", "mask_penalty", "condition_weight"])
def test_negative_weights(name):
    with pytest.raises(ValueError, match=f"loss {name} must not be negative, got -0.1"):
        DisentangledTripletLoss(**{name: -0.1})
    DisentangledTripletLoss(**{name: 0.0})


N_CLASSES = (4, 2, 6)
CLASS_KINDS = {
    "proxy": lambda **weights: ProxyLoss(N_CLASSES, D, **weights),
    "classification": lambda **weights: ClassificationLoss(N_CLASSES, D, **{"temperature": 0.2, **weights}),
}


def make_class_loss(name: str, **weights: float) -> ClassLoss:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return CLASS_KINDS[name](**weights)


def random_targets(seed: int = 0) -> list[torch.Tensor]:
    """Share chunks among classes: one class each, several, and in each condition chunks with none and with all of them."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for k in N_CLASSES:
        has = torch.rand(B, k, generator=generator) < 0.4
        has[torch.arange(2, B), torch.randint(k, (B - 2,), generator=generator)] = True
        has[0], has[1] = False, True
        targets.append(has / has.sum(1, keepdim=True).clamp(min=1))
    return targets


def unit_length(row: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in row))
    return [v / length for v in row]


def loop_objective(name: str, loss: ClassLoss, raw, masks, targets) -> float:
    """Compute the objective of proxies or of classification on plain numbers."""
    unit, terms = [unit_length(row) for row in raw.double().tolist()], []
    for points, mask, shares in zip(loss.points, masks.detach().double().tolist(), targets, strict=True):
        places = [unit_length(point) for point in points.detach().double().tolist()]
        of_chunks = []
        for chunk, share in zip(unit, shares.double().tolist(), strict=True):
            if not any(share):
                continue
            distance = [loop_distance(chunk, place, mask) for place in places]
            if name == "proxy":
                pairs = [
                    max(0.0, distance[p] - distance[n] + loss.margin)
                    for p in range(len(places))
                    for n in range(len(places))
                    if share[p] and not share[n]
                ]
                of_chunks.append(sum(pairs) / max(1, len(pairs)))
            else:
                logits = [-d * d / (2 * loss.temperature) for d in distance]
                total = math.log(sum(math.exp(logit) for logit in logits))
                of_chunks.append(-sum(s * (logit - total) for s, logit in zip(share, logits, strict=True)))
        terms.append(sum(of_chunks) / max(1, len(of_chunks)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("name", CLASS_KINDS)
@pytest.mark.parametrize(
    "weights",
    [(0.1, 0.5, 0.0, 0.0), (0.3, 0.0, 5e-3, 0.0), (0.0, 2.0, 0.0, 0.9)],
    ids=["paper", "embedding-penalty", "mask-penalty"],
)
def test_class_losses_against_loops(name, kind, weights):
    masks = make_masks(kind)()
    loss = make_class_loss(
        name, **dict(zip(("margin", "track_weight", "embedding_penalty", "mask_penalty"), weights, strict=True))
    )
    for seed in range(3):
        (raw, triplets), targets = random_batch(seed), random_targets(seed)
        terms = loss(raw, masks, triplets, targets)
        expected = loop_loss(raw, masks, triplets, *weights)  # of triplets: track and the penalties are the same
        objective = loop_objective(name, loss, raw, masks, targets)
        assert objective > 0
        assert objective != pytest.approx(expected["conditions"], rel=LOSS_ERROR)
        assert terms.conditions.item() == pytest.approx(objective, rel=LOSS_ERROR)
        assert terms.track.item() == pytest.approx(expected["track"], rel=LOSS_ERROR)
        total = expected["total"] - expected["conditions"] + objective
        assert terms.total.item() == pytest.approx(total, rel=LOSS_ERROR)
        counted = DisentangledTripletLoss()(raw, masks, triplets)
        assert torch.equal(terms.correct, counted.correct)
        assert torch.equal(terms.n_triplets, counted.n_triplets)


def test_class_losses_by_hand():
    raw, masks = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.5]])
    nothing = TripletBatch(torch.empty(0, 3, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    targets = [torch.tensor([[1.0, 0.0], [0.0, 0.0]])]  # the second chunk has no class
    near, far = (0.4, 0.4), (0.6, 0.1)  # from (0.6, 0.8) to (1, 0) and (0, 1), the second dimension by half
    near, far = (math.hypot(*part) for part in (near, far))
    expected = {
        "proxy": near - far + 0.5,
        "classification": math.log(math.exp(-(near**2)) + math.exp(-(far**2))) + near**2,
    }
    losses = {"proxy": ProxyLoss([2], 2, margin=0.5), "classification": ClassificationLoss([2], 2, temperature=0.5)}
    for name, loss in losses.items():
        loss.points[0].data = torch.tensor([[5.0, 0.0], [0.0, 0.5]])
        terms = loss(raw, masks, nothing, targets)
        assert terms.conditions.item() == pytest.approx(expected[name], rel=1e-5), name
        assert terms.track.item() == 0


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("name", CLASS_KINDS)
def test_gradient_of_class_losses_flows(name, kind):
    module, loss = make_masks(kind), make_class_loss(name, track_weight=0.0, margin=0.5)
    raw, triplets = random_batch()
    raw.requires_grad_()
    loss(raw, module(), triplets, random_targets()).total.backward()
    labelled = torch.stack([targets.any(1) & (targets == 0).any(1) for targets in random_targets()]).any(0)
    assert labelled.sum() >= B - 2
    assert (raw.grad[labelled].norm(dim=1) > 0).all()
    for parameter in (raw, *module.parameters(), *loss.parameters()):
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0
    assert len(list(loss.parameters())) == C


@pytest.mark.parametrize("name", CLASS_KINDS)
def test_gradient_of_class_losses_against_differences(name):
    masks = make_masks("learned-random")().detach().double().requires_grad_()
    raw, triplets = random_batch()
    loss = make_class_loss(name, margin=0.5).double()
    targets = [share.double() for share in random_targets()]
    points = [point.detach().clone().requires_grad_() for point in loss.points]

    def total(e, m, *p):
        given = {f"points.{i}": point for i, point in enumerate(p)}
        return torch.func.functional_call(loss, given, (e, m, triplets, targets)).total

    inputs = (raw.double().requires_grad_(), masks, *points)
    assert torch.autograd.gradcheck(total, inputs, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", CLASS_KINDS)
def test_without_a_labelled_chunk_the_objective_is_zero_and_keeps_the_graph(name):
    raw, triplets = random_batch()
    raw.requires_grad_()
    module, loss = make_masks("learned-disjoint"), make_class_loss(name)
    terms = loss(raw, module(), triplets, [torch.zeros(B, k) for k in N_CLASSES])
    assert terms.conditions.item() == 0
    assert terms.conditions.requires_grad
    assert terms.track.item() > 0
    terms.conditions.backward()
    for parameter in (raw, *module.parameters(), *loss.parameters()):
        assert parameter.grad.tolist() == torch.zeros_like(parameter).tolist()


@pytest.mark.parametrize("name", CLASS_KINDS)
def test_unlabelled_chunks_change_nothing(name):
    (raw, triplets), targets = random_batch(), random_targets()
    loss, masks = make_class_loss(name), make_masks("fixed")()
    more = torch.cat([raw, 3 * torch.ones(4, D)])
    padded = [torch.cat([share, torch.zeros(4, share.shape[1])]) for share in targets]
    torch.testing.assert_close(
        loss(raw, masks, triplets, targets).conditions, loss(more, masks, triplets, padded).conditions
    )


@pytest.mark.parametrize("name", CLASS_KINDS)
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_permuting_classes_with_their_points_changes_nothing(name, kind):
    (raw, triplets), targets = random_batch(), random_targets()
    loss, masks = make_class_loss(name), make_masks(kind)()
    before = loss(raw, masks, triplets, targets).conditions.item()
    orders = [torch.arange(k).roll(1) for k in N_CLASSES]
    permuted = [share[:, order] for share, order in zip(targets, orders, strict=True)]
    assert loss(raw, masks, triplets, permuted).conditions.item() != pytest.approx(before, rel=1e-3)
    for point, order in zip(loss.points, orders, strict=True):
        point.data = point.data[order]
    assert loss(raw, masks, triplets, permuted).conditions.item() == pytest.approx(before, rel=LOSS_ERROR)


@pytest.mark.parametrize("name", CLASS_KINDS)
def test_scaling_other_subspaces_changes_no_condition_of_a_class_loss(name):
    (raw, _), targets = random_batch(), random_targets()
    loss, masks = make_class_loss(name), make_masks("fixed")()
    unit = torch.nn.functional.normalize(raw, dim=1)
    for c in range(C):
        own = [share if i == c else torch.zeros_like(share) for i, share in enumerate(targets)]
        factor = torch.where(masks[c] > 0, 1.0, 7.0)
        before = loss.objective(unit, masks, torch.empty(0), own).item()
        assert before > 0
        assert loss.objective(unit * factor, masks, torch.empty(0), own).item() == pytest.approx(before, rel=LOSS_ERROR)
        inside = loss.objective(unit * (8 - factor), masks, torch.empty(0), own).item()
        assert inside != pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize("name", CLASS_KINDS)
def test_class_losses_ignore_the_length_of_embeddings_and_points(name):
    (raw, triplets), targets = random_batch(), random_targets()
    loss, masks = make_class_loss(name), make_masks("learned-random")()
    before = loss(raw, masks, triplets, targets).total.item()
    for points in loss.points:
        points.data *= torch.linspace(0.5, 9, len(points))[:, None]
    longer = raw * torch.linspace(9, 0.5, B)[:, None]
    assert loss(longer, masks, triplets, targets).total.item() == pytest.approx(before, rel=LOSS_ERROR)


def test_proxies_far_enough_give_no_loss_and_wrong_ones_the_most():
    distance = torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert proxy_violation(distance, targets, margin=0.5).tolist() == [0.0, 2.5]
    assert proxy_violation(distance, torch.ones(2, 3), margin=0.5).tolist() == [0.0, 0.0]
    assert proxy_violation(distance, torch.zeros(2, 3), margin=0.5).tolist() == [0.0, 0.0]


def test_a_sharper_softmax_is_surer():
    distance, targets = torch.tensor([[0.1, 0.9]]), torch.tensor([[1.0, 0.0]])
    losses = [softmax_entropy(distance, targets, temperature).item() for temperature in (10.0, 1.0, 0.1, 0.01)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(math.log(2), abs=0.05)
    assert losses[-1] == pytest.approx(0, abs=1e-6)


def test_softmax_of_unit_vectors_is_that_of_their_cosines():
    """-d^2 / 2 = cos - 1 for unit vectors: the normalised softmax of Zhai and Wu, shifted alike for every class."""
    generator = torch.Generator().manual_seed(3)
    x, points = (torch.nn.functional.normalize(torch.randn(n, D, generator=generator), dim=1) for n in (5, 3))
    targets = torch.eye(3)[[0, 1, 2, 0, 1]]
    by_distance = softmax_entropy(distances_to_points(x, points, torch.ones(D)), targets, 0.3)
    by_cosine = torch.nn.functional.cross_entropy(x @ points.T / 0.3, targets.argmax(1), reduction="none")
    torch.testing.assert_close(by_distance, by_cosine)


def test_distances_to_points_ignore_what_the_mask_hides():
    generator = torch.Generator().manual_seed(3)
    x, points = torch.randn(5, D, generator=generator), torch.randn(3, D, generator=generator)
    mask = make_masks("fixed")()[1]
    distance = distances_to_points(x, points, mask)
    expected = [[loop_distance(row, point, mask.tolist()) for point in points.tolist()] for row in x.tolist()]
    torch.testing.assert_close(distance, torch.tensor(expected))
    assert torch.equal(distances_to_points(x + 5 * (1 - mask), points - 3 * (1 - mask), mask), distance)


def test_chunks_at_a_proxy_have_a_finite_gradient():
    loss = make_class_loss("proxy", margin=3.0)
    raw = torch.stack([loss.points[0].data[i % N_CLASSES[0]] for i in range(B)]).requires_grad_()  # at distance zero
    targets = [torch.eye(k)[torch.arange(B) % k] for k in N_CLASSES]
    loss(raw, make_masks("none")(), random_batch()[1], targets).total.backward()
    assert raw.grad.isfinite().all()
    assert all(point.grad.isfinite().all() for point in loss.points)


@pytest.mark.parametrize("name", CLASS_KINDS)
def test_targets_of_another_number_of_conditions_are_refused(name):
    raw, triplets = random_batch()
    with pytest.raises(ValueError, match="zip"):
        make_class_loss(name)(raw, make_masks("none")(), triplets, random_targets()[:2])


def any_loss(name: str, **weights: float) -> DisentangledLoss:
    return DisentangledTripletLoss(**weights) if name == "triplet" else make_class_loss(name, **weights)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0), (0.25, 3.0)], ids=["track", "conditions", "both"])
def test_conditions_and_track_are_weighed(name, weights):
    (raw, triplets), targets, masks = random_batch(), random_targets(), make_masks("fixed")()
    terms = any_loss(name, condition_weight=weights[0], track_weight=weights[1])(raw, masks, triplets, targets)
    parts = any_loss(name)(raw, masks, triplets, targets)
    assert (terms.conditions.item(), terms.track.item()) == (parts.conditions.item(), parts.track.item())
    assert terms.total.item() == pytest.approx(weights[0] * parts.conditions.item() + weights[1] * parts.track.item())


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_trains_nothing_is_refused(name):
    with pytest.raises(ValueError, match="track_weight and condition_weight are both 0"):
        any_loss(name, condition_weight=0.0, track_weight=0.0)


@pytest.mark.parametrize("name", CLASS_KINDS)
def test_negative_weights_of_class_losses(name):
    with pytest.raises(ValueError, match=r"loss margin must not be negative, got -0.1"):
        make_class_loss(name, margin=-0.1)


def test_the_registry_holds_every_loss():
    assert {"triplet": DisentangledTripletLoss, "proxy": ProxyLoss, "classification": ClassificationLoss} == LOSSES
    assert all(issubclass(kind, DisentangledLoss) for kind in LOSSES.values())
