"""Loading processes leave alone the program that starts them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
print("imported as", __name__, flush=True)
if __name__ == "__main__":
    from datamodules.loaders import StreamLoader
    print(list(StreamLoader([1, 2, 3], workers=2)), bool(__file__))
"""


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
