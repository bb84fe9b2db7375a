"""A word where a network tells nothing apart any more: its accuracies alone do not say so."""

import logging

import pytorch_lightning as pl

from disentangled_ml.evaluation.collapse import collapse_remarks

logger = logging.getLogger(__name__)


class CollapseWarning(pl.Callback):
    """Warn of what has collapsed after each validation that finds more."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        table, _ = pl_module.evaluated()
        _, embedding = table.tracks()
        masks = pl_module.network.masks().detach().float().cpu()
        remarks = collapse_remarks(embedding, masks, pl_module.condition_names)
        for remark in remarks:
            if trainer.is_global_zero and remark not in self.told:
                logger.warning("%s", remark)
        self.told = remarks
