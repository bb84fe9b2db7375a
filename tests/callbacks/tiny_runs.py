"""A tiny real run for the tests of the callbacks: random chunks, a small network, Lightning's own Trainer."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from datamodules.batches.composer import BatchPlan
from disentangled_ml.network.backbones import ConvBackbone
from disentangled_ml.network.frontends import MelFrontend
from disentangled_ml.network.masks import FixedMasks
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.objective.losses import DisentangledTripletLoss
from disentangled_ml.structures import (
    TRACK,
    AudioSettings,
    BatchTracks,
    ChunkBatch,
    ListedTriplet,
    Member,
    TrackChunks,
    TrackInfo,
    TripletBatch,
)
from disentangled_ml.training.module import SimilarityModule

NAMES = ["genre", "mood", "tempo"]
BATCH_SHAPES = ((4, 5), (7, 11), (3, 2), (5, 8))  # chunks, triplets
TAGS = {"genre": ["jazz", "rock", "techno", "folk"], "mood": ["calm", "dark", "happy"]}
FRAMES = 16
STARTS = (0, 8, 16)  # the middle chunk overlaps the others: it is not in a track's mean


def training_batches(n_conditions: int) -> list[ChunkBatch]:
    """Make batches of different size, of random chunks and triplets."""
    generator = torch.Generator().manual_seed(5)
    return [
        ChunkBatch(
            torch.rand(chunks, 1, 16, FRAMES, generator=generator),
            TripletBatch(
                torch.stack([torch.randperm(chunks, generator=generator)[:3] for _ in range(triplets)]),
                torch.randint(n_conditions + 1, (triplets,), generator=generator),
            ),
            [torch.zeros(chunks, 2) for _ in range(n_conditions)],
            BatchTracks([torch.zeros(chunks, 2)] * n_conditions, torch.arange(chunks), torch.zeros(chunks, 1)),
        )
        for chunks, triplets in BATCH_SHAPES
    ]


def whole_tracks(infos: list[TrackInfo], tracks_per_batch: int = 5) -> list[TrackChunks]:
    """Make three random chunks for every track."""
    generator = torch.Generator().manual_seed(2)
    batches = []
    for first in range(0, len(infos), tracks_per_batch):
        track_ids = [info.track_id for info in infos[first : first + tracks_per_batch]]
        n, k = len(track_ids), len(STARTS)
        batches.append(
            TrackChunks(
                torch.rand(n * k, 1, 16, FRAMES, generator=generator),
                torch.arange(n).repeat_interleave(k),
                torch.tensor(STARTS).repeat(n),
                torch.tensor([True, False, True]).repeat(n),
                track_ids,
            )
        )
    return batches


def random_infos(split: str, n_tracks: int, names: list[str]) -> list[TrackInfo]:
    """Make tracks with random labels; every sixth has none."""
    generator = torch.Generator().manual_seed(3)

    def draw(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    infos = []
    for i in range(n_tracks):
        labels = {
            name: [TAGS[name][draw(len(TAGS[name]))]] if name in TAGS else 80.0 + draw(90)
            for name in names
            if i % 6 != 5
        }
        infos.append(TrackInfo(f"{split}{i:02d}", None, 48, labels))
    return infos


def random_triplets(infos: list[TrackInfo], names: list[str], n: int = 40) -> list[ListedTriplet]:
    """Draw triplets of whole tracks, and of chunks for ``track``."""
    generator = torch.Generator().manual_seed(4)
    triplets = []
    for i in range(n):
        condition = [*names, TRACK][i % (len(names) + 1)]
        a, p, n_ = (infos[j].track_id for j in torch.randperm(len(infos), generator=generator)[:3].tolist())
        if condition == TRACK:
            triplets.append(ListedTriplet(TRACK, Member(a, 0), Member(a, 8), Member(n_, 16)))
        else:
            triplets.append(ListedTriplet(condition, Member(a), Member(p), Member(n_)))
    return triplets


class TinyData(pl.LightningDataModule):
    """Give the batches; each rank has its share of them."""

    def __init__(self, names: list[str] | None = None, n_tracks: int = 24):
        super().__init__()
        names = NAMES if names is None else names
        self.plan = BatchPlan(FRAMES)
        self.train = training_batches(len(names))
        self.infos = {split: random_infos(split, n_tracks, names) for split in ("val", "test")}
        self.triplets = {split: random_triplets(infos, names) for split, infos in self.infos.items()}

    def loader(self, batches: list) -> DataLoader:
        return DataLoader(batches[self.trainer.global_rank :: self.trainer.world_size], batch_size=None)

    def train_dataloader(self) -> DataLoader:
        return self.loader(self.train)

    def val_dataloader(self) -> DataLoader:
        return self.loader(whole_tracks(self.infos["val"]))

    def test_dataloader(self) -> DataLoader:
        return self.loader(whole_tracks(self.infos["test"]))


def tiny_module(learning_rate: float = 0.001, names: list[str] | None = None, masks=FixedMasks) -> SimilarityModule:
    torch.manual_seed(0)
    names = NAMES if names is None else names
    dim = 8 * len(names)
    network = ConditionalSimilarityNetwork(
        MelFrontend(AudioSettings(n_mels=16)), ConvBackbone(dim, width=0.1), masks(len(names), dim), names
    )
    return SimilarityModule(network, DisentangledTripletLoss(), learning_rate)


def tiny_trainer(folder: Path, *callbacks: pl.Callback, epochs: int = 1, logger=False, **options) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=logger,
        **{
            "accelerator": "cpu",
            "devices": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "use_distributed_sampler": False,
            "log_every_n_steps": 1,
            **options,
        },
    )


class Recorder(pl.Callback):
    """Keep what is logged at the end of every training epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append({key: float(value) for key, value in trainer.callback_metrics.items()})
