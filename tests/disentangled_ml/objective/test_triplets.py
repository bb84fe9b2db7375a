"""Triplets: each one drawn is valid, each valid one is drawn, and a generator decides which."""

import pytest
import torch
from torch import Generator

from disentangled_ml.objective import triplets
from disentangled_ml.objective.conditions import Relation, TagCondition, TempoCondition
from disentangled_ml.objective.triplets import TripletMiner, draw_batch, draw_columns, draw_from_split, nearest_columns
from disentangled_ml.structures import BatchTracks

CHI_SQUARE_LIMIT = 2.0  # of the statistic per degree of freedom: far beyond chance for the counts drawn here
CHANCE = 0.05  # more than four standard deviations of 2000 triplets


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def random_relation(seed: int, n: int = 12, density: float = 0.3) -> Relation:
    drawn = torch.rand(n, n, generator=seeded(seed))
    return Relation(drawn < density, drawn > 1 - density)


def valid_triplets(relation: Relation) -> set[tuple[int, int, int]]:
    n = len(relation.positive)
    return {
        (a, p, q)
        for a in range(n)
        for p in range(n)
        for q in range(n)
        if relation.positive[a, p] and relation.negative[a, q]
    }


def draw_triplets(relation: Relation, n: int, generator: Generator) -> torch.Tensor:
    return draw_batch([relation], [n], generator).indices


def one_after_the_other(relations: list[Relation], counts: list[int], generator: Generator) -> list[tuple[int, ...]]:
    """Draw as ``draw_batch``, in plain steps."""
    drawn = []
    for c, ((positive, negative), n) in enumerate(zip(relations, counts, strict=True)):
        anchors = (positive.any(1) & negative.any(1)).nonzero()[:, 0]
        if n == 0 or len(anchors) == 0:
            continue
        anchor = anchors[torch.randint(len(anchors), (n,), generator=generator)].tolist()
        of_positive, of_negative = (torch.rand(n, 1, generator=generator, dtype=torch.float64) for _ in range(2))
        for a, *chances in zip(anchor, of_positive[:, 0].tolist(), of_negative[:, 0].tolist(), strict=True):
            columns = [allowed[a].nonzero()[:, 0].tolist() for allowed in (positive, negative)]
            drawn.append((a, *(row[int(x * len(row))] for row, x in zip(columns, chances, strict=True)), c))
    return drawn


@pytest.mark.parametrize("seed", range(5))
def test_all_conditions_at_once_draw_what_each_would_in_turn(seed):
    """And as many random numbers: what is drawn next is the same too."""
    relations = [random_relation(seed + i, density=density) for i, density in enumerate((0.3, 0.0, 0.05, 0.5, 0.2))]
    counts, (one, other) = [40, 9, 256, 0, 1], (seeded(seed), seeded(seed))
    indices, condition = draw_batch(relations, counts, one)
    expected = one_after_the_other(relations, counts, other)
    assert [(*row, c) for row, c in zip(indices.tolist(), condition.tolist(), strict=True)] == expected
    assert len(expected) > 40
    assert torch.equal(one.get_state(), other.get_state())


def test_a_miner_that_draws_none_leaves_the_generator():
    tracks = BatchTracks([torch.eye(3).bool()], torch.arange(3), torch.zeros(3, 2).long())
    generator = seeded()
    drawn = TripletMiner([TagCondition("genre", ("a", "b", "c"))], 8, 0, 0).draw(tracks, generator)
    assert drawn.indices.shape == (0, 3)
    assert drawn.condition.shape == (0,)
    assert torch.equal(generator.get_state(), seeded().get_state())


def as_set(rows: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in rows.tolist()}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("density", [0.03, 0.1, 0.4])
def test_every_triplet_is_valid_and_none_is_missing_where_one_is_possible(seed, density):
    relation = random_relation(seed, density=density)
    drawn = draw_triplets(relation, 200, seeded(seed))
    valid = valid_triplets(relation)
    assert drawn.dtype == torch.int64
    assert drawn.shape == (200 if valid else 0, 3)
    assert as_set(drawn) <= valid


@pytest.mark.parametrize("seed", range(3))
def test_every_valid_triplet_occurs(seed):
    relation = random_relation(seed, n=5)
    valid = valid_triplets(relation)
    assert valid
    assert as_set(draw_triplets(relation, 5000, seeded(seed))) == valid


