"""What can be evaluated: a network, a set of specialised networks, a baseline. Each embeds the tracks of a split of shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from datamodules.batches.streams import EvaluationStream, Source
from datamodules.datamodule import build_conditions
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.tar import decode_info, decode_mel, read_samples, sample_context, share_slices
from disentangled_ml import builders
from disentangled_ml.baselines import Baseline, baseline_table
from disentangled_ml.config import ConfigError
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable
from disentangled_ml.files import error_context
from disentangled_ml.network.checkpoint import load_checkpoint, network_from
from disentangled_ml.network.masks import disjoint_blocks
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.objective.conditions import Condition
from disentangled_ml.structures import AudioSettings, Member, requested_starts
from disentangled_ml.training.module import embed

logger = logging.getLogger("evaluate")


class System(Protocol):
    """Embed tracks, and say which part of the embedding each condition looks at."""

    condition_names: list[str]
    n_parameters: int | None  # None: nothing is trained
    has_subspaces: bool  # whether the conditions look at different parts

    def embed(self, split: str, wanted: set[Member], only: frozenset[str] | None = None) -> EmbeddingTable:
        """Embed the tracks of a split, or those named, with the wanted chunks."""

    def masks(self, embedding_dim: int) -> Tensor:
        """Give the condition masks (C, D)."""


class NetworkSystem:
    """Embed by a network.

    Args:
        network: In evaluation mode, on its device.
        index: Of the shards.
        chunk_frames: Length of its chunks.
        tracks_per_batch: Whole tracks embedded at a time.
        keep_sequences: Whether tables keep the chunks of whole tracks too, not only their means.
    """

    def __init__(
        self,
        network: ConditionalSimilarityNetwork,
        index: ShardIndex,
        chunk_frames: int,
        tracks_per_batch: int = 8,
        keep_sequences: bool = False,
    ):
        self.network, self.tracks_per_batch, self.keep_sequences = network, tracks_per_batch, keep_sequences
        self.condition_names = network.condition_names
        self.n_parameters = sum(parameter.numel() for parameter in network.parameters())
        masks = network.masks()
        self.has_subspaces = not bool((masks == masks[0]).all())
        self.source = Source(index, [], network.frontend.source, chunk_frames)

    @torch.inference_mode()
    def embed(self, split: str, wanted: set[Member], only: frozenset[str] | None = None) -> EmbeddingTable:
        """Embed each chunk once."""
        device = next(self.network.parameters()).device
        table = EmbeddingTable(wanted=wanted, keep_sequences=self.keep_sequences)
        stream = EvaluationStream(self.source, split, self.tracks_per_batch, requested_starts(wanted), only)
        for chunks in tqdm(stream, desc=f"embed {split}", unit="batch"):
            table.add(chunks, embed(self.network, chunks.audio.to(device)))
        check_finite(table.rows, str(self.source.index.root))
        return table

    def masks(self, embedding_dim: int) -> Tensor:
        """Give the network's masks."""
        return self.network.masks().detach().float().cpu()


class SpecialisedSystem:
    """Set one network per condition side by side: their embeddings are concatenated, each is the subspace of its condition.

    Args:
        systems: Of one condition each.

    Raises:
        ConfigError: if one has more conditions, two have the same, or they differ in size.
    """

    has_subspaces = True

    def __init__(self, systems: Sequence[NetworkSystem]):
        names = [name for system in systems for name in system.condition_names]
        if len(set(names)) < len(systems) or len(names) > len(systems):
            raise ConfigError(f"specialised networks need a condition each, given are {names}")
        sizes = [system.masks(0).shape[1] for system in systems]
        if len(set(sizes)) > 1:
            raise ConfigError(f"specialised networks need as many dimensions each, given are {sizes}")
        self.systems, self.condition_names = systems, names
        self.n_parameters = sum(system.n_parameters for system in systems)

    def embed(self, split: str, wanted: set[Member], only: frozenset[str] | None = None) -> EmbeddingTable:
        """Embed by all networks."""
        tables = [system.embed(split, wanted, only) for system in self.systems]
        rows = {member: torch.cat([table.rows[member] for table in tables]) for member in tables[0].rows}
        return EmbeddingTable(wanted, rows)

    def masks(self, embedding_dim: int) -> Tensor:
        """Give a block to each network."""
        return disjoint_blocks(len(self.systems), embedding_dim)


