"""Plain convolutional backbone: 3x3 convolution, batch norm, ReLU, 2x2 max-pool, seven times.

Seven halvings bring 128 bands x 129 frames to 1 x 2, so each output position sees the whole band range and some 3 s.
"""

from itertools import pairwise

from torch import nn

from disentangled_ml.network.backbones.layers import Backbone, conv_pool, scale_channels

BLOCK_CHANNELS = (64, 64, 128, 128, 256, 256, 256)


class ConvBackbone(Backbone):
    """Seven blocks of convolution and pooling."""

    def __init__(self, embedding_dim: int, width: float = 1.0):
        channels = [1, *(scale_channels(c, width) for c in BLOCK_CHANNELS)]
        features = nn.Sequential(*(conv_pool(a, b, 3) for a, b in pairwise(channels)))
        super().__init__(features, channels[-1], embedding_dim)
