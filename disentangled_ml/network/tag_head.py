"""The head that is not learned: the tags that a trained network tells of its own features.

Recordings whose tags are alike sound alike, for what the tags describe. So the logits of a condition's own tags, each in units of its
deviation over a catalogue, are an embedding for this condition, without any training on the catalogue's labels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Tags = Mapping[str, Sequence[str]]


class TagHead(nn.Module):
    """The last layer of trained networks, for some of their tags, and the standardisation of its logits.

    It is made of zeros, to be filled from the installed package (``systems.fit_tags``) or from a checkpoint.

    Args:
        n_features: F.
        n_tags: T.

    Shape:
        features: (B, F), any floating type; output: (B, T), 0 on average over the tracks it was fitted on, of deviation 1.
    """

    def __init__(self, n_features: int, n_tags: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_features, n_tags))
        for name in ("bias", "mean"):
            self.register_buffer(name, torch.zeros(n_tags))
        self.register_buffer("deviation", torch.ones(n_tags))

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of the tags, whose sigmoid is the probability: (B, F) to (B, T)."""
        return torch.addmm(self.bias, features.float(), self.weight)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return (self.logits(features) - self.mean) / self.deviation
