"""Recordings to shards, in parallel, resumable, with a list of what was rejected.

The way of a run: plan which track goes into which shard (from the records alone, so that every run plans the same), then
make the shards that are not there yet, then write ``rejected.csv`` and ``index.json``. A shard is written under another name
and renamed; beside it, in ``.prepare/``, a note tells what is in it. A killed run loses the shards it was at, no more.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import shutil
import signal
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from tqdm import tqdm

from datamodules.audio import MISSING_FILE, UnusableAudio, decode, encode_flac
from datamodules.corpora.manifest import TEMPO, Catalogue, Rejected, TrackRecord
from datamodules.index import Shard, ShardIndex, ShardsError
from datamodules.shards import write_shard
from datamodules.spectrogram import log_mel, resample
from datamodules.tempo import estimate_tempo
from disentangled_ml.conditions import MAX_BPM, MIN_BPM
from disentangled_ml.structures import SPLITS, AudioSettings, TrackInfo

NOTES = ".prepare"
IN_FLIGHT = 4  # tracks per process that are on their way
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparationSettings:
    """Say how recordings become shards.

    Attributes:
        audio: Of the spectrogram.
        min_frames: Shorter tracks are rejected.
        store_waveform: Keep the waveform as FLAC too.
        estimate_tempo: Estimate tempi that the records do not give.
        tracks_per_shard: Tracks in a tar.
    """

    audio: AudioSettings
    min_frames: int = 129
    store_waveform: bool = False
    estimate_tempo: bool = True
    tracks_per_shard: int = 64


def prepare_track(record: TrackRecord, settings: PreparationSettings) -> dict[str, Any]:
    """Turn one recording into a sample.

    Raises:
        UnusableAudio: with the reason for which it is rejected.
    """
    audio = settings.audio
    waveform = resample(*decode(Path(record.path)), audio.sample_rate)
    frames = 1 + len(waveform) // audio.hop_length
    if frames < settings.min_frames:
        seconds = len(waveform) / audio.sample_rate
        raise UnusableAudio(
            f"shorter than a chunk: {seconds:.2f} s, {audio.seconds(settings.min_frames - 1):.2f} s needed"
        )
    labels = dict(record.labels)
    if settings.estimate_tempo and TEMPO not in labels:
        bpm = estimate_tempo(waveform, audio.sample_rate)
        if bpm is not None and MIN_BPM <= bpm <= MAX_BPM:
            labels[TEMPO] = bpm
    sample = {
        "info": TrackInfo(record.track_id, record.artist, frames, labels),
        "mel": log_mel(waveform, audio),
    }
    if settings.store_waveform:
        sample["flac"] = encode_flac(waveform, audio.sample_rate)
    return sample


def do_or_reject(record: TrackRecord, work: Callable[[TrackRecord], Any]) -> Any | Rejected:
    """Do some work on one recording, or reject it with the reason: a bad track must not end a long job."""
    try:
        return work(record)
    except UnusableAudio as error:
        return Rejected(record.track_id, record.path, str(error))
    except ImportError:
        raise  # of madmom: no track would fare better
    except Exception as error:  # the boundary of a worker: reported with the track, and counted
        return Rejected(record.track_id, record.path, f"unexpected {type(error).__name__}: {error}")


def start_worker() -> None:
    """Prepare a process for its tasks.

    Ctrl-C reaches every process of the terminal: it is for the main one alone, since a worker that is interrupted while it
    holds the lock of the queue leaves the others hanging. When the main one dies its workers do not notice by themselves.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this process when the one that started it has ended."""
    parent_process().join()
    os._exit(1)


def new_pool(n: int) -> ProcessPoolExecutor:
    """Make a pool of n processes; never by fork, since torch has run in this one."""
    return ProcessPoolExecutor(n, get_context("forkserver"), initializer=start_worker)


class Workers:
    """Processes that work on recordings, in order; one whose decoder takes its process down is rejected.

    Args:
        n: Number of processes.
        work: On a recording; a function that can be pickled.
    """

    def __init__(self, n: int, work: Callable[[TrackRecord], Any]):
        self.n, self.task = n, partial(do_or_reject, work=work)
        self.start()

    def start(self) -> None:
        """Start the processes."""
        self.pool = new_pool(self.n)

    def stop(self) -> None:
        """End the processes, when they are done with what they are at."""
        self.pool.shutdown(wait=False, cancel_futures=True)

    def map(self, records: Iterable[TrackRecord]) -> Iterator[Any | Rejected]:
        """Give the result of each record, a bounded number of them at a time."""
        waiting: deque[tuple[TrackRecord, Future]] = deque()
        for record in records:
            waiting.append((record, self.submit(record)))
            if len(waiting) >= IN_FLIGHT * self.n:
                yield self.result(*waiting.popleft())
        while waiting:
            yield self.result(*waiting.popleft())

    def submit(self, record: TrackRecord) -> Future:
        """Hand a record to a process, new ones where the last were taken down."""
        try:
            return self.pool.submit(self.task, record)
        except BrokenProcessPool:
            self.start()
            return self.pool.submit(self.task, record)

    def result(self, record: TrackRecord, future: Future) -> Any | Rejected:
        """Wait for a result; where a process died, find out alone whether this record did it."""
        try:
            return future.result()
        except BrokenProcessPool:
            with new_pool(1) as one:
                try:
                    return one.submit(self.task, record).result()
                except BrokenProcessPool:
                    return Rejected(record.track_id, record.path, "its decoding takes the process down")


def plan_shards(records: list[TrackRecord], tracks_per_shard: int) -> dict[str, list[TrackRecord]]:
    """Plan which records go into which tar, mixed by a stable hash, since catalogues are often sorted by genre."""

    def mixed(record: TrackRecord) -> bytes:
        return hashlib.blake2b(record.track_id.encode()).digest()

    plan = {}
    for split in SPLITS:
        members = sorted((record for record in records if record.split == split), key=mixed)
        for number, first in enumerate(range(0, len(members), tracks_per_shard)):
            plan[f"{split}-{number:06d}"] = members[first : first + tracks_per_shard]
    return plan


def claim(out: Path, records: list[TrackRecord], settings: PreparationSettings) -> None:
    """Make the folder this plan's own.

    Raises:
        ShardsError: if it holds shards of another plan.
    """
    moved = [record._replace(path=Path(record.path).name) for record in records]  # a catalogue may lie elsewhere today
    fingerprint = hashlib.blake2b(repr((moved, settings)).encode(), digest_size=16).hexdigest()
    note = out / NOTES / "plan.json"
    if note.is_file():
        if read_json(note).get("fingerprint") != fingerprint:
            raise ShardsError(
                f"{out} holds shards of another manifest or other settings: give another out=DIR, or delete that folder"
            )
        return
    if any(out.glob("*.tar")):
        raise ShardsError(f"{out} holds tars that prepare did not make: give another out=DIR")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardsError(
            f"out={out} cannot be made ({error.strerror}): give a folder that can be written to"
        ) from error
    write_json(note, {"fingerprint": fingerprint})


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; a damaged one holds nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)


def is_made(out: Path, name: str) -> bool:
    """Tell whether a shard is there whole, its note and its tar."""
    path, tar = out / NOTES / f"{name}.json", out / f"{name}.tar"
    note = read_json(path) if path.is_file() else {}
    if not {"samples", "bytes", "rejected", "vocabulary"} <= set(note):
        return False
    if any(reason == MISSING_FILE and Path(track).is_file() for _, track, reason in note["rejected"]):
        return False  # a recording that was missing is there now
    return note["bytes"] == (tar.stat().st_size if tar.is_file() else 0)


def make_shard(out: Path, name: str, results: Iterable[dict[str, Any] | Rejected]) -> None:
    """Write one tar and the note that tells what is in it and what was rejected."""
    rejected: list[Rejected] = []
    vocabulary: dict[str, set[str]] = defaultdict(set)
    count = 0

    def kept() -> Iterator[dict[str, Any]]:
        nonlocal count
        for result in results:
            if isinstance(result, Rejected):
                rejected.append(result)
                continue
            for condition, label in result["info"].labels.items():
                vocabulary[condition].update(label if isinstance(label, list) else ())
            count += 1
            yield result

    tar = out / f"{name}.tar"
    write_shard(tar, kept())
    size = tar.stat().st_size
    if not count:
        tar.unlink()
        size = 0
    note = {
        "samples": count,
        "bytes": size,
        "rejected": rejected,
        "vocabulary": {c: sorted(tags) for c, tags in vocabulary.items()},
    }
    write_json(out / NOTES / f"{name}.json", note)


def prepare_shards(catalogue: Catalogue, out: Path, settings: PreparationSettings, workers: int) -> ShardIndex:
    """Make all shards, ``rejected.csv`` and ``index.json``; shards that are there already are kept.

    Raises:
        ShardsError: if the folder holds something else, or no track is usable.
    """
    records, rejected, conditions = catalogue
    claim(out, records, settings)
    plan = plan_shards(records, settings.tracks_per_shard)
    todo = {name: members for name, members in plan.items() if not is_made(out, name)}
    if len(todo) < len(plan):
        logger.info("%d of %d shards are there already", len(plan) - len(todo), len(plan))
    pool = Workers(workers, partial(prepare_track, settings=settings))
    try:
        results = pool.map(record for members in todo.values() for record in members)
        with tqdm(total=sum(map(len, todo.values())), unit="track", desc="prepare", disable=not todo) as progress:
            for name, members in todo.items():
                make_shard(out, name, (take(results, progress) for _ in members))
    finally:
        pool.stop()
    estimated = [TEMPO] if TEMPO not in conditions else []
    return write_index(out, list(plan), [*conditions, *estimated], rejected, settings)


def take(results: Iterator[dict[str, Any] | Rejected], progress: tqdm) -> dict[str, Any] | Rejected:
    """Take the next result and show it."""
    result = next(results)
    progress.update()
    return result


def write_index(
    out: Path, names: list[str], conditions: list[str], rejected: list[Rejected], settings: PreparationSettings
) -> ShardIndex:
    """Write ``rejected.csv`` and ``index.json`` from the notes beside the shards."""
    splits: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    vocabulary: dict[str, set[str]] = {}
    rejected = list(rejected)
    for name in names:
        note = read_json(out / NOTES / f"{name}.json")
        if note["samples"]:
            splits[name.rpartition("-")[0]].append(Shard(f"{name}.tar", note["samples"]))
        rejected += [Rejected(*line) for line in note["rejected"]]
        for condition, tags in note["vocabulary"].items():
            vocabulary.setdefault(condition, set()).update(tags)
    with open(out / "rejected.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([Rejected._fields, *rejected])
    entries = [
        {"name": name, "kind": "tempo"} if name == TEMPO else {"name": name, "kind": "tags", "vocabulary": sorted(tags)}
        for name in conditions
        if (tags := vocabulary.get(name)) is not None
    ]
    index = ShardIndex(out, settings.audio, settings.store_waveform, entries, splits)
    if not any(splits.values()):
        # Nothing was made: the folder is free for a corrected manifest, or for files that are there by then.
        shutil.rmtree(out / NOTES)
        raise ShardsError(f"no track is usable, see the reasons in {out / 'rejected.csv'}")
    index.write()
    return index
