"""The LightningDataModule: streams training batches and whole tracks from a folder of shards."""

from dataclasses import replace
from itertools import count
from typing import Any

import pytorch_lightning as pl

from datamodules.batches.composer import BatchPlan
from datamodules.batches.loaders import StreamLoader, TrainingLoader
from datamodules.batches.streams import EvaluationStream, Source, TrainingStream
from datamodules.shards.damage import DamageBudget
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.tar import read_infos
from datamodules.triplet_lists.lists import ListSettings, kept_triplets
from disentangled_ml.objective.conditions import Condition
from disentangled_ml.structures import TRACK, ListedTriplet, TrackInfo, requested_starts

NAMED = 5  # damaged shards that an error names


class SimilarityDataModule(pl.LightningDataModule):
    """Training batches and whole tracks, streamed from a folder of shards.

    Args:
        index: Of the shards.
        conditions: In order.
        source: What the array of a chunk holds, see ``disentangled_ml.chunks``.
        plan: How training batches are composed.
        workers: Loading processes per rank.
        seed: Of order, chunks and triplets.
        list_size: Triplets per condition of the fixed lists.
        eval_tracks_per_batch: Whole tracks per batch in validation and test.
        max_damaged: Share of a split's samples that may be damaged or missing: they are skipped.
    """

    def __init__(
        self,
        index: ShardIndex,
        conditions: list[Condition],
        source: str = "mel",
        plan: BatchPlan | None = None,
        workers: int = 0,
        seed: int = 0,
        list_size: int = 1000,
        eval_tracks_per_batch: int = 8,
        max_damaged: float = 0.0,
    ):
        super().__init__()
        self.index, self.conditions = index, conditions
        self.plan = plan or BatchPlan()
        self.workers, self.seed = workers, seed
        self.eval_tracks_per_batch = eval_tracks_per_batch
        self.list_settings = ListSettings(list_size, seed, self.plan.chunk_frames)
        self.source = Source(
            index, conditions, source, self.plan.chunk_frames, workers=workers, max_damaged=max_damaged
        )
        # The epoch that training is in: its number, first step and number of steps.
        self.epoch: dict[str, int] = {}
        self.infos: dict[str, list[TrackInfo]] = {}
        self.triplets: dict[str, list[ListedTriplet]] = {}

    def setup(self, stage: str) -> None:
        """Read the labels and the fixed triplet lists of validation and test.

        Raises:
            ShardsError: if there are no tracks, or none that the conditions tell apart, to choose the best network by.
        """
        for split in ("val", "test"):
            if split not in self.triplets:
                n_tracks = self.index.count(split)
                if not n_tracks:
                    raise ShardsError(f"{self.index.root} has no {split} tracks: check the manifest's split column")
                damage = DamageBudget(n_tracks, n_tracks, self.source.max_damaged)
                self.infos[split] = infos = read_infos(self.index, split, damage.record)
                self.triplets[split] = kept_triplets(self.index, split, infos, self.conditions, self.list_settings)
        if all(triplet.condition == TRACK for triplet in self.triplets["val"]):
            raise ShardsError(
                f"{self.index.root}: no triplet of {', '.join(c.name for c in self.conditions)} is possible among the "
                f"{self.index.count('val')} val tracks: the best network is chosen by them, so label more of them"
            )

    def placed_source(self) -> Source:
        """Return the source with the rank of this process."""
        if self.trainer is None:
            return self.source
        return replace(self.source, rank=self.trainer.global_rank, world_size=self.trainer.world_size)

    @property
    def on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def train_dataloader(self) -> TrainingLoader:
        """Stream the training batches from the trainer's next step on; without a trainer, of one epoch after the other."""
        share = max(self.plan.tracks_per_batch, self.plan.pool_tracks // max(1, self.workers))
        plan = replace(self.plan, pool_tracks=share)
        self.training_stream = stream = TrainingStream(self.placed_source(), plan, self.seed)
        epochs = count()
        place = self.place if self.trainer is not None else lambda: (next(epochs), 0)
        return TrainingLoader(stream, self.workers, self.on_gpu, place)

    def place(self) -> tuple[int, int]:
        """Return the epoch that the trainer's next step is in, and the number of the step in it.

        An epoch has another number of steps with other numbers of processes or workers, which may change between two of them.
        """
        step, steps = self.trainer.global_step, len(self.training_stream)
        if not self.epoch:
            self.epoch = {"number": step // steps, "first_step": step - step % steps, "steps": steps}
        elif step >= self.epoch["first_step"] + self.epoch["steps"]:
            self.epoch = {"number": self.epoch["number"] + 1, "first_step": step, "steps": steps}
        elif step == self.epoch["first_step"]:
            self.epoch = {**self.epoch, "steps": steps}
        return self.epoch["number"], step - self.epoch["first_step"]

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch that training is in and what it is trained on, for checkpoints."""
        # Between two epochs it is the next one, whether or not that was asked for already.
        self.place()
        return {"epoch": self.epoch, "shards": self.index.fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume in the epoch of a checkpoint.

        Raises: ShardsError: if the shards are not those of the checkpoint.
        """
        if state_dict["shards"] != self.index.fingerprint():
            raise ShardsError(
                f"{self.index.root} was prepared anew since the checkpoint was made: a run cannot go on with other shards, "
                "give another run_name"
            )
        self.epoch = state_dict["epoch"]

    def check_unchanged(self) -> None:
        """Check that the shards are those that were opened. Raises ShardsError if they are prepared anew."""
        self.index.check_unchanged()

    def skipped_tracks(self) -> dict[str, int]:
        """Count the training tracks that this rank could not read in the epoch that it is at, of each shard that has some."""
        lost = self.training_stream.lost.sum(0)
        return {self.index.splits["train"][i].file: int(lost[i]) for i in lost.nonzero()[:, 0].tolist()}

    def check_skipped(self, n_skipped: int) -> None:
        """Check the number of training tracks that all ranks together could not read in an epoch.

        Raises: ShardsError: if there are too many; names the shards of this rank that lack most.
        """
        total, most = self.index.count("train"), self.source.max_damaged
        if n_skipped > most * total:
            worst = sorted(self.skipped_tracks().items(), key=lambda item: -item[1])[:NAMED]
            names = ", ".join(f"{self.index.root}/{file} lacks {n}" for file, n in worst)
            raise ShardsError(
                f"{n_skipped} of {total} training tracks cannot be read, more than data.max_damaged={most:g} allows "
                f"({names or 'shards that other ranks name'}): prepare these shards anew"
            )

    def evaluation_dataloader(self, split: str) -> StreamLoader:
        """Stream the whole tracks of a split, with the chunks that its triplets name."""
        requested = requested_starts(member for _, *members in self.triplets[split] for member in members)
        stream = EvaluationStream(self.placed_source(), split, self.eval_tracks_per_batch, requested)
        return StreamLoader(stream, self.workers, self.on_gpu)

    def val_dataloader(self) -> StreamLoader:
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> StreamLoader:
        return self.evaluation_dataloader("test")
