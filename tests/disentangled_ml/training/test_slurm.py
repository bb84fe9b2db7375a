"""The job templates on a real cluster, which may be of one node: signalled, requeued, gone on with; a rank killed; parts merged.

Where there is none (``sinfo`` does not answer), the tests of the cluster are skipped.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.shards.index import ShardIndex
from datamodules.shards.tar import read_infos
from disentangled_ml.files import read_json
from disentangled_ml.search.catalogue import read_catalogue
from disentangled_ml.training import slurm
from disentangled_ml.training.run_folder import RUN_DIR_VARIABLE
from tests.conftest import write_tiny_shards
from tests.disentangled_ml.catalogues import save_checkpoint

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 2
TRACKS = 3200  # of training: each of two ranks does 400 batches an epoch, seconds more than a signal needs to arrive
START = 120  # seconds that a job may take to begin and to train its first epoch on a busy machine
HOLD = 240  # seconds within which a requeued job begins again: SLURM holds it for two minutes (cred_expire of AuthInfo)
TOLERANCE = 1e-6  # of two processes: they add in another order


def has_cluster() -> bool:
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def outside_jobs() -> dict[str, str]:
    """Give the environment of a login shell: nothing of another run or job in it."""
    of_others = ("WANDB_", "SLURM_JOB", "SLURM_STEP", "SLURM_NTASKS", RUN_DIR_VARIABLE)
    return {**{k: v for k, v in os.environ.items() if not k.startswith(of_others)}, "OMP_NUM_THREADS": "1"}


def ask(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=outside_jobs(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout.strip()


def wait_for(what: Callable[[], object], seconds: float, log: Path | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s; the log: {log.read_text() if log and log.exists() else None}")
        time.sleep(0.2)


def job(number: str) -> dict[str, str]:
    """Give what SLURM knows of a job."""
    return dict(re.findall(r"(\S+?)=(\S*)", ask("scontrol", "show", "job", number)))


@pytest.fixture
def submit(tmp_path) -> Iterator[Callable[..., str]]:
    """Submit a template as a user does, and cancel what is still there at the end: ``submit("train", [options], [arguments])``."""
    if not has_cluster():
        pytest.skip("no SLURM cluster answers sinfo")
    submitted = []

    def submit(template: str, options: list[str], arguments: list[str], python: object = sys.executable) -> str:
        options = [*options, f"--output={tmp_path}/log", f"--export=ALL,PYTHON={python}"]
        submitted.append(ask("sbatch", "--parsable", *options, f"conf/slurm/{template}.sbatch", *arguments))
        return submitted[-1]

    yield submit
    if submitted:
        ask("scancel", "--quiet", *submitted)


TWO_TASKS = ["--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=10"]


@pytest.fixture
def arguments(tiny_arguments, tmp_path) -> list[str]:
    shards = f"data.shards={write_tiny_shards(tmp_path / 'shards', train=TRACKS, val=16, test=20)}"
    name = "run_name=run"
    return [*tiny_arguments, shards, f"runs={tmp_path}", name, "wandb.mode=offline", "data.workers=1"]


@pytest.mark.slurm
@pytest.mark.slow
def test_a_signalled_job_is_requeued_and_goes_on_within_the_epoch(submit, arguments, tmp_path):
    log = tmp_path / "log"
    number = submit("train", TWO_TASKS, [*arguments, f"training.max_epochs={EPOCHS}"])
    wait_for_second_epoch(log)
    ask("scancel", "--signal=USR1", number)
    wait_for(lambda: job(number)["Restarts"] == "1", 60, log)

    uninterrupted = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"training.max_epochs={EPOCHS}"]
    ask(sys.executable, "-m", "disentangled_ml.train", *arguments, *uninterrupted, "run_name=whole")
    wait_for(
        lambda: job(number)["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), HOLD + START, log
    )
    said = log.read_text()
    assert job(number)["JobState"] == "COMPLETED", said
    before, _, after = said.partition(f"SLURM job {number} is requeued")
    assert "Restored all states" in after
    assert "Restored all states" not in before
    (step,) = re.findall(r"SIGUSR1: saved step (\d+) in", said)
    checkpoints = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("run", "whole")
    ]
    steps = [checkpoint["global_step"] for checkpoint in checkpoints]
    assert steps[0] == steps[1]
    assert int(step) % (steps[0] // EPOCHS), "the signal did not come within an epoch"
    run, whole = (read_json(tmp_path / name / "metrics.json") for name in ("run", "whole"))
    assert run.pop("train/seconds") > 0
    assert run == pytest.approx({key: whole[key] for key in whole if key != "train/seconds"}, abs=TOLERANCE)
    for name, weight in checkpoints[0]["state_dict"].items():
        torch.testing.assert_close(weight, checkpoints[1]["state_dict"][name], rtol=TOLERANCE, atol=TOLERANCE)
    wandb_runs = [path.name.rpartition("-")[2] for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert wandb_runs == [(tmp_path / "run" / "wandb_run_id").read_text()] * 2
    assert not list((tmp_path / "run").glob("hpc_ckpt*"))


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancelled", "rank killed"])
def test_a_job_that_is_ended_ends_as_a_whole(submit, arguments, tmp_path, how):
    """Cancelled, it has saved; where a rank is killed, the other one does not wait for it."""
    log = tmp_path / "log"
    number = submit("train", TWO_TASKS, [*arguments, "training.max_epochs=9999", "training.lr_reductions=999"])
    wait_for_second_epoch(log)
    if how == "cancelled":
        ask("scancel", number)
        wait_for(lambda: job(number)["JobState"] == "CANCELLED", 60, log)
        wait_for(lambda: "SIGTERM: saved step" in log.read_text(), 10, log)
        return
    os.kill(process_of_rank(number, 1), signal.SIGKILL)
    wait_for(lambda: job(number)["JobState"] == "FAILED", 60, log)
    assert job(number)["Restarts"] == "0"


def wait_for_second_epoch(log: Path) -> None:
    """Wait until the first epoch is saved, which is the last that it does, and a little: the next has 400 batches."""
    saved = log.parent / "run" / "checkpoints" / "last.ckpt"
    wait_for(lambda: saved.exists() and log.exists() and "Epoch 0: " in log.read_text(), START, log)
    time.sleep(2)


def process_of_rank(number: str, rank: int) -> int:
    """Find the process of a rank of a job; those that it has started have its environment, but not its command."""
    wanted = {f"SLURM_JOB_ID={number}", f"SLURM_PROCID={rank}"}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((path / "environ").read_text().split("\0"))
            if wanted <= environment and "disentangled_ml.train" in (path / "cmdline").read_text():
                return int(path.name)
        except OSError:  # it has ended meanwhile
            continue
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.slurm
@pytest.mark.slow
def test_parts_are_made_by_an_array_and_merged_by_a_job_that_depends_on_it(submit, tmp_path):
    arguments = [f"manifest={write_catalogue(tmp_path)}", "tempo=manifest", "chunk_frames=16", "tracks_per_shard=4"]
    parts = submit("prepare", ["--array=1-3", "--time=10"], [*arguments, f"out={tmp_path}/parts"])
    merge = submit("prepare", [f"--dependency=afterok:{parts}", "--time=10"], [*arguments, f"out={tmp_path}/parts"])
    ask(sys.executable, "-m", "disentangled_ml.prepare", *arguments, f"out={tmp_path}/once", "workers=1")
    wait_for(lambda: job(merge)["JobState"] == "COMPLETED", 2 * START, tmp_path / "log")
    made, once = (ShardIndex.read(tmp_path / name) for name in ("parts", "once"))
    for split in ("train", "val", "test"):
        tracks = read_infos(made, split)
        assert sorted(tracks) == sorted(read_infos(once, split))
        assert tracks
    rejected = [(tmp_path / name / "rejected.csv").read_text() for name in ("parts", "once")]
    assert rejected[0] == rejected[1]
    assert "broken.wav" in rejected[0]


# Stands for the interpreter: the first start of the first part ends its work after a batch, and waits to be killed.
HALTING = """#!{python}
import os, signal, sys
from disentangled_ml.__main__ import main
from disentangled_ml.search.build import EmbeddedStore