@pytest.mark.parametrize("kind", ["nothing", "only positives", "only negatives", "never both in a row", "no items"])
def test_no_triplet_possible(kind):
    yes, no = torch.ones(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    half = yes & (torch.arange(4) < 2)[:, None]
    relation = {
        "nothing": Relation(no, no),
        "only positives": Relation(yes, no),
        "only negatives": Relation(no, yes),
        "never both in a row": Relation(half, ~half),
        "no items": Relation(no[:0, :0], no[:0, :0]),
    }[kind]
    drawn = draw_triplets(relation, 10, seeded())
    assert drawn.shape == (0, 3)
    assert drawn.dtype == torch.int64


def test_none_wanted():
    assert draw_triplets(random_relation(0), 0, seeded()).shape == (0, 3)


def test_generator_decides():
    relation = random_relation(1)
    first, again = draw_triplets(relation, 50, seeded(5)), draw_triplets(relation, 50, seeded(5))
    assert torch.equal(first, again)
    assert not torch.equal(first, draw_triplets(relation, 50, seeded(6)))
    torch.manual_seed(1)
    assert torch.equal(first, draw_triplets(relation, 50, seeded(5)))


@pytest.mark.parametrize("allowed", [[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]])
def test_columns_are_drawn_uniformly(allowed):
    row = torch.tensor(allowed, dtype=torch.bool)
    n = 6000
    count = draw_columns(row.expand(n, -1), seeded()).bincount(minlength=4)
    assert not count[~row].any()
    expected = n / row.sum()
    assert ((count[row] - expected) ** 2 / expected).sum() < CHI_SQUARE_LIMIT * 4
    assert (count[row] > 0).all()


@pytest.mark.parametrize(("chance", "column"), [(0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2.0**-53, 3)])
def test_columns_at_the_ends_of_chance(monkeypatch, chance, column):
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, chance, dtype=torch.float64))
    allowed = torch.tensor([[False, True, False, True, False]])
    assert draw_columns(allowed, seeded()).tolist() == [column]


def test_anchors_are_drawn_uniformly_however_many_positives_they_have():
    positive = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    relation = Relation(positive, ~positive)
    count = draw_triplets(relation, 3000, seeded())[:, 0].bincount(minlength=4)
    assert count[2] == 0
    assert ((count[[0, 1, 3]] - 1000.0).abs() < 120).all()


def test_batch_keeps_the_condition_of_each_relation():
    possible, impossible = random_relation(0), Relation(*torch.zeros(2, 12, 12, dtype=torch.bool))
    relations, counts = [possible, impossible, random_relation(1), random_relation(2)], [7, 5, 0, 3]
    batch = draw_batch(relations, counts, seeded())
    assert batch.condition.tolist() == [0] * 7 + [3] * 3
    assert batch.condition.dtype == torch.int64
    for row, c in zip(batch.indices.tolist(), batch.condition.tolist(), strict=True):
        assert tuple(row) in valid_triplets(relations[c])


def test_batch_without_any_triplet():
    impossible = Relation(*torch.zeros(2, 3, 3, dtype=torch.bool))
    batch = draw_batch([impossible, impossible], [4, 4], seeded())
    assert batch.indices.shape == (0, 3)
    assert batch.condition.shape == (0,)
    assert (batch.indices.dtype, batch.condition.dtype) == (torch.int64, torch.int64)


def test_batch_needs_a_count_per_relation():
    with pytest.raises(ValueError, match="zip"):
        draw_batch([random_relation(0)], [1, 2], seeded())


GENRE = TagCondition("genre", ("a", "b", "c"))


