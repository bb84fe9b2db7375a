"""Recordings to shards, in parallel, in parts, resumable, with a list of what was rejected.

A run plans which track goes into which shard (plan.py), prepares the shards of its part that are missing or of which a row or a
recording has changed and, when all parts are finished, writes the labels, ``rejected.csv`` and ``index.json``. Beside a shard, in
``.prepare/``, a note lists what is in it and what it was made of (see resumable.py). While a shard is made anew there is no
``index.json``: what reads the folder meets old content or new, never both. Any number of processes may work in one folder, on
different parts or on the same: they write the same.
"""

import csv
import logging
import shutil
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from datamodules.audio.decoding import MAX_LOST, UnusableAudio, encode_flac, read_recording
from datamodules.audio.musicnn import further_tags, tag_probabilities, window_features
from datamodules.audio.spectrogram import log_mel, resample
from datamodules.audio.tempo import NOTHING, Tempo, estimate_tempi, excerpt_of
from datamodules.shards.copies import find_copies, former_copies, read_sounds, sound_code, without
from datamodules.shards.estimates import estimated_entry
from datamodules.shards.index import INDEX_NAME, Shard, ShardIndex, ShardsError, labels_name
from datamodules.shards.origin import Origin, Outcome, results_of, with_origins
from datamodules.shards.parts import UNDIVIDED, Part, describe_missing, note_division
from datamodules.shards.plan import ShardPlan, plan_shards, read_members, rows_digest, unusable_rows, usable_rows
from datamodules.shards.resumable import Batch, BatchStore, usable, work_through
from datamodules.shards.tar import FEATURES_MEMBER, WrittenShard, write_shard
from datamodules.shards.workers import Workers, do_or_reject
from disentangled_ml.files import as_json, atomic_write, existing_form, read_object, remove_unfinished, write_json
from disentangled_ml.progress import show_progress
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
    TrackWarning,
)

NOTES, PLAN = ".prepare", "plan"
# At most, besides a whole shard: of more, the corpus is read again.
RECORDS_HELD = 100_000
NO_TEMPO = "no tempo: no beat was found, or one too weak to have a tempo"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparationSettings:
    """How recordings become shards.

    Attributes:
        audio: Of the spectrogram.
        min_frames: Shorter tracks are rejected.
        store_waveform: Keep the waveform as FLAC too.
        tempo: Where the records have none: ``torch`` or ``madmom``, which estimate it, or ``manifest``, to leave it out.
        tracks_per_shard: Tracks in a tar.
        max_lost: Share of a recording that may be lost to damage.
        features: Networks of musicnn whose features are stored.
        estimated: Conditions that the records lack and whose tags are estimated from the features.
        tag_share: Of the tracks that have an estimated tag, each; the shards do not depend on it.
    """

    audio: AudioSettings
    min_frames: int = 129
    store_waveform: bool = False
    tempo: str = "torch"
    tracks_per_shard: int = 64
    max_lost: float = MAX_LOST
    features: tuple[str, ...] = ()
    estimated: tuple[str, ...] = ()
    tag_share: float = 0.1

    def content(self) -> str:
        """Return the text that identifies the settings in a plan; without features and estimated tags it is as before there were any.

        >>> "features" in PreparationSettings(AudioSettings()).content()
        False
        """
        names = ["audio", "min_frames", "store_waveform", "tempo", "tracks_per_shard", "max_lost"]
        names += [name for name in ("features", "estimated") if getattr(self, name)]
        further = further_tags(self.estimated, self.features)
        said = [f"{name}={getattr(self, name)!r}" for name in names] + ([f"further={further}"] if further else [])
        return f"PreparationSettings({', '.join(said)})"

    def members(self) -> list[str]:
        """Return the members of each sample, besides its labels."""
        return ["mel.npy", *([FEATURES_MEMBER] if self.features else []), *(["flac"] if self.store_waveform else [])]


class Prepared(NamedTuple):
    """The sample of a recording, whether it needs a tempo, and the excerpt of which that is still to be estimated."""

    sample: dict[str, Any]
    needs_tempo: bool
    excerpt: np.ndarray


