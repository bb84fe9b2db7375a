"""Pieces that change one factor: what changes, when, and that nothing else does."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.corpora.demo.changes import (
    FACTORS,
    MIDDLE,
    TEMPO_RATIO,
    ChangingPiece,
    compose_change,
    generate_changes,
    plan_changes,
    tags_of,
    triplet_rows,
)
from datamodules.corpora.demo.corpus import SAMPLE_RATE
from datamodules.corpora.demo.score import GENRES, LEAD_PROGRAMS, MOODS, TEMPO_RANGE, compose, plan_pieces
from datamodules.corpora.manifest import read_manifest
from datamodules.corpora.records import collect
from disentangled_ml.structures import TRIPLET_COLUMNS

SECONDS = 24.0
PLAN = plan_changes(150, seed=0)
BAR = 4 * 60 / TEMPO_RANGE[0]  # the longest


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return generate_changes(tmp_path_factory.mktemp("changes"), 5, seed=1, seconds=SECONDS, workers=1).parent


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def example(condition: str | None) -> ChangingPiece:
    return next(piece for piece in PLAN if piece.condition == condition)


def test_one_factor_changes_at_the_most():
    kinds = Counter(piece.condition for piece in PLAN)
    assert kinds == dict.fromkeys((*FACTORS, None), 30)
    for piece in PLAN:
        differing = [name for name in FACTORS if getattr(piece.before, name) != getattr(piece.after, name)]
        assert differing == ([piece.condition] if piece.condition else [])
        assert (piece.before.index, piece.before.split) == (piece.after.index, piece.after.split)


def test_values_are_legal_and_tempi_differ_clearly():
    for piece in PLAN:
        for half in (piece.before, piece.after):
            assert half.genre in GENRES
            assert half.mood in MOODS
            assert half.instrument in LEAD_PROGRAMS
            assert TEMPO_RANGE[0] <= half.tempo <= TEMPO_RANGE[1]
        if piece.condition == "tempo":
            ratio = max(piece.before.tempo, piece.after.tempo) / min(piece.before.tempo, piece.after.tempo)
            assert TEMPO_RATIO[0] - 0.01 <= ratio <= TEMPO_RATIO[1] + 0.01
    tempi = [piece.after.tempo > piece.before.tempo for piece in PLAN if piece.condition == "tempo"]
    assert 5 < sum(tempi) < 25  # faster and slower


def test_every_kind_is_in_both_splits_in_the_same_shares():
    counts = Counter((piece.before.split, piece.condition) for piece in PLAN)
    assert counts == {(split, kind): n for split, n in (("val", 10), ("test", 20)) for kind in (*FACTORS, None)}


def test_the_plan_is_deterministic_and_of_other_music_than_the_corpus():
    assert plan_changes(150, seed=0) == PLAN
    assert plan_changes(150, seed=1) != PLAN
    piece = PLAN[0]
    assert piece.generator().random() != plan_pieces(1, seed=0)[0].generator().random()


def test_the_change_is_a_bar_line_in_the_middle():
    for piece in PLAN:
        change = piece.change(SECONDS)
        assert MIDDLE[0] * SECONDS - BAR / 2 <= change <= MIDDLE[1] * SECONDS + BAR / 2
        bars = (piece.start() + change) / piece.before.bar_seconds
        assert bars == pytest.approx(round(bars))


@pytest.mark.parametrize("condition", [*FACTORS, None])
def test_notes_end_and_begin_at_the_change(condition):
    piece = example(condition)
    before, after = compose_change(piece, SECONDS)
    line = piece.start() + piece.change(SECONDS)
    end = piece.start() + SECONDS
    for name in before:
        assert max(note.start for note in before[name].notes) < line <= min(note.start for note in after[name].notes)
        assert before[name].notes[0].start < 3 * piece.before.bar_seconds
    assert after["drums"].notes[-1].start > end - piece.after.bar_seconds
    assert after["lead"].notes[-1].start > end - piece.after.bar_seconds


@pytest.mark.parametrize("condition", [*FACTORS, None])
def test_who_plays_changes_with_the_instrument_alone(condition):
    piece = example(condition)
    before, after = compose_change(piece, SECONDS)
    for name in ("chords", "bass", "drums"):
        assert before[name].program == after[name].program
    assert (before["lead"].program != after["lead"].program) == (condition == "instrument")
    for half, part in ((piece.before, before["lead"]), (piece.after, after["lead"])):
        assert part.program in LEAD_PROGRAMS[half.instrument]


@pytest.mark.parametrize("condition", ["instrument", None])
def test_what_is_played_goes_on(condition):
    piece = example(condition)
    played = compose_change(piece, SECONDS)[1]
    unchanged = compose_change(ChangingPiece(piece.before, piece.before, piece.position), SECONDS)[1]
    for name, part in played.items():
        assert len(part.notes) > 4
        assert part.notes == unchanged[name].notes


def test_a_change_of_tempo_keeps_the_notes():
    """Composed for as many bars, both tempi have the same notes at the same places of the bar."""
    piece, bars = example("tempo"), 9
    slow, fast = (
        compose(half, (bars - 1.5) * half.bar_seconds, piece.generator()) for half in (piece.before, piece.after)
    )
    for name, part in slow.items():
        assert [note.pitch for note in part.notes] == [note.pitch for note in fast[name].notes]
        beats = [
            [note.start * half.tempo / 60 for note in each.notes]
            for half, each in ((piece.before, part), (piece.after, fast[name]))
        ]
        assert beats[0] == pytest.approx(beats[1], abs=0.1)  # but for human timing


def test_the_tables_say_what_is_heard(folder):
    rows, sections = read(folder / "changes.csv"), read(folder / "sections.csv")
    assert [row["condition"] for row in rows] == [*FACTORS, ""]
    assert len(sections) == 9
    for row in rows:
        info = soundfile.info(folder / row["path"])
        assert (info.samplerate, info.channels, info.frames) == (SAMPLE_RATE, 1, round(SECONDS * SAMPLE_RATE))
        own = [section for section in sections if section["path"] == row["path"]]
        assert own[0]["start"] == "0.000"
        assert own[-1]["end"] == f"{SECONDS:.3f}"
        if not row["condition"]:
            assert row["time"] == row["before"] == row["after"] == ""
            continue
        assert [own[0]["end"], own[1]["start"]] == [row["time"]] * 2
        assert [section[row["condition"]] for section in own] == [row["before"], row["after"]]


def test_sections_are_a_manifest(folder):
    records, rejected = collect(read_manifest(folder / "sections.csv", [0.7, 0.1, 0.2]))
    assert (len(records), rejected) == (9, [])
    assert {record.artist for record in records} == {f"recording change-0000{i}" for i in range(5)}


def test_whole_pieces_have_the_tags_of_both_sections(folder):
    records, rejected = collect(read_manifest(folder / "tracks.csv", [0.7, 0.1, 0.2]))
    assert rejected == []
    for record, row in zip(records, read(folder / "changes.csv"), strict=True):
        for name in ("genre", "mood", "instrument"):
            if row["condition"] == name:
                assert record.labels[name] == sorted((row["before"], row["after"]))
            else:
                assert len(record.labels[name]) == 1


def test_triplets_are_between_whole_test_pieces_that_change_and_others():
    rows = triplet_rows(PLAN, seed=0)
    pieces = {piece.track_id: piece for piece in PLAN}
    assert tuple(rows[0]) == TRIPLET_COLUMNS
    assert Counter(row[0] for row in rows[1:]) == dict.fromkeys(("genre", "mood", "instrument"), 1000)
    for name, *cells in rows[1:]:
        assert cells[1::2] == ["", "", ""]
        anchor, positive, negative = (pieces[cell] for cell in cells[::2])
        assert {piece.before.split for piece in (anchor, positive, negative)} == {"test"}
        assert anchor.condition != name
        assert positive.condition == negative.condition == name
        (tag,) = tags_of(anchor, name)
        assert tag in tags_of(positive, name)
        assert tag not in tags_of(negative, name)
    assert len({row[1] for row in rows[1:]}) > 50


def test_too_few_pieces_give_no_triplet(folder):
    assert read(folder / "triplets.csv") == []


def test_a_piece_is_not_silent_and_does_not_jump(folder):
    for row in read(folder / "changes.csv"):
        samples = soundfile.read(folder / row["path"])[0]
        levels = [20 * np.log10(np.sqrt(np.mean(part**2))) for part in np.split(samples, 24)]
        assert min(levels) > -45
        assert np.abs(samples).max() < 1


def test_it_is_made_once(folder):
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "audio").iterdir()}
    generate_changes(folder, 5, seed=1, seconds=SECONDS, workers=1)
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "audio").iterdir()} == before


@pytest.mark.parametrize(("arguments", "message"), [((0, 0, 24.0), "n_pieces is 0"), ((5, 0, 23.9), "at least 24")])
def test_illegal_numbers(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate_changes(tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
