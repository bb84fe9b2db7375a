"""The combined loss of disentangled metric learning (J. Lee et al., ICASSP 2020, equations 1-4), and its two relatives.

With f(x) the L2-normalised embedding and m_c the mask of condition c, the masked distance is
D_c(x, y) = || f(x) * m_c - f(y) * m_c ||_2 (the mask enters squared under the root), and the loss

    condition_weight * the objective of the conditions
    + track_weight * mean over the track triplets of max(0, D(a, p) - D(a, n) + margin), without a mask
    + for learned masks the penalties of Veit et al. (CVPR 2017): L2 of the embedding, L1 of the masks.

The objective of the conditions is one of three (the latter two after J. Lee et al., "Metric Learning vs Classification for
Disentangled Music Representation Learning", ISMIR 2020):

* triplet: mean over the condition triplets of max(0, D_c(a, p) - D_c(a, n) + margin);
* proxy: the same hinge with learned points, one per class of a condition, in place of positive and negative;
* classification: cross entropy of a softmax over the classes of each condition, by -D_c(x, point)^2 / (2 temperature).

The points are points of the embedding space, of unit length as a whole, so that what is trained is the distance that is
evaluated. (Where subspaces are of unit length themselves, the softmax is the normalised one: the cosine / temperature.)

Every embedding of a batch is computed once; triplets are rows into it, or all that there are. Of all triplets the mean is taken in each
condition, then over the conditions that have any: frequent conditions would drown rare ones, of which as many are drawn. The mean
can be over all triplets or over those that violate the margin, whose gradient it then does not dilute by the others.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from disentangled_ml.objective.all_triplets import sum_all_triplets
from disentangled_ml.structures import AllTriplets, TripletBatch

MEANS = ("all", "violating")


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
    """Compute the distances (T,) of T triplets, to the positive and to the negative, in the subspaces of their conditions.

    Args:
        embedding: (B, D), L2-normalised.
        condition_masks: (C, D).
        triplets: Of the embedding; condition index C means track, without mask.
    """
    masked = (embedding * with_track(condition_masks)[:, None]).flatten(0, 1)
    anchor, *others = (triplets.indices + len(embedding) * triplets.condition[:, None]).T
    # Rows by ``embedding``, a table's: its gradient is summed faster than that of an index.
    difference = nn.functional.embedding(anchor, masked) - nn.functional.embedding(torch.stack(others), masked)
    dist_ap, dist_an = torch.linalg.vector_norm(difference, dim=-1)
    return dist_ap, dist_an


def triplet_violation(dist_ap: Tensor, dist_an: Tensor, margin: float) -> Tensor:
    """Compute the hinge max(0, dist_ap - dist_an + margin), (T,).

    >>> triplet_violation(torch.tensor([0.5, 0.1]), torch.tensor([0.25, 0.9]), margin=0.25).tolist()
    [0.5, 0.0]
    """
    return (dist_ap - dist_an + margin).relu()


def masked_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Average the chosen values; zero, with the graph kept, where none is chosen."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


class TripletSums(NamedTuple):
    """Sums over the triplets of each condition, and of track.

    Shape:
        violation: (C + 1,) of the hinge.
        violating, correct, total: (C + 1,) float64, numbers of triplets whose hinge is not zero, with dist_ap < dist_an, and of all.
    """

    violation: Tensor
    violating: Tensor
    correct: Tensor
    total: Tensor


def sum_triplets(
    embedding: Tensor, condition_masks: Tensor, triplets: TripletBatch | AllTriplets, margin: float
) -> TripletSums:
    """Sum over the triplets of each condition, which are listed or all, of an L2-normalised embedding (B, D)."""
    if isinstance(triplets, AllTriplets):
        masked = embedding * with_track(condition_masks)[:, None]
        violation, *counts = sum_all_triplets(masked, triplets, margin)
        return TripletSums(violation.to(embedding.dtype), *counts)
    dist_ap, dist_an = triplet_distances(embedding, condition_masks, triplets)
    violation = triplet_violation(dist_ap, dist_an, margin)
    own = triplets.condition == torch.arange(len(condition_masks) + 1, device=embedding.device)[:, None]
    counted = (violation > 0, dist_ap < dist_an, torch.ones_like(own[0]))
    return TripletSums(torch.where(own, violation, 0).sum(1), *((own & kind).sum(1).double() for kind in counted))


def divide(sums: Tensor, counts: Tensor) -> Tensor:
    """Divide sums by counts; zero, with the graph kept, where nothing is counted.

    >>> divide(torch.tensor([3.0, 0.0]), torch.tensor([2.0, 0.0])).tolist()
    [1.5, 0.0]
    """
    return sums / torch.where(counts > 0, counts, 1).to(sums.dtype)


class LossTerms(NamedTuple):
    """The total loss and its unweighted parts, each a scalar, and numbers of triplets.

    Shape:
        correct, n_triplets: (C + 1,) float64, of this process.
    """

    total: Tensor
    conditions: Tensor
    track: Tensor
    correct: Tensor
    n_triplets: Tensor


class DisentangledLoss(nn.Module):
    """An objective of the conditions, which a subclass defines, with track regularisation and the masks' penalties.

    Args:
        margin: Of the hinge; embeddings have unit length.
        track_weight: lambda, weight of the track triplets; 0 leaves track regularisation out.
        embedding_penalty: Weight of ||e||_2 / sqrt(B) over the embedding before normalisation (Veit et al.: 5e-3).
        mask_penalty: Weight of ||m||_1 / B over the masks (Veit et al.: 5e-4).
        condition_weight: Of the objective of the conditions; 0 trains by track triplets alone.
        mean: Of triplets: over ``all`` or over the ``violating`` ones.
        average: Averages numbers of triplets over the processes, where these share their triplets and their losses are averaged.

    Raises:
        ValueError: for a negative argument, no weight for anything, or an unknown mean.
    """

    def __init__(
        self,
        margin: float = 0.1,
        track_weight: float = 0.5,
        embedding_penalty: float = 0.0,
        mask_penalty: float = 0.0,
        condition_weight: float = 1.0,
        mean: str = "all",
        average: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        if mean not in MEANS:
            raise ValueError(f"loss mean {mean!r} is unknown: choose one of {', '.join(MEANS)}")
        self.mean, self.average = mean, average
        self.margin, self.track_weight, self.condition_weight = margin, track_weight, condition_weight
        self.embedding_penalty, self.mask_penalty = embedding_penalty, mask_penalty
        for name in ("margin", "track_weight", "condition_weight", "embedding_penalty", "mask_penalty"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss {name} must not be negative, got {getattr(self, name)}")
        if not (track_weight or condition_weight):
            raise ValueError("loss track_weight and condition_weight are both 0: nothing would be trained")

    def objective(
        self, embedding: Tensor, condition_masks: Tensor, violation: Tensor, targets: Sequence[Tensor]
    ) -> Tensor:
        """Compute the objective of the conditions, a scalar.

        Args:
            embedding: (B, D), L2-normalised.
            condition_masks: (C, D).
            violation: Scalar, mean of the hinge over the condition triplets.
            targets: C tensors (B, K_c), shares of a chunk in the classes of condition c; rows of zero where unlabelled.
        """
        raise NotImplementedError

    def mean_violations(self, sums: TripletSums, drawn: bool) -> tuple[Tensor, Tensor]:
        """Average the hinge over the triplets of the conditions and of track, two scalars.

        A condition counts as often as its triplets were drawn, which is equally often for all that have any; or once, if they were not.
        """
        counts = torch.stack([sums.violating, sums.total])
        violating, total = counts if self.average is None else self.average(counts)
        means = divide(sums.violation, violating if self.mean == "violating" else total)
        share = (total if drawn else total > 0)[:-1].to(means.dtype)
        return divide((means[:-1] * share).sum(), share.sum()), means[-1]

    def forward(
        self,
        raw_embedding: Tensor,
        condition_masks: Tensor,
        triplets: TripletBatch | AllTriplets,
        targets: Sequence[Tensor] = (),
    ) -> LossTerms:
        """Compute the loss of a batch.

        Args:
            raw_embedding: (B, D), not yet normalised.
            condition_masks: (C, D).
            triplets: Of the embedding.
            targets: C tensors (B, K_c), see ``objective``; the triplet objective needs none.
        """
        embedding = nn.functional.normalize(raw_embedding, dim=1)
        sums = sum_triplets(embedding, condition_masks, triplets, self.margin)
        violation, track = self.mean_violations(sums, isinstance(triplets, TripletBatch))
        conditions = self.objective(embedding, condition_masks, violation, targets)
        total = self.condition_weight * conditions + self.track_weight * track
        if self.embedding_penalty:
            total = total + self.embedding_penalty * torch.linalg.vector_norm(raw_embedding) / len(raw_embedding) ** 0.5
        if self.mask_penalty:
            total = total + self.mask_penalty * condition_masks.abs().sum() / len(raw_embedding)
        return LossTerms(total, conditions, track, sums.correct, sums.total)


class DisentangledTripletLoss(DisentangledLoss):
    """Take the triplets of the conditions as the objective (J. Lee et al., ICASSP 2020)."""

    def objective(
        self, embedding: Tensor, condition_masks: Tensor, violation: Tensor, targets: Sequence[Tensor]
    ) -> Tensor:
        return violation


def distances_to_points(embedding: Tensor, points: Tensor, condition_mask: Tensor) -> Tensor:
    """Compute D_c between embeddings and points; (B, D), (K, D), (D,) to (B, K).

    >>> distances_to_points(torch.tensor([[0.0, 5.0]]), torch.tensor([[3.0, 9.0], [1.0, 5.0]]), torch.tensor([1.0, 0.0]))
    tensor([[3., 1.]])
    """
    return masked_distance(embedding[:, None], points[None], condition_mask)


def proxy_violation(distance: Tensor, targets: Tensor, margin: float) -> Tensor:
    """Average the hinge max(0, D(x, p) - D(x, n) + margin) over the proxies p of a chunk's classes and n of the others.

    Distances and targets (B, K) to (B,); a chunk with no class, or all of them, gives zero.

    >>> distance, targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> proxy_violation(distance, targets, margin=0.25).tolist()
    [1.25, 0.0]
    """
    positive, negative = targets > 0, targets == 0
    pairs = (positive[:, :, None] & negative[:, None, :]).float()
    hinge = triplet_violation(distance[:, :, None], distance[:, None, :], margin)
    return (hinge * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def softmax_entropy(distance: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Compute the cross entropy of the softmax of -distance^2 / (2 temperature); (B, K), (B, K) to (B,).

    After A. Zhai, H.-Y. Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019; a chunk of several classes
    has a share in each.

    >>> softmax_entropy(torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.0, 0.0]]), 0.05).exp().item()
    4.0
    """
    return -(targets * (-distance.square() / (2 * temperature)).log_softmax(1)).sum(1)


