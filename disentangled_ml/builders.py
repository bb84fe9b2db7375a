"""Configuration to objects. Nothing below this module receives a configuration."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar

from callbacks.accuracy_curves import AccuracyCurves
from callbacks.collapse import CollapseWarning
from callbacks.early_stopping import EarlyStopping
from callbacks.embedding_map import EmbeddingMap
from callbacks.epoch_lines import EpochLines
from callbacks.filters import FilterPlot
from callbacks.learning_rate import CosineLearningRate, ReduceLearningRate
from callbacks.mask_heatmap import MaskHeatmap
from callbacks.preemption import Preempted
from callbacks.skipped_tracks import SkippedTracks
from callbacks.throughput import Throughput
from callbacks.triplet_accuracy import TripletAccuracy
from callbacks.unchanged_shards import UnchangedShards
from datamodules.batches.composer import BatchPlan
from datamodules.datamodule import SimilarityDataModule
from datamodules.shards.conditions import build_conditions
from datamodules.shards.index import ShardIndex
from disentangled_ml.chunks import join_source
from disentangled_ml.config.errors import ConfigError
from disentangled_ml.network.augmentation import Augmentation
from disentangled_ml.network.checkpoint import FEATURES_ALONE, SUBSPACE_DIM, choose, make_network, network_arguments
from disentangled_ml.network.frontends import FRONTENDS
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.objective.conditions import Condition, TempoCondition
from disentangled_ml.objective.gathering import EveryTriplet, GatheredTriplets, Selection, mean_over_ranks
from disentangled_ml.objective.losses import LOSSES, ClassLoss, DisentangledLoss
from disentangled_ml.structures import AudioSettings
from disentangled_ml.training.checkpointing import WholeCheckpointIO
from disentangled_ml.training.module import SimilarityModule
from disentangled_ml.training.ranks import watch_ranks
from disentangled_ml.training.tracking import build_logger

MONITOR = "val/triplet_accuracy/mean"
# If the conditions' labels are not used.
TRACK_MONITOR = "val/triplet_accuracy/track"
SCHEDULES = {
    "plateau": lambda training: ReduceLearningRate(training.lr_factor, training.lr_patience, training.lr_reductions),
    "cosine": lambda training: CosineLearningRate(),
}
# Loading processes per GPU, unless configured.
MAX_WORKERS = 8

logger = logging.getLogger(__name__)


def build_plan(config: DictConfig) -> BatchPlan:
    """Build the plan of the batches of a training configuration; it draws no triplets if the loss takes all."""
    data = config.data
    drawn = config.loss.triplets == "sampled"
    return BatchPlan(
        data.chunk_frames,
        data.chunks_per_track,
        data.tracks_per_batch,
        data.pool_tracks,
        data.triplets_per_condition if drawn else 0,
        data.track_triplets if drawn else 0,
        config.loss.name != "triplet",
        config.augmentation.stretch,
    )


def read_features(config: DictConfig, index: ShardIndex) -> tuple[str, ...]:
    """Return the networks whose features of the shards are read: all or none. Raises ConfigError if they have none to read."""
    wanted = config.backbone.features or config.backbone.name == FEATURES_ALONE
    if wanted and not index.features:
        key = f"backbone={FEATURES_ALONE}" if config.backbone.name == FEATURES_ALONE else "backbone.features=true"
        raise ConfigError(f"{key} reads musicnn's features, and {index.root} holds none: prepare with features=musicnn")
    if wanted and choose(FRONTENDS, config.frontend.name, "frontend.name").source != "mel":
        raise ConfigError(
            f"features come with the stored mel, not with frontend={config.frontend.name}: use frontend=mel"
        )
    return index.features if wanted else ()


def build_data(config: DictConfig) -> SimilarityDataModule:
    data = config.data
    index = ShardIndex.read(data.shards)
    names = None if data.conditions is None else list(data.conditions)
    workers = data.workers
    if workers is None:
        gpus = torch.cuda.device_count() if config.trainer.accelerator != "cpu" else 0
        workers = min(MAX_WORKERS, (os.cpu_count() or 1) // gpus) if gpus else 0
    return SimilarityDataModule(
        index,
        build_conditions(index, names, TempoCondition(**data.tempo)),
        source=join_source(
            choose(FRONTENDS, config.frontend.name, "frontend.name").source, read_features(config, index)
        ),
        plan=build_plan(config),
        workers=workers,
        seed=config.seed,
        list_size=config.evaluation.triplets_per_condition,
        eval_tracks_per_batch=config.evaluation.tracks_per_batch,
        max_damaged=data.max_damaged,
    )


def model_settings(
    config: DictConfig, condition_names: list[str], audio: AudioSettings, features: Sequence[str] = ()
) -> dict[str, Any]:
    """Return, as plain values, what every checkpoint carries for its network to be rebuilt."""
    return {
        "config": OmegaConf.to_container(config),
        "conditions": list(condition_names),
        "audio": asdict(audio),
        "features": list(features),
    }


def build_network(
    config: DictConfig, condition_names: list[str], audio: AudioSettings, features: Sequence[str] = ()
) -> ConditionalSimilarityNetwork:
    try:
        return make_network(condition_names, audio, **network_arguments(config), features=features)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build_loss(config: DictConfig, conditions: list[Condition]) -> DisentangledLoss:
    loss, mask = config.loss, config.mask
    kind = choose(LOSSES, loss.name, "loss.name")
    weights = {
        "margin": loss.margin,
        "track_weight": loss.track_weight,
        "condition_weight": loss.condition_weight,
        "embedding_penalty": mask.embedding_penalty,
        "mask_penalty": mask.mask_penalty,
        "mean": loss.mean,
        "average": mean_over_ranks if loss.gather else None,
    }
    if not issubclass(kind, ClassLoss):
        return kind(**weights)
    if loss.name == "classification":
        weights["temperature"] = loss.temperature
    return kind([c.n_classes for c in conditions], config.embedding_dim or SUBSPACE_DIM * len(conditions), **weights)


def build_selection(config: DictConfig, conditions: list[Condition]) -> Selection | None:
    """Build what chooses the triplets of a step; None: those drawn with the batches."""
    miner, loss = build_plan(config).miner(conditions), config.loss
    if loss.triplets == "all":
        return EveryTriplet(conditions, miner.min_gap, loss.gather)
    return GatheredTriplets(miner, config.seed) if loss.gather else None


def build_augmentation(config: DictConfig, audio: AudioSettings) -> Augmentation | None:
    """Build the augmentation of a training configuration; None: there is none. Stretching is part of the plan of the batches.

    Raises ConfigError if it changes waveforms that the frontend does not read, may mask a whole chunk, or stretches what it cannot.
    """
    keys, steps = config.augmentation, config.data.chunk_frames - 1
    reads_waveforms = choose(FRONTENDS, config.frontend.name, "frontend.name").source == "waveform"
    if keys.stretch and reads_waveforms:
        raise ConfigError(
            f"augmentation.stretch={keys.stretch} stretches spectrograms, but frontend={config.frontend.name} reads waveforms, "
            "which need a phase vocoder to keep their pitch: use frontend=mel, or augmentation.stretch=0"
        )
    if 0 < keys.stretch < 1 / steps:
        raise ConfigError(
            f"augmentation.stretch={keys.stretch} is less than a frame of a chunk (data.chunk_frames={steps + 1}): give "
            f"at least {1 / steps:.4f}, or 0"
        )
    for key, value, size in (
        ("mask_bands", keys.mask_bands, audio.n_mels),
        ("mask_frames", keys.mask_frames, config.data.chunk_frames),
    ):
        if value >= size:
            raise ConfigError(f"augmentation.{key}={value} may blank all {size} of a chunk: give fewer")
    if not reads_waveforms:
        for key, value in (("gain_db", keys.gain_db), ("snr_db", keys.snr_db)):
            if value:
                raise ConfigError(
                    f"augmentation.{key}={value} changes waveforms, but frontend={config.frontend.name} reads the stored mel: "
                    "use augmentation=masks, or frontend=nnaudio or waveform"
                )
    snr_db = None if keys.snr_db is None else tuple(keys.snr_db)
    if not (keys.gain_db or snr_db or keys.mask_bands or keys.mask_frames):
        return None
    return Augmentation(keys.gain_db, snr_db, keys.mask_bands, keys.mask_frames, seed=config.seed)


def build_module(
    config: DictConfig, conditions: list[Condition], audio: AudioSettings, features: Sequence[str] = ()
) -> SimilarityModule:
    names = [condition.name for condition in conditions]
    training = config.training
    return SimilarityModule(
        build_network(config, names, audio, features),
        build_loss(config, conditions),
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        seed=config.seed,
        settings=model_settings(config, names, audio, features),
        selection=build_selection(config, conditions),
        augmentation=build_augmentation(config, audio),
        frontend_rate_scale=config.frontend.learning_rate_scale,
    )


def build_callbacks(config: DictConfig, run_dir: Path) -> list[Callback]:
    training = config.training
    monitor = MONITOR if config.loss.condition_weight else TRACK_MONITOR
    checkpoint = partial(
        ModelCheckpoint, run_dir / "checkpoints", save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks: list[Callback] = [
        TQDMProgressBar() if sys.stderr.isatty() else EpochLines(),
        Throughput(),
        UnchangedShards(),
        SkippedTracks(),
        TripletAccuracy(),
        CollapseWarning(),
        SCHEDULES[training.schedule](training),
        AccuracyCurves(),
        MaskHeatmap(),
        EmbeddingMap(),
        FilterPlot(),
        checkpoint(filename="best", monitor=monitor, mode="max"),
        # A callback of its own, since save_last=True saves only in epochs that are the best.
        checkpoint(filename="last"),
    ]
    if training.early_stopping_patience:
        callbacks.append(EarlyStopping(monitor, patience=training.early_stopping_patience, mode="max"))
    return callbacks


def build_trainer(config: DictConfig, run_dir: Path, *further: Callback) -> pl.Trainer:
    """Build the trainer of a configuration, with further callbacks. Raises ConfigError if it needs a GPU and there is none."""
    trainer, wandb = config.trainer, config.wandb
    if trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu, but there is no CUDA device: use trainer=auto or trainer=cpu")
    # Lightning's own "auto" takes Apple's GPUs, which lack float64.
    accelerator = "gpu" if trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    if trainer.sync_batchnorm and accelerator == "cpu":
        raise ConfigError("trainer.sync_batchnorm=true needs GPUs: torch has no such batch norm for the CPU")
    plain = OmegaConf.to_container(config)
    built = pl.Trainer(
        accelerator=accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=trainer.strategy,
        sync_batchnorm=trainer.sync_batchnorm,
        precision=trainer.precision,
        max_epochs=config.training.max_epochs,
        gradient_clip_val=config.training.gradient_clip,
        logger=build_logger(run_dir, plain, wandb.mode, wandb.project, wandb.entity) or False,
        callbacks=[*build_callbacks(config, run_dir), *further],
        plugins=[WholeCheckpointIO()],
        default_root_dir=run_dir,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        log_every_n_steps=1,
    )
    watch_ranks(built, f"run_name={run_dir.name} resume=true goes on with {run_dir}", wanted=Preempted)
    return built
