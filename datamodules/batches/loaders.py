"""Loaders of the streams. Their processes import what is imported here and nothing else: no Lightning, no W&B, no figures."""

from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader

from datamodules.batches.streams import EvaluationStream, TrainingStream
from datamodules.shards.index import ShardsError
from disentangled_ml.files import error_context
from disentangled_ml.processes import end_with_parent, main_module_hidden

# What torch raises for a loading process that died; it has no error of its own for that.
DEATH = (RuntimeError, OSError, EOFError)


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
            worker_init_fn=watch_parent,
        )

    def __iter__(self) -> Iterator:
        """Start an iteration at once, not at its first batch: the settings of the stream are sent to the loading processes here.

        Raises: OSError: if a loading process dies, here or later.
        """
        with main_module_hidden(), error_context(DEATH, self.describe_death, OSError):
            batches = super().__iter__()
        return self.watched(batches)

    def watched(self, batches: Iterator) -> Iterator:
        with error_context(DEATH, self.describe_death, OSError):
            yield from batches

    def describe_death(self, error: Exception) -> str | None:
        """Describe torch's error for a loading process that died, and how to resume."""
        # Raised by torch in a loading process that lives.
        if not self.num_workers or str(error).startswith("Caught"):
            return None
        return (
            f"a loading process is gone ({error}): if memory was short, use fewer data.workers or a smaller "
            "data.pool_tracks; resume=true goes on"
        )


def watch_parent(worker: int) -> None:
    """End a loading process when the one that it loads for is killed; torch itself watches the one that forked it."""
    end_with_parent()


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
