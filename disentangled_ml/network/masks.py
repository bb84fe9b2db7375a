"""Condition masks: which part of the embedding each condition looks at.

After A. Veit, S. Belongie, T. Karaletsos, "Conditional Similarity Networks", CVPR 2017, and J. Lee et al., ICASSP 2020
(who found fixed disjoint masks as good as learned ones). Every mask module is called without arguments and returns the
condition masks (C, D), one row per condition, all values >= 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Value of a learned mask outside its own block at the disjoint start (Veit et al.'s code).
DISJOINT_OFF = 0.1
# Of a learned mask at the random start (the same).
RANDOM_MEAN, RANDOM_DEVIATION = 0.9, 0.7


def disjoint_blocks(n_conditions: int, embedding_dim: int) -> Tensor:
    """Return masks (C, D) of 0 and 1, an equal block of the dimensions for each condition. Raises ValueError if they do not divide.

    >>> disjoint_blocks(2, 4).int().tolist()
    [[1, 1, 0, 0], [0, 0, 1, 1]]
    """
    if n_conditions < 1 or embedding_dim % n_conditions:
        legal = max(1, embedding_dim // max(1, n_conditions)) * n_conditions
        raise ValueError(
            f"embedding_dim={embedding_dim} cannot be shared equally by {n_conditions} conditions: "
            f"use a multiple of their number such as {legal}, or null for 64 per condition"
        )
    return torch.eye(n_conditions).repeat_interleave(embedding_dim // n_conditions, dim=1)


class FixedMasks(nn.Module):
    """Disjoint blocks of ones that are never trained."""

    def __init__(self, n_conditions: int, embedding_dim: int):
        super().__init__()
        self.register_buffer("blocks", disjoint_blocks(n_conditions, embedding_dim), persistent=False)

    def forward(self) -> Tensor:
        return self.blocks


class GroupMasks(nn.Module):
    """Ones in groups of neighbouring dimensions, as many as each condition needs; never trained.

    >>> GroupMasks([1, 2])().int().tolist()
    [[1, 0, 0], [0, 1, 1]]
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        blocks = torch.eye(len(sizes)).repeat_interleave(torch.tensor(sizes), dim=1)
        self.register_buffer("blocks", blocks, persistent=False)

    def forward(self) -> Tensor:
        return self.blocks


class LearnedMasks(nn.Module):
    """Trained masks, kept non-negative by a ReLU.

    They start ``disjoint`` (1 on the own block, 0.1 off it) or ``random`` (normal, mean 0.9, deviation 0.7).
    """

    def __init__(self, n_conditions: int, embedding_dim: int, start: str = "disjoint"):
        super().__init__()
        if start == "disjoint":
            initial = disjoint_blocks(n_conditions, embedding_dim).clamp(min=DISJOINT_OFF)
        elif start == "random":
            initial = RANDOM_MEAN + RANDOM_DEVIATION * torch.randn(n_conditions, embedding_dim)
        else:
            raise ValueError(f"mask start {start!r} is unknown: choose disjoint or random")
        self.weight = nn.Parameter(initial)

    def forward(self) -> Tensor:
        return self.weight.relu()


class NoMasks(nn.Module):
    """Ones everywhere: all conditions share all dimensions (the paper's "category")."""

    def __init__(self, n_conditions: int, embedding_dim: int):
        super().__init__()
        self.register_buffer("ones", torch.ones(n_conditions, embedding_dim), persistent=False)

    def forward(self) -> Tensor:
        return self.ones


MASKS = {"fixed": FixedMasks, "learned": LearnedMasks, "none": NoMasks}
