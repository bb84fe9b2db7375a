"""Memory that is freed is kept for what is asked for next, instead of going back to the system.

glibc hands large blocks back at once (``mmap``), and the system gives new ones page by page, each filled with zeros: for a training
step on a CPU, whose activations are hundreds of megabytes, that takes as long as the arithmetic. Kept, a step of 64 chunks took
152 to 201 ms instead of 301 to 363 (``python -m benchmarks.step``, two cores, five runs). A process then holds the most that it
has ever needed.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
NEVER = -1  # the largest number, 2 GB, would still hand back what is above it: half a second of system time at a time


def keep_freed_memory() -> bool:
    """Have this process keep what it frees; where there is no glibc nothing is done, and False is given."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, NEVER) == 1