class ClassLoss(DisentangledLoss):
    """Loss whose objective compares chunks with learned points, one per class, in the subspace of each condition.

    Args:
        n_classes: Number of classes K_c of each condition.
        embedding_dim: D.
        weights: As ``DisentangledLoss``.
    """

    def __init__(self, n_classes: Sequence[int], embedding_dim: int, **weights: Any):
        super().__init__(**weights)
        self.points = nn.ParameterList(torch.randn(k, embedding_dim) for k in n_classes)

    def chunk_loss(self, distance: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of each chunk for one condition; (B, K), (B, K) to (B,)."""
        raise NotImplementedError

    def objective(
        self, embedding: Tensor, condition_masks: Tensor, violation: Tensor, targets: Sequence[Tensor]
    ) -> Tensor:
        """Average over the labelled chunks of a condition, then over the conditions."""
        unit = [nn.functional.normalize(points, dim=1) for points in self.points]
        terms = [
            masked_mean(self.chunk_loss(distances_to_points(embedding, points, mask), share), share.any(1))
            for points, mask, share in zip(unit, condition_masks, targets, strict=True)
        ]
        return torch.stack(terms).mean()


class ProxyLoss(ClassLoss):
    """Hinge between the proxies of a chunk's classes and of the others (Y. Movshovitz-Attias et al., ICCV 2017)."""

    def chunk_loss(self, distance: Tensor, targets: Tensor) -> Tensor:
        return proxy_violation(distance, targets, self.margin)


class ClassificationLoss(ClassLoss):
    """Classification of chunks by a softmax over the distances to the points, at a ``temperature``."""

    def __init__(self, n_classes: Sequence[int], embedding_dim: int, temperature: float = 0.05, **weights: Any):
        super().__init__(n_classes, embedding_dim, **weights)
        self.temperature = temperature

    def chunk_loss(self, distance: Tensor, targets: Tensor) -> Tensor:
        return softmax_entropy(distance, targets, self.temperature)


LOSSES = {"triplet": DisentangledTripletLoss, "proxy": ProxyLoss, "classification": ClassificationLoss}
