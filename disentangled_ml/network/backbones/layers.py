"""What the backbones share: channel scaling, normalised convolutions, the head and the frame around the feature layers.

Every layer that halves a side returns ceil(n / 2), so no input is too small to be halved and parallel branches agree in size.
"""

import math

from torch import Tensor, nn


def scale_channels(channels: int, width: float, multiple: int = 8) -> int:
    """Scale a number of channels, rounded to a multiple of 8 (what vector units and tensor cores like), at least that.

    Raises ValueError if ``width`` is not positive.

    >>> scale_channels(64, 1.0), scale_channels(48, 0.25), scale_channels(64, 0.01)
    (64, 16, 8)
    """
    if not width > 0:
        raise ValueError(f"width is {width}; it scales the number of channels and must be greater than 0")
    return max(multiple, multiple * math.floor(channels * width / multiple + 0.5))


def conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution with batch norm; its output sides are ceil(side / stride)."""
    # Batch norm subtracts the mean, so a bias in the convolution would do nothing.
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    return conv_norm(in_channels, out_channels, kernel_size, stride).append(nn.ReLU(inplace=True))


def conv_pool(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Build a convolution with batch norm, ReLU and 2x2 max-pool; its output sides are ceil(side / 2)."""
    # Max-pool and ReLU commute; in this order the ReLU passes over a quarter of the values.
    halving = [nn.MaxPool2d(2, ceil_mode=True), nn.ReLU(inplace=True)]
    return conv_norm(in_channels, out_channels, kernel_size).extend(halving)


class Head(nn.Module):
    """Head that turns feature maps (B, in_channels, height, width) into an embedding (B, embedding_dim).

    1x1 convolution, batch norm, ReLU, global average pooling: no entry is negative, as in J. Lee et al. (ICASSP 2020).
    """

    def __init__(self, in_channels: int, embedding_dim: int):
        super().__init__()
        self.project = conv_norm_relu(in_channels, embedding_dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.project(features).mean(dim=(2, 3))


class Backbone(nn.Module):
    """Feature layers with the shared head, both initialised as in K. He et al. (ICCV 2015).

    Args:
        features: maps (B, 1, n_mels, frames) to (B, feature_channels, any height, any width).
        feature_channels: channels of its output.
        embedding_dim: D.

    Shape:
        spect: (B, 1, n_mels, frames), n_mels >= 16, frames >= 16; output: (B, D), not normalised, not negative.
    """

    def __init__(self, features: nn.Module, feature_channels: int, embedding_dim: int):
        super().__init__()
        self.features = features
        self.head = Head(feature_channels, embedding_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, spect: Tensor) -> Tensor:
        return self.head(self.features(spect))
