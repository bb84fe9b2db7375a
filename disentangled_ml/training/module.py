"""The LightningModule: glue between the network, the loss, the evaluation and the trainer. No maths."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import AdamW

from disentangled_ml.evaluation.listed_triplets import (
    Distances,
    EmbeddingTable,
    end_chunks,
    listed_chunks,
    listed_distances,
    listed_loss,
)
from disentangled_ml.network.augmentation import Augmentation, drawing_from
from disentangled_ml.network.model import ConditionalSimilarityNetwork, embed_in_passes
from disentangled_ml.objective.gathering import Selection
from disentangled_ml.objective.losses import DisentangledLoss
from disentangled_ml.structures import ChunkBatch, Member, TrackChunks

DROPOUT_SALT = 3  # separates these draws from others of the same seed and step


class SimilarityModule(pl.LightningModule):
    """Training and evaluation of a conditional similarity network.

    Args:
        network: To train.
        loss: Of a batch.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, decoupled (I. Loshchilov, F. Hutter, ICLR 2019).
        seed: Of what dropout draws in a step.
        settings: Plain values that every checkpoint carries (configuration, conditions, audio settings).
        selection: Chooses the triplets of a step, perhaps over the batches of all ranks; None: those of the batch.
        augmentation: Of the chunks of a step.
        frontend_rate_scale: Factor of the learning rate for the frontend.
    """

    def __init__(
        self,
        network: ConditionalSimilarityNetwork,
        loss: DisentangledLoss,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
        selection: Selection | None = None,
        augmentation: Augmentation | None = None,
        frontend_rate_scale: float = 1.0,
    ):
        super().__init__()
        self.network, self.loss = network, loss
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.seed, self.settings = seed, settings or {}
        self.selection, self.augmentation = selection, augmentation
        self.frontend_rate_scale = frontend_rate_scale
        self.table = EmbeddingTable()

    @property
    def condition_names(self) -> list[str]:
        return self.network.condition_names

    def setup(self, stage: str) -> None:
        """Take the lists to evaluate on from the data module, which has been set up before."""
        data = self.trainer.datamodule
        self.lists = {
            split: (data.triplets[split], end_chunks(infos, data.plan.chunk_frames))
            for split, infos in data.infos.items()
        }

    def training_step(self, batch: ChunkBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the loss of a batch, and the counts (C + 1,) of correct and all triplets.

        The callbacks sum over the ranks what is logged of an epoch. Lightning's ``sync_dist`` is not used: it synchronises
        when a value is first read, which the progress bar does on rank zero alone.
        """
        augmentation = self.augmentation and self.augmentation.at(self.global_step, self.global_rank)
        # A resumed run draws what an uninterrupted one would have.
        with drawing_from(self.device, self.seed, self.global_step, self.global_rank, DROPOUT_SALT):
            raw_embedding, triplets = self.network.raw_embedding(batch.audio, augmentation), batch.triplets
        if self.selection is not None:
            raw_embedding, triplets = self.selection(raw_embedding, batch.tracks, self.global_step)
        terms = self.loss(raw_embedding, self.network.masks(), triplets, batch.targets)
        self.log("loss", terms.total.detach(), prog_bar=True, logger=False)
        return {"loss": terms.total, "correct": terms.correct, "total": terms.n_triplets}

    def on_validation_epoch_start(self) -> None:
        self.start_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self.start_evaluation("test")

    def start_evaluation(self, split: str) -> None:
        """Reset the embeddings, and broadcast the buffers: each rank has its own batch norm statistics."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)
        self.triplets, ends = self.lists[split]
        self.table = EmbeddingTable(wanted=listed_chunks(self.triplets) | ends)
        self.gathered = False

    def validation_step(self, batch: TrackChunks, batch_idx: int) -> None:
        self.table.add(batch, embed_in_passes(self.network, batch.audio))

    test_step = validation_step

    def evaluated(self) -> tuple[EmbeddingTable, Distances]:
        """Return the embeddings of all ranks and the distances of the triplets in their subspaces. A collective."""
        if not self.gathered:
            if self.trainer.world_size > 1:
                self.table.rows = gather_rows(self.table.rows, self.trainer.world_size)
            self.distances = listed_distances(self.table, self.triplets, self.network.masks(), self.condition_names)
            self.gathered = True
        return self.table, self.distances

    def evaluation_loss(self) -> float:
        """Return the loss of the listed triplets. Raises ValueError if it is not finite; earlier checkpoints are still there."""
        distances = self.evaluated()[1]
        weights = self.loss.margin, self.loss.track_weight, self.loss.condition_weight
        loss = listed_loss(distances, len(self.condition_names), *weights)
        if not math.isfinite(loss):
            raise ValueError(
                f"training diverged, the loss is {loss}: lower training.learning_rate or set training.gradient_clip"
            )
        return loss

    def configure_optimizers(self) -> AdamW:
        """Return AdamW, which without weight decay is Adam; the schedule is a callback, which sees the validation loss.

        The frontend has its own learning rate, and no weight decay: a filter is not better for being nearer to zero.
        """
        frontend = list(self.network.frontend.parameters())
        own = set(frontend)
        groups = [{"params": [parameter for parameter in self.parameters() if parameter not in own]}]
        if frontend:
            rate = self.learning_rate * self.frontend_rate_scale
            groups.append({"params": frontend, "lr": rate, "weight_decay": 0.0})
        return AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.settings)


def gather_rows(rows: dict[Member, Tensor], world_size: int) -> dict[Member, Tensor]:
    """Merge the rows of all ranks; sent as one matrix, since each row is a view of its whole batch."""
    own = (list(rows), torch.stack(list(rows.values())) if rows else torch.empty(0))
    parts: list[tuple] = [()] * world_size
    torch.distributed.all_gather_object(parts, own)
    return {member: row for members, matrix in parts for member, row in zip(members, matrix, strict=True)}
