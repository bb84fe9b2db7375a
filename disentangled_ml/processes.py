"""Processes: how other ones are started from ours, what they inherit and what ends them, and what memory a process keeps.

Nothing here imports torch, so that a command answers before it is needed.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from pathlib import Path
from threading import Lock, Thread
from typing import NamedTuple

from disentangled_ml.progress import show_progress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
# The largest number, 2 GB, would still hand back what is above it: half a second of system time at a time.
NEVER = -1
# What would make a process take itself for a part of another job: its run folder, its W&B run, its rank.
OF_ANOTHER_JOB = (
    *("DISENTANGLED_ML_", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "SLURM_"),
    *("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"),
)
logger = logging.getLogger("jobs")


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees; return False where there is no glibc, and nothing is done.

    glibc hands large blocks back at once (``mmap``), and the system gives new ones page by page, each filled with zeros: for a
    training step on a CPU, whose activations are hundreds of megabytes, that takes as long as the arithmetic. With memory kept,
    a step of 64 chunks took 152 to 201 ms instead of 301 to 363 (``python -m benchmarks.step``, two cores, five runs). The
    process then holds the most that it has ever needed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, NEVER) == 1


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def new_pool(n: int, preloaded: str, initializer: Callable[[], None]) -> ProcessPoolExecutor:
    """Return a pool of n processes, which are never forked from this one, since torch has run in it.

    Args:
        n: Number of processes.
        preloaded: Module that is imported once for all of them.
        initializer: Run by each process first.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([preloaded])
    return ProcessPoolExecutor(n, context, initializer=initializer)


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """Keep the processes that are started meanwhile from importing the module that Python was started with.

    ``multiprocessing`` makes them import it for what is defined there; of ours nothing is, and a condition of your own belongs
    in a module too. The training program imports for seconds, and holds hundreds of megabytes, for what no loading process needs.
    """
    program = sys.modules["__main__"]
    spec, file = program.__spec__, program.__dict__.pop("__file__", None)
    program.__spec__ = None
    try:
        yield
    finally:
        program.__spec__ = spec
        if file is not None:
            program.__file__ = file


@contextmanager
def signals_blocked_in_children(signals: Sequence[int], preloaded: str) -> Iterator[None]:
    """Block signals in the processes that are started meanwhile, and in the loading processes, which one of them forks.

    SLURM may send them to all descendants of a task, which they would kill. What is blocked when a process starts stays blocked
    in it; what reaches this process meanwhile is delivered afterwards.

    Args:
        signals: To be blocked.
        preloaded: Module that is imported once for all loading processes, meanwhile, instead of by each of them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        resource_tracker.ensure_running()
        # Again: that has unblocked SIGTERM, which the tracker itself ignores.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        forkserver.set_forkserver_preload([preloaded])
        forkserver.ensure_running()
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Job(NamedTuple):
    """A command, and the file that its output goes to."""

    name: str
    command: list[str]
    log: Path


def slots(n_jobs: int | None, gpus: Sequence[str], cores: int) -> list[dict[str, str]]:
    """Return the environments of processes that run side by side: each has one GPU, or its share of the cores.

    Args:
        n_jobs: Number of processes; None: one per GPU, or one per core where there is none.
        gpus: Names of the GPUs, as ``CUDA_VISIBLE_DEVICES`` has them.
        cores: Number of cores.

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
    return {name: value for name, value in os.environ.items() if not name.startswith(OF_ANOTHER_JOB)}


def run_jobs(jobs: Sequence[Job], environments: Sequence[dict[str, str]], lock: int) -> list[str]:
    """Run jobs, as many at a time as there are environments; return the names of those that failed.

    Whatever ends this function ends the running jobs too.

    Args:
        jobs: In order.
        environments: Variables to set, one mapping for each job that runs at a time.
        lock: File descriptor that the jobs inherit, see ``files.locked``.
    """
    waiting, running, failed, guard = deque(jobs), {}, [], Lock()

    def work(environment: dict[str, str]) -> None:
        while True:
            with guard:
                if not waiting:
                    return
                job = waiting.popleft()
                running[job.name] = process = start(job, environment, lock)
            status = process.wait()
            with guard:
                if running.pop(job.name, None) and status:
                    failed.append(job.name)
                    logger.warning("%s failed, see %s", job.name, job.log)
            progress.update()

    with (
        show_progress(total=len(jobs), unit="run", desc="train", disable=not jobs) as progress,
        ThreadPoolExecutor(len(environments)) as pool,
    ):
        try:
            for done in as_completed([pool.submit(work, environment) for environment in environments]):
                done.result()
        finally:
            with guard:
                left = list(running.values())
                waiting.clear()
                running.clear()
            for process in left:
                process.terminate()
    return failed


def start(job: Job, environment: dict[str, str], lock: int) -> subprocess.Popen:
    with open(job.log, "w", encoding="utf-8") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**own_environment(), **environment},
            pass_fds=[lock],
        )
