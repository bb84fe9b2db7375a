"""The keys of ``disentangled train``, which evaluation and the table of systems read too.

A field says its type and limits. Its default, unit and meaning stand in ``conf/config.yaml`` and the files of its group.
"""

from dataclasses import dataclass
from typing import Any

from omegaconf import ListConfig

from disentangled_ml.config.errors import ConfigError
from disentangled_ml.config.fields import at_least, between, one_of
from disentangled_ml.config.loading import merge_groups

ACCELERATORS = ("auto", "cpu", "gpu")
MOST_SEED = 2**32 - 1
MOST_FRAMES = 1_000_000
MOST_TRACKS = 1_000_000
MOST_WORKERS = 1_024


@dataclass
class BackboneConfig:
    """The network."""

    name: str
    width: float = between(1e-6, 64)
    features: bool


@dataclass
class FrontendConfig:
    """How audio becomes a spectrogram."""

    name: str
    trainable_stft: bool
    trainable_mel: bool
    learning_rate_scale: float = between(0, 1_000)


@dataclass
class AugmentationConfig:
    """How training chunks are changed."""

    gain_db: float = between(0, 100)
    snr_db: list[float] | None
    mask_bands: int = between(0, 8_192)
    mask_frames: int = between(0, MOST_FRAMES)
    stretch: float = between(0, 1)

    def check(self) -> None:
        snr = self.snr_db
        if snr is not None and not (len(snr) == 2 and -100 <= snr[0] <= snr[1] <= 100):
            raise ConfigError(
                f"augmentation.snr_db={list(snr)} must be null or two numbers of dB from -100 to 100, the lower first, as [10,40]"
            )


@dataclass
class MaskConfig:
    """The condition masks."""

    name: str
    start: str = one_of("disjoint", "random")
    embedding_penalty: float = at_least(0)
    mask_penalty: float = at_least(0)


@dataclass
class TempoConfig:
    """When two tempi are similar."""

    relation: str = one_of("absolute", "relative")
    tolerance_bpm: float = at_least(0)
    tolerance: float = at_least(0)
    margin: float = at_least(0)


@dataclass
class DataConfig:
    """Which shards are streamed, and how batches are composed."""

    shards: str
    conditions: list[str] | None
    tempo: TempoConfig
    chunk_frames: int = between(16, MOST_FRAMES)
    chunks_per_track: int = between(2, 1_000)
    tracks_per_batch: int = between(2, MOST_TRACKS)
    pool_tracks: int = between(2, 1_000_000_000)
    triplets_per_condition: int = between(1, 10_000_000)
    track_triplets: int = between(0, 10_000_000)
    workers: int | None = between(0, MOST_WORKERS)
    max_damaged: float = between(0, 0.5)

    def check(self) -> None:
        if self.tracks_per_batch > self.pool_tracks:
            raise ConfigError(
                f"data.pool_tracks={self.pool_tracks} must hold at least data.tracks_per_batch={self.tracks_per_batch} tracks"
            )


@dataclass
class TrainerConfig:
    """On what hardware training runs."""

    accelerator: str = one_of(*ACCELERATORS)
    devices: Any
    num_nodes: int = at_least(1)
    strategy: str = one_of("auto", "ddp")
    sync_batchnorm: bool
    precision: str = one_of("32-true", "16-mixed", "bf16-mixed")
    channels_last: bool

    def check(self) -> None:
        devices = self.devices
        listed = list(devices) if isinstance(devices, ListConfig) else []
        gpus = bool(listed) and len(set(listed)) == len(listed) and all(is_count(device, 0) for device in listed)
        if devices != "auto" and not is_count(devices, 1) and not gpus:
            raise ConfigError(
                f"trainer.devices={devices} is not legal: give auto, a number from 1 on, or GPUs as [0,1]"
            )
        if self.precision == "16-mixed" and self.accelerator == "cpu":
            raise ConfigError("trainer.precision=16-mixed needs a GPU: use bf16-mixed or 32-true on the CPU")


@dataclass
class LossConfig:
    """The loss and the weights of its parts."""

    name: str
    margin: float = at_least(0)
    track_weight: float = at_least(0)
    condition_weight: float = at_least(0)
    temperature: float = at_least(1e-6)
    triplets: str = one_of("sampled", "all")
    mean: str = one_of("all", "violating")
    gather: bool

    def check(self) -> None:
        if self.gather and self.name != "triplet":
            raise ConfigError(
                f"loss.gather=true is of loss=triplet: {self.name} compares chunks with points, not with other chunks"
            )


@dataclass
class TrainingConfig:
    """How long and how fast to train."""

    max_epochs: int = between(1, 1_000_000_000)
    learning_rate: float = at_least(1e-12)
    weight_decay: float = at_least(0)
    schedule: str = one_of("plateau", "cosine")
    lr_factor: float = between(1e-6, 0.999)
    lr_patience: int = at_least(0)
    lr_reductions: int = at_least(0)
    early_stopping_patience: int | None = at_least(1)
    gradient_clip: float | None = at_least(0)


@dataclass
class EvaluationConfig:
    """The fixed triplet lists of validation and test."""

    triplets_per_condition: int = between(1, 100_000_000)
    tracks_per_batch: int = between(1, MOST_TRACKS)


@dataclass
class WandbConfig:
    """Where the run is logged."""

    mode: str = one_of("auto", "online", "offline", "disabled")
    project: str
    entity: str | None


@dataclass
class TrainConfig:
    """The keys of ``disentangled train``."""

    FILE = "config"  # conf/config.yaml
    choose = staticmethod(merge_groups)

    choices: dict[str, str]
    seed: int = between(0, MOST_SEED)
    runs: str
    run_name: str | None
    resume: bool
    embedding_dim: int | None = between(1, 65_536)
    rhythm: bool
    backbone: BackboneConfig
    frontend: FrontendConfig
    augmentation: AugmentationConfig
    mask: MaskConfig
    data: DataConfig
    trainer: TrainerConfig
    loss: LossConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    wandb: WandbConfig


def is_count(value: Any, least: int) -> bool:
    """Tell whether a value is a whole number from ``least`` on.

    >>> is_count(2, 1), is_count(0, 1), is_count(True, 1), is_count("2", 1)
    (True, False, False, False)
    """
    return type(value) is int and value >= least