class BaselineSystem:
    """Embed by a baseline, fitted on the training tracks; all its dimensions serve every condition.

    Args:
        baseline: Not yet fitted.
        index: Of the shards.
        condition_names: To report on.
        chunk_frames: Length of the chunks of track triplets.
    """

    n_parameters = None
    has_subspaces = False

    def __init__(self, baseline: Baseline, index: ShardIndex, condition_names: list[str], chunk_frames: int):
        self.baseline, self.index, self.chunk_frames = baseline, index, chunk_frames
        self.condition_names = condition_names
        with baseline_context(index):
            baseline.fit(mel for _, mel in read_mels(index, "train"))

    def embed(self, split: str, wanted: set[Member], only: frozenset[str] | None = None) -> EmbeddingTable:
        """Embed each track as a whole, and its wanted chunks."""
        tracks = (track for track in read_mels(self.index, split) if only is None or track[0] in only)
        with baseline_context(self.index):
            return baseline_table(self.baseline, tracks, wanted, self.chunk_frames)

    def masks(self, embedding_dim: int) -> Tensor:
        """Give ones."""
        return torch.ones(len(self.condition_names), embedding_dim)


def baseline_context(index: ShardIndex) -> AbstractContextManager[None]:
    """Name the shards in the errors of a baseline, which sees spectrograms alone."""

    def message(error: Exception) -> str | None:
        if isinstance(error, ShardsError):
            return None
        return f"the baseline cannot be used on {index.root} ({error}): give other shards or baseline"

    return error_context(ValueError, message)


def check_finite(rows: Mapping[Member, Tensor], source: str) -> None:
    """Check embeddings, since distances of those that are not finite would count as wrong answers.

    Raises:
        ValueError: naming the track.
    """
    finite = torch.stack(list(rows.values())).isfinite().all(1).tolist() if rows else []
    for member, is_finite in zip(rows, finite, strict=True):
        if not is_finite:
            raise ValueError(
                f"the embedding of track {member.track_id!r} of {source} is not finite: its recording or the checkpoint "
                "is damaged"
            )


def read_mels(index: ShardIndex, split: str) -> Iterator[tuple[str, Tensor]]:
    """Stream the ids and spectrograms (n_mels, frames) of a split.

    Raises:
        ShardsError: naming the sample, if its spectrogram has another shape than the index and its labels say, or holds a
            value that is not finite.
    """
    for sample in read_samples(index.root, share_slices(index.splits[split], 0, 1), ("json", "mel.npy")):
        with sample_context(index.root, sample):
            info, mel = decode_info(sample["json"]), torch.from_numpy(decode_mel(sample["mel.npy"]).astype("float32"))
            if mel.shape != (index.audio.n_mels, info.frames):
                raise ShardsError(
                    f"its spectrogram has shape {tuple(mel.shape)}, expected {(index.audio.n_mels, info.frames)}"
                )
            if not mel.isfinite().all():
                raise ShardsError("its spectrogram has a value that is not finite")
        yield info.track_id, mel


def load_network_system(
    path: Path, index: ShardIndex, device: torch.device, tracks_per_batch: int = 8, keep_sequences: bool = False
) -> tuple[NetworkSystem, Any]:
    """Load a checkpoint to evaluate it on shards; give it with the configuration it was trained with.

    Raises:
        ValueError: if it is no checkpoint of this project.
        ConfigError: if the shards were prepared otherwise than those it was trained on.
    """
    checkpoint = load_checkpoint(path)
    if index.audio != AudioSettings(**checkpoint["audio"]):
        raise ConfigError(f"{index.root} was prepared with {index.audio}, the checkpoint with {checkpoint['audio']}")
    trained = OmegaConf.create(checkpoint["config"])
    network = network_from(checkpoint, path).to(device)
    return NetworkSystem(network, index, trained.data.chunk_frames, tracks_per_batch, keep_sequences), trained


def list_conditions(index: ShardIndex, names: list[str], trained: DictConfig) -> list[Condition]:
    """Build those of the named conditions that the shards have.

    Raises:
        ConfigError: if they have none of them.
    """
    known = {entry["name"] for entry in index.conditions}
    common = [name for name in names if name in known]
    if names and known and not common:
        raise ConfigError(f"{index.root} has labels of {', '.join(sorted(known))}, none of {', '.join(names)}")
    if len(common) < len(names):
        logger.warning("%s has no labels of: %s", index.root, ", ".join(sorted(set(names) - known)))
    return build_conditions(index, common, builders.build_tempo(trained))
