"""Weights fitted to simulated raters whose weights are known: ``python -m benchmarks.weights [raters=5] [repeats=40]``.

Each question compares two tracks with a reference, whose squared distances in the subspace of each condition are drawn from a gamma
distribution of mean 0.4. A rater takes the nearer one by the true weights with the probability of the model, at a scale at which she
agrees with herself as people do. Over ``repeats`` simulations it counts how often the true share lies in its 95 % interval.
"""

import sys

import numpy as np

from disentangled_ml.evaluation.weight_fit import Votes, weight_report
from disentangled_ml.reporting.cells import aligned

WEIGHTS = {"genre": 1.0, "mood": 0.5, "tempo": 0.2}
SCALE = 5.0
QUESTIONS = (30, 100, 300)


def simulate(
    weights: np.ndarray, n_questions: int, n_raters: int, scale: float = SCALE, seed: int = 0
) -> tuple[Votes, np.ndarray]:
    """Draw the votes of raters of known weights (C,), and the probability (Q,) of each question's first."""
    rng = np.random.default_rng(seed)
    first, second = rng.gamma(2.0, 0.2, (2, n_questions, len(weights)))
    difference = second - first
    probability = 1 / (1 + np.exp(-scale * difference @ weights))
    question = np.repeat(np.arange(n_questions), n_raters)
    is_first = rng.random(len(question)) < probability[question]
    raters = [f"rater {number}" for number in range(n_raters)] * n_questions
    return Votes(difference, question, is_first, raters), probability


def row_of(n_questions: int, n_raters: int, repeats: int) -> list[str]:
    true = np.array([*WEIGHTS.values()])
    shares, reports, most = true / true.sum(), [], []
    for seed in range(repeats):
        votes, probability = simulate(true, n_questions, n_raters, seed=seed)
        reports.append(weight_report(votes, [*WEIGHTS], seed))
        most.append(np.maximum(probability, 1 - probability).mean())
    cells = [str(n_questions)]
    for name, share in zip(WEIGHTS, shares, strict=True):
        found = [report["shares"][name] for report in reports]
        within = np.mean([entry["ci95"][0] <= share <= entry["ci95"][1] for entry in found])
        width = np.mean([entry["ci95"][1] - entry["ci95"][0] for entry in found])
        mean = np.mean([entry["share"] for entry in found])
        cells.append(f"{mean:.3f} +- {width / 2:.3f}, {within:.0%} within")
    for name in ("equal", "fitted"):
        cells.append(f"{np.mean([report['accuracy'][name]['accuracy'] for report in reports]):.3f}")
    return [*cells, f"{np.mean(most):.3f}"]


def main(raters: str = "5", repeats: str = "40") -> None:
    """Print a line per number of questions."""
    true = np.array([*WEIGHTS.values()])
    names = [f"{name} ({share:.3f})" for name, share in zip(WEIGHTS, true / true.sum(), strict=True)]
    rows = [("questions", *names, "equal", "fitted", "true weights")]
    rows += [tuple(row_of(n, int(raters), int(repeats))) for n in QUESTIONS]
    sys.stdout.write("\n".join(aligned(rows)) + "\n")


if __name__ == "__main__":
    if not all("=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