def halt(store, batch, finished, save=EmbeddedStore.save):
    save(store, batch, finished)
    if (os.environ.get("SLURM_ARRAY_TASK_ID"), os.environ.get("SLURM_RESTART_COUNT", "0")) == ("1", "0"):
        signal.pause()

EmbeddedStore.save = halt
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.slurm
@pytest.mark.slow
def test_a_part_that_is_killed_is_requeued_and_goes_on_and_all_are_merged(submit, tiny_shards, tmp_path):
    (tmp_path / "python").write_text(HALTING.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    out, arguments = tmp_path / "parts", [f"checkpoint={save_checkpoint(tmp_path / 'x.ckpt')}", f"shards={tiny_shards}"]
    parts = submit("embed", ["--array=1-2", "--time=10"], [*arguments, f"out={out}"], tmp_path / "python")
    after = [f"--dependency=afterok:{parts}", "--kill-on-invalid-dep=yes", "--time=10"]
    merge = submit("embed", after, [*arguments, f"out={out}"])
    first = out / "pieces" / "train-000000.npz"
    wait_for(first.is_file, START, tmp_path / "log")
    made = first.stat()
    ask("scontrol", "requeue", f"{parts}_1")
    wait_for(lambda: job(merge)["JobState"] == "COMPLETED", HOLD + 2 * START, tmp_path / "log")
    assert job(f"{parts}_1")["Restarts"] == "1"
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    ask(sys.executable, "-m", "disentangled_ml", "embed", *arguments, f"out={tmp_path}/once", "accelerator=cpu")
    parted, once = (read_catalogue(tmp_path / name) for name in ("parts", "once"))
    assert parted.tracks(range(len(parted))) == once.tracks(range(len(once)))
    np.testing.assert_allclose(parted.embedding, once.embedding, atol=TOLERANCE)


def write_catalogue(folder: Path) -> Path:
    """Write recordings of noise, one of them broken, and give their manifest."""
    rows = ["track_id,path,split,genre"]
    for i in range(12):
        soundfile.write(folder / f"{i}.wav", np.random.default_rng(i).uniform(-0.5, 0.5, 12000), 22050)
        rows.append(f"t{i},{i}.wav,{('train', 'val', 'test')[i % 3]},{('jazz', 'rock')[i % 2]}")
    (folder / "broken.wav").write_bytes(b"no sound")
    (folder / "manifest.csv").write_text("\n".join([*rows, "broken,broken.wav,train,jazz"]) + "\n")
    return folder / "manifest.csv"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, "7"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}, "5_2"),
    ],
    ids=["outside", "in an allocation", "srun", "array"],
)
def test_the_job_is_named_as_scontrol_knows_it(monkeypatch, variables, expected):
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert slurm.job_id() == expected


