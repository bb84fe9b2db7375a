"""Weights of the conditions in a file, as ``fit_weights`` writes it: a JSON object whose ``weights`` has a number per condition."""

from collections.abc import Sequence
from pathlib import Path

from disentangled_ml.files import read_json
from disentangled_ml.search.weighted_distance import check_weights

WAY_OUT = "give a FILE.json that fit_weights wrote for this model"


def read_weights(path: str | Path, condition_names: Sequence[str]) -> dict[str, float]:
    """Read the weight of each condition, in their order; what else the file holds is ignored.

    Raises:
        ValueError: naming the file, if it holds no weights, not one for each of the conditions, or some that are not legal.
        OSError: if it cannot be read.
    """
    path = Path(path)
    weights = read_json(path, WAY_OUT).get("weights")
    if not isinstance(weights, dict):
        raise ValueError(f"{path} has no object 'weights': {WAY_OUT}")
    if set(weights) != set(condition_names):
        given, needed = (", ".join(names) or "nothing" for names in (weights, condition_names))
        raise ValueError(f"{path} has weights for {given}, the model has {needed}: {WAY_OUT}")
    try:
        checked = check_weights(weights, condition_names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dict(zip(condition_names, checked.tolist(), strict=True))
