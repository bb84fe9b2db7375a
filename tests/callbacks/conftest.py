"""What all tests of the callbacks share."""

import sys
from pathlib import Path

import pytest
import torch

# pytest's importlib mode does not make tiny_runs importable, neither for the tests nor for the processes that they start.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def one_thread():
    """Compute on one thread: the networks are so small that more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
