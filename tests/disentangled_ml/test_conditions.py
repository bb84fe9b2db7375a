"""Conditions: every relation against a double loop over the labels, missing ones included."""

import random

import pytest
import torch

from disentangled_ml.conditions import (
    Relation,
    TagCondition,
    TempoCondition,
    forbid_positives,
    relate_tracks,
    same_group,
)

TAGS = ("blues", "jazz", "pop", "rock")
TAG_LABELS = [["rock"], ["jazz", "rock"], [], None, ["pop"], ["unheard"], ["unheard", "pop"], ["rock", "rock"]]
SLACK = 1e-5  # as a ratio: closer than this to a limit, float32 may decide either way


def random_tags(rng: random.Random, n: int = 60) -> list[list[str] | None]:
    return [rng.choice([None, [], *(rng.sample(TAGS, rng.randint(1, 3)) for _ in range(4))]) for _ in range(n)]


def random_tempi(rng: random.Random, n: int = 90) -> list[float | None]:
    base = [rng.choice([None, rng.uniform(30, 300), float(rng.randint(30, 300))]) for _ in range(n)]
    octaves = [bpm and bpm * rng.choice([0.25, 0.5, 2, 4]) * rng.uniform(0.94, 1.06) for bpm in base[: n // 2]]
    return base + octaves


def related(condition, labels) -> Relation:
    encoded = condition.encode(labels)
    return condition.relate(encoded, encoded)


def absolute_verdict(a: float, b: float, condition: TempoCondition, slack: float = 0.0) -> bool:
    return abs(a - b) <= condition.tolerance_bpm + slack * max(a, b)


def relative_verdict(a: float, b: float, condition: TempoCondition, slack: float = 0.0) -> bool | None:
    ratio = max(a, b) / min(a, b)
    if ratio <= 1 + condition.tolerance + slack:
        return True
    octaves = (2.0**k for k in range(1, 9))  # up to a ratio of 256, more than there is
    near_octave = any(max(ratio / o, o / ratio) <= 1 + condition.tolerance + slack for o in octaves)
    return False if ratio > 1 + condition.margin + slack and not near_octave else None


@pytest.mark.parametrize("seed", range(5))
def test_tags_against_double_loop(seed):
    labels = TAG_LABELS + random_tags(random.Random(seed))
    positive, negative = related(TagCondition("genre", TAGS), labels)
    assert positive.any()
    assert negative.any()
    sets = [set(tags or ()) & set(TAGS) for tags in labels]
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            assert positive[i, j] == bool(a & b)
            assert negative[i, j] == bool(a and b and not a & b)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        (TempoCondition(), absolute_verdict),
        (TempoCondition(tolerance_bpm=11.5), absolute_verdict),
        (TempoCondition(relation="relative"), relative_verdict),
        (TempoCondition(relation="relative", tolerance=0.08, margin=0.08), relative_verdict),
        (TempoCondition(relation="relative", tolerance=0.02, margin=0.6), relative_verdict),
    ],
    ids=["absolute", "absolute-wide", "relative", "relative-no-gap", "relative-wide-margin"],
)
def test_tempo_against_double_loop(condition, verdict, seed):
    labels = random_tempi(random.Random(seed))
    positive, negative = (matrix.tolist() for matrix in related(condition, labels))
    verdicts = {True: 0, False: 0, None: 0}
    for i, a in enumerate(labels):
        for j, b in enumerate(labels):
            if a is None or b is None:
                assert not positive[i][j]
                assert not negative[i][j]
                continue
            expected = verdict(a, b, condition)
            if {verdict(a, b, condition, slack) for slack in (-SLACK, SLACK)} != {expected}:
                continue
            verdicts[expected] += 1
            assert (positive[i][j], negative[i][j]) == (expected is True, expected is False), (a, b)
    assert verdicts[True] > 100
    assert verdicts[False] > 1000
    if verdict is relative_verdict:
        assert verdicts[None] > 100  # octaves occur


WHOLE, TENTHS = list(range(30, 301)), [bpm / 10 for bpm in range(600, 1300, 3)]  # many lie exactly on a limit
CONDITIONS_AND_LABELS = [
    pytest.param(TempoCondition(), WHOLE, id="absolute-whole"),
    pytest.param(TempoCondition(), TENTHS, id="absolute-tenths"),
    pytest.param(TempoCondition(relation="relative"), WHOLE, id="relative-whole"),
    pytest.param(TempoCondition(relation="relative"), TENTHS, id="relative-tenths"),
    pytest.param(TempoCondition(relation="relative"), random_tempi(random.Random(7)), id="relative-random"),
    pytest.param(TagCondition("mood", TAGS), TAG_LABELS + random_tags(random.Random(8)), id="tags"),
]


@pytest.mark.parametrize(("condition", "labels"), CONDITIONS_AND_LABELS)
def test_relation_is_symmetric_and_never_both(condition, labels):
    positive, negative = related(condition, labels)
    assert torch.equal(positive, positive.T)
    assert torch.equal(negative, negative.T)
    assert not (positive & negative).any()


@pytest.mark.parametrize(("condition", "labels"), CONDITIONS_AND_LABELS)
def test_two_sets_are_related_as_parts_of_one(condition, labels):
    encoded = condition.encode(labels)
    whole, part = condition.relate(encoded, encoded), condition.relate(encoded[3:10], encoded[5:])
    assert torch.equal(part.positive, whole.positive[3:10, 5:])
    assert torch.equal(part.negative, whole.negative[3:10, 5:])


