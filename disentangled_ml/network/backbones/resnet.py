"""Residual backbone: ResNet-18 for one input channel.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016: 7x7 stride-2 convolution, 3x3 stride-2
max-pool, four stages of two basic (post-activation) blocks. 128 bands x 129 frames leave the stem at 32 x 33 and the stages at 4 x 5.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from disentangled_ml.network.backbones.layers import Backbone, conv_norm, conv_norm_relu, scale_channels

STAGE_CHANNELS = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to their own input, then ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the first convolution and of the shortcut.
        gate: built with ``out_channels``; scales the convolutions' output before the addition (see ``se``).

    Shape:
        input: (B, in_channels, height, width); output: (B, out_channels, ceil(height / stride), ceil(width / stride)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, gate: Callable[[int], nn.Module] = nn.Identity
    ):
        super().__init__()
        self.residual = nn.Sequential(
            conv_norm_relu(in_channels, out_channels, 3, stride),
            conv_norm(out_channels, out_channels, 3),
            gate(out_channels),
        )
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else conv_norm(in_channels, out_channels, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


class ResNetBackbone(Backbone):
    """Residual blocks."""

    gate: ClassVar[Callable[[int], nn.Module]] = nn.Identity

    def __init__(self, embedding_dim: int, width: float = 1.0):
        channels = scale_channels(STAGE_CHANNELS[0], width)
        features = nn.Sequential(conv_norm_relu(1, channels, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1))
        for index, stage_channels in enumerate(STAGE_CHANNELS):
            in_channels, channels = channels, scale_channels(stage_channels, width)
            stride = 1 if index == 0 else 2
            features.append(ResidualBlock(in_channels, channels, stride, self.gate))
            features.append(ResidualBlock(channels, channels, 1, self.gate))
        super().__init__(features, channels, embedding_dim)
