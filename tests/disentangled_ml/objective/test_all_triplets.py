"""All triplets of a batch at once against the triplets written out: values, gradients, counts, ties, memory."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from disentangled_ml.network.masks import FixedMasks, LearnedMasks, NoMasks
from disentangled_ml.objective.all_triplets import count_triplets, pair_distances, sum_all_triplets
from disentangled_ml.objective.conditions import TagCondition, TempoCondition
from disentangled_ml.objective.losses import MEANS, DisentangledTripletLoss, ProxyLoss, masked_distance, with_track
from disentangled_ml.objective.triplets import TripletMiner, relate_chunks
from disentangled_ml.structures import AllTriplets, BatchTracks, TripletBatch, seeded_generator

LOSS_ERROR = 1e-5  # relative: float32 embeddings against Python's float64
DISTANCE_ERROR = 1e-6  # absolute: float32 differences of unit vectors, whose squares are summed in another order
CONDITIONS = [TagCondition("genre", ("a", "b", "c")), TagCondition("mood", ("d", "e")), TempoCondition()]
N, K, C, D, MIN_GAP = 6, 3, 3, 12, 10
B = N * K
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


def random_tracks(seed: int = 0, n: int = N, k: int = K) -> BatchTracks:
    """Make labelled tracks: of several tags, of none, by known and unknown artists, with chunks that overlap and that do not."""
    generator = torch.Generator().manual_seed(seed)
    genre = torch.rand(n, 3, generator=generator) < 0.4
    mood = torch.rand(n, 2, generator=generator) < 0.4
    tempo = 100 + 20 * torch.rand(n, 1, generator=generator)
    tempo[0] = float("nan")
    artist = torch.randint(-1, 3, (n,), generator=generator)
    return BatchTracks([genre, mood, tempo], artist, torch.randint(40, (n, k), generator=generator))


def random_embedding(seed: int = 0, b: int = B) -> Tensor:
    return 3 * torch.randn(b, D, generator=torch.Generator().manual_seed(seed))


def every(tracks: BatchTracks) -> AllTriplets:
    return relate_chunks(CONDITIONS, tracks, MIN_GAP, slice(0, len(tracks.artist)))


def loop_related(tracks: BatchTracks, c: int, a: int, b: int) -> tuple[bool, bool]:
    """Tell from the labels whether chunk b is a positive, or a negative, of chunk a."""
    k = tracks.start.shape[1]
    x, y = a // k, b // k
    if c == C:
        starts = tracks.start.flatten().tolist()
        return x == y and abs(starts[a] - starts[b]) >= MIN_GAP, x != y
    one, other = tracks.labels[c][x].tolist(), tracks.labels[c][y].tolist()
    if c == 2:
        known = not math.isnan(one[0]) and not math.isnan(other[0])
        alike, unlike = known and abs(one[0] - other[0]) <= 5, known and abs(one[0] - other[0]) > 5
    else:
        alike = any(p and q for p, q in zip(one, other, strict=True))
        unlike = any(one) and any(other) and not alike
    artists = tracks.artist.tolist()
    allowed = x != y and not (artists[x] == artists[y] >= 0)
    return alike and allowed, unlike


def listed(tracks: BatchTracks) -> TripletBatch:
    """Write out all triplets."""
    rows, conditions = [], []
    n_chunks = tracks.start.numel()
    for c in range(C + 1):
        related = [[loop_related(tracks, c, a, b) for b in range(n_chunks)] for a in range(n_chunks)]
        for a, p, n in product(range(n_chunks), repeat=3):
            if related[a][p][0] and related[a][n][1]:
                rows.append((a, p, n))
                conditions.append(c)
    return TripletBatch(torch.tensor(rows).reshape(-1, 3).long(), torch.tensor(conditions).long())


def loop_terms(raw: Tensor, masks: Tensor, triplets: TripletBatch, margin: float, mean: str) -> dict[str, list[float]]:
    """Give, per condition and for track, the mean of the hinge and the counts, from plain numbers."""
    unit = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in raw.detach().double().tolist()]
    rows = with_track(masks).detach().double().tolist()
    found = {name: [0.0] * len(rows) for name in ("sum", "violating", "correct", "total")}
    for (a, p, n), c in zip(triplets.indices.tolist(), triplets.condition.tolist(), strict=True):
        d_ap, d_an = (
            math.sqrt(sum((m * (u - v)) ** 2 for u, v, m in zip(unit[a], unit[other], rows[c], strict=True)))
            for other in (p, n)
        )
        hinge = max(0.0, d_ap - d_an + margin)
        found["sum"][c] += hinge
        found["violating"][c] += hinge > 0
        found["correct"][c] += d_ap < d_an
        found["total"][c] += 1
    counts = found["total" if mean == "all" else "violating"]
    found["mean"] = [total / max(1, count) for total, count in zip(found["sum"], counts, strict=True)]
    return found


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("margin", [0.0, 0.1, 5.0])
def test_value_and_counts_against_loops(kind, margin, mean):
    masks = make_masks(kind)()
    for seed in range(2):
        raw, tracks = random_embedding(seed), random_tracks(seed)
        terms = DisentangledTripletLoss(margin, 0.5, mean=mean)(raw, masks, every(tracks))
        expected = loop_terms(raw, masks, listed(tracks), margin, mean)
        has = [value for value, total in zip(expected["mean"][:C], expected["total"], strict=False) if total]
        assert len(has) == C
        assert terms.conditions.item() == pytest.approx(sum(has) / C, rel=LOSS_ERROR)
        assert terms.track.item() == pytest.approx(expected["mean"][C], rel=LOSS_ERROR)
        assert terms.total.item() == pytest.approx(sum(has) / C + 0.5 * expected["mean"][C], rel=LOSS_ERROR)
        assert terms.correct.tolist() == expected["correct"]
        assert terms.n_triplets.tolist() == expected["total"]
        assert terms.total.dtype == raw.dtype


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_equals_the_sampled_loss_on_the_written_out_list(kind, mean):
    """Value and gradients, one condition after the other and track."""
    tracks, written = random_tracks(3), listed(random_tracks(3))
    for c in range(C + 1):
        own = written.condition == c
        assert own.any()
        triplets = every(tracks)
        for related in (triplets.positive, triplets.negative):
            related[[other for other in range(C + 1) if other != c]] = False
        found = []
        for given in (triplets, TripletBatch(written.indices[own], written.condition[own])):
            raw, module = random_embedding().requires_grad_(), make_masks(kind)
            loss = DisentangledTripletLoss(0.2, 0.7, embedding_penalty=0.1, mask_penalty=0.1, mean=mean)
            terms = loss(raw, module(), given)
            terms.total.backward()
            found.append([terms.total, *terms[3:], raw.grad, *(p.grad for p in module.parameters())])
        for of_all, of_list in zip(*found, strict=True):
            torch.testing.assert_close(of_all, of_list)
        assert found[0][3].abs().sum() > 0


@pytest.mark.parametrize("mean", MEANS)
def test_gradient_against_differences(mean):
    masks = make_masks("learned-random")().detach().double().requires_grad_()
    raw, triplets = random_embedding().double().requires_grad_(), every(random_tracks())
    loss = DisentangledTripletLoss(0.5, 0.5, 0.1, 0.1, mean=mean)
    assert torch.autograd.gradcheck(lambda e, m: loss(e, m, triplets).total, (raw, masks), eps=1e-7, atol=1e-5)


def random_relation(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return drawn < 0.3, drawn > 0.6


@pytest.mark.parametrize("margin", [0.0, 0.25, 3.0])
@pytest.mark.parametrize("levels", [1, 3, 50], ids=["all-equal", "ties", "few-ties"])
def test_counts_with_ties_against_loops(levels, margin):
    """Distances in steps of 1/8 are exact, so that some triplets lie exactly at the kink; as with relu it does not count."""
    shape = (2, 4, 9)
    distance = torch.randint(levels, shape, generator=torch.Generator().manual_seed(levels)) / 8
    positive, negative = random_relation(levels, shape)
    slope = distance.clone().requires_grad_()
    found = count_triplets(distance, positive, negative, margin)
    for c in range(2):
        violating = correct = total = 0
        for a, p, n in product(range(4), range(9), range(9)):
            if positive[c, a, p] and negative[c, a, n]:
                hinge = (slope[c, a, p] - slope[c, a, n] + margin).relu()
                hinge.backward()
                violating, correct, total = (
                    violating + (hinge > 0),
                    correct + (distance[c, a, p] < distance[c, a, n]),
                    total + 1,
                )
        assert (found.violating[c], found.correct[c], found.total[c]) == (violating, correct, total)
    assert torch.equal(found.slope.float(), slope.grad)


def test_a_collapsed_embedding_is_all_wrong_and_has_a_finite_gradient():
    raw = torch.randn(1, D, generator=torch.Generator().manual_seed(0)).repeat(B, 1).requires_grad_()
    terms = DisentangledTripletLoss(margin=0.2)(raw, make_masks("learned-random")(), every(random_tracks()))
    terms.total.backward()
    assert terms.conditions.item() == pytest.approx(0.2)
    assert terms.correct.tolist() == [0] * (C + 1)
    assert terms.n_triplets.min() > 0
    assert torch.equal(raw.grad, torch.zeros_like(raw))


def test_equal_chunks_among_others_have_a_finite_gradient():
    raw = random_embedding()
    raw[1::2] = raw[::2]
    raw.requires_grad_()
    DisentangledTripletLoss(margin=0.3)(raw, make_masks("fixed")(), every(random_tracks())).total.backward()
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("mean", MEANS)
def test_without_a_triplet_the_loss_is_zero_and_keeps_the_graph(mean):
    tracks = BatchTracks([torch.zeros(N, 3).bool(), torch.zeros(N, 2).bool(), torch.full((N, 1), math.nan)],
                         torch.full((N,), -1), torch.zeros(N, K).long())  # fmt: skip
    raw, module = random_embedding().requires_grad_(), make_masks("learned-disjoint")
    terms = DisentangledTripletLoss(mean=mean)(raw, module(), every(tracks))
    terms.total.backward()
    assert terms.total.item() == 0
    assert terms.n_triplets.tolist() == [0] * (C + 1)
    assert torch.equal(raw.grad, torch.zeros_like(raw))
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in module.parameters())


@pytest.mark.parametrize("mean", MEANS)
def test_a_condition_without_labels_does_not_count_in_the_mean(mean):
    tracks, raw, masks = random_tracks(), random_embedding(), make_masks("fixed")()
    tracks.labels[1] = torch.zeros(N, 2).bool()
    expected = loop_terms(raw, masks, listed(tracks), 0.1, mean)
    terms = DisentangledTripletLoss(mean=mean)(raw, masks, every(tracks))
    assert expected["total"][1] == terms.n_triplets[1] == 0
    assert terms.conditions.item() == pytest.approx((expected["mean"][0] + expected["mean"][2]) / 2, rel=LOSS_ERROR)


def test_frequent_conditions_do_not_drown_rare_ones():
    """A condition's part does not depend on how many triplets the others have."""
    triplets, raw, masks = every(random_tracks()), random_embedding(), make_masks("none")()
    counts = DisentangledTripletLoss()(raw, masks, triplets).n_triplets[:C]
    assert counts.max() > 1.2 * counts.min()
    alone = []
    for c in range(C):
        only = AllTriplets(*(related.clone() for related in triplets[:2]), 0)
        only.positive[[other for other in range(C) if other != c]] = False
        alone.append(DisentangledTripletLoss()(raw, masks, only).conditions)
    together = DisentangledTripletLoss()(raw, masks, triplets).conditions
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_the_mean_of_violating_is_of_drawn_triplets_too():
    raw, masks = random_embedding(), make_masks("fixed")()
    drawn = TripletMiner(CONDITIONS, MIN_GAP, 20, 30).draw(random_tracks(), seeded_generator(1))
    expected = loop_terms(raw, masks, drawn, 0.1, "violating")
    terms = DisentangledTripletLoss(mean="violating")(raw, masks, drawn)
    assert expected["total"] == [20, 20, 20, 30]
    assert terms.conditions.item() == pytest.approx(sum(expected["mean"][:C]) / C, rel=LOSS_ERROR)
    assert terms.track.item() == pytest.approx(expected["mean"][C], rel=LOSS_ERROR)
    assert terms.conditions > DisentangledTripletLoss(mean="all")(raw, masks, drawn).conditions


