"""Processes that work on recordings, and survive those that crash a decoder."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, Self

import torch

from datamodules.audio.decoding import UnusableAudio
from datamodules.shards.origin import UNEXPECTED
from disentangled_ml.processes import end_with_parent, new_pool
from disentangled_ml.structures import Rejected, TrackRecord

IN_FLIGHT = 2  # groups per process

# Works on a group; returns a result for each recording.
Work = Callable[[Sequence[TrackRecord]], list[Any | Rejected]]


def do_or_reject(record: TrackRecord, work: Callable[[TrackRecord], Any]) -> Any | Rejected:
    """Work on one recording, or reject it with the reason: a bad track must not end a long job."""
    try:
        return work(record)
    except UnusableAudio as error:
        return Rejected(record.track_id, record.path, str(error))
    except ImportError:
        raise  # of madmom or musicnn: no track would fare better
    except Exception as error:
        # The boundary of a worker: reported with the track, and counted.
        return Rejected(record.track_id, record.path, f"{UNEXPECTED}{type(error).__name__}: {error}")


def do_together(records: Sequence[TrackRecord], work: Work) -> list[Any | Rejected]:
    """Work on a group of recordings; if that fails, on each alone, and reject those on which it fails again."""
    try:
        return work(records)
    except ImportError:
        raise
    except Exception:  # the boundary of a worker
        return [do_or_reject(record, lambda each: work([each])[0]) for record in records]


def start_worker() -> None:
    """Prepare a process for its tasks.

    Ctrl-C reaches every process of the terminal: it is for the main one alone, since a worker that is interrupted while it
    holds the lock of the queue leaves the others hanging. When the main one dies its workers do not notice by themselves.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


class Workers:
    """Processes that work on groups of recordings, in order; a recording whose decoder crashes its process is rejected.

    Args:
        n: Number of processes.
        work: On a group; a function that can be pickled.
    """

    def __init__(self, n: int, work: Work):
        self.n, self.task = n, partial(do_together, work=work)
        # Imported once for all processes, with all that it needs
        self.module = getattr(work, "func", work).__module__
        self.start()

    def start(self) -> None:
        self.pool = new_pool(self.n, self.module, start_worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes once each has finished its group.

        Python waits for them in any case; but where the thread of the pool ends while Python itself does, Python writes to what that
        has closed, and prints a traceback.
        """
        self.pool.shutdown(cancel_futures=True)

    def map(self, groups: Iterable[Sequence[TrackRecord]]) -> Iterator[Any | Rejected]:
        """Yield the result of each record; a bounded number of groups is worked on ahead."""
        waiting: deque[tuple[Sequence[TrackRecord], Future]] = deque()
        for group in groups:
            waiting.append((group, self.submit(group)))
            if len(waiting) >= IN_FLIGHT * self.n:
                yield from self.results(*waiting.popleft())
        while waiting:
            yield from self.results(*waiting.popleft())

    def submit(self, group: Sequence[TrackRecord]) -> Future:
        """Submit a group; the processes are replaced if they have crashed."""
        try:
            return self.pool.submit(self.task, group)
        except BrokenProcessPool:
            self.pool.shutdown()
            self.start()
            return self.pool.submit(self.task, group)

    def results(self, group: Sequence[TrackRecord], future: Future) -> list[Any | Rejected]:
        """Wait for the results of a group; where a process died, try each record alone to find the one that killed it."""
        try:
            return future.result()
        except BrokenProcessPool:
            return [self.alone(record) for record in group]

    def alone(self, record: TrackRecord) -> Any | Rejected:
        """Work on one record in a process of its own."""
        with new_pool(1, self.module, start_worker) as one:
            try:
                return one.submit(self.task, [record]).result()[0]
            except BrokenProcessPool:
                return Rejected(record.track_id, record.path, "its decoding takes the process down")
