"""A question to a catalogue, as plain values: what the results should be like, and what not, condition by condition.

Question(seeds=("A",))                                        # like A
Question(seeds_of={"genre": ("A",), "mood": ("B",)})          # the genre of A, the mood of B
Question(seeds=("A", "B"), avoid=("C",), labels={"mood": "calm"}, tempo_change=(-0.15, -0.05), per_artist=2)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from disentangled_ml.search.recording import EmbeddedRecording

# Id of a track of the catalogue, or a recording: its embedding (D,), alone or with its audio fingerprint.
Seed = str | np.ndarray | EmbeddedRecording


@dataclass(frozen=True, eq=False)
class Question:
    """A question, which ``SimilaritySearch.ask`` answers.

    Attributes:
        seeds: That the results should be like, in each condition that has none of its own.
        seeds_of: Seeds of single conditions.
        labels: A label that stands for a condition instead of seeds, as ``{"mood": "calm"}``.
        avoid: Seeds that the results should not be like.
        avoid_of: The same for single conditions.
        weights: Per condition, see ``check_weights``; None: 1 each. One that no seed or label stands for has none.
        k: Number of results.
        tempo: Slowest and fastest in BPM.
        tempo_change: The same relative to the tempo of the seeds that stand for tempo, or else of the first seed with a known one,
            as (-0.15, -0.05) for 5 to 15 % slower; half and double of a track's tempo count as well.
        other_artists: Leave out the artists of the seeds.
        most_dissimilar: Farthest first.
        per_artist: Most results by one artist; None: any number. Tracks of unknown artist are not counted.
        per_album: The same of albums.
        fold_duplicates: Fold duplicates and versions of a result, and of a seed, into one row.
        method: ``auto``, ``exact`` or ``approximate``.
    """

    seeds: Sequence[Seed] = ()
    seeds_of: Mapping[str, Sequence[Seed]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    avoid: Sequence[Seed] = ()
    avoid_of: Mapping[str, Sequence[Seed]] = field(default_factory=dict)
    weights: Mapping[str, float] | None = None
    k: int = 10
    tempo: tuple[float, float] | None = None
    tempo_change: tuple[float, float] | None = None
    other_artists: bool = False
    most_dissimilar: bool = False
    per_artist: int | None = None
    per_album: int | None = None
    fold_duplicates: bool = True
    method: str = "auto"

    def seeds_for(self, condition: str) -> Sequence[Seed]:
        """Return the seeds of a condition: its own, or those for all; none where a label stands for it.

        >>> Question(seeds=("a",), seeds_of={"mood": ("b",)}, labels={"genre": "jazz"}).seeds_for("mood")
        ('b',)
        """
        return () if condition in self.labels else self.seeds_of.get(condition) or self.seeds

    def avoided_for(self, condition: str) -> list[Seed]:
        """Return the seeds to avoid in a condition: its own, and those for all."""
        return [*self.avoid, *self.avoid_of.get(condition, ())]


def check_question(question: Question, condition_names: Sequence[str], seeds_of: str = "seeds_of") -> None:
    """Raise ValueError for what cannot be asked, naming it; weights and ranges are checked where they are used.

    Args:
        question: The question.
        condition_names: That the model knows.
        seeds_of: What messages call the seeds of single conditions.
    """
    for key, given in ((seeds_of, question.seeds_of), ("labels", question.labels), ("avoid_of", question.avoid_of)):
        for name in given:
            if name not in condition_names:
                known = ", ".join(condition_names)
                raise ValueError(f"{key}.{name}: the model knows no such condition, only {known}")
    both = [name for name in question.labels if question.seeds_of.get(name)]
    if both:
        raise ValueError(f"{both[0]} has seeds and a label: give {seeds_of}.{both[0]} or labels.{both[0]}")
    given = {"seeds": question.seeds, "avoid": question.avoid}
    for key, lists in ((seeds_of, question.seeds_of), ("avoid_of", question.avoid_of)):
        given |= {f"{key}.{name}": seeds for name, seeds in lists.items()}
    for key, seeds in given.items():
        if isinstance(seeds, str):
            raise ValueError(f"{key}={seeds!r} is one name: give a list of seeds, as [{seeds!r}]")
    for key in ("k", "per_artist", "per_album"):
        value = getattr(question, key)
        if not (value is None and key != "k") and (type(value) is not int or value < 1):
            raise ValueError(f"{key}={value} is not legal: give a number from 1 on")
