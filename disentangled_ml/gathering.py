"""Triplets over the batches of all ranks, as if one process had embedded them together.

Every rank embeds its own chunks. The embeddings of all ranks are gathered with their gradient, and what relates the chunks is
gathered too; each rank then draws its share of the triplets, as many as it would draw from its own batch, and its loss is the
mean over this share. Shares are equally large (a relation that allows no triplet allows none on any rank), so the mean of the
ranks' losses is the loss over all triplets. The backward pass of the gathering sums over the ranks what their losses say of an
embedding, and DDP averages the gradients of the weights over the ranks: together the gradient of that mean, with no scaling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import pad

from disentangled_ml.structures import BatchTracks, TripletBatch
from disentangled_ml.triplets import TripletMiner, seeded_generator

SALT = 1  # sets these triplets apart from what the streams draw by (seed, epoch, consumer)


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


def gather_tracks(tracks: BatchTracks) -> list[BatchTracks]:
    """Give the tracks of all ranks' batches."""
    parts = [tracks] * distributed.get_world_size()
    distributed.all_gather_object(parts, tracks)
    return parts


def gather_embeddings(embedding: Tensor, sizes: list[int]) -> Tensor:
    """Join the embeddings (B_r, D) of all ranks, whose numbers B_r are given, with their gradient; (sum of B_r, D)."""
    padded = pad(embedding, (0, 0, 0, max(sizes) - len(embedding)))
    return torch.cat([part[:size] for part, size in zip(all_gather(padded), sizes, strict=True)])


@dataclass(frozen=True)
class GatheredTriplets:
    """Draw the triplets of a step over the batches of all ranks; with one process, over its own.

    What is drawn depends on (seed, step, rank) and the batches alone, so a run that is gone on with repeats it.

    Attributes:
        miner: Draws the share of a rank.
        seed: Of what is drawn.
    """

    miner: TripletMiner
    seed: int

    def __call__(self, embedding: Tensor, tracks: BatchTracks, step: int) -> tuple[Tensor, TripletBatch]:
        """Give the embeddings of all ranks and this rank's triplets of them; call on every rank.

        Shape:
            embedding: (B, D), of this rank; returns: (sum of the ranks' B, D).
        """
        together = distributed.is_initialized()
        labels, artist, start = tracks  # they are related where the generator is
        own = BatchTracks([encoded.cpu() for encoded in labels], artist.cpu(), start.cpu())
        parts = gather_tracks(own) if together else [own]
        if together:
            embedding = gather_embeddings(embedding, [part.start.numel() for part in parts])
        generator = seeded_generator(self.seed, step, distributed.get_rank() if together else 0, SALT)
        drawn = self.miner.draw(join_tracks(parts), generator)
        return embedding, TripletBatch(*(rows.to(embedding.device) for rows in drawn))
