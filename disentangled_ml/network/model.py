"""The conditional similarity network: frontend + backbone + masks, usable without Lightning.

network = load_network("runs/demo/checkpoints/best.ckpt")       # disentangled_ml.network.checkpoint
embedding = network(mel)                                        # (B, D), unit length
genre = embedding * network.masks()[0]                          # its genre subspace
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from disentangled_ml.network.augmentation import Augmentation

CHUNKS_PER_PASS = 256  # bounds the memory of embedding


class ConditionalSimilarityNetwork(nn.Module):
    """Network that embeds chunks of audio, with a mask over the embedding for each condition.

    Args:
        frontend: Audio to spectrogram (B, 1, n_mels, frames).
        backbone: Spectrogram to (B, D).
        masks: Called without arguments, returns the condition masks (C, D).
        condition_names: In the order of the masks.
    """

    def __init__(self, frontend: nn.Module, backbone: nn.Module, masks: nn.Module, condition_names: list[str]):
        super().__init__()
        self.frontend, self.backbone, self.masks = frontend, backbone, masks
        self.condition_names = list(condition_names)

    def raw_embedding(self, audio: Tensor, augmentation: Augmentation | None = None) -> Tensor:
        """Embed chunks, augmented if asked for, without normalising, in float32: (B, ...) to (B, D)."""
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


def embed_in_passes(network: ConditionalSimilarityNetwork, chunks: Tensor | Iterable[np.ndarray]) -> Tensor:
    """Embed N chunks, ``CHUNKS_PER_PASS`` at a time; (N, ...) or N of (...) to (N, D), on the network's device.

    Args:
        network: On any device.
        chunks: In one tensor, on any device, or one after the other, perhaps cut on the way.
    """
    masks, device = network.masks(), next(network.parameters()).device
    passes = chunks.split(CHUNKS_PER_PASS) if isinstance(chunks, Tensor) else stack_passes(chunks)
    return torch.cat([masks.new_empty(0, masks.shape[1]), *(network(part.to(device)) for part in passes)])


def stack_passes(chunks: Iterable[np.ndarray]) -> Iterator[Tensor]:
    chunks = iter(chunks)
    while part := list(islice(chunks, CHUNKS_PER_PASS)):
        yield torch.from_numpy(np.stack(part))
