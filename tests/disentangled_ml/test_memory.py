"""What is freed is given out again without new pages from the system."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = """
import resource
import sys
import numpy as np
from disentangled_ml.memory import keep_freed_memory

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
@pytest.mark.parametrize(("how", "few"), [("keep", True), ("much", True), ("as ever", False)])
def test_freed_memory_is_kept(how, few):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert (int(done.stdout) < 50) == few, done.stdout
