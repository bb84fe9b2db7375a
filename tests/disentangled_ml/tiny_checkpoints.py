"""Checkpoints of tiny networks as they are born, for the tests of commands that use one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from disentangled_ml.builders import checkpoint_notes
from disentangled_ml.conditions import TagCondition
from disentangled_ml.config import load_config
from disentangled_ml.networks import build_network
from disentangled_ml.structures import AudioSettings

TINY_CONDITIONS = ["genre", "mood", "tempo"]
TINY_AUDIO = AudioSettings(n_mels=16)


def save_tiny_checkpoint(path: Path, tiny_arguments: Sequence[str], frontend: str = "mel") -> Path:
    """Save a network of three conditions whose chunks have 16 frames of 16 bands, 0.37 s."""
    config = load_config("config", [*tiny_arguments, f"frontend={frontend}"])
    torch.manual_seed(0)
    network = build_network(config, TINY_CONDITIONS, TINY_AUDIO)
    notes = checkpoint_notes(config, [TagCondition(name, ("x",)) for name in TINY_CONDITIONS], TINY_AUDIO)
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": weights, **notes}, path)
    return path
