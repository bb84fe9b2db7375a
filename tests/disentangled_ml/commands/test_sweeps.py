"""The sweep files, by what W&B's own agent makes of them: the command line, real runs of it, and `make sweep`, `make agent`."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from wandb import wandb_agent

from disentangled_ml import builders
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.config.loading import CONF
from disentangled_ml.network.backbones import BACKBONES
from disentangled_ml.network.masks import MASKS
from tests import warm

SWEEPS = ("bayes", "grid", "random")
SEARCHES = ("bayes", "random")
SEARCHED = ("data.tracks_per_batch", "loss.margin", "loss.track_weight", "training.learning_rate")
SHORT = ("training.max_epochs=2", "evaluation.triplets_per_condition=20")
ROOT = CONF.parent
Sweep = dict[str, Any]


def read(name: str) -> Sweep:
    return yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text())


def draw(parameter: dict[str, Any], rng: random.Random) -> Any:
    """Draw a value as the server does for a distribution."""
    if "values" in parameter:
        return rng.choice(parameter["values"])
    low, high = parameter["min"], parameter["max"]
    if parameter["distribution"] == "log_uniform_values":
        return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))
    assert parameter["distribution"] == "uniform"
    return rng.uniform(low, high)


def draws(sweep: Sweep, n: int = 20) -> Iterator[dict[str, Any]]:
    """Give all combinations of a grid; else all of what lies at the ends of the ranges, and n drawn ones."""
    parameters = sweep["parameters"]
    ends = [parameter.get("values") or [parameter["min"], parameter["max"]] for parameter in parameters.values()]
    for values in itertools.product(*ends):
        yield dict(zip(parameters, values, strict=True))
    if sweep["method"] != "grid":
        rng = random.Random(0)
        for _ in range(n):
            yield {name: draw(parameter, rng) for name, parameter in parameters.items()}


@pytest.fixture
def agent(monkeypatch, tmp_path) -> Callable[..., tuple[list[str], dict[str, str]]]:
    """Give the command line and the environment of W&B's own agent: ``agent(sweep, values)``."""
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(command: list[str], env: dict[str, str], **_: Any) -> SimpleNamespace:
        started.append((command, env))
        return SimpleNamespace()

    monkeypatch.setattr(wandb_agent, "AgentProcess", start)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # which the agent sets: restored after the test
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "agent"))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")

    def build(sweep: Sweep, values: dict[str, Any], run_id: str = "run1") -> tuple[list[str], dict[str, str]]:
        of_wandb = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep1")
        of_wandb._sweep_command = list(sweep["command"])
        arguments = {name: {"value": value} for name, value in values.items()}
        of_wandb._command_run({"run_id": run_id, "program": sweep["program"], "args": arguments})
        command, environment = started.pop()
        return command, {name: value for name, value in environment.items() if name.startswith("WANDB_")}

    return build


def with_arguments(sweep: Sweep, *arguments: str) -> Sweep:
    """Add arguments where ``make sweep`` does."""
    return {**sweep, "command": [*sweep["command"][:-1], *arguments, sweep["command"][-1]]}


def run_agents_command(
    command: list[str], environment: dict[str, str], user_environment: dict[str, str]
) -> subprocess.CompletedProcess:
    assert command[:4] == ["/usr/bin/env", "python", "-m", "disentangled_ml.train"]
    env = {**user_environment, **environment, "WANDB_MODE": "offline"}
    done = warm.run("train", *command[4:], env=env, timeout=240)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grid", "random"])
def test_every_combination_is_what_the_command_line_says(agent, tiny_arguments, name):
    sweep = with_arguments(read(name), *tiny_arguments)
    tried = 0
    for values in draws(sweep, 4):
        command, _ = agent(sweep, values)
        assert command[:4] == ["/usr/bin/env", "python", "-m", "disentangled_ml.train"]
        config = load_config(TrainConfig, command[4:])
        assert {key: OmegaConf.select(config, key) for key in values} == values
        data = builders.build_data(config)
        module = builders.build_module(config, data.conditions, data.index.audio)
        assert module.loss.margin == config.loss.margin
        assert (config.backbone.name, config.mask.name) == (config.choices.backbone, config.choices.mask)
        tried += 1
    assert tried == (12 if name == "grid" else 32 + 4)


def test_the_grid_is_every_backbone_with_every_mask():
    parameters = read("grid")["parameters"]
    assert set(parameters["choices.backbone"]["values"]) == set(BACKBONES)
    assert set(parameters["choices.mask"]["values"]) == set(MASKS)


@pytest.mark.parametrize("name", SEARCHES)
def test_the_searches_differ_in_their_method_only(name):
    sweep = read(name)
    assert sweep["method"] == name
    assert sorted(sweep["parameters"]) == list(SEARCHED)
    other = read("random")
    same = ("parameters", "metric", "early_terminate", "run_cap", "project", "command")
    assert {key: sweep[key] for key in same} == {key: other[key] for key in same}
    assert read("grid")["command"] == other["command"]


