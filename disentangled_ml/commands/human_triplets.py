"""Compare a checkpoint with people: ``disentangled human_triplets checkpoint=FILE triplets=CSV shards=DIR``.

The triplets are those of dim-sim, between chunks, of MagnaTagATune's comparisons_final.csv, between whole clips (see
dim_sim.py and comparisons.py in datamodules/triplet_lists/), or of a listening test (judged.py there): the header tells which.
Instead of ``shards=DIR``, ``audio=DIR`` names a folder of recordings ``ID.wav``, ``.flac``, ``.mp3`` and the like. A triplet whose
recording is missing, unusable or too short for its chunk is skipped, and listed with the reason.
"""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from datamodules.audio import musicnn
from datamodules.audio.decoding import UnusableAudio, decode
from datamodules.batches.composer import StreamedTrack
from datamodules.batches.cutting import open_waveform
from datamodules.batches.streams import Source
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.tar import read_samples, sample_context, share_slices
from datamodules.triplet_lists import comparisons, dim_sim, judged
from datamodules.triplet_lists.judgements import Judgements
from disentangled_ml.config.errors import ConfigError
from disentangled_ml.evaluation.human import condition_weights, human_report
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable, track_means
from disentangled_ml.files import writable, write_json
from disentangled_ml.network.checkpoint import TrainedModel, choose_device, load_model
from disentangled_ml.network.model import embed_in_passes
from disentangled_ml.progress import show_progress
from disentangled_ml.reporting.cells import accuracy_text, aligned
from disentangled_ml.structures import SPLITS, VOTE_COLUMNS, AudioSettings, Member
from disentangled_ml.systems import check_finite

# Where a folder has several of one recording, the first is taken.
EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac", ".opus", ".wma", ".aiff", ".aif", ".webm")
# Reasons on the screen; the report has all.
SHOWN = 5
logger = logging.getLogger("human_triplets")


def parse_weights(text: str | None) -> dict[str, float] | None:
    """Parse ``{genre:2, mood:1}``; the braces may be left out. Raises ConfigError if it is not of that form.

    >>> parse_weights("{genre:2, mood:0.5}")
    {'genre': 2.0, 'mood': 0.5}
    """
    if text is None:
        return None
    pairs = [pair.rpartition(":") for pair in text.strip().removeprefix("{").removesuffix("}").split(",")]
    try:
        weights = {name.strip(" '\""): float(value) for name, _, value in pairs}
    except ValueError:
        raise ConfigError(f"weights={text} cannot be read: give weights={{genre:2,mood:1}}") from None
    if len(weights) < len(pairs) or "" in weights:
        raise ConfigError(f"weights={text} has no name for a weight, or one twice: give weights={{genre:2,mood:1}}")
    return weights


def too_late(audio: AudioSettings, start: int, chunk_frames: int, frames: int) -> str | None:
    """Return why a recording of ``frames`` frames has no chunk at a start; None if it has one.

    >>> too_late(AudioSettings(), 129, 129, 258) is None
    True
    >>> too_late(AudioSettings(), 130, 129, 258)
    'too short: the chunk from 3.02 s on ends at 6.01 s, the recording at 5.99 s'
    """
    if start + chunk_frames <= frames:
        return None
    begin, end, length = (audio.seconds(f) for f in (start, start + chunk_frames, frames))
    return f"too short: the chunk from {begin:.2f} s on ends at {end:.2f} s, the recording at {length:.2f} s"


def chunk_starts(wanted: set[int | None], frames: int, chunk_frames: int) -> list[int]:
    """List the first frames of the chunks to embed: those wanted and, for the whole track (None), its non-overlapping ones.

    >>> chunk_starts({None, 7}, frames=300, chunk_frames=129), chunk_starts({None}, frames=99, chunk_frames=129)
    ([0, 7, 129], [0])
    """
    grid = range(0, max(frames - chunk_frames, 0) + 1, chunk_frames) if None in wanted else ()
    return sorted({*grid, *(start for start in wanted if start is not None)})


