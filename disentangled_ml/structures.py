"""Shapes that travel between the data modules, the model and the callbacks.

Conventions, used everywhere in the project:

* ``B`` chunks in a batch, ``T`` triplets, ``C`` conditions, ``D`` embedding dimensions.
* A *condition index* is the position of a condition in the configured order; the index ``C`` stands for ``track``.
* A triplet is always (anchor, positive, negative).
* A *start* is counted in frames of the spectrogram; ``None`` stands for the whole track.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Generator, Tensor

TRACK = "track"  # the name of the condition "from the same recording"
RESERVED_NAMES = (TRACK, "mean")  # of no condition: reports and logs have entries of these names
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class AudioSettings:
    """Describe how a recording becomes a log-mel spectrogram (J. Lee et al., ICASSP 2020).

    Attributes:
        sample_rate: In Hz; every recording is resampled to it.
        n_fft: Window and FFT length in samples.
        hop_length: Step between frames in samples.
        n_mels: Number of mel bands (Slaney scale and norm, magnitude, as librosa's).
    """

    sample_rate: int = 22050
    n_fft: int = 1024
    hop_length: int = 512
    n_mels: int = 128

    def seconds(self, frames: int) -> float:
        """Give the time in seconds at which a frame begins.

        >>> round(AudioSettings().seconds(129), 3)
        2.995
        """
        return frames * self.hop_length / self.sample_rate

    def frames(self, seconds: float) -> int:
        """Give the frame nearest to a time in seconds; undoes ``seconds``.

        >>> AudioSettings().frames(AudioSettings().seconds(77))
        77
        """
        return round(seconds * self.sample_rate / self.hop_length)

    def chunk_samples(self, frames: int) -> int:
        """Give the number of samples whose centred spectrogram has ``frames`` frames.

        >>> AudioSettings().chunk_samples(129)
        65536
        """
        return (frames - 1) * self.hop_length


class TripletBatch(NamedTuple):
    """Hold triplets as index rows into a batch of chunks.

    Shape:
        indices: (T, 3) int64, columns anchor, positive, negative.
        condition: (T,) int64, condition index of each triplet; ``C`` for track.
    """

    indices: Tensor
    condition: Tensor


class AllTriplets(NamedTuple):
    """Hold all triplets of a batch of B chunks, without a list of them: each positive of an anchor meets each negative of it.

    Shape:
        positive: (C + 1, A, B) bool, which chunks are positives of each anchor, per condition and for track.
        negative: (C + 1, A, B) bool, never True where ``positive`` is.
        first: number; the anchors are the A chunks of the batch from this one on.
    """

    positive: Tensor
    negative: Tensor
    first: int


class BatchTracks(NamedTuple):
    """Hold what relates the chunks of a batch: they lie track by track, k of each of N tracks, so B = N * k.

    On the CPU they may be NumPy arrays, to be related in less time.

    Shape:
        labels: C tensors (N, V_c), as encoded by each condition.
        artist: (N,) int64, -1 where unknown.
        start: (N, k) int64, first frames of the chunks.
    """

    labels: list[Tensor]
    artist: Tensor
    start: Tensor


class ChunkBatch(NamedTuple):
    """Hold the chunks of a training batch, each to be embedded once, and their triplets.

    Shape:
        audio: (B, 1, n_mels, frames) log-mel, or (B, samples) waveform.
        triplets: rows into ``audio``.
        targets: C tensors (B, K_c) float32, shares of a chunk in the classes of each condition, zero where unlabelled; none where
            the loss knows no classes.
        tracks: what relates the chunks, for triplets over the batches of all ranks.
    """

    audio: Tensor
    triplets: TripletBatch
    targets: list[Tensor]
    tracks: BatchTracks


class TrackChunks(NamedTuple):
    """Hold chunks of whole tracks for evaluation.

    Shape:
        audio: (B, 1, n_mels, frames) or (B, samples).
        track: (B,) int64, row into ``track_ids``.
        start: (B,) int64, first frame of each chunk.
        in_mean: (B,) bool, True for the non-overlapping chunks whose mean is the track's embedding.
        track_ids: the tracks, one string each.
    """

    audio: Tensor
    track: Tensor
    start: Tensor
    in_mean: Tensor
    track_ids: list[str]


class Member(NamedTuple):
    """Name one member of a listed triplet: a track, or the chunk of it that begins at frame ``start``."""

    track_id: str
    start: int | None = None


class TrackInfo(NamedTuple):
    """Hold what is known about one track besides its audio.

    Attributes:
        track_id: Unique name.
        artist: Name of the artist, None where unknown.
        frames: Length of its spectrogram.
        labels: Per condition the tags (list of str) or the tempo (float, BPM); a condition without label is absent.
    """

    track_id: str
    artist: str | None
    frames: int
    labels: dict[str, list[str] | float]


class ListedTriplet(NamedTuple):
    """Hold one triplet of a fixed list; the condition may be ``track``."""

    condition: str
    anchor: Member
    positive: Member
    negative: Member


def chunk_grid(frames: int, chunk_frames: int) -> range:
    """Give the first frames of the non-overlapping chunks of a track, whose mean is its embedding.

    >>> list(chunk_grid(300, 129)), list(chunk_grid(128, 129))
    ([0, 129], [])
    """
    return range(0, frames - chunk_frames + 1, chunk_frames)


def requested_starts(members: Iterable[Member]) -> dict[str, set[int]]:
    """Collect the first frames of the chunks among members, per track.

    >>> requested_starts([Member("a", 0), Member("a", 129), Member("b")])
    {'a': {0, 129}}
    """
    starts: dict[str, set[int]] = {}
    for member in members:
        if member.start is not None:
            starts.setdefault(member.track_id, set()).add(member.start)
    return starts


def seeded_generator(*numbers: int) -> Generator:
    """Return a generator seeded by several numbers, such as (seed, epoch, consumer)."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(state) >> 1)
