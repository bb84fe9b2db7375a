"""What travels between the data modules, the network and the callbacks, and the names and numbers that they share.

Conventions, used everywhere in the project:

* ``B`` chunks in a batch, ``T`` triplets, ``C`` conditions, ``D`` embedding dimensions.
* A *condition index* is the position of a condition in the configured order; the index ``C`` stands for ``track``.
* A triplet is always (anchor, positive, negative).
* A *start* is counted in frames of the spectrogram; ``None`` stands for the whole track.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Generator, Tensor

TRACK = "track"  # condition "from the same recording"
# Of no condition: reports and logs have entries of these names.
RESERVED_NAMES = (TRACK, "mean")
TEMPO = "tempo"  # condition that numbers label
MIN_BPM, MAX_BPM = 10.0, 1000.0  # anything else is a unit or parsing error
SPLITS = ("train", "val", "test")
WHOLE = (0.0, None)  # section that is the whole recording
# Columns of a manifest that tell which recording it is, not what it is like.
METADATA = ("title", "album", "album_artist", "date", "isrc", "musicbrainz_recording", "musicbrainz_album")
DUPLICATE = "duplicate track_id, the first one is kept"  # why a row is rejected
UNKNOWN = -1
MOST_SHOWN = 60  # characters of a cell or a name in a message


@dataclass(frozen=True)
class AudioSettings:
    """How a recording becomes a log-mel spectrogram (J. Lee et al., ICASSP 2020).

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
        """Return the time in seconds at which a frame begins.

        >>> round(AudioSettings().seconds(129), 3)
        2.995
        """
        return frames * self.hop_length / self.sample_rate

    def frames(self, seconds: float) -> int:
        """Return the frame nearest to a time in seconds, the inverse of ``seconds``.

        >>> AudioSettings().frames(AudioSettings().seconds(77))
        77
        """
        return round(seconds * self.sample_rate / self.hop_length)

    def chunk_samples(self, frames: int) -> int:
        """Return the number of samples whose centred spectrogram has ``frames`` frames.

        >>> AudioSettings().chunk_samples(129)
        65536
        """
        return (frames - 1) * self.hop_length


class TripletBatch(NamedTuple):
    """Triplets as index rows into a batch of chunks.

    Shape:
        indices: (T, 3) int64, columns anchor, positive, negative.
        condition: (T,) int64, condition index of each triplet; ``C`` for track.
    """

    indices: Tensor
    condition: Tensor


class AllTriplets(NamedTuple):
    """All triplets of a batch of B chunks, without a list of them: each positive of an anchor with each of its negatives.

    Shape:
        positive: (C + 1, A, B) bool, which chunks are positives of each anchor, per condition and for track.
        negative: (C + 1, A, B) bool, never True where ``positive`` is.
        first: number; the anchors are the A chunks of the batch from this one on.
    """

    positive: Tensor
    negative: Tensor
    first: int


class BatchTracks(NamedTuple):
    """Labels, artists and chunk starts of a batch, stored track by track (k chunks of each of N tracks, B = N * k).

    On the CPU they may be NumPy arrays, whose relations take less time.

    Shape:
        labels: C tensors (N, V_c), as encoded by each condition.
        artist: (N,) int64, -1 where unknown.
        start: (N, k) int64, first frames of the chunks; of stretched tracks as if they were stretched as a whole.
    """

    labels: list[Tensor]
    artist: Tensor
    start: Tensor


class ChunkBatch(NamedTuple):
    """Chunks of a training batch, each to be embedded once, and their triplets.

    Shape:
        audio: (B, 1, n_mels, frames) log-mel, or (B, samples) waveform.
        triplets: rows into ``audio``.
        targets: C tensors (B, K_c) float32, shares of a chunk in the classes of each condition, zero where unlabelled; none where
            the loss knows no classes.
        tracks: labels, artists and starts of the chunks, for triplets over the batches of all ranks.
    """

    audio: Tensor
    triplets: TripletBatch
    targets: list[Tensor]
    tracks: BatchTracks


