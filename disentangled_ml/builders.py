"""Configuration to objects: the one place that knows all three packages. Nothing below it receives a configuration."""

from __future__ import annotations

import logging
import os
import pickle
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar

from callbacks.accuracy_curves import AccuracyCurves
from callbacks.embedding_map import EmbeddingMap
from callbacks.learning_rate import ReduceLearningRate
from callbacks.mask_heatmap import MaskHeatmap
from callbacks.throughput import Throughput
from callbacks.triplet_accuracy import TripletAccuracy
from datamodules.composer import BatchPlan
from datamodules.index import ShardIndex
from datamodules.similarity import SimilarityDataModule, build_conditions
from disentangled_ml.backbones import BACKBONES
from disentangled_ml.conditions import Condition, TempoCondition
from disentangled_ml.config import ConfigError
from disentangled_ml.frontends import FRONTENDS
from disentangled_ml.losses import DisentangledTripletLoss
from disentangled_ml.masks import MASKS
from disentangled_ml.model import ConditionalSimilarityNetwork
from disentangled_ml.module import SimilarityModule
from disentangled_ml.structures import AudioSettings
from disentangled_ml.tracking import build_logger

SUBSPACE_DIM = 64  # dimensions of a condition where embedding_dim is null (J. Lee et al., ICASSP 2020)
MONITOR = "val/triplet_accuracy/mean"
MAX_WORKERS = 8  # loading processes per GPU that are started unasked

logger = logging.getLogger(__name__)


def choose(registry: dict[str, Any], name: str, key: str) -> Any:
    """Take an entry of a registry.

    Raises:
        ConfigError: if there is none; names those there are.
    """
    if name not in registry:
        raise ConfigError(f"{key}={name} is unknown: choose one of {', '.join(registry)}")
    return registry[name]


def build_network(config: DictConfig, condition_names: list[str], audio: AudioSettings) -> ConditionalSimilarityNetwork:
    """Build the network of a training configuration."""
    n_conditions = len(condition_names)
    embedding_dim = config.embedding_dim or SUBSPACE_DIM * n_conditions
    frontend_class = choose(FRONTENDS, config.frontend.name, "frontend.name")
    trainable = {"trainable_stft": config.frontend.trainable_stft, "trainable_mel": config.frontend.trainable_mel}
    if config.frontend.name == "mel" and any(trainable.values()):
        raise ConfigError("frontend.trainable_* needs frontend=nnaudio: the stored mel has nothing to train")
    frontend = frontend_class(audio, **(trainable if config.frontend.name == "nnaudio" else {}))
    backbone = choose(BACKBONES, config.backbone.name, "backbone.name")(embedding_dim, config.backbone.width)
    start = {"start": config.mask.start} if config.mask.name == "learned" else {}
    masks = choose(MASKS, config.mask.name, "mask.name")(n_conditions, embedding_dim, **start)
    if config.trainer.channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)
    return ConditionalSimilarityNetwork(frontend, backbone, masks, condition_names)


def build_tempo(config: DictConfig) -> TempoCondition:
    """Build the tempo relation of a training configuration."""
    tempo = config.data.tempo
    return TempoCondition("tempo", tempo.relation, tempo.tolerance_bpm, tempo.tolerance, tempo.margin)


