"""A listening test: which of two recordings is more similar to a reference? Formulas only, no files and no web.

A question names a condition, a reference and two candidates; the condition ``track`` asks for similarity as a whole. The first
candidate is the positive of the list; raters see the two in an order drawn for each of them. A rater may also answer that she cannot
tell, which is no vote. The last answer of a rater to a question counts.

Agreement of the raters: the share of equal votes among all pairs of votes on the same question, and Krippendorff's alpha for
nominal values (K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011): 1 is perfect, 0 what chance gives. Which of two
candidates is called the first is arbitrary, so alpha is computed over the questions and their mirror images together: by chance either
candidate then has half of the votes. Otherwise raters who all choose the positive would seem to have a habit instead of an opinion.
"""

import csv
import io
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from disentangled_ml.structures import TRACK, TRIPLET_COLUMNS, VOTE_COLUMNS, stable_hash

FIRST, SECOND, CANNOT_TELL = "first", "second", "cannot tell"
CHOICES = (FIRST, SECOND, CANNOT_TELL)
MAX_NAME = 100  # characters of a rater's name


class Excerpt(NamedTuple):
    """Recording, or the chunk of it that begins at ``start`` seconds."""

    track_id: str
    start: float | None = None


class Question(NamedTuple):
    """Question which of two candidates is more similar to the reference in a condition."""

    condition: str
    reference: Excerpt
    first: Excerpt
    second: Excerpt


class Answer(NamedTuple):
    """Answer of a rater; ``chosen`` is one of ``CHOICES``."""

    rater: str
    question: Question
    chosen: str


Votes = dict[Question, dict[str, str]]  # of each question: what each rater chose


def check_rater(name: Any) -> str:
    """Return the name of a rater without spaces around it. Raises ValueError if it is empty, too long or holds what cannot be printed.

    >>> check_rater("  Ann ")
    'Ann'
    """
    name = name.strip() if isinstance(name, str) else ""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"a rater's name has 1 to {MAX_NAME} printable characters")
    return name


def order_of(questions: Sequence[Question], rater: str) -> list[int]:
    """Return the order of the questions for a rater, so that not all raters grow tired at the same ones.

    >>> a, b, c = (Question("track", Excerpt(name), Excerpt("x"), Excerpt("y")) for name in "abc")
    >>> sorted(order_of([a, b, c], "Ann"))
    [0, 1, 2]
    """
    return sorted(range(len(questions)), key=lambda number: stable_hash(repr(("order", rater, questions[number]))))


def first_is_left(question: Question, rater: str) -> bool:
    return stable_hash(repr(("side", rater, question))) % 2 == 0


def collect_votes(questions: Iterable[Question], answers: Iterable[Answer]) -> Votes:
    """Return the last answer of each rater to each of the questions; answers to other questions are left out."""
    votes: Votes = {question: {} for question in questions}
    for answer in answers:
        if answer.question in votes:
            votes[answer.question][answer.rater] = answer.chosen
    return votes


def count_votes(chosen: Mapping[str, str]) -> tuple[int, int]:
    """Return the numbers of votes for the first and for the second candidate.

    >>> count_votes({"Ann": "first", "Bob": "first", "Cem": "cannot tell"})
    (2, 0)
    """
    counts = Counter(chosen.values())
    return counts[FIRST], counts[SECOND]


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Compute Krippendorff's alpha for nominal values; each unit holds the values that raters gave it, in any number and order.

    None where it is not defined: no unit has two values, or all values are the same.

    >>> krippendorff_alpha(["aa", "bb", "ab", "a"])  # disagreement 2/6 observed, (2 * 3 * 3) / (6 * 5) expected
    0.4444444444444444
    >>> krippendorff_alpha(["aaa", "bbb"]), krippendorff_alpha(["aa", "aa"]), krippendorff_alpha(["a", "b"])
    (1.0, None, None)
    """
    totals: Counter = Counter()
    disagreement = 0.0
    for unit in units:
        counts, n = Counter(unit), len(unit)
        if n > 1:
            totals += counts
            disagreement += sum(count * (n - count) for count in counts.values()) / (n - 1)
    n = totals.total()
    expected = sum(count * (n - count) for count in totals.values())
    return 1 - (n - 1) * disagreement / expected if expected else None


def percent_agreement(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Compute the share of equal pairs among all pairs of values of the same unit; None without a pair.

    >>> percent_agreement(["aab", "bb", "a"])  # pairs: aa, ab, ab; bb
    0.5
    """
    equal = pairs = 0
    for unit in units:
        pairs += len(unit) * (len(unit) - 1) // 2
        equal += sum(count * (count - 1) // 2 for count in Counter(unit).values())
    return equal / pairs if pairs else None


def agreement_figures(votes: Votes) -> dict[str, Any]:
    """Return how far raters agree with each other, and with the list, whose first candidate is the positive.

    Returns:
        ``{"questions", "raters", "answers", "cannot_tell", "judged", "ties", "percent_agreement", "krippendorff_alpha",
        "agreement_with_list"}``. ``judged`` questions have a majority; agreement with the list is the share of these whose
        majority is for the positive. Figures that are not defined are None.
    """
    answers = [choice for chosen in votes.values() for choice in chosen.values()]
    counts = [count_votes(chosen) for chosen in votes.values()]
    units = [FIRST[0] * first + SECOND[0] * second for first, second in counts]
    mirrored = [FIRST[0] * second + SECOND[0] * first for first, second in counts]
    judged = [first > second for first, second in counts if first != second]
    return {
        "questions": len(votes),
        "raters": len({rater for chosen in votes.values() for rater in chosen}),
        "answers": len(answers),
        "cannot_tell": answers.count(CANNOT_TELL),
        "judged": len(judged),
        "ties": sum(first == second > 0 for first, second in counts),
        "percent_agreement": percent_agreement(units),
        "krippendorff_alpha": krippendorff_alpha(units + mirrored),
        "agreement_with_list": sum(judged) / len(judged) if judged else None,
    }


def figures_by_condition(votes: Votes) -> dict[str, dict[str, Any]]:
    """Return the agreement over all questions, under ``all``, and for each condition that is asked about."""
    names = list(dict.fromkeys(question.condition for question in votes))
    parts = {name: {q: chosen for q, chosen in votes.items() if q.condition == name} for name in names}
    return {"all": agreement_figures(votes), **{name: agreement_figures(part) for name, part in parts.items()}}


def judged_csv(votes: Votes) -> str:
    """Return the triplet list of the raters' majority, as ``evaluate triplets=FILE`` reads it.

    Two further columns, which ``evaluate`` ignores, hold the votes for the positive and for the negative. Questions without a
    majority are left out.

    >>> question = Question("genre", Excerpt("a"), Excerpt("b", 1.5), Excerpt("c"))
    >>> judged_csv({question: {"Ann": "second"}}).splitlines()[1]
    'genre,a,,c,,b,1.500000,1,0'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*TRIPLET_COLUMNS, *VOTE_COLUMNS])
    for question, chosen in votes.items():
        first, second = count_votes(chosen)
        if first != second:
            near, far = (question.first, question.second)[:: 1 if first > second else -1]
            cells = [
                cell
                for track_id, start in (question.reference, near, far)
                for cell in (track_id, "" if start is None else f"{start:.6f}")
            ]
            writer.writerow([question.condition, *cells, max(first, second), min(first, second)])
    return text.getvalue()


def what_is_asked(condition: str) -> str:
    """Return the words of what a question asks about.

    >>> what_is_asked("genre"), what_is_asked("track")
    ('as to genre', 'as a whole')
    """
    return "as a whole" if condition == TRACK else f"as to {condition}"