def prepare_tracks(records: Sequence[TrackRecord], settings: PreparationSettings) -> list[dict[str, Any] | Rejected]:
    """Turn a group of recordings into samples: one by one, except for their tempi, which are estimated together."""
    tracks = [do_or_reject(record, partial(prepare_track, settings=settings)) for record in records]
    excerpts = [NOTHING if isinstance(track, Rejected) else track.excerpt for track in tracks]
    tempi = estimate_tempi(excerpts, settings.tempo)
    return [
        track if isinstance(track, Rejected) else with_tempo(track, tempo, record)
        for track, tempo, record in zip(tracks, tempi, records, strict=True)
    ]


def with_tempo(track: Prepared, tempo: Tempo | None, record: TrackRecord) -> dict[str, Any]:
    """Add a tempo to the labels of a sample, where there is one that makes sense; else a warning, where one was wanted."""
    sample, info = track.sample, track.sample["info"]
    if not track.needs_tempo:
        return sample
    if tempo is None or not MIN_BPM <= tempo.bpm <= MAX_BPM:
        return {**sample, "warnings": [*sample["warnings"], TrackWarning(record.track_id, record.path, NO_TEMPO)]}
    found = info._replace(labels={**info.labels, TEMPO: tempo.bpm}, other_tempo=tempo.other)
    return {**sample, "info": found, "has_estimated_tempo": True}


def prepare_track(record: TrackRecord, settings: PreparationSettings) -> Prepared:
    """Turn one recording into a sample, except for its tempo.

    Raises: UnusableAudio: with the reason for which it is rejected.
    """
    audio = settings.audio
    recording = read_recording(Path(record.path), *record.section, max_lost=settings.max_lost)
    waveform = resample(recording.waveform, recording.sample_rate, audio.sample_rate)
    frames = 1 + len(waveform) // audio.hop_length
    if frames < settings.min_frames:
        seconds = len(waveform) / audio.sample_rate
        needed = audio.seconds(settings.min_frames - 1)
        reason = f"shorter than a chunk: {seconds:.2f} s, {needed:.2f} s needed"
        raise UnusableAudio("; ".join([reason, *recording.warnings]))
    info = TrackInfo(record.track_id, record.artist, frames, dict(record.labels))
    warnings = [TrackWarning(record.track_id, record.path, text) for text in recording.warnings]
    sample = {"info": info, "mel": log_mel(waveform, audio), "warnings": warnings}
    if settings.features:
        features = window_features(recording.waveform, recording.sample_rate, settings.features)
        sample["musicnn"] = features.astype(np.float16)
        if settings.estimated:
            estimates = tag_probabilities(features, settings.features, settings.estimated)
            sample["info"] = info._replace(estimates=estimates)
    if settings.store_waveform:
        sample["flac"] = encode_flac(waveform, audio.sample_rate)
    needs_tempo = settings.tempo != "manifest" and TEMPO not in record.labels
    return Prepared(sample, needs_tempo, excerpt_of(waveform, audio.sample_rate) if needs_tempo else NOTHING)


def prepare_group(records: Sequence[TrackRecord], settings: PreparationSettings) -> list[Outcome]:
    """Turn a group of recordings into samples, with what each was made of."""
    return with_origins(records, partial(prepare_tracks, settings=settings))


class ShardNote(NamedTuple):
    """The note of a shard: what is in its tar, and what it was made of.

    Attributes:
        bytes: Size of the tar, 0 where no track was usable.
        content: Digest of its content.
        digest: Of the rows that it was made of.
        rejected: Rows that could not be used.
        tracks: In the tar, in order.
        sounds: Codes of their sound.
        copies: Codes of the sound of tracks that were rejected since another split has their recording.
        warnings: Of the tracks.
        origins: Of the rows, in order.
        estimated_tempi: Tracks whose tempo is estimated.
    """

    bytes: int
    content: str
    digest: str
    rejected: list[Rejected]
    tracks: list[TrackInfo]
    sounds: list[int]
    copies: dict[str, int]
    warnings: list[TrackWarning]
    origins: list[Origin | None]
    estimated_tempi: Sequence[str] = ()


