"""Accuracy against the number of training tracks, as a figure."""

import math
from pathlib import Path
from typing import Any

from callbacks.figures import GREY, PALE, condition_colors, new_panels
from disentangled_ml.reporting.cells import accuracy_of, interval_of
from disentangled_ml.reporting.comparison_figures import CHANCE, save

STYLES = ("-", "--", ":", "-.")  # a system each


def draw_curve(curve: list[dict[str, Any]], path: Path) -> None:
    """Draw a panel per condition: a line per system with its intervals, over the number of tracks on a logarithmic axis.

    Args:
        curve: Per number of ``tracks`` the ``rows`` of its table of systems.
        path: Of the PNG.
    """
    names = list(curve[0]["rows"][0]["matrix"])
    colors, sizes = condition_colors(names), [point["tracks"] for point in curve]
    figure, panels = new_panels(1, len(names), 2.8, 2.8, sharey=True)
    for panel, name in zip(panels, names, strict=True):
        for number, first in enumerate(curve[0]["rows"]):
            entries = [next(row for row in point["rows"] if row["system"] == first["system"])[name] for point in curve]
            # Where a condition has no test triplets the line has a gap.
            values = [math.nan if (value := accuracy_of(entry)) is None else value for entry in entries]
            ends = [interval_of(entry) or (value, value) for entry, value in zip(entries, values, strict=True)]
            style = STYLES[number % len(STYLES)]
            panel.plot(sizes, values, style, color=colors[name], marker="o", markersize=4, label=first["title"])
            panel.fill_between(sizes, *zip(*ends, strict=True), color=colors[name], alpha=0.12, linewidth=0)
        panel.axhline(CHANCE, color=GREY, linewidth=1.2, linestyle=":")
        panel.set_xscale("log")
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
        panel.grid(axis="y", color=PALE, linewidth=0.6)
        panel.set_xlabel("training tracks")
        panel.set_title(name, loc="left", color=colors[name], fontsize=11, fontweight="bold")
    panels[0].set_ylabel("triplet accuracy")
    panels[-1].legend(fontsize=8, frameon=False, loc="lower right")
    save(figure, path)
