"""A long job over batches of rows that can be killed and resumed.

Each batch is written atomically when it is finished, with notes of what is in it and what was rejected. So a killed run loses the
batches that it was at, no more, and a resumed one writes the same files as one that was never interrupted. A finished batch is kept
while it is of the same rows and the same recordings (origin.py); otherwise it is made anew, and it alone. The folder belongs to one
job: what that is gets written first, and other work in the folder is refused.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from datamodules.audio.tempo import grouped
from datamodules.shards.origin import path_of, renew
from datamodules.shards.workers import Workers
from disentangled_ml.files import read_object, write_json
from disentangled_ml.progress import Progress
from disentangled_ml.structures import Rejected

Result = TypeVar("Result")
Rows = Sequence[Any]


class Batch(NamedTuple):
    """Rows that are worked on and kept together.

    Attributes:
        name: Of its file.
        size: Number of rows.
        digest: Of the rows, since a batch of one name can have others; empty: whichever it has.
    """

    name: str
    size: int
    digest: str = ""


class BatchStore:
    """The finished batches of a job, in its folder; subclasses say how a batch is read and written.

    Args:
        out: The folder, as the user gave it.
        job: All that every batch depends on, by its name.
    """

    # Folder of the notes within ``out``; the file in it that names the job.
    FOLDER, CLAIM = "", ""
    ERROR: type[ValueError] = ValueError
    # What the folder of another job holds, by what differs.
    ANOTHER: ClassVar[dict[str, str]] = {}
    UNCLAIMED = "delete {out}"  # where no claim is legible

    def __init__(self, out: Path, job: dict[str, str]):
        self.out, self.job, self.folder = out, job, out / self.FOLDER

    def claim(self) -> None:
        """Make the folder this job's own.

        Raises: ValueError: if it belongs to another job, or cannot be made.
        """
        if not (self.folder / self.CLAIM).is_file():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                way_out = "give a folder that can be written to"
                raise self.ERROR(f"out={self.out} cannot be made ({error.strerror}): {way_out}") from error
            write_json(self.folder / self.CLAIM, self.job, replace=False)
        self.check()

    def check(self) -> None:
        """Check that the folder is this job's own.

        Raises: ValueError: if it belongs to another job, or to none.
        """
        owner = read_object(self.folder / self.CLAIM)
        if not owner:
            way_out = self.UNCLAIMED.format(out=self.out)
            raise self.ERROR(f"{self.folder / self.CLAIM} is missing or damaged: {way_out}")
        for key, value in self.job.items():
            if owner.get(key) != value:
                earlier = "what an earlier version made, which cannot be gone on with"
                held = self.ANOTHER[key].format(owner=str(owner[key]), job=value) if key in owner else earlier
                raise self.ERROR(f"{self.out} holds {held}: give another out=DIR, or delete that folder")

    def read(self, batch: Batch) -> Any:
        """Read a finished batch, which has ``rejected`` and ``origins``; None if it is missing, damaged or another one."""
        raise NotImplementedError

    def save(self, batch: Batch, finished: Any) -> None:
        """Write a finished batch with other ``origins``."""
        raise NotImplementedError

    def read_finished(self, batch: Batch) -> Any:
        """Read a batch that was finished in this run.

        Raises: ValueError: if it is missing or damaged.
        """
        finished = self.read(batch)
        if finished is None:
            raise self.ERROR(f"{batch.name} in {self.out} is gone or damaged: repeat the command, which makes it anew")
        return finished

    def is_kept(self, batch: Batch, rows: Rows, retry: bool = True) -> bool:
        """Return whether a batch is finished, of these rows and of their recordings as they are now.

        With ``retry`` it is not while a row in it failed for another reason than its recording.
        """
        finished = self.read(batch)
        if finished is None or len(finished.origins) != len(rows):
            return False
        origins = [renew(origin, path_of(row)) for origin, row in zip(finished.origins, rows, strict=True)]
        if origins.count(None) > (0 if retry else finished.origins.count(None)):
            return False
        # Else a recording that was moved or copied would be read again each time.
        if origins != finished.origins:
            self.save(batch, finished._replace(origins=origins))
        return True


def work_through(
    batches: Iterable[tuple[Batch, Rows]], store: BatchStore, workers: Workers, progress: Progress
) -> Iterator[tuple[Batch, Rows, Iterator[Any]]]:
    """Yield each batch that is not finished with its rows and their results, which must be used up before the next batch.

    Args:
        batches: With their rows.
        store: Of the finished ones.
        workers: Work on groups of rows.
        progress: Counts rows.
    """
    begun: deque[tuple[Batch, Rows]] = deque()

    def groups() -> Iterator[Rows]:
        for batch, rows in batches:
            if store.is_kept(batch, rows):
                progress.update(batch.size)
            else:
                begun.append((batch, rows))
                yield from grouped(rows)

    results = workers.map(groups())
    for first in results:
        batch, rows = begun.popleft()
        yield batch, rows, counted(chain([first], islice(results, batch.size - 1)), progress)


def counted(results: Iterable[Result], progress: Progress) -> Iterator[Result]:
    for result in results:
        progress.update()
        yield result


def usable(results: Iterable[Result | Rejected], rejected: list[Rejected]) -> Iterator[Result]:
    """Yield the usable results, and collect the others."""
    for result in results:
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            yield result
