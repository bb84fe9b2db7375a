"""What a run may change when it is resumed, and what it may not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from disentangled_ml.config.errors import ConfigError
from disentangled_ml.network.checkpoint import load_checkpoint

RESUMABLE_OVERRIDES = (  # prefixes of the keys that may change
    "choices.",
    "resume",
    "run",
    "trainer.",
    "wandb.",
    "data.workers",
    "data.max_damaged",
    "evaluation.tracks_per_batch",
    "training.max_epochs",
    "training.lr_reductions",
    "training.early_stopping_patience",
)
# What was true before there were these keys.
BEFORE = {
    "rhythm": False,
    "backbone.features": False,
    "augmentation.stretch": 0.0,
    "training.schedule": "plateau",
}
TRAINING_STATE = {"epoch", "global_step", "loops", "callbacks", "optimizer_states", "pytorch-lightning_version"}


def fixed_on_resume(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flattened settings that must not change when a run is resumed.

    Settings of before a key have what was true then. Along a cosine the number of epochs must not change either.

    >>> fixed = fixed_on_resume({"seed": 0, "run_name": "a", "data": {"shards": "x", "workers": 2}})
    >>> {key: value for key, value in fixed.items() if key not in BEFORE}
    {'seed': 0, 'data.shards': 'x'}
    """
    flat: dict[str, Any] = dict(BEFORE)
    for key, value in config.items():
        flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    fixed = {key: value for key, value in flat.items() if not key.startswith(RESUMABLE_OVERRIDES)}
    return {
        **fixed,
        **({"training.max_epochs": flat["training.max_epochs"]} if flat["training.schedule"] == "cosine" else {}),
    }


def check_same(path: Path, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check that settings are those that something was made with. Raises ConfigError, naming the first that differs."""
    for key in [*given, *(kept.keys() - given.keys())]:
        if kept.get(key) != given.get(key):
            raise ConfigError(
                f"{path} was trained with {key}={kept.get(key)}, not {given.get(key)}: give that, or another run_name"
            )


def check_resumable(path: Path, weights: Mapping[str, Tensor], settings: Mapping[str, Any], max_epochs: int) -> None:
    """Check that training can be resumed from a checkpoint.

    Args:
        path: Of the checkpoint.
        weights: State of the module to be trained.
        settings: That its checkpoints carry, see ``builders.model_settings``.
        max_epochs: Number of epochs to train.

    Raises:
        ValueError: if it is damaged.
        ConfigError: if it is another network's, or lacks the state of the training.
    """
    checkpoint = load_checkpoint(path)
    missing = TRAINING_STATE - set(checkpoint)
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(sorted(missing))}: training cannot go on from it")
    if checkpoint["epoch"] >= max_epochs:
        raise ConfigError(f"{path} is of epoch {checkpoint['epoch'] + 1}, beyond training.max_epochs={max_epochs}")
    kept, given = (
        {key: content[key] for key in ("conditions", "audio")} | fixed_on_resume(content["config"])
        for content in (checkpoint, settings)
    )
    check_same(path, kept, given)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    if {name: tuple(getattr(value, "shape", ())) for name, value in checkpoint["state_dict"].items()} != shapes:
        raise ConfigError(f"{path} holds weights of other shapes than this configuration's: give another run_name")
