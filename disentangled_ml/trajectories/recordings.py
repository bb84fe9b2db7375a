"""A single recording, decoded, cut into overlapping chunks and embedded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.audio.decoding import UnusableAudio, decode
from datamodules.audio.spectrogram import log_mel, resample
from datamodules.batches.streams import mel_chunk
from disentangled_ml.config import ConfigError
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.trajectories.change_points import chunk_starts


@dataclass(frozen=True)
class Recording:
    """Recording (n,) float32 at the sample rate of a model, and its log-mel spectrogram (n_mels, frames) float16."""

    waveform: np.ndarray
    mel: np.ndarray


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
        waveform = resample(*decode(path), audio.sample_rate)
        mel = log_mel(waveform, audio)
    except UnusableAudio as error:
        raise UnusableAudio(f"{path}: {error}") from error
    if mel.shape[1] < chunk_frames:
        needed, seconds = audio.seconds(chunk_frames - 1), len(waveform) / audio.sample_rate
        raise UnusableAudio(f"{path}: shorter than a chunk: {seconds:.2f} s, {needed:.2f} s needed")
    return Recording(waveform, mel)


def embed_recording(embedder: Embedder, recording: Recording, hop_frames: int) -> tuple[Tensor, Tensor]:
    """Embed the overlapping chunks of a recording: their starts (N,) float64 in seconds, and (N, D) on the CPU.

    Raises ValueError if an embedding is not finite.
    """
    audio, frames = embedder.model.audio, embedder.model.chunk_frames
    samples = audio.chunk_samples(frames)

    def cut(start: int) -> np.ndarray:
        if embedder.source == "mel":
            return mel_chunk(recording.mel, frames, start)
        return recording.waveform[start * audio.hop_length :][:samples]

    starts = chunk_starts(recording.mel.shape[1], frames, hop_frames)
    embedding = embedder.embed_chunks(cut(start) for start in starts)
    if not embedding.isfinite().all():
        raise ValueError("an embedding of the recording is not finite: the checkpoint is damaged")
    return torch.tensor([audio.seconds(start) for start in starts], dtype=torch.float64), embedding
