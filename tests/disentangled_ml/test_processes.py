"""Jobs side by side: what fails is named, what is interrupted ends; memory that is freed is given out again."""

import os
import subprocess
import sys
import time
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path

import pytest

from disentangled_ml import processes
from disentangled_ml.config import ConfigError
from disentangled_ml.files import locked
from disentangled_ml.processes import Job, own_environment, run_jobs, slots

ROOT = Path(__file__).resolve().parents[2]
FAULTS = """
import resource
import sys
import numpy as np
from disentangled_ml.processes import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(10_000_000)  # 80 MB: 20,000 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] != "as ever":
    assert keep_freed_memory()
faults()
if sys.argv[1] == "much":
    np.empty(2_500_000_000, np.uint8)  # none of it is touched
print(faults())
"""


def job(folder: Path, name: str, code: str) -> Job:
    return Job(name, [sys.executable, "-c", code], folder / f"{name}.log")


def run(folder: Path, given: list[Job], environments: list[dict[str, str]]) -> list[str]:
    with locked(folder) as lock:
        return run_jobs(given, environments, lock)


def test_failed_jobs_are_named_and_the_others_end(tmp_path):
    codes = {"good": "print('out')", "bad": "import sys; sys.exit('why')", "last": "open('done', 'w')"}
    given = [job(tmp_path, name, f"import os; os.chdir({str(tmp_path)!r}); {code}") for name, code in codes.items()]
    assert run(tmp_path, given, [{}]) == ["bad"]
    assert (tmp_path / "good.log").read_text() == "out\n"
    assert (tmp_path / "bad.log").read_text() == "why\n"
    assert (tmp_path / "done").exists()


def test_no_jobs():
    assert run_jobs([], [{}], 0) == []


@pytest.mark.parametrize("n", [1, 2, 3])
def test_as_many_run_at_a_time_as_there_are_slots_each_with_its_own(tmp_path, n):
    code = "import os, time; print(os.environ['SLOT'], time.monotonic()); time.sleep(0.3); print(time.monotonic())"
    given = [job(tmp_path, str(i), code) for i in range(4)]
    assert run(tmp_path, given, [{"SLOT": str(slot)} for slot in range(n)]) == []
    spans = []
    for one in given:
        slot, began, ended = one.log.read_text().split()
        spans.append((slot, float(began), float(ended)))
    at_a_time = [sum(began <= moment < ended for _, began, ended in spans) for _, moment, _ in spans]
    assert max(at_a_time) <= n
    assert {slot for slot, _, _ in spans} == {str(slot) for slot in range(n)}
    for slot in range(n):  # never two in one
        own = sorted((began, ended) for found, began, ended in spans if found == str(slot))
        assert all(ended <= began for (_, ended), (began, _) in pairwise(own))


def test_whatever_ends_the_jobs_ends_those_that_run(tmp_path, monkeypatch):
    started: list[subprocess.Popen] = []
    start = processes.start

    def record(*arguments) -> subprocess.Popen:
        started.append(start(*arguments))
        return started[-1]

    def interrupt(_: list[Future]) -> None:
        while len(started) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "start", record)
    monkeypatch.setattr(processes, "as_completed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [job(tmp_path, str(i), "import time; time.sleep(60)") for i in range(3)], [{}, {}])
    assert len(started) == 2
    assert all(process.poll() is not None and process.returncode != 0 for process in started)


def test_jobs_take_themselves_for_no_part_of_another(monkeypatch):
    others = ("DISENTANGLED_ML_RUN_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "SLURM_JOB_ID", "LOCAL_RANK", "WORLD_SIZE")
    for name in others:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WANDB_API_KEY", "kept")
    environment = own_environment()
    assert not set(others) & set(environment)
    assert environment["WANDB_API_KEY"] == "kept"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("n_jobs", "gpus", "cores", "expected"),
    [
        (None, [], 3, [{"OMP_NUM_THREADS": "1"}] * 3),
        (2, [], 5, [{"OMP_NUM_THREADS": "2"}] * 2),
        (8, [], 2, [{"OMP_NUM_THREADS": "1"}] * 8),
        (None, ["2", "5"], 8, [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}]),
        (3, ["0", "1"], 8, [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "010"]),
    ],
)
def test_slots(n_jobs, gpus, cores, expected):
    assert slots(n_jobs, gpus, cores) == expected


def test_children_hold_the_folder_of_a_killed_parent(tmp_path):
    with locked(tmp_path) as lock:
        child = processes.start(job(tmp_path, "child", "import time; time.sleep(60)"), {}, lock)
    try:
        with pytest.raises(ConfigError, match="or by what a killed one left"), locked(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()
    with locked(tmp_path):
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
@pytest.mark.parametrize(("how", "few"), [("keep", True), ("much", True), ("as ever", False)])
def test_freed_memory_is_kept(how, few):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert (int(done.stdout) < 50) == few, done.stdout
