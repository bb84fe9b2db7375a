"""A track that changes, as a figure: its waveform, and per condition curves, novelty, change points and self-similarity.

All conditions are drawn to one scale, since all are distances in one embedding: a subspace in which nothing happens looks flat.
"""

from collections.abc import Mapping
from math import ceil
from typing import IO, Any

import numpy as np
from torch import Tensor

from callbacks.figures import DPI, GREY, INK, PALE, condition_colors, new_mosaic

WIDTH, TOP, EACH = 10.0, 1.0, 1.9  # inches
# A picture does not show more.
WAVEFORM_COLUMNS, MOST_CHUNKS = 1500, 500


def draw_trajectory(
    trajectory: Mapping[str, Any], waveform: np.ndarray, similarity: Mapping[str, Tensor], file: IO[bytes]
) -> None:
    """Write a trajectory, the content of ``trajectory.json``, as a PNG, with the waveform (n,) and a matrix (N, N) per condition."""
    names, seconds = list(trajectory["conditions"]), trajectory["seconds"]
    colors = condition_colors(names)
    rows = [["waveform", "."]]
    for name in names:
        rows += [[f"curves {name}", f"similarity {name}"], [f"novelty {name}", f"similarity {name}"]]
    figure, panels = new_mosaic(
        rows,
        WIDTH,
        TOP + EACH * len(names),
        width_ratios=[4, 1],
        height_ratios=[TOP, *[0.55 * EACH, 0.45 * EACH] * len(names)],
    )
    draw_waveform(panels["waveform"], waveform, seconds)
    panels["waveform"].set_title(trajectory["path"], loc="left", color=INK, fontsize=10)
    entries = trajectory["conditions"].values()
    extremes = [extreme for entry in entries for curve in entry["curves"] for extreme in (min(curve), max(curve))]
    highest = max(value for entry in entries for value in (entry["threshold"], *entry["novelty"]["values"]))
    least = min(float(matrix.min()) for matrix in similarity.values())
    for name in names:
        entry, color = trajectory["conditions"][name], colors[name]
        first, second = entry["curves"]
        panel = panels[f"curves {name}"]
        panel.plot(trajectory["times"], second, color=GREY, linewidth=1.0)
        panel.plot(trajectory["times"], first, color=color, linewidth=1.8)
        panel.set_title(name, loc="left", color=color, fontsize=11, fontweight="bold")
        panel.set_ylabel("components", fontsize=8)
        panel.set_ylim(1.1 * min(extremes), 1.1 * max(extremes) + 1e-6)
        draw_novelty(panels[f"novelty {name}"], entry, color)
        panels[f"novelty {name}"].set_ylim(0, 1.15 * highest + 1e-6)
        for kind in ("curves", "novelty"):
            for time in entry["changes"]:
                panels[f"{kind} {name}"].axvline(time, color=color, linewidth=1.4, linestyle="--")
        picture = panels[f"similarity {name}"]
        draw_similarity(picture, similarity[name], least, trajectory["times"], entry["changes"], color)
    for key, panel in panels.items():
        if not key.startswith("similarity"):
            panel.set_xlim(0, seconds)
            panel.tick_params(labelbottom=key == f"novelty {names[-1]}")
    panels[f"novelty {names[-1]}"].set_xlabel("seconds", fontsize=9)
    figure.align_ylabels([panel for key, panel in panels.items() if key != "waveform" and "similarity" not in key])
    figure.suptitle(
        "Per condition: first (coloured) and second (grey) principal component of the chunks, novelty with its threshold (dotted), "
        "change points (dashed),\nself-similarity: light is alike. One scale for all conditions.",
        fontsize=8,
        color=INK,
    )
    figure.savefig(file, dpi=DPI, bbox_inches="tight", facecolor="white")


def draw_waveform(panel: Any, waveform: np.ndarray, seconds: float) -> None:
    block = ceil(len(waveform) / WAVEFORM_COLUMNS)
    edges = np.arange(0, len(waveform), block)
    low, high = np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)
    panel.fill_between(edges / len(waveform) * seconds, low, high, color=GREY, linewidth=0)
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)


def draw_novelty(panel: Any, entry: Mapping[str, Any], color: str) -> None:
    times, values = entry["novelty"]["times"], entry["novelty"]["values"]
    panel.fill_between(times, values, color=color, alpha=0.25, linewidth=0)
    panel.plot(times, values, color=color, linewidth=1.0)
    panel.axhline(entry["threshold"], color=INK, linewidth=1.0, linestyle=":")
    panel.set_ylabel("novelty", fontsize=8)
    panel.grid(axis="x", color=PALE, linewidth=0.6)


def draw_similarity(
    panel: Any, similarity: Tensor, least: float, times: list[float], changes: list[float], color: str
) -> None:
    """Draw a self-similarity matrix, both axes in seconds, dark where it is ``least``."""
    every = ceil(len(similarity) / MOST_CHUNKS)
    shown = similarity[::every, ::every].numpy()
    ends = (times[0], times[-1] if len(times) > 1 else times[0] + 1)
    look = {"cmap": "magma", "origin": "lower", "interpolation": "nearest", "vmin": least, "vmax": 1.0}
    panel.imshow(shown, extent=(*ends, *ends), aspect="equal", **look)
    for time in changes:
        panel.axvline(time, color=color, linewidth=1.0, linestyle="--")
        panel.axhline(time, color=color, linewidth=1.0, linestyle="--")
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0, labelsize=7)
