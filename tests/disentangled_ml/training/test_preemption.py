"""A run that a signal ends, wherever it comes, goes on with the next batch and ends as if nothing had happened, to the bit."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger

from callbacks.preemption import SIGNALS, Preempted, Preemption
from disentangled_ml import builders
from disentangled_ml.files import read_json
from tests import warm
from tests.conftest import train_here
from tests.disentangled_ml.real_runs import name_of, parent_of

EPOCHS, BATCHES = 3, 12  # of the tiny shards
SETTINGS = (  # so that the rate falls on the way, and early stopping counts
    f"training.max_epochs={EPOCHS}",
    "training.learning_rate=0.03",
    "training.lr_patience=0",
    "training.early_stopping_patience=9",
    "run_name=run",
    "resume=true",
)

# Hook, and the how-manieth call of it in the whole training: an epoch has 12 training batches and 2 of validation.
PLACES = {
    "before the first batch": ("on_train_start", 1),
    "in the first batch": ("on_train_batch_start", 1),
    "within an epoch": ("on_train_batch_start", 17),
    "in the last but one batch": ("on_train_batch_start", 23),
    "in the last batch": ("on_train_batch_start", 24),
    "in validation": ("on_validation_batch_start", 3),
    "at the end of validation": ("on_validation_batch_start", 4),
    "behind validation": ("on_validation_end", 2),
    "between two epochs": ("on_train_epoch_end", 1),
    "in the very last batch": ("on_train_batch_start", 36),
    "when training ends": ("on_train_end", 1),
    "in the test": ("on_test_batch_start", 2),
}
QUICK = ("within an epoch", "in validation")  # what is tested every time


class Signal(pl.Callback):
    """Send this process a signal when a hook is called for the n-th time."""

    def __init__(self, hook: str, n: int, number: int):
        self.left, self.number = n, number
        setattr(self, hook, self.called)

    def called(self, *_: Any) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)


class Batches(pl.Callback):
    """Count the training batches that are begun."""

    def __init__(self) -> None:
        self.n = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.n += 1


class Recorder(Logger):
    """Keep what is logged, but for times."""

    name, version = "recorder", 0

    def __init__(self, lines: list):
        super().__init__()
        self.lines = lines

    def log_metrics(self, metrics, step=None):
        logged = {k: v for k, v in metrics.items() if k not in ("train/chunks_per_second", "train/data_wait_share")}
        self.lines.append((step, logged))

    def log_hyperparams(self, params):
        pass


def checkpoint_of(run_dir: Path, name: str = "last") -> dict[str, Any]:
    """Load a checkpoint, without the folder's name, the configuration and the times."""
    checkpoint = torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
    del checkpoint["config"], checkpoint["callbacks"]["Throughput"]
    for state in checkpoint["callbacks"].values():
        for key in ("dirpath", "best_model_path", "last_model_path", "kth_best_model_path"):
            state.pop(key, None)
        state.pop("current_score", None)  # which Lightning does not take back, and does not use
        if "best_k_models" in state:
            state["best_k_models"] = list(state["best_k_models"].values())
    checkpoint["loops"]["fit_loop"].pop("epoch_loop.val_loop.batch_progress")  # begun twice where validation was
    return checkpoint


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Compare to the bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}.{i}")
    else:
        assert a == b or a != a != b != b, where


