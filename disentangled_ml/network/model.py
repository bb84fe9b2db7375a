"""The conditional similarity network: frontend + backbone + masks, usable without Lightning.

network = load_network("runs/demo/checkpoints/best.ckpt")       # disentangled_ml.builders
embedding = network(mel)                                        # (B, D), unit length
genre = embedding * network.masks()[0]                          # its genre subspace
"""

from __future__ import annotations

from torch import Tensor, nn

from disentangled_ml.network.augmentation import Augmentation


class ConditionalSimilarityNetwork(nn.Module):
    """Embed chunks of audio, and say which part of the embedding each condition looks at.

    Args:
        frontend: Audio to spectrogram (B, 1, n_mels, frames).
        backbone: Spectrogram to (B, D).
        masks: Called without arguments, gives the condition masks (C, D).
        condition_names: In the order of the masks.
    """

    def __init__(self, frontend: nn.Module, backbone: nn.Module, masks: nn.Module, condition_names: list[str]):
        super().__init__()
        self.frontend, self.backbone, self.masks = frontend, backbone, masks
        self.condition_names = list(condition_names)

    def raw_embedding(self, audio: Tensor, augmentation: Augmentation | None = None) -> Tensor:
        """Embed chunks, changed where that is wanted, without normalising, in float32: (B, ...) to (B, D)."""
        if augmentation is None:
            return self.backbone(self.frontend(audio)).float()
        spect = self.frontend(augmentation.change_audio(audio))
        return self.backbone(augmentation.change_spect(spect)).float()

    def forward(self, audio: Tensor) -> Tensor:
        """Embed chunks.

        Shape:
            audio: (B, 1, n_mels, frames) log-mel or (B, samples) waveform, as the frontend's ``source`` says.
            returns: (B, D) float32, L2-normalised as a whole.
        """
        return nn.functional.normalize(self.raw_embedding(audio), dim=1)
