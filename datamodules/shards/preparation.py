"""Recordings to shards, in parallel, in parts, resumable, with a list of what was rejected.

The way of a run: plan which track goes into which shard (plan.py), make those shards of the part that are not there yet, then,
when all parts are made, write the labels, ``rejected.csv`` and ``index.json``. A shard is written under another name and renamed;
beside it, in ``.prepare/``, a note tells what is in it. A killed run loses the shards it was at, no more. Any number of processes
may work in one folder, on different parts or on the same: what they write is the same.
"""

from __future__ import annotations

import csv
import logging
import shutil
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.audio.decoding import MISSING_FILE, UnusableAudio, decode, encode_flac
from datamodules.audio.spectrogram import log_mel, resample
from datamodules.audio.tempo import NOTHING, estimate_tempi, excerpt_of, grouped
from datamodules.shards.index import Shard, ShardIndex, ShardsError, labels_name
from datamodules.shards.plan import ShardPlan, plan_shards, read_members, unusable_rows
from datamodules.shards.tar import write_shard
from datamodules.shards.workers import Workers, do_or_reject
from disentangled_ml.files import as_json, atomic_write, read_object, remove_unfinished, write_json
from disentangled_ml.progress import Progress, progress
from disentangled_ml.structures import (
    MAX_BPM,
    MIN_BPM,
    SPLITS,
    TEMPO,
    AudioSettings,
    Corpus,
    Rejected,
    TrackInfo,
    TrackRecord,
)

NOTES = ".prepare"
PLAN = "plan.json"  # in NOTES: whose shards these are
PARTS = "parts.json"  # in NOTES: how many parts the last run divided the work into
RECORDS_HELD = 100_000  # at most, beside a whole shard: of more, the corpus is read again
SHOWN = 5  # missing shards that an error names
logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """Name the share of the work that one process does: part ``number`` (from 1) of ``count``."""

    number: int
    count: int


WHOLE = Part(1, 1)


@dataclass(frozen=True)
class PreparationSettings:
    """Say how recordings become shards.

    Attributes:
        audio: Of the spectrogram.
        min_frames: Shorter tracks are rejected.
        store_waveform: Keep the waveform as FLAC too.
        tempo: Where the records give none: ``torch`` or ``madmom``, which estimate it, or ``manifest``, to leave it out.
        tracks_per_shard: Tracks in a tar.
    """

    audio: AudioSettings
    min_frames: int = 129
    store_waveform: bool = False
    tempo: str = "torch"
    tracks_per_shard: int = 64


class Prepared(NamedTuple):
    """Hold the sample of a recording, and the excerpt of which its tempo is still to be estimated."""

    sample: dict[str, Any]
    excerpt: np.ndarray


def prepare_tracks(records: Sequence[TrackRecord], settings: PreparationSettings) -> list[dict[str, Any] | Rejected]:
    """Turn a group of recordings into samples: one by one, but for their tempi, which are estimated together."""
    tracks = [do_or_reject(record, partial(prepare_track, settings=settings)) for record in records]
    tempi = estimate_tempi(
        [NOTHING if isinstance(track, Rejected) else track.excerpt for track in tracks], settings.tempo
    )
    return [
        track if isinstance(track, Rejected) else with_tempo(track.sample, bpm)
        for track, bpm in zip(tracks, tempi, strict=True)
    ]


def with_tempo(sample: dict[str, Any], bpm: float | None) -> dict[str, Any]:
    """Add a tempo to the labels of a sample, where there is one that makes sense."""
    if bpm is None or not MIN_BPM <= bpm <= MAX_BPM:
        return sample
    info = sample["info"]
    return {**sample, "info": info._replace(labels={**info.labels, TEMPO: bpm})}


def prepare_track(record: TrackRecord, settings: PreparationSettings) -> Prepared:
    """Turn one recording into a sample, but for its tempo.

    Raises:
        UnusableAudio: with the reason for which it is rejected.
    """
    audio = settings.audio
    waveform = resample(*decode(Path(record.path), *record.section), audio.sample_rate)
    frames = 1 + len(waveform) // audio.hop_length
    if frames < settings.min_frames:
        seconds = len(waveform) / audio.sample_rate
        raise UnusableAudio(
            f"shorter than a chunk: {seconds:.2f} s, {audio.seconds(settings.min_frames - 1):.2f} s needed"
        )
    sample = {
        "info": TrackInfo(record.track_id, record.artist, frames, dict(record.labels)),
        "mel": log_mel(waveform, audio),
    }
    if settings.store_waveform:
        sample["flac"] = encode_flac(waveform, audio.sample_rate)
    is_wanted = settings.tempo != "manifest" and TEMPO not in record.labels
    return Prepared(sample, excerpt_of(waveform, audio.sample_rate) if is_wanted else NOTHING)


def note_path(out: Path, name: str) -> Path:
    """Say where the note of a shard lies."""
    return out / NOTES / f"{name}.json"


