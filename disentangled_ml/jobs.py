"""Run commands side by side, each in a process of its own with its own log."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from disentangled_ml.training.run_folder import RUN_DIR_VARIABLE

POLL_SECONDS = 0.2
# What would make a process take itself for a part of another job: its run folder, its W&B run, its rank.
OF_OTHERS = (
    RUN_DIR_VARIABLE,
    "WANDB_RUN_ID",
    "WANDB_SWEEP_ID",
    "SLURM_",
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
)
logger = logging.getLogger("jobs")


class Job(NamedTuple):
    """Name a command and the file of what it says."""

    name: str
    command: list[str]
    log: Path


def slots(n_jobs: int | None, gpus: Sequence[str], cores: int) -> list[dict[str, str]]:
    """Give each of the processes that run at a time what it may use: one GPU, or its share of the cores.

    Args:
        n_jobs: How many; None: one per GPU, or one per core where there is none.
        gpus: Names of the GPUs, as ``CUDA_VISIBLE_DEVICES`` has them.
        cores: Number of them.

    >>> slots(None, ["0", "1"], 16)
    [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}]
    >>> slots(2, [], 8)
    [{'OMP_NUM_THREADS': '4'}, {'OMP_NUM_THREADS': '4'}]
    """
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(n_jobs or len(gpus))]
    n_jobs = n_jobs or cores
    return [{"OMP_NUM_THREADS": str(max(1, cores // n_jobs))}] * n_jobs


def own_environment() -> dict[str, str]:
    """Give the environment without what belongs to another job."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OF_OTHERS)}


def run_jobs(jobs: Sequence[Job], environments: Sequence[dict[str, str]], lock: int) -> list[str]:
    """Run jobs, as many at a time as there are environments; give the names of those that failed.

    Whatever ends this function ends the running jobs as well.
    """
    waiting, failed = list(jobs), []
    running: dict[int, tuple[Job, subprocess.Popen]] = {}
    try:
        with tqdm(total=len(jobs), unit="run", desc="train", disable=not jobs) as progress:
            while waiting or running:
                for slot, environment in enumerate(environments):
                    if waiting and slot not in running:
                        job = waiting.pop(0)
                        running[slot] = job, start(job, environment, lock)
                time.sleep(POLL_SECONDS)
                for slot, (job, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[slot]
                        progress.update()
                        if process.returncode:
                            failed.append(job.name)
                            logger.warning("%s failed, see %s", job.name, job.log)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
    return failed


def start(job: Job, environment: dict[str, str], lock: int) -> subprocess.Popen:
    """Start a job."""
    with open(job.log, "w", encoding="utf-8") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**own_environment(), **environment},
            pass_fds=[lock],
        )
