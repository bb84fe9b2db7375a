"""The run folder: ``RUNS/RUN_NAME/`` with config.yaml, metrics.json, checkpoints/, figures/ and the W&B files."""

import errno
import os
from itertools import count
from pathlib import Path

from disentangled_ml.config.errors import ConfigError

# Passes the choice on to the rank processes, which are started again from argv.
RUN_DIR_VARIABLE = "DISENTANGLED_ML_RUN_DIR"
# Set by srun: the same for all ranks, and for a requeued job.
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_ID")
# Full, forbidden, read-only or defective, or another kind of file at the path.
UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
)


def choose_run_dir(runs: Path, default_name: str, run_name: str | None, resume: bool) -> Path:
    """Choose and make the run folder.

    A given name is taken as it is. Otherwise it is the default name, with the job's id under srun or a W&B agent, or with
    the first free number.

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


def unwritable_run_folder(error: OSError) -> str | None:
    """Describe that the run folder, once it is chosen, cannot be written to; None for an error of another kind or place.

    A full disk does not tell whose file it was.
    """
    chosen = os.environ.get(RUN_DIR_VARIABLE)
    elsewhere = error.filename is not None and chosen not in map(str, (error.filename, *Path(error.filename).parents))
    if not chosen or elsewhere or error.errno not in UNWRITABLE:
        return None
    what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return (
        f"the run folder {chosen} cannot be written to ({what}): mend that, then "
        f"run_name={Path(chosen).name} resume=true goes on"
    )


def job_name() -> str | None:
    """Return the id of the job that all ranks of this run belong to; None unless srun or a W&B agent started it."""
    step = [os.environ.get(name) for name in SLURM_STEP]
    return os.environ.get("WANDB_RUN_ID") or ("-".join(step) if all(step) else None)
