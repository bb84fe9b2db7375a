"""Export a trained model: the files that are handed on, made of a checkpoint and written together or not at all.

``network/exported.py`` describes and reads the two that the model is rebuilt from. Besides there are ``README.md``, the model card, and
if asked for ``model.pt2``, the embedding as a program of plain PyTorch.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from disentangled_ml.files import UNFINISHED, read_json, read_object
from disentangled_ml.network.checkpoint import fingerprint, load_checkpoint, network_from
from disentangled_ml.network.exported import CONFIG, FORMAT, WEIGHTS, to_exported
from disentangled_ml.network.program import as_program
from disentangled_ml.search.model_card import model_card
from disentangled_ml.structures import AudioSettings

CARD, PROGRAM = "README.md", "model.pt2"
FILES = {CONFIG, WEIGHTS, CARD, PROGRAM}
FIGURES = ("test/triplet_accuracy/", "val/triplet_accuracy/")  # of metrics.json
BEST = "best.ckpt"


def model_files(checkpoint: Path, license_name: str, with_program: bool = False) -> dict[str, bytes]:
    """Make the files of a model, by their names. Raises ValueError if the checkpoint is none of this project.

    Args:
        checkpoint: File, or folder that was exported before.
        license_name: Of the weights, as Hugging Face names it.
        with_program: Whether to make ``model.pt2`` too.
    """
    content = load_checkpoint(checkpoint)
    network, audio = network_from(content, checkpoint), AudioSettings(**content["audio"])
    if not is_training(content.setdefault("training", training_of(content, checkpoint))):
        raise ValueError(
            f"{checkpoint / CONFIG} has no legal training: export the model again, or fetch its folder anew"
        )
    description, weights = to_exported(content, fingerprint(checkpoint))
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    card = model_card(description, network.masks().shape[1], n_parameters, license_name, with_program)
    files = {
        CONFIG: (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode(),
        WEIGHTS: weights,
        CARD: card.encode(),
    }
    if with_program:
        files[PROGRAM] = as_program(network, audio, content["config"]["data"]["chunk_frames"])
    return files


def training_of(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what is told of a model's training: the data set's name, the number of epochs, and the accuracies of its run.

    ``metrics.json`` of a run is about ``best.ckpt`` alone. The folder of the shards is not told, for it is the machine's.

    Raises ValueError if ``metrics.json`` is damaged.
    """
    config, metrics = checkpoint["config"], path.parent.parent / "metrics.json"
    known = path.name == BEST and path.parent.name == "checkpoints" and metrics.is_file()
    figures = read_json(metrics, "repair it, or move it away") if known else {}
    choices = config.get("choices")
    return {
        "data": choices.get("data") if isinstance(choices, dict) and "epoch" in checkpoint else None,
        "epochs": checkpoint["epoch"] + 1 if isinstance(checkpoint.get("epoch"), int) else 0,
        "metrics": {
            key: value for key, value in figures.items() if key.startswith(FIGURES) and isinstance(value, int | float)
        },
    }


def is_training(content: Any) -> bool:
    """Return whether a content is as ``training_of`` returns it; an exported folder may hold anything there.

    >>> is_training({"data": None, "epochs": 3, "metrics": {"test/triplet_accuracy/mean": 0.9}}), is_training({"epochs": 3})
    (True, False)
    """
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        return False
    is_told = isinstance(content.get("data", 0), str | None) and isinstance(content.get("epochs"), int)
    return is_told and all(isinstance(value, int | float) for value in content["metrics"].values())


def check_folder(out: Path) -> None:
    """Check that a folder is free for a model: not there, empty, or with an earlier one. Raises ValueError if it is not."""
    way_out = "give out=DIR a folder that is not there yet"
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"out={out} is a file and would be lost: {way_out}")
    found = sorted(path.name for path in out.iterdir())
    if others := [name for name in found if name not in FILES]:
        raise ValueError(f"out={out} holds something else, {others[0]!r:.80}: {way_out}")
    if found and read_object(out / CONFIG).get("format") != FORMAT:
        raise ValueError(f"out={out} holds something else than a model of this project, which would be lost: {way_out}")


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a model's folder whole or not at all, in the place of an earlier one.

    Where a kill comes between the two renames that replace an earlier one, both lie beside ``out``, under names that begin with a dot.

    Raises: OSError: if it cannot be written; what was there before stays.
    """
    out = out.resolve()
    made, aside = (out.with_name(f".{out.name}.{os.getpid()}.{part}{UNFINISHED}") for part in ("new", "old"))
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(parents=True)
        for name, content in files.items():
            (made / name).write_bytes(content)
        if out.exists():
            out.rename(aside)
        made.rename(out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        if aside.exists() and not out.exists():
            aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)