def claim(out: Path, plan: ShardPlan) -> None:
    """Make the folder this plan's own.

    Raises:
        ShardsError: if it holds shards of another plan, or cannot be made.
    """
    note = out / NOTES / PLAN
    if not note.is_file():
        if any(out.glob("*.tar")):
            raise ShardsError(f"{out} holds tars that prepare did not make: give another out=DIR")
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ShardsError(
                f"out={out} cannot be made ({error.strerror}): give a folder that can be written to"
            ) from error
        write_json(note, {"fingerprint": plan.fingerprint}, replace=False)
    check_plan(out, plan)


def check_plan(out: Path, plan: ShardPlan) -> None:
    """Check that the shards of a folder are of this plan.

    Raises:
        ShardsError: if they are of another, or of none.
    """
    found = read_object(out / NOTES / PLAN).get("fingerprint")
    if found is None:
        raise ShardsError(
            f"{out / NOTES / PLAN} is missing or damaged: make the parts first; if they are made, delete {out}"
        )
    if found != plan.fingerprint:
        raise ShardsError(
            f"{out} holds shards of another manifest or other settings: give another out=DIR, or delete that folder"
        )


def is_note(note: dict[str, Any]) -> bool:
    """Tell whether a note holds what ``make_shard`` writes.

    >>> rejected, tracks = [["a", "a.wav", "silent"]], [{"track_id": "b", "labels": {"genre": ["jazz"]}}]
    >>> is_note({"bytes": 9, "rejected": rejected, "tracks": tracks}), is_note({"bytes": 9, "rejected": 3, "tracks": []})
    (True, False)
    """
    rejected, tracks = note.get("rejected"), note.get("tracks")
    if not isinstance(rejected, list) or not isinstance(tracks, list) or "bytes" not in note:
        return False
    return all(isinstance(line, list) and len(line) == 3 for line in rejected) and all(
        isinstance(track, dict) and isinstance(track.get("labels"), dict) and isinstance(track.get("track_id"), str)
        for track in tracks
    )


def whole_note(out: Path, name: str) -> dict[str, Any] | None:
    """Read the note of a shard that is there whole, its note and its tar; None if it is not."""
    note, tar = read_object(note_path(out, name)), out / f"{name}.tar"
    size = tar.stat().st_size if tar.is_file() else 0
    return note if is_note(note) and note["bytes"] == size else None


def is_made(out: Path, name: str) -> bool:
    """Tell whether a shard is there whole, and no recording that was missing is there now."""
    note = whole_note(out, name)
    if note is None:
        return False
    return not any(reason == MISSING_FILE and Path(track).is_file() for _, track, reason in note["rejected"])


def make_shard(out: Path, name: str, results: Iterable[dict[str, Any] | Rejected]) -> None:
    """Write one tar and the note that tells what is in it and what was rejected."""
    rejected: list[Rejected] = []
    tracks: list[dict[str, Any]] = []

    def kept() -> Iterator[dict[str, Any]]:
        for result in results:
            if isinstance(result, Rejected):
                rejected.append(result)
            else:
                tracks.append(result["info"]._asdict())
                yield result

    tar, samples = out / f"{name}.tar", kept()
    first = next(samples, None)
    if first is None:
        tar.unlink(missing_ok=True)
    size = 0 if first is None else write_shard(tar, chain([first], samples))
    write_json(note_path(out, name), {"bytes": size, "rejected": rejected, "tracks": tracks}, indent=None)


def would_lose(out: Path, name: str, members: list[TrackRecord]) -> bool:
    """Tell whether a whole shard holds tracks whose recordings are gone, so that they could not be made again."""
    note = whole_note(out, name)
    if note is None:
        return False
    made = {track["track_id"] for track in note["tracks"]}
    return any(record.track_id in made and not Path(record.path).is_file() for record in members)


def make_shards(out: Path, members: dict[str, list[TrackRecord]], pool: Workers, counter: Progress) -> None:
    """Make shards, one after the other, but for those that another process has made by then."""
    begun: deque[tuple[str, int]] = deque()

    def groups() -> Iterator[list[TrackRecord]]:
        for name, tracks in members.items():
            if is_made(out, name):
                counter.update(len(tracks))
            elif would_lose(out, name, tracks):
                logger.warning(
                    "%s.tar is kept as it is, without recordings that were missing and are there now, since others are gone",
                    name,
                )
                counter.update(len(tracks))
            else:
                begun.append((name, len(tracks)))
                yield from grouped(tracks)

    results = pool.map(groups())
    for first in results:  # of a shard, the results of whose tracks follow each other
        name, n_tracks = begun.popleft()
        make_shard(out, name, counted(chain([first], islice(results, n_tracks - 1)), counter))


def counted(results: Iterable[dict[str, Any] | Rejected], counter: Progress) -> Iterator[dict[str, Any] | Rejected]:
    """Show the results as they come."""
    for result in results:
        counter.update()
        yield result


