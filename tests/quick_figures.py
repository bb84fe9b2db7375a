"""Figures as fast as they go, for runs whose figures nobody looks at; how they look is tested in tests/callbacks."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

savefig = Figure.savefig


def save_quickly(figure: Figure, path: Path, **_: Any) -> None:
    """Save a figure without laying it out, and small."""
    figure.set_layout_engine("none")
    savefig(figure, path, dpi=20)
