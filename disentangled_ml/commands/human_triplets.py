"""Compare a checkpoint with people: ``disentangled human_triplets checkpoint=FILE triplets=CSV shards=DIR``.

The triplets are those of dim-sim, between chunks, of MagnaTagATune's comparisons_final.csv, between whole clips (see
dim_sim.py and comparisons.py in datamodules/triplet_lists/), or of a listening test (judged.py there): the header tells which.
Instead of ``shards=DIR``, ``audio=DIR`` names a folder of recordings ``ID.wav``, ``.flac``, ``.ogg`` or ``.mp3``. A triplet whose
recording is missing, unusable or too short for its chunk is skipped, and listed with the reason.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from datamodules.audio.decoding import UnusableAudio, decode
from datamodules.audio.spectrogram import log_mel, resample
from datamodules.batches.streams import mel_chunk, waveform_chunk
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.tar import MEMBERS, decode_info, decode_mel, read_samples, sample_context, share_slices
from datamodules.triplet_lists import comparisons, dim_sim, judged
from datamodules.triplet_lists.judgements import Judgements
from disentangled_ml.config import ConfigError
from disentangled_ml.evaluation.human import check_weights, human_report
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable
from disentangled_ml.files import writable, write_json
from disentangled_ml.network.checkpoint import choose_device, load_checkpoint, network_from
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.reporting.cells import accuracy_text, aligned
from disentangled_ml.structures import SPLITS, VOTE_COLUMNS, AudioSettings, Member
from disentangled_ml.systems import check_finite

EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")  # where a folder has several of one recording, the first is taken
CHUNKS_PER_BATCH = 64
SHOWN = 5  # reasons on the screen; the report has all
Chunk = np.ndarray | str  # (1, n_mels, frames) or (samples,); or the reason why there is none
logger = logging.getLogger("human_triplets")


def parse_weights(text: str | None) -> dict[str, float] | None:
    """Parse ``{genre:2, mood:1}``; the braces may be left out.

    Raises:
        ConfigError: if it is not of that form.

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
    """Say why a recording of ``frames`` frames has no chunk at a start; None if it has one.

    >>> too_late(AudioSettings(), 129, 129, 258) is None
    True
    >>> too_late(AudioSettings(), 130, 129, 258)
    'too short: the chunk from 3.02 s on ends at 6.01 s, the recording at 5.99 s'
    """
    if start + chunk_frames <= frames:
        return None
    begin, end, length = (audio.seconds(f) for f in (start, start + chunk_frames, frames))
    return f"too short: the chunk from {begin:.2f} s on ends at {end:.2f} s, the recording at {length:.2f} s"


def wanted_starts(members: Iterable[Member]) -> dict[str, set[int | None]]:
    """Collect what is wanted of each track: starts of chunks, None for the whole.

    >>> wanted_starts([Member("a", 0), Member("b"), Member("a", 129)])
    {'a': {0, 129}, 'b': {None}}
    """
    wanted: dict[str, set[int | None]] = {}
    for track_id, start in members:
        wanted.setdefault(track_id, set()).add(start)
    return wanted


def chunk_starts(wanted: set[int | None], frames: int, chunk_frames: int) -> list[int]:
    """List the first frames of the chunks to embed: those wanted and, for the whole track, its non-overlapping ones.

    >>> chunk_starts({None, 7}, frames=300, chunk_frames=129), chunk_starts({None}, frames=99, chunk_frames=129)
    ([0, 7, 129], [0])
    """
    grid = range(0, max(frames - chunk_frames, 0) + 1, chunk_frames) if None in wanted else ()
    return sorted({*grid, *(start for start in wanted if start is not None)})


def stored_chunks(
    index: ShardIndex, wanted: dict[str, set[int | None]], source: str, chunk_frames: int
) -> Iterator[tuple[Member, Chunk]]:
    """Read the wanted chunks (starts, None for the whole, per track) from the shards; a track that is in none gives nothing."""
    for split in SPLITS:
        slices = share_slices(index.splits[split], consumer=0, n_consumers=1)
        for sample in read_samples(index.root, slices, ("json", MEMBERS[source])):
            with sample_context(index.root, sample):
                info = decode_info(sample["json"])
                starts = chunk_starts(wanted.get(info.track_id, set()), info.frames, chunk_frames)
                read_chunk = chunk_reader(sample, info.frames, index.audio, source, chunk_frames) if starts else None
            for start in starts:
                reason = too_late(index.audio, start, chunk_frames, info.frames)
                yield Member(info.track_id, start), read_chunk(start) if reason is None else reason


