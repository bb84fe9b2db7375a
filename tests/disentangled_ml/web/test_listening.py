"""The listening test: votes, agreement by hand, what raters are shown, and answers that survive what comes."""

from __future__ import annotations

import csv
import io
import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from datamodules.triplet_lists.lists import read_triplets
from disentangled_ml.commands import listening_results
from disentangled_ml.commands.human_triplets import read_judgements
from disentangled_ml.commands.schemas import ListeningResultsConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.objective.conditions import TagCondition, TempoCondition, label_conditions
from disentangled_ml.structures import AudioSettings, ListedTriplet, Member
from disentangled_ml.web.listening.answer_file import AnswerFile, as_line, parse_line, read_answers
from disentangled_ml.web.listening.draw import as_questions, draw_triplets
from disentangled_ml.web.listening.questions import (
    Answer,
    Excerpt,
    Question,
    agreement_figures,
    collect_votes,
    first_is_left,
    judged_csv,
    krippendorff_alpha,
    order_of,
    percent_agreement,
)
from disentangled_ml.web.listening.session import ListeningTest


def question(number: int, condition: str = "genre") -> Question:
    return Question(condition, Excerpt(f"r{number}"), Excerpt(f"a{number}"), Excerpt(f"b{number}", 1.5))


def answers(*votes: str) -> list[Answer]:
    """Read ``Ann0f``: Ann said of question 0 that the first is nearer (s: the second, -: she cannot tell)."""
    names = {"f": "first", "s": "second", "-": "cannot tell"}
    return [Answer(vote[:-2], question(int(vote[-2])), names[vote[-1]]) for vote in votes]


def test_alpha_of_krippendorffs_own_examples():
    """K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), sections A and C."""
    two = ["01", "11", "01", "00", "00", "01", "00", "00", "10", "00"]
    assert krippendorff_alpha(two) == pytest.approx(0.095, abs=5e-4)
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = ["".join(value for value in values if value != ".") for values in zip(*observers, strict=True)]
    assert units[0] == "111"
    assert units[5] == "1234"
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_that_of_all_pairs():
    """By the definition: one minus disagreement within units over disagreement of any two values, each unit weighing n."""
    units = ["aab", "bb", "abab", "a", "aaa"]
    usable = [unit for unit in units if len(unit) > 1]
    values = "".join(usable)
    observed = sum(sum(x != y for x, y in itertools.permutations(u, 2)) / (len(u) - 1) for u in usable) / len(values)
    expected = sum(x != y for x, y in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    assert krippendorff_alpha(units) == pytest.approx(1 - observed / expected)


def test_percent_agreement_is_over_pairs():
    assert percent_agreement(["aa", "ab"]) == 0.5
    assert percent_agreement(["aaab"]) == 0.5  # 3 of 6 pairs
    assert percent_agreement(["a", ""]) is None


def test_figures_by_hand():
    given = answers("Ann0f", "Bob0f", "Cem0s", "Ann1s", "Bob1s", "Ann2f", "Bob2s", "Ann3-")
    figures = agreement_figures(collect_votes([question(i) for i in range(5)], given))
    assert figures["questions"] == 5
    assert (figures["raters"], figures["answers"], figures["cannot_tell"]) == (3, 8, 1)
    assert (figures["judged"], figures["ties"]) == (2, 1)
    assert figures["percent_agreement"] == pytest.approx(2 / 5)  # pairs: ff fs fs, ss, fs
    assert figures["agreement_with_list"] == 0.5


def test_raters_who_all_follow_the_list_agree():
    """Over the questions alone all votes would be alike, and alpha not defined."""
    given = [Answer(name, question(i), "first") for i in range(4) for name in ("Ann", "Bob")]
    figures = agreement_figures(collect_votes([question(i) for i in range(4)], given))
    assert figures["krippendorff_alpha"] == figures["percent_agreement"] == figures["agreement_with_list"] == 1.0


def test_alpha_of_a_test_by_hand():
    """Votes ff, fs, ss and their mirror images: of 6 pairs 2 disagree; of 12 values half are f, 6/11 expected."""
    given = answers("Ann0f", "Bob0f", "Ann1f", "Bob1s", "Ann2s", "Bob2s")
    figures = agreement_figures(collect_votes([question(i) for i in range(3)], given))
    assert figures["krippendorff_alpha"] == pytest.approx(1 - (2 / 6) / (6 / 11))


def test_what_is_called_first_does_not_matter_to_agreement():
    given = answers("Ann0f", "Bob0f", "Cem0s", "Ann1f", "Bob1f", "Cem1f", "Ann2f", "Cem2s")
    asked = [question(i) for i in range(3)]
    other = {"first": "second", "second": "first"}
    swapped = [answer._replace(chosen=other[answer.chosen]) for answer in given]
    one, two = (agreement_figures(collect_votes(asked, each)) for each in (given, swapped))
    assert one["krippendorff_alpha"] == two["krippendorff_alpha"]
    assert one["percent_agreement"] == two["percent_agreement"]
    assert one["agreement_with_list"] == 1 - two["agreement_with_list"]


def test_the_last_answer_of_a_rater_counts():
    votes = collect_votes([question(0)], answers("Ann0f", "Bob0s", "Ann0s", "Ann7f"))
    assert votes == {question(0): {"Ann": "second", "Bob": "second"}}


def test_no_answers_have_no_figures():
    figures = agreement_figures(collect_votes([question(0)], []))
    assert all(not figures[name] for name in ("raters", "answers", "judged"))
    assert figures["krippendorff_alpha"] is figures["agreement_with_list"] is None


def test_the_majority_makes_a_list_that_evaluate_reads(tmp_path):
    given = answers("Ann0f", "Bob0f", "Cem0s", "Ann1s", "Ann2f", "Bob2s", "Ann3-")
    text = judged_csv(collect_votes([question(i) for i in range(5)], given))
    (tmp_path / "judged.csv").write_text(text)
    audio = AudioSettings()
    assert read_triplets(tmp_path / "judged.csv", audio) == [
        ListedTriplet("genre", Member("r0"), Member("a0"), Member("b0", audio.frames(1.5))),
        ListedTriplet("genre", Member("r1"), Member("b1", audio.frames(1.5)), Member("a1")),
    ]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["positive_votes"], row["negative_votes"]) for row in rows] == [("2", "1"), ("1", "0")]


