"""Early stopping that stays stopped."""

import pytorch_lightning as pl
from pytorch_lightning import callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, but a resumed run that had stopped stays stopped, unless ``patience`` is raised."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once where that was due; the checkpoint holds the count, but Lightning looks at it only after an epoch."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
