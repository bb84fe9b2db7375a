"""Processes that work on recordings end with the program, without a word."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Python itself wakes the thread of a pool at the exit, and looks before that whether it is already closed: here it takes its time
# between the two.
PROGRAM = """
import time
from concurrent.futures.process import _ThreadWakeup
from datamodules.shards.workers import Workers

def wakeup(self):
    if not self._closed:
        time.sleep(0.5)
        self._writer.send_bytes(b"")

with Workers(1, list) as workers:
    print(list(workers.map([[1, 2], [3]])))
    _ThreadWakeup.wakeup = wakeup
"""


@pytest.mark.slow
def test_a_program_that_ends_with_its_processes_prints_no_traceback():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[1, 2, 3]\n", "")
