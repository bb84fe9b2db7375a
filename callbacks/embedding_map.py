"""The test tracks in the subspace of each condition, brought to two dimensions and coloured by the condition's labels."""

from collections import Counter
from math import ceil, sqrt
from typing import Any

import numpy as np
import pytorch_lightning as pl

from callbacks.figures import GREY, INK, PALE, TAG_COLORS, condition_colors, new_panels, save_figure
from callbacks.projection import plane
from disentangled_ml.structures import TrackInfo

SEED = 0
LEGEND_SIZE = 28.0  # area of a dot, in square points


class EmbeddingMap(pl.Callback):
    """Draw ``figures/embedding_map.png`` after the test: one panel per condition.

    Tags are coloured by the first tag of a track (in alphabetical order), the most frequent by name; tempo by its value.

    Args:
        max_tracks: How many tracks are drawn at most; which is drawn by lot, but always the same.
    """

    def __init__(self, max_tracks: int = 2000):
        self.max_tracks = max_tracks

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # On every rank: the ranks may have to gather.
        track_ids, embedding = pl_module.evaluated()[0].tracks()
        if not trainer.is_global_zero or not track_ids:
            return
        chosen = np.sort(np.random.default_rng(SEED).permutation(len(track_ids))[: self.max_tracks])
        infos = {info.track_id: info for info in trainer.datamodule.infos["test"]}
        drawn = [infos[track_ids[row]] for row in chosen]
        masks = pl_module.network.masks().detach().float().cpu().numpy()
        names = pl_module.condition_names
        columns = len(names) if len(names) <= 3 else ceil(sqrt(len(names)))
        figure, panels = new_panels(ceil(len(names) / columns), columns, 5.0, 3.9)
        for panel in panels[len(names) :]:
            panel.remove()
        for panel, name, color, mask in zip(panels, names, condition_colors(names).values(), masks, strict=False):
            draw_condition(figure, panel, name, plane(embedding.numpy()[chosen] * mask), drawn)
            panel.set_title(name, loc="left", color=color, fontsize=12, fontweight="bold")
        save_figure(trainer, figure, "embedding_map")


def draw_condition(figure: Any, panel: Any, name: str, places: np.ndarray, infos: list[TrackInfo]) -> None:
    """Draw the tracks at their places (N, 2), coloured by their labels for the condition."""
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set(visible=True, color=PALE)
    size = float(np.clip(9000 / len(infos), 9, 45))
    labels = [info.labels.get(name) for info in infos]
    missing = np.array([label is None or label == [] for label in labels])

    def scatter(rows: np.ndarray, **style: Any) -> Any:
        return panel.scatter(*places[rows].T, s=size, linewidths=0.3, edgecolors="white", **style)

    known = [label for label in labels if isinstance(label, int | float)]
    if known:
        dots = scatter(~missing, c=known, cmap="viridis", zorder=3)
        bar = figure.colorbar(dots, cax=panel.inset_axes([1.03, 0.0, 0.035, 1.0]), label="BPM")
        bar.outline.set_visible(False)
        bar.ax.tick_params(color=GREY, labelcolor=INK, labelsize=8)
    first = np.array([min(label) if label and not known else "" for label in labels])
    ranking = [tag for tag, _ in Counter(sorted(first[first != ""])).most_common(len(TAG_COLORS))]
    for tag, color in zip(ranking, TAG_COLORS, strict=False):
        scatter(first == tag, color=color, zorder=3, label=tag)
    groups = {"other": (~np.isin(first, ["", *ranking]), GREY, 2), "no label": (missing, PALE, 1)}
    for text, (rows, color, zorder) in groups.items():
        if rows.any():
            scatter(rows, color=color, zorder=zorder, label=text)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(
            loc="upper left",
            # Beside the panel is the colour bar's place.
            bbox_to_anchor=(0.0, 0.0) if known else (1.0, 1.0),
            borderaxespad=0.2,
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            handletextpad=0.2,
            markerscale=(LEGEND_SIZE / size) ** 0.5,
        )
