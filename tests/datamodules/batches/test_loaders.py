"""Loading processes leave alone the program that starts them; one that dies is named, whenever that is noticed.

One that cannot hand over a batch ends the loading, with the cause and the way out: nothing waits for what is lost.
"""

import os
import re
import signal
import subprocess
import sys
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from datamodules.batches.loaders import StreamLoader, report_lost
from datamodules.shards.index import ShardsError

# Loads batches of seven tensors of 120 KB under a limit of the system's: RLIMIT_FSIZE bounds files in shared memory, too.
LIMITED = """
import resource, sys
import numpy as np
from datamodules.batches.loaders import StreamLoader
limit, most = sys.argv[1:]
resource.setrlimit(getattr(resource, limit), (int(most), int(most)))
try:
    list(StreamLoader([[np.ones(15000)] * 7] * 9, workers=2))
except OSError as error:
    print(error)
"""
ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
print("imported as", __name__, flush=True)
if __name__ == "__main__":
    from datamodules.batches.loaders import StreamLoader
    print(list(StreamLoader([1, 2, 3], workers=2)), bool(__file__))
"""


@pytest.mark.slow
def test_loading_processes_do_not_import_the_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == ["imported as __main__", "[1, 2, 3] True"]


@pytest.mark.slow
@pytest.mark.parametrize("begun", [True, False], ids=["within an epoch", "between epochs"])
def test_a_loading_process_that_dies_is_named(begun):
    """Between epochs torch notices it while it makes the next iterator."""
    loader = StreamLoader(list(range(50)), workers=1)
    batches = iter(loader)
    seen = [next(batches)] if begun else list(batches)
    os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"^a loading process is gone \(.*\): .*data\.workers.*resume=true goes on$"):
        list(batches if begun else loader)
    assert seen == list(range(len(seen)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "most", "message"),
    [
        (
            "RLIMIT_FSIZE",
            60_000,
            r"the shared memory is too small \(.*\): make /dev/shm larger .*data\.workers=0.*resume=true",
        ),
        (
            "RLIMIT_NOFILE",
            40,
            r"need more open files than the 40 that are allowed \(.*\): allow more \(ulimit -n 4096\)",
        ),
    ],
    ids=["shared memory", "open files"],
)
def test_what_the_system_does_not_allow_ends_the_loading_by_name(limit, most, message):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, limit, str(most)],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert re.search(message, done.stdout), done.stdout + done.stderr


class NeverSent:
    """A batch that cannot be handed over."""

    def __reduce__(self):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: Resource temporarily unavailable (11)"
        )


class Refusing:
    """A data set without a legal batch."""

    def __getitem__(self, number: int):
        raise ShardsError("shard a.tar is damaged: prepare it anew")

    def __len__(self) -> int:
        return 1


def test_a_batch_that_cannot_be_sent_is_replaced_by_the_error():
    queue = Queue(ctx=get_context("forkserver"))
    queue._on_queue_feeder_error = partial(report_lost, queue)
    queue.put((3, NeverSent()))
    number, failure = queue.get(timeout=60)
    assert number == 3
    with pytest.raises(OSError, match="shared memory is too small"), StreamLoader([1], workers=1).failures_described():
        failure.reraise()


@pytest.mark.slow
def test_an_error_of_the_stream_in_a_loading_process_is_told_in_its_own_words():
    with pytest.raises(ShardsError, match=r"^shard a.tar is damaged: prepare it anew$"):
        list(StreamLoader(Refusing(), workers=1))
