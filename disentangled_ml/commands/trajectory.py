"""Follow a recording through the subspaces: ``disentangled trajectory checkpoint=FILE path=AUDIO [out=DIR]``.

Overlapping chunks of the recording are embedded. ``trajectory.json`` has, per condition, two curves over time (the principal components
of the chunks in the subspace), the novelty and the times at which the condition changes; ``trajectory.png`` shows them with the
self-similarity matrices. The threshold of a change is one distance for all conditions, or, from the file that ``disentangled changes``
writes, one per condition, chosen on validation pieces.
"""

import os
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig

from datamodules.audio import musicnn
from disentangled_ml.config import ConfigError
from disentangled_ml.evaluation.retrieval import subspaces
from disentangled_ml.files import atomic_write, write_json
from disentangled_ml.network.checkpoint import choose_device
from disentangled_ml.reporting.cells import aligned
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.trajectories.change_points import self_similarity
from disentangled_ml.trajectories.figures import draw_trajectory
from disentangled_ml.trajectories.recordings import chunk_seconds, embed_recording, hop_of, read_recording
from disentangled_ml.trajectories.trajectory import DIGITS, describe, read_thresholds, rounded


def main(config: DictConfig) -> None:
    path = Path(config.path)
    embedder = Embedder(config.checkpoint, choose_device(config.accelerator))
    musicnn.require(embedder.network.features)
    names, model = embedder.condition_names, embedder.model
    hop_frames = hop_of(embedder, config.hop_seconds, config.context_seconds)
    settings = {key: config[key] for key in ("hop_seconds", "context_seconds")}
    thresholds = dict.fromkeys(names, config.threshold)
    if config.thresholds is not None:
        thresholds = read_thresholds(config.thresholds, embedder, settings)
    out = Path(config.out or Path("trajectories") / path.stem)
    make_folder(out)
    recording = read_recording(path, embedder)
    starts, embedding = embed_recording(embedder, recording, hop_frames)
    step, context, gap = model.audio.seconds(hop_frames), config.context_seconds, config.min_gap_seconds
    trajectory = {
        "path": path.name,
        "seconds": round(recording.seconds, DIGITS),
        "times": rounded(starts + chunk_seconds(embedder) / 2),
        "conditions": describe(embedding, starts, embedder, thresholds, step, context, gap),
        "settings": {
            **settings,
            "min_gap_seconds": gap,
            "thresholds": config.thresholds,
            "chunk_seconds": round(chunk_seconds(embedder), DIGITS),
        },
        "checkpoint": config.checkpoint,
        "fingerprint": model.fingerprint,
    }
    parts = subspaces(embedding, torch.from_numpy(model.masks))
    similarity = dict(zip(names, map(self_similarity, parts), strict=True))
    with atomic_write(out / "trajectory.png", "wb") as file:
        draw_trajectory(trajectory, recording.waveform, similarity, file)
    write_json(out / "trajectory.json", trajectory)
    rows = [("condition", "threshold", "changes (seconds)")]
    for name, entry in trajectory["conditions"].items():
        times = ", ".join(f"{time:.1f}" for time in entry["changes"])
        rows.append((name, f"{entry['threshold']:.3f}", times or "none"))
    sys.stdout.write("\n".join([*aligned(rows), "", str(out)]) + "\n")


def make_folder(out: Path) -> None:
    """Make the folder of what is written, before anything long begins. Raises ConfigError if it cannot be made or written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={out} cannot be made ({error.strerror}): give out=DIR") from error
    if not os.access(out, os.W_OK):
        raise ConfigError(f"out={out} cannot be written to: give another out=DIR")
