"""The hinge summed over all triplets of a batch, exactly, without a list of them.

Per anchor, the positives p and negatives n violate the margin where d_an < d_ap + margin. With the negatives sorted, a binary search
tells how many each positive violates; a histogram of these ranks tells how many positives each negative is violated by. As

    sum over p, n of max(0, d_ap - d_an + margin)
        = sum over p of d_ap * (violated negatives of p) - sum over n of d_an * (positives that violate n) + margin * violating,

these counts give the sum, and they are its slopes: its gradient by the distances. For B chunks and C conditions that is O(C B^2 log B)
time and O(C B^2) memory, where a list has up to C B^3 / 4 triplets.

Distances are by matrix products in float64: in float32 the squares of close pairs would cancel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

RESOLUTION = 1e-14  # squared distance, as a share of the squared lengths, below which float32 embeddings are the same


def pair_distances(x: Tensor, y: Tensor) -> Tensor:
    """Compute the Euclidean distances between all pairs; (..., A, D), (..., B, D) to (..., A, B), float64.

    Vectors that float32 does not tell apart are at distance zero.

    >>> pair_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[5.0, 0.0]]
    """
    x, y = x.double(), y.double()
    lengths = x.square().sum(-1)[..., None] + y.square().sum(-1)[..., None, :]
    square = lengths - 2 * x @ y.mT
    return square.masked_fill_(square <= RESOLUTION * lengths, 0).sqrt_()


class TripletCounts(NamedTuple):
    """Count the triplets of each condition.

    Shape:
        slope: (..., A, B) the sum of the hinge by the distances: how many triplets pull a pair together, less how many push it apart.
        violating: (...) triplets whose hinge is not zero.
        correct: (...) triplets with d_ap < d_an, strictly.
        total: (...) all triplets.
    """

    slope: Tensor
    violating: Tensor
    correct: Tensor
    total: Tensor


def count_triplets(distance: Tensor, positive: Tensor, negative: Tensor, margin: float) -> TripletCounts:
    """Count, for each pair, the triplets that violate the margin; and the triplets of each condition in float64.

    At the kink of the hinge, d_an = d_ap + margin, a triplet does not violate it, as with ``relu``.

    Shape:
        distance: (..., A, B) of anchors to chunks; positive, negative: (..., A, B) bool, of which no pair is both.

    >>> distance = torch.tensor([[0.0, 0.5, 0.25, 1.0]])
    >>> positive, negative = torch.tensor([[0, 1, 0, 0]]).bool(), torch.tensor([[0, 0, 1, 1]]).bool()
    >>> counts = count_triplets(distance, positive, negative, margin=0.5)
    >>> counts.slope.tolist(), counts.violating.item(), counts.correct.item(), counts.total.item()
    ([[0.0, 1.0, -1.0, 0.0]], 1.0, 1.0, 2.0)
    """
    n_negative = negative.sum(-1, keepdim=True)
    ordered, order = distance.masked_fill(~negative, torch.inf).sort(-1)
    near = distance.masked_fill(~positive, torch.inf)  # a search for what is the same everywhere is cheap
    not_farther = torch.searchsorted(ordered, near, right=True)
    violated = torch.searchsorted(ordered, near + margin) * positive
    correct = (n_negative - not_farther) * positive
    # The negative of rank r is violated by the positives that violate more than r negatives.
    by_rank = torch.zeros_like(violated).scatter_add_(-1, (violated - 1).clamp_(min=0), (violated > 0).long())
    at_least = by_rank.flip(-1).cumsum(-1).flip(-1)
    violators = torch.zeros_like(violated).scatter_(-1, order, at_least)
    return TripletCounts(
        (violated - violators * negative).to(distance.dtype),
        violated.sum((-2, -1)).double(),
        correct.sum((-2, -1)).double(),
        (positive.sum(-1, keepdim=True) * n_negative).sum((-2, -1)).double(),
    )


class SumOverTriplets(torch.autograd.Function):
    """Sum the hinge over all triplets of each condition: see ``sum_all_triplets``."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, embedding: Tensor, positive: Tensor, negative: Tensor, margin: float
    ) -> tuple[Tensor, ...]:
        """Give the sum, float64, and the counts; keep the slopes by the squared distances, twice."""
        distance = pair_distances(anchor, embedding)
        slope, *counts = count_triplets(distance.float(), positive, negative, margin)
        violation = torch.linalg.vecdot(slope.double().flatten(-2), distance.flatten(-2)) + margin * counts[0]
        ctx.save_for_backward(anchor, embedding, (slope / distance).masked_fill_(distance == 0, 0))
        ctx.mark_non_differentiable(*counts)
        return violation, *counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradient by the anchors and the embedding: sums of weighted differences; at distance zero none."""
        anchor, embedding, weight = ctx.saved_tensors
        weight = weight * grad[..., None, None]
        x, y = anchor.double(), embedding.double()
        of_anchor = weight.sum(-1)[..., None] * x - weight @ y
        of_embedding = weight.sum(-2)[..., None] * y - weight.mT @ x
        return of_anchor.to(anchor.dtype), of_embedding.to(embedding.dtype), None, None, None


def sum_all_triplets(
    anchor: Tensor, embedding: Tensor, positive: Tensor, negative: Tensor, margin: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum max(0, d(a, p) - d(a, n) + margin) over all triplets of each condition.

    Shape:
        anchor: (..., A, D); embedding: (..., B, D), masked.
        positive, negative: (..., A, B) bool, of which no pair is both.
        returns: the sum (...), and the numbers (...) of violating, of correct and of all triplets; float64.

    >>> x, no = torch.tensor([[0.0], [0.5], [0.25]]), torch.zeros(3, 3, dtype=torch.bool)
    >>> positive, negative = no.clone(), no.clone()
    >>> positive[0, 1] = negative[0, 2] = True
    >>> [value.item() for value in sum_all_triplets(x, x, positive, negative, margin=0.25)]
    [0.5, 1.0, 0.0, 1.0]
    """
    return SumOverTriplets.apply(anchor, embedding, positive, negative, margin)
