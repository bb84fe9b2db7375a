"""The plan holds every track once, mixes them, and is the same whatever is done with it."""

import hashlib
import random
from collections.abc import Iterator

import pytest

from datamodules.shards.plan import ShardPlan, plan_shards, read_members, unusable_rows
from disentangled_ml.structures import Corpus, Rejected, TrackRecord


def records_of(n: int, split: str = "train", first: int = 0) -> list[TrackRecord]:
    return [TrackRecord(f"t{i}", f"{i}.wav", None, split, {"genre": ["jazz"]}) for i in range(first, first + n)]


def corpus_of(*rows: TrackRecord | Rejected) -> Corpus:
    return Corpus(["genre"], lambda: iter(rows))


def by_name(corpus: Corpus, plan: ShardPlan) -> dict[str, list[TrackRecord]]:
    members = read_members(corpus, plan, range(len(plan.names)))
    return {name: members[number] for number, name in enumerate(plan.names)}


def test_a_plan_holds_every_track_once_and_mixes_them():
    rows = [*records_of(10), *records_of(3, "test", first=10)]
    corpus = corpus_of(*rows)
    plan = plan_shards(corpus, "settings", 4)
    shards = by_name(corpus, plan)
    sizes = {name: len(members) for name, members in shards.items()}
    assert sizes == {"train-000000": 4, "train-000001": 4, "train-000002": 2, "test-000000": 3}
    assert [batch.size for batch in plan.batches()] == [4, 4, 2, 3]
    assert [[batch.name for batch in plan.batches(split)] for split in ("train", "val", "test")] == [
        plan.names[:3],
        [],
        plan.names[3:],
    ]
    planned = [record for batch in plan.batches("train") for record in shards[batch.name]]
    assert sorted(planned) == sorted(rows[:10])
    assert planned != rows[:10]
    assert planned == sorted(rows[:10], key=lambda record: hashlib.blake2b(record.track_id.encode()).digest())


def test_the_order_of_the_rows_does_not_matter():
    rows = [*records_of(40), *records_of(9, "val", first=40)]
    mixed = random.Random(0).sample(rows, len(rows))
    corpora = corpus_of(*rows), corpus_of(*mixed)
    plans = [plan_shards(corpus, "", 4) for corpus in corpora]
    first, second = map(by_name, corpora, plans)
    assert first == second
    assert plans[0].fingerprint == plans[1].fingerprint


def test_the_first_row_of_a_track_counts_and_others_are_listed():
    rows = records_of(6)
    again = rows[2]._replace(path="again.wav", split="test")
    bad = Rejected("bad", "", "no path")
    corpus = corpus_of(*rows[:4], bad, again, *rows[4:], rows[0])
    plan = plan_shards(corpus, "", 100)
    assert {name: sorted(members) for name, members in by_name(corpus, plan).items()} == {"train-000000": rows}
    reason = "duplicate track_id, the first one is kept"
    assert list(unusable_rows(corpus, plan)) == [
        bad,
        Rejected("t2", "again.wav", reason),
        Rejected("t0", "0.wav", reason),
    ]


def test_fingerprint_is_of_tracks_splits_and_settings():
    rows = records_of(5)
    moved = [record._replace(path=f"elsewhere/{record.path}") for record in rows]
    relabelled = [record._replace(labels={"genre": ["rock"]}, artist="Ann") for record in rows]
    resplit = [rows[0]._replace(split="val"), *rows[1:]]
    renamed = [rows[0]._replace(track_id="other"), *rows[1:]]
    same, others = (rows, moved, relabelled), (rows, rows[:4], resplit, renamed)
    assert len({plan_shards(corpus_of(*each), "", 4).fingerprint for each in same}) == 1
    prints = [plan_shards(corpus_of(*each), "", 4).fingerprint for each in others]
    assert len({*prints, plan_shards(corpus_of(*rows), "other", 4).fingerprint}) == 5


def test_only_wanted_shards_are_held():
    corpus = corpus_of(*records_of(40))
    plan = plan_shards(corpus, "", 4)
    everything = read_members(corpus, plan, range(10))
    assert read_members(corpus, plan, [7, 2]) == {7: everything[7], 2: everything[2]}


@pytest.mark.parametrize("n_rows", [39, 41], ids=["a row less", "a row more"])
def test_a_catalogue_that_changes_is_an_error(n_rows):
    rows = records_of(40)
    plan = plan_shards(corpus_of(*rows), "", 4)
    with pytest.raises(ValueError, match="the corpus changed while it was read"):
        read_members(corpus_of(*records_of(n_rows)), plan, [0])


def test_an_empty_catalogue_has_no_shards():
    corpus = corpus_of(Rejected("a", "", "no path"))
    plan = plan_shards(corpus, "", 4)
    assert plan.names == []
    assert read_members(corpus, plan, []) == {}
    assert len(list(unusable_rows(corpus, plan))) == 1


def test_rows_are_streamed_once_per_reading():
    held: list[int] = []

    def rows() -> Iterator[TrackRecord]:
        for record in records_of(1000):
            held.append(1)
            yield record

    corpus = Corpus([], rows)
    plan = plan_shards(corpus, "", 64)
    read_members(corpus, plan, [0])
    assert len(held) == 2000
