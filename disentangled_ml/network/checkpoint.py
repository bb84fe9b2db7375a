"""Checkpoints, or what ``export`` made of them, to networks, without Lightning: what inference needs.

from disentangled_ml.network.checkpoint import load_network

network = load_network("runs/demo-resnet-fixed/checkpoints/best.ckpt")
"""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch

from disentangled_ml.chunks import FEATURE_NETWORKS, FEATURE_SIZE
from disentangled_ml.limits import AUDIO_LIMITS
from disentangled_ml.network.backbones import BACKBONES
from disentangled_ml.network.exported import fingerprint_of, read_exported
from disentangled_ml.network.feature_head import FeatureHead
from disentangled_ml.network.frontends import FRONTENDS
from disentangled_ml.network.masks import MASKS, GroupMasks
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.network.rhythm import N_TEMPI, PlainRhythm, RhythmBranch
from disentangled_ml.network.tag_head import TagHead, Tags
from disentangled_ml.structures import TEMPO, AudioSettings

# Dimensions of a condition where embedding_dim is None (J. Lee et al., ICASSP 2020).
SUBSPACE_DIM = 64
# The backbone that is none: what is learned of timbre comes from the features alone.
FEATURES_ALONE = "musicnn"
# In place of a backbone's name: nothing is trained at all.
TAGS_ALONE = "musicnn_tags"
# Characters of another program's error.
MOST_SHOWN = 300


@dataclass(frozen=True)
class ModelDescription:
    """What must be known of a model to use its embeddings.

    Attributes:
        fingerprint: sha256 of the checkpoint file, also of a model that was exported from it.
        condition_names: In the order of the masks.
        masks: (C, D) float32.
        audio: How its recordings become spectrograms.
        chunk_frames: Length of its chunks.
        tempo: How tempi are related: arguments of ``TempoCondition``.
    """

    fingerprint: str
    condition_names: list[str]
    masks: np.ndarray
    audio: AudioSettings
    chunk_frames: int
    tempo: dict[str, Any]


@dataclass(frozen=True)
class TrainedModel(ModelDescription):
    """The content of a checkpoint, ready for use.

    Attributes:
        network: In evaluation mode.
        shards: Folder that it was trained on; empty for an exported model, which does not tell.
    """

    network: ConditionalSimilarityNetwork
    shards: str


def choose(registry: dict[str, Any], name: str, key: str) -> Any:
    """Return an entry of a registry. Raises ValueError for an unknown name, listing the known ones."""
    if name not in registry:
        raise ValueError(f"{key}={name} is unknown: choose one of {', '.join(registry)}")
    return registry[name]