def stored_tracks(index: ShardIndex, source: str, chunk_frames: int) -> Iterator[tuple[str, StreamedTrack]]:
    """Yield the ids and tracks of shards. Raises ShardsError if a sample is damaged."""
    stored = Source(index, [], source, chunk_frames)
    for split in SPLITS:
        for sample in read_samples(index.root, share_slices(index.splits[split], 0, 1), stored.members):
            with sample_context(sample):
                info, track = stored.decode(sample)
            yield info.track_id, track


def recorded_tracks(
    folder: Path, wanted: Mapping[str, set[int | None]], source: str, chunk_frames: int, audio: AudioSettings
) -> Iterator[tuple[str, StreamedTrack | str]]:
    """Yield ids and the tracks recorded in a folder, for their wanted chunks, or the reason why there is none."""
    files = recordings(folder)
    for track_id, members in wanted.items():
        try:
            if track_id not in files:
                raise UnusableAudio(f"{folder} has no file {track_id} with one of {', '.join(EXTENSIONS)}")
            starts = partial(chunk_starts, members, chunk_frames=chunk_frames)
            track = open_waveform(*decode(files[track_id]), audio, source, chunk_frames, starts)
        except UnusableAudio as error:
            yield track_id, str(error)
            continue
        yield track_id, track


def recordings(folder: Path) -> dict[str, Path]:
    """Map the ids of the recordings in a folder, not below it, to their files.

    Raises ConfigError if there is no such folder, or no recording in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"audio={folder} is not a folder: give the one that holds ID.wav, .flac, .mp3 and the like")
    files: dict[str, Path] = {}
    for extension in EXTENSIONS:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() == extension:
                files.setdefault(path.stem, path)
    if not files:
        raise ConfigError(
            f"audio={folder} holds no recording: its files must be called ID with one of {', '.join(EXTENSIONS)}"
        )
    return files


@torch.inference_mode()
def embed_members(
    model: TrainedModel, tracks: Iterable[tuple[str, StreamedTrack | str]], wanted: Mapping[str, set[int | None]]
) -> tuple[EmbeddingTable, dict[str, str]]:
    """Embed the wanted chunks and whole tracks; return them, and per track the reason why others are missing.

    Args:
        model: To embed by.
        tracks: By id; a reason instead of one that cannot be used. Others than the wanted ones are ignored.
        wanted: First frames of the chunks of each track, None for the whole.
    """
    members: list[Member] = []
    reasons: dict[str, str] = {}

    def chunks() -> Iterator[np.ndarray]:
        for track_id, track in tracks:
            if isinstance(track, str):
                reasons[track_id] = track
                continue
            for start in chunk_starts(wanted.get(track_id, set()), track.frames, model.chunk_frames):
                if reason := too_late(model.audio, start, model.chunk_frames, track.frames):
                    reasons.setdefault(track_id, reason)
                else:
                    members.append(Member(track_id, start))
                    yield track.read_chunk(start)

    embedding = embed_in_passes(model.network, chunks()).cpu()
    table = EmbeddingTable(rows=dict(zip(members, embedding, strict=True)))
    is_whole = [None in wanted[track_id] and start % model.chunk_frames == 0 for track_id, start in members]
    ids = [member.track_id for member in compress(members, is_whole)]
    number = {track_id: i for i, track_id in enumerate(dict.fromkeys(ids))}
    rows = torch.tensor([number[track_id] for track_id in ids], dtype=torch.int64)
    whole = embedding[torch.tensor(is_whole, dtype=torch.bool)]
    means = track_means(whole, rows, len(number), model.network.normalised)
    table.rows.update(zip(map(Member, number), means, strict=True))
    return table, reasons


def read_judgements(path: Path, audio: AudioSettings, least_votes: int | None) -> Judgements:
    """Read a file of dim-sim, of MagnaTagATune or of a listening test, whose header tells which it is."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            header = file.readline()
    except (OSError, UnicodeDecodeError):
        header = ""  # the reader says what is wrong
    if VOTE_COLUMNS[0] in header:
        return judged.read_judged(path, audio, least_votes or judged.LEAST_VOTES)
    if comparisons.IDS[0] in header:
        return comparisons.read_comparisons(path, least_votes or comparisons.LEAST_VOTES)
    return dim_sim.read_dim_sim(path, audio, least_votes or dim_sim.LEAST_VOTES)