def run(
    runs: Path, arguments: tuple[str, ...], lines: list, *further: pl.Callback, settings: tuple[str, ...] = SETTINGS
) -> Path:
    """Train in this process, from where an earlier call in the folder was interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        build = builders.build_callbacks
        patch.setattr(builders, "build_callbacks", lambda *a: [*build(*a), *further])
        patch.setattr(builders, "build_logger", lambda *a: Recorder(lines))
        patch.setattr("disentangled_ml.train.start", lambda logger: None)  # Recorder is no W&B
        train_here(*arguments, *settings, f"runs={runs}")
    return runs / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_arguments) -> tuple[Path, list]:
    """Give the folder of an uninterrupted run, and what it logged."""
    torch.set_num_threads(1)
    lines: list = []
    return run(tmp_path_factory.mktemp("whole"), tiny_arguments, lines), lines


def metrics_of(run_dir: Path) -> dict[str, float]:
    """Read what was reached, without the time it took."""
    metrics = read_json(run_dir / "metrics.json")
    assert metrics.pop("train/seconds") > 0
    return metrics


def assert_equals_whole(run_dir: Path, lines: list, whole: tuple[Path, list]) -> None:
    assert metrics_of(run_dir) == metrics_of(whole[0])
    for name in ("last", "best"):
        assert_equal(checkpoint_of(run_dir, name), checkpoint_of(whole[0], name), name)
    once = [line for i, line in enumerate(lines) if line not in lines[:i]]  # validation and test may be done again
    assert_equal(once, whole[1], "logged")


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=[] if place in QUICK else pytest.mark.slow) for place in PLACES]
)
def test_a_run_goes_on_from_where_a_signal_ended_it(tmp_path, tiny_arguments, whole, one_thread, place):
    lines: list = []
    batches = Batches()
    with pytest.raises(SystemExit, match=r"interrupted: run_name=run resume=true goes on with"):
        run(tmp_path, tiny_arguments, lines, batches, Signal(*PLACES[place], signal.SIGTERM))
    run_dir = run(tmp_path, tiny_arguments, lines, batches)
    assert_equals_whole(run_dir, lines, whole)
    assert batches.n == EPOCHS * BATCHES, "some were done twice"


@pytest.mark.slow
def test_two_signals_and_a_run_that_is_interrupted_again_and_again(tmp_path, tiny_arguments, whole, one_thread):
    """The second signal comes while the first is dealt with; then each of many processes does a few steps."""
    lines: list = []
    twice = [Signal("on_train_batch_start", 5, number) for number in SIGNALS]
    with pytest.raises(SystemExit, match="interrupted"):
        run(tmp_path, tiny_arguments, lines, *twice, Signal("on_save_checkpoint", 1, signal.SIGTERM))
    for n in range(5):
        with pytest.raises(SystemExit, match="interrupted"):
            run(tmp_path, tiny_arguments, lines, Signal("on_train_batch_start", 6, SIGNALS[n % 2]))
    assert_equals_whole(run(tmp_path, tiny_arguments, lines), lines, whole)


class Handlers(pl.Callback):
    """Keep who handles the signals while a network is trained and tested."""

    def __init__(self) -> None:
        self.seen: set[object] = set()

    def on_train_batch_start(self, *_: Any) -> None:
        self.seen |= {signal.getsignal(number) for number in SIGNALS}

    def on_test_batch_start(self, *_: Any) -> None:
        self.on_train_batch_start()


def test_lightning_handles_no_signal(tmp_path, tiny_arguments, one_thread):
    """Its handler calls on the other ranks from wherever this one is, and hangs where they are told nothing."""
    handlers = Handlers()
    run(tmp_path, tiny_arguments, [], handlers, settings=(*SETTINGS, "training.max_epochs=1"))
    (handler,) = handlers.seen
    assert handler.__func__ is Preemption.receive


def test_a_signal_that_comes_while_the_ranks_agree_is_not_lost(monkeypatch, tmp_path):
    """They have agreed without it, so none may end yet; the next time all are told. The other rank is made up."""
    preemption = Preemption(tmp_path / "last.ckpt")
    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_, **__: preemption.receive(signal.SIGTERM))
    preemption.end_if_told(trainer)
    with pytest.raises(Preempted, match="SIGTERM"):
        preemption.end_if_told(trainer)


@pytest.mark.slow
def test_a_run_that_stopped_early_stays_stopped(tmp_path, tiny_arguments, one_thread):
    """A signal in the test does not begin the training again, which Lightning's own early stopping would."""
    most = 20
    settings = (*SETTINGS, "training.early_stopping_patience=1", f"training.max_epochs={most}")
    with pytest.raises(SystemExit, match="interrupted"):
        run(tmp_path, tiny_arguments, [], Signal("on_test_batch_start", 1, signal.SIGTERM), settings=settings)
    stopped = checkpoint_of(tmp_path / "run")
    assert stopped["global_step"] < most * BATCHES
    assert_equal(checkpoint_of(run(tmp_path, tiny_arguments, [], settings=settings)), stopped)


@pytest.fixture(scope="module")
def command_line(tiny_arguments) -> list[str]:
    """Return the command of a run; runs=DIR is missing."""
    return warm.cold("train", *tiny_arguments, *SETTINGS, "wandb.mode=offline")


def start(command: list[str], runs: Path, before: str = "") -> warm.Popen:
    """Start a run in the background, which says what it says in a file."""
    with open(runs / "log", "a") as log:
        return warm.Popen([*command, f"runs={runs}"], stdout=log, stderr=log, before=before)


def finish(command: list[str], runs: Path) -> Path:
    """Run to the end."""
    process = start(command, runs)
    try:
        assert process.wait(timeout=240) == 0, (runs / "log").read_text()
    finally:
        process.kill()
    return runs / "run"


def descendants(pid: int) -> list[int]:
    """List the processes that a process has started, and those that they have."""
    started = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    children = [other for other in started if parent_of(other) == pid]  # /proc/PID/task/*/children may leave some out
    return [*children, *(further for child in children for further in descendants(child))]