def choose_device(accelerator: str) -> torch.device:
    """Return the GPU, unless there is none or ``accelerator`` is ``cpu``. Raises ValueError if it is ``gpu`` and there is none."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("accelerator=gpu, but there is no CUDA device: use accelerator=auto or cpu")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def make_network(
    condition_names: Sequence[str],
    audio: AudioSettings,
    *,
    backbone: str,
    width: float = 1.0,
    frontend: str = "mel",
    trainable_stft: bool = False,
    trainable_mel: bool = False,
    mask: str = "fixed",
    mask_start: str = "disjoint",
    embedding_dim: int | None = None,
    channels_last: bool = False,
    rhythm: bool = False,
    features: Sequence[str] = (),
) -> ConditionalSimilarityNetwork:
    """Make an untrained network.

    Args:
        condition_names: In order.
        audio: Settings of its spectrograms.
        backbone, frontend, mask: Names in ``BACKBONES``, ``FRONTENDS`` and ``MASKS``; the backbone ``musicnn`` is the features alone.
        width: Scales the channels of the backbone; 1 where there is none.
        trainable_stft, trainable_mel: Train the Fourier kernels, the mel filters of ``nnaudio``.
        mask_start: Initial values of ``learned`` masks.
        embedding_dim: D; None: 64 per condition.
        channels_last: Memory format of the backbone.
        rhythm: Whether there is a rhythm branch, if tempo is a condition: alone in tempo's dimensions under fixed masks, else added.
        features: Networks of musicnn whose features are read too.

    Raises:
        ValueError: for an unknown name, or arguments that do not fit together.
    """
    size = embedding_dim or SUBSPACE_DIM * len(condition_names)
    frontend_class, trainable = choose(FRONTENDS, frontend, "frontend.name"), trainable_stft or trainable_mel
    if frontend == "mel" and trainable:
        raise ValueError("frontend.trainable_* needs frontend=nnaudio: the stored mel has nothing to train")
    if frontend == "waveform" and trainable:
        raise ValueError("frontend.trainable_* is of nnaudio: the filters of frontend=waveform are always trained")
    filters = {"trainable_stft": trainable_stft, "trainable_mel": trainable_mel} if frontend == "nnaudio" else {}
    start = {"start": mask_start} if mask == "learned" else {}
    build_backbone = choose({**BACKBONES, FEATURES_ALONE: no_backbone}, backbone, "backbone.name")
    rhythm = rhythm and TEMPO in condition_names
    dims = rhythm_dims(condition_names, size) if rhythm and mask == "fixed" else None
    others = size if dims is None else size - (dims.stop - dims.start)
    if backbone == FEATURES_ALONE and not features:
        raise ValueError(f"backbone={FEATURES_ALONE} reads features: prepare with features=musicnn")
    if backbone == FEATURES_ALONE and width != 1:
        raise ValueError(
            f"backbone.width={width:g} scales the channels of a backbone, and {FEATURES_ALONE} has none: leave it out"
        )
    parts = (
        frontend_class(audio, **filters),
        build_backbone(others, width),
        choose(MASKS, mask, "mask.name")(len(condition_names), size, **start),
    )
    if channels_last and parts[1] is not None:
        parts[1].to(memory_format=torch.channels_last)
    head = FeatureHead(FEATURE_SIZE * len(features), others) if features else None
    branch = RhythmBranch(audio, size - others or size) if rhythm else None
    return ConditionalSimilarityNetwork(*parts, condition_names, head, features, branch, dims)


def rhythm_dims(condition_names: Sequence[str], embedding_dim: int) -> slice | None:
    """Return the dimensions that tempo has for itself under fixed masks; None where it is the only condition.

    Fed by rhythm alone, tempo is better than with the backbone's part added, and the other conditions are not disturbed.

    >>> rhythm_dims(["genre", "tempo", "mood"], 192), rhythm_dims(["tempo"], 64)
    (slice(64, 128, None), None)
    """
    own, place = embedding_dim // len(condition_names), list(condition_names).index(TEMPO)
    return slice(place * own, (place + 1) * own) if len(condition_names) > 1 else None


def make_tags_network(tags: Tags, audio: AudioSettings, features: Sequence[str]) -> ConditionalSimilarityNetwork:
    """Make the network of which nothing is trained; its head is still to be filled.

    Every condition has the dimensions of its own tags, and tempo, which is added, those of the onset autocorrelation.

    Args:
        tags: Of each condition, in order.
        audio: Settings of its spectrograms.
        features: Networks of musicnn whose features are read.
    """
    sizes = [*map(len, tags.values()), N_TEMPI]
    n_tags = sum(sizes[:-1])
    return ConditionalSimilarityNetwork(
        FRONTENDS["mel"](audio),
        None,
        GroupMasks(sizes),
        [*tags, TEMPO],
        TagHead(FEATURE_SIZE * len(features), n_tags),
        features,
        PlainRhythm(audio),
        slice(n_tags, n_tags + N_TEMPI),
        balanced=True,
    )


def no_backbone(embedding_dim: int, width: float) -> None:
    """Build nothing: the features are enough."""


def network_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of ``make_network`` in a training configuration, a mapping of mappings."""
    frontend, mask = config["frontend"], config["mask"]
    return {
        "backbone": config["backbone"]["name"],
        "width": config["backbone"]["width"],
        "frontend": frontend["name"],
        "trainable_stft": frontend["trainable_stft"],
        "trainable_mel": frontend["trainable_mel"],
        "mask": mask["name"],
        "mask_start": mask["start"],
        "embedding_dim": config["embedding_dim"],
        "channels_last": config["trainer"]["channels_last"],
        # Checkpoints of before there were any have no such keys.
        "rhythm": config.get("rhythm", False),
    }


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of this project, a file or an exported folder, without unpickling anything but tensors and plain values.

    Raises:
        ValueError: if it is missing, damaged, or another program's.
    """
    if path.is_dir():
        checkpoint = read_exported(path)
        check_parts(path, checkpoint)
        return checkpoint
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist: runs keep theirs in RUN/checkpoints/")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, OSError) as error:
        reason = in_short(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to unpickle it
            reason = "it is damaged, or holds more than tensors and plain values"
        raise ValueError(f"checkpoint {path} cannot be read ({reason}): give one that train wrote") from error
    missing = {"state_dict", "config", "conditions", "audio"} - set(checkpoint if isinstance(checkpoint, dict) else ())
    if missing:
        raise ValueError(f"checkpoint {path} lacks {', '.join(sorted(missing))}: give one that train wrote")
    check_parts(path, checkpoint)
    return checkpoint


def in_short(error: Exception) -> str:
    """Return the first line of an error, and the next where the first ends in a colon, without the rest of a long list.

    >>> in_short(RuntimeError("Error(s) in loading state_dict for Net:\\n\\tMissing key(s): a.\\n\\tUnexpected key(s): b."))
    'Error(s) in loading state_dict for Net: Missing key(s): a.'
    """
    lines = str(error).splitlines() or [type(error).__name__]
    return shorten(" ".join(lines[: 2 if lines[0].endswith(":") else 1]), MOST_SHOWN, placeholder=" ...")


def is_legal_audio(content: Any) -> bool:
    """Return whether the audio settings of a checkpoint are some that ``prepare`` takes.

    >>> is_legal_audio(asdict(AudioSettings())), is_legal_audio({"sample_rate": 1_000_000, "hop_length": 1})
    (True, False)
    """
    try:
        sizes = asdict(AudioSettings(**content))
    except TypeError:
        return False
    legal = all(type(sizes[key]) is int and least <= sizes[key] <= most for key, (least, most) in AUDIO_LIMITS.items())
    return legal and sizes["n_fft"] % 2 == 0


def are_legal_features(content: Any) -> bool:
    """Return whether the features of a checkpoint are a list of known networks, each once.

    >>> are_legal_features(["mtt", "msd"]), are_legal_features(["msd", "msd"]), are_legal_features(["vgg"])
    (True, False, False)
    """
    return isinstance(content, list) and all(content.count(name) == 1 and name in FEATURE_NETWORKS for name in content)


def check_parts(path: Path, checkpoint: dict[str, Any]) -> None:
    """Check the parts of a checkpoint that are read before, or without, its network. Raises ValueError, naming file and part."""

    def part(content: Any, key: str) -> Any:
        return content.get(key) if isinstance(content, dict) else None

    data, names = part(checkpoint["config"], "data"), checkpoint["conditions"]
    frames, tempo = part(data, "chunk_frames"), part(data, "tempo")
    numbers = [part(tempo, key) for key in ("tolerance_bpm", "tolerance", "margin")]
    legal = {
        "config.data.shards": isinstance(part(data, "shards"), str),
        "config.data.chunk_frames": type(frames) is int and frames > 0,
        "config.data.tempo": isinstance(part(tempo, "relation"), str) and all(type(n) in (int, float) for n in numbers),
        "conditions": isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names),
        "audio": is_legal_audio(checkpoint["audio"]),
        # Checkpoints of before there were any have no such key.
        "features": are_legal_features(checkpoint.get("features", [])),
    }
    wrong = [key for key, is_legal in legal.items() if not is_legal]
    if wrong:
        raise ValueError(f"checkpoint {path} has no legal {', '.join(wrong)}: give one that train wrote")


def network_from(checkpoint: dict[str, Any], path: str | Path = "in memory") -> ConditionalSimilarityNetwork:
    """Rebuild the network of a checkpoint that was loaded from a path, for inference. Raises ValueError if its parts do not fit."""
    prefix = "network."
    try:
        arguments = network_arguments(checkpoint["config"])
        audio, features = AudioSettings(**checkpoint["audio"]), checkpoint.get("features", ())
        if arguments["backbone"] == TAGS_ALONE:
            network = make_tags_network(checkpoint["tags"], audio, features)
            if network.condition_names != checkpoint["conditions"]:
                raise ValueError(f"conditions {checkpoint['conditions']}, but tags of {list(checkpoint['tags'])}")
        else:
            if arguments["backbone"] == FEATURES_ALONE:
                arguments["width"] = 1.0  # in earlier checkpoints it may be any, and means nothing
            network = make_network(checkpoint["conditions"], audio, **arguments, features=features)
        weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        network.load_state_dict(weights)
    except (RuntimeError, LookupError, TypeError, AttributeError, OverflowError, ValueError) as error:
        raise ValueError(
            f"checkpoint {path}: no network can be made of it ({in_short(error)}): give one that train wrote"
        ) from error
    return network.eval()


def load_network(path: str | Path) -> ConditionalSimilarityNetwork:
    """Rebuild the network of a checkpoint for inference. Raises ValueError if it is no checkpoint of this project."""
    return network_from(load_checkpoint(Path(path)), path)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> TrainedModel:
    """Load a checkpoint, a file or an exported folder, for use. Raises ValueError if it is none of this project."""
    checkpoint = load_checkpoint(Path(path))
    network, data = network_from(checkpoint, path), checkpoint["config"]["data"]
    return TrainedModel(
        fingerprint=fingerprint(Path(path)),
        condition_names=list(checkpoint["conditions"]),
        masks=network.masks().detach().float().numpy(),
        audio=AudioSettings(**checkpoint["audio"]),
        chunk_frames=data["chunk_frames"],
        tempo=dict(data["tempo"]),
        network=network.to(device),
        shards=data["shards"],
    )


def fingerprint(path: Path) -> str:
    """Return the sha256 of a checkpoint file, or of that which a folder was exported from. Raises ValueError if it cannot be read."""
    if path.is_dir():
        return fingerprint_of(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be read ({error.strerror}): give one that train wrote") from error
