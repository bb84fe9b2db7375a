"""Compare systems as the paper does: ``disentangled table shards=DIR key=value ...``.

Every network is trained by ``disentangled train`` in a process of its own, which chooses the best checkpoint by validation.
Networks and baselines are evaluated on the same list of test triplets. OUT then holds table.md, table.csv, table.json, table.png,
matrices.png, runs/ (the run folders), cells/ (the report of each system and seed) and logs/. Repeat the command to continue with
what is missing.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.triplet_lists.lists import ListSettings
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.config.loading import group_choices, load_group, split_argument
from disentangled_ml.files import locked, read_json, write_json
from disentangled_ml.network.checkpoint import FEATURES_ALONE, TAGS_ALONE
from disentangled_ml.processes import Job, run_jobs, slots
from disentangled_ml.reporting.comparison import CELL_KEYS, ROW_KEYS, SPECIALISED, assemble, write_comparison
from disentangled_ml.reporting.comparison_figures import draw_accuracies, draw_matrices
from disentangled_ml.systems import (
    UNTRAINED,
    SpecialisedSystem,
    System,
    evaluate_split,
    list_conditions,
    load_network_system,
    untrained_system,
    without_tags,
)
from disentangled_ml.training.resume import check_same, fixed_on_resume

# Keys that must not change when a table is continued.
FIXED_KEYS = ("base", "train", "triplets_per_condition", "match_bandwidth")
MADE = ("table.md", "table.csv", "table.json", "table.png", "matrices.png", "cells", "runs")
# Not to be given in ``train``: what makes the systems differ, or what the table sets.
SYSTEMS_OWN = (
    *("experiment", "choices", "seed", "runs", "run_name", "resume", "mask", "loss", "embedding_dim"),
    *("rhythm", "backbone.features", "data.shards", "data.conditions"),
)
logger = logging.getLogger("table")


class Run(NamedTuple):
    """Training of a system from a seed, with the name of its folder in OUT/runs, of some conditions or (None) all."""

    system: str
    seed: int
    name: str
    conditions: list[str] | None = None


class SystemsTable(NamedTuple):
    """Table of systems: its configuration, and what follows from it.

    Attributes:
        config: Of the command.
        index: Of the shards.
        out: Folder of the table.
        reference: Training configuration that all systems have in common: chunks, tempo.
        systems: Those of the configuration that the shards have what it takes for.
    """

    config: DictConfig
    index: ShardIndex
    out: Path
    reference: DictConfig
    systems: list[str]

    @property
    def names(self) -> list[str]:
        return [entry["name"] for entry in self.index.conditions]

    def cells(self) -> list[tuple[str, int]]:
        """Return the systems with their seeds; of one that is not trained the first seed is enough."""
        seeds = list(self.config.seeds)
        return [(system, seed) for system in self.systems for seed in (seeds[:1] if system in UNTRAINED else seeds)]

    def runs(self, system: str, seed: int) -> list[Run]:
        """Return the trainings of a cell: none of a system that is not trained, one per condition of the specialised networks."""
        if system in UNTRAINED:
            return []
        if system == SPECIALISED:
            return [Run(system, seed, f"{system}-{name.replace('/', '%2F')}-seed{seed}", [name]) for name in self.names]
        return [Run(system, seed, f"{system}-seed{seed}")]

    def run_dir(self, run: Run) -> Path:
        return self.out / "runs" / run.name

    def is_trained(self, run: Run) -> bool:
        """Return whether a training is finished: its report is written last."""
        return (self.run_dir(run) / "evaluation.json").is_file()

    def arguments(self, run: Run) -> list[str]:
        """Return the arguments of ``train`` for a training."""
        conditions = [] if run.conditions is None else [f"data.conditions={json.dumps(run.conditions)}"]
        return [
            *common_arguments(self.config, run.system),
            *conditions,
            f"seed={run.seed}",
            f"runs={self.out / 'runs'}",
            f"run_name={run.name}",
            "resume=true",
        ]


def common_arguments(config: DictConfig, *experiments: str) -> list[str]:
    """Return the arguments of ``train`` that all seeds have in common.

    An argument beats an experiment, so that a group which one of the experiments chooses, as ``musicnn`` does the backbone, is not
    chosen by ``train``.
    """
    chosen = {group for name in experiments for group in load_group("experiment", name).get("choices", {})}
    given = [argument for argument in config.train if split_argument(argument)[0] not in chosen]
    experiment = f"experiment={','.join((config.base, *experiments))}"
    return ["data=shards", f"data.shards={config.shards}", *given, experiment]


def check_settings(config: DictConfig) -> None:
    """Check that all systems are known, and that nothing in ``train`` would change what they are."""
    experiments = group_choices("experiment")
    for system in config.systems:
        if system not in UNTRAINED and system not in experiments:
            raise ConfigError(f"systems: {system} is unknown: choose of {', '.join([*UNTRAINED, *experiments])}")
    for key in ("systems", "seeds"):
        values = list(config[key])
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{key}={values} must be some, each once")
    if min(config.seeds) < 0:
        raise ConfigError(f"seeds={list(config.seeds)} must not be negative")
    for argument in config.train:
        key = argument.removeprefix("--").partition("=")[0]
        if any(key == own or key.startswith(f"{own}.") for own in SYSTEMS_OWN):
            raise ConfigError(
                f"train: {argument} would change what the systems are, or is set by the table: leave it out"
            )


def trainable_systems(config: DictConfig, index: ShardIndex) -> list[str]:
    """Return the systems that the shards have what it takes for; a log line names the others.

    Raises: ConfigError: if none is left.
    """
    kept = []
    for system in config.systems:
        if reason := reason_left_out(system, config, index):
            logger.warning("%s is left out: %s", system, reason)
        else:
            kept.append(system)
    if not kept:
        raise ConfigError(
            f"systems={list(config.systems)}: {index.root} lacks what every one of them needs: prepare with features=musicnn"
        )
    return kept


def reason_left_out(system: str, config: DictConfig, index: ShardIndex) -> str:
    """Return why a system cannot be had on some shards; empty if it can."""
    if system == TAGS_ALONE:
        reads_features, unknown = True, without_tags(index, index.features)
    elif system in UNTRAINED:
        return ""
    else:
        backbone, unknown = load_config(TrainConfig, common_arguments(config, system)).backbone, []
        reads_features = backbone.features or backbone.name == FEATURES_ALONE
    if reads_features and not index.features:
        return f"{index.root} holds no features, prepare with features=musicnn"
    return f"musicnn has no tags for {', '.join(unknown)}" if unknown else ""


def check_distinct(config: DictConfig, systems: Sequence[str]) -> None:
    """Check that no two systems are the same network, as those that differ only by a backbone that the base chooses too.

    Raises: ConfigError: naming both.
    """
    seen: list[tuple[str, Any]] = []
    for system in (system for system in systems if system not in UNTRAINED):
        settings = OmegaConf.to_container(load_config(TrainConfig, common_arguments(config, system)))
        settings.pop("choices")
        for other, others in seen:
            if settings == others:
                raise ConfigError(
                    f"systems: {other} and {system} are the same network with base={config.base}: leave out one of them, or give "
                    "another base, as base=table"
                )
        seen.append((system, settings))


def begin(table: SystemsTable) -> None:
    """Make the folder of a table, or check that what it holds was made with the same settings."""
    check_shards(table)
    plain = OmegaConf.to_container(table.config)
    claim_folder(table.out, {"shards": table.index.fingerprint(), **{key: plain[key] for key in FIXED_KEYS}})
    for run in (run for cell in table.cells() for run in table.runs(*cell)):
        given = load_config(TrainConfig, table.arguments(run))
        path = table.run_dir(run) / "config.yaml"
        if path.is_file():
            check_same(table.run_dir(run), run_settings(path), fixed_on_resume(OmegaConf.to_container(given)))


def claim_folder(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder of a table and write its settings, or compare them with those that it was begun with."""
    path = out / "settings.json"
    made = [name for name in MADE if (out / name).is_file() or any((out / name).glob("*"))]
    if made and not path.is_file():
        raise ConfigError(f"out={out} holds {', '.join(made)}, but not of a table: give another folder")
    try:
        for name in ("cells", "logs", "runs"):
            (out / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={out} cannot be made ({error.strerror}): give another folder") from error
    keep_settings(out, settings)


def keep_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write what a folder is begun with, or compare it with what it was begun with. Raises ConfigError if that was something else."""
    path = out / "settings.json"
    try:
        kept = read_json(path) if path.is_file() else settings
    except ValueError as error:
        raise ConfigError(f"{path} is damaged, it said what the folder was begun with: give another out") from error
    for key, value in settings.items():
        if kept.get(key) != value:
            raise ConfigError(f"{out} was begun with {key}={kept.get(key)}, not {value}: give that, or another out")
    write_json(path, settings)


def check_shards(table: SystemsTable) -> None:
    """Check that the shards have what a table needs; it would otherwise fail only after all trainings."""
    list_conditions(table.index, table.names, table.reference.data.tempo)
    for split in ("train", "test"):
        if not table.index.count(split):
            raise ShardsError(f"{table.index.root} has no {split} tracks: check the manifest's split column")
    taken = [name for name in table.names if name in ROW_KEYS]
    if taken:
        raise ConfigError(f"{table.index.root}: a table cannot have conditions called {', '.join(taken)}: rename them")


def run_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a run that must not change. Raises ConfigError if its config.yaml is damaged."""
    try:
        return fixed_on_resume(OmegaConf.to_container(OmegaConf.load(path)))
    except (OmegaConfBaseException, YAMLError, LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        raise ConfigError(f"{path} is damaged: delete {path.parent}, it is trained anew") from error


def train_missing(table: SystemsTable, lock: int) -> list[str]:
    """Train what is not finished, several at a time; return the names of the trainings that failed."""
    missing = [run for cell in table.cells() for run in table.runs(*cell) if not table.is_trained(run)]
    jobs = [
        Job(
            run.name,
            [sys.executable, "-m", "disentangled_ml.train", *table.arguments(run)],
            table.out / "logs" / f"{run.name}.log",
        )
        for run in missing
    ]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = visible.split(",") if torch.cuda.is_available() else []
    return run_jobs(jobs, slots(table.config.jobs, gpus, os.cpu_count() or 1), lock)


def load_system(table: SystemsTable, system: str, seed: int) -> System:
    """Load the trained networks of a system, or fit one that is not trained."""
    if system in UNTRAINED:
        return untrained_system(system, table.index, table.names, table.reference.data.chunk_frames, seed)
    paths = [table.run_dir(run) / "checkpoints" / "best.ckpt" for run in table.runs(system, seed)]
    networks = [load_network_system(path, table.index)[0] for path in paths]
    return SpecialisedSystem(networks) if system == SPECIALISED else networks[0]


def training_seconds(table: SystemsTable, system: str, seed: int) -> float | None:
    """Return the seconds that the trainings took; None where nothing is trained."""
    paths = [table.run_dir(run) / "metrics.json" for run in table.runs(system, seed)]
    runs = [read_json(path, f"delete {path.parent}, it is trained anew") for path in paths]
    # Runs of older versions do not have it.
    return sum(run["train/seconds"] for run in runs) if runs and all("train/seconds" in run for run in runs) else None


def evaluate_cell(table: SystemsTable, system: str, seed: int) -> dict[str, Any]:
    """Evaluate a system, or read its report unless a network was trained since."""
    path = table.out / "cells" / f"{system}-seed{seed}.json"
    made = [(table.run_dir(run) / "evaluation.json").stat().st_mtime for run in table.runs(system, seed)]
    if path.is_file() and path.stat().st_mtime >= max(made, default=0):
        cell = read_json(path, "delete it, it is made anew")
        if not set(CELL_KEYS) <= set(cell) or (cell["system"], cell["seed"]) != (system, seed):
            raise ValueError(f"{path} is damaged (no report of {system}, seed {seed}): delete it, it is made anew")
        return cell
    logger.info("evaluate %s, seed %d", system, seed)
    loaded = load_system(table, system, seed)
    config = table.config
    settings = ListSettings(config.triplets_per_condition, 0, table.reference.data.chunk_frames, config.match_bandwidth)
    conditions = list_conditions(table.index, table.names, table.reference.data.tempo)
    cell = {
        "system": system,
        "seed": seed,
        "has_subspaces": loaded.has_subspaces,
        "parameters": loaded.n_parameters,
        "seconds": training_seconds(table, system, seed),
        **evaluate_split(loaded, conditions, settings, probe=True),
    }
    write_json(path, cell)
    return cell


def main(config: DictConfig) -> None:
    """Make the table of a configuration. Raises ConfigError after the table of all else is made, if a training failed."""
    check_settings(config)
    # As Ctrl-C: the trainings end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    index = ShardIndex.read(config.shards)
    out = Path(config.out or Path("tables") / Path(config.shards).resolve().name)
    reference = load_config(TrainConfig, common_arguments(config))
    systems = trainable_systems(config, index)
    check_distinct(config, systems)
    table = SystemsTable(config, index, out, reference, systems)
    begin(table)
    with locked(out) as lock:
        failed = train_missing(table, lock)
        whole = [cell for cell in table.cells() if all(table.is_trained(run) for run in table.runs(*cell))]
        if whole:
            cells = [evaluate_cell(table, *cell) for cell in whole]
            comparison = assemble(cells, table.names, OmegaConf.to_container(config))
            write_comparison(out, comparison)
            draw_accuracies(comparison, out / "table.png")
            draw_matrices(comparison, out / "matrices.png")
            sys.stdout.write((out / "table.md").read_text(encoding="utf-8") + f"\n{out}\n")
    if failed:
        raise ConfigError(f"{', '.join(failed)} failed, see the logs in {out / 'logs'}; the table is made without")
