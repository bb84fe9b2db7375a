"""The table of measurements, as text and as JSON."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.measurement import Measurement

HEAD = ("stage", "ours", "peer", "peer / ours", "limit", "ours / limit", "target", "met", "note")
VERDICTS = {True: "yes", False: "NO", None: ""}


def shown_time(name: str, seconds: float | None) -> str:
    """Format a time with its unit, and whose it is.

    >>> shown_time("librosa", 0.0123), shown_time("", 12.3), shown_time("", None)
    ('12.3 ms (librosa)', '12.3 s', '')
    """
    if seconds is None:
        return ""
    value = f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
    return f"{value} ({name})" if name else value


def cells(line: Measurement) -> tuple[str, ...]:
    """Return the cells of a row."""
    targets = []
    if line.least_speedup is not None:
        targets.append(f"peer / ours >= {line.least_speedup:g}")
    if line.most_overhead is not None:
        targets.append(f"ours / limit <= {line.most_overhead:g}")
    ratios = ["" if ratio is None else f"{ratio:.3g}" for ratio in (line.speedup, line.overhead)]
    return (
        *(line.stage, shown_time("", line.ours), shown_time(line.peer_name, line.peer), ratios[0]),
        *(shown_time(line.limit_name, line.limit), ratios[1], ", ".join(targets), VERDICTS[line.met], line.note),
    )


def as_text(lines: Iterable[Measurement]) -> str:
    """Return rows as a table in Markdown, padded for the screen."""
    rows: Sequence[tuple[str, ...]] = [HEAD, *map(cells, lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded) + "\n"


def surroundings() -> dict[str, str | int]:
    """Describe the machine and the state of the code of a measurement."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"commit": commit, "cores": os.cpu_count() or 1, "machine": platform.machine(), "gpu": gpu, **versions}


def write_json(path: Path, lines: Iterable[Measurement]) -> None:
    """Write rows as JSON."""
    path.parent.mkdir(exist_ok=True)
    content = {"surroundings": surroundings(), "lines": [{**asdict(line), "met": line.met} for line in lines]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
