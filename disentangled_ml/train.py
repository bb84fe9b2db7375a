"""Train a conditional similarity network on shards: ``python -m disentangled_ml.train key=value ...``.

Leaves in runs/RUN_NAME/: config.yaml, checkpoints/{best,last}.ckpt, metrics.json and evaluation.json (the best checkpoint on
validation and test), figures/*.png and the W&B files.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from disentangled_ml import builders
from disentangled_ml.console import run_command
from disentangled_ml.evaluation import split_report, without_nan
from disentangled_ml.report import accuracy_table
from disentangled_ml.run_folder import choose_run_dir, last_checkpoint, write_json
from disentangled_ml.tracking import finish, start


def default_name(config: DictConfig) -> str:
    """Name a run after its data, backbone and mask."""
    return f"{Path(config.data.shards).name}-{config.backbone.name}-{config.mask.name}"


def main(config: DictConfig) -> None:
    """Train, then validate and test the best checkpoint."""
    quieten()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = builders.build_data(config)
    module = builders.build_module(config, data.conditions, data.index.audio)
    run_dir = choose_run_dir(Path(config.runs), default_name(config), config.run_name, config.resume)
    last = last_checkpoint(run_dir) if config.resume else None
    if last is not None:
        builders.check_resumable(last, module, config.training.max_epochs)
    trainer = builders.build_trainer(config, run_dir)
    start(trainer.logger)
    if trainer.is_global_zero:
        OmegaConf.save(config, run_dir / "config.yaml")
    try:
        trainer.fit(module, data, ckpt_path=last, weights_only=True)
    except SystemExit as error:  # how Lightning ends on Ctrl-C, and on SIGTERM as if nothing was left to do
        raise SystemExit(f"interrupted: run_name={run_dir.name} resume=true goes on with {run_dir}") from error
    metrics = {}
    for evaluate in (trainer.validate, trainer.test):
        evaluate(
            module, datamodule=data, ckpt_path=run_dir / "checkpoints" / "best.ckpt", verbose=False, weights_only=True
        )
        metrics.update({key: round(float(value), 6) for key, value in trainer.callback_metrics.items()})  # float32 kept
    table, _ = module.evaluated()
    if trainer.is_global_zero:
        masks = module.network.masks().detach().cpu()
        report = split_report(table, module.triplets, masks, data.conditions, data.infos["test"])
        write_json(run_dir / "metrics.json", without_nan(metrics))
        write_json(run_dir / "evaluation.json", report)
        sys.stdout.write(f"\n{accuracy_table(report)}\n\n{run_dir}\n")
    finish()


def quieten() -> None:
    """Silence advice that does not apply here.

    Our streams shard themselves and choose their workers; what is logged is equal on all ranks already.
    """
    for message in (
        ".*does not have many workers.*",
        ".*IterableDataset.*__len__.*",
        ".*heckpoint directory.*not empty.*",
        ".*sync_dist=True.*",
        ".*LeafSpec.*is deprecated.*",
        ".*litlogger.*",
    ):
        warnings.filterwarnings("ignore", message)


if __name__ == "__main__":
    run_command(main, "config", "train", __doc__)
