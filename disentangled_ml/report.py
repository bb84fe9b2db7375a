"""What a command shows of an evaluation report, as text."""

from __future__ import annotations

from typing import Any


def accuracy_cell(entry: dict[str, Any]) -> str:
    """Show one accuracy with its interval.

    >>> accuracy_cell({"accuracy": 0.712, "ci95": [0.68, 0.74], "n": 1000})
    '0.712 [0.680, 0.740]'
    >>> accuracy_cell({"accuracy": None, "ci95": [None, None], "n": 0})
    '-'
    """
    if entry["accuracy"] is None:
        return "-"
    low, high = entry["ci95"]
    return f"{entry['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def accuracy_table(report: dict[str, Any]) -> str:
    """Show a report as a table: a line per condition, in its subspace and in all dimensions."""
    names = [name for name in report["sub"] if name != "mean"]
    rows = [("condition", "own subspace", "all dimensions", "triplets")]
    for name in names:
        sub, whole = report["sub"][name], report["all"][name]
        rows.append((name, accuracy_cell(sub), accuracy_cell(whole), str(sub["n"])))
    means = [report[space]["mean"] for space in ("sub", "all")]
    rows.append(("mean", *("-" if mean is None else f"{mean:.3f}" for mean in means), ""))
    rows.append(("track", "", accuracy_cell(report["track"]), str(report["track"]["n"])))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    skipped = {name: n for name, n in report["skipped"].items() if n}
    if skipped:
        lines.append("skipped for missing tracks: " + ", ".join(f"{n} {name}" for name, n in skipped.items()))
    return "\n".join(["triplet accuracy (chance 0.5) with 95 % intervals", "", *lines])
