"""How all figures look, and where they go. The one file that imports matplotlib; no pyplot, so no global state."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning.loggers import WandbLogger

INK, GREY, PALE = "#222222", "#8a8a8a", "#dcdcdc"
DPI = 130
# Okabe and Ito's palette, safe for colour-blind readers, without its yellow, which is too pale for lines.
CONDITION_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Paul Tol's "muted" palette, for categories within a condition.
TAG_COLORS = ("#332288", "#CC6677", "#44AA99", "#DDCC77", "#AA4499", "#117733", "#88CCEE", "#882255", "#999933")


def condition_colors(names: Sequence[str]) -> dict[str, str]:
    """Map each condition to its colour, the same in every figure; beyond six conditions the colours repeat.

    >>> condition_colors(["genre", "mood"])
    {'genre': '#0072B2', 'mood': '#D55E00'}
    """
    return {name: CONDITION_COLORS[i % len(CONDITION_COLORS)] for i, name in enumerate(names)}


def new_panels(rows: int, columns: int, width: float, height: float, **sharing: bool) -> tuple[Figure, list[Axes]]:
    """Make a figure of equal panels, each ``width`` x ``height`` inches, in reading order; ``sharing`` as in ``subplots``."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    panels = list(figure.subplots(rows, columns, squeeze=False, **sharing).flat)
    for panel in panels:
        style(panel)
    return figure, panels


def new_mosaic(
    rows: list[list[str]], width: float, height: float, **ratios: Sequence[float]
) -> tuple[Figure, dict[str, Axes]]:
    """Make a figure of named panels, ``width`` x ``height`` inches in all.

    Args:
        rows: A name per cell, ``.`` for an empty one; cells of one name are one panel.
        width: Of the figure.
        height: Of the figure.
        ratios: ``width_ratios`` and ``height_ratios``, as in ``subplot_mosaic``.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplot_mosaic(rows, **ratios)
    for panel in panels.values():
        style(panel)
    return figure, panels


def style(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GREY)
    panel.tick_params(colors=INK, length=3, labelsize=9)
    panel.xaxis.label.set_color(INK)
    panel.yaxis.label.set_color(INK)


def save_figure(trainer: pl.Trainer, figure: Figure, name: str) -> Path:
    """Write ``figures/<name>.png`` into the run folder, and show it in W&B where that is the logger; on rank zero only."""
    path = Path(trainer.default_root_dir) / "figures" / f"{name}.png"
    if trainer.is_global_zero:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, bbox_inches="tight", facecolor="white")
        if isinstance(trainer.logger, WandbLogger):
            trainer.logger.log_image(key=f"figures/{name}", images=[str(path)])
    return path
