"""Agreement of an embedding with people: accuracy on human triplets (J. Lee et al., ICASSP 2020, section 4.3).

People weigh genre, mood and the rest as they like, so the triplets are compared in several ways: in the whole embedding; in
each subspace alone; by ``D_w^2 = sum_c w_c D_c^2`` with given weights; and with weights fitted to the judgements. The fitted
ones are not negative, and each triplet is judged by weights that were fitted without any triplet of its group: of its anchor
track, or of the same votes.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import GroupKFold
from torch import Tensor

from disentangled_ml.evaluation.listed_triplets import EmbeddingTable, find_rows, space_distances, without_nan
from disentangled_ml.evaluation.metrics import triplet_accuracy
from disentangled_ml.evaluation.weight_fit import fit_logistic
from disentangled_ml.objective.losses import with_track
from disentangled_ml.structures import TRACK, ListedTriplet

FOLDS = 5
# Keeps the weights finite where they separate the judgements perfectly.
RIDGE = 1e-3


def human_report(
    table: EmbeddingTable,
    triplets: Sequence[ListedTriplet],
    agreement: Sequence[float],
    masks: Tensor,
    condition_names: Sequence[str],
    weights: Mapping[str, float] | None = None,
    high_agreement: float = 0.9,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Report the accuracy on human triplets, over all of them and over those that most people agree about.

    Args:
        table: Of the embeddings; a triplet with a member that is not there is skipped.
        triplets: Anchor, the one that people took, the other; their condition does not matter.
        agreement: Share of the votes for the winner, per triplet.
        masks: Condition masks (C, D).
        condition_names: Of the masks, in order.
        weights: One per condition for ``weighted``; None: 1 each.
        high_agreement: Least agreement of the second set.
        groups: Of triplets that are not independent of each other, one per triplet; None: by anchor track.

    Returns:
        ``{"all": {"whole": entry, "subspaces": {condition: entry}, "weighted": entry, "fitted": entry or None}``,
        ``"high_agreement": the same, "at_least": high_agreement, "weights": {"weighted": {condition: weight}, "fitted": ...}``,
        ``"skipped": number of triplets, "missing": [track id, ...]}``. An entry is ``{"accuracy", "ci95", "n"}``; the fitted
        weights are the means over the triplets and sum to 1; None where there are fewer than 5 groups.

    Raises:
        ValueError: if the agreements are not one per triplet, or the weights not one per condition.
    """
    given = condition_weights(weights, condition_names)
    groups = [t.anchor.track_id for t in triplets] if groups is None else groups
    judged = list(zip(triplets, agreement, groups, strict=True))
    present = [judgement for judgement in judged if all(member in table.rows for member in judgement[0][1:])]
    kept, groups = [t for t, _, _ in present], [group for _, _, group in present]
    rows = find_rows(table, [t._replace(condition=TRACK) for t in kept], condition_names)
    spaces = with_track(masks.detach().float().cpu())  # the whole embedding last
    dist_ap, dist_an = (distance.T.double() for distance in space_distances(rows, spaces))
    fitted = fit_weights((dist_an.square() - dist_ap.square())[:, :-1], groups)
    correct = outcomes(dist_ap, dist_an, condition_names, given, fitted)
    high = torch.tensor([share >= high_agreement for _, share, _ in present], dtype=torch.bool)
    means = None if fitted is None else dict(zip(condition_names, fitted.mean(dim=0).tolist(), strict=True))
    return without_nan(
        {
            "all": accuracy_entries(correct, groups, torch.ones_like(high), condition_names),
            "high_agreement": accuracy_entries(correct, groups, high, condition_names),
            "at_least": high_agreement,
            "weights": {"weighted": dict(zip(condition_names, given, strict=True)), "fitted": means},
            "skipped": len(judged) - len(present),
            "missing": sorted({m.track_id for t in triplets for m in t[1:] if m not in table.rows}),
        }
    )


