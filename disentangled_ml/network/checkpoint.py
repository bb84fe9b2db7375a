"""Configuration and checkpoints to networks, without Lightning: what inference needs.

from disentangled_ml.network.checkpoint import load_network

network = load_network("runs/demo-resnet-fixed/checkpoints/best.ckpt")
"""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from disentangled_ml.config import ConfigError
from disentangled_ml.network.backbones import BACKBONES
from disentangled_ml.network.frontends import FRONTENDS
from disentangled_ml.network.masks import MASKS
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.structures import AudioSettings

SUBSPACE_DIM = 64  # dimensions of a condition where embedding_dim is null (J. Lee et al., ICASSP 2020)


def choose(registry: dict[str, Any], name: str, key: str) -> Any:
    """Take an entry of a registry.

    Raises:
        ConfigError: if there is none; names those there are.
    """
    if name not in registry:
        raise ConfigError(f"{key}={name} is unknown: choose one of {', '.join(registry)}")
    return registry[name]


def embedding_dim(config: DictConfig, n_conditions: int) -> int:
    """Give the number of dimensions D of a training configuration."""
    return config.embedding_dim or SUBSPACE_DIM * n_conditions


def choose_device(accelerator: str) -> torch.device:
    """Take a GPU where there is one and it is not refused.

    Raises:
        ConfigError: if one is asked for and there is none.
    """
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("accelerator=gpu, but there is no CUDA device: use accelerator=auto or cpu")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def build_network(config: DictConfig, condition_names: list[str], audio: AudioSettings) -> ConditionalSimilarityNetwork:
    """Build the network of a training configuration."""
    n_conditions = len(condition_names)
    size = embedding_dim(config, n_conditions)
    frontend_class = choose(FRONTENDS, config.frontend.name, "frontend.name")
    trainable = {"trainable_stft": config.frontend.trainable_stft, "trainable_mel": config.frontend.trainable_mel}
    if config.frontend.name == "mel" and any(trainable.values()):
        raise ConfigError("frontend.trainable_* needs frontend=nnaudio: the stored mel has nothing to train")
    if config.frontend.name == "waveform" and any(trainable.values()):
        raise ConfigError(
            "frontend.trainable_* is of frontend=nnaudio: the filters of frontend=waveform are always trained"
        )
    frontend = frontend_class(audio, **(trainable if config.frontend.name == "nnaudio" else {}))
    backbone = choose(BACKBONES, config.backbone.name, "backbone.name")(size, config.backbone.width)
    start = {"start": config.mask.start} if config.mask.name == "learned" else {}
    masks = choose(MASKS, config.mask.name, "mask.name")(n_conditions, size, **start)
    if config.trainer.channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)
    return ConditionalSimilarityNetwork(frontend, backbone, masks, condition_names)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of this project without unpickling anything but tensors and plain values.

    Raises:
        ValueError: if it is missing, damaged, or another program's.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist: runs keep theirs in RUN/checkpoints/")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to unpickle it
            reason = "it is damaged, or holds more than tensors and plain values"
        raise ValueError(f"checkpoint {path} cannot be read ({reason}): give one that train wrote") from error
    missing = {"state_dict", "config", "conditions", "audio"} - set(checkpoint if isinstance(checkpoint, dict) else ())
    if missing:
        raise ValueError(f"checkpoint {path} lacks {', '.join(sorted(missing))}: give one that train wrote")
    check_parts(path, checkpoint)
    return checkpoint


def check_parts(path: Path, checkpoint: dict[str, Any]) -> None:
    """Check those parts of a checkpoint that are read before, or without, its network.

    Raises:
        ValueError: naming the file and the part.
    """

    def part(content: Any, key: str) -> Any:
        return content.get(key) if isinstance(content, dict) else None

    data, names = part(checkpoint["config"], "data"), checkpoint["conditions"]
    frames, tempo = part(data, "chunk_frames"), part(data, "tempo")
    numbers = [part(tempo, key) for key in ("tolerance_bpm", "tolerance", "margin")]
    try:
        sizes = list(asdict(AudioSettings(**checkpoint["audio"])).values())
    except TypeError:
        sizes = [None]
    legal = {
        "config.data.shards": isinstance(part(data, "shards"), str),
        "config.data.chunk_frames": type(frames) is int and frames > 0,
        "config.data.tempo": isinstance(part(tempo, "relation"), str) and all(type(n) in (int, float) for n in numbers),
        "conditions": isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names),
        "audio": all(type(size) is int and size > 0 for size in sizes),
    }
    wrong = [key for key, is_legal in legal.items() if not is_legal]
    if wrong:
        raise ValueError(f"checkpoint {path} has no legal {', '.join(wrong)}: give one that train wrote")


def network_from(checkpoint: dict[str, Any], path: str | Path = "in memory") -> ConditionalSimilarityNetwork:
    """Rebuild the network of a checkpoint that was loaded from a path, in evaluation mode.

    Raises:
        ValueError: if its parts do not fit together.
    """
    prefix = "network."
    try:
        config = OmegaConf.create(checkpoint["config"])
        network = build_network(config, checkpoint["conditions"], AudioSettings(**checkpoint["audio"]))
        weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        network.load_state_dict(weights)
    except (RuntimeError, LookupError, TypeError, AttributeError, OverflowError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"checkpoint {path}: no network can be made of it ({reason}): give one that train wrote"
        ) from error
    return network.eval()


def load_network(path: str | Path) -> ConditionalSimilarityNetwork:
    """Rebuild the network of a checkpoint file for inference, without Lightning.

    Raises:
        ValueError: if the file is no checkpoint of this project.
    """
    return network_from(load_checkpoint(Path(path)), path)
