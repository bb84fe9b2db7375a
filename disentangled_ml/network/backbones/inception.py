"""Inception backbone: the network of J. Lee et al., "Disentangled Multidimensional Metric Learning", ICASSP 2020.

A 5x5 convolution with 2x2 max-pool, then six times a stride module (halves both sides) and an inception module, with the channels of
the authors' published code. Seven halvings bring 128 bands x 129 frames to 1 x 2. Every convolution has batch norm and ReLU.
"""

import torch
from torch import Tensor, nn

from disentangled_ml.network.backbones.layers import Backbone, conv_norm_relu, scale_channels

BLOCKS = 6
# Of the channels. Threads of torch 2.11's batch norm share cache lines in its backward pass where a map has 8 channels (or 24, 40):
# on two cores it takes eight times as long as with 16.
MULTIPLE = 16


class Branches(nn.Module):
    """Parallel branches on one input, whose channels are concatenated."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def stride_module(in_channels: int, width: float) -> tuple[Branches, int]:
    """Build the module that halves both sides, and return it with its number of output channels."""
    c48, c64, c96 = (scale_channels(c, width, MULTIPLE) for c in (48, 64, 96))
    module = Branches(
        conv_norm_relu(in_channels, c48, 1, stride=2),
        nn.Sequential(
            conv_norm_relu(in_channels, c64, 1),
            conv_norm_relu(c64, c96, 3),
            conv_norm_relu(c96, c96, 3, stride=2),
        ),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    return module, c48 + c96 + in_channels


def inception_module(in_channels: int, width: float) -> tuple[Branches, int]:
    """Build the module that keeps both sides, and return it with its number of output channels (256 at width 1)."""
    c32, c48, c64, c96 = (scale_channels(c, width, MULTIPLE) for c in (32, 48, 64, 96))
    module = Branches(
        conv_norm_relu(in_channels, c64, 1),
        nn.Sequential(conv_norm_relu(in_channels, c48, 1), conv_norm_relu(c48, c64, 5)),
        nn.Sequential(conv_norm_relu(in_channels, c64, 1), conv_norm_relu(c64, c96, 3), conv_norm_relu(c96, c96, 3)),
        nn.Sequential(
            # Padding is left out of the average, or the maps of 1 x 2 at the end would be mostly padding.
            nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
            conv_norm_relu(in_channels, c32, 1),
        ),
    )
    return module, c64 + c64 + c96 + c32


def stem(channels: int) -> nn.Sequential:
    """Build the first layer: 5x5 convolution, 2x2 max-pool, batch norm and ReLU.

    Pooled first, since batch norm of the largest map of all would take a fifth of a training step.
    """
    conv = nn.Conv2d(1, channels, 5, padding=2, bias=False)
    return nn.Sequential(conv, nn.MaxPool2d(2, ceil_mode=True), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class InceptionBackbone(Backbone):
    """Inception network of the paper."""

    def __init__(self, embedding_dim: int, width: float = 1.0):
        channels = scale_channels(64, width, MULTIPLE)
        features = nn.Sequential(stem(channels))
        for _ in range(BLOCKS):
            for build in (stride_module, inception_module):
                module, channels = build(channels, width)
                features.append(module)
        super().__init__(features, channels, embedding_dim)
