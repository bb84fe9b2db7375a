"""Score change points against true ones: ``python -m disentangled_ml.commands.changes checkpoint=FILE changes=DIR [out=FILE.json]``.

``DIR/changes.csv`` has the columns ``path`` (relative to it), ``split`` (val or test), ``condition`` and ``time`` (seconds), one row
per change; a recording without a change has a row with these two empty. ``disentangled demo changing_pieces=150`` makes
such a folder. The thresholds, one per condition, are chosen on the recordings of the validation split, the scores are those of the test
split. The baseline is the same novelty, by the same rules, on the log-mel spectrogram: its bands are standardised over the recording,
then averaged over each chunk. The json holds the thresholds, which ``python -m disentangled_ml.commands.trajectory`` reads.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from disentangled_ml.config import ConfigError
from disentangled_ml.console import run_command
from disentangled_ml.evaluation.retrieval import subspaces
from disentangled_ml.network.checkpoint import choose_device
from disentangled_ml.reporting.report import aligned, number
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.training.run_folder import writable, write_json
from disentangled_ml.trajectories.change_metrics import (
    WINDOWS,
    choose_threshold,
    found_in,
    mean_f,
    pooled,
    share_of_firing,
)
from disentangled_ml.trajectories.change_points import Novelty, chunk_starts, novelty
from disentangled_ml.trajectories.recordings import (
    Recording,
    check_context,
    chunk_seconds,
    embed_recording,
    hop_of,
    read_recording,
)

COLUMNS = ("path", "split", "condition", "time")
SPLITS = ("val", "test")
WHOLE, MEL = "all dimensions", "mel"  # sources beside the conditions
FLAT = 1e-3  # least deviation of a band of log-mel, which silent bands have less of
ANY, NONE = "any", "none"  # changes: of whatever condition, and recordings without one


@dataclass
class ChangingTrack:
    """Hold a recording, its true changes in seconds per condition, and what is measured of it.

    Attributes:
        curves: Novelty per source.
        seconds: Length.
    """

    path: Path
    split: str
    changes: dict[str, list[float]]
    curves: dict[str, Novelty]
    seconds: float = 0.0

    def times(self, condition: str) -> list[float]:
        """Give the times at which a condition, or ``ANY``, changes."""
        if condition == ANY:
            return sorted(time for times in self.changes.values() for time in times)
        return self.changes.get(condition, [])


def read_changes(table: Path, names: Sequence[str]) -> list[ChangingTrack]:
    """Read the recordings of a table of changes.

    Raises:
        ConfigError: naming the line that is wrong, or what is missing.
    """
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
    """Parse the time of a change.

    Raises:
        ConfigError: if the condition is not the checkpoint's, or the time no number above 0.

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
    """Measure the novelty of a recording in each subspace, in all dimensions and of its spectrogram.

    Raises:
        ValueError: if the recording cannot be used, or ends before a change.
    """
    recording = read_recording(track.path, embedder)
    track.seconds = len(recording.waveform) / embedder.model.audio.sample_rate
    if late := [time for time in track.times(ANY) if time >= track.seconds]:
        raise ValueError(f"{track.path} ends at {track.seconds:.2f} s, before its change at {late[0]:g} s")
    starts, embedding = embed_recording(embedder, recording, hop_frames)
    masks = torch.from_numpy(embedder.model.masks)
    sources = dict(zip(embedder.condition_names, subspaces(embedding, masks), strict=True))
    sources |= {WHOLE: embedding, MEL: mel_means(recording, embedder.model.chunk_frames, hop_frames)}
    step = embedder.model.audio.seconds(hop_frames)
    track.curves = {
        name: novelty(rows, starts, chunk_seconds(embedder), context, step) for name, rows in sources.items()
    }


def mel_means(recording: Recording, chunk_frames: int, hop_frames: int) -> Tensor:
    """Standardise the bands of a spectrogram, and average the frames of each chunk: (N, n_mels)."""
    mel = torch.from_numpy(recording.mel.astype("float32"))
    mel = (mel - mel.mean(1, keepdim=True)) / mel.std(1, keepdim=True).clamp(min=FLAT)
    starts = chunk_starts(mel.shape[1], chunk_frames, hop_frames)
    return torch.stack([mel[:, start : start + chunk_frames].mean(1) for start in starts])


class Detector:
    """Find the changes of one condition, or of any, by one source.

    Args:
        tracks: Recordings of both splits.
        condition: What is looked for, or ``ANY``.
        source: Where.
        min_gap: Seconds between change points.
    """

    def __init__(self, tracks: Sequence[ChangingTrack], condition: str, source: str, min_gap: float):
        self.tests = [track for track in tracks if track.split == "test"]
        validation = [track for track in tracks if track.split == "val"]
        self.condition = condition
        true = [track.times(condition) for track in validation]
        self.threshold = choose_threshold([track.curves[source] for track in validation], true, min_gap)
        self.found = found_in([track.curves[source] for track in self.tests], self.threshold, min_gap)

    def on_changing(self, condition: str) -> dict[str, Any]:
        """Score the recordings in which a condition changes."""
        rows = [
            (track.times(condition), points, track.seconds)
            for track, points in zip(self.tests, self.found, strict=True)
            if track.times(condition)
        ]
        return mean_f(*zip(*rows, strict=True))

    def on_all(self) -> float:
        """Score all recordings together, at 3 s."""
        true = [track.times(self.condition) for track in self.tests]
        return pooled(true, self.found, WINDOWS[0]).f_measure()

    def firing(self, condition: str) -> float | None:
        """Give the share of the recordings in which a condition, or none, changes that have a change point here."""
        chosen = [
            points
            for track, points in zip(self.tests, self.found, strict=True)
            if (track.times(condition) if condition != NONE else not track.changes)
        ]
        return share_of_firing(chosen) if chosen else None


