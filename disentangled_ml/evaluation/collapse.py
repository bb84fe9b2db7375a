"""Collapse: embeddings that have become equal, so that nothing can be told apart by them.

Accuracies do not say so: ties count as wrong, and what rounding makes of equal embeddings is right by chance.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Of the largest distance of unit vectors, which is 2: far below what a margin asks for, far above what rounding does.
COLLAPSED = 1e-3
# Fewer may be copies of one recording.
FEWEST = 5


def collapse_remarks(embedding: Tensor, masks: Tensor, condition_names: Sequence[str]) -> list[str]:
    """Return, a line each, what embeddings (N, D) of tracks or masks (C, D) can tell nothing apart by; nothing for few tracks.

    >>> collapse_remarks(torch.ones(5, 2), torch.eye(2), ["genre", "mood"])[0][:50]
    'collapse: the embeddings of all 5 tracks are equal'
    >>> collapse_remarks(torch.eye(2), torch.tensor([[1.0, 1.0], [0.0, 0.0]]), ["genre", "mood"])[0][:42]
    'collapse: the mask of mood is 0 throughout'
    """
    dead, remarks = ~masks.any(1), []
    if dead.any():
        remarks.append(
            f"collapse: the mask of {named(condition_names, dead)} is 0 throughout, so it tells nothing apart: "
            "train again with a lower mask.mask_penalty, or mask=fixed"
        )
    if len(embedding) < FEWEST:
        return remarks
    # No two tracks are further apart than the corners of the box around all.
    box = embedding.amax(0) - embedding.amin(0)
    equal = ~dead & (torch.linalg.vector_norm(masks * box, dim=1) < COLLAPSED)
    way_out = f"all {len(embedding)} tracks are equal: train again with a lower training.learning_rate"
    if box.norm() < COLLAPSED:
        remarks.append(f"collapse: the embeddings of {way_out}")
    elif equal.any():
        remarks.append(f"collapse: in the subspace of {named(condition_names, equal)} {way_out}")
    return remarks


def named(condition_names: Sequence[str], chosen: Tensor) -> str:
    return ", ".join(name for name, is_chosen in zip(condition_names, chosen.tolist(), strict=True) if is_chosen)
