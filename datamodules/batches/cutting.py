"""Recordings to the chunks that a network embeds: as they are prepared for shards, but straight from the file."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.audio.decoding import UnusableAudio, decode
from datamodules.audio.musicnn import features_at, n_windows
from datamodules.audio.spectrogram import log_mel, resample
from datamodules.batches.composer import StreamedTrack
from datamodules.batches.streams import mel_chunk, packed_chunk
from datamodules.shards.origin import Outcome, with_origins
from datamodules.shards.workers import do_or_reject
from disentangled_ml.chunks import split_source, windows_of
from disentangled_ml.structures import UNKNOWN, AudioSettings, Rejected, TrackRecord, chunk_grid


def open_waveform(
    waveform: np.ndarray,
    sample_rate: int,
    audio: AudioSettings,
    source: str,
    frames: int,
    starts: Callable[[int], Iterable[int]] | None = None,
) -> StreamedTrack:
    """Make a waveform ready for its chunks to be read, as a track of shards is.

    Args:
        waveform, sample_rate, audio, source, frames: As of ``cut_waveform``.
        starts: From its number of frames to the first frames of the chunks that will be read; None: the non-overlapping ones.

    Returns: The track; of one that is shorter than a chunk no chunk can be read.
    """
    samples = resample(waveform, sample_rate, audio.sample_rate)
    length, (signal, networks) = 1 + len(samples) // audio.hop_length, split_source(source)
    if signal == "waveform" or length < frames:
        read_chunk = partial(samples_from, samples, audio, frames)
    elif networks:
        count = max(1, n_windows(len(waveform), sample_rate))  # of none the features are refused
        places = chunk_grid(length, frames) if starts is None else starts(length)
        spans = (windows_of(audio.seconds(start), audio.seconds(frames), count) for start in places)
        wanted = sorted({row for span in spans for row in range(span.start, span.stop)})
        features = features_at(waveform, sample_rate, networks, wanted)
        rows = np.zeros((count, features.shape[1]), np.float16)
        rows[wanted] = features
        read_chunk = partial(packed_chunk, log_mel(samples, audio), rows, audio, frames)
    else:
        read_chunk = partial(mel_chunk, log_mel(samples, audio), frames)
    return StreamedTrack(length, read_chunk, {}, UNKNOWN)


def samples_from(samples: np.ndarray, audio: AudioSettings, frames: int, start: int) -> np.ndarray:
    return samples[start * audio.hop_length :][: audio.chunk_samples(frames)]


def cut_waveform(waveform: np.ndarray, sample_rate: int, audio: AudioSettings, source: str, frames: int) -> np.ndarray:
    """Cut a waveform into its non-overlapping chunks.

    Args:
        waveform: Of the whole track.
        sample_rate: Of it, in Hz.
        audio: What the network was trained on.
        source: What the array of a chunk holds, see ``disentangled_ml.chunks``.
        frames: Of a chunk.

    Shape:
        waveform: (n,) floating point, full scale 1.
        returns: (chunks, 1, n_mels, frames) float16, with further rows for features, or (chunks, samples) float32.

    Raises: UnusableAudio: if there is no whole chunk.
    """
    track = open_waveform(waveform, sample_rate, audio, source, frames)
    grid = chunk_grid(track.frames, frames)
    if not grid:
        seconds = len(waveform) / sample_rate
        raise UnusableAudio(f"shorter than a chunk: {seconds:.2f} s, {audio.seconds(frames - 1):.2f} s needed")
    return np.stack([track.read_chunk(start) for start in grid])


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
