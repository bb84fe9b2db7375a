"""Triplets over the batches of all ranks, as if one process had embedded them together.

Every rank embeds its own chunks. The embeddings of all ranks are gathered with their gradient, and what relates the chunks is
gathered too; each rank then draws its share of the triplets, as many as it would draw from its own batch, and its loss is the
mean over this share. Shares are equally large (a relation that allows no triplet allows none on any rank), so the mean of the
ranks' losses is the loss over all triplets. The backward pass of the gathering sums over the ranks what their losses say of an
embedding, and DDP averages the gradients of the weights over the ranks: together the gradient of that mean, with no scaling.

Where all triplets are taken instead of drawn ones, each rank has those whose anchors are its own chunks, and shares differ. So each
divides its sums by the mean of the ranks' counts (``mean_over_ranks``): again the mean of the ranks' losses is the loss over all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import pad

from disentangled_ml.objective.conditions import Condition
from disentangled_ml.objective.triplets import TripletMiner, relate_chunks
from disentangled_ml.structures import AllTriplets, BatchTracks, TripletBatch, seeded_generator

# Separates these draws from those of the streams, by (seed, epoch, consumer).
SALT = 1


def join_tracks(parts: list[BatchTracks]) -> BatchTracks:
    """Join the tracks of several batches.

    >>> part = BatchTracks([torch.zeros(2, 3)], torch.arange(2), torch.zeros(2, 4))
    >>> [tuple(labels.shape) for labels in join_tracks([part, part]).labels]
    [(4, 3)]
    """
    labels, artist, start = zip(*parts, strict=True)
    return BatchTracks(
        [torch.cat(encoded) for encoded in zip(*labels, strict=True)], torch.cat(artist), torch.cat(start)
    )


def gather_batches(embedding: Tensor, tracks: BatchTracks) -> tuple[Tensor, list[BatchTracks], int]:
    """Gather the embeddings of all ranks, with their gradient, and the tracks of each on the CPU; also return this rank.

    With one process they are its own. A collective: call it on every rank.
    """
    labels, artist, start = tracks
    own = BatchTracks([encoded.cpu() for encoded in labels], artist.cpu(), start.cpu())
    if not distributed.is_initialized():
        return embedding, [own], 0
    parts = [own] * distributed.get_world_size()
    distributed.all_gather_object(parts, own)
    sizes = [part.start.numel() for part in parts]
    padded = pad(embedding, (0, 0, 0, max(sizes) - len(embedding)))
    joined = torch.cat([rows[:size] for rows, size in zip(all_gather(padded), sizes, strict=True)])
    return joined, parts, distributed.get_rank()


def mean_over_ranks(counts: Tensor) -> Tensor:
    """Average counts over the ranks. A collective: call it on every rank. With one process they are its own."""
    if not distributed.is_initialized():
        return counts
    counts = counts.clone()  # it is reduced in place
    distributed.all_reduce(counts)
    return counts / distributed.get_world_size()


class Selection(Protocol):
    """Choice of the triplets of a step: returns the embeddings to compare, of this rank (B, D) or of all, and their triplets.

    A collective if it compares those of all ranks: call it on every rank.
    """

    def __call__(
        self, embedding: Tensor, tracks: BatchTracks, step: int
    ) -> tuple[Tensor, TripletBatch | AllTriplets]: ...


@dataclass(frozen=True)
class EveryTriplet:
    """All triplets whose anchors are this rank's chunks.

    Attributes:
        conditions: In order.
        min_gap: Frames that anchor and positive of a track triplet begin apart, at least.
        gather: Whether positives and negatives come from the batches of all ranks, or from its own.
    """

    conditions: Sequence[Condition]
    min_gap: int
    gather: bool = False

    def __call__(self, embedding: Tensor, tracks: BatchTracks, step: int) -> tuple[Tensor, AllTriplets]:
        own = slice(0, len(tracks.artist))
        if self.gather:
            embedding, parts, rank = gather_batches(embedding, tracks)
            first = sum(len(part.artist) for part in parts[:rank])
            own = slice(first, first + len(parts[rank].artist))
            labels, artist, start = join_tracks(parts)
            device = embedding.device
            tracks = BatchTracks([encoded.to(device) for encoded in labels], artist.to(device), start.to(device))
        return embedding, relate_chunks(self.conditions, tracks, self.min_gap, own)


@dataclass(frozen=True)
class GatheredTriplets:
    """Triplets drawn over the batches of all ranks; with one process, over its own.

    What is drawn depends on (seed, step, rank) and the batches alone, so a resumed run repeats it.

    Attributes:
        miner: Draws the share of a rank.
        seed: Of what is drawn.
    """

    miner: TripletMiner
    seed: int

    def __call__(self, embedding: Tensor, tracks: BatchTracks, step: int) -> tuple[Tensor, TripletBatch]:
        # The tracks are related where the generator is, on the CPU.
        embedding, parts, rank = gather_batches(embedding, tracks)
        drawn = self.miner.draw(join_tracks(parts), seeded_generator(self.seed, step, rank, SALT))
        return embedding, TripletBatch(*(rows.to(embedding.device) for rows in drawn))
