"""Compare two tracks stretch by stretch instead of by one mean: sequences of chunk embeddings to one distance.

For two tracks with chunks x_1..x_n and y_1..y_m and the masked distances D_ij of their chunks:

* ``best``: ( mean over i of min over j of D_ij + mean over j of min over i of D_ij ) / 2. Order plays no part: each stretch is
  compared with what is most like it in the other track.
* ``dtw``: dynamic time warping. Of all paths from (1, 1) to (n, m) by steps (1, 1), (1, 0), (0, 1) the one with the least sum of D_ij
  along it; that sum divided by the number of its cells. Where several are as cheap, the diagonal step is preferred.

Both are 0 for equal sequences; for two sequences of one chunk each they are the distance of the chunks. ``best`` is symmetric, ``dtw``
too but where paths of different lengths are as cheap. ``mean`` stands for the comparison by one mean, which is not done here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

MEAN = "mean"
# Bounds the memory: 256 pairs of 100 chunks each are 10 MB of distances.
PAIRS_PER_BLOCK = 256


def best_match(distance: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """Average each chunk's distance to the nearest of the other track, both ways; arguments as ``warped``.

    >>> best_match(torch.tensor([[[0.0, 3.0], [1.0, 4.0]]]), torch.tensor([2]), torch.tensor([2])).tolist()
    [1.0]
    """
    rows = torch.arange(distance.shape[1], device=distance.device) < n[:, None]
    columns = torch.arange(distance.shape[2], device=distance.device) < m[:, None]
    hidden = distance.masked_fill(~(rows[:, :, None] & columns[:, None, :]), torch.inf)
    forth = hidden.amin(2).masked_fill(~rows, 0).sum(1) / n
    back = hidden.amin(1).masked_fill(~columns, 0).sum(1) / m
    return (forth + back) / 2


def warped(distance: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """Compute the cost of the cheapest warping path per cell of it; all pairs at once, one antidiagonal after the other.

    Shape:
        distance: (P, N, M), of which the first n x m of each pair count.
        n, m: (P,) int64, chunks of the tracks, at least 1; returns: (P,).

    >>> warped(torch.tensor([[[0.0, 3.0], [1.0, 4.0]]]), torch.tensor([2]), torch.tensor([2])).tolist()
    [2.0]
    """
    n_pairs, n_rows, n_columns = distance.shape
    # cost[:, i, j] and cells[:, i, j] of the path to cell (i, j), counted from 1; row and column 0 are the border.
    cost = distance.new_full((n_pairs, n_rows + 1, n_columns + 1), torch.inf)
    cells = torch.zeros_like(cost)
    cost[:, 0, 0] = 0
    for diagonal in range(2, n_rows + n_columns + 1):
        i = torch.arange(max(1, diagonal - n_columns), min(n_rows, diagonal - 1) + 1, device=distance.device)
        j = diagonal - i
        before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        cheapest, step = torch.stack([cost[:, r, c] for r, c in before]).min(0)  # the first of equals: the diagonal
        lengths = torch.stack([cells[:, r, c] for r, c in before]).gather(0, step[None])[0]
        cost[:, i, j] = cheapest + distance[:, i - 1, j - 1]
        cells[:, i, j] = lengths + 1
    pair = torch.arange(n_pairs, device=distance.device)
    return cost[pair, n, m] / cells[pair, n, m]


MATCHES = {"best": best_match, "dtw": warped}


def match_distances(left: Sequence[Tensor], right: Sequence[Tensor], match: str) -> Tensor:
    """Compare P pairs of tracks, (P,) float32.

    Args:
        left: A track (chunks, D) of each pair, masked, with at least one chunk.
        right: The other.
        match: ``best`` or ``dtw``.

    Raises:
        ValueError: for another match, sequences that are not in pairs, or one without a chunk.

    >>> a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0]])
    >>> match_distances([a], [b], "best").tolist(), match_distances([a], [b], "dtw").tolist()
    ([0.25], [0.5])
    """
    if match not in MATCHES:
        raise ValueError(f"match={match} is unknown: choose one of {', '.join(MATCHES)}")
    if any(len(sequence) == 0 for sequence in (*left, *right)):
        raise ValueError("a track without a chunk cannot be compared: leave it out")
    found = [torch.empty(0)]
    pairs = list(zip(left, right, strict=True))
    for first in range(0, len(pairs), PAIRS_PER_BLOCK):
        sides = list(zip(*pairs[first : first + PAIRS_PER_BLOCK], strict=True))
        n, m = (torch.tensor([len(sequence) for sequence in side]) for side in sides)
        x, y = (pad_sequence(list(side), batch_first=True).float().cpu() for side in sides)
        # By products instead of differences the distance of a chunk to itself would not be 0.
        distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(MATCHES[match](distance, n, m))
    return torch.cat(found)
