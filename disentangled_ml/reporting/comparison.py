"""A comparison of systems, assembled from the reports of their seeds, and written as markdown, CSV and JSON.

A *cell* is the report of one system and seed; a *row* is a system in a space: ``all`` dimensions, or the ``sub``-dimensions of each
condition. With one seed an accuracy has its 95 % interval over the anchor tracks, with several its mean, its standard deviation over
the seeds, and an interval that includes both: of the anchor tracks, and of the mean over the seeds by Student's t.
"""

import csv
from collections.abc import Iterable, Sequence
from math import hypot, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from disentangled_ml.files import atomic_write, write_json, write_text
from disentangled_ml.reporting.cells import (
    accuracy_text,
    estimated_note,
    estimated_of,
    interval_of,
    markdown_table,
    marked,
    number_text,
    octaves_folded,
)
from disentangled_ml.reporting.published import published
from disentangled_ml.structures import TRACK

SPACES = {"all": "All dimensions", "sub": "Sub-dimensions of each condition"}
SPECIALISED = "specialised"
# Keys of a row beside its conditions, which therefore cannot have these names.
ROW_KEYS = (
    *("system", "title", "space", "parameters", "seconds", "disentanglement", "matrix"),
    *("recall", "chance_recall", "track_recall", "probe", "paper", "octaves_folded"),
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
    "musicnn_tags": "musicnn's tags, no training",
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
    "rhythm": "full system + rhythm branch",
    "musicnn": "musicnn's features",
    "musicnn_rhythm": "musicnn's features + rhythm branch",
    "fixed_mel": "fixed mel",
    "trainable_mel": "trainable mel",
    "trainable_stft": "trainable STFT and mel",
    "learned_bank": "learned filter bank",
}


# Student's t at 97.5 %, for 1, 2, ... degrees of freedom.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def pool_seeds(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pool the accuracies of several seeds; the entry of a single seed stays as it is.

    >>> pool_seeds([{"accuracy": 0.5, "ci95": [0.4, 0.6], "n": 9}, {"accuracy": 0.7, "ci95": [0.6, 0.8], "n": 9}])
    {'accuracy': 0.6, 'deviation': 0.1414, 'n': 9, 'ci95': [0.0, 1.0]}
    """
    known = [entry["accuracy"] for entry in entries if entry["accuracy"] is not None]
    if len(known) < 2:
        return dict(entries[0])
    accuracy, deviation = mean(known), stdev(known)
    pooled = {"accuracy": round(accuracy, 6), "deviation": round(deviation, 4), "n": entries[0]["n"]}
    if halves := [(ends[1] - ends[0]) / 2 for ends in map(interval_of, entries) if ends is not None]:
        # The seeds share their test triplets, so the error of these does not become smaller by averaging.
        of_seeds = T_QUANTILES[min(len(known) - 2, len(T_QUANTILES) - 1)] * deviation / sqrt(len(known))
        half = hypot(mean(halves), of_seeds)
        pooled["ci95"] = [round(max(accuracy - half, 0.0), 6), round(min(accuracy + half, 1.0), 6)]
    return pooled


def average(values: Iterable[float | None]) -> float | None:
    """Average the values that are known; return None where none is.

    >>> average([0.25, None, 0.75]), average([None])
    (0.5, None)
    """
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def mean_entry(cell: dict[str, Any], space: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the mean over the conditions in the form of an accuracy."""
    n = sum(cell[space][name]["n"] for name in names)
    return {"accuracy": cell[space]["mean"], "ci95": cell["mean_ci95"][space], "n": n}