def prepare_part(
    corpus: Corpus, out: Path, settings: PreparationSettings, workers: int, part: Part = WHOLE
) -> ShardPlan:
    """Make the shards of a part; those that are there already are kept.

    Raises:
        ShardsError: if the folder holds something else.
    """
    plan = plan_shards(corpus, settings, settings.tracks_per_shard)
    claim(out, plan)
    write_json(out / NOTES / PARTS, {"parts": part.count})
    own = range(part.number - 1, len(plan.names), part.count)
    todo = [shard for shard in own if not is_made(out, plan.names[shard])]
    if len(todo) < len(own):
        logger.info("%d of %d shards are there already", len(own) - len(todo), len(own))
    pool = Workers(workers, partial(prepare_tracks, settings=settings))
    sizes = plan.sizes()
    try:
        with progress(total=int(sizes[todo].sum()), unit="track", desc="prepare", disable=not todo) as counter:
            held = max(1, RECORDS_HELD // settings.tracks_per_shard)
            for first in range(0, len(todo), held):
                members = read_members(corpus, plan, todo[first : first + held])
                make_shards(out, {plan.names[shard]: tracks for shard, tracks in members.items()}, pool, counter)
    finally:
        pool.stop()
    return plan


def prepare_shards(corpus: Corpus, out: Path, settings: PreparationSettings, workers: int) -> ShardIndex:
    """Make all shards, the labels, ``rejected.csv`` and ``index.json``; shards that are there already are kept.

    Raises:
        ShardsError: if the folder holds something else, or no track is usable.
    """
    plan = prepare_part(corpus, out, settings, workers)
    return write_index(corpus, plan, out, settings)


def merge_parts(corpus: Corpus, out: Path, settings: PreparationSettings) -> ShardIndex:
    """Write the labels, ``rejected.csv`` and ``index.json`` of shards that were made in parts.

    Raises:
        ShardsError: naming the shards that are not there, and the parts that make them.
    """
    plan = plan_shards(corpus, settings, settings.tracks_per_shard)
    check_plan(out, plan)
    missing = [number for number, name in enumerate(plan.names) if not is_made(out, name)]
    if missing:
        parts = read_object(out / NOTES / PARTS).get("parts")
        parts = parts if type(parts) is int and parts > 0 else 1
        names = [plan.names[number] for number in missing[:SHOWN]] + ["..."] * (len(missing) > SHOWN)
        wanted = sorted({number % parts + 1 for number in missing})
        raise ShardsError(
            f"{out} lacks {len(missing)} of {len(plan.names)} shards ({', '.join(names)}): run prepare with "
            f"part={', '.join(f'{number}/{parts}' for number in wanted)} first, then merge=true again"
        )
    return write_index(corpus, plan, out, settings)


def write_index(corpus: Corpus, plan: ShardPlan, out: Path, settings: PreparationSettings) -> ShardIndex:
    """Write the labels, ``rejected.csv`` and ``index.json`` from the notes beside the shards.

    Raises:
        ShardsError: if no track is usable.
    """
    splits: dict[str, list[Shard]] = {}
    vocabulary: dict[str, set[str]] = defaultdict(set)
    with atomic_write(out / "rejected.csv") as file:
        rejected = csv.writer(file)
        rejected.writerow(Rejected._fields)
        rejected.writerows(unusable_rows(corpus, plan))
        for split in SPLITS:
            splits[split] = []
            with atomic_write(out / labels_name(split)) as labels:
                for name in plan.names_of(split):
                    note = read_object(note_path(out, name))
                    rejected.writerows(note["rejected"])
                    if note["tracks"]:
                        splits[split].append(Shard(f"{name}.tar", len(note["tracks"])))
                    for track in note["tracks"]:
                        labels.write(as_json(track) + "\n")
                        for condition, label in track["labels"].items():
                            vocabulary[condition].update(label if isinstance(label, list) else ())
    if not any(splits.values()):
        # Nothing was made: the folder is free for a corrected manifest, or for files that are there by then.
        shutil.rmtree(out / NOTES)
        raise ShardsError(f"no track is usable, see the reasons in {out / 'rejected.csv'}")
    conditions = [*corpus.conditions, *([TEMPO] if TEMPO not in corpus.conditions else [])]
    entries = [condition_entry(name, vocabulary[name]) for name in conditions if name in vocabulary]
    index = ShardIndex(out, settings.audio, settings.store_waveform, entries, splits)
    index.write()
    for folder in (out, out / NOTES):
        remove_unfinished(folder)
    return index


def condition_entry(name: str, tags: set[str]) -> dict[str, Any]:
    """Describe a condition as the index does.

    >>> condition_entry("mood", {"sad", "calm"})
    {'name': 'mood', 'kind': 'tags', 'vocabulary': ['calm', 'sad']}
    """
    return (
        {"name": name, "kind": "tempo"} if name == TEMPO else {"name": name, "kind": "tags", "vocabulary": sorted(tags)}
    )
