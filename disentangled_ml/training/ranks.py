"""Ranks that end together: where one dies the others end soon, with a status that is not zero and a word on how to go on.

Only gloo tells a rank at once that another is gone; NCCL may wait for it until the group's timeout, half an hour. So each rank
watches by itself: the one that started the others sees them end, they see it end. A rank that is in the middle of something
then has a grace to end by itself, by the error of a collective for instance; after that it is ended.

Under srun or torchrun it is they that start, watch and end the ranks.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

INTERVAL = 0.5  # seconds between two looks at the others
PATIENCE = (
    15.0  # seconds in which a rank that failed, and with it a collective, has ended; measured: up to 4 on busy cores
)
GRACE = 20.0  # seconds to end by itself; all in all the ranks end within a minute
ENDED = (ValueError, OSError, SystemExit, KeyboardInterrupt)  # tell themselves what is wrong, or that it was wanted


class RankDied(OSError):
    """Tell that another rank has ended, and how to go on."""


class RankLauncher(_SubprocessScriptLauncher):
    """Start the ranks of this machine as Lightning does, and see to it that they end together.

    Takes the place of Lightning's own watch, which kills the first rank without a word.

    Args:
        launcher: Lightning's, whose place is taken.
        advice: How to go on after a rank has died.
        wanted: What ends all ranks alike, each by itself.
    """

    def __init__(self, launcher: _SubprocessScriptLauncher, advice: str, wanted: type[Exception]):
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self.wanted = wanted
        self.advice, self.parent, self.reason = advice, os.getppid(), ""
        if self.cluster_environment.local_rank() > 0:
            Thread(target=self.watch, daemon=True).start()
        atexit.register(self.leave)  # before all that end the group and W&B, so it is called after them

    def launch(self, function: Callable, *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other ranks where they are not started yet, and call the function.

        Raises:
            RankDied: if the function fails since another rank is gone.
        """
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            Thread(target=self.watch, daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        try:
            return function(*args, **kwargs)
        except self.wanted:
            raise
        except ENDED as error:
            self.reason = str(error) or type(error).__name__
            raise
        except Exception as error:  # a collective's, perhaps: no backend has a class of its own for a peer that is gone
            until = time.monotonic() + PATIENCE
            while not (lost := self.lost()) and time.monotonic() < until:
                time.sleep(INTERVAL)
            self.reason = lost or str(error) or type(error).__name__
            if lost:
                sys.stderr.write("\n")  # the progress bar of a rank that was killed has left its line open
                raise RankDied(lost) from error
            raise
        finally:
            if self.reason:
                self.kill(signal.SIGKILL)  # the others cannot do without this one

    def lost(self) -> str:
        """Say which other rank has failed; nothing where none has."""
        for rank, process in enumerate(self.procs, start=1):
            if process.poll():
                status = process.returncode
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                return f"rank {rank} {how}, its messages are above: {self.advice}"
        if self.cluster_environment.local_rank() > 0 and os.getppid() != self.parent:
            return f"rank 0 is gone: {self.advice}"
        return ""

    def leave(self) -> None:
        """Leave a failed run at once: what is left of the group may wait for ever for Python's lock, or for ranks that are gone."""
        if self.reason:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def watch(self) -> None:
        """Wait until another rank has failed, then end this one, unless it does so itself."""
        while not (lost := self.lost()):
            time.sleep(INTERVAL)
        time.sleep(GRACE)
        self.kill(signal.SIGKILL)
        sys.stderr.write(f"\nerror: {self.reason or lost}\n")
        sys.stderr.flush()
        os._exit(1)


def watch_ranks(trainer: pl.Trainer, advice: str, wanted: type[Exception]) -> None:
    """Let the ranks that a trainer starts end together, see ``RankLauncher``."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = RankLauncher(launcher, advice, wanted)
