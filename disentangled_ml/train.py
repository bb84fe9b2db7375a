"""Train a conditional similarity network on shards: ``disentangled train key=value ...``.

Leaves in runs/RUN_NAME/: config.yaml, checkpoints/{best,last}.ckpt, metrics.json and evaluation.json (the best checkpoint on
validation and test), figures/*.png and the W&B files.

SIGTERM or SIGUSR1 ends it after the current batch; ``resume=true`` continues with the next one. Under SLURM, SIGUSR1 also
requeues the job.
"""

import sys

if __name__ == "__main__":
    # Before the imports, which take seconds: help and slips are answered at once.
    from disentangled_ml.__main__ import main as run

    sys.exit(run(["train", *sys.argv[1:]]))

import logging
import signal
import warnings
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from callbacks.preemption import SIGNALS, Preempted, Preemption
from callbacks.throughput import Throughput
from datamodules.datamodule import SimilarityDataModule
from disentangled_ml import builders
from disentangled_ml.evaluation.listed_triplets import split_report, without_nan
from disentangled_ml.files import error_context, write_json, write_text
from disentangled_ml.processes import signals_blocked_in_children
from disentangled_ml.reporting.report import accuracy_table
from disentangled_ml.training import slurm
from disentangled_ml.training.module import SimilarityModule
from disentangled_ml.training.resume import check_resumable
from disentangled_ml.training.run_folder import choose_run_dir, unwritable_run_folder
from disentangled_ml.training.tracking import finish, finish_interrupted, start

logger = logging.getLogger("train")


def default_name(config: DictConfig) -> str:
    return f"{Path(config.data.shards).name}-{config.backbone.name}-{config.mask.name}"


@error_context(OSError, unwritable_run_folder)
def main(config: DictConfig) -> None:
    """Train, then validate and test the best checkpoint."""
    quieten()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = builders.build_data(config)
    features = builders.read_features(config, data.index)
    module = builders.build_module(config, data.conditions, data.index.audio, features)
    run_dir = choose_run_dir(Path(config.runs), default_name(config), config.run_name, config.resume)
    last = run_dir / "checkpoints" / "last.ckpt"
    resumed = config.resume and last.is_file()
    if resumed:
        check_resumable(last, module.state_dict(), module.settings, config.training.max_epochs)
    preemption = Preemption(last)
    trainer = builders.build_trainer(config, run_dir, preemption)
    preemption.listen()
    with signals_blocked_in_children(SIGNALS, "datamodules.batches.loaders"):
        start(trainer.logger)
    if trainer.is_global_zero:
        write_text(run_dir / "config.yaml", OmegaConf.to_yaml(config))
    try:
        train_and_test(trainer, module, data, run_dir, last if resumed else None)
    except (Preempted, SystemExit) as error:  # SystemExit: Lightning's on Ctrl-C
        raise SystemExit(end_early(error, run_dir, trainer.is_global_zero)) from error
    finish()


def train_and_test(
    trainer: pl.Trainer, module: SimilarityModule, data: SimilarityDataModule, run_dir: Path, last: Path | None
) -> None:
    """Train, resuming from a checkpoint if there is one, and write what the best network achieves."""
    trainer.fit(module, data, ckpt_path=last, weights_only=True)
    seconds = next(callback.seconds for callback in trainer.callbacks if isinstance(callback, Throughput))
    metrics = {"train/seconds": round(seconds, 3)}
    best = run_dir / "checkpoints" / "best.ckpt"
    for evaluate in (trainer.validate, trainer.test):
        evaluate(module, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
        metrics.update({key: round(float(value), 6) for key, value in trainer.callback_metrics.items()})  # float32 kept
    table, _ = module.evaluated()
    if trainer.is_global_zero:
        masks = module.network.masks().detach().cpu()
        report = split_report(table, module.triplets, masks, data.conditions, data.infos["test"])
        report["estimated"] = [name for name in module.condition_names if name in data.index.estimated()]
        write_json(run_dir / "metrics.json", without_nan(metrics))
        write_json(run_dir / "evaluation.json", report)
        sys.stdout.write(f"\n{accuracy_table(report)}\n\n{run_dir}\n")


def end_early(reason: Preempted | SystemExit, run_dir: Path, is_first: bool) -> str | int:
    """Close an interrupted run and return the exit status or message.

    Ranks above zero exit with 0: otherwise Lightning or ``srun``, which started them, would kill the first.
    """
    if isinstance(reason, Preempted):
        if not is_first:
            return 0
        finish_interrupted()
        job = slurm.job_id()
        if job and reason.number == signal.SIGUSR1:
            logger.info(slurm.requeue(job))  # last, since it kills this job
    return f"interrupted: run_name={run_dir.name} resume=true goes on with {run_dir}"


def quieten() -> None:
    """Silence warnings that do not apply: our streams shard themselves, and logged values are equal on all ranks already."""
    for message in (
        ".*does not have many workers.*",
        ".*IterableDataset.*__len__.*",
        ".*heckpoint directory.*not empty.*",
        ".*sync_dist=True.*",
        ".*LeafSpec.*is deprecated.*",
        ".*litlogger.*",
    ):
        warnings.filterwarnings("ignore", message)
    # On a full disk W&B's service ends; W&B would report that, and that it cannot log it, for every value.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.raiseExceptions = False