def test_an_unknown_mean_is_refused():
    with pytest.raises(ValueError, match="loss mean 'some' is unknown: choose one of all, violating"):
        DisentangledTripletLoss(mean="some")


@pytest.mark.parametrize("mean", MEANS)
def test_other_objectives_take_all_track_triplets(mean):
    raw, masks, tracks = random_embedding(), make_masks("fixed")(), random_tracks()
    expected = loop_terms(raw, masks, listed(tracks), 0.1, mean)
    terms = ProxyLoss([2] * C, D, mean=mean)(raw, masks, every(tracks), [torch.eye(2)[torch.arange(B) % 2]] * C)
    assert terms.track.item() == pytest.approx(expected["mean"][C], rel=LOSS_ERROR)
    assert terms.correct.tolist() == expected["correct"]
    assert terms.conditions > 0


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_tracks_does_not_matter(seed):
    tracks, raw, masks = random_tracks(seed), random_embedding(seed), make_masks("learned-random")()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    assert not torch.equal(order, torch.arange(N))
    moved = BatchTracks([labels[order] for labels in tracks.labels], tracks.artist[order], tracks.start[order])
    loss = DisentangledTripletLoss(0.2, mean="violating")
    one = loss(raw, masks, every(tracks))
    other = loss(raw.reshape(N, K, D)[order].flatten(0, 1), masks, every(moved))
    for before, after in zip(one, other, strict=True):
        torch.testing.assert_close(before, after)


