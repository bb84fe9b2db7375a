"""Ratios instead of times: tasks are timed in turn, round by round, and the median of the rounds' ratios counts.

Absolute times are noise on shared machines; two tasks that are timed right after each other meet the same noise. A line of the table
compares ours with a peer (what others would use for the same work) and with a limit (what no implementation can go below).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TypeVar

from disentangled_ml.processes import keep_freed_memory

ROUNDS = 5
Name = TypeVar("Name")


@dataclass(frozen=True)
class Measurement:
    """Row of the table. Times are in seconds for the same work, the median over the rounds.

    Attributes:
        stage: Which stage, at which size.
        ours: Time of ours.
        peer_name: What ours is compared with; empty for none.
        peer: Its time.
        speedup: Median over the rounds of peer / ours.
        limit_name: What bounds ours from below; empty for none.
        limit: Its time.
        overhead: Median over the rounds of ours / limit.
        least_speedup: Target: ``speedup`` is at least this.
        most_overhead: Target: ``overhead`` is at most this.
        note: A figure besides, such as a rate or a share.
    """

    stage: str
    ours: float
    peer_name: str = ""
    peer: float | None = None
    speedup: float | None = None
    limit_name: str = ""
    limit: float | None = None
    overhead: float | None = None
    least_speedup: float | None = None
    most_overhead: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Return whether the targets are met; None where there are none.

        >>> Measurement("s", 1.0, "p", 3.0, 3.0, least_speedup=2.0).met, Measurement("s", 1.0).met
        (True, None)
        """
        verdicts = []
        if self.least_speedup is not None:
            verdicts.append(self.speedup >= self.least_speedup)
        if self.most_overhead is not None:
            verdicts.append(self.overhead <= self.most_overhead)
        return all(verdicts) if verdicts else None


def seconds(task: Callable[[], object], clock: Callable[[], float] = perf_counter) -> float:
    """Time a task, by the wall clock or by another, such as ``process_time``."""
    start = clock()
    task()
    return clock() - start


def interleaved(
    tasks: Mapping[Name, Callable[[], object]], rounds: int = ROUNDS, clock: Callable[[], float] = perf_counter
) -> dict[Name, list[float]]:
    """Time tasks in turn, after a round that does not count; return the seconds of each, round by round.

    Freed memory is kept, as in every command of this project; the peers gain as much.
    """
    keep_freed_memory()
    times: dict[Name, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            spent = seconds(task, clock)
            if number:
                times[name].append(spent)
    return times


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Return the median of the ratios of two tasks that were timed in turn.

    >>> median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0])
    3.0
    """
    return median(a / b for a, b in zip(numerator, denominator, strict=True))


def compared(
    stage: str,
    times: Mapping[str, list[float]],
    peer: str = "",
    limit: str = "",
    least_speedup: float | None = None,
    most_overhead: float | None = None,
    note: str = "",
) -> Measurement:
    """Return the row of a stage from the times of ``interleaved``, in which this project's are called "ours"."""
    ours = times["ours"]
    return Measurement(
        stage,
        median(ours),
        peer,
        median(times[peer]) if peer else None,
        median_ratio(times[peer], ours) if peer else None,
        limit,
        median(times[limit]) if limit else None,
        median_ratio(ours, times[limit]) if limit else None,
        least_speedup,
        most_overhead,
        note,
    )
