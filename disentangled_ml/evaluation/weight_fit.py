"""Weights of the conditions from people's answers to "which of two is nearer to the reference?".

    P(the first is nearer) = sigmoid(sum_c v_c x_c),    x_c = D_c^2(reference, second) - D_c^2(reference, first),    v_c >= 0

v is a scale (how sure people are) times the weights w. There is no intercept, since swapping the two must swap the answer. Only the
ratios of weights count in a search, so they are told as shares, v / sum(v). A normal prior of deviation 1 / sqrt(``PRIOR``) on each
v_c, in units of the root mean square of x, keeps v finite where some weights get every answer right; against more than a handful of
other answers it counts for nothing.

Questions, not answers, are what is independent: the answers of one question are in one fold and are resampled together. Accuracy is
the share of votes on the side of the nearer one, strictly. That of fitted weights is cross-validated: each question is judged by
weights that were fitted without its fold. Its interval is of the questions, with these weights held fixed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.model_selection import KFold

from disentangled_ml.evaluation.metrics import interval, resample

FOLDS = 5
PRIOR = 0.01
# A rater's left and right are told as a habit if chance alone does so in fewer than one in a hundred.
HABIT = 0.01


class Votes(NamedTuple):
    """Votes about Q questions by C conditions.

    Attributes:
        difference: (Q, C) float64, D_c^2(reference, second) - D_c^2(reference, first).
        question: (A,) int64, the question of each vote; each question has one.
        is_first: (A,) bool, whether it is for the first.
        rater: Of each vote.
    """

    difference: np.ndarray
    question: np.ndarray
    is_first: np.ndarray
    rater: Sequence[str]

    def counts(self) -> np.ndarray:
        """Return the votes of each question for the first and for the second: (Q, 2) float64."""
        sides = [np.bincount(self.question[side], minlength=len(self.difference)) for side in self.sides()]
        return np.stack(sides, 1).astype(float)

    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        return self.is_first, ~self.is_first


def weight_report(votes: Votes, condition_names: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Fit weights to votes and report them, and how well they and equal ones foretell the votes.

    Returns:
        ``{"weights": {condition: weight, the largest 1}, "shares": {condition: {"share", "ci95"}}, "accuracy": {"equal": entry,
        "fitted": entry, "gain": entry}, "raters": {rater: {"equal", "fitted", "n"}}, "agreement": see ``agreement``, "questions",
        "votes", "separated": whether the weights get every vote right}``. An entry is ``{"accuracy", "ci95", "n"}``.

    Raises:
        ValueError: for fewer than ``FOLDS`` questions, or votes that weights of no kind agree with.
    """
    counts, n_questions = votes.counts(), len(votes.difference)
    if n_questions < FOLDS:
        raise ValueError(f"{n_questions} questions have a vote: at least {FOLDS} are needed to fit weights to them")
    fitted = fit(votes.difference, counts)
    if not fitted.any():
        raise ValueError("no condition agrees with the votes, or all distances are equal: no weights can be fitted")
    scores = {"equal": votes.difference.sum(1), "fitted": held_out_scores(votes.difference, counts, seed)}
    right = {name: right_votes(score, counts) for name, score in scores.items()}
    weights = np.where(fitted < 1e-6 * fitted.max(), 0.0, fitted / fitted.max())
    drawn = resampled_shares(votes.difference, counts, seed)
    shares = [
        {"share": share, "ci95": list(interval(torch.from_numpy(values)))}
        for share, values in zip((fitted / fitted.sum()).tolist(), drawn.T, strict=True)
    ]
    return {
        "weights": dict(zip(condition_names, weights.round(6).tolist(), strict=True)),
        "shares": dict(zip(condition_names, shares, strict=True)),
        "accuracy": {
            **{name: accuracy_entry(each, counts.sum(1), seed) for name, each in right.items()},
            "gain": accuracy_entry(right["fitted"] - right["equal"], counts.sum(1), seed),
        },
        "raters": {rater: accuracy_of_rater(votes, scores, rater) for rater in dict.fromkeys(votes.rater)},
        "agreement": agreement(counts),
        "questions": n_questions,
        "votes": int(counts.sum()),
        "separated": bool(right_votes(votes.difference @ fitted, counts).sum() == counts.sum()),
    }


