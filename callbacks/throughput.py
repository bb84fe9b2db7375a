"""How fast training is, and whether the data keep up with the device."""

from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from disentangled_ml.structures import ChunkBatch


class Throughput(pl.Callback):
    """Log ``train/chunks_per_second`` of all ranks and ``train/data_wait_share``, the share of the time spent fetching batches.

    Checkpoints carry ``seconds``, the time that all epochs took up to then, validation included, over resumed runs too, and
    what was measured in the epoch so far.

    The clock runs from the beginning of an epoch to the end of its last batch, and not during validation. It is the host's: a
    fetch that overlaps with work still queued on the device counts as waiting, so the share is an upper bound there.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.resumed = [0, 0.0, 0.0]

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        within_epoch = perf_counter() - self.epoch_since if self.chunks else 0.0
        measured = self.sum_of_ranks(trainer, pl_module).tolist()
        checkpoint["callbacks"][self.state_key] = {"seconds": self.seconds + within_epoch, "measured": measured}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Restore the time; the measurements are restored when training starts."""
        state = checkpoint["callbacks"].get(self.state_key, {})
        self.seconds, self.resumed = state.get("seconds", 0.0), state.get("measured", self.resumed)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start at zero, or at what a resumed run has measured: the sum of all ranks, which rank zero takes."""
        self.begin_epoch()
        if trainer.is_global_zero:
            self.chunks, self.waiting, self.working = self.resumed

    def begin_epoch(self) -> None:
        self.epoch_since = self.since = perf_counter()
        self.chunks = 0
        self.waiting = self.working = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.since = perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waiting += self.lap()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: ChunkBatch, batch_idx: int
    ) -> None:
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            # Once per epoch: what is still queued belongs to it.
            torch.cuda.synchronize(pl_module.device)
        self.working += self.lap()
        self.chunks += len(batch.audio)

    def on_validation_end(self, *_: Any) -> None:
        self.since = perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch, of all ranks, and begin again; NaN for an epoch without batches."""
        chunks, waiting, working = self.sum_of_ranks(trainer, pl_module)
        seconds = waiting + working  # of all ranks together
        speed, share = (chunks * trainer.world_size / seconds).item(), (waiting / seconds).item()
        values = {"train/chunks_per_second": speed, "train/data_wait_share": share}
        pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1)
        self.seconds += perf_counter() - self.epoch_since
        self.begin_epoch()

    def sum_of_ranks(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Tensor:
        """Sum chunks, seconds of waiting and seconds of work over the ranks; returns (3,) float64."""
        own = torch.tensor([self.chunks, self.waiting, self.working], dtype=torch.float64, device=pl_module.device)
        return trainer.strategy.reduce(own, reduce_op="sum")

    def lap(self) -> float:
        before, self.since = self.since, perf_counter()
        return self.since - before
