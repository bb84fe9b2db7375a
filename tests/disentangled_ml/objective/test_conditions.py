"""Conditions: every relation against a double loop over the labels, missing ones included."""

import math
import random

import numpy as np
import pytest
import torch

from disentangled_ml.objective.conditions import (
    CLASS_BPM,
    MIN_CLASS_BPM,
    MIN_CLASS_OCTAVES,
    Relation,
    TagCondition,
    TempoCondition,
    forbid_positives,
    group_numbers,
    relate_tracks,
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


@pytest.mark.parametrize(("condition", "labels"), CONDITIONS_AND_LABELS)
def test_arrays_are_related_as_tensors(condition, labels):
    encoded = condition.encode(labels)
    tensors, arrays = condition.relate(encoded[:9], encoded), condition.relate(encoded[:9].numpy(), encoded.numpy())
    for tensor, array in zip(tensors, arrays, strict=True):
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, tensor.numpy())
    np.testing.assert_allclose(condition.rarity(encoded.numpy()), condition.rarity(encoded).numpy(), rtol=1e-6)


@pytest.mark.parametrize("code", [[5, -1, 0, 0, -1], [], [-1]])
def test_arrays_are_grouped_as_tensors(code):
    code = torch.tensor(code, dtype=torch.int64)
    np.testing.assert_array_equal(group_numbers(code.numpy()), group_numbers(code).numpy())


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


def test_only_tempi_change_with_a_stretch():
    ratio = np.array([1.2, 0.8, 1.0])
    genre, tempo = TagCondition("genre", TAGS), TempoCondition()
    tags, tempi = genre.encode(TAG_LABELS[:3]).float().numpy(), tempo.encode([100, None, 90.5]).numpy()
    assert genre.stretched(tags, ratio) is tags
    changed = tempo.stretched(tempi, ratio)
    assert changed.dtype == np.float32
    np.testing.assert_array_equal(changed, np.array([[120], [np.nan], [90.5]], np.float32))
    np.testing.assert_array_equal(tempi, tempo.encode([100, None, 90.5]).numpy())


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
    group = group_numbers(torch.tensor([5, -1, 0, 0, -1, 2**62]))
    assert (group[:, None] == group).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("seed", range(3))
def test_targets_of_tags_against_a_loop(seed):
    labels = TAG_LABELS + random_tags(random.Random(seed))
    condition = TagCondition("genre", TAGS)
    targets = condition.targets(condition.encode(labels))
    assert condition.n_classes == len(TAGS)
    assert targets.dtype == torch.float32
    several = 0
    for row, tags in zip(targets.tolist(), labels, strict=True):
        known = set(tags or ()) & set(TAGS)
        several += len(known) > 1
        assert row == pytest.approx([1 / len(known) if tag in known else 0.0 for tag in TAGS])
    assert several > 5


def tempo_class(bpm: float, condition: TempoCondition) -> int:
    """Count the bins below a tempo; each is as wide as the positive zone."""
    low = CLASS_BPM[0]
    number = 0
    while number < condition.n_classes - 1:
        if condition.relation == "absolute":
            high = low + max(2 * condition.tolerance_bpm, MIN_CLASS_BPM)
        else:
            high = low * max((1 + condition.tolerance) ** 2, 2**MIN_CLASS_OCTAVES)
        if bpm < high:
            return number
        low, number = high, number + 1
    return number


TEMPO_CONDITIONS = [
    pytest.param(TempoCondition(), id="absolute"),
    pytest.param(TempoCondition(tolerance_bpm=11.5), id="absolute-wide"),
    pytest.param(TempoCondition(tolerance_bpm=0.0), id="absolute-zero"),
    pytest.param(TempoCondition(relation="relative"), id="relative"),
    pytest.param(TempoCondition(relation="relative", tolerance=0.1), id="relative-wide"),
    pytest.param(TempoCondition(relation="relative", tolerance=0.0), id="relative-zero"),
]


@pytest.mark.parametrize("condition", TEMPO_CONDITIONS)
def test_targets_of_tempo_against_a_loop(condition):
    labels = [None, float("nan"), 10.0, 29.9, 300.1, 999.0, *random_tempi(random.Random(2))]
    targets = condition.targets(condition.encode(labels))
    assert targets.shape == (len(labels), condition.n_classes)
    assert targets.dtype == torch.float32
    checked = set()
    for row, bpm in zip(targets.tolist(), labels, strict=True):
        if bpm is None or math.isnan(bpm):
            assert row == [0.0] * condition.n_classes
            continue
        assert sorted(row) == [0.0] * (condition.n_classes - 1) + [1.0]
        near = {tempo_class(bpm * (1 + slack), condition) for slack in (-SLACK, 0, SLACK)}
        assert row.index(1.0) in near
        checked |= near
    assert {0, condition.n_classes - 1} <= checked


@pytest.mark.parametrize(
    ("condition", "n_classes"),
    [
        (TempoCondition(), 27),  # (300 - 30) / 10
        (TempoCondition(tolerance_bpm=11.5), 12),  # 270 / 23 = 11.7
        (TempoCondition(tolerance_bpm=0.0), 270),
        (TempoCondition(tolerance_bpm=1e6), 1),
        (TempoCondition(relation="relative"), 30),  # log(10) / log(1.04 ** 2) = 29.4
        (TempoCondition(relation="relative", tolerance=0.0), 333),  # log2(10) / 0.01 = 332.2
    ],
    ids=["absolute", "wide", "zero", "everything", "relative", "relative-zero"],
)
def test_number_of_classes_of_tempo(condition, n_classes):
    assert condition.n_classes == n_classes
    everything = condition.targets(condition.encode([30.0 + i / 7 for i in range(1890)]))
    assert (everything.sum(0) > 0).all()  # no class is empty


@pytest.mark.parametrize("condition", TEMPO_CONDITIONS[:2] + TEMPO_CONDITIONS[3:5])
def test_tempi_of_a_class_are_not_far_apart(condition):
    """Two tempi of one class are at most two tolerances apart: a class is as wide as the positive zone."""
    bpm = [30.0 + i / 3 for i in range(810)]
    encoded = condition.encode(bpm)
    number = condition.targets(encoded).argmax(1)
    assert (number.diff() >= 0).all()
    for k in range(condition.n_classes):
        own = encoded[number == k, 0]
        if condition.relation == "absolute":
            assert own.max() - own.min() <= 2 * condition.tolerance_bpm
        else:
            assert own.max() / own.min() <= (1 + condition.tolerance) ** 2 * (1 + SLACK)


@pytest.mark.parametrize("condition", [TagCondition("genre", TAGS), TempoCondition()], ids=["tags", "tempo"])
def test_targets_of_no_tracks(condition):
    assert condition.targets(condition.encode([])).shape == (0, condition.n_classes)
