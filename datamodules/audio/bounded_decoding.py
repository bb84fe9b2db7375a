"""Decode a recording that a stranger sent, within bounds of time, memory and length.

The decoder runs in a process of its own, which limits itself before it opens the recording and is killed when it takes too long: a
damaged or hostile file may crash or fill it, and nothing else. The recording and the waveform travel as open files that need have
no name in any folder.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from datamodules.audio.decoding import Recording, UnusableAudio, read_recording

OPEN_FILES = 64
UNUSABLE = 3  # exit status with a reason


class Bounds(NamedTuple):
    """Limits of what the decoding of one recording may take.

    Attributes:
        max_seconds: Of the beginning of the recording that are used.
        timeout: Seconds until the decoder is killed.
        memory: Bytes of address space.
    """

    max_seconds: float = 600.0
    timeout: float = 30.0
    memory: int = 2 << 30


def decode_bounded(recording: IO[bytes], bounds: Bounds) -> Recording:
    """Decode an open file to mono, as ``read_recording`` does, in a process of its own; at most ``bounds.max_seconds`` of it.

    Raises: UnusableAudio: in one line, also where the decoder crashed or exceeded its bounds.
    """
    recording.flush()
    with tempfile.TemporaryFile() as decoded:
        files = (recording.fileno(), decoded.fileno())
        numbers = [*files, bounds.max_seconds, bounds.memory, int(bounds.timeout) + 1]
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "datamodules.audio.bounded_decoding", *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=files,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OPENBLAS_NUM_THREADS": "1"},
                timeout=bounds.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnusableAudio(f"not decoded within {bounds.timeout:g} seconds") from None
        if done.returncode == UNUSABLE:
            raise UnusableAudio(json.loads(done.stdout))
        if done.returncode:
            raise UnusableAudio("the decoder failed on it: damaged, or made to fail")
        decoded.seek(0)
        sample_rate, warnings = json.loads(done.stdout)
        return Recording(np.frombuffer(decoded.read(), np.float32), sample_rate, tuple(warnings))


def limit_process(memory: int, cpu_seconds: int) -> None:
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: memory,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for what, most in limits.items():
        resource.setrlimit(what, (most, most))


def main(recording: int, decoded: int, max_seconds: float, memory: int, cpu_seconds: int) -> int:
    """Decode the open file ``recording`` into the open file ``decoded``; print its sample rate and warnings, or why there is none."""
    limit_process(memory, cpu_seconds)
    try:
        found = read_recording(Path(f"/proc/self/fd/{recording}"), max_seconds=max_seconds)
    except UnusableAudio as error:
        sys.stdout.write(json.dumps(str(error)))
        return UNUSABLE
    except MemoryError:
        sys.stdout.write(json.dumps(f"decoding takes more than {memory >> 20} MB of memory"))
        return UNUSABLE
    with open(decoded, "wb") as file:
        found.waveform.astype(np.float32, copy=False).tofile(file)
    sys.stdout.write(json.dumps([found.sample_rate, found.warnings]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3]), float(sys.argv[3]), *map(int, sys.argv[4:6])))
