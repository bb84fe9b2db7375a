"""What all tests of the callbacks share."""

import sys
from pathlib import Path

import pytest

# pytest's importlib mode does not make tiny_runs importable, neither for the tests nor for the processes that they start.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def quick(one_thread):
    """Take one thread in all tests of the callbacks."""
