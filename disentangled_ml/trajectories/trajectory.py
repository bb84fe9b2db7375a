"""The trajectory of a recording: per condition its curves, novelty and change points, as plain values."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from disentangled_ml.config import ConfigError
from disentangled_ml.evaluation.retrieval import subspaces
from disentangled_ml.files import error_context, read_json
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.trajectories.change_points import change_points, novelty, principal_curves
from disentangled_ml.trajectories.recordings import chunk_seconds

DIGITS = 5  # of numbers in the json


def read_thresholds(path: str, embedder: Embedder, settings: Mapping[str, float]) -> dict[str, float]:
    """Read the threshold of each condition from the report of ``disentangled changes``.

    Raises ConfigError if it lacks a condition, or was made with other settings or another checkpoint.
    """
    way_out = "give the out=FILE.json of disentangled changes with the same checkpoint"
    with error_context((ValueError, OSError), lambda error: f"thresholds={error}", ConfigError):
        content = read_json(Path(path), way_out)
    parts = (content.get(key) for key in ("thresholds", "settings"))
    found, made_with = (part if isinstance(part, dict) else {} for part in parts)
    missing = [name for name in embedder.condition_names if not isinstance(found.get(name), float)]
    if missing:
        raise ConfigError(f"thresholds={path} has none of {', '.join(missing)}: {way_out}")
    for key, value in settings.items():
        if made_with.get(key) != value:
            raise ConfigError(f"thresholds={path} are of {key}={made_with.get(key)}, not {value}: give {key} as there")
    if content.get("fingerprint") != embedder.model.fingerprint:
        raise ConfigError(f"thresholds={path} are of another checkpoint: distances differ from one to the other")
    return {name: found[name] for name in embedder.condition_names}


def rounded(values: Tensor) -> list:
    """Return the numbers of a tensor, rounded for the json."""
    return json.loads(json.dumps(values.tolist()), parse_float=lambda text: round(float(text), DIGITS))


def describe(
    embedding: Tensor,
    starts: Tensor,
    embedder: Embedder,
    thresholds: Mapping[str, float],
    step: float,
    context: float,
    min_gap: float,
) -> dict[str, Any]:
    """Return the curves, novelty and change points of each condition.

    Args:
        embedding: Of the chunks, (N, D).
        starts: Of the chunks, (N,) in seconds.
        embedder: That embedded them.
        thresholds: Of each condition.
        step: Seconds from a chunk to the next.
        context: Seconds that novelty compares before and after a time.
        min_gap: Seconds between change points.
    """
    conditions = {}
    masks = torch.from_numpy(embedder.model.masks)
    for name, rows in zip(embedder.condition_names, subspaces(embedding, masks), strict=True):
        curve = novelty(rows, starts, chunk_seconds(embedder), context, step)
        changes = change_points(curve, thresholds[name], min_gap)
        conditions[name] = {
            "curves": rounded(principal_curves(rows)),
            "novelty": {"times": rounded(curve.times), "values": rounded(curve.values)},
            "threshold": thresholds[name],
            "changes": [round(time, DIGITS) for time in changes],
        }
    return conditions
