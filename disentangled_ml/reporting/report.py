"""What a command shows of an evaluation report, as text."""

from __future__ import annotations

from collections.abc import Sequence
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


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the columns of a table.

    >>> aligned([("a", "b"), ("long", "c")])
    ['a     b', 'long  c']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def number(value: float | None) -> str:
    """Show a number.

    >>> number(0.5), number(None)
    ('0.500', '-')
    """
    return "-" if value is None else f"{value:.3f}"


def retrieval_table(report: dict[str, Any]) -> str:
    """Show what is retrieved and predicted: Recall@1 and @8, and linear probes where they were fitted."""
    recall, probe = report["recall"], report.get("probe", {})
    header = ("condition", "Recall@1", "chance", "Recall@8", "probe ROC-AUC", "PR-AUC")
    rows = [header if probe else header[:4]]
    for name, entry in recall["sub"].items():
        row = (name, number(entry["1"]), number(recall["chance"][name]["1"]), number(entry["8"]))
        found = probe.get(name, {"sub": {"roc_auc": None, "pr_auc": None}})["sub"]
        rows.append((*row, number(found["roc_auc"]), number(found["pr_auc"])) if probe else row)
    track = f"track Recall@1: {accuracy_cell(report['track_recall'])}"
    return "\n".join(["retrieval and labels, own subspace", "", *aligned(rows), track])


def accuracy_table(report: dict[str, Any]) -> str:
    """Show a report as a table: a line per condition, in its subspace and in all dimensions."""
    names = [name for name in report["sub"] if name != "mean"]
    rows = [("condition", "own subspace", "all dimensions", "triplets")]
    for name in names:
        sub, whole = report["sub"][name], report["all"][name]
        rows.append((name, accuracy_cell(sub), accuracy_cell(whole), str(sub["n"])))
    means = [report[space]["mean"] for space in ("sub", "all")]
    rows.append(("mean", *map(number, means), ""))
    rows.append(("track", "", accuracy_cell(report["track"]), str(report["track"]["n"])))
    lines = aligned(rows)
    skipped = {name: n for name, n in report["skipped"].items() if n}
    if skipped:
        lines.append("skipped for missing tracks: " + ", ".join(f"{n} {name}" for name, n in skipped.items()))
    return "\n".join(["triplet accuracy (chance 0.5) with 95 % intervals", "", *lines])