def human_table(report: dict[str, Any]) -> str:
    """Format a report as a table: a line per way of comparing, over all triplets and those of high agreement."""
    spaces, high = report["all"], report["high_agreement"]
    ways = [("whole", spaces["whole"], high["whole"])]
    ways += [(name, entry, high["subspaces"][name]) for name, entry in spaces["subspaces"].items()]
    ways += [(name, spaces[name], high[name]) for name in ("weighted", "fitted")]
    counts = f"all {spaces['whole']['n']}", f"agreement >= {report['at_least']:g}: {high['whole']['n']}"
    rows = [("compared in", *counts)]
    rows += [(name, *("-" if entry is None else accuracy_text(entry) for entry in pair)) for name, *pair in ways]
    lines = aligned(rows)
    lines.append("")
    for way, given in report["weights"].items():
        if given is not None:
            lines.append(f"{way} by " + ", ".join(f"{name} {value:.2f}" for name, value in given.items()))
    if report["weights"]["fitted"] is None:
        lines.append("fitted: too few independent judgements")
    lines.append(
        f"{report['undecided']} rows without a judgement, {report['skipped']} triplets skipped for missing chunks"
    )
    return "\n".join(["accuracy on human triplets (chance 0.5) with 95 % intervals", "", *lines])


def check_source(config: DictConfig, model: TrainedModel) -> ShardIndex | None:
    """Read the index of the shards, if they are where the chunks come from."""
    audio = model.audio
    if (config.shards is None) == (config.audio is None):
        raise ConfigError("the recordings come from shards=DIR or from audio=DIR: give one of the two")
    if config.shards is None:
        musicnn.require(model.network.features)
        return None
    index = ShardIndex.read(config.shards)
    if index.audio != audio:
        raise ConfigError(f"{config.shards} was prepared with {index.audio}, the checkpoint with {audio}")
    try:
        Source(index, [], model.network.source)
    except ShardsError as error:
        raise ConfigError(f"{error}, or give audio=DIR") from error
    return index


def main(config: DictConfig) -> None:
    out = None if config.out is None else writable(config.out)
    model = load_model(config.checkpoint, choose_device(config.accelerator))
    source, names, masks = model.network.source, model.condition_names, model.network.masks()
    weights = parse_weights(config.weights)
    condition_weights(weights, names)  # before anything long begins
    index = check_source(config, model)
    judgements = read_judgements(Path(config.triplets), model.audio, config.least_votes)
    triplets = [judgement.triplet for judgement in judgements.triplets]
    wanted: dict[str, set[int | None]] = {}
    for track_id, start in (member for _, *members in triplets for member in members):
        wanted.setdefault(track_id, set()).add(start)
    if index is not None:
        tracks = stored_tracks(index, source, model.chunk_frames)
    else:
        tracks = recorded_tracks(Path(config.audio), wanted, source, model.chunk_frames, model.audio)
    table, reasons = embed_members(model, show_progress(tracks, desc="embed", unit="track"), wanted)
    check_finite(table.rows, config.shards or config.audio)
    agreement = [judgement.agreement for judgement in judgements.triplets]
    groups = [judgement.group for judgement in judgements.triplets]
    report = human_report(table, triplets, agreement, masks, names, weights, config.high_agreement, groups)
    report["reasons"] = {track_id: reasons.get(track_id, "not in the shards") for track_id in report["missing"]}
    report["undecided"] = judgements.undecided
    tell_missing(report)
    if out is not None:
        write_json(out, report)
    sys.stdout.write(human_table(report) + "\n")


def tell_missing(report: dict[str, Any]) -> None:
    """Log why chunks are missing. Raises ValueError if there is no triplet to judge by."""
    reasons = [f"{track_id}: {reason}" for track_id, reason in report["reasons"].items()]
    for line in reasons[:SHOWN]:
        logger.warning("missing %s", line)
    if len(reasons) > SHOWN:
        logger.warning("and %d tracks more, see reasons in out=FILE.json", len(reasons) - SHOWN)
    if not report["all"]["whole"]["n"]:
        raise ValueError(
            f"no triplet has all its chunks ({report['skipped']} skipped, {report['undecided']} rows without a judgement): "
            "give the shards or the recordings of these tracks"
        )
