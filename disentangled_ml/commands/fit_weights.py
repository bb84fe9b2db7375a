"""Fit weights to people: ``disentangled fit_weights listening_test=DIR index=DIR out=FILE.json``.

Finds the weight of each condition by which the weighted distance orders recordings as the raters of a listening test do. ``index``
is the catalogue that was asked about. Questions as a whole count, unless ``asked`` says otherwise: who is asked about the genre says
nothing of how much the genre matters. See docs/fit_weights.md.
"""

import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from disentangled_ml.config import ConfigError
from disentangled_ml.evaluation.weight_fit import Votes, is_habit, weight_report
from disentangled_ml.files import writable, write_json
from disentangled_ml.reporting.cells import accuracy_text, aligned, number_text
from disentangled_ml.search.catalogue import EmbeddedCatalogue, read_catalogue
from disentangled_ml.search.weighted_distance import condition_distances
from disentangled_ml.web.listening import questions as listening
from disentangled_ml.web.listening.answer_file import read_answers
from disentangled_ml.web.listening.questions import CANNOT_TELL, FIRST, SECOND, Answer, Question
from disentangled_ml.web.listening.session import ANSWERS_FILE

ALL = "all"
FEW = 30  # questions: below, intervals are wider than most differences
logger = logging.getLogger("fit_weights")


def main(config: DictConfig) -> None:
    out, folder = None if config.out is None else writable(config.out), Path(config.listening_test)
    catalogue = read_catalogue(config.index)
    answers = last_answers(folder, config.asked)
    votes, left_out = collect(catalogue, answers)
    if not votes.rater:
        raise ConfigError(f"listening_test={folder}: no answer can be used ({counts_text(left_out)})")
    report = weight_report(votes, catalogue.condition_names, config.seed)
    notes = notes_on(report, answers)
    content = {
        **report,
        "left_out": left_out,
        "notes": notes,
        "asked": config.asked,
        "model": catalogue.model.fingerprint,
    }
    for note in notes:
        logger.warning(note)
    if out is not None:
        write_json(out, content)
    sys.stdout.write(weights_table(content) + "\n")


def last_answers(folder: Path, asked: str) -> list[Answer]:
    """Return the last answer of each rater to each of the questions that count. Raises ConfigError if there is none."""
    answers, damaged = read_answers(folder / ANSWERS_FILE)
    if damaged:
        logger.warning("%s: %d damaged lines are no answers", folder / ANSWERS_FILE, damaged)
    if not answers:
        raise ConfigError(f"listening_test={folder}: {ANSWERS_FILE} is not there or holds no answers yet")
    found = Counter(answer.question.condition for answer in answers)
    if asked != ALL and asked not in found:
        raise ConfigError(
            f"asked={asked}: {folder} has no answers to that, only to {counts_text(found)}; or give asked={ALL}"
        )
    counting = [answer for answer in answers if asked in (ALL, answer.question.condition)]
    last = {(answer.rater, answer.question): answer for answer in counting}
    return list(last.values())


def collect(catalogue: EmbeddedCatalogue, answers: list[Answer]) -> tuple[Votes, dict[str, int]]:
    """Return the votes with the differences of their questions, and how many answers are left out for which reason.

    The catalogue holds whole tracks. So questions about the same three tracks are one, whatever their excerpts and order.
    """
    rows = {
        name: catalogue.find(name) for name in dict.fromkeys(name for a in answers for name in tracks_of(a.question))
    }
    numbers: dict[tuple[str, ...], int] = {}
    votes, left_out = [], Counter()
    for answer in answers:
        reference, first, second = tracks_of(answer.question)
        if answer.chosen == CANNOT_TELL:
            left_out[CANNOT_TELL] += 1
        elif None in (rows[reference], rows[first], rows[second]):
            left_out["a track is not in the index"] += 1
        elif len({reference, first, second}) < 3:
            left_out["two excerpts are of one track"] += 1
        else:
            one, other = sorted((first, second))
            number = numbers.setdefault((reference, one, other), len(numbers))
            votes.append((number, (answer.chosen == FIRST) == (first == one), answer.rater))
    difference = [difference_of(catalogue, *(rows[name] for name in key)) for key in numbers]
    question, is_first, raters = zip(*votes, strict=True) if votes else ((), (), ())
    return Votes(np.array(difference), np.array(question, np.int64), np.array(is_first, bool), raters), dict(left_out)


