"""SIGUSR1 and SIGTERM: a run saves its state, to the step, and ends. The one place where signals are handled.

SLURM sends SIGUSR1 before the time limit (``--signal``) and SIGTERM on ``scancel`` and preemption, to the processes at different
times, perhaps to one of them only. So a signal sets a flag and nothing else, and after each batch, where all ranks have done the
same steps, they agree on the largest number that any of them has received: all save and end together, or none.

The agreement is an ``all_reduce`` of one number on the training's own device. Reading it waits for the device; but Lightning
does that as well with several ranks, right after it and before it fetches the next batch (``_broadcast_sigterm_tensor``, which
knows the signals of rank zero only), so nothing is lost. A second group of processes that talk over the CPU would spare neither,
and is one more thing that a cluster's network can fail at.
"""

import atexit
import logging
import signal
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

# The last wins if several are received: who cancels wants no requeue.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
VALIDATION = "epoch_loop.val_loop.batch_progress"
# How Lightning marks a validation that is yet to run.
AT_ITS_BEGINNING = {
    "total": {"ready": 1, "started": 1, "processed": 0, "completed": 0},
    "current": {"ready": 0, "started": 0, "processed": 0, "completed": 0},
    "is_last_batch": False,
}

logger = logging.getLogger(__name__)


class Preempted(Exception):
    """Raised when a run ends because of a signal, with its number; the run can be resumed from its last checkpoint."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Preemption(pl.Callback):
    """Save a checkpoint and end the run by ``Preempted`` once any rank has received SIGUSR1 or SIGTERM.

    Put it behind the callbacks that count batches: what it saves after a batch is what they have counted. After the last batch of
    an epoch it waits for the first of validation, which a resumed run begins again; and where the trainer's checkpoint of the
    epoch has just been made, or nothing is trained any more, nothing is left to save.

    Args:
        path: Checkpoint from which the run goes on.
    """

    def __init__(self, path: Path):
        self.path = path
        self.received = 0

    def listen(self) -> None:
        """Handle signals until the process ends: one that comes when all is done must not make it fail."""
        atexit.register(kill_children)
        for number in SIGNALS:
            signal.signal(number, self.receive)
            # After the exit handlers Python has no signal handlers any more, and would be killed.
            atexit.register(signal.signal, number, signal.SIG_IGN)

    def receive(self, number: int, frame: Any = None) -> None:
        self.received = max(self.received, number)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Disable Lightning's signal handlers, which would save at any point of a step, with collectives."""
        trainer._signal_connector.register_signal_handlers = lambda: None

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.end_if_told(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.is_last_batch:
            self.end_if_told(trainer, save=True)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save and end between the last batch of an epoch and its end."""
        self.end_if_told(trainer, save=trainer.state.fn == TrainerFn.FITTING)

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.end_if_told(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Mark a validation as unfinished if the checkpoint is made within it; Lightning would take it for done."""
        if trainer.validating:
            checkpoint["loops"]["fit_loop"][VALIDATION] = AT_ITS_BEGINNING

    def end_if_told(self, trainer: pl.Trainer, save: bool = False) -> None:
        """End on all ranks, by ``Preempted``, if any has received a signal. A collective: call it on all."""
        if not (told := self.agreed(trainer)):
            return
        if save:
            trainer.save_checkpoint(self.path, weights_only=False)
            if trainer.is_global_zero:
                logger.info("%s: saved step %d in %s", signal.Signals(told).name, trainer.global_step, self.path)
        raise Preempted(told)

    def agreed(self, trainer: pl.Trainer) -> int:
        """Return the largest signal number that any rank had received; later ones are left for the next time."""
        if trainer.world_size == 1:
            return self.received
        number = torch.tensor(self.received, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number)


def kill_children() -> None:
    """Kill loading processes that are left at the exit: in them SIGTERM is blocked, by which ``multiprocessing`` would end them."""
    for child in active_children():
        child.kill()
