"""Loss and triplet accuracy per condition, for ``track``, and as the plain mean over the conditions, in every split.

Training counts the triplets of its batches as they come; validation and test count the fixed lists. Correct and total are
summed over batches and ranks before they are divided. Every rank logs the same keys with the same values at every epoch (NaN
for a condition without a triplet on any rank), so nothing is left for Lightning to synchronise.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from disentangled_ml.evaluation.metrics import accuracies, count_correct


class TripletAccuracy(pl.Callback):
    """Log ``{train,val,test}/triplet_accuracy/{<condition>,track,mean}`` and ``{train,val,test}/loss``.

    Checkpoints carry what was counted in the epoch so far. Put it before the callbacks that read these values.
    """

    def __init__(self) -> None:
        self.resumed: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start at zero, or at what a resumed run has counted: the sum of all ranks, which rank zero takes."""
        self.begin_epoch(pl_module)
        if self.resumed and trainer.is_global_zero:
            self.counts += self.resumed["counts"].to(pl_module.device)
            self.losses += self.resumed["losses"].to(pl_module.device)

    def begin_epoch(self, pl_module: pl.LightningModule) -> None:
        self.counts = torch.zeros(2, len(pl_module.condition_names) + 1, dtype=torch.float64, device=pl_module.device)
        self.losses = torch.zeros(2, dtype=torch.float64, device=pl_module.device)  # their sum and number

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        checkpoint["callbacks"][self.state_key] = {
            name: trainer.strategy.reduce(own.clone(), reduce_op="sum").cpu()  # clone: it reduces in place
            for name, own in (("counts", self.counts), ("losses", self.losses))
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self.resumed = checkpoint["callbacks"].get(self.state_key, {})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict[str, Tensor], *_: Any
    ) -> None:
        self.counts += torch.stack([outputs["correct"], outputs["total"]])
        loss = outputs["loss"].detach().double()
        self.losses += torch.stack([loss, torch.ones_like(loss)])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        correct, total = trainer.strategy.reduce(self.counts, reduce_op="sum")
        loss, n_batches = trainer.strategy.reduce(self.losses, reduce_op="sum")
        self.log_accuracies(pl_module, "train", correct, total)
        pl_module.log("train/loss", (loss / n_batches).item(), batch_size=1)
        self.begin_epoch(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.log_evaluation(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.log_evaluation(pl_module, "test")

    def log_evaluation(self, pl_module: pl.LightningModule, split: str) -> None:
        """Log the accuracies and the loss of a list; the module has gathered its distances from all ranks."""
        _, distances = pl_module.evaluated()
        n_rows = len(pl_module.condition_names) + 1
        counts = count_correct(distances.dist_ap, distances.dist_an, distances.condition, n_rows)
        self.log_accuracies(pl_module, split, *counts)
        pl_module.log(f"{split}/loss", pl_module.evaluation_loss(), batch_size=1)

    def log_accuracies(self, pl_module: pl.LightningModule, split: str, correct: Tensor, total: Tensor) -> None:
        for name, value in accuracies(correct, total, pl_module.condition_names).items():
            shown = split == "val" and name == "mean"
            key = f"{split}/triplet_accuracy/{name}"
            pl_module.log(key, value, prog_bar=shown, on_step=False, on_epoch=True, batch_size=1)
