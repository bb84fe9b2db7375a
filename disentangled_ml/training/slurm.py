"""What a run asks of SLURM."""

from __future__ import annotations

import os
import subprocess


def job_id() -> str | None:
    """Name the job of this process as ``scontrol`` knows it; None where ``srun`` did not start the process."""
    if not all(os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")):
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def requeue(job: str) -> str:
    """Have a job begin anew, which ends it where it runs, and say what came of it."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"SLURM job {job} is not requeued: scontrol does not start ({error})"
    if done.returncode:
        return f"SLURM job {job} is not requeued: {' '.join(done.stderr.split())}"
    return f"SLURM job {job} is requeued"