def test_shares_of_the_anchors_sum_up():
    """Sums, counts and gradients."""
    tracks = random_tracks()
    whole = random_embedding().expand(C + 1, B, D).clone().requires_grad_()
    part = whole.detach().clone().requires_grad_()
    triplets = every(tracks)
    expected = sum_all_triplets(whole, triplets, 0.1)
    expected[0].sum().backward()
    found = []
    for own in (slice(0, 2), slice(2, 5), slice(5, N)):
        share = relate_chunks(CONDITIONS, tracks, MIN_GAP, own)
        rows = slice(own.start * K, own.stop * K)
        assert share.first == rows.start
        assert torch.equal(share.positive, triplets.positive[:, rows])
        assert torch.equal(share.negative, triplets.negative[:, rows])
        found.append(sum_all_triplets(part, share, 0.1))
        found[-1][0].sum().backward()
    for sums, total in zip(zip(*found, strict=True), expected, strict=True):
        torch.testing.assert_close(sum(sums), total)
    torch.testing.assert_close(part.grad, whole.grad)
    assert whole.grad.abs().sum() > 0


def test_relations_are_those_of_the_labels():
    for seed in range(3):
        tracks = random_tracks(seed)
        triplets = every(tracks)
        for c, a, b in product(range(C + 1), range(B), range(B)):
            related = bool(triplets.positive[c, a, b]), bool(triplets.negative[c, a, b])
            assert related == loop_related(tracks, c, a, b)


