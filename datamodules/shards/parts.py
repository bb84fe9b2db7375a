"""A long job in parts, made by processes that share its folder: part k of n works on every n-th batch from the k-th on.

Which batches there are does not depend on the parts, so that any division makes the same files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from disentangled_ml.files import read_object, write_json

DIVISION = "parts.json"  # in the folder of the notes: of the last run
SHOWN = 5  # missing batches that an error names


class Part(NamedTuple):
    """The share of the work that one process does: part ``number`` (from 1) of ``count``."""

    number: int
    count: int

    def of(self, n_batches: int) -> range:
        """Return the numbers, from 0, of the batches of this part.

        >>> list(Part(3, 4).of(9))
        [2, 6]
        """
        return range(self.number - 1, n_batches, self.count)


UNDIVIDED = Part(1, 1)


def note_division(folder: Path, part: Part) -> None:
    """Write into how many parts a job is divided, for the error that names those which are to be repeated."""
    write_json(folder / DIVISION, {"parts": part.count})


def describe_missing(folder: Path, names: Sequence[str], missing: Sequence[int]) -> tuple[str, str]:
    """Return which batches of a job are missing, and the parts that make them, in words for an error.

    Args:
        folder: Of the job's notes.
        names: Of all batches.
        missing: Numbers of the missing ones, from 0.

    >>> describe_missing(Path("nowhere"), ["a", "b", "c"], [0, 2])
    ('a, c', '1/1')
    """
    parts = read_object(folder / DIVISION).get("parts")
    parts = parts if type(parts) is int and parts > 0 else 1
    shown = [names[number] for number in missing[:SHOWN]] + ["..."] * (len(missing) > SHOWN)
    wanted = sorted({number % parts + 1 for number in missing})
    return ", ".join(shown), ", ".join(f"{number}/{parts}" for number in wanted)
