"""Reports of systems and seeds to one comparison, and its forms: markdown, CSV, JSON.

A *cell* is the report of one system and seed (see ``table.py``); a *row* a system in a space, ``all`` dimensions or the
``sub``-dimensions of each condition. With one seed an accuracy comes with its 95 % interval over anchor tracks, with several
with the mean and the standard deviation over the seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from disentangled_ml.files import atomic_write, write_json, write_text
from disentangled_ml.reporting.published import published
from disentangled_ml.structures import TRACK

SPACES = {"all": "All dimensions", "sub": "Sub-dimensions of each condition"}
SPECIALISED = "specialised"
ROW_KEYS = (  # of a row, beside its conditions, which therefore cannot be called so
    *("system", "title", "space", "parameters", "seconds", "disentanglement", "matrix"),
    *("recall", "chance_recall", "track_recall", "probe", "paper"),
)
CELL_KEYS = (
    *("system", "seed", "has_subspaces", "parameters", "seconds", "all", "sub", TRACK),
    *("disentanglement", "matrix", "recall", "track_recall", "probe"),
)
TITLES = {
    "random": "random vector",
    "bandwidth": "bandwidth only",
    "mfcc": "MFCC mean + deviation",
    "vq": "MFCC-VQ",
    "vq_soft": "MFCC-VQ, soft",
    "vq_sqrt": "MFCC-VQ, square root",
    "vq_soft_sqrt": "MFCC-VQ, soft, square root",
    "track_only": "track only",
    "category": "category (no masks)",
    "category_track": "category + track reg.",
    "disentangled": "category + dis.",
    "disentangled_track": "category + dis. + track reg.",
    "specialised": "specialised networks",
    "learned_random": "learned masks, random start",
    "learned_disjoint": "learned masks, disjoint start",
    "proxy": "proxies",
    "classification": "classification",
    "fixed_mel": "fixed mel",
    "trainable_mel": "trainable mel",
    "trainable_stft": "trainable STFT and mel",
    "learned_bank": "learned filter bank",
}


def pool_seeds(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pool the accuracies of several seeds; that of a single one stays as it is.

    >>> pool_seeds([{"accuracy": 0.5, "ci95": [0.4, 0.6], "n": 9}, {"accuracy": 0.7, "ci95": [0.6, 0.8], "n": 9}])
    {'accuracy': 0.6, 'deviation': 0.1414, 'n': 9}
    """
    known = [entry["accuracy"] for entry in entries if entry["accuracy"] is not None]
    if len(known) < 2:
        return dict(entries[0])
    return {"accuracy": round(mean(known), 6), "deviation": round(stdev(known), 4), "n": entries[0]["n"]}


def average(values: Iterable[float | None]) -> float | None:
    """Average what is known; None where nothing is.

    >>> average([0.25, None, 0.75]), average([None])
    (0.5, None)
    """
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def mean_entry(cell: dict[str, Any], space: str, names: Sequence[str]) -> dict[str, Any]:
    """Give the mean over the conditions like an accuracy."""
    n = sum(cell[space][name]["n"] for name in names)
    return {"accuracy": cell[space]["mean"], "ci95": cell["mean_ci95"][space], "n": n}


def make_row(cells: Sequence[dict[str, Any]], space: str, names: Sequence[str]) -> dict[str, Any]:
    """Make the row of a system in a space from the cells of its seeds; what is of all dimensions stands in ``all`` alone."""
    first = cells[0]
    row = {
        "system": first["system"],
        "title": TITLES.get(first["system"], first["system"]),
        "space": space,
        **{name: pool_seeds([cell[space][name] for cell in cells]) for name in names},
        "mean": pool_seeds([mean_entry(cell, space, names) for cell in cells]),
        TRACK: pool_seeds([cell[TRACK] for cell in cells]) if space == "all" else None,
        "parameters": first["parameters"],
        "seconds": average(cell["seconds"] for cell in cells),
        "disentanglement": average(cell["disentanglement"] for cell in cells) if first["has_subspaces"] else None,
        "matrix": {i: {j: average(cell["matrix"][i][j] for cell in cells) for j in names} for i in names},
        "recall": {name: average(cell["recall"][space][name]["1"] for cell in cells) for name in names},
        "chance_recall": {name: first["recall"]["chance"][name]["1"] for name in names},
        "track_recall": pool_seeds([cell["track_recall"] for cell in cells]),
        "probe": {
            name: {key: average(cell["probe"][name][space][key] for cell in cells) for key in ("roc_auc", "pr_auc")}
            for name in first["probe"]
        },
        "paper": published(space, first["system"], names),
    }
    return row if first["system"] != SPECIALISED else {**row, "track_recall": None}