def test_each_rater_has_an_order_and_sides_of_her_own():
    questions = [question(i) for i in range(200)]
    orders = [order_of(questions, name) for name in ("Ann", "Bob")]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == list(range(200))
    assert orders[0] == order_of(questions, "Ann")
    sides = [first_is_left(q, "Ann") for q in questions]
    assert 70 < sum(sides) < 130
    assert sides != [first_is_left(q, "Bob") for q in questions]


NAMES = ("Ann", "<script>alert(1)</script>", 'quoted "name" \\', "日本語 ö", "x" * 100)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_what_was_written(name):
    given = Answer(name, Question("track", Excerpt("a\nb"), Excerpt("</script>", 0.5), Excerpt("c")), "second")
    line = as_line(given, datetime.now(UTC))
    assert "\n" not in line
    assert parse_line(line) == given


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "3", "null", '{"rater": "Ann"}',
     as_line(answers("Ann0f")[0], datetime.now(UTC)).replace('"chosen": "first"', '"chosen": "third"'),
     as_line(answers("Ann0f")[0], datetime.now(UTC)).replace('"Ann"', '""'),
     as_line(answers("Ann0f")[0], datetime.now(UTC)).replace('["r0", null]', '["r0"]'),
     as_line(answers("Ann0f")[0], datetime.now(UTC)).replace('["r0", null]', '[1, null]'),
     "[" * 100_000],
)  # fmt: skip
def test_what_is_no_answer_is_counted_and_the_rest_read(tmp_path, line):
    good = as_line(answers("Bob0s")[0], datetime.now(UTC))
    (tmp_path / "answers.jsonl").write_text(f"{line}\n{good}\n")
    found, damaged = read_answers(tmp_path / "answers.jsonl")
    assert found == answers("Bob0s")
    assert damaged == (1 if line else 0)


def test_half_a_line_is_no_answer_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "answers.jsonl"
    whole = as_line(answers("Ann0f")[0], datetime.now(UTC)) + "\n"
    for cut in (1, 20, len(whole) - 1):
        path.write_text(whole + whole[:cut])
        file = AnswerFile(path)
        file.append(answers("Bob1s")[0])
        file.close()
        found, damaged = read_answers(path)
        if cut == len(whole) - 1:  # only the end of the line was lost
            assert (found, damaged) == (answers("Ann0f", "Ann0f", "Bob1s"), 0)
        else:
            assert (found, damaged) == (answers("Ann0f", "Bob1s"), 1)


def test_a_missing_file_has_no_answers(tmp_path):
    assert read_answers(tmp_path / "answers.jsonl") == ([], 0)


