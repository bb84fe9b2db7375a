"""Measure every stage beside a peer and its limit: ``python -m benchmarks.run [stages=streaming,loss] [device=cpu|cuda]``.

One table, also written to ``bench/results.json``. Tasks are timed in turn and the median of their ratios counts, since absolute times
are noise on shared machines. ``device=cuda`` measures what a GPU does. Growth is a program of its own: ``python -m benchmarks.growth``.
"""

import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks import evaluation, gpu, loss, preparation, step, streaming, tempo
from benchmarks.table import as_text, write_json

DEVICES = ("cpu", "cuda")
ON_THE_CPU = {"streaming": streaming.measure, "preparation": preparation.measure, "tempo": tempo.measure}
ON_A_DEVICE = {"step": step.measure, "loss": loss.measure, "evaluation": evaluation.measure, "gpu": gpu.measure}


def main(stages: str = "", device: str = "cpu") -> None:
    """Measure, print and save the results.

    Raises:
        ValueError: for an unknown stage or device, or a GPU that is not there.
    """
    if device not in DEVICES:
        raise ValueError(f"device={device} is unknown: choose from {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch finds no GPU here, leave it out to measure on the CPU")
    known = {name: partial(measure, device) for name, measure in ON_A_DEVICE.items()}
    if device == "cpu":
        known = {**ON_THE_CPU, **known}
    chosen = stages.split(",") if stages else list(known)
    if not set(chosen) <= set(known):
        raise ValueError(f"stages={stages}: choose from {', '.join(known)} for device={device}")
    lines = []
    for name in chosen:
        found = known[name]()
        sys.stderr.write(as_text(found) + "\n")
        lines += found
    sys.stdout.write(as_text(lines))
    write_json(Path("bench") / "results.json", lines)


if __name__ == "__main__":
    if not all("=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    try:
        main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
    except (TypeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
