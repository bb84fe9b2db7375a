"""Processes that work on recordings, and what becomes of a recording that they cannot be made to survive."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import torch

from datamodules.audio import UnusableAudio
from datamodules.corpora.records import Rejected, TrackRecord

IN_FLIGHT = 4  # tracks per process that are on their way


def do_or_reject(record: TrackRecord, work: Callable[[TrackRecord], Any]) -> Any | Rejected:
    """Do some work on one recording, or reject it with the reason: a bad track must not end a long job."""
    try:
        return work(record)
    except UnusableAudio as error:
        return Rejected(record.track_id, record.path, str(error))
    except ImportError:
        raise  # of madmom: no track would fare better
    except Exception as error:  # the boundary of a worker: reported with the track, and counted
        return Rejected(record.track_id, record.path, f"unexpected {type(error).__name__}: {error}")


def start_worker() -> None:
    """Prepare a process for its tasks.

    Ctrl-C reaches every process of the terminal: it is for the main one alone, since a worker that is interrupted while it
    holds the lock of the queue leaves the others hanging. When the main one dies its workers do not notice by themselves.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this process when the one that started it has ended."""
    parent_process().join()
    os._exit(1)


def new_pool(n: int) -> ProcessPoolExecutor:
    """Make a pool of n processes; never by fork, since torch has run in this one.

    What each of them imports, the module that Python was started with first of all, is imported once for all of them.
    """
    context, started = get_context("forkserver"), sys.modules["__main__"].__spec__
    context.set_forkserver_preload([__name__, *([started.name] if started else [])])
    return ProcessPoolExecutor(n, context, initializer=start_worker)


class Workers:
    """Processes that work on recordings, in order; one whose decoder takes its process down is rejected.

    Args:
        n: Number of processes.
        work: On a recording; a function that can be pickled.
    """

    def __init__(self, n: int, work: Callable[[TrackRecord], Any]):
        self.n, self.task = n, partial(do_or_reject, work=work)
        self.start()

    def start(self) -> None:
        """Start the processes."""
        self.pool = new_pool(self.n)

    def stop(self) -> None:
        """End the processes, when they are done with what they are at."""
        self.pool.shutdown(wait=False, cancel_futures=True)

    def map(self, records: Iterable[TrackRecord]) -> Iterator[Any | Rejected]:
        """Give the result of each record, a bounded number of them at a time."""
        waiting: deque[tuple[TrackRecord, Future]] = deque()
        for record in records:
            waiting.append((record, self.submit(record)))
            if len(waiting) >= IN_FLIGHT * self.n:
                yield self.result(*waiting.popleft())
        while waiting:
            yield self.result(*waiting.popleft())

    def submit(self, record: TrackRecord) -> Future:
        """Hand a record to a process, new ones where the last were taken down."""
        try:
            return self.pool.submit(self.task, record)
        except BrokenProcessPool:
            self.start()
            return self.pool.submit(self.task, record)

    def result(self, record: TrackRecord, future: Future) -> Any | Rejected:
        """Wait for a result; where a process died, find out alone whether this record did it."""
        try:
            return future.result()
        except BrokenProcessPool:
            with new_pool(1) as one:
                try:
                    return one.submit(self.task, record).result()
                except BrokenProcessPool:
                    return Rejected(record.track_id, record.path, "its decoding takes the process down")
