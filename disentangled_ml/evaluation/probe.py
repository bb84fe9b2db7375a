"""Tag prediction from the frozen embedding by a linear probe.

Per tag one logistic regression (L2, C = 1) on features standardised by the training tracks. Of a condition only the labelled
tracks take part, those with at least one tag of its vocabulary: it is trained on those of one split and tested on those of
another. ROC-AUC and PR-AUC (average precision) are averaged over the tags that have both classes in both splits.

The features are the condition's subspace, the dimensions in which its mask is above zero, or the whole embedding.
Standardising undoes the mask's weights, so they are left out; where a (learned) mask is nowhere zero, both are the same.
Chance is 0.5 for ROC-AUC and the share of test tracks with the tag for PR-AUC; a collapsed embedding scores just that.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from disentangled_ml.objective.conditions import Condition, TagCondition
from disentangled_ml.structures import TrackInfo

MAX_ITERATIONS = 1000


def probed_tags(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Choose the columns of the tags, (N, V) and (M, V), that some but not all tracks of both splits have.

    >>> probed_tags(np.array([[True, True, False], [True, False, True]]), np.array([[1, 0, 0], [0, 1, 0]], dtype=bool))
    array([1])
    """
    some, every = train.any(0) & test.any(0), train.all(0) | test.all(0)
    return np.flatnonzero(some & ~every)


def tag_scores(train: np.ndarray, has_tag: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Score how probable a tag is for test tracks, (M,), from standardised features; all alike where there is no feature.

    >>> tag_scores(np.array([[-1.0], [1.0]]), np.array([False, True]), np.array([[2.0], [-2.0]])).round(1)
    array([ 1.3, -1.3])
    """
    if not train.shape[1]:
        return np.zeros(len(test))
    return LogisticRegression(max_iter=MAX_ITERATIONS).fit(train, has_tag).decision_function(test)


def probe_features(
    train: np.ndarray, train_tags: np.ndarray, test: np.ndarray, test_tags: np.ndarray
) -> dict[str, float | int | None]:
    """Train and test a probe for the tags of labelled tracks, by features (N, D) and tags (N, V) of both splits.

    The result is ``{"roc_auc", "pr_auc", "tags"}``, the averages and the number of tags they are over; None without a tag.
    """
    columns = probed_tags(train_tags, test_tags)
    if not len(columns):
        return {"roc_auc": None, "pr_auc": None, "tags": 0}
    if train.shape[1]:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    roc, precision = [], []
    for column in columns:
        scores = tag_scores(train, train_tags[:, column], test)
        roc.append(roc_auc_score(test_tags[:, column], scores))
        precision.append(average_precision_score(test_tags[:, column], scores))
    return {"roc_auc": float(np.mean(roc)), "pr_auc": float(np.mean(precision)), "tags": len(columns)}


def labelled_features(
    condition: TagCondition, embedding: Tensor, infos: Sequence[TrackInfo]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedding (N, D) and tags (N, V) of the tracks that have a tag of the condition."""
    tags = condition.encode([info.labels.get(condition.name) for info in infos])
    labelled = tags.any(1)
    return embedding.detach().double().cpu()[labelled].numpy(), tags[labelled].numpy()


def check_probe(split: str, embedding: Tensor, infos: Sequence[TrackInfo], masks: Tensor) -> None:
    if embedding.shape != (len(infos), masks.shape[1]):
        expected = (len(infos), masks.shape[1])
        raise ValueError(f"{split} embedding is {tuple(embedding.shape)}, its tracks and the masks need {expected}")
    if not embedding.isfinite().all():
        track_id = infos[int((~embedding.isfinite().all(1)).nonzero()[0])].track_id
        raise ValueError(f"{split} embedding of track {track_id!r} is not finite")


def probe_report(
    train: Tensor,
    train_infos: Sequence[TrackInfo],
    test: Tensor,
    test_infos: Sequence[TrackInfo],
    masks: Tensor,
    conditions: Sequence[Condition],
) -> dict[str, Any]:
    """Report how well tags can be predicted from an embedding of whole tracks.

    Args:
        train: Embedding (N, D) to fit the probes on.
        train_infos: Labels of its rows.
        test: Embedding (M, D) to test them on.
        test_infos: Labels of its rows.
        masks: Condition masks (C, D).
        conditions: In order; those without tags are left out.

    Returns:
        ``{condition: {"sub": {"roc_auc", "pr_auc", "tags"}, "all": {...}, "chance_pr"}}``; None where no tag can be tested.

    Raises:
        ValueError: for shapes that do not fit or a value that is not finite.
    """
    if len(masks) != len(conditions):
        raise ValueError(f"{len(masks)} masks do not fit the conditions {[c.name for c in conditions]}")
    check_probe("train", train, train_infos, masks)
    check_probe("test", test, test_infos, masks)
    report = {}
    for condition, mask in zip(conditions, masks.detach().cpu().numpy() > 0, strict=True):
        if not isinstance(condition, TagCondition):
            continue
        x, x_tags = labelled_features(condition, train, train_infos)
        y, y_tags = labelled_features(condition, test, test_infos)
        columns = probed_tags(x_tags, y_tags)
        report[condition.name] = {
            "sub": probe_features(x[:, mask], x_tags, y[:, mask], y_tags),
            "all": probe_features(x, x_tags, y, y_tags),
            "chance_pr": float(y_tags[:, columns].mean()) if len(columns) else None,
        }
    return report