def fit(difference: np.ndarray, counts: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Return v (C,) >= 0, the scaled weights that the votes make most likely under the prior.

    Shape:
        difference: (Q, C); counts: (Q, 2), see ``Votes``.

    >>> v = fit(np.array([[1.0, -1.0], [2.0, 1.0], [1.0, -2.0]]), np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    >>> bool(v[0] > 0), float(v[1])
    (True, 0.0)
    """
    unit = np.sqrt((difference**2).mean()) or 1.0
    total = max(1.0, counts.sum())
    # From 0: a condition whose differences are all 0 stays there.
    start = np.zeros(difference.shape[1]) if start is None else start * unit
    return fit_logistic(difference / unit, counts, PRIOR / total, start) / unit


def fit_logistic(x: np.ndarray, counts: np.ndarray, ridge: float, start: np.ndarray) -> np.ndarray:
    """Minimise the mean over the votes of -log P(vote) plus ridge / 2 ||v||^2 over v >= 0: (C,)."""
    total = max(1.0, counts.sum())

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        logit = x @ v
        surprise = counts[:, 0] @ np.logaddexp(0, -logit) + counts[:, 1] @ np.logaddexp(0, logit)
        first = np.exp(-np.logaddexp(0, -logit))  # sigmoid(logit)
        gradient = (counts.sum(1) * first - counts[:, 0]) @ x
        return surprise / total + ridge / 2 * v @ v, gradient / total + ridge * v

    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start)).x


def held_out_scores(difference: np.ndarray, counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return for each question x'v by weights that were fitted without its fold: (Q,), positive where the first is nearer."""
    scores = np.zeros(len(difference))
    for train, held_out in KFold(FOLDS, shuffle=True, random_state=seed).split(difference):
        scores[held_out] = difference[held_out] @ fit(difference[train], counts[train])
    return scores


def resampled_shares(difference: np.ndarray, counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """Fit weights to questions drawn anew with replacement; return their shares: (resamples, C), without those of no weight."""
    start, found = fit(difference, counts), []
    for times in (row for rows in resample(len(difference), seed) for row in rows.numpy()):
        v = fit(difference, counts * times[:, None], start)
        if v.any():
            found.append(v / v.sum())
    return np.array(found)


def right_votes(score: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return how many votes of each question are for the one that a score says is nearer; none where it says neither: (Q,).

    >>> right_votes(np.array([0.5, -1.0, 0.0]), np.array([[3.0, 1.0], [2.0, 1.0], [1.0, 0.0]])).tolist()
    [3.0, 1.0, 0.0]
    """
    return np.where(score > 0, counts[:, 0], np.where(score < 0, counts[:, 1], 0.0))


def accuracy_entry(right: np.ndarray, n: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return the share of right votes, with its 95 % interval by bootstrap over the questions.

    >>> accuracy_entry(np.array([3.0, 1.0]), np.array([3.0, 1.0]))
    {'accuracy': 1.0, 'ci95': [1.0, 1.0], 'n': 4}
    """
    counts = torch.from_numpy(np.stack([right, n], 1))
    sums = torch.cat([times @ counts for times in resample(len(n), seed)])
    return {
        "accuracy": float(right.sum() / n.sum()),
        "ci95": list(interval(sums[:, 0] / sums[:, 1])),
        "n": int(n.sum()),
    }


def accuracy_of_rater(votes: Votes, scores: dict[str, np.ndarray], rater: str) -> dict[str, float | int]:
    """Return the share of a rater's votes that each score foretells, and their number."""
    is_hers = np.array([name == rater for name in votes.rater])
    sign = np.where(votes.is_first[is_hers], 1.0, -1.0)
    shares = {name: float((score[votes.question[is_hers]] * sign > 0).mean()) for name, score in scores.items()}
    return {**shares, "n": len(sign)}


def agreement(counts: np.ndarray) -> dict[str, float | int] | None:
    """Return how far raters agree, which bounds what any weights can foretell; None if no question has several votes.

    Returns:
        ``pairs``: share of equal votes among the pairs of votes on a question, what one rater foretells of another;
        ``majority``: share of votes with the majority of their question, the most that any weights can get right of them;
        ``questions``: with several votes.

    >>> agreement(np.array([[3.0, 1.0], [2.0, 0.0], [1.0, 0.0]]))
    {'pairs': 0.5714285714285714, 'majority': 0.8333333333333334, 'questions': 2}
    """
    counts = counts[counts.sum(1) > 1]
    if not len(counts):
        return None
    n = counts.sum(1)
    equal, pairs = (counts * (counts - 1)).sum(), (n * (n - 1)).sum()
    return {
        "pairs": float(equal / pairs),
        "majority": float(counts.max(1).sum() / n.sum()),
        "questions": len(counts),
    }


def is_habit(left: int, n: int) -> bool:
    """Return whether a rater has chosen one side more often than chance would have it.

    >>> is_habit(8, 8), is_habit(0, 8), is_habit(6, 8), is_habit(3, 3)
    (True, True, False, False)
    """
    return n > 0 and bool(binomtest(left, n).pvalue < HABIT)
