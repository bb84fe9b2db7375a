"""A rank that dies: the others end within a minute, not with status 0, and a line says how to go on.

It need not be the last one: where a process is killed, Python's own tracker of semaphores may warn of those that it has left.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest
import torch

from disentangled_ml.structures import seeded_generator
from tests import warm
from tests.conftest import TINY, write_tiny_shards
from tests.disentangled_ml.real_runs import ENDLESS, MINUTE, TWO, RealRun, has_checkpoint

pytestmark = [pytest.mark.ddp, pytest.mark.slow]
GO_ON = "run_name=run resume=true goes on with"


@pytest.fixture(scope="module")
def validated_shards(tmp_path_factory):
    """Give shards of which validation takes most of the time."""
    return write_tiny_shards(tmp_path_factory.mktemp("validated") / "shards", train=16, val=1200, test=8)


def test_killing_rank_1_ends_rank_0_and_the_run_goes_on(tmp_path, tiny_arguments):
    """And their loading processes, also those of rank 1: nothing else would end them."""
    with RealRun(tmp_path, *tiny_arguments, *TWO, *ENDLESS, "wandb.mode=offline", "data.workers=1") as run:
        run.wait_until(has_checkpoint)
        os.kill(run.rank(1), signal.SIGKILL)
        assert run.end() == 1
    assert f"error: rank 1 was killed by SIGKILL, its messages are above: {GO_ON} {run.dir}\n" in run.said()
    assert "gloo/transport" not in run.said()  # a traceback of what follows from it
    epoch = torch.load(run.dir / "checkpoints" / "last.ckpt", weights_only=True)["epoch"]
    more = (f"training.max_epochs={epoch + 2}", "training.lr_reductions=999", "resume=true", "wandb.mode=offline")
    with RealRun(tmp_path, *tiny_arguments, *TWO, *more) as again:
        assert again.end(2 * MINUTE) == 0, again.said()
    assert torch.load(run.dir / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == epoch + 1
    assert json.loads((run.dir / "metrics.json").read_text())["test/triplet_accuracy/track"] > 0


def test_killing_rank_0_ends_rank_1(tmp_path, tiny_arguments):
    with RealRun(tmp_path, *tiny_arguments, *TWO, *ENDLESS, "data.workers=1", cold=True) as run:
        run.wait_until(has_checkpoint)
        os.kill(run.rank(0), signal.SIGKILL)
        assert run.end() == -signal.SIGKILL
    assert f"error: rank 0 is gone: {GO_ON} {run.dir}" in run.said().splitlines()


def test_a_rank_killed_while_validating_ends_the_other(tmp_path, validated_shards):
    before = warm.mark_validation(tmp_path)
    with RealRun(tmp_path, *TINY, f"data.shards={validated_shards}", *TWO, *ENDLESS, before=before) as run:
        run.wait_until(lambda _: (tmp_path / "validates").exists())
        os.kill(run.rank(1), signal.SIGKILL)
        assert run.end() == 1
    assert re.search(rf"error: rank 1 .*{GO_ON}", run.said())


def test_killing_a_loading_process_ends_all(tmp_path, tiny_arguments):
    with RealRun(tmp_path, *tiny_arguments, *TWO, *ENDLESS, "data.workers=1") as run:
        run.wait_until(has_checkpoint)
        os.kill(run.loading_process(), signal.SIGKILL)
        assert run.end() == 1
    assert "error: a loading process is gone" in run.said(), run.said()[-3000:]
    # Python shows one of its own where the process dies while a file descriptor is handed over to it.
    of_python = re.compile(r'Traceback \(most recent call last\):\s+File "[^"]*/multiprocessing/resource_sharer\.py"')
    assert "Traceback" not in of_python.sub("", run.said())


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_one_rank_ends_both(tmp_path, rank):
    """Here one of the shards that this rank reads first is missing."""
    shards = write_tiny_shards(tmp_path / "shards", train=48, val=16, test=20)
    order = torch.randperm(6, generator=seeded_generator(0, 0)).tolist()
    missing = shards / f"train-{order[-rank]:06d}.tar"
    missing.unlink()
    with RealRun(tmp_path, *TINY, f"data.shards={shards}", *TWO) as run:
        assert run.end() == 1
    assert f"error: shard {missing}" in run.said()
    assert "Traceback" not in run.said()
    if rank == 1:
        assert "\nerror: rank 1 ended with status 1, its messages are above: run_name=run" in run.said()


HANGING = """
import sys, time
import pytorch_lightning as pl
from disentangled_ml.training import ranks
ranks.GRACE = 1.0
trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
ranks.watch_ranks(trainer, "go on", wanted=ZeroDivisionError)

def hang():
    print(trainer.local_rank, flush=True)
    time.sleep(300)

trainer.strategy.launcher.launch(hang)
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_ends_though_nothing_fails_in_it(tmp_path, victim):
    """As where a backend waits for the peer that is gone; also a rank that is killed before there is a group."""
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    with RealRun(tmp_path, script=script) as run:
        run.wait_until(lambda run: {"0", "1"} <= set(run.said().split()))
        start = time.monotonic()
        os.kill(run.rank(victim), signal.SIGKILL)
        assert run.end() == (-signal.SIGKILL, 1)[victim]
    assert time.monotonic() - start < 20
    how = ("rank 0 is gone", "rank 1 was killed by SIGKILL, its messages are above")[victim]
    assert f"error: {how}: go on" in run.said().splitlines()
