"""Progress of training where the output is no terminal."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar

from disentangled_ml.progress import ProgressLines

SHOWN = ("val/loss", "val/triplet_accuracy/mean")


class EpochLines(ProgressBar):
    """A line for each epoch, and within long ones a line now and then, instead of Lightning's bar."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = ProgressLines(disable=True)
        self.is_shown = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Show the progress of the first rank of a machine alone."""
        super().setup(trainer, pl_module, stage)
        if trainer.local_rank:
            self.disable()

    def disable(self) -> None:
        """Show nothing from now on."""
        self.is_shown = False

    def enable(self) -> None:
        """Show lines from now on."""
        self.is_shown = True

    def begin(self, desc: str, total: Any) -> None:
        """Begin an epoch, or the test."""
        total = int(total) if total != float("inf") else None
        self.lines = ProgressLines(desc=desc, total=total, disable=not self.is_shown)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Begin to count batches."""
        self.begin(f"Epoch {trainer.current_epoch}", trainer.num_training_batches)

    def on_train_batch_end(self, *_: Any) -> None:
        """Count a batch."""
        self.lines.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show what the epoch achieved."""
        metrics = trainer.callback_metrics
        self.lines.close("".join(f", {key} {float(metrics[key]):.4f}" for key in SHOWN if key in metrics))

    def on_test_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Begin to count batches."""
        self.begin("Test", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any) -> None:
        """Count a batch."""
        self.lines.update()

    def on_test_end(self, *_: Any) -> None:
        """Show that the test is done."""
        self.lines.close()
