"""The format of an exported model: a folder with the weights as safetensors and a JSON file of all else that a network needs.

| file | what |
|---|---|
| ``config.json`` | the parts of a checkpoint that its network is rebuilt from, under the same keys, and the fields of ``Seal`` |
| ``model.safetensors`` | the weights, under their names in ``ConditionalSimilarityNetwork`` |

Other files of the folder are not read. Names of files come from here alone, never from what is read, and nothing is unpickled.
Whoever changes one of the two files breaks the seal, and is told which one. A seal guards against damage and mix-ups, not against an
impostor, who can make a new one.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from disentangled_ml.network.backbones import BACKBONES

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT, FORMAT_VERSION = "disentangled-ml", 1
# Of config.json; those of this project have some kilobytes.
MOST_BYTES = 1 << 20
PREFIX = "network."
# The training settings that a network depends on, each a key or a key and those below it.
SETTINGS = {
    "backbone": ("name", "width"),
    "frontend": ("name", "trainable_stft", "trainable_mel"),
    "mask": ("name", "start"),
    "embedding_dim": None,
    "rhythm": None,
    "trainer": ("channels_last",),
    "data": ("chunk_frames", "tempo"),
}
# Parts of a checkpoint; the last one is what a model card tells of the training, see ``search/export.py``.
PARTS = ("conditions", "audio", "features", "tags", "training")
# Fewer than any backbone of width 1 has; they grow by the square of the width.
LEAST_VALUES = 400_000
AGAIN = "export the model again, or fetch its folder anew"


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a network depends on, of all that it was trained with.

    >>> settings_of({"seed": 3, "rhythm": True, "data": {"shards": "x", "chunk_frames": 129}})
    {'rhythm': True, 'data': {'chunk_frames': 129}}
    """
    kept = {}
    for key, below in SETTINGS.items():
        if key in config:
            value = config[key]
            kept[key] = value if below is None else {name: value[name] for name in below if name in value}
    return kept


def to_exported(checkpoint: Mapping[str, Any], fingerprint: str) -> tuple[dict[str, Any], bytes]:
    """Return the two files of a model: what ``config.json`` holds, and the bytes of ``model.safetensors``.

    Args:
        checkpoint: Its content.
        fingerprint: Of the checkpoint, by which catalogues know what embedded them.
    """
    weights = safetensors.torch.save(
        {
            name.removeprefix(PREFIX): value.detach().cpu().contiguous()
            for name, value in checkpoint["state_dict"].items()
            if name.startswith(PREFIX)
        }
    )
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **{key: checkpoint[key] for key in PARTS if key in checkpoint},
        "config": settings_of(checkpoint["config"]),
        "fingerprint": fingerprint,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return {**description, "config_sha256": digest_of(description)}, weights


def digest_of(description: Mapping[str, Any]) -> str:
    """Return the sha256 of what ``config.json`` holds but for this digest itself, however it is laid out."""
    content = {key: value for key, value in description.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_description(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of an exported model. Raises ValueError if it is missing, damaged, or another program's."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no {CONFIG}: give a checkpoint file, or a folder that disentangled export made"
        )
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        description = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {AGAIN}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(f"{path} is another program's: give a folder that disentangled export made")
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} is of format version {version!r:.20}, this program reads {FORMAT_VERSION}: update disentangled-ml"
        )
    if description.get("config_sha256") != digest_of(description):
        raise ValueError(f"{path} is damaged, or was changed after the export: {AGAIN}")
    return description


def check_weights(folder: Path, description: Mapping[str, Any]) -> None:
    """Check that the weights are those that were exported. Raises ValueError if not."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{path} is missing: {AGAIN}")
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): {AGAIN}") from error
    if digest != description.get("weights_sha256"):
        raise ValueError(f"{path} is damaged, or not the file that {CONFIG} was written with: {AGAIN}")


def fingerprint_of(folder: Path) -> str:
    """Return the fingerprint of the checkpoint that a folder was exported from. Raises ValueError if the folder is damaged."""
    description = read_description(folder)
    check_weights(folder, description)
    fingerprint = description.get("fingerprint")
    if not isinstance(fingerprint, str):
        raise ValueError(f"{folder / CONFIG} has no legal fingerprint: {AGAIN}")
    return fingerprint


def read_exported(folder: Path) -> dict[str, Any]:
    """Read an exported model as the checkpoint that it was, without the state of the training and the folder of its shards.

    Raises ValueError, naming the file, if one is missing, damaged, or another program's.
    """
    description = read_description(folder)
    check_weights(folder, description)
    missing = [key for key in ("config", "conditions", "audio") if key not in description]
    data = description["config"].get("data") if isinstance(description.get("config"), dict) else None
    if missing or not isinstance(data, dict):
        raise ValueError(f"{folder / CONFIG} lacks {', '.join(missing or ['config.data'])}: {AGAIN}")
    weights = read_weights(folder / WEIGHTS)
    check_size(folder, description["config"], sum(value.numel() for value in weights.values()))
    return {
        **{key: description[key] for key in PARTS if key in description},
        "config": {**description["config"], "data": {**data, "shards": ""}},
        "state_dict": {PREFIX + name: value for name, value in weights.items()},
    }


def check_size(folder: Path, config: Mapping[str, Any], n_values: int) -> None:
    """Check that a network is not far larger than its weights, before memory is taken for it. Raises ValueError if it is."""
    backbone, dim = config.get("backbone"), config.get("embedding_dim")
    # Where there is no backbone, its width means nothing.
    scaled = isinstance(backbone, dict) and backbone.get("name") in [*BACKBONES]
    width = backbone.get("width") if scaled else None
    too_many = isinstance(dim, int) and dim > n_values
    too_wide = isinstance(width, int | float) and width > 1 and LEAST_VALUES * width * width > n_values
    if too_many or too_wide:
        asked = f"embedding_dim={dim}" if too_many else f"backbone.width={width}"
        raise ValueError(f"{folder / CONFIG} asks for more than {WEIGHTS} holds ({asked:.60}): {AGAIN}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file. Raises ValueError if it is none."""
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{path} cannot be read ({error!s:.200}): {AGAIN}") from error
