"""The conditional similarity network: frontend + branches + masks, usable without Lightning.

network = load_network("runs/demo/checkpoints/best.ckpt")       # disentangled_ml.network.checkpoint
embedding = network(mel)                                        # (B, D), unit length
genre = embedding * network.masks()[0]                          # its genre subspace
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from disentangled_ml.chunks import FEATURE_SIZE, join_source, unpack
from disentangled_ml.network.augmentation import Augmentation

CHUNKS_PER_PASS = 256  # bounds the memory of embedding
MIN_LENGTH = 1e-12  # of a part that has a direction


class ConditionalSimilarityNetwork(nn.Module):
    """Network that embeds chunks of audio, with a mask over the embedding for each condition.

    Up to three branches make the embedding: a backbone on the spectrogram and a head on frozen features, which are added, and the
    rhythm branch, which has some dimensions for itself or is added too.

    Args:
        frontend: Audio to spectrogram (B, 1, n_mels, frames).
        backbone: Spectrogram to (B, D), without the dimensions of the rhythm branch; None: there is none.
        masks: Called without arguments, returns the condition masks (C, D).
        condition_names: In the order of the masks.
        head: Features (B, F) to the same; None: there is none.
        features: Networks of musicnn whose features the head reads, in order.
        rhythm: Spectrogram to (B, its dimensions), or to (B, D) to be added; None: there is none.
        rhythm_dims: Dimensions that are the rhythm branch's alone; None: it is added.
        balanced: Whether the parts of all conditions get the same length, which takes masks of 0 and 1 that do not overlap.
    """

    def __init__(
        self,
        frontend: nn.Module,
        backbone: nn.Module | None,
        masks: nn.Module,
        condition_names: list[str],
        head: nn.Module | None = None,
        features: Sequence[str] = (),
        rhythm: nn.Module | None = None,
        rhythm_dims: slice | None = None,
        balanced: bool = False,
    ):
        super().__init__()
        self.frontend, self.backbone, self.masks = frontend, backbone, masks
        self.head, self.rhythm, self.rhythm_dims = head, rhythm, rhythm_dims
        self.condition_names, self.features, self.balanced = list(condition_names), tuple(features), balanced

    @property
    def source(self) -> str:
        """What the array of a chunk must hold, see ``disentangled_ml.chunks``."""
        return join_source(self.frontend.source, self.features)

    def raw_embedding(self, audio: Tensor, augmentation: Augmentation | None = None) -> Tensor:
        """Embed chunks, augmented if asked for, without normalising, in float32: (B, ...) to (B, D)."""
        parts = []
        if self.head is not None:
            audio, features = unpack(audio, FEATURE_SIZE * len(self.features))
            parts.append(self.head(features))
        spect = self.frontend(audio if augmentation is None else augmentation.change_audio(audio))
        if self.backbone is not None:
            parts.append(self.backbone(spect if augmentation is None else augmentation.change_spect(spect)))
        # The branch sees the chunk whole: masked frames would be onsets that nobody played.
        return self.with_rhythm(sum(part.float() for part in parts), spect)

    def with_rhythm(self, embedding: Tensor, spect: Tensor) -> Tensor:
        """Complete an embedding of chunks by their rhythm, where there is such a branch."""
        if self.rhythm is None:
            return embedding
        rhythm, dims = self.rhythm(spect).float(), self.rhythm_dims
        if dims is None:
            return embedding + rhythm
        return torch.cat([embedding[:, : dims.start], rhythm, embedding[:, dims.start :]], dim=1)

    def forward(self, audio: Tensor) -> Tensor:
        """Embed chunks.

        Shape:
            audio: (B, 1, n_mels, frames) log-mel or (B, samples) waveform, perhaps with features, as ``source`` says.
            returns: (B, D) float32, L2-normalised as a whole.
        """
        return self.normalised(self.raw_embedding(audio))

    def normalised(self, embedding: Tensor) -> Tensor:
        """Return embeddings, or means of them, at unit length: (N, D), on any device, to the same."""
        if self.balanced:
            embedding = balance(embedding, self.masks().to(embedding.device))
        return nn.functional.normalize(embedding, dim=1)


def balance(embedding: Tensor, masks: Tensor) -> Tensor:
    """Scale the part of every condition to unit length; parts of zeros stay.

    The cosine of a condition's parts then decides on their distance, in chunks and in means over them alike.

    Shape: embedding (N, D); masks (C, D) of 0 and 1, of which no two overlap; returns (N, D).

    >>> balance(torch.tensor([[3.0, 4.0, 0.5]]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).round(decimals=3)
    tensor([[0.6000, 0.8000, 1.0000]])
    """
    lengths = (embedding.square() @ masks.T).sqrt()
    return embedding / (lengths.clamp(min=MIN_LENGTH) @ masks)


def embed_in_passes(network: ConditionalSimilarityNetwork, chunks: Tensor | Iterable[np.ndarray]) -> Tensor:
    """Embed N chunks, ``CHUNKS_PER_PASS`` at a time; (N, ...) or N of (...) to (N, D), on the network's device.

    Args:
        network: On any device.
        chunks: In one tensor, on any device, or one after the other, perhaps cut on the way.
    """
    # Those that nothing was trained of have no parameters.
    masks = network.masks()
    passes = chunks.split(CHUNKS_PER_PASS) if isinstance(chunks, Tensor) else stack_passes(chunks)
    return torch.cat([masks.new_empty(0, masks.shape[1]), *(network(part.to(masks.device)) for part in passes)])


def stack_passes(chunks: Iterable[np.ndarray]) -> Iterator[Tensor]:
    chunks = iter(chunks)
    while part := list(islice(chunks, CHUNKS_PER_PASS)):
        yield torch.from_numpy(np.stack(part))