class ShardStore(BatchStore):
    """The shards of a folder, each a tar in it and a note."""

    FOLDER, CLAIM = NOTES, "plan.json"
    ERROR = ShardsError
    ANOTHER: ClassVar[dict[str, str]] = {PLAN: "shards of other tracks or other settings"}
    UNCLAIMED = "make the parts first; if they are made, delete {out}"

    def __init__(self, out: Path, plan: ShardPlan):
        super().__init__(out, {PLAN: plan.fingerprint})

    def claim(self) -> None:
        if not (self.folder / self.CLAIM).is_file() and any(self.out.glob("*.tar")):
            raise ShardsError(f"{self.out} holds tars that prepare did not make: give another out=DIR")
        super().claim()

    def note_path(self, batch: Batch) -> Path:
        return self.folder / f"{batch.name}.json"

    def tar_path(self, batch: Batch) -> Path:
        return self.out / f"{batch.name}.tar"

    def read(self, batch: Batch) -> ShardNote | None:
        """Read the note of a shard; None if the note or the tar is missing or damaged, or of other rows."""
        content = read_object(self.note_path(batch))
        try:
            note = ShardNote(**content)
            note = note._replace(
                rejected=[Rejected(*line) for line in note.rejected],
                tracks=[TrackInfo(**track) for track in note.tracks],
                warnings=[TrackWarning(*line) for line in note.warnings],
                origins=[origin and Origin(*origin) for origin in note.origins],
            )
        except TypeError:
            return None
        tar = self.tar_path(batch)
        is_whole = note.bytes == (tar.stat().st_size if tar.is_file() else 0)
        return note if is_whole and batch.digest in ("", note.digest) else None

    def save(self, batch: Batch, finished: ShardNote) -> None:
        content = {**finished._asdict(), "tracks": [track.as_plain() for track in finished.tracks]}
        write_json(self.note_path(batch), content, indent=None)

    def write(self, batch: Batch, outcomes: Iterable[Outcome | Rejected]) -> None:
        """Write one tar, and the note of what is in it and what it was made of."""
        rejected: list[Rejected] = []
        tracks: list[TrackInfo] = []
        sounds: list[int] = []
        warnings: list[TrackWarning] = []
        origins: list[Origin | None] = []
        tempi: list[str] = []

        def noted() -> Iterator[dict[str, Any]]:
            for sample in usable(results_of(outcomes, origins), rejected):
                tracks.append(sample["info"])
                sounds.append(sound_code(sample["mel"]))
                warnings.extend(sample["warnings"])
                tempi.extend([sample["info"].track_id] if sample.get("has_estimated_tempo") else ())
                yield sample

        written = self.write_tar(batch, noted())
        self.save(batch, ShardNote(*written, batch.digest, rejected, tracks, sounds, {}, warnings, origins, tempi))

    def write_tar(self, batch: Batch, samples: Iterator[dict[str, Any]]) -> WrittenShard:
        """Write the tar of a shard, or remove it where there are no samples."""
        tar, first = self.tar_path(batch), next(samples, None)
        # It is of the old shards, until all are new.
        (self.out / INDEX_NAME).unlink(missing_ok=True)
        if first is None:
            tar.unlink(missing_ok=True)
            return WrittenShard(0, "")
        return write_shard(tar, chain([first], samples))

    def reject(self, batch: Batch, rejected: Mapping[str, Rejected], members: Sequence[str]) -> None:
        """Take tracks out of a finished shard, since another one has their recording; their sound is noted."""
        note = self.read_finished(batch)
        kept = [track.track_id not in rejected for track in note.tracks]
        if all(kept):
            return
        out = [rejected[track.track_id] for track, is_kept in zip(note.tracks, kept, strict=True) if not is_kept]
        sounds = {track.track_id: sound for track, sound in zip(note.tracks, note.sounds, strict=True)}
        shard = Shard(self.tar_path(batch).name, len(kept))
        written = self.write_tar(batch, without(rejected, self.out, shard, members))
        changed = note._replace(
            bytes=written.bytes,
            content=written.digest,
            rejected=[*note.rejected, *out],
            tracks=[*compress(note.tracks, kept)],
            sounds=[*compress(note.sounds, kept)],
            warnings=[warning for warning in note.warnings if warning.track_id not in rejected],
            copies={**note.copies, **{each.track_id: sounds[each.track_id] for each in out}},
            estimated_tempi=[track_id for track_id in note.estimated_tempi if track_id not in rejected],
        )
        self.save(batch, changed)

    def release(self, batch: Batch, names: Collection[str]) -> None:
        """Mark tracks that were rejected as copies, so that the next preparation tries them again."""
        note = self.read_finished(batch)
        paths = {each.path for each in note.rejected if each.track_id in names}
        origins = [None if origin and origin.path in paths else origin for origin in note.origins]
        self.save(batch, note._replace(origins=origins))

    def is_kept(self, batch: Batch, rows: Sequence[TrackRecord], retry: bool = True) -> bool:
        """Return whether a shard is left as it is: nothing has changed, or tracks whose recordings are gone would be lost."""
        if super().is_kept(batch, rows, retry):
            return True
        note = self.read(batch._replace(digest=""))
        made = set() if note is None else {track.track_id for track in note.tracks}
        gone = [
            record.path for record in rows if record.track_id in made and not existing_form(Path(record.path)).is_file()
        ]
        if gone:
            logger.warning(
                "%s.tar is kept as it is, though what it was made of has changed, since recordings in it are gone (%s%s): "
                "bring them back, or delete it, and it is made without them",
                batch.name,
                gone[0],
                ", ..." * (len(gone) > 1),
            )
        return bool(gone)


