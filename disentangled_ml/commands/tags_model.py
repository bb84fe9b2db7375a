"""Make a model without training, of musicnn's tags: ``disentangled tags_model shards=DIR out=FILE.ckpt``.

FILE is a checkpoint that every command takes: ``evaluate``, ``embed``, ``search``, ``serve``, ``human_triplets``, ``trajectory``.
Its conditions are genre, mood and instrument, as far as the shards' features have tags for them, and tempo. The shards need no
labels; the tags are standardised over their training tracks.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.shards.index import ShardIndex
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.files import atomic_write, writable
from disentangled_ml.network.checkpoint import TAGS_ALONE
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.systems import fit_tags


def main(config: DictConfig) -> None:
    out, index = writable(config.out, "ckpt"), ShardIndex.read(config.shards)
    network, tags = fit_tags(index)
    save_checkpoint(out, tags_checkpoint(network, tags, config.shards, config.chunk_frames))
    counts = ", ".join(f"{name} ({len(own)} tags)" for name, own in tags.items())
    sys.stdout.write(f"{out}: {counts}, tempo; nothing is trained\n")


def save_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically. Raises OSError if it cannot be written: torch itself raises another error then."""
    content = io.BytesIO()
    torch.save(checkpoint, content)
    with atomic_write(path, "wb") as file:
        file.write(content.getbuffer())


def tags_checkpoint(
    network: ConditionalSimilarityNetwork, tags: Mapping[str, Sequence[str]], shards: str, chunk_frames: int
) -> dict[str, Any]:
    """Return the content of a checkpoint that holds the network of ``fit_tags``, as a run's checkpoints hold theirs.

    Args:
        network: Of the tags.
        tags: Of each condition but tempo.
        shards: That it was fitted on.
        chunk_frames: Length of its chunks.
    """
    arguments = ["data=shards", "backbone=musicnn", f"data.chunk_frames={chunk_frames}"]
    settings = OmegaConf.to_container(load_config(TrainConfig, [*arguments, f"data.shards={shards}"]))
    settings["backbone"]["name"] = TAGS_ALONE
    return {
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        "config": settings,
        "conditions": network.condition_names,
        "audio": asdict(network.frontend.audio_settings),
        "features": list(network.features),
        "tags": {name: list(own) for name, own in tags.items()},
    }
