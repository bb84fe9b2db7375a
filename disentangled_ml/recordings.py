"""Embed a recording as it is: decode it, cut it into overlapping chunks, embed them. What commands on single recordings share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.audio import UnusableAudio, decode
from datamodules.spectrogram import log_mel, resample
from datamodules.streams import mel_chunk
from disentangled_ml.embedder import fingerprint
from disentangled_ml.model import ConditionalSimilarityNetwork
from disentangled_ml.networks import load_checkpoint, network_from
from disentangled_ml.structures import AudioSettings
from disentangled_ml.trajectories import chunk_starts

CHUNKS_PER_BATCH = 64


@dataclass(frozen=True)
class LoadedNetwork:
    """Hold a network and what it takes.

    Attributes:
        network: In evaluation mode, on its device.
        audio: Of its spectrograms.
        chunk_frames: Length of its chunks.
        fingerprint: sha256 of the checkpoint file.
    """

    network: ConditionalSimilarityNetwork
    audio: AudioSettings
    chunk_frames: int
    fingerprint: str

    @property
    def chunk_seconds(self) -> float:
        """Give the length of a chunk, from its first frame to that of the chunk that follows it."""
        return self.audio.seconds(self.chunk_frames)


def load(path: Path, device: torch.device) -> LoadedNetwork:
    """Load a checkpoint to embed recordings.

    Raises:
        ValueError: if it is no checkpoint of this project.
    """
    checkpoint = load_checkpoint(path)
    network = network_from(checkpoint, path).to(device)
    chunk_frames = checkpoint["config"]["data"]["chunk_frames"]
    return LoadedNetwork(network, AudioSettings(**checkpoint["audio"]), chunk_frames, fingerprint(path))


@dataclass(frozen=True)
class Recording:
    """Hold a recording, resampled.

    Shape:
        waveform: (n,) float32; mel: (n_mels, frames) float16.
    """

    waveform: np.ndarray
    mel: np.ndarray


def read_recording(path: Path, loaded: LoadedNetwork) -> Recording:
    """Decode a recording.

    Raises:
        UnusableAudio: naming it, if it cannot be used or is shorter than a chunk.
    """
    try:
        waveform = resample(*decode(path), loaded.audio.sample_rate)
        mel = log_mel(waveform, loaded.audio)
    except UnusableAudio as error:
        raise UnusableAudio(f"{path}: {error}") from error
    if mel.shape[1] < loaded.chunk_frames:
        needed, seconds = loaded.audio.seconds(loaded.chunk_frames - 1), len(waveform) / loaded.audio.sample_rate
        raise UnusableAudio(f"{path}: shorter than a chunk: {seconds:.2f} s, {needed:.2f} s needed")
    return Recording(waveform, mel)


@torch.inference_mode()
def embed_recording(loaded: LoadedNetwork, recording: Recording, hop_frames: int) -> tuple[Tensor, Tensor]:
    """Embed the overlapping chunks of a recording.

    Shape:
        returns: starts (N,) float64 in seconds, embedding (N, D) on the CPU.

    Raises:
        ValueError: if an embedding is not finite.
    """
    device = next(loaded.network.parameters()).device
    starts = chunk_starts(recording.mel.shape[1], loaded.chunk_frames, hop_frames)
    batches = [loaded.network(batch.to(device)).float().cpu() for batch in batches_of(loaded, recording, starts)]
    embedding = torch.cat(batches)
    if not embedding.isfinite().all():
        raise ValueError("an embedding of the recording is not finite: the checkpoint is damaged")
    seconds = torch.tensor([loaded.audio.seconds(start) for start in starts], dtype=torch.float64)
    return seconds, embedding


def batches_of(loaded: LoadedNetwork, recording: Recording, starts: list[int]) -> Iterator[Tensor]:
    """Cut the chunks that begin at some frames, ``CHUNKS_PER_BATCH`` at a time, as the network's frontend wants them."""
    samples = loaded.audio.chunk_samples(loaded.chunk_frames)

    def cut(start: int) -> np.ndarray:
        if loaded.network.frontend.source == "mel":
            return mel_chunk(recording.mel, loaded.chunk_frames, start)
        first = start * loaded.audio.hop_length
        return recording.waveform[first : first + samples]

    for first in range(0, len(starts), CHUNKS_PER_BATCH):
        yield torch.from_numpy(np.stack([cut(start) for start in starts[first : first + CHUNKS_PER_BATCH]]))
