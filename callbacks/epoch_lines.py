"""Progress of training where the output is no terminal."""

from typing import Any

import pytorch_lightning as pl

from disentangled_ml.progress import ProgressLines

SHOWN = ("val/loss", "val/triplet_accuracy/mean")


class EpochLines(pl.Callback):
    """A line for each epoch, and within long ones a line now and then, instead of Lightning's bar."""

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        # Lightning does not start an epoch again that a run is resumed within.
        self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        desc, total = f"Epoch {trainer.current_epoch}", trainer.num_training_batches
        self.lines = ProgressLines(desc=desc, total=total, disable=not trainer.is_global_zero)

    def on_train_batch_end(self, *_: Any) -> None:
        self.lines.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        metrics = trainer.callback_metrics
        self.lines.close("".join(f", {key} {float(metrics[key]):.4f}" for key in SHOWN if key in metrics))
