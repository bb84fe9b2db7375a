"""Loaders of the streams. Their processes import what is imported here and nothing else: no Lightning, no W&B, no figures.

A loading process hands its batches over in shared memory, one open file per tensor. Either may run out.
"""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from datamodules.batches.streams import EvaluationStream, TrainingStream
from datamodules.shards.index import ShardsError
from disentangled_ml.files import error_context
from disentangled_ml.processes import end_with_parent, main_module_hidden

# What torch raises for a loading process that died or cannot hand over; it has no error of its own for that.
DEATH = (RuntimeError, OSError, EOFError)
RESUME = "use fewer data.workers, or data.workers=0, which needs none; resume=true goes on"
END_SECONDS = 5.0
# Of torch's errors, whose only form is their text.
NO_FILES = (os.strerror(errno.EMFILE), "received 0 items of ancdata")
NO_SHARED_MEMORY = ("shared memory", "unable to resize file", os.strerror(errno.ENOSPC))


class StreamLoader(DataLoader):
    """Loader of the ready batches of a stream; workers are started afresh, never forked from a process that ran torch.

    Args:
        stream: To load from.
        workers: Loading processes.
        pin_memory: Whether batches go to a GPU.
    """

    def __init__(self, stream: TrainingStream | EvaluationStream, workers: int = 0, pin_memory: bool = False):
        super().__init__(
            stream,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=start_worker,
        )

    def __iter__(self) -> Iterator:
        """Start an iteration at once, not at its first batch: the settings of the stream are sent to the loading processes here.

        Raises:
            OSError: with a batch, if a loading process dies or cannot hand it over, or cannot be started.
            ShardsError: with a batch, of the stream.
        """
        try:
            with main_module_hidden():
                batches = super().__iter__()
        except DEATH as error:
            return self.watched(failing(error))
        return self.watched(batches)

    def watched(self, batches: Iterator) -> Iterator:
        with self.failures_described():
            yield from batches

    @contextmanager
    def failures_described(self) -> Iterator[None]:
        with (
            error_context(DEATH, self.describe_failure, OSError),
            error_context(ValueError, told_by_worker, ShardsError),
        ):
            yield

    def describe_failure(self, error: Exception) -> str | None:
        """Describe torch's error for loading processes that died or cannot hand over a batch, and the way out."""
        if not self.num_workers:
            return None
        told = told_by_worker(error)
        reason = told or str(error) or type(error).__name__
        # Of a descriptor that cannot be sent, this process sees no more than a closed connection.
        if any(text in reason for text in NO_FILES) or (
            isinstance(error, EOFError | ConnectionError) and self.all_live()
        ):
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return (
                f"the loading processes need more open files than the {limit} that are allowed ({reason}): "
                f"allow more (ulimit -n {max(4096, 4 * limit)}), {RESUME}"
            )
        if any(text in reason for text in NO_SHARED_MEMORY):
            return (
                f"the loading processes cannot hand over a batch, the shared memory is too small ({reason}): make /dev/shm "
                f"larger (docker run --shm-size=2g; mount -o remount,size=2g /dev/shm), {RESUME}"
            )
        # Raised in a loading process that lives.
        if told:
            return None
        return (
            f"a loading process is gone ({reason}): if memory was short, use fewer data.workers or a smaller "
            "data.pool_tracks; resume=true goes on"
        )

    def all_live(self) -> bool:
        """Return whether no loading process has ended, which is known some time after its connections are closed."""
        return self._iterator is not None and not wait(
            [worker.sentinel for worker in self._iterator._workers], timeout=END_SECONDS
        )


def failing(error: Exception) -> Iterator:
    """Raise an error with the first item: where an iterator cannot be made, Lightning's own clean-up fails and hides why."""
    raise error
    yield


def told_by_worker(error: Exception) -> str | None:
    """Return the message of an error that was raised in a loading process, without its traceback there; None for others.

    >>> told_by_worker(ValueError("Caught ShardsError in DataLoader worker process 0.\\nOriginal Traceback ...\\na.b: x: y\\n"))
    'x: y'
    """
    text = str(error).strip()
    return text.rpartition("\n")[2].partition(": ")[2] if text.startswith("Caught") else None


def start_worker(worker: int) -> None:
    """Prepare a loading process.

    It ends when the one that it loads for is killed; torch itself watches the one that forked it. A batch that cannot be handed
    over is reported: Python would print a traceback and drop it, and the other process would wait for it for ever.
    """
    end_with_parent()
    Queue._on_queue_feeder_error = report_lost


def report_lost(queue: Queue, error: Exception, batch: tuple[int, Any]) -> None:
    """Put an error in the place of the batch that it has lost, as torch does for the errors of a data set."""
    number, _ = batch
    queue.put((number, ExceptionWrapper((type(error), error, error.__traceback__), "when a batch was handed over")))


class TrainingLoader(StreamLoader):
    """Loader of training batches from the place in the training where it is asked for them.

    Args:
        stream: To load from.
        workers: Loading processes.
        pin_memory: Whether batches go to a GPU.
        place: Returns the epoch and the batch in it with which an iteration begins. Lightning makes iterators ahead of its epochs,
            and on resuming before it knows the epoch: neither counting them nor ``current_epoch`` would do.
    """

    def __init__(self, stream: TrainingStream, workers: int, pin_memory: bool, place: Callable[[], tuple[int, int]]):
        super().__init__(stream, workers, pin_memory)
        self.place = place

    def __iter__(self) -> Iterator:
        self.dataset.set_epoch(*self.place())
        return super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Return what must not change within an epoch, for checkpoints; the place itself follows from the steps done."""
        return {"processes": self.dataset.source.world_size, "workers": self.num_workers}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Check what Lightning kept, which it passes in where a run is resumed within an epoch.

        Raises: ShardsError: if the batches that are left would be others.
        """
        kept, own = (
            "{processes} processes with data.workers={workers}".format(**state)
            for state in (state_dict, self.state_dict())
        )
        if kept != own:
            raise ShardsError(f"the run was interrupted within an epoch of {kept}, not {own}: go on with as many")
