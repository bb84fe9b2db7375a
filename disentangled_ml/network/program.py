"""A trained network as a program of plain PyTorch: one file that ``torch.export.load`` runs, without this project."""

import io
from copy import deepcopy

import torch
from torch import Tensor, nn

from disentangled_ml.chunks import FEATURE_SIZE, feature_rows
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.structures import AudioSettings

# What tells of the machine in the nodes of a program: the files of its source, by their whole paths.
OF_THE_MACHINE = ("stack_trace", "source_fn_stack", "nn_module_stack", "torch_fn")


class Program(nn.Module):
    """What is exported: chunks, and features by themselves where the network reads some, to embeddings.

    Attributes:
        condition_masks: (C, D), which the program carries for its users.

    Shape:
        audio: (B, 1, n_mels, frames) log-mel or (B, samples) waveform; features: (B, F); returns (B, D), of unit length.
    """

    def __init__(self, network: ConditionalSimilarityNetwork):
        super().__init__()
        self.network = network
        self.register_buffer("condition_masks", network.masks().detach().clone())

    def forward(self, audio: Tensor, features: Tensor | None = None) -> Tensor:
        if features is not None:
            audio = with_features(audio, features)
        return self.network(audio)


def with_features(mel: Tensor, features: Tensor) -> Tensor:
    """Append features (B, F) below spectrograms (B, 1, n_mels, frames), as ``chunks.pack`` does for one.

    >>> with_features(torch.zeros(2, 1, 3, 4), torch.ones(2, 5))[0, 0].int().tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    """
    frames = mel.shape[-1]
    rows = feature_rows(features.shape[1], frames)
    padded = nn.functional.pad(features, (0, rows * frames - features.shape[1]))
    return torch.cat([mel, padded.unflatten(1, (1, rows, frames))], dim=2)


def example_inputs(network: ConditionalSimilarityNetwork, audio: AudioSettings, frames: int) -> tuple[Tensor, ...]:
    """Return two chunks of silence as a program takes them."""
    if network.frontend.source == "waveform":
        return (torch.zeros(2, audio.chunk_samples(frames)),)
    mel = torch.zeros(2, 1, audio.n_mels, frames)
    return (mel, torch.zeros(2, FEATURE_SIZE * len(network.features))) if network.features else (mel,)


def as_program(network: ConditionalSimilarityNetwork, audio: AudioSettings, frames: int) -> bytes:
    """Return the file of a network's program, for any number of chunks; nothing in it tells of the machine.

    Args:
        network: In evaluation mode, on the CPU.
        audio: Its settings.
        frames: Of a chunk.
    """
    inputs, batch = example_inputs(network, audio, frames), torch.export.Dim("batch", min=1)
    module = Program(deepcopy(network)).to(memory_format=torch.contiguous_format).eval()
    with torch.no_grad():
        program = torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            for key in OF_THE_MACHINE:
                node.meta.pop(key, None)
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()
