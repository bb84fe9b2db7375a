"""Which tracks, which chunks, which triplets: all of them, legal ones only, and every condition in every batch."""

import hashlib
import weakref
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch

from datamodules.batches.composer import (
    BatchPlan,
    StreamedTrack,
    compose_batches,
    draw_slots,
    draw_spans,
    draw_starts,
    half,
    has_triplet,
    in_chunk_frames,
)
from disentangled_ml.chunks import tempo_ratio
from disentangled_ml.objective.conditions import TagCondition, TempoCondition, group_numbers
from disentangled_ml.structures import TrackInfo, name_code

CHUNK_FRAMES = 16
GAP = CHUNK_FRAMES // 2
PLAN = BatchPlan(
    CHUNK_FRAMES, chunks_per_track=3, tracks_per_batch=12, pool_tracks=40, triplets_per_condition=30, track_triplets=20
)
GENRE, MOOD, TEMPO = TagCondition("genre", ("a", "b", "c", "rare")), TagCondition("mood", ("u", "v")), TempoCondition()
RARE = TagCondition("era", ("60s", "70s", "80s"))


class Reader:
    """Give chunks that tell their track and frame; counts those that are alive."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, number: int):
        self.number = number
        self.alive.add(self)

    def __call__(self, start: int, span: int = CHUNK_FRAMES) -> np.ndarray:
        chunk = np.full((1, 2, CHUNK_FRAMES), self.number, np.float16)
        chunk[0, 1] = np.linspace(start, start + span - 1, CHUNK_FRAMES)
        return chunk


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def catalogue(n: int, seed: int = 0) -> list[TrackInfo]:
    """Label n tracks: one genre is that of 2 %, an era is known of 5 %, a fifth has no tempo, a third no artist."""
    rng = np.random.default_rng(seed)
    infos = []
    for number in range(n):
        labels = {"genre": ["rare"] if rng.random() < 0.02 else [str(rng.choice(["a", "b", "c"]))]}
        labels["mood"] = sorted(rng.choice(["u", "v"], rng.integers(1, 3), replace=False).tolist())
        if rng.random() < 0.8:
            labels["tempo"] = float(rng.uniform(60, 180))
        if rng.random() < 0.05:
            labels["era"] = [str(rng.choice(RARE.vocabulary))]
        artist = f"a{rng.integers(1 + n // 4)}" if rng.random() < 0.67 else None
        infos.append(TrackInfo(f"t{number}", artist, int(CHUNK_FRAMES + rng.integers(0, 80)), labels))
    return infos


def stream(infos: list[TrackInfo]):
    for number, info in enumerate(infos):
        yield StreamedTrack(info.frames, Reader(number), info.labels, name_code(info.artist))


def chunks_of(batch) -> list[tuple[int, int]]:
    """Give track and start of every chunk of a batch."""
    return list(zip(batch.audio[:, 0, 0, 0].int().tolist(), batch.audio[:, 0, 1, 0].int().tolist(), strict=True))


def n_batches(n: int, plan: BatchPlan) -> int:
    return -(-n // plan.fresh_tracks)


@pytest.mark.parametrize("frames", [CHUNK_FRAMES, CHUNK_FRAMES + 1, 31, 32, 39, 40, 41, 100])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_starts_are_legal_and_all_occur(frames, n):
    last, rng = frames - CHUNK_FRAMES, generator()
    drawn = [draw_starts([frames], CHUNK_FRAMES, n, rng)[0].tolist() for _ in range(1000)]
    assert {len(starts) for starts in drawn} == {n}
    occur = {start for starts in drawn for start in starts}
    slack = last - (n - 1) * GAP
    assert occur <= set(range(last + 1))
    assert {0, last} <= occur
    assert len(occur) == last + 1 or 0 <= slack < GAP - 1
    if slack >= 0:
        assert all(b - a >= GAP for starts in drawn for a, b in pairwise(starts))


def test_tracks_of_different_lengths_draw_as_if_each_were_alone():
    together, alone = generator(3), generator(3)
    frames = [CHUNK_FRAMES, 100, 31, 33, 500]
    expected = [draw_starts([length], CHUNK_FRAMES, 3, alone)[0] for length in frames]
    assert torch.equal(draw_starts(frames, CHUNK_FRAMES, 3, together), torch.stack(expected))


@pytest.mark.parametrize("chunk_frames", [15, 16, 129])
def test_chunks_overlap_by_half_at_the_most(chunk_frames):
    rng = generator()
    for _ in range(300):
        starts = draw_starts([5 * chunk_frames], chunk_frames, 4, rng)[0]
        assert (chunk_frames - starts.diff()).max() <= chunk_frames / 2


def test_a_track_shorter_than_a_chunk_has_no_start():
    with pytest.raises(RuntimeError):
        draw_starts([99, CHUNK_FRAMES - 1], CHUNK_FRAMES, 1, generator())


@pytest.mark.parametrize("n", [1, 2, 11, 12, 13, 40, 41, 100])
@pytest.mark.parametrize("pool", [12, 13, 40])
@pytest.mark.parametrize("per_batch", [2, 3, 12])
def test_every_track_appears(n, pool, per_batch):
    plan = replace(PLAN, pool_tracks=pool, tracks_per_batch=per_batch)
    conditions = [GENRE, MOOD, TEMPO]
    batches = list(compose_batches(stream(catalogue(n)), conditions, plan, n_batches(n, plan), generator()))
    assert len(batches) == n_batches(n, plan)
    assert {track for batch in batches for track, _ in chunks_of(batch)} == set(range(n))
    for batch in batches:
        tracks = [track for track, _ in chunks_of(batch)]
        assert len(tracks) == 3 * min(per_batch, n)
        assert set(Counter(tracks).values()) == {3}, "a track is chosen twice"


def test_tracks_are_fresh_once():
    plan, n = replace(PLAN, tracks_per_batch=12), 60
    batches = list(compose_batches(stream(catalogue(n)), [GENRE], plan, n_batches(n, plan), generator()))
    fresh = [track for batch in batches for track in dict.fromkeys(t for t, _ in chunks_of(batch))][:6]
    everything = [list(dict.fromkeys(t for t, _ in chunks_of(batch)))[:6] for batch in batches]
    assert sorted(track for tracks in everything for track in tracks) == list(range(n))
    assert fresh != sorted(fresh), "tracks are not shuffled"


@pytest.mark.parametrize("n", [5, 40, 200])
def test_every_triplet_is_valid(n, check_triplets):
    conditions, infos = [GENRE, MOOD, TEMPO, RARE], catalogue(n)
    names = [condition.name for condition in conditions]
    seen = Counter()
    for batch in compose_batches(stream(infos), conditions, PLAN, n_batches(n, PLAN), generator()):
        chunks, rows = chunks_of(batch), []
        indices, condition = batch.triplets
        assert indices.dtype == condition.dtype == torch.int64
        assert len(indices) == len(condition)
        assert indices.min() >= 0
        assert indices.max() < len(batch.audio)
        for members, c in zip(indices.tolist(), condition.tolist(), strict=True):
            (anchor, start), (positive, other), (negative, _) = (chunks[i] for i in members)
            seen[c] += 1
            if c < len(conditions):
                rows.append((names[c], anchor, positive, negative))
            else:
                assert anchor == positive != negative
                assert abs(start - other) >= GAP
        check_triplets(rows, info=infos.__getitem__)
    assert n == 5 or all(seen[c] for c in range(5))


def test_relative_tempo(check_triplets):
    condition, infos = TempoCondition(relation="relative"), catalogue(60)
    for batch in compose_batches(stream(infos), [condition], PLAN, 10, generator()):
        tracks = [track for track, _ in chunks_of(batch)]
        for members, c in zip(*(part.tolist() for part in batch.triplets), strict=True):
            if c == 0:
                anchor, positive, negative = (infos[tracks[i]].labels["tempo"] for i in members)
                assert max(anchor / positive, positive / anchor) <= 1.0401
                assert max(anchor / negative, negative / anchor) >= 1.1599


@pytest.mark.parametrize("pool", [400, 250])
def test_every_condition_has_all_its_triplets_in_every_batch(pool):
    conditions = [GENRE, MOOD, TEMPO, RARE]  # the last is known of a twentieth of the tracks
    plan = replace(PLAN, tracks_per_batch=16, pool_tracks=pool)
    n = 400
    for seed in range(3):
        infos = catalogue(n, seed)
        for batch in compose_batches(stream(infos), conditions, plan, n_batches(n, plan), generator(seed)):
            assert torch.bincount(batch.triplets.condition, minlength=5).tolist() == [30, 30, 30, 30, 20]


def test_a_rare_tag_is_not_drowned():
    infos, n = catalogue(400), 400
    plan = replace(PLAN, pool_tracks=400)
    rare = {number for number, info in enumerate(infos) if info.labels["genre"] == ["rare"]}
    assert 2 <= len(rare) <= 16
    with_pair = []
    for batch in compose_batches(stream(infos), [GENRE], plan, n_batches(n, plan), generator()):
        with_pair.append(len({track for track, _ in chunks_of(batch)} & rare) >= 2)
    assert np.mean(with_pair) > 0.25  # by chance a twentieth of the batches holds two of them


def test_a_condition_without_triplets_gives_none():
    infos = [info._replace(labels={"genre": ["a"]}) for info in catalogue(30)]  # one genre: no negatives; no moods
    conditions = [GENRE, MOOD]
    for batch in compose_batches(stream(infos), conditions, PLAN, 5, generator()):
        assert torch.bincount(batch.triplets.condition, minlength=3).tolist() == [0, 0, 20]


@pytest.mark.parametrize("track_triplets", [0, 7])
def test_number_of_track_triplets(track_triplets):
    plan = replace(PLAN, track_triplets=track_triplets)
    for batch in compose_batches(stream(catalogue(40)), [GENRE], plan, 3, generator()):
        assert (batch.triplets.condition == 1).sum() == track_triplets


def test_tracks_of_one_chunk_alone_give_no_track_triplets():
    infos = [info._replace(frames=CHUNK_FRAMES) for info in catalogue(40)]
    for batch in compose_batches(stream(infos), [GENRE], PLAN, 3, generator()):
        assert {start for _, start in chunks_of(batch)} == {0}
        assert not (batch.triplets.condition == 1).any()


def test_chunks_of_a_track_differ_in_a_triplet_s_members():
    """Not always the first chunk of a track stands for it."""
    (batch,) = compose_batches(stream(catalogue(40)), [GENRE], PLAN, 1, generator())
    members = batch.triplets.indices[batch.triplets.condition == 0]
    for column in members.T:
        assert set((column % PLAN.chunks_per_track).tolist()) == {0, 1, 2}


def slots_one_by_one(condition, labels, artist, chosen, rng) -> list[int]:
    """Draw as ``draw_slots`` does, in plain loops."""
    n, weight = len(labels), condition.rarity(labels)
    relation = condition.relate(labels, labels)
    by_one_artist = [[a == b or (artist[a] == artist[b] and artist[a] >= 0) for b in range(n)] for a in range(n)]
    labelled = int((weight > 0).sum())
    for anchor in torch.multinomial(weight, labelled, generator=rng).tolist() if labelled else []:
        positive = [b for b in range(n) if relation.positive[anchor, b] and not by_one_artist[anchor][b]]
        negative = [b for b in range(n) if relation.negative[anchor, b]]
        if positive and negative:
            slots = [anchor, draw_from(positive, rng)]
            return slots if set(negative) & set(chosen) else [*slots, draw_from(negative, rng)]
    return []


def draw_from(numbers: list[int], rng: torch.Generator) -> int:
    return numbers[int(torch.rand(1, generator=rng, dtype=torch.float64).item() * len(numbers))]


@pytest.mark.parametrize("condition", [GENRE, TEMPO], ids=["tags", "tempo"])
def test_slots_are_a_triplet_wherever_there_is_one(condition):
    rng = np.random.default_rng(0)
    outcomes = Counter()
    for seed in range(300):
        n = int(rng.integers(1, 9))
        tags, tempi = rng.choice(["a", "b", "rare"], n), rng.choice([100.0, 103.0, 140.0], n)
        drawn = tempi.tolist() if condition is TEMPO else [[str(tag)] for tag in tags]
        labels = condition.encode([label if rng.random() < 0.7 else None for label in drawn])
        artist = torch.from_numpy(rng.integers(-1, 3, n))
        chosen = rng.permutation(n)[: rng.integers(0, n)].tolist()
        arrays = labels.float().numpy(), group_numbers(artist).numpy()
        slots = draw_slots(condition, *arrays, chosen, generator(seed))
        assert slots == slots_one_by_one(condition, labels, artist, chosen, generator(seed))
        assert has_triplet(condition, *arrays) == bool(slots)
        if slots:
            among = list({*slots, *chosen})
            assert has_triplet(condition, *(array[among] for array in arrays))
            assert len(set(slots)) == len(slots)
        outcomes[len(slots)] += 1
    assert set(outcomes) == {0, 2, 3}


def test_memory_is_bounded_by_the_pool():
    conditions, n = [GENRE, MOOD], 500
    most = 0
    Reader.alive.clear()
    for _ in compose_batches(stream(catalogue(n)), conditions, PLAN, n_batches(n, PLAN), generator()):
        most = max(most, len(Reader.alive))
    assert PLAN.pool_tracks <= most <= PLAN.pool_tracks + PLAN.tracks_per_batch


def test_a_seed_repeats_and_another_does_not():
    def compose(seed: int) -> list:
        return list(compose_batches(stream(catalogue(60)), [GENRE], PLAN, 5, generator(seed)))

    for a, b, c in zip(compose(1), compose(1), compose(2), strict=True):
        assert torch.equal(a.audio, b.audio)
        assert torch.equal(a.triplets.indices, b.triplets.indices)
        assert torch.equal(a.triplets.condition, b.triplets.condition)
        assert not torch.equal(a.audio, c.audio)


@pytest.mark.parametrize("n", [5, 60])
def test_targets_belong_to_their_chunks(n):
    conditions, infos = [GENRE, MOOD, TEMPO, RARE], catalogue(n)
    seen = Counter()
    plan = replace(PLAN, class_targets=True)
    for batch in compose_batches(stream(infos), conditions, plan, n_batches(n, plan), generator()):
        chunks = chunks_of(batch)
        assert [targets.shape for targets in batch.targets] == [(len(chunks), c.n_classes) for c in conditions]
        for condition, targets in zip(conditions, batch.targets, strict=True):
            assert targets.dtype == torch.float32
            for (track, _), row in zip(chunks, targets.tolist(), strict=True):
                label = infos[track].labels.get(condition.name)
                if label is None:
                    expected = set()
                elif condition is TEMPO:
                    expected = {int((label - 30) // 10)}
                else:
                    expected = {condition.vocabulary.index(tag) for tag in label}
                assert {k for k, share in enumerate(row) if share} == expected
                assert sum(row) == pytest.approx(1.0 if expected else 0.0)
                seen[condition.name, len(expected)] += 1
    assert n == 5 or {("mood", 1), ("mood", 2), ("tempo", 0), ("tempo", 1), ("era", 0), ("genre", 1)} <= set(seen)


def test_an_empty_stream_gives_no_batch():
    assert list(compose_batches(iter(()), [GENRE], PLAN, 3, generator())) == []


def test_a_pool_smaller_than_a_batch_would_lose_tracks():
    with pytest.raises(ValueError, match="pool_tracks=11 must be at least tracks_per_batch=12"):
        replace(PLAN, pool_tracks=11)


STRETCHED = replace(PLAN, stretch=0.25, class_targets=True)
# Of batches composed before tracks could be stretched, for the same seed.
UNSTRETCHED_DIGEST = "c4a8a3046563c47e24cc25eafe96912248f3884d745c84c7cbe6d31358dbd9fa"


def digest_of(batches) -> str:
    """Return the digest of all tensors of some batches."""
    digest = hashlib.sha256()
    for batch in batches:
        for part in (batch.audio, *batch.triplets, *batch.targets, *batch.tracks.labels, *batch.tracks[1:]):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode() + part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def spans_of(batch) -> list[int]:
    """Return of how many frames each chunk of a batch was made."""
    return (1 + batch.audio[:, 0, 1, -1] - batch.audio[:, 0, 1, 0]).round().int().tolist()


def stretched_batches(infos: list[TrackInfo], plan: BatchPlan = STRETCHED, condition=TEMPO, seed: int = 0) -> list:
    return list(compose_batches(stream(infos), [GENRE, condition], plan, n_batches(len(infos), plan), generator(seed)))


def test_batches_without_stretch_are_those_from_before_it():
    plan = replace(PLAN, class_targets=True)
    assert digest_of(stretched_batches(catalogue(60), plan)) == UNSTRETCHED_DIGEST


@pytest.mark.parametrize("chunk_frames", [16, 129])
@pytest.mark.parametrize("stretch", [0.1, 0.2, 1.0])
def test_ratios_are_within_the_limits_and_even_in_the_logarithm(chunk_frames, stretch):
    spans = draw_spans(np.full(20_000, 10 * chunk_frames), chunk_frames, stretch, generator())
    ratio = tempo_ratio(spans, chunk_frames)
    steps = chunk_frames - 1
    limits = np.ceil(steps / (1 + stretch)), np.floor(steps * (1 + stretch))
    assert set(spans - 1) == set(range(int(limits[0]), int(limits[1]) + 1))
    assert 1 / (1 + stretch) <= ratio.min() < 1 < ratio.max() <= 1 + stretch
    middle = abs(np.log(ratio)) < 0.5 * np.log(1 + stretch)
    assert np.mean(middle) == pytest.approx(0.5, abs=0.01 + 1 / steps / stretch / 2)
    assert np.mean(np.log(ratio)) == pytest.approx(0, abs=0.05 * stretch)


@pytest.mark.parametrize("extra", [0, 1, 20, 32])
def test_a_short_track_is_stretched_less(extra):
    spans = draw_spans(np.full(5000, 129 + extra), 129, 0.2, generator())
    assert spans.min() == 108
    assert spans.max() == min(129 + extra, 154)
    starts = draw_starts(np.full(5000, 129 + extra), spans, 2, generator())
    assert (starts.numpy() + spans[:, None]).max() == 129 + extra
    assert starts.min() == 0


def test_chunks_of_stretched_tracks_begin_half_a_span_apart():
    frames, rng = np.full(500, 800), generator()
    spans = draw_spans(frames, 129, 0.25, rng)
    starts = draw_starts(frames, spans, 4, rng)
    assert (starts.diff().numpy() >= half(spans)[:, None]).all()
    assert ((starts.numpy() + spans[:, None]) <= 800).all()
    apart = in_chunk_frames(starts, spans, 129).diff()
    assert (apart >= half(129)).all()
    assert (apart < half(129) + 3).any()
    near = torch.stack([starts[:, 0], starts[:, 0] + torch.from_numpy(half(spans)) - 2], dim=1)
    assert (in_chunk_frames(near, spans, 129).diff() < half(129)).all()


def test_tempi_change_by_the_ratio_of_their_chunks_and_nothing_else_does():
    infos, ratios = catalogue(60), Counter()
    for batch in stretched_batches(infos):
        chunks, spans = chunks_of(batch), spans_of(batch)
        genre, tempo = batch.tracks.labels
        assert tempo.dtype == torch.float32
        for row, bpm in enumerate(tempo[:, 0].tolist()):
            own = slice(3 * row, 3 * row + 3)
            (number,), (span,) = {track for track, _ in chunks[own]}, set(spans[own])
            ratio = (span - 1) / (CHUNK_FRAMES - 1)
            assert 0.8 <= ratio <= 1.25
            assert all(0 <= start <= infos[number].frames - span for _, start in chunks[own])
            label = infos[number].labels.get("tempo")
            assert bpm == pytest.approx(label * ratio) if label else bpm != bpm
            assert torch.equal(genre[row], GENRE.encode([infos[number].labels["genre"]])[0].float())
            starts = torch.tensor([[start for _, start in chunks[own]]])
            assert torch.equal(batch.tracks.start[row, None], in_chunk_frames(starts, np.array([span]), CHUNK_FRAMES))
            ratios[round(ratio, 2)] += 1
    assert len(ratios) == 7


def test_triplets_and_classes_are_those_of_the_changed_tempi():
    for condition in (TEMPO, TempoCondition(relation="relative")):
        for batch in stretched_batches(catalogue(200), STRETCHED, condition):
            tempo = batch.tracks.labels[1]
            relation = condition.relate(tempo, tempo)
            rows = batch.triplets.indices[batch.triplets.condition == 1] // STRETCHED.chunks_per_track
            assert relation.positive[rows[:, 0], rows[:, 1]].all()
            assert relation.negative[rows[:, 0], rows[:, 2]].all()
            assert torch.equal(batch.targets[1], condition.targets(tempo).repeat_interleave(3, dim=0))
            # Partners are chosen by the changed tempi too, so that no batch is without.
            assert len(rows) == STRETCHED.triplets_per_condition


def test_track_triplets_of_stretched_tracks_are_half_a_span_apart():
    drawn = 0
    for batch in stretched_batches(catalogue(60)):
        chunks, spans = chunks_of(batch), spans_of(batch)
        for a, p, n in batch.triplets.indices[batch.triplets.condition == 2].tolist():
            assert chunks[a][0] == chunks[p][0] != chunks[n][0]
            assert spans[a] == spans[p]
            assert abs(chunks[a][1] - chunks[p][1]) >= half(spans[a]) - 1
            drawn += 1
    assert drawn


def test_a_track_is_stretched_anew_in_each_batch():
    infos = [info._replace(frames=90) for info in catalogue(12)]
    batches = list(compose_batches(stream(infos), [GENRE], STRETCHED, 2, generator()))
    spans = [dict(zip((track for track, _ in chunks_of(batch)), spans_of(batch), strict=True)) for batch in batches]
    assert spans[0].keys() == spans[1].keys()
    assert spans[0] != spans[1]
    assert all(len(set(drawn.values())) > 2 for drawn in spans)


def test_batches_left_out_change_nothing_of_the_stretched_ones_behind_them():
    infos = catalogue(60)
    whole = stretched_batches(infos)
    for n_skipped in (1, 7):
        rest = compose_batches(stream(infos), [GENRE, TEMPO], STRETCHED, len(whole), generator(), n_skipped)
        assert digest_of(rest) == digest_of(whole[n_skipped:])
