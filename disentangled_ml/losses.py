"""The combined loss of disentangled metric learning (J. Lee et al., ICASSP 2020, equations 1-4).

With f(x) the L2-normalised embedding and m_c the mask of condition c, the masked distance is
D_c(x, y) = || f(x) * m_c - f(y) * m_c ||_2 (the mask enters squared under the root), and the loss

    mean over the condition triplets of max(0, D_c(a, p) - D_c(a, n) + margin)
    + track_weight * the same mean over the track triplets, without a mask
    + for learned masks the penalties of Veit et al. (CVPR 2017): L2 of the embedding, L1 of the masks.

Every embedding of a batch is computed once; triplets are rows into it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from disentangled_ml.structures import TripletBatch


def with_track(condition_masks: Tensor) -> Tensor:
    """Append the all-ones mask of the track condition: (C, D) to (C + 1, D)."""
    return torch.cat([condition_masks, torch.ones_like(condition_masks[:1])])


def masked_distance(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Compute D_c; x, y, mask (..., D) to (...).

    The gradient at distance zero is zero.

    >>> masked_distance(torch.tensor([3., 5.]), torch.tensor([0., 1.]), torch.tensor([1., 0.])).item()
    3.0
    """
    return torch.linalg.vector_norm((x - y) * mask, dim=-1)


def triplet_distances(embedding: Tensor, condition_masks: Tensor, triplets: TripletBatch) -> tuple[Tensor, Tensor]:
    """Compute the distances of each triplet in the subspace of its condition.

    Shape:
        embedding: (B, D), L2-normalised.
        condition_masks: (C, D).
        triplets: T rows; condition index C means track, without mask.
        returns: dist_ap (T,), dist_an (T,).
    """
    mask = with_track(condition_masks)[triplets.condition]
    anchor, positive, negative = embedding[triplets.indices].unbind(1)
    return masked_distance(anchor, positive, mask), masked_distance(anchor, negative, mask)


def triplet_violation(dist_ap: Tensor, dist_an: Tensor, margin: float) -> Tensor:
    """Compute the hinge max(0, dist_ap - dist_an + margin), (T,).

    >>> triplet_violation(torch.tensor([0.5, 0.1]), torch.tensor([0.25, 0.9]), margin=0.25).tolist()
    [0.5, 0.0]
    """
    return (dist_ap - dist_an + margin).relu()


def masked_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Average the chosen values; zero, with the graph kept, where none is chosen."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


class LossTerms(NamedTuple):
    """Hold the total loss and its unweighted parts, each a scalar, and the distances behind them.

    Shape:
        dist_ap: (T,); dist_an: (T,).
    """

    total: Tensor
    conditions: Tensor
    track: Tensor
    dist_ap: Tensor
    dist_an: Tensor


class DisentangledTripletLoss(nn.Module):
    """Combine the masked triplet hinge over the conditions with track regularisation.

    Args:
        margin: Of the hinge; embeddings have unit length.
        track_weight: lambda, weight of the track triplets; 0 leaves track regularisation out.
        embedding_penalty: Weight of ||e||_2 / sqrt(B) over the embedding before normalisation (Veit et al.: 5e-3).
        mask_penalty: Weight of ||m||_1 / B over the masks (Veit et al.: 5e-4).

    Raises:
        ValueError: for a negative argument.
    """

    def __init__(
        self,
        margin: float = 0.1,
        track_weight: float = 0.5,
        embedding_penalty: float = 0.0,
        mask_penalty: float = 0.0,
    ):
        super().__init__()
        weights = {
            "margin": margin,
            "track_weight": track_weight,
            "embedding_penalty": embedding_penalty,
            "mask_penalty": mask_penalty,
        }
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"loss {name} must not be negative, got {value}")
        self.margin, self.track_weight = margin, track_weight
        self.embedding_penalty, self.mask_penalty = embedding_penalty, mask_penalty

    def forward(self, raw_embedding: Tensor, condition_masks: Tensor, triplets: TripletBatch) -> LossTerms:
        """Compute the loss of a batch.

        Shape:
            raw_embedding: (B, D), not yet normalised.
            condition_masks: (C, D).
            triplets: T rows into the embedding.
        """
        embedding = nn.functional.normalize(raw_embedding, dim=1)
        dist_ap, dist_an = triplet_distances(embedding, condition_masks, triplets)
        violation = triplet_violation(dist_ap, dist_an, self.margin)
        is_track = triplets.condition == len(condition_masks)
        conditions, track = masked_mean(violation, ~is_track), masked_mean(violation, is_track)
        total = conditions + self.track_weight * track
        if self.embedding_penalty:
            total = total + self.embedding_penalty * torch.linalg.vector_norm(raw_embedding) / len(raw_embedding) ** 0.5
        if self.mask_penalty:
            total = total + self.mask_penalty * condition_masks.abs().sum() / len(raw_embedding)
        return LossTerms(total, conditions, track, dist_ap, dist_an)
