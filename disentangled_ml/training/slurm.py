"""Calls to SLURM."""

import os
import subprocess


def job_id() -> str | None:
    """Return the id of this process's job for ``scontrol``; None if ``srun`` did not start the process."""
    if not all(os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")):
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def requeue(job: str) -> str:
    """Requeue a job, which ends it where it runs, and return a message about the outcome."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"SLURM job {job} is not requeued: scontrol does not start ({error})"
    if done.returncode:
        return f"SLURM job {job} is not requeued: {' '.join(done.stderr.split())}"
    return f"SLURM job {job} is requeued"