def test_a_requeue_that_fails_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert re.match(r"SLURM job 7 is not requeued: scontrol does not start \(.*No such file", slurm.requeue("7"))
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Invalid job id' >&2\nexit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    assert slurm.requeue("7") == "SLURM job 7 is not requeued: Invalid job id"


def made(*arguments: str) -> list[list[str]]:
    """Give the commands that ``make slurm`` would run, as words."""
    there = [f"--old-file={name}" for name in (".venv/ready", "shards/demo/index.json", "data/demo/manifest.csv")]
    lines = ask("make", "--no-print-directory", "-n", *there, "slurm", *arguments).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def test_make_submits_a_training():
    _, command = made("NAME=n", "NODES=2", "GPUS=4", "CPUS=6", "TIME=1:00:00", "EXPERIMENT=icassp2020", "DATA=a b", "ARGS=seed=1",
                      "SBATCH=--partition=p")  # fmt: skip
    options = ["--job-name=n", "--output=runs/n/slurm/%j.log", "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"]
    assert command[0] == "sbatch"
    assert {*options, "--cpus-per-task=6", "--time=1:00:00", "--partition=p"} <= set(command)
    at = command.index("conf/slurm/train.sbatch")
    assert command[at + 1 :] == ["run_name=n", "experiment=icassp2020", "data=shards", "data.shards=a b", "seed=1"]
    _, cpus = made("GPUS=0")
    assert "--ntasks-per-node=1" in cpus
    assert not [word for word in cpus if word.startswith("--gpus")]


def test_make_submits_parts_and_their_merging():
    """``sbatch`` is asked for the array's id, which the second job depends on; here its answer is not known."""
    _, command = made(
        "JOB=prepare", "NAME=n", "PARTS=7", "CPUS=6", "MANIFEST=a b.csv", "OUT=out", "ARGS=tempo=manifest"
    )
    assert command[0].startswith("parts=$(sbatch")
    assert {"--array=1-7", "--cpus-per-task=6", "--output=out/slurm/%A_%a.log"} <= set(command)
    assert {"--dependency=afterok:${parts%%;*}", "--kill-on-invalid-dep=yes", "--output=out/slurm/%j.log"} <= set(
        command
    )
    assert command.count("manifest=a b.csv") == command.count("conf/slurm/prepare.sbatch") == 2
    corpus = made("JOB=prepare", "DATA=msd", "ARGS=corpus.metadata=m corpus.audio=a")[1]
    assert "--output=shards/msd/slurm/%A_%a.log" in corpus
    at = corpus.index("conf/slurm/prepare.sbatch")
    assert corpus[at + 1 : at + 4] == ["data=msd", "corpus.metadata=m", "corpus.audio=a)"]


def test_make_submits_parts_to_embed_on_gpus_and_their_merging_on_none():
    given = ("JOB=embed", "NAME=n", "PARTS=7", "CHECKPOINT=a b.ckpt", "MANIFEST=m.csv", "INDEX=out", "ARGS=split=val")
    tested, folder, submitted = made(*given, "GPUS=2")
    assert tested[:3] == ["test", "-n", "a b.ckpt"]
    assert folder == ["mkdir", "-p", "out/slurm"]
    array, merge = submitted[: submitted.index("&&")], submitted[submitted.index("&&") :]
    assert {"--array=1-7", "--gpus-per-node=1", "--output=out/slurm/%A_%a.log"} <= set(array)
    assert {"--dependency=afterok:${parts%%;*}", "--kill-on-invalid-dep=yes", "--output=out/slurm/%j.log"} <= set(merge)
    assert not [word for word in merge if word.startswith("--gpus")]
    arguments = ["checkpoint=a b.ckpt", "manifest=m.csv", "out=out", "split=val"]
    assert merge[merge.index("conf/slurm/embed.sbatch") + 1 :] == arguments
    cpus = made(*given, "GPUS=0", "DATA=shards/x")[-1]
    assert not [word for word in cpus if word.startswith("--gpus")]
    assert "shards=shards/x" in cpus