def condition_weights(weights: Mapping[str, float] | None, condition_names: Sequence[str]) -> list[float]:
    """Return the weights in the order of the conditions. Raises ValueError if not one each, negative, not finite or all zero.

    >>> condition_weights({"mood": 2.0, "genre": 1.0}, ["genre", "mood"])
    [1.0, 2.0]
    """
    if weights is None:
        return [1.0] * len(condition_names)
    if set(weights) != set(condition_names):
        raise ValueError(
            f"weights are given for {', '.join(weights)}: give one for each of {', '.join(condition_names)}"
        )
    values = [float(weights[name]) for name in condition_names]
    if not all(0 <= value < math.inf for value in values) or not any(values):
        raise ValueError(f"weights {dict(weights)} are not legal: give finite numbers >= 0, one of them above 0")
    return values


def outcomes(
    dist_ap: Tensor, dist_an: Tensor, condition_names: Sequence[str], given: Sequence[float], fitted: Tensor | None
) -> dict[str, Tensor]:
    """Return which triplets agree with people, (T,) bool, by every way of comparing; ``sub NAME`` is a subspace.

    Distances are (T, C + 1), the whole embedding last; fitted weights (T, C).
    """
    nearer = dist_ap < dist_an
    difference = (dist_an.square() - dist_ap.square())[:, :-1]
    correct = {f"sub {name}": nearer[:, c] for c, name in enumerate(condition_names)}
    correct["whole"] = nearer[:, -1]
    correct["weighted"] = difference @ torch.tensor(given, dtype=torch.float64) > 0
    if fitted is not None:
        correct["fitted"] = (difference * fitted).sum(dim=1) > 0
    return correct


def fit_weights(difference: Tensor, groups: Sequence[str]) -> Tensor | None:
    """Fit weights (T, C) to the judgements, for each triplet without its fold of groups; None if there are fewer groups than folds.

    Args:
        difference: (T, C), ``D_c^2(a, n) - D_c^2(a, p)``; positive where subspace c agrees with people.
        groups: Of triplets that are not independent of each other, such as their anchor tracks; those of one are in one fold.
    """
    if len(set(groups)) < FOLDS:
        return None
    fitted = torch.zeros_like(difference)
    for train, held_out in GroupKFold(FOLDS).split(difference, groups=groups):
        fitted[held_out] = torch.from_numpy(fit_fold(difference[train].numpy()))
    return fitted


def fit_fold(difference: np.ndarray) -> np.ndarray:
    """Fit non-negative weights (C,) by logistic regression: P(people agree) = sigmoid(difference @ weights).

    Without an intercept, since swapping positive and negative must swap the answer. The columns of the difference (T, C) share one
    scale, so that the weights remain those of the distances. They sum to 1, or are zeros if no subspace agrees with people.

    >>> fit_fold(np.array([[1.0, -1.0], [2.0, 1.0], [1.0, -2.0]])).round(2).tolist()
    [1.0, 0.0]
    """
    scaled = difference / max(np.abs(difference).max(), np.finfo(float).tiny)
    outcome = np.stack([np.ones(len(scaled)), np.zeros(len(scaled))], 1)
    weights = fit_logistic(scaled, outcome, RIDGE, np.ones(difference.shape[1]))
    return weights / weights.sum() if weights.sum() > 0 else weights


def accuracy_entries(
    correct: Mapping[str, Tensor], groups: Sequence[str], chosen: Tensor, condition_names: Sequence[str]
) -> dict[str, Any]:
    """Report the accuracy of the chosen triplets (T,) by every way of comparing."""
    kept = list(compress(groups, chosen.tolist()))
    entries = {way: triplet_accuracy(outcome[chosen], kept).entry() for way, outcome in correct.items()}
    return {
        "whole": entries["whole"],
        "subspaces": {name: entries[f"sub {name}"] for name in condition_names},
        "weighted": entries["weighted"],
        "fitted": entries.get("fitted"),
    }