def random_split(seed: int, tracks: int = 40, artists: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = seeded(seed)
    labels = torch.rand(tracks, 3, generator=generator) < 0.4
    return labels, torch.randint(-1, artists, (tracks,), generator=generator)


def split_triplets(condition, labels: torch.Tensor, artist: torch.Tensor) -> set[tuple[int, int, int]]:
    positive, negative = condition.relate(labels, labels)
    n = len(labels)
    return {
        (a, p, q)
        for a in range(n)
        for p in range(n)
        if a != p and positive[a, p] and not (artist[a] == artist[p] and artist[a] >= 0)
        for q in range(n)
        if negative[a, q]
    }


@pytest.mark.parametrize("block", [1, 7, 256])
@pytest.mark.parametrize("n", [0, 1, 39, 40, 500])
def test_split_gives_exactly_n_valid_triplets(monkeypatch, block, n):
    monkeypatch.setattr(triplets, "ANCHORS_PER_BLOCK", block)
    labels, artist = random_split(1)
    drawn = draw_from_split(GENRE, labels, artist, n, seeded(3))
    assert drawn.shape == (n, 3)
    assert drawn.dtype == torch.int64
    assert as_set(drawn) <= split_triplets(GENRE, labels, artist)
    assert torch.equal(drawn, draw_from_split(GENRE, labels, artist, n, seeded(3)))


def test_split_reaches_every_valid_triplet():
    labels, artist = random_split(2, tracks=9, artists=3)
    valid = split_triplets(GENRE, labels, artist)
    assert valid
    assert as_set(draw_from_split(GENRE, labels, artist, 6000, seeded())) == valid


def test_split_uses_every_possible_anchor_before_any_again():
    labels, artist = random_split(4)
    anchors = {a for a, _, _ in split_triplets(GENRE, labels, artist)}
    drawn = draw_from_split(GENRE, labels, artist, len(anchors), seeded())
    assert sorted(drawn[:, 0].tolist()) == sorted(anchors)


@pytest.mark.parametrize("condition", [TempoCondition(), TempoCondition(relation="relative")], ids=["abs", "rel"])
def test_split_of_tempi(condition):
    labels = 60 + 100 * torch.rand(50, 1, generator=seeded(0))
    labels[::7] = float("nan")
    artist = torch.randint(-1, 6, (50,), generator=seeded(1))
    drawn = draw_from_split(condition, labels, artist, 100, seeded(2))
    assert len(drawn) == 100
    assert as_set(drawn) <= split_triplets(condition, labels, artist)


def test_split_of_one_artist_gives_none():
    labels, _ = random_split(1)
    drawn = draw_from_split(GENRE, labels, torch.zeros(len(labels), dtype=torch.int64), 10, seeded())
    assert drawn.shape == (0, 3)


def test_split_of_unknown_artists_is_free():
    labels, _ = random_split(1)
    drawn = draw_from_split(GENRE, labels, torch.full((len(labels),), -1), 50, seeded())
    assert drawn.shape == (50, 3)
    assert (drawn[:, 0] != drawn[:, 1]).all()


def test_a_negative_may_be_by_the_anchors_artist():
    labels = GENRE.encode([["a"], ["a"], ["b"]])
    drawn = draw_from_split(GENRE, labels, torch.tensor([0, 1, 0]), 20, seeded())
    assert as_set(drawn) == {(0, 1, 2), (1, 0, 2)}


@pytest.mark.parametrize(
    "tags", [[], [None], [["a"]], [None, None, None], [["a"], ["a"], ["a"]], [["a"], ["b"], ["c"]]]
)
def test_split_that_allows_no_triplet(tags):
    drawn = draw_from_split(GENRE, GENRE.encode(tags), torch.full((len(tags),), -1), 5, seeded())
    assert drawn.shape == (0, 3)


@pytest.mark.parametrize("condition", [GENRE, TempoCondition()], ids=["tags", "tempo"])
@pytest.mark.parametrize("block", [7, 256])
def test_matched_negatives_are_the_nearest_in_level(monkeypatch, condition, block):
    monkeypatch.setattr(triplets, "ANCHORS_PER_BLOCK", block)
    labels, artist = random_split(5)
    if condition is not GENRE:
        labels = 60 + 100 * torch.rand(len(labels), 1, generator=seeded(0))
    level = torch.randn(len(labels), generator=seeded(1))
    drawn = draw_from_split(condition, labels, artist, 300, seeded(2), level)
    assert drawn.shape == (300, 3)
    assert as_set(drawn) <= split_triplets(condition, labels, artist)
    negative = condition.relate(labels, labels).negative.tolist()
    for a, p, q in drawn.tolist():
        gaps = {other: abs(level[other] - level[p]) for other in range(len(labels)) if negative[a][other]}
        assert q == min(gaps, key=gaps.__getitem__)


def test_among_equally_near_negatives_all_are_drawn():
    labels = GENRE.encode([["a"], ["a"], ["b"], ["b"], ["b"]])
    level = torch.tensor([5.0, 1.0, 0.0, 2.0, 9.0])
    drawn = draw_from_split(GENRE, labels, torch.tensor([-1] * 5), 400, seeded(), level)
    assert {(0, 1, 2), (0, 1, 3)} <= as_set(drawn)
    assert (0, 1, 4) not in as_set(drawn)


def test_nearest_of_nothing_is_nothing():
    assert not nearest_columns(torch.zeros(2, 3, dtype=torch.bool), torch.randn(3), torch.randn(2)).any()


def test_matching_takes_away_what_a_level_tells():
    """Nine in ten tracks of a genre share a bandwidth: it alone solves random triplets, and matched ones by chance."""
    genre = torch.randint(3, (600,), generator=seeded(0))
    labels, artist = torch.nn.functional.one_hot(genre, 3).bool(), torch.full((600,), -1)
    odd = torch.rand(600, generator=seeded(1)) < 0.1
    level = 10.0 * ((genre + odd * torch.randint(3, (600,), generator=seeded(2))) % 3)
    level += torch.randn(600, generator=seeded(3))

    def accuracy(drawn: torch.Tensor) -> float:
        anchor, positive, negative = level[drawn].unbind(1)
        return ((anchor - positive).abs() < (anchor - negative).abs()).float().mean().item()

    assert accuracy(draw_from_split(GENRE, labels, artist, 2000, seeded(4))) > 0.8
    assert abs(accuracy(draw_from_split(GENRE, labels, artist, 2000, seeded(4), level)) - 0.5) < CHANCE
