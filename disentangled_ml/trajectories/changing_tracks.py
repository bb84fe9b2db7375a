"""Recordings with known change points: the table that lists them, and the novelty of each in every source.

The table has the columns ``path`` (relative to it), ``split`` (``val`` or ``test``), ``condition`` and ``time`` (seconds), one row per
change; a recording without a change has one row with the last two empty.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from disentangled_ml.config import ConfigError
from disentangled_ml.evaluation.retrieval import subspaces
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.trajectories.change_points import Novelty, chunk_starts, novelty
from disentangled_ml.trajectories.recordings import chunk_seconds, embed_recording, read_recording

COLUMNS = ("path", "split", "condition", "time")
SPLITS = ("val", "test")
# Sources beside the conditions.
WHOLE, MEL = "all dimensions", "mel"
# Least standard deviation of a log-mel band; that of a silent band is below it.
FLAT = 1e-3
ANY = "any"


@dataclass
class ChangingTrack:
    """Recording that changes, or does not.

    Attributes:
        path: Of the file.
        split: ``val`` or ``test``.
        changes: True change points in seconds, per condition.
        curves: Novelty per source, once it is measured.
        seconds: Length, once it is measured.
    """

    path: Path
    split: str
    changes: dict[str, list[float]]
    curves: dict[str, Novelty]
    seconds: float = 0.0

    def times(self, condition: str) -> list[float]:
        """Return the times at which a condition, or ``ANY``, changes."""
        if condition == ANY:
            return sorted(time for times in self.changes.values() for time in times)
        return self.changes.get(condition, [])


def read_changes(table: Path, names: Sequence[str]) -> list[ChangingTrack]:
    """Read the recordings of a table of changes. Raises ConfigError, naming the line that is wrong, or what is missing."""
    tracks: dict[str, ChangingTrack] = {}
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(f"{table} has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
            for row in reader:
                where = f"{table}, line {reader.line_num}"
                path, split, condition, time = ((row[column] or "").strip() for column in COLUMNS)
                if not path or split not in SPLITS:
                    raise ConfigError(f"{where}: path={path!r}, split={split!r}: give a path, and a split of val, test")
                track = tracks.setdefault(path, ChangingTrack(table.parent / path, split, {}, {}))
                if track.split != split:
                    raise ConfigError(f"{where}: {path} is of split {track.split} above, here of {split}: give it one")
                if condition or time:
                    track.changes.setdefault(condition, []).append(parse_time(condition, time, names, where))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{table} cannot be read as UTF-8 CSV: {error}") from error
    for split in SPLITS:
        if not any(track.changes for track in tracks.values() if track.split == split):
            raise ConfigError(
                f"{table} has no change in a recording of split {split}: thresholds need val, scores test"
            )
    return list(tracks.values())


def parse_time(condition: str, time: str, names: Sequence[str], where: str) -> float:
    """Return the time of a change. Raises ConfigError if the condition is not the checkpoint's, or the time no number above 0.

    >>> parse_time("mood", "7.5", ["genre", "mood"], "changes.csv, line 2")
    7.5
    """
    if condition not in names:
        raise ConfigError(f"{where}: condition {condition!r} is none of the checkpoint's: {', '.join(names)}")
    try:
        seconds = float(time)
    except ValueError:
        seconds = float("nan")
    if not (isfinite(seconds) and seconds > 0):
        raise ConfigError(f"{where}: time={time!r} is not a number of seconds above 0")
    return seconds


def measure(track: ChangingTrack, embedder: Embedder, hop_frames: int, context: float) -> None:
    """Measure a recording's novelty in each source. Raises ValueError if it cannot be used, or ends before a change."""
    recording = read_recording(track.path, embedder)
    track.seconds = recording.seconds
    if late := [time for time in track.times(ANY) if time >= track.seconds]:
        raise ValueError(f"{track.path} ends at {track.seconds:.2f} s, before its change at {late[0]:g} s")
    starts, embedding = embed_recording(embedder, recording, hop_frames)
    masks, mel = torch.from_numpy(embedder.model.masks), recording.spectrogram(embedder.model.audio)
    sources = dict(zip(embedder.condition_names, subspaces(embedding, masks), strict=True))
    sources |= {WHOLE: embedding, MEL: mel_means(mel, embedder.model.chunk_frames, hop_frames)}
    chunk, step = chunk_seconds(embedder), embedder.model.audio.seconds(hop_frames)
    track.curves = {name: novelty(rows, starts, chunk, context, step) for name, rows in sources.items()}


def mel_means(spectrogram: np.ndarray, chunk_frames: int, hop_frames: int) -> Tensor:
    """Standardise the bands of a spectrogram (n_mels, F), and return their means over each chunk: (N, n_mels)."""
    mel = torch.from_numpy(spectrogram.astype("float32"))
    mel = (mel - mel.mean(1, keepdim=True)) / mel.std(1, keepdim=True).clamp(min=FLAT)
    starts = chunk_starts(mel.shape[1], chunk_frames, hop_frames)
    return torch.stack([mel[:, start : start + chunk_frames].mean(1) for start in starts])