RECEIVERS = {
    "rank 0": lambda pid: [pid],
    "rank 1": lambda pid: [
        child for child in descendants(pid) if parent_of(child) == pid and name_of(child) == "rank 1"
    ],
    "the whole tree": lambda pid: [pid, *descendants(pid)],  # as SLURM may
}


def interrupt(command: list[str], runs: Path, number: int, receivers: str) -> tuple[int, list[int]]:
    """Start a run, send it a signal within the second epoch, and return its status and what processes it had started."""
    runs.mkdir()
    process = start(command, runs, warm.hold_training(runs, epoch=1, batch=HELD_BATCH))
    try:
        wait_for((runs / "held").exists, process)
        found, started = RECEIVERS[receivers](process.pid), descendants(process.pid)
        assert found
        for pid in found:
            os.kill(pid, number)
        (runs / "go").touch()
        return process.wait(timeout=300), started
    finally:
        process.kill()


def wait_for(what: Callable[[], object], process: warm.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, "the run has ended"
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


HELD_BATCH = 2
RESTORED = "Restored all states from the checkpoint"
ONE = ("trainer.devices=1",)
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
CASES = [
    pytest.param(signal.SIGUSR1, "the whole tree", ONE, 2, id="SIGUSR1-to-all-with-workers"),
    pytest.param(signal.SIGTERM, "rank 1", TWO, 1, id="SIGTERM-to-rank-1-of-two", marks=pytest.mark.ddp),
]


@pytest.fixture(scope="module")
def uninterrupted(command_line, tmp_path_factory) -> Callable[..., Path]:
    """Return the run folder of an uninterrupted run of a command: ``uninterrupted(*processes)``; it is run once."""

    @cache
    def run_once(*arguments: str) -> Path:
        return finish([*command_line, *arguments], tmp_path_factory.mktemp("uninterrupted"))

    return run_once


@pytest.mark.slow
@pytest.mark.parametrize(("number", "receivers", "processes", "workers"), CASES)
def test_processes_go_on_within_the_epoch(tmp_path, command_line, uninterrupted, number, receivers, processes, workers):
    arguments = (*processes, f"data.workers={workers}")
    command, runs = [*command_line, *arguments], tmp_path / "parts"
    assert interrupt(command, runs, number, receivers)[0] == 1
    log = (runs / "log").read_text()
    assert "Traceback" not in log.partition("interrupted: ")[0]  # behind it W&B's, if its own process was ended
    assert log.count("interrupted: run_name=run resume=true goes on with") == 1
    assert RESTORED not in log
    (step,) = re.findall(rf"{number.name}: saved step (\d+) in", log)
    parts, whole = finish(command, runs), uninterrupted(*arguments)
    batches = checkpoint_of(whole)["global_step"] // EPOCHS
    assert int(step) == batches + HELD_BATCH + 1
    assert RESTORED in (runs / "log").read_text()
    for name in ("last", "best"):
        assert_equal(checkpoint_of(parts, name), checkpoint_of(whole, name), name)
    assert metrics_of(parts) == metrics_of(whole)
    wandb_runs = [path.name.rpartition("-")[2] for path in parts.glob("wandb/offline-run-*")]
    assert wandb_runs == [(parts / "wandb_run_id").read_text()] * 2


@pytest.mark.slow
def test_a_signal_that_comes_when_all_is_done_makes_no_failure(tmp_path, command_line):
    """A rank that is done waits for no other: it must not die of the signal that is meant for the others."""
    process = start([*command_line, *ONE, "training.max_epochs=1"], tmp_path)
    try:
        wait_for((tmp_path / "run" / "evaluation.json").exists, process)
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.returncode == 0


@pytest.mark.slow
def test_the_same_command_goes_on_after_sigkill(tmp_path, command_line, uninterrupted):
    """It goes on from the end of the epoch before, so a part of an epoch is done again; no process is left behind."""
    arguments = (*ONE, "data.workers=2")
    command, runs = [*command_line, *arguments], tmp_path / "parts"
    status, started = interrupt(command, runs, signal.SIGKILL, "rank 0")
    assert status == -signal.SIGKILL
    assert len(started) >= 4  # two that load, one that forks them, and W&B's
    deadline = time.monotonic() + 30
    while left := [pid for pid in started if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.2)
    parts, whole = finish(command, runs), uninterrupted(*arguments)
    for name in ("last", "best"):
        assert_equal(checkpoint_of(parts, name), checkpoint_of(whole, name), name)
    assert metrics_of(parts) == metrics_of(whole)
