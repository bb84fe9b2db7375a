"""From a stream of tracks to training batches: which tracks, which chunks, which triplets.

A bounded pool of tracks stands between the stream and the batches. Half of the tracks of a batch are *fresh*: drawn from the
pool at random, each once per epoch, so an epoch shows every track. The other half are *partners*: a rare anchor, a positive of
it and, where the batch has none, a negative, for one condition after the other, so that every condition has triplets in every
batch and rare tags are not drowned. Everything is drawn from one generator.

Tracks can be stretched in time, each by its own ratio in each batch: all its chunks there are, and its tempo is changed with them, for
the choice of partners, the triplets and the classes alike.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

from disentangled_ml.chunks import tempo_ratio
from disentangled_ml.objective.conditions import Condition, forbid_positives, group_numbers
from disentangled_ml.objective.triplets import TripletMiner
from disentangled_ml.structures import BatchTracks, ChunkBatch

ANCHORS_PER_TRY = 4  # candidates for an anchor

Frames = TypeVar("Frames", int, np.ndarray, Tensor)


@dataclass(frozen=True)
class BatchPlan:
    """How batches are composed.

    Attributes:
        chunk_frames: Length of a chunk.
        chunks_per_track: Chunks of a track in a batch, at most half overlapping where the track is long enough.
        tracks_per_batch: Tracks in a batch, half of them fresh.
        pool_tracks: Tracks held to choose from.
        triplets_per_condition: Triplets drawn per batch for each condition; 0 for none.
        track_triplets: Triplets drawn per batch for the track condition; 0 for none.
        class_targets: Whether the loss compares chunks with classes.
        stretch: Largest change of a track's tempo in a batch, as a ratio, up or down; 0: none.

    Raises: ValueError: if the pool is smaller than a batch, for then an epoch would miss tracks.
    """

    chunk_frames: int = 129
    chunks_per_track: int = 4
    tracks_per_batch: int = 16
    pool_tracks: int = 512
    triplets_per_condition: int = 256
    track_triplets: int = 256
    class_targets: bool = False
    stretch: float = 0.0

    def __post_init__(self):
        if self.pool_tracks < self.tracks_per_batch:
            raise ValueError(
                f"pool_tracks={self.pool_tracks} must be at least tracks_per_batch={self.tracks_per_batch}"
            )

    @property
    def fresh_tracks(self) -> int:
        """Number of tracks in a batch that are seen for the first time in the epoch."""
        return max(1, self.tracks_per_batch // 2)

    def miner(self, conditions: list[Condition]) -> TripletMiner:
        """Return the miner that draws the triplets of a batch."""
        return TripletMiner(conditions, half(self.chunk_frames), self.triplets_per_condition, self.track_triplets)


class StreamedTrack(NamedTuple):
    """A track as it comes from the shards.

    Attributes:
        frames: Length of the spectrogram.
        read_chunk: Returns the audio of the chunk that begins at a frame, of a spectrogram also that made of ``span=`` frames.
        labels: Per condition the tags or the tempo; a condition without label is absent.
        artist: Code of the artist, -1 where unknown.
    """

    frames: int
    read_chunk: Callable[..., np.ndarray]
    labels: Mapping[str, Any]
    artist: int


def half(frames: Frames) -> Frames:
    """Return how many frames chunks begin apart that overlap by half at the most.

    >>> half(129), half(128)
    (65, 64)
    """
    return -(-frames // 2)


def draw_spans(frames: np.ndarray, chunk_frames: int, stretch: float, generator: Generator) -> np.ndarray:
    """Draw of how many frames the chunks of each of N tracks are made, uniformly in the logarithm of the ratio of tempi.

    The ratio lies between 1 / (1 + stretch) and 1 + stretch, or what the track has frames for. Without stretch nothing is drawn.

    Shape:
        frames: (N,) int64, lengths of the tracks, at least ``chunk_frames``.
        returns: (N,) int64.

    >>> draw_spans(np.array([200, 130]), 129, 0.0, torch.Generator()).tolist()
    [129, 129]
    """
    if not stretch:
        return np.full(len(frames), chunk_frames)
    steps = chunk_frames - 1
    chance = torch.rand(len(frames), generator=generator, dtype=torch.float64).numpy()
    slowest, fastest = 1 / (1 + stretch), np.minimum(1 + stretch, tempo_ratio(frames, chunk_frames))
    drawn = np.rint(steps * slowest * (fastest / slowest) ** chance)
    # Rounded outwards, a ratio would be beyond the limits.
    return 1 + drawn.clip(np.ceil(steps * slowest), np.floor(steps * fastest)).astype(np.int64)


def draw_starts(
    frames: Sequence[int] | np.ndarray, chunk_frames: int | np.ndarray, n: int, generator: Generator
) -> Tensor:
    """Draw the first frames (N, n) of n chunks of each of N tracks, from 0 to frames - chunk_frames, one number or (N,).

    Where a track is long enough no two of its chunks overlap by more than half; in a shorter one the starts are drawn
    independently. The first and the last legal start can occur, and all between them unless the track is hardly long enough.

    >>> draw_starts([129, 129], 129, 2, torch.Generator()).tolist()
    [[0, 0], [0, 0]]
    """
    gap = half(np.broadcast_to(chunk_frames, len(frames)))
    last = np.array(frames) - chunk_frames
    slack = last - (n - 1) * gap
    room = np.where(slack >= 0, slack, last).tolist()
    drawn = np.stack([torch.randint(1 + most, (n,), generator=generator).numpy() for most in room])
    return torch.from_numpy(np.where(slack[:, None] >= 0, np.sort(drawn, axis=1) + gap[:, None] * np.arange(n), drawn))


class TrackPool:
    """At most ``size`` streamed tracks, and which of them were fresh already.

    Their labels are encoded when they come, a few tracks at a time, and lie ready in one float array per condition.
    """

    def __init__(self, stream: Iterable[StreamedTrack], conditions: Sequence[Condition], size: int):
        self.stream, self.conditions, self.size = iter(stream), conditions, size
        self.tracks: list[StreamedTrack] = []
        self.used = np.zeros(size, dtype=bool)
        self.encoded = [condition.encode([None] * size).float().numpy() for condition in conditions]
        self.artist, self.lengths = np.full(size, -1), np.zeros(size, dtype=np.int64)

    def refill(self) -> None:
        """Fill up from the stream; tracks that were used give way."""
        begun = len(self.tracks)
        self.tracks += islice(self.stream, self.size - begun)
        self.encode(list(range(begun, len(self.tracks))))
        if len(self.tracks) == self.size:
            taken, free = [], np.flatnonzero(self.used)
            # ``zip`` takes a slot first, so no track is lost.
            for slot, track in zip(free, self.stream, strict=False):
                self.tracks[slot] = track
                taken.append(slot)
            self.used[taken] = False
            self.encode(taken)

    def encode(self, slots: list[int]) -> None:
        if slots:
            tracks = [self.tracks[slot] for slot in slots]
            self.artist[slots] = [track.artist for track in tracks]
            self.lengths[slots] = [track.frames for track in tracks]
            for condition, encoded in zip(self.conditions, self.encoded, strict=True):
                encoded[slots] = condition.encode([track.labels.get(condition.name) for track in tracks]).numpy()

    def draw_fresh(self, n: int, generator: Generator) -> list[int]:
        """Draw up to n slots of tracks not yet used, and mark them used."""
        slots = np.flatnonzero(~self.used[: len(self.tracks)])
        drawn = slots[torch.randperm(len(slots), generator=generator)[:n].numpy()]
        self.used[drawn] = True
        return drawn.tolist()

    def labels(self, ratio: np.ndarray) -> list[np.ndarray]:
        """Return the encoded labels of all tracks held, (N, V) per condition, played faster by ratios (N,)."""
        return [
            condition.stretched(encoded[: len(ratio)], ratio)
            for condition, encoded in zip(self.conditions, self.encoded, strict=True)
        ]

    def frames(self) -> np.ndarray:
        """Return the lengths (N,) of all tracks held."""
        return self.lengths[: len(self.tracks)]

    def groups(self) -> np.ndarray:
        """Return the numbers (N,) of the artists of all tracks held, see ``group_numbers``."""
        return group_numbers(self.artist[: len(self.tracks)])


def draw_slots(
    condition: Condition, labels: np.ndarray, group: np.ndarray, chosen: list[int], generator: Generator
) -> list[int]:
    """Draw the slots of an anchor, rare tags first, of a positive, and of a negative unless one is chosen already.

    Empty only where the tracks (N) allow no triplet at all.

    Shape: labels (N, V) as encoded; group (N,), see ``group_numbers``.
    """
    weight = torch.from_numpy(condition.rarity(labels))
    n_labelled = int(weight.count_nonzero())
    if not n_labelled:
        return []
    # As torch.multinomial draws without replacement: events of rates `weight` occur first in that order.
    arrival_rank = weight / torch.empty_like(weight).exponential_(generator=generator)
    for first in range(0, n_labelled, ANCHORS_PER_TRY):
        anchor = arrival_rank.topk(min(first + ANCHORS_PER_TRY, n_labelled)).indices[first:].numpy()
        forbidden = group[anchor][:, None] == group
        positive, negative = forbid_positives(condition.relate(labels[anchor], labels), forbidden)
        usable = np.flatnonzero(positive.any(1) & negative.any(1))
        if len(usable):
            row = int(usable[0])
            slots = [int(anchor[row]), draw_column(positive[row], generator)]
            if not negative[row, chosen].any():
                slots.append(draw_column(negative[row], generator))
            return slots
    return []


def draw_column(allowed: np.ndarray, generator: Generator) -> int:
    """Draw one of the True of a row (N,), uniformly; at least one is True."""
    columns = np.flatnonzero(allowed)
    chance = torch.rand(1, generator=generator, dtype=torch.float64).item()
    return int(columns[int(chance * len(columns))])


def has_triplet(condition: Condition, labels: np.ndarray, group: np.ndarray) -> bool:
    """Return whether a condition allows a triplet of some tracks: labels (N, V) as encoded, group (N,)."""
    positive, negative = forbid_positives(condition.relate(labels, labels), group[:, None] == group)
    return bool((positive.any(1) & negative.any(1)).any())


def choose_tracks(
    pool: TrackPool, labels: list[np.ndarray], conditions: list[Condition], plan: BatchPlan, generator: Generator
) -> list[int]:
    """Choose the slots of a batch: fresh tracks, then partners for one condition after the other, then any.

    Conditions of which the fresh tracks have no triplet come first.

    Shape: labels (N, V) per condition, of all tracks held.
    """
    wanted = min(plan.tracks_per_batch, len(pool.tracks))
    fresh = pool.draw_fresh(plan.fresh_tracks, generator)
    chosen, group = dict.fromkeys(fresh), pool.groups()
    turns = torch.randperm(len(conditions), generator=generator).tolist()
    turns.sort(key=lambda c: has_triplet(conditions[c], labels[c][fresh], group[fresh]))
    # A turn adds three tracks at the most, perhaps none.
    for turn in range(wanted - len(chosen)):
        if len(chosen) >= wanted:
            break
        c = turns[turn % len(turns)]
        chosen.update(dict.fromkeys(draw_slots(conditions[c], labels[c], group, list(chosen), generator)))
    order = torch.randperm(len(pool.tracks), generator=generator)
    others = order[:wanted].tolist()  # enough, whichever are chosen already
    return list(chosen | dict.fromkeys(others))[:wanted]


def in_chunk_frames(starts: Tensor, spans: np.ndarray, chunk_frames: int) -> Tensor:
    """Return the first frames (N, k) of the chunks as if their tracks had been stretched as a whole.

    Chunks half a span (N,) apart are half a chunk apart then. By rounding, those a frame nearer may be.

    >>> in_chunk_frames(torch.tensor([[10, 85], [10, 75]]), np.array([150, 129]), 129).tolist()
    [[8, 73], [10, 75]]
    """
    return starts * half(chunk_frames) // half(torch.from_numpy(spans))[:, None]


def chunk_reader(track: StreamedTrack, span: int, plan: BatchPlan) -> Callable[[int], np.ndarray]:
    """Return what reads a track's chunks, made of ``span`` frames."""
    return track.read_chunk if span == plan.chunk_frames else partial(track.read_chunk, span=span)