def chunk_reader(
    sample: dict[str, Any], frames: int, audio: AudioSettings, source: str, chunk_frames: int
) -> Callable[[int], np.ndarray]:
    """Prepare to cut chunks, by their start, out of a sample of the shards.

    Raises:
        ShardsError: if its spectrogram is damaged.
    """
    data = sample[MEMBERS[source]]
    if source == "waveform":
        return partial(waveform_chunk, data, audio, chunk_frames)
    mel = decode_mel(data)
    if mel.shape != (audio.n_mels, frames):
        raise ShardsError(f"its spectrogram has shape {mel.shape}, its labels say {frames} frames")
    return partial(mel_chunk, mel, chunk_frames)


def recorded_chunks(
    folder: Path, wanted: dict[str, set[int | None]], source: str, chunk_frames: int, audio: AudioSettings
) -> Iterator[tuple[Member, Chunk]]:
    """Cut the wanted chunks (starts, None for the whole, per track) out of the recordings of a folder."""
    files = recordings(folder)
    for track_id, starts in wanted.items():
        try:
            if track_id not in files:
                raise UnusableAudio(f"{folder} has no file {track_id} with one of {', '.join(EXTENSIONS)}")
            waveform = resample(*decode(files[track_id]), audio.sample_rate)
            spect = log_mel(waveform, audio) if source == "mel" else None
        except UnusableAudio as error:
            yield from ((Member(track_id, start), str(error)) for start in starts)
            continue
        frames = 1 + len(waveform) // audio.hop_length
        for start in chunk_starts(starts, frames, chunk_frames):
            reason = too_late(audio, start, chunk_frames, frames)
            first = start * audio.hop_length
            samples = waveform[first : first + audio.chunk_samples(chunk_frames)]
            chunk = samples if spect is None else mel_chunk(spect, chunk_frames, start)
            yield Member(track_id, start), chunk if reason is None else reason