def assemble(cells: Sequence[dict[str, Any]], names: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Assemble the comparison: rows in all dimensions, then those in sub-dimensions of the systems that have some.

    Of the specialised networks only the sub-dimensions count: side by side they are no system of their own.
    """
    by_system: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        by_system.setdefault(cell["system"], []).append(cell)
    rows = [make_row(found, "all", names) for system, found in by_system.items() if system != SPECIALISED]
    rows += [make_row(found, "sub", names) for found in by_system.values() if found[0]["has_subspaces"]]
    return {"columns": [*names, "mean", TRACK], "rows": rows, "settings": settings}


def accuracy_text(entry: dict[str, Any] | None) -> str:
    """Show an accuracy with its interval or deviation.

    >>> accuracy_text({"accuracy": 0.6, "deviation": 0.0123, "n": 9}), accuracy_text({"accuracy": None, "n": 0})
    ('0.600 ± 0.012', '-')
    >>> accuracy_text({"accuracy": 0.6, "ci95": [0.55, 0.654], "n": 9})
    '0.600 [0.55, 0.65]'
    """
    if entry is None:
        return ""
    if entry["accuracy"] is None:
        return "-"
    if "deviation" in entry:
        return f"{entry['accuracy']:.3f} ± {entry['deviation']:.3f}"
    low, high = entry["ci95"]
    return f"{entry['accuracy']:.3f} [{low:.2f}, {high:.2f}]"


def number_text(value: float | None, form: str = ".3f") -> str:
    """Show a number.

    >>> number_text(None), number_text(1234567, ","), number_text(0.5)
    ('-', '1,234,567', '0.500')
    """
    return "-" if value is None else format(value, form)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table.

    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "|" + "|".join(cells) + "|" if cells is lines[1] else "| " + " | ".join(cells) + " |" for cells in lines
    )


def accuracy_lines(row: dict[str, Any], columns: Sequence[str]) -> list[list[str]]:
    """Write the lines of a row: ours, and the paper's where there is one."""
    cells = [accuracy_text(row[column]) for column in columns]
    seconds = number_text(row["seconds"], ".0f")
    lines = [[row["title"], *cells, number_text(row["parameters"], ","), seconds]]
    if row["paper"]:
        lines.append(
            ["*the paper*", *(f"*{row['paper'][c]:.3f}*" if c in row["paper"] else "" for c in columns), "", ""]
        )
    return lines


def label_lines(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[list[str]]:
    """Write what a table of retrieval and labels shows: a line per system, in its sub-dimensions where it has some."""
    best = {row["system"]: row for row in rows}  # rows in sub-dimensions come last
    lines = []
    for row in best.values():
        recalls = [number_text(row["recall"][name]) for name in names]
        probes = [
            number_text(probe["roc_auc"]) + " / " + number_text(probe["pr_auc"]) for probe in row["probe"].values()
        ]
        lines.append(
            [row["title"], number_text(row["disentanglement"]), *recalls, accuracy_text(row["track_recall"]), *probes]
        )
    chance = [number_text(rows[0]["chance_recall"][name]) for name in names]
    return [*lines, ["*chance*", "", *(f"*{c}*" for c in chance), "", *("" for _ in rows[0]["probe"])]]


def markdown(comparison: dict[str, Any]) -> str:
    """Write the comparison as markdown."""
    columns, rows = comparison["columns"], comparison["rows"]
    names = columns[:-2]
    counts = ", ".join(f"{name} {max(row[name]['n'] for row in rows):,}" for name in names)
    parts = [f"Triplet accuracy (chance 0.5); test triplets: {counts}; time: seconds of training."]
    for space, title in SPACES.items():
        lines = [line for row in rows if row["space"] == space for line in accuracy_lines(row, columns)]
        if lines:
            parts += [f"**{title}**", markdown_table(["system", *columns, "parameters", "time"], lines)]
    header = ["system", "diagonal - off", *(f"R@1 {name}" for name in names), "track R@1"]
    header += [f"probe {name}" for name in rows[0]["probe"]]
    parts += [
        "**Disentanglement, retrieval and labels** (Recall@1 and linear probes, ROC-AUC / PR-AUC, in the sub-dimensions where "
        "there are some; diagonal - off: accuracy in the own subspace minus that in the others)",
        markdown_table(header, label_lines(rows, names)),
    ]
    for row in rows:
        if row["space"] == "sub":
            lines = [[i, *(number_text(row["matrix"][i][j]) for j in names)] for i in names]
            parts += [
                f"**Matrix: {row['title']}** (triplets of the row's condition in the column's subspace)",
                markdown_table(["", *names], lines),
            ]
    return "\n\n".join(parts) + "\n"


def flat_row(row: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Flatten a row for the CSV."""
    flat = {"system": row["system"], "space": row["space"]}
    for column in (*columns, "track_recall"):
        entry = row[column] or {}
        low, high = entry.get("ci95", (None, None))
        flat[column] = entry.get("accuracy")
        flat.update({f"{column}_low": low, f"{column}_high": high, f"{column}_deviation": entry.get("deviation")})
        flat.update({f"{column}_n": entry.get("n"), f"{column}_paper": row["paper"].get(column)})
    flat.update({key: row[key] for key in ("parameters", "seconds", "disentanglement")})
    flat.update({f"recall1_{name}": value for name, value in row["recall"].items()})
    for name, probe in row["probe"].items():
        flat.update({f"probe_{key}_{name}": value for key, value in probe.items()})
    return flat


def write_comparison(out: Path, comparison: dict[str, Any]) -> None:
    """Write ``table.json``, ``table.csv`` and ``table.md``."""
    write_json(out / "table.json", comparison)
    flat = [flat_row(row, comparison["columns"]) for row in comparison["rows"]]
    with atomic_write(out / "table.csv") as file:
        writer = csv.DictWriter(file, flat[0].keys())
        writer.writeheader()
        writer.writerows(flat)
    write_text(out / "table.md", markdown(comparison))
