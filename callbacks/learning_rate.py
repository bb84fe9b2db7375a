"""Schedules of the learning rate: lowered on a plateau, as J. Lee et al. (ICASSP 2020) do, or along half a cosine."""

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch.optim.lr_scheduler import ReduceLROnPlateau


class ReduceLearningRate(pl.Callback):
    """Lower the learning rate when a value has stopped falling, and stop when it has been lowered often enough.

    The reduced rates themselves are in the optimiser's state; the callback's holds the rest, so a resumed run continues exactly,
    and one that has stopped stays so unless ``reductions`` is raised. Logs ``train/learning_rate``, the rate of each epoch.

    Args:
        factor: Multiplies the learning rate.
        patience: Validations in a row without a lower value before the rate is lowered.
        reductions: How often the rate is lowered; when it would be once more, training stops.
        monitor: The value; its validation must log it on every rank.
    """

    def __init__(self, factor: float = 0.2, patience: int = 4, reductions: int = 5, monitor: str = "val/loss"):
        self.factor, self.patience, self.reductions, self.monitor = factor, patience, reductions, monitor
        self.plateaus = 0
        self.best, self.bad_epochs = float("inf"), 0
        self.scheduler: ReduceLROnPlateau | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the scheduler of the optimiser, which a resumed run has restored by now."""
        # eps: the smallest change that torch makes; the default would keep small rates from being lowered.
        self.scheduler = ReduceLROnPlateau(trainer.optimizers[0], factor=self.factor, patience=self.patience, eps=0.0)
        self.scheduler.best, self.scheduler.num_bad_epochs = self.best, self.bad_epochs
        self.epoch_rate = trainer.optimizers[0].param_groups[0]["lr"]
        if self.plateaus > self.reductions:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the learning rate that the epoch was trained with; by now, after validation, it may be a lower one."""
        pl_module.log("train/learning_rate", self.epoch_rate, on_step=False, on_epoch=True, batch_size=1)
        self.epoch_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        groups = trainer.optimizers[0].param_groups
        rates = [group["lr"] for group in groups]
        self.scheduler.step(trainer.callback_metrics[self.monitor])
        self.best, self.bad_epochs = self.scheduler.best, self.scheduler.num_bad_epochs
        if [group["lr"] for group in groups] == rates:
            return
        self.plateaus += 1
        if self.plateaus > self.reductions:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"plateaus": self.plateaus, "best": self.best, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.plateaus, self.best, self.bad_epochs = (state_dict[key] for key in ("plateaus", "best", "bad_epochs"))


class CosineLearningRate(pl.Callback):
    """Lower the learning rate along half a cosine, to almost zero in the last epoch (I. Loshchilov, F. Hutter, ICLR 2017).

    It needs no validation, which says little where there are some dozens of tracks. Logs ``train/learning_rate``, the rate of each
    epoch.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scale = (1 + math.cos(math.pi * trainer.current_epoch / trainer.max_epochs)) / 2
        for group in trainer.optimizers[0].param_groups:
            # The optimiser's state has it in a resumed run.
            group["lr"] = scale * group.setdefault("initial_lr", group["lr"])
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("train/learning_rate", self.rate, on_step=False, on_epoch=True, batch_size=1)
