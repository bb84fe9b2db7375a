"""The two data sets that the loaders iterate over: training batches, and whole tracks for evaluation.

Everything drawn depends on (seed, epoch, consumer) alone, where a consumer is one loading process of one rank. The samples
of a split are cut into one equal contiguous share per consumer (after the shards are shuffled, in training), so that any
number of shards, workers and ranks sees each track exactly once, in the same number of batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Generator
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.audio import decode_flac
from datamodules.composer import BatchPlan, StreamedTrack, compose_batches
from datamodules.index import Shard, ShardIndex, ShardsError
from datamodules.shards import MEMBERS, decode_info, decode_mel, naming, read_samples, share_slices
from disentangled_ml.conditions import Condition
from disentangled_ml.structures import AudioSettings, ChunkBatch, TrackChunks, TrackInfo


def seeded_generator(*numbers: int) -> Generator:
    """Make a generator from several numbers, such as (seed, epoch, consumer)."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(state) >> 1)


def artist_code(artist: str | None) -> int:
    """Turn a name into a number that is the same in every process; -1 where unknown."""
    if not artist:
        return -1
    return int.from_bytes(hashlib.blake2b(artist.encode(), digest_size=8).digest(), "big") >> 1


def mel_chunk(mel: np.ndarray, frames: int, start: int) -> np.ndarray:
    """Cut a chunk out of a spectrogram (n_mels, F); gives (1, n_mels, frames)."""
    return mel[None, :, start : start + frames]


def waveform_chunk(flac: bytes, audio: AudioSettings, frames: int, start: int) -> np.ndarray:
    """Decode the samples whose spectrogram is the chunk; gives (samples,)."""
    first = start * audio.hop_length
    return decode_flac(flac, first, first + audio.chunk_samples(frames))


@dataclass(frozen=True)
class Source:
    """Say what is read: which shards, which conditions, which member of a sample, by whom.

    Attributes:
        index: Of the shards.
        conditions: In order.
        audio: ``mel`` or ``waveform``, what the model's frontend wants.
        chunk_frames: Length of a chunk.
        rank: Of this process.
        world_size: Number of processes.
        workers: Loading processes of each; 0: the process itself.
    """

    index: ShardIndex
    conditions: list[Condition]
    audio: str = "mel"
    chunk_frames: int = 129
    rank: int = 0
    world_size: int = 1
    workers: int = 0

    def __post_init__(self):
        if self.audio == "waveform" and not self.index.has_waveform:
            raise ShardsError(
                f"{self.index.root} holds no waveforms, which this frontend needs: prepare with store_waveform=true"
            )

    @property
    def n_consumers(self) -> int:
        """Number of loading processes of all ranks."""
        return self.world_size * max(1, self.workers)

    def consumer(self) -> int:
        """Give the number of this loading process."""
        worker = get_worker_info()
        return self.rank * max(1, self.workers) + (worker.id if worker else 0)

    def read(self, shards: list[Shard], share: int) -> Iterator[tuple[TrackInfo, StreamedTrack]]:
        """Stream one of ``n_consumers`` equal shares of the shards.

        Raises:
            ShardsError: if a track is shorter than a chunk.
        """
        member = MEMBERS[self.audio]
        slices = share_slices(shards, share, self.n_consumers)
        for sample in read_samples(self.index.root, slices, ("json", member)):
            with naming(self.index.root, sample):
                info = decode_info(sample["json"])
                mel = decode_mel(sample[member]) if self.audio == "mel" else None
                if mel is not None and mel.shape != (self.index.audio.n_mels, info.frames):
                    raise ShardsError(f"its spectrogram has shape {mel.shape}, its labels say {info.frames} frames")
            if info.frames < self.chunk_frames:
                raise ShardsError(
                    f"track {info.track_id} of {self.index.root} has {info.frames} frames, fewer than "
                    f"data.chunk_frames={self.chunk_frames}: shorten the chunks, or prepare with that chunk_frames"
                )
            if mel is not None:
                read_chunk = partial(mel_chunk, mel, self.chunk_frames)
            else:
                read_chunk = partial(waveform_chunk, sample[member], self.index.audio, self.chunk_frames)
            labels = [condition.encode([info.labels.get(condition.name)]) for condition in self.conditions]
            yield info, StreamedTrack(info.frames, read_chunk, labels, artist_code(info.artist))


