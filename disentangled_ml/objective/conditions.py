"""Labels to relations: who is similar to whom under a condition.

A condition is a notion of similarity. It encodes the labels of N tracks as one tensor and relates two sets of encoded
tracks by two boolean matrices, ``positive`` and ``negative``, both (A, B). A pair can be neither: a track without a label
takes no part, and relative tempo leaves an undecided zone. No pair is ever both. The relations are symmetric. It also divides tracks
into classes, for the objectives that compare chunks with classes instead of with each other.

* Tags (J. Lee et al., ICASSP 2020): positive if two tracks share at least one tag, negative if both are labelled and
  share none.
* Tempo, absolute (the same paper): positive within 5 BPM, negative otherwise.
* Tempo, relative: positive within 4 %; negative when farther apart than a margin *and* not within 4 % of an octave
  relation (ratios 2, 4, ...), since estimated tempi err by octaves.

Encoded labels are tensors, on any device, or NumPy arrays, whose calls take a fraction of the time where matrices are small: the
formulas use what both know.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

# Range of the tempo classes; the outermost take what is beyond.
CLASS_BPM = (30.0, 300.0)
# Least width of a class, for a positive zone of zero width.
MIN_CLASS_BPM, MIN_CLASS_OCTAVES = 1.0, 0.01
# In octaves: what float32 tempi may miss a limit by, so that 104 BPM are within 4 % of 100 both ways.
ROUNDING = 1e-6
OCTAVE_TOLERANCE = 0.04  # ratio; F. Gouyon et al., 2006

Array = TypeVar("Array", Tensor, np.ndarray)


class Relation(NamedTuple, Generic[Array]):
    """Two boolean matrices (A, B): who is similar to whom, and who is dissimilar; no pair is both."""

    positive: Array
    negative: Array


def as_floats(values: Array) -> Array:
    return values.float() if isinstance(values, Tensor) else values.astype(np.float32, copy=False)


def as_octaves(bpm: Array) -> Array:
    return bpm.double().log2() if isinstance(bpm, Tensor) else np.log2(bpm.astype(np.float64))


def is_octave(bpm: float, other: float, tolerance: float = OCTAVE_TOLERANCE) -> bool:
    """Return whether two tempi are one, two or more octaves apart, one twice as fast as the other and so on, within a ratio.

    >>> is_octave(60.0, 123.0), is_octave(60.0, 61.0), is_octave(60.0, 90.0), is_octave(240.0, 60.0)
    (True, False, False, True)
    """
    octaves = abs(math.log2(bpm / other))
    return abs(octaves - max(1, round(octaves))) <= math.log2(1 + tolerance)


@dataclass(frozen=True)
class TagCondition:
    """Similarity by shared tags out of a vocabulary.

    >>> genre = TagCondition("genre", ("jazz", "rock"))
    >>> labels = genre.encode([["rock"], ["jazz", "rock"], ["jazz"], None])
    >>> genre.relate(labels, labels).positive.int().tolist()
    [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    >>> genre.relate(labels, labels).negative.int().tolist()
    [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    """

    name: str
    vocabulary: tuple[str, ...]

    def encode(self, labels: Sequence[Iterable[str] | None]) -> Tensor:
        """Encode the tags of N tracks as (N, V) bool, V the size of the vocabulary; tags outside of it are ignored.

        Raises:
            ValueError: for a label that is no list of tags.
        """
        column, rows, columns = self.columns, [], []
        for row, tags in enumerate(labels):
            try:
                if isinstance(tags, str | int | float | dict):
                    raise TypeError
                known = [column[tag] for tag in tags or () if tag in column]
            except TypeError:  # also of a tag that is a list
                raise ValueError(f"condition {self.name}: label {tags!r} is not a list of tags") from None
            rows += [row] * len(known)
            columns += known
        encoded = np.zeros((len(labels), len(self.vocabulary)), dtype=bool)
        encoded[rows, columns] = True
        return torch.from_numpy(encoded)

    @cached_property
    def columns(self) -> dict[str, int]:
        return {tag: i for i, tag in enumerate(self.vocabulary)}

    def relate(self, a: Array, b: Array) -> Relation[Array]:
        """Relate encoded tracks a (A, V) and b (B, V)."""
        a, b = as_floats(a), as_floats(b)
        shares = (a @ b.T) > 0
        both_labelled = (a.sum(1) > 0)[:, None] & (b.sum(1) > 0)
        return Relation(shares, both_labelled ^ shares)

    def rarity(self, labels: Array) -> Array:
        """Return weights (N,) of encoded tracks (N, V): to draw by them is to draw a present tag first, then one of its tracks.

        >>> genre = TagCondition("genre", ("jazz", "rock"))
        >>> genre.rarity(genre.encode([["rock"], ["rock"], ["jazz"], None])).tolist()
        [0.5, 0.5, 1.0, 0.0]
        """
        present = as_floats(labels)
        return present @ (1 / present.sum(0).clip(1))

    def stretched(self, labels: Array, ratio: Array) -> Array:
        """Return the labels (N, V) as they are: tags do not depend on how fast tracks are played, by ratios (N,)."""
        return labels

    @property
    def n_classes(self) -> int:
        """Number of classes K: one per tag."""
        return len(self.vocabulary)

    def targets(self, labels: Tensor) -> Tensor:
        """Share each track equally among its tags; encoded labels (N, V) to (N, K), rows of zero where unlabelled.

        >>> genre = TagCondition("genre", ("jazz", "rock"))
        >>> genre.targets(genre.encode([["rock"], ["jazz", "rock"], None])).tolist()
        [[0.0, 1.0], [0.5, 0.5], [0.0, 0.0]]
        """
        return labels / labels.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class TempoCondition:
    """Similarity by tempo.

    Args:
        name: Name of the condition.
        relation: ``absolute`` or ``relative``, see the module's description.
        tolerance_bpm: Half width of the positive zone of ``absolute``, in BPM.
        tolerance: Half width of the positive and octave zones of ``relative``, as a ratio.
        margin: Ratio beyond which ``relative`` takes two tempi as different, at least the tolerance.

    >>> tempo = TempoCondition(relation="relative")
    >>> labels = tempo.encode([100, 103, 109, 130, 201])
    >>> relation = tempo.relate(labels[:1], labels)
    >>> relation.positive.int().tolist(), relation.negative.int().tolist()
    ([[1, 1, 0, 0, 0]], [[0, 0, 0, 1, 0]])
    """

    name: str = "tempo"
    relation: Literal["absolute", "relative"] = "absolute"
    tolerance_bpm: float = 5.0
    tolerance: float = 0.04
    margin: float = 0.16

    def __post_init__(self):
        if self.relation not in ("absolute", "relative"):
            raise ValueError(f"tempo relation {self.relation!r} is unknown: choose absolute or relative")
        if self.margin < self.tolerance:
            raise ValueError(f"tempo margin {self.margin} must not be below the tolerance {self.tolerance}")

    def encode(self, labels: Sequence[float | None]) -> Tensor:
        """Encode the tempi of N tracks as (N, 1) float32 in BPM, NaN where unknown. Raises ValueError for a label that is no number."""
        for bpm in labels:
            if not isinstance(bpm, int | float | None):
                raise ValueError(f"condition {self.name}: label {bpm!r} is not a tempo in BPM")
        return torch.tensor([math.nan if bpm is None else float(bpm) for bpm in labels], dtype=torch.float32)[:, None]

    def relate(self, a: Array, b: Array) -> Relation[Array]:
        known = (a == a) & (b == b).T  # NaN is not equal to itself
        if self.relation == "absolute":
            positive = abs(a - b.T) <= self.tolerance_bpm
            return Relation(positive & known, ~positive & known)
        octaves = abs(as_octaves(a) - as_octaves(b).T)
        tolerance, margin = (math.log2(1 + x) + ROUNDING for x in (self.tolerance, self.margin))
        to_octave = abs(octaves - octaves.round().clip(1))
        negative = (octaves > margin) & (to_octave > tolerance)
        return Relation((octaves <= tolerance) & known, negative & known)

    def rarity(self, labels: Array) -> Array:
        """Return equal weights of all tracks with a tempo; (N, 1) to (N,)."""
        return as_floats(labels[:, 0] == labels[:, 0])

    def stretched(self, labels: Array, ratio: Array) -> Array:
        """Return the tempi (N, 1) of tracks that are played faster by ratios (N,), unknown ones unknown.

        >>> tempo = TempoCondition()
        >>> tempo.stretched(tempo.encode([100, 60, None]), torch.tensor([1.25, 0.5, 1.25])).tolist()
        [[125.0], [30.0], [nan]]
        """
        return as_floats(labels * ratio[:, None])

    @property
    def n_classes(self) -> int:
        """Number of classes K: bins of tempo from ``CLASS_BPM[0]`` to ``CLASS_BPM[1]``, as wide as the positive zone."""
        low, high = self.scaled(torch.tensor(CLASS_BPM)).tolist()
        return max(1, math.ceil(high - low))

    def scaled(self, bpm: Tensor) -> Tensor:
        """Measure tempi in widths of the positive zone, linear for ``absolute``, logarithmic for ``relative``."""
        if self.relation == "absolute":
            return bpm / max(2 * self.tolerance_bpm, MIN_CLASS_BPM)
        return bpm.log2() / max(2 * math.log2(1 + self.tolerance), MIN_CLASS_OCTAVES)

    def targets(self, labels: Tensor) -> Tensor:
        """Return the class of each track's tempo, one-hot; encoded labels (N, 1) to (N, K), rows of zero where unknown.

        >>> tempo = TempoCondition()
        >>> targets = tempo.targets(tempo.encode([30, 41, 299, 1000, None]))
        >>> targets.shape, targets.argmax(1).tolist(), targets.sum(1).tolist()
        (torch.Size([5, 27]), [0, 1, 26, 26, 0], [1.0, 1.0, 1.0, 1.0, 0.0])
        """
        first = self.scaled(torch.tensor(CLASS_BPM[0]))
        number = (self.scaled(labels[:, 0].nan_to_num(CLASS_BPM[0])) - first).floor().clamp(0, self.n_classes - 1)
        return torch.nn.functional.one_hot(number.long(), self.n_classes) * (~labels.isnan()).float()


Condition = TagCondition | TempoCondition


def label_conditions(
    names: Sequence[str], labels: Sequence[Mapping[str, Any]], tempo: Mapping[str, Any]
) -> list[Condition]:
    """Build the conditions of some labels: a tempo condition where they are numbers, else one of all their tags, perhaps none.

    Args:
        names: Of the conditions, in order.
        labels: Of all tracks: per condition the tags or the tempo; a condition without label is absent.
        tempo: How tempi are related, arguments of ``TempoCondition``.

    >>> conditions = label_conditions(["genre", "mood", "tempo"], [{"genre": ["rock"], "tempo": 90.0}, {}], {"margin": 0.5})
    >>> conditions[:2]
    [TagCondition(name='genre', vocabulary=('rock',)), TagCondition(name='mood', vocabulary=())]
    >>> conditions[2].margin
    0.5
    """
    conditions: list[Condition] = []
    for name in names:
        known = [each[name] for each in labels if name in each]
        if known and all(isinstance(label, int | float) for label in known):
            conditions.append(TempoCondition(**{**tempo, "name": name}))
        else:
            conditions.append(TagCondition(name, tuple(sorted({tag for tags in known for tag in tags}))))
    return conditions


def relate_tracks(track: Array, start: Array, min_gap: int, rows: slice = slice(None)) -> Relation[Array]:
    """Relate some chunks to all by their recording: positive are chunks of one track that begin apart, negative those of two tracks.

    Args:
        track: (B,) int64, number of the track of each chunk.
        start: (B,) int64, first frame of each chunk.
        min_gap: Frames that positives begin apart, at least.
        rows: The A chunks that are related to all B; all of them by default.

    >>> relation = relate_tracks(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 10, 70, 0]), min_gap=64)
    >>> relation.positive.int().tolist()
    [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    """
    same = track[rows, None] == track
    apart = abs(start[rows, None] - start) >= min_gap
    return Relation(same & apart, ~same)


def forbid_positives(relation: Relation[Array], forbidden: Array) -> Relation[Array]:
    return Relation(relation.positive & ~forbidden, relation.negative)


def group_numbers(code: Array) -> Array:
    """Number the groups (artists) of tracks, (N,): by their code or, where it is unknown (-1), by a number of their own.

    One comparison then tells whether two tracks are the same or of one group.

    >>> group_numbers(torch.tensor([7, -1, 7, -1])).tolist()
    [7, -2, 7, -4]
    """
    if isinstance(code, Tensor):
        return torch.where(code < 0, -1 - torch.arange(len(code), device=code.device), code)
    return np.where(code < 0, -1 - np.arange(len(code)), code)
