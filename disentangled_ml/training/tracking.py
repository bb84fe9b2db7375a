"""Weights & Biases: the only file that imports wandb, and only where a run is logged to it, for the import takes a second.

Without an API key a run is logged offline in its run folder and asks nothing; ``wandb sync`` uploads it later. The run's id is
stored beside the checkpoints, so that a resumed run continues the same W&B run.

A failure of W&B never costs the training: if the server is not reached at the start, the run is logged offline; if it goes away
later, everything is still written to the run folder, and the end waits no longer than ``FINISH_SECONDS``; if W&B's own
process dies, training continues without it.
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from disentangled_ml.config.errors import ConfigError

if TYPE_CHECKING:
    import wandb

ID_FILE = "wandb_run_id"
# Seconds. W&B's own variables, where set, decide instead.
# Of attempts until a server counts as not reached: W&B retries after 2, 4, 8 seconds.
START_SECONDS = 30.0
# To upload the rest at the end, some figures and an epoch's numbers; if it takes longer, it is an outage.
FINISH_SECONDS = 60.0
# The same when the run is interrupted: SLURM leaves a job 30 seconds behind a SIGTERM.
CLOSING_SECONDS = 20.0

logger = logging.getLogger(__name__)


def lost() -> tuple[type[Exception], ...]:
    """Return the errors that mean that W&B's own process has died."""
    from wandb.sdk.mailbox import HandleAbandonedError

    return (ConnectionError, HandleAbandonedError)


class LastingLogger(WandbLogger):
    """W&B logger that outlives W&B's own process: then nothing more is logged, and training continues."""

    lost = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, and images, which pass here too; warn once if W&B's process is gone."""
        if self.lost:
            return
        try:
            super().log_metrics(metrics, step)
        except lost() as error:
            self.lost = True
            logger.warning("W&B's process has died (%s): training goes on, and nothing more is logged to W&B", error)


def has_api_key() -> bool:
    """Return whether there is an API key: in WANDB_API_KEY or in the netrc file that ``wandb login`` writes."""
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


def patience() -> wandb.Settings:
    """Return W&B's settings with our timeouts."""
    import wandb

    return wandb.Settings(
        init_timeout=os.environ.get("WANDB_INIT_TIMEOUT") or START_SECONDS,
        finish_timeout=os.environ.get("WANDB_FINISH_TIMEOUT") or FINISH_SECONDS,
        finish_timeout_raises=True,
    )


@rank_zero_only
def keep_run_id(run_dir: Path) -> str:
    """Return the id of the run folder's W&B run, and store it: the stored one, a sweep agent's, or a new one."""
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
    return LastingLogger(
        name=run_dir.name,
        save_dir=run_dir,
        id=keep_run_id(run_dir),
        project=project,
        entity=entity,
        offline=mode == "offline",
        config=config,
        resume="allow",
        settings=patience(),
    )


def start(run_logger: WandbLogger | None) -> None:
    """Start the W&B run, before anything long begins; fall back to offline if the server is not reached.

    Raises:
        ConfigError: if the server refuses the key, or a name is not legal.
    """
    if run_logger is None:
        return
    import wandb

    asked = time.monotonic()
    try:
        _ = run_logger.experiment
    except (wandb.Error, ValueError) as error:
        # A refusal comes at once.
        if time.monotonic() - asked < patience().init_timeout:
            raise ConfigError(
                f"W&B does not start ({error}): mend wandb.* or WANDB_*, or use wandb.mode=offline or disabled"
            ) from error
        logger.warning(
            "W&B is not reached (%s): the run is kept offline; upload it later by\n  wandb sync %s/wandb",
            " ".join(str(error).split()),
            run_logger.save_dir,
        )
        # W&B's process, which holds on to the id of the run.
        wandb.teardown()
        os.environ["WANDB_MODE"] = "offline"
        _ = run_logger.experiment


def finish() -> None:
    """Close the W&B run, so that its files are complete; log what to do if they could not be uploaded."""
    if "wandb" not in sys.modules:
        return  # nothing was logged
    import wandb

    folder = Path(wandb.run.dir).parent if wandb.run else None
    try:
        wandb.finish()
    except TimeoutError:
        logger.warning(
            "W&B is not reached any more: all that was logged is kept; upload it later by\n"
            "  wandb sync --include-online %s",
            folder,
        )
    except lost():
        logger.warning("W&B's process has died: what was logged until then is in %s", folder)
        with suppress(*lost()):
            # At the exit it would show a traceback.
            wandb.teardown()


def finish_interrupted() -> None:
    """Close the W&B run as failed, within the time left to a process that is about to be killed."""
    closing = Thread(target=close_as_failed, daemon=True)
    closing.start()
    closing.join(CLOSING_SECONDS)


def close_as_failed() -> None:
    """Close the W&B run and end W&B's own process, which the signal may have ended already."""
    if "wandb" not in sys.modules:
        return
    import wandb

    try:
        wandb.teardown(exit_code=1)
    except Exception as error:
        # Of any kind: nothing may keep the run from ending.
        logger.warning("the W&B run is not closed, its last values may be missing (%s)", error or type(error).__name__)
