"""Loading processes leave alone the program that starts them; one that dies is named, whenever that is noticed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.batches.loaders import StreamLoader

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
