"""Triplet accuracy over the epochs, drawn when training ends."""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from callbacks.figures import GREY, INK, PALE, condition_colors, new_panels, save_figure
from disentangled_ml.structures import TRACK

CHANCE = 0.5
PANELS = {"train": "Training batches", "val": "Validation list"}
# Between two labels, as a share of the panel's height.
LABEL_GAP = 0.055


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart until neighbours are (nearly) ``gap`` apart, keeping their order.

    >>> [round(position, 2) for position in spread([0.5, 0.9, 0.5], 0.1)]
    [0.45, 0.9, 0.55]
    """
    moved = list(positions)
    order = sorted(range(len(moved)), key=moved.__getitem__)
    for _ in range(100):
        for low, high in pairwise(order):
            overlap = max(0.0, gap - (moved[high] - moved[low]))
            moved[low] -= overlap / 2
            moved[high] += overlap / 2
    return moved


class AccuracyCurves(pl.Callback):
    """Record what ``TripletAccuracy`` (which must come before it) logs, and draw ``figures/triplet_accuracy.png``.

    The history, ``{key: [[epoch, value], ...]}``, is in the checkpoint: a resumed run draws all epochs.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[list[float]]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.keep(trainer, "val")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.keep(trainer, "train")

    def keep(self, trainer: pl.Trainer, split: str) -> None:
        """Append the current values; an epoch that is repeated replaces its earlier values."""
        epoch = trainer.current_epoch + 1
        for key, value in trainer.callback_metrics.items():
            if key.startswith(f"{split}/triplet_accuracy/") and isfinite(value):
                earlier = [point for point in self.history.get(key, []) if point[0] < epoch]
                self.history[key] = [*earlier, [epoch, float(value)]]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or not self.history:
            return
        styles = {
            **{name: {"color": color} for name, color in condition_colors(pl_module.condition_names).items()},
            TRACK: {"color": GREY, "linestyle": (0, (4, 2))},
            "mean": {"color": INK, "linewidth": 2.6},
        }
        figure, panels = new_panels(1, len(PANELS), 4.8, 3.9, sharey=True)
        values = [value for points in self.history.values() for _, value in points]
        last = max(points[-1][0] for points in self.history.values())
        low, high = min(CHANCE, *values) - 0.03, max(CHANCE, *values) + 0.03
        for panel, (split, title) in zip(panels, PANELS.items(), strict=True):
            panel.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
            panel.set_xlabel("epoch")
            panel.set_ylim(low, high)
            panel.set_xlim(0.5, last + 0.5)
            panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            panel.grid(axis="y", color=PALE, linewidth=0.6)
            panel.axhline(CHANCE, color=GREY, linewidth=1.2, linestyle=":")
            ends = {"chance": CHANCE}
            for name, style in styles.items():
                if points := self.history.get(f"{split}/triplet_accuracy/{name}"):
                    epochs, accuracy = zip(*points, strict=True)
                    panel.plot(epochs, accuracy, **{"linewidth": 1.8, **style}, solid_capstyle="round")
                    panel.plot(epochs[-1], accuracy[-1], "o", color=style["color"], markersize=4)
                    ends[name] = accuracy[-1]
            heights = spread(list(ends.values()), LABEL_GAP * (high - low))
            for (name, value), height in zip(ends.items(), heights, strict=True):
                panel.text(
                    1.02,
                    height,
                    f"{name} {value:.2f}",
                    color=styles.get(name, {"color": GREY})["color"],
                    fontsize=9,
                    fontweight="bold" if name == "mean" else "normal",
                    va="center",
                    transform=panel.get_yaxis_transform(),
                )
        panels[0].set_ylabel("triplet accuracy")
        save_figure(trainer, figure, "triplet_accuracy")