class TrackChunks(NamedTuple):
    """Chunks of whole tracks for evaluation.

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
    """Member of a listed triplet: a track, or its chunk that begins at frame ``start``."""

    track_id: str
    start: int | None = None


class TrackInfo(NamedTuple):
    """What is known about a track besides its audio.

    Attributes:
        track_id: Unique name.
        artist: Name of the artist, None where unknown.
        frames: Length of its spectrogram.
        labels: Per condition the tags (list of str) or the tempo (float, BPM); a condition without label is absent.
        other_tempo: Where the tempo was estimated and its octave is ambiguous, the other one (BPM).
        estimates: Per condition whose tags are estimated, the probability of each tag.
    """

    track_id: str
    artist: str | None
    frames: int
    labels: dict[str, list[str] | float]
    other_tempo: float | None = None
    estimates: dict[str, dict[str, float]] | None = None

    def as_plain(self) -> dict[str, Any]:
        """Return what is stored of it; a second tempo and estimates only where there are some.

        >>> TrackInfo("a", None, 129, {"tempo": 60.0}).as_plain()
        {'track_id': 'a', 'artist': None, 'frames': 129, 'labels': {'tempo': 60.0}}
        """
        content = self._asdict()
        for name in ("other_tempo", "estimates"):
            if content[name] is None:
                del content[name]
        return content


class TrackRecord(NamedTuple):
    """A recording with its labels, as a data set lists it.

    Attributes:
        track_id: Unique name.
        path: Of the audio file.
        artist: None where unknown.
        split: ``train``, ``val`` or ``test``.
        labels: Tags (list of str) per tag condition, and ``tempo`` (float, BPM); a missing label is absent.
        section: Stretch of the recording, from and to where in seconds; None: to its end.
        metadata: What else the manifest says of it, by ``METADATA``; None where it says nothing.
    """

    track_id: str
    path: str
    artist: str | None
    split: str
    labels: dict[str, list[str] | float]
    section: tuple[float, float | None] = WHOLE
    metadata: dict[str, str] | None = None

    def content(self) -> str:
        """Return the text that identifies the record in a plan: what it is made into, which metadata do not change.

        That of a whole recording is the same as before sections.

        >>> TrackRecord("a", "a.wav", None, "val", {}, metadata={"title": "A"}).content()
        "TrackRecord(track_id='a', path='a.wav', artist=None, split='val', labels={})"
        """
        shown = [*zip(self._fields, self, strict=True)][: 5 if self.section == WHOLE else 6]
        return f"TrackRecord({', '.join(f'{name}={value!r}' for name, value in shown)})"


class Rejected(NamedTuple):
    """A line of ``rejected.csv``."""

    track_id: str
    path: str
    reason: str


class TrackWarning(NamedTuple):
    """A line of ``warnings.csv``: a track that is used, and what about it is not as it should be, the kind before the colon."""

    track_id: str
    path: str
    warning: str


class Corpus(NamedTuple):
    """A data set, whose rows are streamed, never held: it may have millions of them.

    Attributes:
        conditions: Names, in order.
        rows: Streams all rows from the beginning at each call, always in the same order. A row that cannot be used comes as
            ``Rejected``; a track_id may come twice, the first one counts. Whether a recording exists turns out when it is decoded.
        notes: What the reader has changed or left out, in numbers, a line each.
    """

    conditions: list[str]
    rows: Callable[[], Iterator[TrackRecord | Rejected]]
    notes: Sequence[str] = ()


class ListedTriplet(NamedTuple):
    """Triplet of a fixed list; the condition may be ``track``."""

    condition: str
    anchor: Member
    positive: Member
    negative: Member


ROLES = ListedTriplet._fields[1:]
TRIPLET_COLUMNS = ("condition", *(f"{role}_{part}" for role in ROLES for part in ("id", "start")))  # of a list's CSV
VOTE_COLUMNS = ("positive_votes", "negative_votes")  # besides, from a listening test


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """Return a text for a message; of a long one its beginning.

    >>> shortened("rock"), shortened("x" * 1000, most=3)
    ('rock', 'xxx...')
    """
    return text if len(text) <= most else f"{text[:most]}..."


def quoted(text: str) -> str:
    """Return a text in quotes for a message; of a long one its beginning.

    >>> quoted("rock"), len(quoted("x" * 1000))
    ("'rock'", 65)
    """
    return repr(shortened(text))


def stable_hash(text: str, digest_size: int = 8) -> int:
    """Return a number from 0 to ``256**digest_size - 1`` that is the same in every process.

    >>> stable_hash("Miles Davis") == stable_hash("Miles Davis") != stable_hash("John Coltrane")
    True
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=digest_size).digest(), "big")


def name_code(name: str | None) -> int:
    """Return the number, from 0 to 2**63 - 1, that stands for a name of an artist or track; ``UNKNOWN`` without one.

    >>> name_code("Miles Davis") == stable_hash("Miles Davis") >> 1, name_code(None), name_code("")
    (True, -1, -1)
    """
    return stable_hash(name) >> 1 if name else UNKNOWN


def chunk_grid(frames: int, chunk_frames: int) -> range:
    """Return the first frames of the non-overlapping chunks of a track, whose mean is its embedding.

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
