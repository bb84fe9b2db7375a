"""The run folder: ``RUNS/RUN_NAME/`` with config.yaml, metrics.json, checkpoints/, figures/ and the W&B files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from disentangled_ml.config import ConfigError

RUN_DIR_VARIABLE = "DISENTANGLED_ML_RUN_DIR"  # tells the rank processes, started again from argv, what was chosen
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_ID")  # set by srun: the same for all ranks, and for a requeued job
AGENT_RUN = ("WANDB_RUN_ID",)  # set by a W&B agent
UNWRITABLE = (  # full, forbidden, read-only, defective, or something else in the place of a file or folder
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
)


def choose_run_dir(runs: Path, default_name: str, run_name: str | None, resume: bool) -> Path:
    """Choose and make the run folder.

    A given name is taken as it is; else the default name, with the job's id under srun or a W&B agent, or else
    numbered where taken.

    Raises:
        ConfigError: if that folder holds a run already and resume is not set, or resume is set without a name, or the
            folder cannot be made.
    """
    if chosen := os.environ.get(RUN_DIR_VARIABLE):
        return Path(chosen)
    job = job_name()
    if resume and not (run_name or job):
        raise ConfigError("resume=true needs run_name=NAME, the run to go on with")
    if run_name and (Path(run_name).name != run_name or run_name == ".."):
        raise ConfigError(f"run_name={run_name} is not the name of a folder: say where it lies by runs=DIR")
    if run_name or job:
        run_dir = runs / (run_name or f"{default_name}-{job}")
        if not resume and (run_dir / "checkpoints").exists():
            raise ConfigError(f"{run_dir} holds a run already: go on with it by resume=true, or give another run_name")
    else:
        numbered = (runs / (default_name if n == 1 else f"{default_name}-{n}") for n in count(1))
        run_dir = next(path for path in numbered if not path.exists())
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the run folder {run_dir} cannot be made ({error.strerror}): give another runs=DIR"
        ) from error
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    return run_dir


@contextmanager
def naming_run_folder() -> Iterator[None]:
    """Name the run folder, once it is chosen, where it cannot be written to; a full disk does not tell whose file it was.

    Raises:
        OSError: in place of the one that was raised.
    """
    try:
        yield
    except OSError as error:
        chosen = os.environ.get(RUN_DIR_VARIABLE)
        elsewhere = error.filename is not None and chosen not in map(
            str, (error.filename, *Path(error.filename).parents)
        )
        if not chosen or elsewhere or error.errno not in UNWRITABLE:
            raise
        what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise OSError(
            f"the run folder {chosen} cannot be written to ({what}): mend that, then "
            f"run_name={Path(chosen).name} resume=true goes on"
        ) from error


def job_name() -> str | None:
    """Name the job that all ranks of this run belong to, where srun or a W&B agent started it."""
    for variables in (AGENT_RUN, SLURM_STEP):
        values = [os.environ.get(name) for name in variables]
        if all(values):
            return "-".join(values)
    return None


def last_checkpoint(run_dir: Path) -> Path | None:
    """Give the checkpoint to go on from, if there is one."""
    path = run_dir / "checkpoints" / "last.ckpt"
    return path if path.is_file() else None


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of ours.

    Raises:
        ValueError: naming it, if it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, it is made anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no JSON object): delete it, it is made anew")
    return content


@contextmanager
def naming_out(out: Path) -> Iterator[None]:
    """Name the folder that a command makes where it cannot be written to.

    Raises:
        OSError: in place of the one that was raised.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{out} cannot be written to ({error}): mend that, then repeat the command, which keeps what is made"
        ) from error


def writable(out: str, extension: str = "json", key: str = "out") -> Path:
    """Make the folder of a file to be written, which a key names, before anything long begins.

    Raises:
        ConfigError: if there can be no such file, or there is one of another kind, which a slip would lose.
    """
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{key}={out}: {path.parent} cannot be made ({error.strerror}), give {key}=FILE.{extension}"
        ) from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{key}={out} is a folder, or in one that cannot be written to: give {key}=FILE.{extension}")
    if path.exists() and path.suffix != f".{extension}":
        raise ConfigError(f"{key}={out} is there and would be lost: give {key}=FILE.{extension}")
    return path