def tracks_of(question: Question) -> tuple[str, str, str]:
    return question.reference.track_id, question.first.track_id, question.second.track_id


def difference_of(catalogue: EmbeddedCatalogue, reference: int, first: int, second: int) -> np.ndarray:
    """Return D_c^2(reference, second) - D_c^2(reference, first) of the tracks of three rows: (C,)."""
    embedding = catalogue.embedding[[first, second]]
    nearer, farther = condition_distances(embedding, catalogue.embedding[reference], catalogue.model.masks)
    return farther - nearer


def notes_on(report: dict[str, Any], answers: list[Answer]) -> list[str]:
    """Return what one should know before one trusts the weights."""
    notes, (low, high) = [], report["accuracy"]["gain"]["ci95"]
    n_excerpts = sum(excerpt.start is not None for answer in answers for excerpt in answer.question[1:])
    if n_excerpts:
        notes.append(
            "people heard excerpts, the index holds whole tracks: weights are fitted to the distances of the latter"
        )
    if report["questions"] < FEW:
        notes.append(f"only {report['questions']} questions have votes: the intervals are wide, ask some dozens more")
    if report["separated"]:
        notes.append("the weights get every vote right: other ones may as well, and only the prior keeps them finite")
    if low <= 0 <= high:
        notes.append(
            f"fitted weights are not told apart from equal ones: gain in accuracy from {low:+.3f} to {high:+.3f}"
        )
    for rater in report["raters"]:
        sides = [is_left(answer) for answer in answers if answer.rater == rater and answer.chosen != CANNOT_TELL]
        if is_habit(sum(sides), len(sides)):
            notes.append(f"{rater} chose the left one {sum(sides)} times in {len(sides)}: perhaps without listening")
    return notes


def is_left(answer: Answer) -> bool:
    return listening.first_is_left(answer.question, answer.rater) == (answer.chosen != SECOND)


def weights_table(content: dict[str, Any]) -> str:
    """Return weights and accuracies as tables."""
    weights = [("condition", "weight", "share, with 95 % interval")]
    for name, entry in content["shares"].items():
        shown = accuracy_text({"accuracy": entry["share"], "ci95": entry["ci95"]})
        weights.append((name, number_text(content["weights"][name]), shown))
    accuracy, ceiling = content["accuracy"], content["agreement"]
    rows = [("votes foretold", "votes", "equal weights", "fitted, cross-validated")]
    rows.append(("all", str(content["votes"]), accuracy_text(accuracy["equal"]), accuracy_text(accuracy["fitted"])))
    for rater, entry in content["raters"].items():
        rows.append((rater, str(entry["n"]), number_text(entry["equal"]), number_text(entry["fitted"])))
    lines = [*aligned(weights), "", *aligned(rows), ""]
    lines.append(f"gain {accuracy_text(accuracy['gain'])}; {content['questions']} questions")
    if ceiling is None:
        lines.append("no question has votes of several raters: what can be reached at most is not known")
    else:
        lines.append(
            f"raters agree in {ceiling['pairs']:.3f} of the pairs of votes; at most {ceiling['majority']:.3f} of the votes can be "
            f"foretold ({ceiling['questions']} questions with several votes)"
        )
    if content["left_out"]:
        lines.append(f"answers left out: {counts_text(content['left_out'])}")
    return "\n".join(lines)


def counts_text(counts: dict[str, int]) -> str:
    """Return counts as text.

    >>> counts_text({"cannot tell": 3, "track": 2})
    'cannot tell (3), track (2)'
    """
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
