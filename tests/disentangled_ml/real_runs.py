"""Training commands in processes of their own, of which every one can be found, and none is left behind."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests import warm

ROOT = Path(__file__).resolve().parents[2]
MARK = "TESTED_RUN"  # a variable that all processes of a run inherit; /proc shows it of those that were not forked
MINUTE = 60.0
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
ENDLESS = ("training.max_epochs=99999", "training.lr_reductions=999")


class RealRun:
    """A run of ``train`` with the run folder ``folder/run``.

    Args:
        folder: Of the run folder and of the log.
        arguments: Of the command.
        script: What Python is to run in place of ``train``.
        cold: Whether it starts as a user's does, by an interpreter of its own.
        before: As for ``warm.Popen``.
        log: File of what it writes; ``folder/log`` by default.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        script: Path | None = None,
        cold: bool = False,
        before: str = "",
        log: Path | None = None,
    ):
        self.dir, self.log, mark = folder / "run", log or folder / "log", secrets.token_hex(8)
        self.mark = f"{MARK}={mark}"
        given = (*arguments, f"runs={folder}", "run_name=run")
        start = subprocess.Popen if script or cold else partial(warm.Popen, before=before)
        with self.log.open("w") as output:  # a pipe that nobody reads would fill
            self.process = start(
                [sys.executable, str(script), *given] if script else warm.cold("train", *given),
                env=warm.environment(PYTHONPATH=str(ROOT), **{MARK: mark}),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self) -> RealRun:
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes():
            os.kill(process, 9)
        self.process.wait()

    def processes(self, *settings: str) -> list[int]:
        """Give those of its processes that live and have some settings in their environment, the oldest first."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_text(errors="replace").split("\0")
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:  # of another user, or gone meanwhile
                continue
            ours = self.mark in environment or int(session) == self.process.pid
            if ours and state != "Z" and set(settings) <= set(environment):
                found.append(int(entry.name))
        return sorted(found)

    def rank(self, number: int) -> int:
        """Give the process of a rank."""
        if number == 0:
            return self.process.pid
        started = {p for p in self.processes() if name_of(p) == f"rank {number}"}
        started.update(self.processes(f"LOCAL_RANK={number}"))
        return next(p for p in started if parent_of(p) == self.process.pid)

    def loading_process(self) -> int:
        """Give a process that loads batches: a child of the server that a rank has started for that."""
        servers = [p for p in self.processes() if "forkserver" in command_of(p) + name_of(p)]
        return next(p for p in self.processes() if parent_of(p) in servers)

    def said(self) -> str:
        """Give what it has written so far; progress bars write their lines again and again."""
        return self.log.read_text(errors="replace").replace("\r", "\n")

    def wait_until(self, condition: Callable[[RealRun], bool], seconds: float = 5 * MINUTE) -> None:
        """Wait until something is the case."""
        until = time.monotonic() + seconds
        while not condition(self):
            assert self.process.poll() is None, f"ended too early:\n{self.said()[-3000:]}"
            assert time.monotonic() < until, f"not so after {seconds} s:\n{self.said()[-3000:]}"
            time.sleep(0.05)

    def end(self, seconds: float = MINUTE) -> int:
        """Wait until not one of its processes lives; give the exit status."""
        until = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < until:
            self.process.poll()
            time.sleep(0.1)
        assert not left, f"processes {left} live after {seconds} s:\n{self.said()[-3000:]}"
        return self.process.wait()


def parent_of(process: int) -> int:
    """Give the parent of a process; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def name_of(process: int) -> str:
    """Return the name of a process, which forked ones set; empty where it is gone."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def command_of(process: int) -> str:
    """Return the command line of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def has_checkpoint(run: RealRun) -> bool:
    """Tell whether an epoch is over."""
    return (run.dir / "checkpoints" / "last.ckpt").exists()
