"""A single recording, decoded, cut into overlapping chunks and embedded."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.audio.decoding import UnusableAudio, decode
from datamodules.audio.spectrogram import log_mel, resample
from datamodules.batches.cutting import open_waveform
from disentangled_ml.config import ConfigError
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import AudioSettings
from disentangled_ml.trajectories.change_points import chunk_starts


@dataclass(frozen=True)
class Recording:
    """Recording (n,) float32, and its sample rate in Hz."""

    waveform: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sample_rate

    def spectrogram(self, audio: AudioSettings) -> np.ndarray:
        """Return the log-mel spectrogram (n_mels, frames) float16 of some settings."""
        return log_mel(resample(self.waveform, self.sample_rate, audio.sample_rate), audio)


def chunk_seconds(embedder: Embedder) -> float:
    """Return the length of a model's chunk in seconds, from its first frame to that of the next chunk."""
    return embedder.model.audio.seconds(embedder.model.chunk_frames)


def hop_of(embedder: Embedder, hop_seconds: float, context_seconds: float) -> int:
    """Return the hop in frames. Raises ConfigError if it leaves out music between chunks, or the context holds no chunk."""
    frames, seconds = max(1, embedder.model.audio.frames(hop_seconds)), chunk_seconds(embedder)
    if frames > embedder.model.chunk_frames:
        raise ConfigError(f"hop_seconds={hop_seconds} is longer than a chunk, {seconds:.2f} s: give less")
    if context_seconds < seconds:
        raise ConfigError(f"context_seconds={context_seconds} is shorter than a chunk: give at least {seconds:.2f}")
    return frames


def read_recording(path: Path, embedder: Embedder) -> Recording:
    """Decode a recording for a model. Raises UnusableAudio, naming it, if it cannot be used or is shorter than a chunk."""
    audio, chunk_frames = embedder.model.audio, embedder.model.chunk_frames
    try:
        recording = Recording(*decode(path))
    except UnusableAudio as error:
        raise UnusableAudio(f"{path}: {error}") from error
    needed = audio.seconds(chunk_frames - 1)
    if recording.seconds < needed:
        raise UnusableAudio(f"{path}: shorter than a chunk: {recording.seconds:.2f} s, {needed:.2f} s needed")
    return recording


def embed_recording(embedder: Embedder, recording: Recording, hop_frames: int) -> tuple[Tensor, Tensor]:
    """Embed the overlapping chunks of a recording: their starts (N,) float64 in seconds, and (N, D) on the CPU.

    Raises ValueError if an embedding is not finite.
    """
    audio, frames = embedder.model.audio, embedder.model.chunk_frames
    wanted = partial(chunk_starts, chunk_frames=frames, hop_frames=hop_frames)
    track = open_waveform(recording.waveform, recording.sample_rate, audio, embedder.source, frames, wanted)
    starts = wanted(track.frames)
    embedding = embedder.embed_chunks(map(track.read_chunk, starts))
    if not embedding.isfinite().all():
        raise ValueError("an embedding of the recording is not finite: the checkpoint is damaged")
    return torch.tensor([audio.seconds(start) for start in starts], dtype=torch.float64), embedding