def make_row(cells: Sequence[dict[str, Any]], space: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the row of a system in a space; the track triplets, which use all dimensions, count in ``all`` alone."""
    first = cells[0]
    row = {
        "system": first["system"],
        "title": TITLES.get(first["system"], first["system"]),
        "space": space,
        **{name: pool_seeds([cell[space][name] for cell in cells]) for name in names},
        "mean": pool_seeds([mean_entry(cell, space, names) for cell in cells]),
        TRACK: pool_seeds([cell[TRACK] for cell in cells]) if space == "all" else None,
        "octaves_folded": {
            name: pool_seeds([cell["octaves_folded"][name][space] for cell in cells])
            for name in names
            # Reports of older versions do not have it.
            if all(name in cell.get("octaves_folded", {}) for cell in cells)
        },
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
    """Return the comparison: rows in all dimensions, then rows in sub-dimensions of the systems that have subspaces.

    The specialised networks have rows in sub-dimensions only: side by side they are not one embedding.
    """
    by_system: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        by_system.setdefault(cell["system"], []).append(cell)
    rows = [make_row(found, "all", names) for system, found in by_system.items() if system != SPECIALISED]
    rows += [make_row(found, "sub", names) for found in by_system.values() if found[0]["has_subspaces"]]
    estimated = [name for name in names if any(name in estimated_of(cell) for cell in cells)]
    return {"columns": [*names, "mean", TRACK], "rows": rows, "settings": settings, "estimated": estimated}


def table_cell(entry: dict[str, Any] | None) -> str:
    """Return the cell of an accuracy; an empty one where there can be none."""
    return "" if entry is None else accuracy_text(entry, digits=2)


def folded_names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the tempo conditions of which some row has the accuracy without the triplets that only octaves tell apart."""
    return list({name: None for row in rows for name in row["octaves_folded"]})


def accuracy_lines(row: dict[str, Any], columns: Sequence[str], folded: Sequence[str]) -> list[list[str]]:
    """Return the cells of a row: this project's accuracies, and below them the paper's where it reports some."""
    of_folded = [table_cell(row["octaves_folded"].get(name, {})) for name in folded]
    costs = [number_text(row["parameters"], ",.0f"), number_text(row["seconds"], ".0f")]
    lines = [[row["title"], *(table_cell(row[column]) for column in columns), *of_folded, *costs]]
    if paper := row["paper"]:
        shown = [f"*{paper[c]:.3f}*" if c in paper else "" for c in columns]
        lines.append(["*the paper*", *shown, *("" for _ in (*folded, *costs))])
    return lines


def label_lines(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[list[str]]:
    """Return retrieval and label scores: a line per system, in its sub-dimensions where it has subspaces."""
    # Rows in sub-dimensions come last.
    best = {row["system"]: row for row in rows}
    lines = []
    for row in best.values():
        recalls = [number_text(row["recall"][name]) for name in names]
        probes = [f"{number_text(each['roc_auc'])} / {number_text(each['pr_auc'])}" for each in row["probe"].values()]
        disentanglement = number_text(row["disentanglement"])
        lines.append([row["title"], disentanglement, *recalls, table_cell(row["track_recall"]), *probes])
    chance = [f"*{number_text(rows[0]['chance_recall'][name])}*" for name in names]
    return [*lines, ["*chance*", "", *chance, "", *("" for _ in rows[0]["probe"])]]


def markdown(comparison: dict[str, Any]) -> str:
    columns, rows, estimated = comparison["columns"], comparison["rows"], estimated_of(comparison)
    folded = folded_names(rows)
    shown = [*(marked(column, estimated) for column in columns), *map(octaves_folded, folded)]
    names = columns[:-2]
    counts = ", ".join(f"{name} {max(row[name]['n'] for row in rows):,}" for name in names)
    parts = [f"Triplet accuracy (chance 0.5); test triplets: {counts}; time: seconds of training."]
    if estimated:
        # The star would begin an emphasis.
        parts.append("\\" + estimated_note(estimated) + ".")
    for space, title in SPACES.items():
        lines = [line for row in rows if row["space"] == space for line in accuracy_lines(row, columns, folded)]
        if lines:
            parts += [f"**{title}**", markdown_table(["system", *shown, "parameters", "time"], lines)]
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


def flat_row(row: dict[str, Any], columns: Sequence[str], folded: Sequence[str]) -> dict[str, Any]:
    flat = {"system": row["system"], "space": row["space"]}
    entries = {column: row[column] or {} for column in (*columns, "track_recall")}
    entries.update({f"octaves_folded_{name}": row["octaves_folded"].get(name, {}) for name in folded})
    for column, entry in entries.items():
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
    folded = folded_names(comparison["rows"])
    flat = [flat_row(row, comparison["columns"], folded) for row in comparison["rows"]]
    with atomic_write(out / "table.csv") as file:
        writer = csv.DictWriter(file, flat[0].keys())
        writer.writeheader()
        writer.writerows(flat)
    write_text(out / "table.md", markdown(comparison))