class TrainingStream(IterableDataset):
    """Iterate over the ``ChunkBatch``es of the epoch last set.

    Args:
        source: What is read.
        plan: How batches are composed.
        seed: Of everything drawn.

    Raises:
        ShardsError: if there are fewer training tracks than loading processes.
    """

    def __init__(self, source: Source, plan: BatchPlan, seed: int):
        self.source, self.plan, self.seed = source, plan, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see it change
        self.n_tracks = source.index.count("train")
        if not self.n_tracks:
            raise ShardsError(f"{source.index.root} has no training tracks: check the manifest's split column")
        if self.n_tracks < source.n_consumers:
            raise ShardsError(
                f"{source.index.root} has {self.n_tracks} training tracks for {source.n_consumers} loading processes: "
                "use fewer devices or data.workers"
            )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch.fill_(epoch)

    @property
    def batches_per_consumer(self) -> int:
        """Number of batches of each consumer: enough for the largest share."""
        share = -(-self.n_tracks // self.source.n_consumers)
        return -(-share // self.plan.fresh_tracks)

    def __len__(self) -> int:
        """Number of batches of this rank in an epoch."""
        return self.batches_per_consumer * max(1, self.source.workers)

    def __iter__(self) -> Iterator[ChunkBatch]:
        epoch = int(self.epoch)
        shards = self.source.index.splits["train"]
        order = torch.randperm(len(shards), generator=seeded_generator(self.seed, epoch)).tolist()
        consumer = self.source.consumer()
        share = (
            consumer + epoch
        ) % self.source.n_consumers  # a few shards in order would give it the same tracks always
        tracks = (track for _, track in self.source.read([shards[i] for i in order], share))
        generator = seeded_generator(self.seed, epoch, consumer)
        yield from compose_batches(tracks, self.source.conditions, self.plan, self.batches_per_consumer, generator)


@dataclass
class EvaluationStream(IterableDataset):
    """Iterate over the whole tracks of a split, ``tracks_per_batch`` at a time, always the same.

    Each track comes with its non-overlapping chunks and with those that begin at the requested frames. Every rank gets the
    same number of batches; where its share is smaller the last track comes again.

    Args:
        source: What is read.
        split: ``train``, ``val`` or ``test``.
        tracks_per_batch: Tracks per batch.
        requested: Further starts (frames) per track.
        only: Tracks to give, the others are left out; then ranks may get different numbers of batches.

    Raises:
        ShardsError: if a requested chunk lies outside of its track.
    """

    source: Source
    split: str
    tracks_per_batch: int = 8
    requested: dict[str, set[int]] = field(default_factory=dict)
    only: frozenset[str] | None = None

    @property
    def batches_per_consumer(self) -> int:
        """Number of batches of each consumer: enough for the largest share."""
        share = -(-self.source.index.count(self.split) // self.source.n_consumers)
        return -(-share // self.tracks_per_batch)

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return self.batches_per_consumer * max(1, self.source.workers)

    def __iter__(self) -> Iterator[TrackChunks]:
        batch, given, last = [], 0, []
        shards = self.source.index.splits[self.split]
        for track in self.source.read(shards, self.source.consumer()):
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
        last = last or list(
            islice(self.source.read(shards, self.source.n_consumers - 1), 1)
        )  # the last share is the largest
        for _ in range(given, self.batches_per_consumer):
            yield self.cut(last)

    def cut(self, tracks: list[tuple[TrackInfo, StreamedTrack]]) -> TrackChunks:
        """Cut the chunks of some tracks."""
        frames = self.source.chunk_frames
        audio, rows = [], []
        for row, (info, track) in enumerate(tracks):
            grid = range(0, info.frames - frames + 1, frames)
            starts = sorted({*grid, *self.requested.get(info.track_id, ())})
            if starts[0] < 0 or starts[-1] > info.frames - frames:
                raise ShardsError(
                    f"a triplet asks for the chunk of track {info.track_id} from frame {starts[-1]}, "
                    f"but the last one begins at frame {info.frames - frames}"
                )
            audio += [track.read_chunk(start) for start in starts]
            rows += [(row, start, start in grid) for start in starts]
        track_row, start, in_mean = (torch.tensor(column) for column in zip(*rows, strict=True))
        ids = [info.track_id for info, _ in tracks]
        return TrackChunks(torch.from_numpy(np.stack(audio)), track_row, start, in_mean, ids)
