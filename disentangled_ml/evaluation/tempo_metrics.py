"""Accuracy of estimated tempi: F. Gouyon et al., "An experimental comparison of audio tempo induction algorithms", 2006.

``accuracy_1``: within 4 % of the true tempo; ``accuracy_2``: within 4 % of it times 1/3, 1/2, 1, 2 or 3. Hits are mir_eval's
(the only file that imports it). A recording without an estimate counts as wrong. Tempi are in BPM.
"""

from collections.abc import Sequence
from typing import Any

import mir_eval
import numpy as np
import torch

from disentangled_ml.evaluation.metrics import triplet_accuracy

TOLERANCE = 0.04
FACTORS = {"accuracy_1": (1.0,), "accuracy_2": (1 / 3, 1 / 2, 1.0, 2.0, 3.0)}


def is_hit(true: float, estimated: float | None, factors: Sequence[float] = (1.0,)) -> bool:
    """Return whether an estimate is within the tolerance of the true tempo times one of the factors.

    mir_eval compares two tempi with two, 0 standing for none. Raises ValueError for an illegal one.

    >>> is_hit(100.0, 104.0), is_hit(100.0, 104.1), is_hit(100.0, 50.0), is_hit(100.0, 50.0, FACTORS["accuracy_2"])
    (True, False, False, True)
    >>> is_hit(100.0, None)
    False
    """
    if estimated is None:
        return False
    pairs = (np.array([0.0, true * factor]) for factor in factors)
    return any(mir_eval.tempo.detection(pair, 0.0, np.array([0.0, estimated]), tol=TOLERANCE)[1] for pair in pairs)


def tempo_report(track_ids: Sequence[str], true: Sequence[float], estimated: Sequence[float | None]) -> dict[str, Any]:
    """Report both accuracies, with 95 % bootstrap intervals over the tracks.

    Returns:
        ``{"accuracy_1": {"accuracy", "ci95"}, "accuracy_2": {...}, "n": tracks, "without_estimate": tracks}``.

    Raises:
        ValueError: if there is no track, the arguments differ in length, or a tempo is none.

    >>> report = tempo_report(["a", "b", "c", "d"], [100.0] * 4, [100.0, 200.0, None, 70.0])
    >>> report["accuracy_1"]["accuracy"], report["accuracy_2"]["accuracy"], report["without_estimate"]
    (0.25, 0.5, 1)
    """
    if not track_ids:
        raise ValueError("there is no tempo to compare: give at least one track")
    rows = list(zip(track_ids, true, estimated, strict=True))
    report: dict[str, Any] = {}
    for name, factors in FACTORS.items():
        hits = torch.tensor([is_hit(truth, estimate, factors) for _, truth, estimate in rows])
        result = triplet_accuracy(hits, track_ids)  # one outcome per track
        report[name] = {"accuracy": result.accuracy, "ci95": list(result.ci95)}
    return {**report, "n": len(rows), "without_estimate": sum(estimate is None for estimate in estimated)}
