"""The LightningDataModule: streams training batches and whole tracks from a folder of shards."""

from __future__ import annotations

from dataclasses import replace

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from datamodules.composer import BatchPlan
from datamodules.index import ShardIndex, ShardsError
from datamodules.shards import read_infos
from datamodules.streams import EvaluationStream, Source, TrainingStream
from datamodules.triplet_lists import ListSettings, kept_triplets, requested_starts
from disentangled_ml.conditions import Condition, TagCondition, TempoCondition
from disentangled_ml.structures import ListedTriplet, TrackInfo


def build_conditions(
    index: ShardIndex, names: list[str] | None = None, tempo: TempoCondition | None = None
) -> list[Condition]:
    """Build the conditions of some shards.

    Args:
        index: Of the shards.
        names: Which, in which order; all of the shards by default.
        tempo: How tempi are related.

    Raises:
        ShardsError: for a name that the shards do not have, or none at all.
    """
    known = {entry["name"]: entry for entry in index.conditions}
    names = list(known) if names is None else names
    for name in names:
        if name not in known:
            raise ShardsError(f"condition {name!r} is not in {index.root}: choose from {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise ShardsError(f"conditions {names} are none or not distinct; {index.root} has {', '.join(known)}")
    return [
        replace(tempo or TempoCondition(), name=name)
        if known[name]["kind"] == "tempo"
        else TagCondition(name, tuple(known[name]["vocabulary"]))
        for name in names
    ]


class SimilarityDataModule(pl.LightningDataModule):
    """Stream a folder of shards.

    Args:
        index: Of the shards.
        conditions: In order.
        audio: ``mel`` or ``waveform``, what the model's frontend wants.
        plan: How training batches are composed.
        workers: Loading processes per rank.
        seed: Of order, chunks and triplets.
        list_size: Triplets per condition of the fixed lists.
        eval_tracks_per_batch: Whole tracks per batch in validation and test.
    """

    def __init__(
        self,
        index: ShardIndex,
        conditions: list[Condition],
        audio: str = "mel",
        plan: BatchPlan | None = None,
        workers: int = 0,
        seed: int = 0,
        list_size: int = 1000,
        eval_tracks_per_batch: int = 8,
    ):
        super().__init__()
        self.index, self.conditions = index, conditions
        self.plan = plan or BatchPlan()
        self.workers, self.seed = workers, seed
        self.eval_tracks_per_batch = eval_tracks_per_batch
        self.list_settings = ListSettings(list_size, seed, self.plan.chunk_frames)
        self.source = Source(index, conditions, audio, self.plan.chunk_frames, workers=workers)
        self.infos: dict[str, list[TrackInfo]] = {}
        self.triplets: dict[str, list[ListedTriplet]] = {}

    def setup(self, stage: str) -> None:
        """Read the labels and the fixed triplet lists of validation and test."""
        for split in ("val", "test"):
            if split not in self.triplets:
                self.infos[split] = read_infos(self.index, split)
                self.triplets[split] = kept_triplets(
                    self.index, split, self.infos[split], self.conditions, self.list_settings
                )

    def placed_source(self) -> Source:
        """Give the source with the rank of this process."""
        if self.trainer is None:
            return self.source
        return replace(self.source, rank=self.trainer.global_rank, world_size=self.trainer.world_size)

    def loader(self, stream: TrainingStream | EvaluationStream) -> DataLoader:
        """Wrap a stream of ready batches; workers are started afresh, never forked from a process that ran torch."""
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context="forkserver" if self.workers else None,
            persistent_workers=self.workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def train_dataloader(self) -> DataLoader:
        """Stream training batches, from the trainer's current epoch on."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        share = max(self.plan.tracks_per_batch, self.plan.pool_tracks // max(1, self.workers))
        return self.loader(
            TrainingStream(self.placed_source(), replace(self.plan, pool_tracks=share), self.seed, epoch)
        )

    def evaluation_dataloader(self, split: str) -> DataLoader:
        """Stream the whole tracks of a split, with the chunks that its triplets name."""
        requested = requested_starts(self.triplets[split])
        return self.loader(EvaluationStream(self.placed_source(), split, self.eval_tracks_per_batch, requested))

    def val_dataloader(self) -> DataLoader:
        """Stream the validation tracks."""
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> DataLoader:
        """Stream the test tracks."""
        return self.evaluation_dataloader("test")
