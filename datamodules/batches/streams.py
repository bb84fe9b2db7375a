"""The two data sets that the loaders iterate over: training batches, and whole tracks for evaluation.

Everything drawn depends on (seed, epoch, consumer) alone, where a consumer is one loading process of one rank. The samples
of a split are cut into one equal contiguous share per consumer (after the shards are shuffled, in training), so that any
number of shards, workers and ranks sees each track exactly once, in the same number of batches.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.audio.decoding import decode_flac
from datamodules.batches.composer import BatchPlan, StreamedTrack, compose_batches, stacked
from datamodules.shards.damage import DamageBudget
from datamodules.shards.estimates import labelled
from datamodules.shards.index import FEATURES_MEMBER, MEMBERS, Shard, ShardIndex, ShardsError
from datamodules.shards.tar import (
    check_split,
    decode_features,
    decode_info,
    decode_mel,
    known_tracks,
    read_samples,
    sample_context,
    share_slices,
)
from disentangled_ml.chunks import FEATURE_SIZE, pack, split_source, stretch, windows_of
from disentangled_ml.objective.conditions import Condition
from disentangled_ml.structures import (
    AudioSettings,
    ChunkBatch,
    TrackChunks,
    TrackInfo,
    chunk_grid,
    name_code,
    seeded_generator,
)


class ChunkOutside(ShardsError):
    """Error for a chunk that is asked for beyond the end of its track."""


def check_starts(track_id: str, starts: Iterable[int], last: int, audio: AudioSettings) -> None:
    """Check that chunks begin between the beginning of a track and its last possible start. Raises ChunkOutside."""
    for start in starts:
        if not 0 <= start <= last:
            longest = "it is shorter than one" if last < 0 else f"the last one begins at {audio.seconds(last):.2f} s"
            raise ChunkOutside(f"track {track_id!r} has no chunk from {audio.seconds(start):.2f} s on, {longest}")


def mel_chunk(mel: np.ndarray, frames: int, start: int, span: int | None = None) -> np.ndarray:
    """Cut a chunk (1, n_mels, frames) out of a spectrogram (n_mels, F), or make it of ``span`` frames of it."""
    if span is None:
        return mel[None, :, start : start + frames]
    return stretch(mel[:, start : start + span], frames)[None]


def packed_chunk(
    mel: np.ndarray,
    features: np.ndarray,
    audio: AudioSettings,
    frames: int,
    start: int,
    span: int | None = None,
) -> np.ndarray:
    """Cut a chunk (1, n_mels + rows, frames) with the mean of the features (windows, F) in it below its spectrogram.

    Of a chunk made of ``span`` frames the features are those of the sound before it was stretched.
    """
    windows = windows_of(audio.seconds(start), audio.seconds(span or frames), len(features))
    return pack(mel_chunk(mel, frames, start, span), features[windows].mean(0, dtype=np.float32))


def waveform_chunk(flac: bytes, audio: AudioSettings, frames: int, start: int) -> np.ndarray:
    """Decode the samples (samples,) whose spectrogram is the chunk."""
    first = start * audio.hop_length
    return decode_flac(flac, first, first + audio.chunk_samples(frames))


@dataclass(frozen=True)
class Source:
    """What is read: which shards, which conditions, which member of a sample, by whom.

    Attributes:
        index: Of the shards.
        conditions: In order.
        source: What the array of a chunk holds, see ``disentangled_ml.chunks``.
        chunk_frames: Length of a chunk.
        rank: Of this process.
        world_size: Number of processes.
        workers: Loading processes of each; 0: the process itself.
        max_damaged: Share of a split's samples that may be damaged or missing: they are skipped.
    """

    index: ShardIndex
    conditions: list[Condition]
    source: str = "mel"
    chunk_frames: int = 129
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    max_damaged: float = 0.0

    def __post_init__(self):
        audio, features = split_source(self.source)
        if audio == "waveform" and not self.index.has_waveform:
            raise ShardsError(
                f"{self.index.root} holds no waveforms, which this frontend needs: prepare with store_waveform=true"
            )
        lacking = [name for name in features if name not in self.index.features]
        if lacking:
            held = f"those of {', '.join(self.index.features)}" if self.index.features else "none"
            raise ShardsError(
                f"{self.index.root} holds no musicnn features of {', '.join(lacking)}, which this network reads, but {held}: "
                "prepare with features=musicnn (msd) or musicnn_both (msd, mtt)"
            )

    @property
    def members(self) -> tuple[str, ...]:
        """Members of a sample that are read."""
        audio, features = split_source(self.source)
        return ("json", MEMBERS[audio], *([FEATURES_MEMBER] if features else []))

    @property
    def n_consumers(self) -> int:
        """Number of loading processes of all ranks."""
        return self.world_size * max(1, self.workers)

    def batches_per_consumer(self, split: str, tracks_per_batch: int) -> int:
        """Return the number of batches of each consumer: enough for the largest share of a split."""
        share = -(-self.index.count(split) // self.n_consumers)
        return -(-share // tracks_per_batch)

    def consumer(self, first_batch: int = 0) -> int:
        """Return the number of this loading process, or of the one that it stands in for.

        A loader takes batches from its workers in turn and always begins with worker 0. To resume from a later batch, that
        worker stands in for the one whose turn it is, the next for the next.
        """
        worker, workers = get_worker_info(), max(1, self.workers)
        return self.rank * workers + ((worker.id if worker else 0) + first_batch) % workers

    def read(
        self,
        shards: list[Shard],
        share: int,
        tell_lost: Callable[[Shard, int], None] | None = None,
        check: Callable[[TrackInfo], None] = lambda info: None,
    ) -> Iterator[tuple[TrackInfo, StreamedTrack]]:
        """Stream one of ``n_consumers`` equal shares of the shards.

        Args:
            shards: In order.
            share: Its number.
            tell_lost: Called with a shard and the number of its samples that are skipped, whenever some are.
            check: Raises a ShardsError for a track that is to be skipped as damaged.

        Raises: ShardsError: if too many samples are damaged, or a track is shorter than a chunk.
        """
        slices = share_slices(shards, share, self.n_consumers)
        own = sum(part.stop - part.start for part in slices)
        damage = DamageBudget(sum(shard.samples for shard in shards), own, self.max_damaged)

        def record(shard: Shard, error: ShardsError, lost: int) -> None:
            if not damage.lost:
                # Shards that were replaced look as damaged ones do.
                self.index.check_unchanged()
            damage.record(error, lost)
            if tell_lost is not None:
                tell_lost(shard, lost)

        for part in slices:
            for sample in read_samples(self.index.root, [part], self.members, partial(record, part.shard)):
                try:
                    with sample_context(sample):
                        info, track = self.decode(sample)
                        check(info)
                except ShardsError as error:
                    record(part.shard, error, 1)
                    continue
                if info.frames < self.chunk_frames:
                    raise ShardsError(
                        f"track {info.track_id} of {self.index.root} has {info.frames} frames, fewer than "
                        f"data.chunk_frames={self.chunk_frames}: shorten the chunks, or prepare with that chunk_frames"
                    )
                yield info, track

    def decode(self, sample: dict[str, Any]) -> tuple[TrackInfo, StreamedTrack]:
        """Decode a sample but for its chunks."""
        info = labelled(decode_info(sample["json"]), self.index.thresholds())
        audio, features = split_source(self.source)
        if audio == "waveform":
            read_chunk = partial(waveform_chunk, sample[MEMBERS[audio]], self.index.audio, self.chunk_frames)
            return info, StreamedTrack(info.frames, read_chunk, info.labels, name_code(info.artist))
        mel = decode_mel(sample[MEMBERS[audio]])
        if mel.shape != (self.index.audio.n_mels, info.frames):
            raise ShardsError(f"its spectrogram has shape {mel.shape}, its labels say {info.frames} frames")
        read_chunk = partial(mel_chunk, mel, self.chunk_frames)
        if features:
            stored = decode_features(sample[FEATURES_MEMBER], FEATURE_SIZE * len(self.index.features))
            wanted = stored.reshape(len(stored), -1, FEATURE_SIZE)[:, [*map(self.index.features.index, features)]]
            read_chunk = partial(
                packed_chunk, mel, wanted.reshape(len(stored), -1), self.index.audio, self.chunk_frames
            )
        return info, StreamedTrack(info.frames, read_chunk, info.labels, name_code(info.artist))


class TrainingStream(IterableDataset):
    """The ``ChunkBatch``es of the epoch last set, or what is left of them from a given batch on.

    Args:
        source: What is read.
        plan: How batches are composed.
        seed: Of everything drawn.

    Raises: ShardsError: if there are fewer training tracks than loading processes.
    """

    def __init__(self, source: Source, plan: BatchPlan, seed: int):
        self.source, self.plan, self.seed = source, plan, seed
        # Tensors, since sending those to loading processes shares them: workers that live on see what changes.
        self.epoch, self.first_batch = torch.tensor(0), torch.tensor(0)
        # Samples that each loading process could not read of each shard, in its epoch.
        self.lost = torch.zeros(max(1, source.workers), len(source.index.splits["train"]), dtype=torch.int32)
        self.n_batches, n_tracks = source.batches_per_consumer("train", plan.fresh_tracks), source.index.count("train")
        if not n_tracks:
            raise ShardsError(f"{source.index.root} has no training tracks: check the manifest's split column")
        if n_tracks < source.n_consumers:
            raise ShardsError(
                f"{source.index.root} has {n_tracks} training tracks for {source.n_consumers} loading processes: "
                "use fewer devices or data.workers"
            )

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        self.epoch.fill_(epoch)
        self.first_batch.fill_(first_batch)

    def __len__(self) -> int:
        """Number of batches of this rank in an epoch."""
        return self.n_batches * max(1, self.source.workers)

    def __iter__(self) -> Iterator[ChunkBatch]:
        epoch, first_batch = int(self.epoch), int(self.first_batch)
        shards = self.source.index.splits["train"]
        order = torch.randperm(len(shards), generator=seeded_generator(self.seed, epoch)).tolist()
        consumer = self.source.consumer(first_batch)
        # Of a rank's batches, turn, turn + turns, turn + 2 * turns, ... are this process's.
        turns = len(self.lost)
        turn = consumer % turns
        # Of a few shards it would otherwise always read the same tracks.
        share = (consumer + epoch) % self.source.n_consumers
        lost, number = self.lost[turn].zero_(), {shard.file: i for i, shard in enumerate(shards)}

        def tell_lost(shard: Shard, n: int) -> None:
            lost[number[shard.file]] += n

        tracks = (track for _, track in self.source.read([shards[i] for i in order], share, tell_lost))
        generator = seeded_generator(self.seed, epoch, consumer)
        n_skipped = -(-(first_batch - turn) // turns)
        yield from compose_batches(tracks, self.source.conditions, self.plan, self.n_batches, generator, n_skipped)


@dataclass
class EvaluationStream(IterableDataset):
    """The whole tracks of a split, ``tracks_per_batch`` at a time, always the same.

    Each track comes with its non-overlapping chunks and with those that begin at the requested frames. Every rank gets the
    same number of batches; where its share is smaller the last track comes again.

    Args:
        source: What is read.
        split: ``train``, ``val`` or ``test``.
        tracks_per_batch: Tracks per batch.
        requested: Further starts (frames) per track.
        only: Tracks to read, the others are left out; then ranks may get different numbers of batches.

    Raises: ChunkOutside: if a requested chunk lies outside of its track.
    """

    source: Source
    split: str
    tracks_per_batch: int = 8
    requested: dict[str, set[int]] = field(default_factory=dict)
    only: frozenset[str] | None = None

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return self.source.batches_per_consumer(self.split, self.tracks_per_batch) * max(1, self.source.workers)

    def __iter__(self) -> Iterator[TrackChunks]:
        batch, given, last = [], 0, []
        shards = self.source.index.splits[self.split]
        check = partial(check_split, split=self.split, known=known_tracks(self.source.index, self.split))
        for track in self.source.read(shards, self.source.consumer(), check=check):
            if self.only is not None and track[0].track_id not in self.only:
                continue
            batch.append(track)
            if len(batch) == self.tracks_per_batch:
                yield self.cut(batch)
                given, last, batch = given + 1, batch[-1:], []
        if batch:
            yield self.cut(batch)
            given, last = given + 1, batch[-1:]
        if self.only is not None:
            return
        # The last share is the largest.
        last = last or list(islice(self.source.read(shards, self.source.n_consumers - 1, check=check), 1))
        for _ in range(given, self.source.batches_per_consumer(self.split, self.tracks_per_batch)):
            yield self.cut(last)

    def cut(self, tracks: list[tuple[TrackInfo, StreamedTrack]]) -> TrackChunks:
        frames = self.source.chunk_frames
        audio, rows = [], []
        for row, (info, track) in enumerate(tracks):
            grid = chunk_grid(info.frames, frames)
            starts = sorted({*grid, *self.requested.get(info.track_id, ())})
            check_starts(info.track_id, starts, info.frames - frames, self.source.index.audio)
            audio += [track.read_chunk(start) for start in starts]
            rows += [(row, start, start in grid) for start in starts]
        track_row, start, in_mean = (torch.tensor(column) for column in zip(*rows, strict=True))
        ids = [info.track_id for info, _ in tracks]
        return TrackChunks(torch.from_numpy(stacked(audio, len(audio))), track_row, start, in_mean, ids)