@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_distances_equal_the_masked_ones(kind, distance):
    """Close pairs too, whose squared distances matrix products in float32 would lose: 1e-5 squared is far below its resolution."""
    masks = with_track(make_masks(kind)())
    x = torch.nn.functional.normalize(random_embedding(), dim=1)
    y = x + distance * torch.nn.functional.normalize(random_embedding(1), dim=1)
    expected = masked_distance(x[:, None], y[None], masks[:, None, None])
    found = pair_distances((x * masks[:, None]).double(), (y * masks[:, None]).double())
    torch.testing.assert_close(found, expected.double(), atol=DISTANCE_ERROR, rtol=0)
    close = expected.diagonal(dim1=1, dim2=2)
    error = (found.diagonal(dim1=1, dim2=2) - close).abs() / close
    assert error.max() < max(1e-5, 2e-7 / distance)  # what float32 leaves of the difference of unit vectors


def test_equal_vectors_are_at_distance_zero():
    x = torch.nn.functional.normalize(random_embedding(), dim=1).double()[None]
    assert not pair_distances(x, x).diagonal(dim1=1, dim2=2).any()
    assert not pair_distances(x[:, :1].expand(1, B, D), x[:, :1]).any()
    assert not pair_distances(torch.zeros(1, 2, D).double(), torch.zeros(1, 3, D).double()).any()


def test_half_precision_around_the_loss_changes_nothing():
    raw, masks, triplets = random_embedding(), make_masks("fixed")(), every(random_tracks())
    loss = DisentangledTripletLoss()
    expected = loss(raw, masks, triplets).total
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(raw, masks, every(random_tracks())).total, expected)


class LargestTensor(TorchDispatchMode):
    """Note the largest number of elements that a tensor has of its own, views of others apart."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else [made]:
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes() // value.element_size())
        return made


def test_no_tensor_grows_faster_than_the_square_of_the_batch():
    for n in (10, 40):
        tracks, raw, masks = random_tracks(n=n), random_embedding(b=n * K).requires_grad_(), make_masks("fixed")()
        with LargestTensor() as made:
            terms = DisentangledTripletLoss()(raw, masks, every(tracks))
            terms.total.backward()
        assert made.largest == (C + 1) * (n * K) * (n * K + 1)
    assert terms.n_triplets.sum() > 5 * made.largest  # which a list of them would need


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mean", MEANS)
def test_a_gpu_gives_the_same(mean):
    found = []
    for device in ("cpu", "cuda"):
        labels, artist, start = random_tracks()
        tracks = BatchTracks([encoded.to(device) for encoded in labels], artist.to(device), start.to(device))
        raw, masks = random_embedding().to(device).requires_grad_(), make_masks("learned-random")().detach().to(device)
        terms = DisentangledTripletLoss(mean=mean)(raw, masks, every(tracks))
        terms.total.backward()
        found.append([*(term.cpu() for term in terms), raw.grad.cpu()])
    for cpu, cuda in zip(*found, strict=True):
        torch.testing.assert_close(cuda, cpu)