def reject_copies(corpus: Corpus, plan: ShardPlan, store: ShardStore, members: Sequence[str]) -> None:
    """Reject the tracks whose recording is in another split, which keeps it; their shards are written anew.

    Args:
        corpus: As it was planned.
        plan: Of the shards.
        store: Of the shards, all of which are finished.
        members: Of each sample, besides its labels.
    """
    sounds = read_sounds(plan, store)
    for batch, names in former_copies(sounds):
        logger.warning(
            "%s: rejected as copies of recordings that are not there any more: %s; repeat the command, which takes them in",
            batch.name,
            ", ".join(names),
        )
        store.release(batch, names)
    copies = find_copies(sounds, plan, store)
    if not copies:
        return
    names, paths = set().union(*copies.values()), {}
    for record in usable_rows(corpus):
        if record.track_id in names:
            paths.setdefault(record.track_id, record.path)
    for batch, reasons in copies.items():
        rejected = {name: Rejected(name, paths[name], reason) for name, reason in reasons.items()}
        store.reject(batch, rejected, members)


def planned(
    corpus: Corpus, plan: ShardPlan, shards: Sequence[int], settings: PreparationSettings
) -> Iterator[tuple[Batch, list[TrackRecord]]]:
    """Read the rows of some shards, a bounded number at a time."""
    batches, held = plan.batches(), max(1, RECORDS_HELD // settings.tracks_per_shard)
    for first in range(0, len(shards), held):
        for shard, rows in read_members(corpus, plan, shards[first : first + held]).items():
            yield batches[shard]._replace(digest=rows_digest(rows)), rows


def prepare_part(
    corpus: Corpus, out: Path, settings: PreparationSettings, workers: int, part: Part = UNDIVIDED
) -> ShardPlan:
    """Prepare the shards of a part; those are kept of which nothing has changed.

    Raises: ShardsError: if the folder holds something else.
    """
    plan = plan_shards(corpus, settings.content(), settings.tracks_per_shard)
    store, batches = ShardStore(out, plan), plan.batches()
    store.claim()
    note_division(store.folder, part)
    own, n_made = part.of(len(batches)), 0
    with (
        Workers(workers, partial(prepare_group, settings=settings)) as pool,
        show_progress(total=sum(batches[shard].size for shard in own), unit="track", desc="prepare") as progress,
    ):
        for batch, _, outcomes in work_through(planned(corpus, plan, own, settings), store, pool, progress):
            store.write(batch, outcomes)
            n_made += 1
    if n_made < len(own):
        logger.info("%d of %d shards were there already", len(own) - n_made, len(own))
    return plan


def prepare_shards(corpus: Corpus, out: Path, settings: PreparationSettings, workers: int) -> ShardIndex:
    """Prepare all shards, the labels, ``rejected.csv`` and ``index.json``; shards are kept of which nothing has changed.

    Raises: ShardsError: if the folder holds something else, or no track is usable.
    """
    plan = prepare_part(corpus, out, settings, workers)
    return write_index(corpus, plan, out, settings)


def merge_parts(corpus: Corpus, out: Path, settings: PreparationSettings) -> ShardIndex:
    """Write the labels, ``rejected.csv`` and ``index.json`` of shards that were made in parts.

    Raises: ShardsError: naming the shards that are not there, or not as the corpus is now, and the parts that make them.
    """
    plan = plan_shards(corpus, settings.content(), settings.tracks_per_shard)
    store = ShardStore(out, plan)
    store.check()
    every = planned(corpus, plan, range(len(plan.names)), settings)
    # What fails each time, as a recording that crashes its decoder, must not keep the parts from being merged.
    missing = [number for number, (batch, rows) in enumerate(every) if not store.is_kept(batch, rows, retry=False)]
    if missing:
        names, parts = describe_missing(store.folder, plan.names, missing)
        raise ShardsError(
            f"{out} lacks {len(missing)} of {len(plan.names)} shards ({names}): run prepare with part={parts} first, "
            f"then merge=true again"
        )
    return write_index(corpus, plan, out, settings)


def write_index(corpus: Corpus, plan: ShardPlan, out: Path, settings: PreparationSettings) -> ShardIndex:
    """Write the labels, ``rejected.csv``, ``warnings.csv`` and ``index.json`` from the notes beside the shards.

    Raises: ShardsError: if no track is usable.
    """
    store = ShardStore(out, plan)
    reject_copies(corpus, plan, store, settings.members())
    splits: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    vocabulary: dict[str, set[str]] = defaultdict(set)
    probabilities = {name: defaultdict(partial(array, "d")) for name in settings.estimated}
    n_estimated = n_tempi = n_ambiguous = 0
    with atomic_write(out / "rejected.csv") as file, atomic_write(out / "warnings.csv") as warnings_file:
        warnings = csv.writer(warnings_file)
        warnings.writerow(TrackWarning._fields)
        rejected = csv.writer(file)
        rejected.writerow(Rejected._fields)
        rejected.writerows(unusable_rows(corpus, plan))
        for split in SPLITS:
            with atomic_write(out / labels_name(split)) as labels:
                for batch in plan.batches(split):
                    note = store.read_finished(batch)
                    rejected.writerows(note.rejected)
                    warnings.writerows(note.warnings)
                    if note.tracks:
                        splits[split].append(Shard(f"{batch.name}.tar", len(note.tracks), note.content))
                    n_estimated += len(note.estimated_tempi)
                    for track in note.tracks:
                        labels.write(as_json(track.as_plain()) + "\n")
                        n_ambiguous += track.other_tempo is not None
                        n_tempi += TEMPO in track.labels
                        for condition, found in (track.estimates or {}).items():
                            for tag, probability in found.items():
                                probabilities[condition][tag].append(probability)
                        for condition, label in track.labels.items():
                            vocabulary[condition].update(label if isinstance(label, list) else ())
    if not any(splits.values()):
        # Nothing was made: the folder is free for a corrected manifest, or for files that are there by then.
        shutil.rmtree(store.folder)
        raise ShardsError(f"no track is usable, see the reasons in {out / 'rejected.csv'}")
    if bare := [name for name in corpus.conditions if name not in vocabulary]:
        logger.warning("no track has a label of %s, which is left out of the conditions", ", ".join(bare))
    conditions = [*corpus.conditions, *([TEMPO] if TEMPO not in corpus.conditions else [])]
    # Notes of earlier versions do not say which tempi are estimated.
    n_estimated = n_estimated if TEMPO in corpus.conditions else n_tempi
    entries = [condition_entry(name, vocabulary[name], n_estimated) for name in conditions if name in vocabulary]
    entries += [estimated_entry(name, "musicnn", settings.tag_share, found) for name, found in probabilities.items()]
    index = ShardIndex(out, settings.audio, settings.store_waveform, entries, splits, settings.features)
    index.write()
    for folder in (out, store.folder):
        remove_unfinished(folder)
    if n_ambiguous:
        logger.info(
            "the octave of %s estimated tempi is ambiguous: other_tempo in %s has the other one",
            f"{n_ambiguous:,}",
            out / labels_name("*"),
        )
    return index


def condition_entry(name: str, tags: set[str], estimated_tempi: int = 0) -> dict[str, Any]:
    """Return the entry of a condition in the index, whose tags are given, or whose tempo is that, but for a number of tracks.

    >>> condition_entry("mood", {"sad", "calm"})
    {'name': 'mood', 'kind': 'tags', 'vocabulary': ['calm', 'sad']}
    """
    if name == TEMPO:
        marks = {"estimated": "madmom", "estimated_tracks": estimated_tempi} if estimated_tempi else {}
        return {"name": name, "kind": "tempo", **marks}
    return {"name": name, "kind": "tags", "vocabulary": sorted(tags)}
