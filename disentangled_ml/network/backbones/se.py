"""Squeeze-and-excitation backbone: the residual backbone with a gate on the channels of every block.

J. Hu, L. Shen, G. Sun, "Squeeze-and-Excitation Networks", CVPR 2018.
"""

from torch import Tensor, nn

from disentangled_ml.network.backbones.resnet import ResNetBackbone

REDUCTION = 16  # the paper's ratio r


class SqueezeExcite(nn.Module):
    """Gate that scales each channel of (B, channels, height, width) by a factor in (0, 1), computed from the averages of all."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(8, channels // REDUCTION)
        self.excite = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(x.mean(dim=(2, 3), keepdim=True))


class SEBackbone(ResNetBackbone):
    """Residual blocks with gated channels."""

    gate = SqueezeExcite
