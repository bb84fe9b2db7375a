"""Weights & Biases: the only file that imports wandb.

Without an API key a run is kept offline in its run folder and asks nothing; ``wandb sync`` uploads it later. The run's id is
kept beside the checkpoints, so that a resumed run goes on in the same W&B run.
"""

from __future__ import annotations

import netrc
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from disentangled_ml.config import ConfigError

ID_FILE = "wandb_run_id"


def has_api_key() -> bool:
    """Tell whether a W&B server would let us in: by WANDB_API_KEY or the netrc file that ``wandb login`` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def resolve_mode(mode: str) -> str:
    """Turn ``auto`` into online or offline; WANDB_MODE, where set, decides then."""
    if mode != "auto":
        return mode
    return os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")


@rank_zero_only
def keep_run_id(run_dir: Path) -> str:
    """Give the id of the run folder's W&B run: the kept one, a sweep agent's, or a new one; keep it."""
    path = run_dir / ID_FILE
    if not path.is_file() or not path.read_text().strip():
        path.write_text(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))
    return path.read_text().strip()


def build_logger(
    run_dir: Path, config: dict[str, Any], mode: str, project: str, entity: str | None
) -> WandbLogger | None:
    """Build the logger of a run; None where W&B is disabled.

    Args:
        run_dir: Run folder; receives the W&B files.
        config: Shown with the run.
        mode: ``auto``, ``online``, ``offline`` or ``disabled``.
        project: Of W&B.
        entity: Of W&B; None for the default.

    Raises:
        ConfigError: if the run is to be online and there is no API key.
    """
    mode = resolve_mode(mode)
    if mode == "disabled":
        return None
    if mode == "online" and not has_api_key():
        raise ConfigError(
            "wandb.mode=online needs an API key: run `wandb login`, set WANDB_API_KEY, or use mode offline"
        )
    return WandbLogger(
        name=run_dir.name,
        save_dir=run_dir,
        id=keep_run_id(run_dir),
        project=project,
        entity=entity,
        offline=mode == "offline",
        config=config,
        resume="allow",
    )


def start(logger: WandbLogger | None) -> None:
    """Start the W&B run, before anything long begins.

    Raises:
        ConfigError: if it cannot be, for want of a key, a legal name or a connection.
    """
    try:
        if logger is not None:
            _ = logger.experiment
    except (wandb.Error, ValueError) as error:
        raise ConfigError(
            f"W&B does not start ({error}): mend wandb.* or WANDB_*, or use wandb.mode=offline or disabled"
        ) from error


def finish() -> None:
    """Close the W&B run, so that its files are whole."""
    wandb.finish()
