"""Backbones: networks that turn a spectrogram into an embedding.

Every backbone is built as ``BACKBONES[name](embedding_dim, width)`` and maps ``spect`` (B, 1, n_mels, frames) to (B, embedding_dim),
not normalised, for any n_mels >= 16 and frames >= 16. ``width``, above 0, scales all channel numbers; the published size is 1. They
differ in their feature layers only: all end in the same head (see ``layers``), as J. Lee et al. (ICASSP 2020) end theirs.

To add one: a file with a subclass of ``layers.Backbone``, and its line in ``BACKBONES``.
"""

from disentangled_ml.network.backbones.conv import ConvBackbone
from disentangled_ml.network.backbones.inception import InceptionBackbone
from disentangled_ml.network.backbones.layers import Backbone
from disentangled_ml.network.backbones.resnet import ResNetBackbone
from disentangled_ml.network.backbones.se import SEBackbone

BACKBONES: dict[str, type[Backbone]] = {
    "conv": ConvBackbone,
    "resnet": ResNetBackbone,
    "se": SEBackbone,
    "inception": InceptionBackbone,
}
