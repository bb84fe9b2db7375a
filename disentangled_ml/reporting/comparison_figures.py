"""The comparison as figures: accuracies with their intervals, and the matrix of conditions and subspaces of each system."""

from math import ceil
from pathlib import Path
from typing import Any

from callbacks.figures import DPI, GREY, INK, PALE, condition_colors, new_panels
from disentangled_ml.files import atomic_write
from disentangled_ml.reporting.comparison import SPACES
from disentangled_ml.structures import TRACK

CHANCE = 0.5


def save(figure: Any, path: Path) -> None:
    with atomic_write(path, "wb") as file:
        figure.savefig(file, dpi=DPI, bbox_inches="tight", facecolor="white")


def draw_accuracies(comparison: dict[str, Any], path: Path) -> None:
    """Draw a panel per condition and for track: a line per system and space, with its interval or deviation."""
    names = [*comparison["columns"][:-2], TRACK]
    rows = comparison["rows"]
    lines = [(row, f"{row['title']}{' (sub)' if row['space'] == 'sub' else ''}") for row in rows][::-1]
    colors = {**condition_colors(names[:-1]), TRACK: GREY}
    figure, panels = new_panels(1, len(names), 2.6, 1.0 + 0.26 * len(lines), sharex=True, sharey=True)
    for panel, name in zip(panels, names, strict=True):
        panel.axvline(CHANCE, color=GREY, linewidth=1.2, linestyle=":")
        for height, (row, _) in enumerate(lines):
            entry = row[name]
            if entry is None or entry["accuracy"] is None:
                continue
            value, spread = entry["accuracy"], entry.get("deviation", 0.0)
            low, high = entry.get("ci95", (value - spread, value + spread))
            panel.plot([low, high], [height, height], color=colors[name], linewidth=2, solid_capstyle="round")
            filled = colors[name] if row["space"] == "sub" else "white"
            panel.plot(value, height, "o", color=colors[name], markerfacecolor=filled, markersize=5)
        panel.set_title(name, loc="left", color=colors[name], fontsize=11, fontweight="bold")
        panel.grid(axis="x", color=PALE, linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(lines)), [label for _, label in lines])
    panels[0].set_ylim(-0.6, len(lines) - 0.4)
    title = "Triplet accuracy: open in all dimensions, filled in sub-dimensions; dotted: chance"
    figure.suptitle(title, fontsize=9, color=INK)
    save(figure, path)


def draw_matrices(comparison: dict[str, Any], path: Path) -> None:
    """Draw the matrix of each system with subspaces: triplets of a condition (rows) in a subspace (columns)."""
    names = comparison["columns"][:-2]
    rows = [row for row in comparison["rows"] if row["space"] == "sub"]
    if not rows:
        return
    columns = min(4, len(rows))
    size = 1.2 + 0.55 * len(names)
    figure, panels = new_panels(ceil(len(rows) / columns), columns, size + 0.6, size)
    for panel in panels[len(rows) :]:
        panel.remove()
    for panel, row in zip(panels, rows, strict=False):
        values = [[row["matrix"][i][j] for j in names] for i in names]
        shown = [[CHANCE if value is None else value for value in line] for line in values]
        panel.imshow(shown, cmap="RdBu_r", vmin=0.0, vmax=1.0)
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                if value is not None:
                    color = "white" if abs(value - CHANCE) > 0.3 else INK
                    panel.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=9, color=color)
        panel.set_xticks(range(len(names)), names, rotation=30, ha="right")
        panel.set_yticks(range(len(names)), names)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        summary = "" if row["disentanglement"] is None else f"\ndiagonal - off: {row['disentanglement']:.2f}"
        panel.set_title(f"{row['title']}{summary}", loc="left", fontsize=9, color=INK)
    titles = f"Accuracy of the triplets of a condition (rows) in a subspace (columns); {SPACES['sub'].lower()}"
    figure.suptitle(titles, fontsize=9, color=INK)
    save(figure, path)
