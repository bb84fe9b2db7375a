"""Which dimensions of the embedding each condition looks at, drawn when training ends."""

import pytorch_lightning as pl

from callbacks.figures import GREY, INK, condition_colors, new_panels, save_figure


class MaskHeatmap(pl.Callback):
    """Draw the condition masks (C, D) as ``figures/masks.png``."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        masks = pl_module.network.masks().detach().float().cpu()
        n_conditions, embedding_dim = masks.shape
        figure, (panel,) = new_panels(1, 1, 9.0, 0.8 + 0.5 * n_conditions)
        extent, top = (0, embedding_dim, n_conditions, 0), max(1.0, masks.max().item())
        looks = {"aspect": "auto", "interpolation": "nearest", "cmap": "Blues"}
        image = panel.imshow(masks.numpy(), vmin=0.0, vmax=top, extent=extent, **looks)
        colors = condition_colors(pl_module.condition_names)
        panel.set_yticks([row + 0.5 for row in range(n_conditions)], list(colors))
        for label, color in zip(panel.get_yticklabels(), colors.values(), strict=True):
            label.set(color=color, fontweight="bold", fontsize=10)
        for row in range(1, n_conditions):
            panel.axhline(row, color="white", linewidth=4)
        panel.spines[:].set_visible(False)
        panel.tick_params(axis="y", length=0)
        panel.set_xticks([round(i * embedding_dim / n_conditions) for i in range(n_conditions + 1)])
        panel.set_xlabel("dimension of the embedding")
        panel.set_title("Condition masks", loc="left", color=INK, fontsize=11, fontweight="bold")
        bar = figure.colorbar(image, ax=panel, pad=0.015, aspect=12)
        bar.outline.set_visible(False)
        bar.ax.tick_params(color=GREY, labelcolor=INK, labelsize=8)
        save_figure(trainer, figure, "masks")