def recordings(folder: Path) -> dict[str, Path]:
    """Map the ids of the recordings in a folder, not below it, to their files.

    Raises:
        ConfigError: if there is no such folder, or no recording in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"audio={folder} is not a folder: give the one that holds ID.wav, .flac, .ogg or .mp3")
    files: dict[str, Path] = {}
    for extension in EXTENSIONS:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() == extension:
                files.setdefault(path.stem, path)
    if not files:
        raise ConfigError(f"audio={folder} holds no recording: its files must be called ID.wav, .flac, .ogg or .mp3")
    return files


@torch.inference_mode()
def embed_chunks(
    network: ConditionalSimilarityNetwork, chunks: Iterator[tuple[Member, Chunk]]
) -> tuple[EmbeddingTable, dict[str, str]]:
    """Embed chunks; give their table, and the reasons per track why there are others not."""
    device = next(network.parameters()).device
    table, reasons = EmbeddingTable(), {}

    def usable() -> Iterator[tuple[Member, np.ndarray]]:
        for member, chunk in chunks:
            if isinstance(chunk, str):
                reasons.setdefault(member.track_id, chunk)
            else:
                yield member, chunk

    found = usable()
    while batch := list(islice(found, CHUNKS_PER_BATCH)):
        audio = torch.from_numpy(np.stack([chunk for _, chunk in batch])).to(device)
        table.rows.update(zip([member for member, _ in batch], network(audio).float().cpu(), strict=True))
    return table, reasons


def add_wholes(table: EmbeddingTable, wanted: dict[str, set[int | None]], chunk_frames: int) -> None:
    """Add the wanted whole tracks: the mean of their non-overlapping chunks, normalised, as everywhere in evaluation."""
    grid: dict[str, list[Tensor]] = {track_id: [] for track_id, starts in wanted.items() if None in starts}
    for member, row in table.rows.items():
        if member.track_id in grid and member.start % chunk_frames == 0:
            grid[member.track_id].append(row)
    for track_id, rows in grid.items():
        if rows:
            table.rows[Member(track_id)] = normalize(torch.stack(rows).sum(dim=0), dim=0)


def read_judgements(path: Path, audio: AudioSettings, least_votes: int | None) -> Judgements:
    """Read a file of dim-sim, of MagnaTagATune or of a listening test, whose header tells which it is.

    Raises:
        ValueError: naming the file and line that is wrong.
    """
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
    """Show a report as a table: a line per way of comparing, over all triplets and those of high agreement."""
    spaces, high = report["all"], report["high_agreement"]
    ways = [("whole", spaces["whole"], high["whole"])]
    ways += [(name, entry, high["subspaces"][name]) for name, entry in spaces["subspaces"].items()]
    ways += [(name, spaces[name], high[name]) for name in ("weighted", "fitted")]
    rows = [
        ("compared in", f"all {spaces['whole']['n']}", f"agreement >= {report['at_least']:g}: {high['whole']['n']}")
    ]
    rows += [(name, *("-" if entry is None else accuracy_text(entry) for entry in pair)) for name, *pair in ways]
    lines = aligned(rows)
    weights = {name: given for name, given in report["weights"].items() if given is not None}
    lines += [""] + [
        f"{way} by " + ", ".join(f"{name} {value:.2f}" for name, value in given.items())
        for way, given in weights.items()
    ]
    if report["weights"]["fitted"] is None:
        lines.append("fitted: too few independent judgements")
    lines.append(
        f"{report['undecided']} rows without a judgement, {report['skipped']} triplets skipped for missing chunks"
    )
    return "\n".join(["accuracy on human triplets (chance 0.5) with 95 % intervals", "", *lines])


def check_source(config: DictConfig, audio: AudioSettings, source: str) -> ShardIndex | None:
    """Read the index of the shards, if they are where the chunks come from.

    Raises:
        ConfigError: if not one of ``shards`` and ``audio`` is given, or the shards do not fit the checkpoint.
    """
    if (config.shards is None) == (config.audio is None):
        raise ConfigError("the recordings come from shards=DIR or from audio=DIR: give one of the two")
    if config.shards is None:
        return None
    index = ShardIndex.read(config.shards)
    if index.audio != audio:
        raise ConfigError(f"{config.shards} was prepared with {index.audio}, the checkpoint with {audio}")
    if source == "waveform" and not index.has_waveform:
        raise ConfigError(f"{config.shards} holds no waveforms, which this checkpoint needs: give audio=DIR")
    return index


def main(config: DictConfig) -> None:
    """Compare the checkpoint of a configuration with people."""
    out = None if config.out is None else writable(config.out)
    device = choose_device(config.accelerator)
    checkpoint = load_checkpoint(Path(config.checkpoint))
    network = network_from(checkpoint, config.checkpoint).to(device)
    audio, source = AudioSettings(**checkpoint["audio"]), network.frontend.source
    chunk_frames = checkpoint["config"]["data"]["chunk_frames"]
    weights = parse_weights(config.weights)
    check_weights(weights, network.condition_names)  # before anything long begins
    index = check_source(config, audio, source)
    judgements = read_judgements(Path(config.triplets), audio, config.least_votes)
    triplets = [judgement.triplet for judgement in judgements.triplets]
    wanted = wanted_starts(member for _, *members in triplets for member in members)
    if index is not None:
        chunks = stored_chunks(index, wanted, source, chunk_frames)
    else:
        chunks = recorded_chunks(Path(config.audio), wanted, source, chunk_frames, audio)
    table, reasons = embed_chunks(network, tqdm(chunks, desc="embed", unit="chunk"))
    check_finite(table.rows, config.shards or config.audio)
    add_wholes(table, wanted, chunk_frames)
    agreement = [judgement.agreement for judgement in judgements.triplets]
    groups = [judgement.group for judgement in judgements.triplets]
    names, high = network.condition_names, config.high_agreement
    report = human_report(table, triplets, agreement, network.masks(), names, weights, high, groups)
    report["reasons"] = {track_id: reasons.get(track_id, "not in the shards") for track_id in report["missing"]}
    report["undecided"] = judgements.undecided
    tell_missing(report)
    if out is not None:
        write_json(out, report)
    sys.stdout.write(human_table(report) + "\n")


def tell_missing(report: dict[str, Any]) -> None:
    """Log why chunks are missing.

    Raises:
        ValueError: if there is no triplet to judge by.
    """
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
