"""Follow a recording through the subspaces: ``python -m disentangled_ml.commands.trajectory checkpoint=FILE path=AUDIO [out=DIR]``.

Overlapping chunks of the recording are embedded. Per condition it gives two curves over time (the principal components of the
chunks in the subspace), the novelty and the times at which the condition changes: ``trajectory.json``, and ``trajectory.png`` with
the self-similarity matrices too. The threshold of a change is one distance for all conditions, or, from the file that
``python -m disentangled_ml.commands.changes`` writes, one per condition, chosen on validation pieces.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from disentangled_ml.config import ConfigError
from disentangled_ml.console import run_command
from disentangled_ml.evaluation.retrieval import subspaces
from disentangled_ml.network.checkpoint import choose_device
from disentangled_ml.reporting.report import aligned
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.training.run_folder import read_json, write_json
from disentangled_ml.trajectories.change_points import (
    change_points,
    novelty,
    principal_curves,
    self_similarity,
)
from disentangled_ml.trajectories.figures import draw_trajectory
from disentangled_ml.trajectories.recordings import (
    check_context,
    chunk_seconds,
    embed_recording,
    hop_of,
    read_recording,
)

DIGITS = 5  # of numbers in the json


def read_thresholds(config: DictConfig, embedder: Embedder) -> dict[str, float]:
    """Give the threshold of each condition.

    Raises:
        ConfigError: if the file of thresholds lacks one, or was made with another hop, context or checkpoint.
    """
    names = embedder.condition_names
    if config.thresholds is None:
        return dict.fromkeys(names, config.threshold)
    content = read_json(Path(config.thresholds))
    found, settings = content.get("thresholds"), content.get("settings")
    found, settings = (part if isinstance(part, dict) else {} for part in (found, settings))
    missing = [name for name in names if not isinstance(found.get(name), float)]
    if missing:
        raise ConfigError(
            f"thresholds={config.thresholds} has none of {', '.join(missing)}: give the out=FILE.json of "
            "python -m disentangled_ml.commands.changes with the same checkpoint"
        )
    for key in ("hop_seconds", "context_seconds"):
        if settings.get(key) != config[key]:
            raise ConfigError(
                f"thresholds={config.thresholds} are of {key}={settings.get(key)}, not {config[key]}: give {key} as there"
            )
    if content.get("fingerprint") != embedder.model.fingerprint:
        raise ConfigError(
            f"thresholds={config.thresholds} are of another checkpoint: distances differ from one to the other"
        )
    return {name: found[name] for name in names}


def rounded(values: Any) -> list:
    """Round a tensor for the json."""
    return json.loads(json.dumps(values.tolist()), parse_float=lambda text: round(float(text), DIGITS))


def follow(
    embedding: torch.Tensor,
    starts: torch.Tensor,
    embedder: Embedder,
    thresholds: dict[str, float],
    config: DictConfig,
) -> dict[str, Any]:
    """Describe each condition over time.

    Shape:
        embedding: (N, D); starts: (N,) seconds.
    """
    conditions = {}
    masks = torch.from_numpy(embedder.model.masks)
    step = embedder.model.audio.seconds(hop_of(embedder, config.hop_seconds))
    for name, rows in zip(embedder.condition_names, subspaces(embedding, masks), strict=True):
        curve = novelty(rows, starts, chunk_seconds(embedder), config.context_seconds, step)
        changes = change_points(curve, thresholds[name], config.min_gap_seconds)
        conditions[name] = {
            "curves": rounded(principal_curves(rows)),
            "novelty": {"times": rounded(curve.times), "values": rounded(curve.values)},
            "threshold": thresholds[name],
            "changes": [round(time, DIGITS) for time in changes],
        }
    return conditions


def claim(out: Path) -> None:
    """Make the folder of what is written.

    Raises:
        ConfigError: if it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={out} cannot be made ({error.strerror}): give out=DIR") from error
    if not os.access(out, os.W_OK):
        raise ConfigError(f"out={out} cannot be written to: give another out=DIR")


def main(config: DictConfig) -> None:
    """Follow the recording of a configuration."""
    path = Path(config.path)
    embedder = Embedder(config.checkpoint, choose_device(config.accelerator))
    hop_frames = hop_of(embedder, config.hop_seconds)
    check_context(embedder, config.context_seconds)
    names = embedder.condition_names
    thresholds = read_thresholds(config, embedder)
    out = Path(config.out or Path("trajectories") / path.stem)
    claim(out)
    recording = read_recording(path, embedder)
    starts, embedding = embed_recording(embedder, recording, hop_frames)
    keys = ("hop_seconds", "context_seconds", "min_gap_seconds", "thresholds")
    trajectory = {
        "path": path.name,
        "seconds": round(len(recording.waveform) / embedder.model.audio.sample_rate, DIGITS),
        "times": rounded(starts + chunk_seconds(embedder) / 2),
        "conditions": follow(embedding, starts, embedder, thresholds, config),
        "settings": {key: config[key] for key in keys} | {"chunk_seconds": round(chunk_seconds(embedder), DIGITS)},
        "checkpoint": config.checkpoint,
        "fingerprint": embedder.model.fingerprint,
    }
    masks = torch.from_numpy(embedder.model.masks)
    similarity = dict(zip(names, map(self_similarity, subspaces(embedding, masks)), strict=True))
    temporary = out / f"trajectory.{os.getpid()}.tmp.png"
    draw_trajectory(trajectory, recording.waveform, similarity, temporary)
    temporary.replace(out / "trajectory.png")
    write_json(out / "trajectory.json", trajectory)
    rows = [("condition", "threshold", "changes (seconds)")]
    for name, entry in trajectory["conditions"].items():
        times = ", ".join(f"{time:.1f}" for time in entry["changes"])
        rows.append((name, f"{entry['threshold']:.3f}", times or "none"))
    sys.stdout.write("\n".join([*aligned(rows), "", str(out)]) + "\n")


if __name__ == "__main__":
    run_command(main, "trajectory", "trajectory", __doc__)