def build_data(config: DictConfig) -> SimilarityDataModule:
    """Build the data module of a training configuration."""
    data = config.data
    index = ShardIndex.read(Path(data.shards))
    names = None if data.conditions is None else list(data.conditions)
    source = choose(FRONTENDS, config.frontend.name, "frontend.name").source
    if data.max_stretch and source != "mel":
        raise ConfigError("data.max_stretch stretches spectrograms: it needs frontend=mel")
    workers = data.workers
    if workers is None:
        gpus = torch.cuda.device_count() if config.trainer.accelerator != "cpu" else 0
        workers = min(MAX_WORKERS, (os.cpu_count() or 1) // gpus) if gpus else 0
    return SimilarityDataModule(
        index,
        build_conditions(index, names, build_tempo(config)),
        audio=source,
        plan=BatchPlan(
            data.chunk_frames,
            data.chunks_per_track,
            data.tracks_per_batch,
            data.pool_tracks,
            data.triplets_per_condition,
            data.track_triplets,
            data.max_stretch,
        ),
        workers=workers,
        seed=config.seed,
        list_size=config.evaluation.triplets_per_condition,
        eval_tracks_per_batch=config.evaluation.tracks_per_batch,
    )


def checkpoint_notes(config: DictConfig, conditions: list[Condition], audio: AudioSettings) -> dict[str, Any]:
    """Collect, as plain values, what ``load_network`` needs to rebuild the network from a checkpoint."""
    return {
        "config": OmegaConf.to_container(config),
        "conditions": [condition.name for condition in conditions],
        "audio": asdict(audio),
    }


def build_module(config: DictConfig, conditions: list[Condition], audio: AudioSettings) -> SimilarityModule:
    """Build the LightningModule of a training configuration."""
    names = [condition.name for condition in conditions]
    loss, training = config.loss, config.training
    return SimilarityModule(
        build_network(config, names, audio),
        DisentangledTripletLoss(loss.margin, loss.track_weight, loss.embedding_penalty, loss.mask_penalty),
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        checkpoint_notes=checkpoint_notes(config, conditions, audio),
    )


def build_callbacks(config: DictConfig, run_dir: Path) -> list[Callback]:
    """Build what logs, draws, saves and ends a run."""
    training = config.training
    checkpoint = partial(
        ModelCheckpoint, run_dir / "checkpoints", save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks: list[Callback] = [
        TQDMProgressBar(),
        Throughput(),
        TripletAccuracy(),
        ReduceLearningRate(training.lr_factor, training.lr_patience, training.lr_reductions),
        AccuracyCurves(),
        MaskHeatmap(),
        EmbeddingMap(),
        checkpoint(filename="best", monitor=MONITOR, mode="max"),
        checkpoint(filename="last"),  # by its own callback: save_last=True saves only in epochs that are the best
    ]
    if training.early_stopping_patience:
        callbacks.append(EarlyStopping(MONITOR, patience=training.early_stopping_patience, mode="max"))
    return callbacks


def build_trainer(config: DictConfig, run_dir: Path) -> pl.Trainer:
    """Build the trainer of a configuration."""
    trainer, wandb = config.trainer, config.wandb
    plain = OmegaConf.to_container(config)
    return pl.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=trainer.strategy,
        precision=trainer.precision,
        max_epochs=config.training.max_epochs,
        gradient_clip_val=config.training.gradient_clip,
        logger=build_logger(run_dir, plain, wandb.mode, wandb.project, wandb.entity) or False,
        callbacks=build_callbacks(config, run_dir),
        default_root_dir=run_dir,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of this project without unpickling anything but tensors and plain values.

    Raises:
        ValueError: if it is missing, damaged, or another program's.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist: runs keep theirs in RUN/checkpoints/")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint {path} cannot be read ({reason}): give one that train wrote") from error
    missing = {"state_dict", "config", "conditions", "audio"} - set(checkpoint if isinstance(checkpoint, dict) else ())
    if missing:
        raise ValueError(f"checkpoint {path} lacks {', '.join(sorted(missing))}: give one that train wrote")
    return checkpoint


def network_from(checkpoint: dict[str, Any]) -> ConditionalSimilarityNetwork:
    """Rebuild the network of a loaded checkpoint, in evaluation mode."""
    config = OmegaConf.create(checkpoint["config"])
    network = build_network(config, checkpoint["conditions"], AudioSettings(**checkpoint["audio"]))
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(weights)
    return network.eval()


def load_network(path: str | Path) -> ConditionalSimilarityNetwork:
    """Rebuild the network of a checkpoint file for inference, without Lightning.

    Raises:
        ValueError: if the file is no checkpoint of this project.
    """
    return network_from(load_checkpoint(Path(path)))
