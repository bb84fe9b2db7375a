"""The LightningDataModule: streams training batches and whole tracks from a folder of shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from datamodules.composer import BatchPlan
from datamodules.index import ShardIndex, ShardsError
from datamodules.shards import read_infos
from datamodules.streams import EvaluationStream, Source, TrainingStream
from datamodules.triplet_lists import ListSettings, kept_triplets
from disentangled_ml.conditions import Condition, TagCondition, TempoCondition
from disentangled_ml.structures import TRACK, ListedTriplet, TrackInfo, requested_starts


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
    if not known:
        raise ShardsError(f"{index.root} has no conditions: no track had a tag or a tempo, see the manifest's columns")
    if not names or len(set(names)) < len(names):
        raise ShardsError(f"conditions {names} are none or not distinct; {index.root} has {', '.join(known)}")
    return [
        replace(tempo or TempoCondition(), name=name)
        if known[name]["kind"] == "tempo"
        else TagCondition(name, tuple(known[name]["vocabulary"]))
        for name in names
    ]


class StreamLoader(DataLoader):
    """Load the ready batches of a stream; workers are started afresh, never forked from a process that ran torch.

    Args:
        stream: To load from.
        workers: Loading processes.
        pin_memory: Whether batches go to a GPU.
        epoch_of: Asked for the epoch at each iteration, and told to a stream that draws by it. Lightning makes iterators
            ahead of its epochs, and on resuming before it knows the epoch: neither counting them nor ``current_epoch`` would do.
    """

    def __init__(
        self,
        stream: TrainingStream | EvaluationStream,
        workers: int = 0,
        pin_memory: bool = False,
        epoch_of: Callable[[], int] | None = None,
    ):
        super().__init__(
            stream,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )
        self.epoch_of = epoch_of

    def __iter__(self) -> Iterator:
        if self.epoch_of is not None:
            self.dataset.set_epoch(self.epoch_of())
        return super().__iter__()


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
        """Read the labels and the fixed triplet lists of validation and test.

        Raises:
            ShardsError: if there are no tracks, or none that the conditions tell apart, to choose the best network by.
        """
        for split in ("val", "test"):
            if split not in self.triplets:
                if not self.index.count(split):
                    raise ShardsError(f"{self.index.root} has no {split} tracks: check the manifest's split column")
                self.infos[split] = read_infos(self.index, split)
                self.triplets[split] = kept_triplets(
                    self.index, split, self.infos[split], self.conditions, self.list_settings
                )
        if all(triplet.condition == TRACK for triplet in self.triplets["val"]):
            raise ShardsError(
                f"{self.index.root}: no triplet of {', '.join(c.name for c in self.conditions)} is possible among the "
                f"{self.index.count('val')} val tracks: the best network is chosen by them, so label more of them"
            )

    def placed_source(self) -> Source:
        """Give the source with the rank of this process."""
        if self.trainer is None:
            return self.source
        return replace(self.source, rank=self.trainer.global_rank, world_size=self.trainer.world_size)

    def loader(
        self, stream: TrainingStream | EvaluationStream, epoch_of: Callable[[], int] | None = None
    ) -> StreamLoader:
        """Wrap a stream."""
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return StreamLoader(stream, self.workers, on_gpu, epoch_of)

    def train_dataloader(self) -> StreamLoader:
        """Stream the training batches of the trainer's current epoch; without a trainer, of one epoch after the other."""
        share = max(self.plan.tracks_per_batch, self.plan.pool_tracks // max(1, self.workers))
        stream = TrainingStream(self.placed_source(), replace(self.plan, pool_tracks=share), self.seed)
        trainer = self.trainer
        return self.loader(stream, count().__next__ if trainer is None else lambda: trainer.global_step // len(stream))

    def evaluation_dataloader(self, split: str) -> StreamLoader:
        """Stream the whole tracks of a split, with the chunks that its triplets name."""
        requested = requested_starts(member for _, *members in self.triplets[split] for member in members)
        return self.loader(EvaluationStream(self.placed_source(), split, self.eval_tracks_per_batch, requested))

    def val_dataloader(self) -> StreamLoader:
        """Stream the validation tracks."""
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> StreamLoader:
        """Stream the test tracks."""
        return self.evaluation_dataloader("test")
