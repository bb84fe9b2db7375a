"""Shards that are prepared anew while a network is trained on them: what it learns then is of no data set."""

from typing import Any

import pytorch_lightning as pl


class UnchangedShards(pl.Callback):
    """End a run whose shards have changed since it began, before a checkpoint is saved of it.

    The data module of the trainer looks, in its ``check_unchanged()``.
    """

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.datamodule.check_unchanged()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.datamodule.check_unchanged()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.datamodule.check_unchanged()
