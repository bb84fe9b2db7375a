"""What the filters of a trained frontend let through, against where they began."""

from typing import Any

import pytorch_lightning as pl

from callbacks.figures import CONDITION_COLORS, GREY, INK, new_panels, save_figure

HERTZ = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)  # labelled


def label_hertz(axis: Any) -> None:
    low, high = axis.get_view_interval()
    axis.set_ticks([hertz for hertz in HERTZ if low <= hertz <= high])
    axis.set_major_formatter("{x:,.0f}")
    axis.set_minor_formatter("")


class FilterPlot(pl.Callback):
    """Draw ``figures/filters.png`` when the best network is tested, where its frontend trained filters.

    Left the centre frequency of each filter, right the bandwidth at it (between the points of half the energy), each against the
    same filter before training, when it was a mel band. How those of trained Fourier kernels and mel filters are found says
    ``filter_bank.describe_responses``.
    """

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        frontend = pl_module.network.frontend
        if not trainer.is_global_zero or not any(True for _ in frontend.parameters()):
            return
        trained, first = frontend.filters(), type(frontend)(frontend.audio_settings).filters()
        figure, (left, right) = new_panels(1, 2, 5.0, 3.9)
        style = {"linestyle": "", "marker": "o", "markersize": 3.2, "markeredgewidth": 0.0}
        bands = range(1, len(first.centre) + 1)
        for panel, (x, y), (x_first, y_first) in (
            (left, (bands, trained.centre), (bands, first.centre)),
            (right, (trained.centre, trained.bandwidth), (first.centre, first.bandwidth)),
        ):
            panel.plot(x_first, y_first, color=GREY, linewidth=1.2, label="before training: mel", zorder=2)
            panel.plot(x, y, color=CONDITION_COLORS[0], label="trained", zorder=3, **style)
            panel.set_yscale("log")
            label_hertz(panel.yaxis)
        right.set_xscale("log")
        label_hertz(right.xaxis)
        left.set(xlabel="filter", ylabel="centre frequency (Hz)")
        right.set(xlabel="centre frequency (Hz)", ylabel="bandwidth (Hz)")
        left.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
        left.set_title("Filters", loc="left", color=INK, fontsize=11, fontweight="bold")
        save_figure(trainer, figure, "filters")
