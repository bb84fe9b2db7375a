"""Recordings to the chunks that a network embeds: as they are prepared for shards, but straight from the file."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.audio.decoding import UnusableAudio, decode
from datamodules.audio.spectrogram import log_mel, resample
from datamodules.shards.origin import Outcome, with_origins
from datamodules.shards.workers import do_or_reject
from disentangled_ml.structures import AudioSettings, Rejected, TrackRecord, chunk_grid


def cut_waveform(waveform: np.ndarray, sample_rate: int, audio: AudioSettings, source: str, frames: int) -> np.ndarray:
    """Cut a waveform into its non-overlapping chunks.

    Args:
        waveform: Of the whole track.
        sample_rate: Of it, in Hz.
        audio: What the network was trained on.
        source: ``mel`` or ``waveform``, what its frontend wants.
        frames: Of a chunk.

    Shape:
        waveform: (n,) floating point, full scale 1.
        returns: (chunks, 1, n_mels, frames) float16 or (chunks, samples) float32.

    Raises: UnusableAudio: if there is no whole chunk.
    """
    waveform = resample(waveform, sample_rate, audio.sample_rate)
    grid = chunk_grid(1 + len(waveform) // audio.hop_length, frames)
    if not grid:
        seconds = len(waveform) / audio.sample_rate
        raise UnusableAudio(f"shorter than a chunk: {seconds:.2f} s, {audio.seconds(frames - 1):.2f} s needed")
    if source == "mel":
        mel = log_mel(waveform, audio)
        return np.stack([mel[None, :, start : start + frames] for start in grid])
    samples = audio.chunk_samples(frames)
    return np.stack([waveform[start * audio.hop_length :][:samples] for start in grid])


def cut_recordings(
    rows: Sequence[TrackRecord | Rejected], audio: AudioSettings, source: str, frames: int
) -> list[np.ndarray | Rejected]:
    """Cut a group of recordings into their chunks; those that cannot be used are rejected, those that were stay so."""
    work = partial(cut_record, audio=audio, source=source, frames=frames)
    return [row if isinstance(row, Rejected) else do_or_reject(row, work) for row in rows]


def cut_group(rows: Sequence[TrackRecord | Rejected], audio: AudioSettings, source: str, frames: int) -> list[Outcome]:
    """Cut a group of recordings into their chunks, each with what it was made of."""
    return with_origins(rows, partial(cut_recordings, audio=audio, source=source, frames=frames))


def cut_record(record: TrackRecord, audio: AudioSettings, source: str, frames: int) -> np.ndarray:
    return cut_waveform(*decode(Path(record.path), *record.section), audio, source, frames)
