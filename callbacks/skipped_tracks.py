"""The number of tracks that could not be read: tolerated damage must not go unnoticed."""

import pytorch_lightning as pl
import torch


class SkippedTracks(pl.Callback):
    """Log ``train/skipped_tracks``, the number of tracks of an epoch that all ranks skipped, and end a run that skips too many.

    The data module of the trainer counts those of a rank in its ``skipped_tracks()``, by shard, and judges their sum in its
    ``check_skipped(n)``.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule
        own = torch.tensor(float(sum(data.skipped_tracks().values())), device=pl_module.device)
        skipped = int(trainer.strategy.reduce(own, reduce_op="sum"))
        pl_module.log("train/skipped_tracks", float(skipped), batch_size=1)
        data.check_skipped(skipped)
