"""Fail together: if one rank dies, the others exit non-zero within a minute and print the resume command.

Only gloo notices at once that a rank is gone; NCCL may wait until the group's timeout, half an hour. So the ranks watch each
other: rank 0 sees its children exit, they see their parent exit. A rank that is busy then has a grace period to fail by itself,
by the error of a collective for instance; after that it is killed.

Under srun or torchrun these start, watch and end the ranks.
"""

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
# Seconds until a rank whose peer failed notices the peer's end; measured: up to 4 on busy cores.
PATIENCE = 15.0
# Seconds to exit by itself; all ranks exit within a minute.
GRACE = 20.0
# Their messages say what is wrong.
ENDED = (ValueError, OSError, SystemExit, KeyboardInterrupt)


class RankDied(OSError):
    """Error for another rank's death; says how to resume."""


class RankLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of the ranks of this machine, with a watch that makes them fail together, instead of Lightning's.

    Args:
        launcher: Lightning's, to be replaced; its own watch kills the first rank without a message.
        advice: How to resume after a rank has died.
        wanted: Exception that ends every rank by itself.
    """

    def __init__(self, launcher: _SubprocessScriptLauncher, advice: str, wanted: type[Exception]):
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self.wanted = wanted
        self.advice, self.parent, self.reason = advice, os.getppid(), ""
        if self.cluster_environment.local_rank() > 0:
            Thread(target=self.watch, daemon=True).start()
        # Before all that end the group and W&B, so it is called after them.
        atexit.register(self.leave)

    def launch(self, function: Callable, *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other ranks, unless they run, and call the function. Raises RankDied if it fails since another rank is gone."""
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
        except Exception as error:
            # Perhaps a collective's: no backend has an exception class for a lost peer.
            until = time.monotonic() + PATIENCE
            while not (lost := self.lost()) and time.monotonic() < until:
                time.sleep(INTERVAL)
            self.reason = lost or str(error) or type(error).__name__
            if lost:
                # The progress bar of a killed rank has left its line open.
                sys.stderr.write("\n")
                raise RankDied(lost) from error
            raise
        finally:
            if self.reason:
                self.kill(signal.SIGKILL)  # the others cannot continue without it

    def lost(self) -> str:
        """Describe which other rank has failed; empty if none has."""
        for rank, process in enumerate(self.procs, start=1):
            if process.poll():
                status = process.returncode
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                return f"rank {rank} {how}, its messages are above: {self.advice}"
        if self.cluster_environment.local_rank() > 0 and os.getppid() != self.parent:
            return f"rank 0 is gone: {self.advice}"
        return ""

    def leave(self) -> None:
        """Exit at once after a failure: what is left of the group may wait forever for Python's lock, or for dead ranks."""
        if self.reason:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def watch(self) -> None:
        """Wait until another rank has failed, then kill this one, unless it exits by itself within the grace period."""
        while not (lost := self.lost()):
            time.sleep(INTERVAL)
        time.sleep(GRACE)
        self.kill(signal.SIGKILL)
        sys.stderr.write(f"\nerror: {self.reason or lost}\n")
        sys.stderr.flush()
        os._exit(1)


def watch_ranks(trainer: pl.Trainer, advice: str, wanted: type[Exception]) -> None:
    """Make the ranks that a trainer starts fail together, see ``RankLauncher``."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = RankLauncher(launcher, advice, wanted)
