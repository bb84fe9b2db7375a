"""The command: from the folder of a listening test to a file of weights, and what it tells of its answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from disentangled_ml.commands import fit_weights
from disentangled_ml.commands.schemas import FitWeightsConfig
from disentangled_ml.config import load_config
from disentangled_ml.search.catalogue import EmbeddedCatalogue, read_catalogue
from disentangled_ml.search.weights_file import read_weights
from disentangled_ml.web.listening.answer_file import as_line
from disentangled_ml.web.listening.questions import CANNOT_TELL, FIRST, SECOND, Answer, Excerpt, Question, first_is_left
from tests import warm
from tests.disentangled_ml.catalogues import NAMES, unit_rows, write_catalogue

N_TRACKS, N_QUESTIONS = 60, 80
TRUE = np.array([1.0, 0.5, 0.2])


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    return write_catalogue(tmp_path_factory.mktemp("weights") / "index", unit_rows(N_TRACKS)).folder


def asked(n: int = N_QUESTIONS, condition: str = "track", start: float | None = None) -> list[Question]:
    rng = np.random.default_rng(3)
    triples = [rng.choice(N_TRACKS, 3, replace=False).tolist() for _ in range(n)]
    return [Question(condition, *(Excerpt(f"t{number}", start) for number in triple)) for triple in triples]


def answer(catalogue: EmbeddedCatalogue, question: Question, rater: str, rng: np.random.Generator) -> Answer:
    """Answer as a rater of the true weights, who is nearly sure."""
    probability = 1 / (1 + np.exp(-20 * margin(catalogue, question)))
    return Answer(rater, question, FIRST if rng.random() < probability else SECOND)


def write_test(folder: Path, answers: list[Answer]) -> Path:
    folder.mkdir()
    lines = [as_line(each, datetime(2026, 1, 2, tzinfo=UTC)) + "\n" for each in answers]
    (folder / "answers.jsonl").write_text("".join(lines))
    return folder


def of_raters(index: Path, questions: list[Question], raters: str = "ABC") -> list[Answer]:
    rng, catalogue = np.random.default_rng(0), read_catalogue(index)
    return [answer(catalogue, question, rater, rng) for question in questions for rater in raters]


def run(folder: Path, index: Path, *arguments: str) -> None:
    fit_weights.main(load_config(FitWeightsConfig, [f"listening_test={folder}", f"index={index}", *arguments]))


def test_weights_from_answers(tmp_path, index, capsys, caplog):
    questions, other = asked(), asked(9, "tempo")
    extra = [Answer("A", question, CANNOT_TELL) for question in asked(2, start=1.5)]
    extra += [Answer("A", questions[0]._replace(reference=Excerpt("gone")), FIRST)]
    extra += [Answer("A", questions[0]._replace(reference=Excerpt(questions[0].first.track_id, 9.0)), FIRST)]
    extra += [Answer("B", question, FIRST) for question in other]
    corrected = [
        each._replace(chosen=FIRST if each.chosen == SECOND else SECOND) for each in of_raters(index, questions)
    ]
    folder = write_test(tmp_path / "test", [*corrected, *of_raters(index, questions), *extra])
    run(folder, index, f"out={tmp_path}/new/w.json")
    weights = read_weights(tmp_path / "new" / "w.json", NAMES)
    assert list(weights) == NAMES
    assert max(weights.values()) == weights["genre"] == 1
    content = json.loads((tmp_path / "new" / "w.json").read_text())
    assert weights["genre"] > weights["mood"] > weights["tempo"]
    for entry in content["shares"].values():
        assert entry["ci95"][0] <= entry["share"] <= entry["ci95"][1]
    assert (content["votes"], content["questions"], list(content["raters"])) == (
        3 * N_QUESTIONS,
        N_QUESTIONS,
        list("ABC"),
    )
    assert content["left_out"] == {
        CANNOT_TELL: 2,
        "a track is not in the index": 1,
        "two excerpts are of one track": 1,
    }
    assert content["model"] == "0" * 64
    shown = capsys.readouterr().out
    assert shown.startswith("condition  weight  share, with 95 % interval\ngenre      1.000")
    assert "answers left out: cannot tell (2), a track is not in the index (1)" in shown
    assert "people heard excerpts" in caplog.text


def test_mirrored_questions_and_other_excerpts_are_one_question(index):
    (question,) = asked(1)
    mirrored = question._replace(first=question.second, second=question.first)
    moved = question._replace(reference=question.reference._replace(start=3.0))
    answers = [Answer("A", question, FIRST), Answer("B", mirrored, SECOND), Answer("C", moved, SECOND)]
    votes, left_out = fit_weights.collect(read_catalogue(index), answers)
    assert len(votes.difference) == 1
    assert not left_out
    first, second, third = votes.is_first.tolist()
    assert first == second != third


def test_few_answers_habits_and_separable_ones_are_told(tmp_path, index, caplog):
    catalogue = read_catalogue(index)
    # Far from the border, where the prior could turn an answer.
    questions = sorted(asked(), key=lambda question: abs(margin(catalogue, question)))[-12:]
    sure = [answer(catalogue, question, "Ann", np.random.default_rng(0)) for question in questions]
    run(write_test(tmp_path / "few", sure), index)
    assert "only 12 questions have votes" in caplog.text
    lefts = [Answer("Lefty", q, FIRST if first_is_left(q, "Lefty") else SECOND) for q in questions]
    run(write_test(tmp_path / "left", [*sure, *lefts]), index)
    assert "Lefty chose the left one 12 times in 12" in caplog.text
    assert "Ann chose" not in caplog.text
    certain = [Answer("Ann", q, FIRST if margin(catalogue, q) > 0 else SECOND) for q in questions]
    run(write_test(tmp_path / "sure", certain), index)
    assert "the weights get every vote right" in caplog.text


def margin(catalogue: EmbeddedCatalogue, question: Question) -> float:
    rows = [catalogue.find(excerpt.track_id) for excerpt in question[1:]]
    return float(fit_weights.difference_of(catalogue, *rows) @ TRUE)


@pytest.mark.parametrize(
    ("answers", "arguments", "reason"),
    [
        ([], [], "answers.jsonl is not there or holds no answers yet"),
        ([(q, FIRST) for q in asked(3, "genre")], [], r"asked=track: .* only to genre \(3\); or give asked=all"),
        ([(q, CANNOT_TELL) for q in asked(3)], [], r"no answer can be used \(cannot tell \(3\)\)"),
        ([(q, FIRST) for q in asked(4)], [], "4 questions have a vote: at least 5"),
    ],
    ids=["none", "other", "cannot tell", "few"],
)
def test_what_cannot_be_used_is_told_and_nothing_is_written(tmp_path, index, answers, arguments, reason):
    folder = write_test(tmp_path / "test", [Answer("A", *each) for each in answers])
    with pytest.raises(ValueError, match=reason):
        run(folder, index, f"out={tmp_path}/w.json", *arguments)
    assert not (tmp_path / "w.json").exists()


def test_the_command_ends_with_one_line(tmp_path, index):
    done = warm.run("fit_weights", f"listening_test={tmp_path}", f"index={index}")
    assert done.returncode == 1
    assert done.stderr.startswith("configuration error: listening_test=")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "holds no JSON object"),
        ("{", "holds no JSON object"),
        ('{"genre": 1}', "no object 'weights'"),
        ('{"weights": {"genre": 1, "mood": 1}}', "weights for genre, mood, the model has genre, mood, tempo"),
        ('{"weights": {"genre": 1, "mood": 1, "tempo": -1}}', "w.json: weights.tempo=-1 is not legal"),
        ('{"weights": {"genre": NaN, "mood": 1, "tempo": 1}}', "weights.genre=nan is not legal"),
        ('{"weights": {"genre": "1", "mood": 1, "tempo": 1}}', "weights.genre=1 is not legal"),
        ('{"weights": {"genre": 0, "mood": 0, "tempo": 0}}', "w.json: all weights are zero"),
    ],
)
def test_a_file_without_weights_is_named(tmp_path, content, reason):
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(ValueError, match=reason) as error:
        read_weights(tmp_path / "w.json", NAMES)
    assert "w.json" in str(error.value)


def test_weights_are_in_the_order_of_the_conditions(tmp_path):
    (tmp_path / "w.json").write_text('{"weights": {"tempo": 0, "genre": 1, "mood": 0.5}, "votes": 3}')
    assert read_weights(str(tmp_path / "w.json"), NAMES) == {"genre": 1.0, "mood": 0.5, "tempo": 0.0}
