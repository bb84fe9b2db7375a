"""Progress of long jobs on the screen: a bar on a terminal; in a file or a CI log, a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from tqdm import tqdm

SECONDS = 30.0  # between two lines


class ProgressLines:
    """Progress in lines: one every half minute, and one at the end. It is used as a ``tqdm`` is.

    Args:
        iterable: What is done, if it is iterated over.
        total: Number of items; by default the length of the iterable, if it has one.
        desc: Name of the job.
        disable: Whether to show nothing.
    """

    def __init__(
        self,
        iterable: Iterable | None = None,
        total: int | None = None,
        desc: str = "",
        disable: bool = False,
        **_: Any,
    ):
        self.iterable, self.total, self.desc, self.disable = iterable, total, desc, disable
        if total is None:
            # Some have a length that they do not know.
            with suppress(TypeError):
                self.total = len(iterable)
        self.done = self.started = 0
        self.since = self.shown = self.begun = time.monotonic()

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def update(self, n: int = 1) -> None:
        """Count what was done; show a line if the last one is long ago."""
        self.done += n
        if not self.started:
            # The first ones wait for processes to start and for networks to be loaded.
            self.started, self.begun = self.done, time.monotonic()
        if time.monotonic() - self.shown >= SECONDS:
            self.show(self.time_left())

    def close(self, note: str = "") -> None:
        """Show the last line, with a note."""
        self.show(note)
        self.disable = True

    def show(self, note: str = "") -> None:
        self.shown = time.monotonic()
        if not self.disable:
            of = f" of {self.total:,}" if self.total is not None else ""
            sys.stderr.write(f"{self.desc}: {self.done:,}{of}, {self.shown - self.since:.0f} s{note}\n")

    def time_left(self) -> str:
        """Return how long the rest takes at the speed since the first, as part of a line; nothing where that is not known."""
        if not self.total or not self.started < self.done < self.total:
            return ""
        seconds = (time.monotonic() - self.begun) / (self.done - self.started)
        return f", about {duration(seconds * (self.total - self.done))} left"


def duration(seconds: float) -> str:
    """Return a time in words, as long as it is to be waited.

    >>> duration(42.4), duration(600), duration(3 * 3600 + 120)
    ('42 s', '10 min', '3.0 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"


Progress = tqdm | ProgressLines


def show_progress(iterable: Iterable[Any] | None = None, total: int | None = None, **settings: Any) -> Progress:
    """Return the progress of a job, for what it iterates over or for counting by ``update``.

    Args:
        iterable: What is iterated over; None: ``update`` counts.
        total: Number of items, where the iterable has no length.
        settings: ``desc``, ``unit`` and ``disable``, as of ``tqdm``.
    """
    if sys.stderr.isatty():
        return tqdm(iterable, total=total, **settings)
    return ProgressLines(iterable, total, **settings)