def test_the_sweep_files_are_those_that_are_tested():
    assert sorted(path.stem for path in (CONF / "sweep").glob("*.yaml")) == sorted(SWEEPS)
    assert load_config(TrainConfig, ["data=demo"]).wandb.project == read("grid")["project"]


@pytest.mark.slow
def test_a_run_of_the_agents_command(agent, tmp_path, tiny_arguments, user_environment, wandb_server, sync):
    sweep = with_arguments(read("random"), *tiny_arguments, "wandb.mode=auto", *SHORT, f"runs={tmp_path}/runs")
    values = list(draws(sweep))[-1]
    done = run_agents_command(*agent(sweep, values), user_environment)
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name.endswith("-run1")
    config = OmegaConf.load(run_dir / "config.yaml")
    assert {key: OmegaConf.select(config, key) for key in values} == values
    assert len(list(run_dir.glob("wandb/offline-run-*-run1"))) == 1
    server = wandb_server()
    sync(server, run_dir / "wandb")
    assert server.finished == ["run1"]
    shown = server.configs["run1"]  # the parameters, which the server's search reads, and the whole configuration
    assert {key: shown[key] for key in values} == values
    assert shown["backbone"] == OmegaConf.to_container(config)["backbone"]
    metric = sweep["metric"]["name"]
    final = json.loads((run_dir / "metrics.json").read_text())[metric]
    *by_epoch, last = server.values("run1", metric)
    assert len(by_epoch) == config.training.max_epochs  # what hyperband counts; then once more, of the best checkpoint
    assert last == pytest.approx(final, abs=1e-6)
    assert run_dir.name in done.stdout


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_are_one_run(agent, tmp_path, tiny_arguments, user_environment, wandb_server, sync):
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "wandb.mode=auto")
    sweep = with_arguments(read("random"), *tiny_arguments, *two, *SHORT, f"runs={tmp_path}/runs")
    values = {**next(draws(sweep)), "training.learning_rate": 0.003}
    run_agents_command(*agent(sweep, values, "two"), user_environment)
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name == "shards-conv-fixed-two"
    assert len(list(run_dir.glob("wandb/*run-*"))) == 1
    assert not list((tmp_path / "agent").rglob("*.wandb"))
    server = wandb_server()
    sync(server, run_dir / "wandb")
    assert list(server.history) == ["two"]
    assert len(server.values("two", sweep["metric"]["name"])) == 3


def make(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    """Run make with the Python of the tests, and nothing set up."""
    return subprocess.run(
        ["make", "-o", ".venv/ready", f"PY={sys.executable}", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_sweep_is_made_and_an_agent_runs_it(tmp_path, tiny_arguments, tiny_shards, user_environment, wandb_server):
    server = wandb_server()
    environment = {**user_environment, **server.environment, "WANDB_DIR": str(tmp_path)}
    *tiny, _ = (argument for argument in tiny_arguments if argument != "wandb.mode=disabled")
    arguments = " ".join([*tiny, "training.max_epochs=500", "training.lr_reductions=500", f"runs={tmp_path}/runs"])
    made = make(environment, "sweep", "SWEEP=random", f"DATA={tiny_shards}", "BACKBONE=conv", f"ARGS={arguments}")
    assert made.returncode == 0, made.stderr
    (sweep_id,) = re.findall(r"wandb agent (?:\x1b\[\d+m)?([\w/-]+)", made.stderr)
    assert sweep_id == "team/disentangled-ml/sweep1"
    sweep = yaml.safe_load(server.sweep)
    given = ("backbone=conv", "data=shards", f"data.shards={tiny_shards}", *arguments.split())
    assert sweep == with_arguments(read("random"), *given)

    values = next(draws(sweep))
    for run_id in ("stopped", "second"):
        command = {"type": "run", "run_id": run_id, "program": sweep["program"]}
        server.commands.append({**command, "args": {name: {"value": value} for name, value in values.items()}})
    server.stop_after = 3
    ran = make(environment, "agent", f"SWEEP_ID={sweep_id}", f"DATA={tiny_shards}")
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "shards-conv-fixed-stopped",
        "shards-conv-fixed-second",
    }
    for run_id in ("stopped", "second"):
        run_dir = tmp_path / "runs" / f"shards-conv-fixed-{run_id}"
        assert (run_dir / "checkpoints" / "last.ckpt").is_file()
        assert len(server.values(run_id, "val/triplet_accuracy/mean")) >= 3
        assert {key: server.configs[run_id][key] for key in values} == values
        assert len(list(run_dir.glob(f"wandb/run-*-{run_id}"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "DATA=shards"), "No API key configured"),
        (("agent", "DATA=shards", "SWEEP_ID=team/project/abc"), "No API key configured"),
        (("agent",), "SWEEP_ID is missing: make agent SWEEP_ID="),
        (("sweep", "SWEEP=gird", "DATA=shards"), "SWEEP=gird is unknown: choose one of bayes grid random"),
    ],
    ids=["sweep", "agent", "no-id", "no-file"],
)
def test_make_says_what_is_missing(tmp_path, user_environment, arguments, message):
    done = make({**user_environment, "WANDB_DIR": str(tmp_path)}, *arguments)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