@pytest.mark.slow
def test_an_answer_that_cannot_be_written_leaves_nothing(tmp_path):
    """A file may grow no further here, as on a full disk."""
    program = """
import resource, signal, sys
from pathlib import Path
from disentangled_ml.web.listening.answer_file import AnswerFile
from disentangled_ml.web.listening.questions import Answer, Excerpt, Question
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = AnswerFile(Path(sys.argv[1]))
question = Question("genre", Excerpt("r0"), Excerpt("a0"), Excerpt("b0", 1.5))
file.append(Answer("Ann", question, "first"))
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
try:
    file.append(Answer("Bob", question, "first"))
except OSError as error:
    print("refused", error.errno)
assert Path(sys.argv[1]).stat().st_size == size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.append(Answer("Cem", question, "second"))
"""
    path = tmp_path / "answers.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert "refused" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr
    assert read_answers(path) == (answers("Ann0f", "Cem0s"), 0)


def test_two_servers_do_not_share_a_test(tmp_path):
    test = ListeningTest([question(0)], tmp_path)
    with pytest.raises(OSError, match="in use by another server"):
        ListeningTest([question(0)], tmp_path)
    test.close()
    ListeningTest([question(0)], tmp_path).close()


def test_a_rater_goes_on_where_she_stopped(tmp_path):
    questions = [question(i) for i in range(6)]
    test = ListeningTest(questions, tmp_path)
    seen = []
    for _ in range(3):
        turn = test.turn("Ann")
        seen.append(turn.number)
        test.answer("Ann", turn.number, "first")
    assert test.turn(" Ann ").done == 3
    assert test.turn("Bob").done == 0
    test.close()
    again = ListeningTest(questions, tmp_path)
    assert again.turn("Ann").done == 3
    for _ in range(3):
        turn = again.turn("Ann")
        seen.append(turn.number)
        again.answer("Ann", turn.number, "cannot tell")
    assert sorted(seen) == list(range(6))
    end = again.turn("Ann")
    assert (end.number, end.question, end.done, end.total) == (None, None, 6, 6)
    assert again.turn("Ann", 2).chosen in ("first", "cannot tell")
    assert again.figures()["all"]["answers"] == 6
    again.close()


def test_a_changed_list_keeps_the_answers_to_what_it_still_asks(tmp_path):
    test = ListeningTest([question(0), question(1)], tmp_path)
    test.answer("Ann", 0, "first")
    test.answer("Ann", 1, "second")
    test.close()
    test = ListeningTest([question(2), question(1)], tmp_path)
    assert test.turn("Ann").number == 0
    assert test.turn("Ann", 1).chosen == "second"
    test.close()


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "\0", None, 3, ["Ann"]])
def test_names_that_are_none_are_refused(tmp_path, name):
    test = ListeningTest([question(0)], tmp_path)
    with pytest.raises(ValueError, match="name has 1 to 100"):
        test.turn(name)
    with pytest.raises(ValueError, match="name has 1 to 100"):
        test.answer(name, 0, "first")
    test.close()
    assert read_answers(tmp_path / "answers.jsonl") == ([], 0)


@pytest.mark.parametrize(("number", "chosen"), [(1, "first"), (-1, "first"), ("0", "first"), (True, "first"), (0, "a")])
def test_answers_that_are_none_are_refused(tmp_path, number, chosen):
    test = ListeningTest([question(0)], tmp_path)
    with pytest.raises(ValueError, match=r"no question has that number|an answer is one of"):
        test.answer("Ann", number, chosen)
    test.close()


def test_questions_drawn_by_labels_are_triplets_of_them():
    labels = [{"genre": ["rock" if i % 2 else "jazz"], "tempo": 80.0 + 10 * (i % 4)} for i in range(20)]
    ids, artists = [f"t{i}" for i in range(20)], [f"artist {i % 7}" for i in range(20)]
    conditions = label_conditions(["genre", "mood", "tempo"], labels, {"relation": "relative"})
    assert conditions[1:] == [TagCondition("mood", ()), TempoCondition("tempo", "relative")]
    drawn = draw_triplets(ids, artists, labels, conditions, n=8, seed=1)
    by_id = dict(zip(ids, zip(labels, artists, strict=True), strict=True))
    assert [t.condition for t in drawn] == ["track"] * 8 + ["genre"] * 8 + ["tempo"] * 8
    for condition, *members in drawn:
        anchor, positive, negative = (by_id[member.track_id] for member in members)
        assert len({member.track_id for member in members}) == 3
        if condition != "track":
            assert anchor[0][condition] == positive[0][condition] != negative[0][condition]
            assert anchor[1] != positive[1]
    assert drawn == draw_triplets(ids, artists, labels, conditions, n=8, seed=1)
    assert drawn != draw_triplets(ids, artists, labels, conditions, n=8, seed=2)