def test_whole_tempi_exactly_four_percent_apart_are_positive_both_ways():
    positive, _ = related(TempoCondition(relation="relative"), WHOLE)
    expected = [[100 * max(a, b) <= 104 * min(a, b) for b in WHOLE] for a in WHOLE]  # in whole numbers, so exact
    assert positive.tolist() == expected
    assert positive[WHOLE.index(100), WHOLE.index(104)]


@pytest.mark.parametrize(
    ("bpm", "positive", "negative"),
    [
        (100.0, True, False),
        (105.0, True, False),
        (95.0, True, False),
        (105.5, False, True),
        (94.5, False, True),
        (200.0, False, True),
    ],
)
def test_absolute_limits(bpm, positive, negative):
    condition = TempoCondition()
    relation = condition.relate(condition.encode([100.0]), condition.encode([bpm]))
    assert (relation.positive.item(), relation.negative.item()) == (positive, negative)


@pytest.mark.parametrize(
    ("bpm", "positive", "negative"),
    [
        (104.0, True, False),
        (104.1, False, False),
        (116.0, False, False),  # on the margin, not beyond it
        (116.1, False, True),
        (192.0, False, True),
        (193.0, False, False),
        (208.0, False, False),  # 4 % above twice the tempo
        (208.5, False, True),
        (50.0, False, False),
        (25.0, False, False),
        (400.0, False, False),
        (800.0, False, False),
        (300.0, False, True),
    ],
)
def test_relative_limits_and_octaves(bpm, positive, negative):
    condition = TempoCondition(relation="relative")
    relation = condition.relate(condition.encode([100.0]), condition.encode([bpm]))
    assert (relation.positive.item(), relation.negative.item()) == (positive, negative)


def test_a_tempo_that_is_nan_counts_as_unknown():
    for relation in ("absolute", "relative"):
        positive, negative = related(TempoCondition(relation=relation), [float("nan"), None, 100.0])
        assert positive.int().tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
        assert not negative.any()


def test_encoded_tags():
    encoded = TagCondition("genre", TAGS).encode(TAG_LABELS)
    assert encoded.dtype == torch.bool
    expected = [[tag in (tags or ()) for tag in TAGS] for tags in TAG_LABELS]
    assert encoded.tolist() == expected


def test_no_tracks_give_empty_relations():
    for condition in (TagCondition("genre", TAGS), TempoCondition(), TempoCondition(relation="relative")):
        assert related(condition, []).positive.shape == (0, 0)


def test_rarity_is_the_chance_of_drawing_a_tag_then_one_of_its_tracks():
    labels = TAG_LABELS + random_tags(random.Random(3))
    condition = TagCondition("genre", TAGS)
    sets = [set(tags or ()) & set(TAGS) for tags in labels]
    expected = torch.zeros(len(labels))
    for tag in TAGS:
        holders = [i for i, tags in enumerate(sets) if tag in tags]
        for i in holders:
            expected[i] += 1 / len(holders)
    torch.testing.assert_close(condition.rarity(condition.encode(labels)), expected)
    assert expected.sum() == pytest.approx(sum(any(tag in tags for tags in sets) for tag in TAGS))


def test_rarity_of_a_tag_nobody_has_is_no_nan():
    condition = TagCondition("genre", ("jazz", "absent"))
    assert condition.rarity(condition.encode([["jazz"], None])).tolist() == [1.0, 0.0]


def test_rarity_of_tempo():
    condition = TempoCondition()
    assert condition.rarity(condition.encode([90, None, 120.5])).tolist() == [1.0, 0.0, 1.0]


def test_unknown_tempo_relation():
    with pytest.raises(ValueError, match=r"'close' is unknown: choose absolute or relative"):
        TempoCondition(relation="close")


def test_tempo_margin_below_tolerance():
    with pytest.raises(ValueError, match=r"margin 0.03 must not be below the tolerance 0.04"):
        TempoCondition(margin=0.03)
    TempoCondition(margin=0.04)


def test_relate_tracks_against_double_loop():
    generator = torch.Generator().manual_seed(0)
    track = torch.randint(4, (40,), generator=generator)
    start = torch.randint(200, (40,), generator=generator)
    positive, negative = relate_tracks(track, start, min_gap=64)
    for i in range(40):
        for j in range(40):
            same = track[i] == track[j]
            assert positive[i, j] == (same and abs(start[i] - start[j]) >= 64)
            assert negative[i, j] == (not same)


@pytest.mark.parametrize(("gap", "positive"), [(63, False), (64, True), (65, True)])
def test_relate_tracks_limit(gap, positive):
    relation = relate_tracks(torch.tensor([3, 3]), torch.tensor([10, 10 + gap]), min_gap=64)
    assert relation.positive.tolist() == [[False, positive], [positive, False]]


def test_forbid_positives_leaves_negatives():
    relation = Relation(torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
    positive, negative = forbid_positives(relation, torch.tensor([[True, False, True]]))
    assert positive.tolist() == [[False, True, False]]
    assert negative.tolist() == [[False, False, True]]


def test_unknown_artist_equals_nothing():
    a, b = torch.tensor([0, -1, 5]), torch.tensor([5, -1, 0, 0])
    assert same_group(a, b).int().tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert same_group(a).int().tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
