"""The hinge summed over all triplets of a batch, exactly, without a list of them.

Per anchor, the positives p and negatives n violate the margin where d_an < d_ap + margin. With the negatives sorted, a binary search
tells how many each positive violates; a histogram of these ranks tells how many positives each negative is violated by. As

    sum over p, n of max(0, d_ap - d_an + margin)
        = sum over p of d_ap * (violated negatives of p) - sum over n of d_an * (positives that violate n) + margin * violating,

these counts give the sum, and they are its slopes: its gradient by the distances. For B chunks and C conditions that is O(C B^2 log B)
time and O(C B^2) memory, where a list has up to C B^3 / 4 triplets.

Distances are by matrix products in float64: in float32 the squares of close pairs would cancel.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from disentangled_ml.structures import AllTriplets

# Squared distance, as a share of the squared lengths, below which float32 embeddings are the same.
RESOLUTION = 1e-14


def pair_distances(x: Tensor, y: Tensor) -> Tensor:
    """Compute the Euclidean distances between all pairs; (C, A, D), (C, B, D) to (C, A, B), all float64.

    Vectors that float32 does not tell apart are at distance zero.

    >>> pair_distances(torch.zeros(1, 1, 2).double(), torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]).double()).tolist()
    [[[5.0, 0.0]]]
    """
    lengths = x.square().sum(-1)[..., None] + y.square().sum(-1)[..., None, :]
    square = torch.baddbmm(lengths, x, y.mT, alpha=-2)
    return square.masked_fill_(square <= RESOLUTION * lengths, 0).sqrt_()


class TripletCounts(NamedTuple):
    """Numbers of triplets of each condition.

    Shape:
        slope: (C, A, B) int64: how many triplets pull a pair together, minus how many push it apart (the hinge's slope).
        violating: (C,) float64, triplets whose hinge is not zero.
        correct: (C,) float64, triplets with d_ap < d_an, strictly.
        total: (C,) float64, all triplets.
    """

    slope: Tensor
    violating: Tensor
    correct: Tensor
    total: Tensor


def count_triplets(distance: Tensor, positive: Tensor, negative: Tensor, margin: float) -> TripletCounts:
    """Count, for each pair, the triplets that violate the margin, and the triplets of each condition.

    At the kink of the hinge, d_an = d_ap + margin, a triplet does not violate it, as with ``relu``. ``distance``, of anchors to chunks,
    and the bool ``positive`` and ``negative``, of which no pair is both, are (C, A, B).

    >>> distance = torch.tensor([[[0.0, 0.5, 0.25, 1.0]]])
    >>> positive, negative = torch.tensor([[[0, 1, 0, 0]]]).bool(), torch.tensor([[[0, 0, 1, 1]]]).bool()
    >>> counts = count_triplets(distance, positive, negative, margin=0.5)
    >>> [count.tolist() for count in counts]
    [[[[0, 1, -1, 0]]], [1.0], [1.0], [2.0]]
    """
    ordered, order = distance.masked_fill(~negative, torch.inf).sort(-1)
    # Non-positives are before all negatives, so they violate none.
    near = distance.masked_fill(~positive, -torch.inf)
    not_farther = torch.searchsorted(ordered, near, right=True).sum((1, 2))
    violated = torch.searchsorted(ordered, near + margin)
    # The negative of rank r is violated by the positives that violate more than r negatives.
    histogram = violated.new_zeros(*violated.shape[:-1], violated.shape[-1] + 1)
    histogram.scatter_add_(-1, violated, violated.new_ones(()).expand_as(violated))
    violators = violated.shape[-1] - histogram.cumsum(-1)[..., :-1]
    total = (positive.sum(-1) * negative.sum(-1)).sum(-1)
    counts = torch.stack([violated.sum((1, 2)), total - not_farther, total]).double()
    return TripletCounts(violated.scatter_add_(-1, order, -violators), *counts)


def sum_differences(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sum weight_ij (x_i - y_j) over j; (C, A, B), (C, A, D), (C, B, D) to (C, A, D).

    >>> sum_differences(torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[1.0]]]), torch.tensor([[[0.0], [4.0]]])).tolist()
    [[[-1.0]]]
    """
    return torch.baddbmm(weight.sum(2, keepdim=True) * x, weight, y, alpha=-1)


class SumOverTriplets(torch.autograd.Function):
    """Sum the hinge over all triplets of each condition: see ``sum_all_triplets``."""

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, triplets: AllTriplets, margin: float) -> tuple[Tensor, ...]:
        """Compute the sum and the counts; save the slopes by the squared distances, twice."""
        positive, negative, ctx.first = triplets
        chunks = embedding.double()
        distance = pair_distances(chunks.narrow(1, ctx.first, positive.shape[1]), chunks)
        slope, *counts = count_triplets(distance.float(), positive, negative, margin)
        violation = (slope * distance).sum((1, 2)) + margin * counts[0]
        ctx.save_for_backward(embedding, (slope / distance).masked_fill_(distance == 0, 0))
        ctx.mark_non_differentiable(*counts)
        return violation, *counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradient by the embedding: sums of weighted differences, none at distance zero."""
        embedding, weight = ctx.saved_tensors
        weight, chunks = weight * grad[:, None, None], embedding.double()
        n_anchors, n_chunks = weight.shape[1:]
        if n_anchors == n_chunks:
            gradient = sum_differences(weight + weight.mT, chunks, chunks)
        else:
            anchors = chunks.narrow(1, ctx.first, n_anchors)
            gradient = sum_differences(weight.mT, chunks, anchors)
            gradient.narrow(1, ctx.first, n_anchors).add_(sum_differences(weight, anchors, chunks))
        return gradient.to(embedding.dtype), None, None


def sum_all_triplets(embedding: Tensor, triplets: AllTriplets, margin: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum max(0, d(a, p) - d(a, n) + margin) over all triplets of each condition.

    Shape:
        embedding: (C, B, D), masked for each condition; the relations of the triplets: (C, A, B).
        returns: the sum (C,), and the numbers (C,) of violating, of correct and of all triplets; float64.

    >>> positive, negative = torch.zeros(2, 1, 1, 3, dtype=torch.bool)
    >>> positive[0, 0, 1] = negative[0, 0, 2] = True
    >>> sums = sum_all_triplets(torch.tensor([[[0.0], [0.5], [0.25]]]), AllTriplets(positive, negative, 0), margin=0.25)
    >>> [value.item() for value in sums]
    [0.5, 1.0, 0.0, 1.0]
    """
    return SumOverTriplets.apply(embedding, triplets, margin)