def changing_conditions(tracks: Sequence[ChangingTrack], names: Sequence[str]) -> list[str]:
    """Name the conditions that change in recordings of both splits: the others cannot be scored."""
    return [name for name in names if all(any(t.times(name) for t in tracks if t.split == s) for s in SPLITS)]


def change_report(tracks: Sequence[ChangingTrack], names: Sequence[str], min_gap: float) -> dict[str, Any]:
    """Score what is found in the test recordings, with thresholds of the validation recordings.

    Returns:
        ``{"thresholds": {source: number}, "conditions": {condition or "any": {"embedding": {"f_3", "ci95", "f_0.5", "n",
        "all_pieces"}, "mel": {...}, "wrong": share}}, "firing": {condition or "none": {source: share}}}``. ``wrong`` is the share of
        the other subspaces that report a change, anywhere in a recording in which only this condition changes.

    Raises:
        ValueError: if no condition changes in both splits.
    """
    names = changing_conditions(tracks, names)
    if not names:
        raise ValueError("no condition changes in recordings of both splits: there is nothing to score")
    own = {name: Detector(tracks, name, name, min_gap) for name in names} | {ANY: Detector(tracks, ANY, WHOLE, min_gap)}
    mel = {name: Detector(tracks, name, MEL, min_gap) for name in (*names, ANY)}
    firing = {
        changed: {name: own[name].firing(changed) for name in names} | {MEL: mel[ANY].firing(changed)}
        for changed in (*names, NONE)
    }
    conditions = {}
    for name in own:
        others = [firing[name][other] for other in names if other != name] if name != ANY else []
        conditions[name] = {
            # Mel cannot tell conditions apart: where any of them changes, it may look for any change.
            "embedding": {**own[name].on_changing(name), "all_pieces": own[name].on_all()},
            "mel": {**mel[ANY].on_changing(name), "all_pieces": mel[name].on_all()},
            "wrong": sum(others) / len(others) if others else None,
        }
    thresholds = {(WHOLE if name == ANY else name): found.threshold for name, found in own.items()}
    return {"thresholds": thresholds | {MEL: mel[ANY].threshold}, "conditions": conditions, "firing": firing}


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """Show a report as two tables."""
    yield "change points, F-measure; embedding: novelty in the condition's subspace (any: in all dimensions); mel: of the spectrogram"
    yield ""
    rows = [("changes", "pieces", "at 3 s", "mel", "at 0.5 s", "mel", "all pieces", "mel", "wrong subspaces")]
    for name, entry in report["conditions"].items():
        ours, mel = entry["embedding"], entry["mel"]
        low, high = ours["ci95"]
        cells = [f"{ours['f_3']:.3f} [{low:.2f}, {high:.2f}]", number(mel["f_3"])]
        cells += [number(part[key]) for key in ("f_0.5", "all_pieces") for part in (ours, mel)]
        rows.append((name, str(ours["n"]), *cells, number(entry["wrong"])))
    yield from aligned(rows)
    yield ""
    yield "share of the pieces in which a change is reported, by what changes (rows) and where it is looked for (columns)"
    yield ""
    columns = list(next(iter(report["firing"].values())))
    yield from aligned(
        [("changes", *columns)]
        + [(name, *(number(row[column]) for column in columns)) for name, row in report["firing"].items()]
    )


def main(config: DictConfig) -> None:
    """Score the change points of a configuration."""
    out = None if config.out is None else writable(config.out)
    embedder = Embedder(config.checkpoint, choose_device(config.accelerator))
    hop_frames = hop_of(embedder, config.hop_seconds)
    check_context(embedder, config.context_seconds)
    tracks = read_changes(Path(config.changes) / "changes.csv", embedder.condition_names)
    for track in tqdm(tracks, desc="embed", unit="recording"):
        measure(track, embedder, hop_frames, config.context_seconds)
    report = change_report(tracks, embedder.condition_names, config.min_gap_seconds)
    keys = ("hop_seconds", "context_seconds", "min_gap_seconds")
    report |= {"settings": {key: config[key] for key in keys}, "fingerprint": embedder.model.fingerprint}
    if out is not None:
        write_json(out, report)
    sys.stdout.write("\n".join(report_lines(report)) + "\n")


if __name__ == "__main__":
    run_command(main, "changes", "changes", __doc__)
