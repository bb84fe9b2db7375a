"""Make ``tiny_runs`` importable, by the tests and by the processes that they start (pytest's importlib mode does not)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