def compose_batches(
    stream: Iterable[StreamedTrack],
    conditions: list[Condition],
    plan: BatchPlan,
    n_batches: int,
    generator: Generator,
    n_skipped: int = 0,
) -> Iterator[ChunkBatch]:
    """Compose exactly n batches; every track of the stream is in at least one, if n_batches * fresh_tracks suffices.

    The first ``n_skipped`` are left out: all that is drawn for them is drawn, so the others are the same, but no audio is read.
    """
    pool, miner = TrackPool(stream, conditions, plan.pool_tracks), plan.miner(conditions)
    for number in range(n_batches):
        pool.refill()
        if not pool.tracks:
            return
        spans = draw_spans(pool.frames(), plan.chunk_frames, plan.stretch, generator)
        labels = pool.labels(tempo_ratio(spans, plan.chunk_frames))
        slots = choose_tracks(pool, labels, conditions, plan, generator)
        spans = spans[slots]
        starts = draw_starts(pool.lengths[slots], spans, plan.chunks_per_track, generator)
        related = BatchTracks(
            [torch.from_numpy(encoded[slots]) for encoded in labels],
            torch.from_numpy(pool.artist[slots]),
            in_chunk_frames(starts, spans, plan.chunk_frames),
        )
        triplets = miner.draw(related, generator)
        if number < n_skipped:
            continue
        readers = [
            chunk_reader(pool.tracks[slot], span, plan) for slot, span in zip(slots, spans.tolist(), strict=True)
        ]
        chunks = (read(start) for read, row in zip(readers, starts.tolist(), strict=True) for start in row)
        targets = [
            condition.targets(encoded).repeat_interleave(plan.chunks_per_track, dim=0)
            for condition, encoded in zip(conditions, related.labels, strict=True)
            if plan.class_targets
        ]
        yield ChunkBatch(torch.from_numpy(stacked(chunks, starts.numel())), triplets, targets, related)


def stacked(arrays: Iterable[np.ndarray], n: int) -> np.ndarray:
    """Copy n >= 1 arrays of one shape into one, each as soon as it is there: in half the time of ``np.stack``.

    >>> stacked(iter([np.zeros(3), np.ones(3)]), 2).shape
    (2, 3)
    """
    whole = np.empty(0)
    for row, array in enumerate(arrays):
        if not row:
            whole = np.empty((n, *array.shape), array.dtype)
        whole[row] = array
    return whole
