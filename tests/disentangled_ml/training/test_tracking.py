"""A training goes on without W&B: not reached at the start, gone in mid-run, its own process killed; and what is uploaded later."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb
from pytorch_lightning.utilities import rank_zero_only

from disentangled_ml.training.tracking import build_logger, start
from tests import warm

METRIC = "val/triplet_accuracy/mean"
SHORT = 5.0  # seconds of patience, by W&B's own variables, in place of START_SECONDS and FINISH_SECONDS
LOGIN_SECONDS = 10  # that wandb itself waits for the name of the user, before the patience at the start begins
TRAINING_SECONDS = 120  # that a tiny training takes at most, on a machine with other work
EXIT_SECONDS = 30  # that wandb's own telemetry waits at the exit for a server that does not answer
QUICK_STREAM = {"WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1"}  # seconds; 15 by default, longer than tiny trainings


@pytest.fixture
def dead_server() -> Iterator[Callable[[str], dict[str, str]]]:
    """Give the environment for a server that is not there: ``dead_server("closed")``, or ``"silent"``: accepts, never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))

        def environment(kind: str) -> dict[str, str]:
            if kind == "silent":
                server.listen(50)
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            return {"WANDB_BASE_URL": url, "WANDB_API_KEY": "x" * 40}

        yield environment


@pytest.fixture
def begin(tmp_path, tiny_arguments, user_environment) -> Iterator[Callable[..., warm.Popen]]:
    """Begin a training in a process: ``begin({"WANDB_...": "..."}, "key=value", ...)``; it writes to ``tmp_path / "log"``."""
    processes = []

    def train(environment: dict[str, str], *arguments: str, before: str = "") -> warm.Popen:
        given = [*tiny_arguments, "wandb.mode=online", f"runs={tmp_path}", "run_name=run", *arguments]
        with open(tmp_path / "log", "w") as log:
            command, env = warm.cold("train", *given), {**user_environment, **environment}
            processes.append(warm.Popen(command, env=env, stdout=log, stderr=log, before=before))
        return processes[-1]

    yield train
    for process in processes:
        process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def advised(log: str) -> list[str]:
    """Give the arguments of the one ``wandb sync`` that a training advises."""
    (command,) = set(re.findall(r"^ +wandb sync (.+)$", log, re.MULTILINE))
    return command.split()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_server_that_is_not_reached_costs_a_bounded_time(tmp_path, begin, dead_server, wandb_server, sync, kind):
    began = time.monotonic()
    process = begin({**dead_server(kind), "WANDB_INIT_TIMEOUT": str(SHORT)}, "training.max_epochs=2")
    assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    assert time.monotonic() - began < LOGIN_SECONDS + SHORT + TRAINING_SECONDS + EXIT_SECONDS
    said = (tmp_path / "log").read_text()
    assert "W&B is not reached" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "metrics.json").is_file()
    run_id = (tmp_path / "run" / "wandb_run_id").read_text()
    server = wandb_server()
    sync(server, *advised(said))
    assert server.finished == [run_id]
    assert len(server.values(run_id, METRIC)) == 2 + 1  # two epochs, and the best checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_is_an_error(tmp_path, begin, wandb_server, status):
    process = begin(wandb_server(status=status).environment)
    assert process.wait(timeout=300) == 1
    said = (tmp_path / "log").read_text()
    assert re.search(rf"^configuration error: W&B does not start \(.*refused with {status}", said, re.MULTILINE)
    assert "Traceback" not in said
    assert not list(tmp_path.glob("run/wandb/offline-*"))


@pytest.mark.slow
def test_a_server_that_goes_away_costs_a_bounded_time_and_nothing_logged(tmp_path, begin, wandb_server, sync):
    server = wandb_server()
    limit = {"WANDB_FINISH_TIMEOUT": str(SHORT)}
    process = begin(
        {**server.environment, **QUICK_STREAM, **limit},
        "training.max_epochs=4",
        before=warm.hold_training(tmp_path, epoch=2, batch=0),
    )
    run_dir = tmp_path / "run"
    wait_for(lambda: (tmp_path / "held").exists() and list(server.history))
    server.stop()
    (tmp_path / "go").touch()
    wait_for((run_dir / "evaluation.json").exists)
    ended = time.monotonic()
    assert process.wait(timeout=300) == 0
    assert time.monotonic() - ended < SHORT + EXIT_SECONDS + TRAINING_SECONDS
    said = (tmp_path / "log").read_text()
    assert "W&B is not reached any more" in said
    assert "Traceback" not in said
    run_id = (run_dir / "wandb_run_id").read_text()
    assert len(server.values(run_id, METRIC)) < 4
    later = wandb_server()
    sync(later, *advised(said))
    assert later.finished == [run_id]
    values = later.values(run_id, METRIC)
    assert len(values) == 4 + 1
    assert values[-1] == pytest.approx(json.loads((run_dir / "metrics.json").read_text())[METRIC], abs=1e-6)


@pytest.mark.slow
def test_the_parts_of_a_resumed_run_are_uploaded_as_one(tmp_path, begin, dead_server, wandb_server, sync):
    unreached = {**dead_server("closed"), "WANDB_INIT_TIMEOUT": "2", "WANDB_SILENT": "true"}
    assert begin(unreached, "training.max_epochs=2").wait(timeout=300) == 0
    run_id = (tmp_path / "run" / "wandb_run_id").read_text()
    assert begin(unreached, "training.max_epochs=4", "resume=true").wait(timeout=300) == 0
    assert (tmp_path / "run" / "wandb_run_id").read_text() == run_id
    assert len(list(tmp_path.glob(f"run/wandb/offline-run-*-{run_id}"))) == 2
    server = wandb_server()
    sync(server, *advised((tmp_path / "log").read_text()))
    assert list(server.history) == [run_id]
    assert len(server.values(run_id, METRIC)) == 2 + 1 + 2 + 1
    steps = server.values(run_id, "trainer/global_step")
    assert steps == sorted(steps)


def processes_of(process: warm.Popen, name: str) -> list[int]:
    """Find the processes of a training by their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:  # ended meanwhile
            continue
        if name.encode() in command[0] and str(process.pid).encode() in command:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_training_outlives_wandbs_process(tmp_path, begin, number):
    held = warm.hold_training(tmp_path, epoch=1, batch=0)
    process = begin({}, "wandb.mode=offline", "training.max_epochs=3", before=held)
    wait_for((tmp_path / "held").exists)
    (wandb_core,) = processes_of(process, "wandb-core")
    os.kill(wandb_core, number)
    (tmp_path / "go").touch()
    assert process.wait(timeout=300) == 0
    said = (tmp_path / "log").read_text()
    assert said.count("training goes on, and nothing more is logged to W&B") == 1
    assert "Traceback" not in said
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_ranks_above_zero_start_no_wandb(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = build_logger(tmp_path, {}, "offline", "project", None)
    start(logger)
    logger.log_metrics({"a": 1.0})
    assert wandb.run is None
    assert not list(tmp_path.iterdir())
