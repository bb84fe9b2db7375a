"""Score change points against true ones: ``disentangled changes checkpoint=FILE changes=DIR [out=FILE.json]``.

``DIR/changes.csv`` has the columns ``path`` (relative to it), ``split`` (val or test), ``condition`` and ``time`` (seconds), one row
per change; a recording without a change has a row with the last two empty. ``disentangled demo changing_pieces=150`` makes such a
folder. The thresholds, one per condition, are chosen on the validation split; the scores are those of the test split. The baseline
is the same novelty, by the same rules, of the log-mel spectrogram: its bands are standardised over the recording, then averaged over
each chunk. The json holds the thresholds, which ``disentangled trajectory`` reads.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from datamodules.audio import musicnn
from disentangled_ml.files import writable, write_json
from disentangled_ml.network.checkpoint import choose_device
from disentangled_ml.progress import show_progress
from disentangled_ml.reporting.cells import accuracy_text, aligned, number_text
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.trajectories.change_report import change_report
from disentangled_ml.trajectories.changing_tracks import measure, read_changes
from disentangled_ml.trajectories.recordings import hop_of


def main(config: DictConfig) -> None:
    out = None if config.out is None else writable(config.out)
    embedder = Embedder(config.checkpoint, choose_device(config.accelerator))
    musicnn.require(embedder.network.features)
    hop_frames = hop_of(embedder, config.hop_seconds, config.context_seconds)
    tracks = read_changes(Path(config.changes) / "changes.csv", embedder.condition_names)
    for track in show_progress(tracks, desc="embed", unit="recording"):
        measure(track, embedder, hop_frames, config.context_seconds)
    report = change_report(tracks, embedder.condition_names, config.min_gap_seconds)
    keys = ("hop_seconds", "context_seconds", "min_gap_seconds")
    report |= {"settings": {key: config[key] for key in keys}, "fingerprint": embedder.model.fingerprint}
    if out is not None:
        write_json(out, report)
    sys.stdout.write("\n".join(report_lines(report)) + "\n")


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    yield "change points, F-measure; embedding: novelty in the condition's subspace (any: in all dimensions); mel: of the spectrogram"
    yield ""
    rows = [("changes", "pieces", "at 3 s", "mel", "at 0.5 s", "mel", "all pieces", "mel", "wrong subspaces")]
    for name, entry in report["conditions"].items():
        ours, mel = entry["embedding"], entry["mel"]
        cells = [accuracy_text({"accuracy": ours["f_3"], "ci95": ours["ci95"]}, 2), number_text(mel["f_3"])]
        cells += [number_text(part[key]) for key in ("f_0.5", "all_pieces") for part in (ours, mel)]
        rows.append((name, str(ours["n"]), *cells, number_text(entry["wrong"])))
    yield from aligned(rows)
    yield ""
    yield "share of the pieces in which a change is reported, by what changes (rows) and where it is looked for (columns)"
    yield ""
    columns = list(next(iter(report["firing"].values())))
    yield from aligned(
        [("changes", *columns)]
        + [(name, *(number_text(row[column]) for column in columns)) for name, row in report["firing"].items()]
    )