def test_too_few_tracks_make_no_test():
    with pytest.raises(ValueError, match="at least three tracks with recordings, there are 2"):
        draw_triplets(["a", "b"], [None] * 2, [{}] * 2, [], n=1, seed=0)


def test_starts_come_back_as_they_were(tmp_path):
    audio = AudioSettings()
    triplet = ListedTriplet("track", Member("a", 77), Member("b", 0), Member("c"))
    (asked,) = as_questions([triplet], audio)
    (tmp_path / "judged.csv").write_text(judged_csv({asked: {"Ann": "first"}}))
    assert read_triplets(tmp_path / "judged.csv", audio) == [triplet]


def results(*arguments: str) -> None:
    listening_results.main(load_config(ListeningResultsConfig, list(arguments)))


def test_the_command_shows_figures_and_writes_the_list(tmp_path, capsys):
    test = ListeningTest([question(0), question(1, "mood")], tmp_path)
    for name in ("Ann", "Bob"):
        test.answer(name, 0, "first")
        test.answer(name, 1, "second")
    results(f"listening_test={tmp_path}", f"out={tmp_path}/judged.csv")  # while the server goes on
    test.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:7] == ["all", "2", "4", "0", "2", "0", "1.000"]
    assert lines[1].split()[-1] == "0.500"
    assert [line.split()[0] for line in lines[1:]] == ["all", "genre", "mood"]
    assert len(read_triplets(tmp_path / "judged.csv", AudioSettings())) == 2


def test_the_command_refuses_what_is_no_test(tmp_path):
    with pytest.raises(ConfigError, match="not there or holds no answers yet"):
        results(f"listening_test={tmp_path}")
    with pytest.raises(ConfigError, match="is the list that is asked"):
        results(f"listening_test={tmp_path}", f"out={tmp_path}/triplets.csv")


def test_answers_are_readable_json(tmp_path):
    test = ListeningTest([question(0)], tmp_path)
    test.answer("Ann", 0, "first")
    test.close()
    (line,) = (tmp_path / "answers.jsonl").read_text().splitlines()
    content = json.loads(line)
    assert content.pop("time").endswith("+00:00")
    assert content == {"rater": "Ann", "chosen": "first", "condition": "genre", "reference": ["r0", None],
                       "first": ["a0", None], "second": ["b0", 1.5]}  # fmt: skip


def test_the_list_is_read_as_what_people_said(tmp_path):
    """``human_triplets`` knows a listening test by its header, and takes only triplets with a majority and enough votes."""
    given = answers("Ann0f", "Bob0f", "Cem0s", "Ann1s")
    (tmp_path / "judged.csv").write_text(judged_csv(collect_votes([question(0), question(1)], given)))
    found = read_judgements(tmp_path / "judged.csv", AudioSettings(), least_votes=None)
    assert [(t.triplet.positive.track_id, t.agreement, t.votes, t.group) for t in found.triplets] == [
        ("a0", pytest.approx(2 / 3), 3, "r0"),
        ("b1", 1.0, 1, "r1"),
    ]
    assert {t.triplet.condition for t in found.triplets} == {"human"}
    few = read_judgements(tmp_path / "judged.csv", AudioSettings(), least_votes=2)
    assert (len(few.triplets), few.undecided) == (1, 1)


@pytest.mark.parametrize(
    ("header", "row", "match"),
    [
        ("positive_votes", "1", "no column negative_votes"),
        ("positive_votes,negative_votes", "1,x", "line 2: negative_votes='x' is not a number of votes"),
        ("positive_votes,negative_votes", "1", "line 2: the row is too short, it ends before negative_votes"),
    ],
)
def test_votes_that_are_none_are_named(tmp_path, header, row, match):
    columns = "condition,anchor_id,anchor_start,positive_id,positive_start,negative_id,negative_start"
    (tmp_path / "judged.csv").write_text(f"{columns},{header}\ngenre,a,,b,,c,,{row}\n")
    with pytest.raises(ValueError, match=match):
        read_judgements(tmp_path / "judged.csv", AudioSettings(), least_votes=None)
