"""A listening test that is running: its questions, and the answers that its raters give and have given.

Its folder holds ``triplets.csv``, the list that is asked about, and ``answers.jsonl``, what was answered.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from disentangled_ml.web.listening.answer_file import AnswerFile, read_answers
from disentangled_ml.web.listening.questions import (
    CHOICES,
    Answer,
    Question,
    check_rater,
    collect_votes,
    figures_by_condition,
    first_is_left,
    judged_csv,
    order_of,
)

LIST_FILE, ANSWERS_FILE = "triplets.csv", "answers.jsonl"
# More names than this only fill the disk.
MAX_RATERS = 1000


class Turn(NamedTuple):
    """What a rater is shown: the question and its number in the list, or None at the end, and her progress."""

    number: int | None
    question: Question | None
    first_is_left: bool
    chosen: str | None
    done: int
    total: int


class ListeningTest:
    """Running listening test: its questions, and their answers in a folder.

    Raises OSError if the answers cannot be read, or another server is asking.
    """

    def __init__(self, questions: Sequence[Question], folder: Path):
        self.questions, self.lock = list(dict.fromkeys(questions)), threading.Lock()
        self.file = AnswerFile(folder / ANSWERS_FILE)
        answers, self.damaged = read_answers(self.file.path)
        self.votes = collect_votes(self.questions, answers)

    def turn(self, rater: str, number: int | None = None) -> Turn:
        """Return the first question that a rater has not answered, or that of a number. Raises ValueError if either is none."""
        rater = check_rater(rater)
        with self.lock:
            open_ones = [n for n in order_of(self.questions, rater) if rater not in self.votes[self.questions[n]]]
        done, total = len(self.questions) - len(open_ones), len(self.questions)
        if number is None:
            number = open_ones[0] if open_ones else None
        if number is None:
            return Turn(None, None, True, None, done, total)
        question = self.question(number)
        return Turn(number, question, first_is_left(question, rater), self.votes[question].get(rater), done, total)

    def question(self, number: Any) -> Question:
        """Return the question of a number. Raises ValueError if there is none."""
        if type(number) is not int or not 0 <= number < len(self.questions):
            raise ValueError(f"no question has that number: there are {len(self.questions)}, from 0 on")
        return self.questions[number]

    def answer(self, rater: str, number: int, chosen: str) -> None:
        """Save an answer; when this returns, it is on the disk.

        Raises ValueError for a name, number or choice that is none, OSError if it cannot be written.
        """
        rater, question = check_rater(rater), self.question(number)
        if chosen not in CHOICES:
            raise ValueError(f"an answer is one of {', '.join(CHOICES)}")
        with self.lock:
            raters = {name for chosen_by in self.votes.values() for name in chosen_by}
            if rater not in raters and len(raters) >= MAX_RATERS:
                raise ValueError(f"this listening test has {MAX_RATERS} raters already")
            self.file.append(Answer(rater, question, chosen))
            self.votes[question][rater] = chosen

    def figures(self) -> dict[str, dict[str, Any]]:
        with self.lock:
            return figures_by_condition(self.votes)

    def judged(self) -> str:
        with self.lock:
            return judged_csv(self.votes)

    def close(self) -> None:
        """Close the file of answers, so that another server can continue the test."""
        self.file.close()
