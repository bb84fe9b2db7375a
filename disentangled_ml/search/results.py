"""What a search finds."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from disentangled_ml.search.catalogue import CatalogueTrack


class Duplicate(NamedTuple):
    """Track that is the same as another one, or another version of it.

    Attributes:
        row: In the catalogue.
        track: Of that row.
        kind: ``duplicate``, the same recording again; or ``version``, another recording of the same artist and title.
    """

    row: int
    track: CatalogueTrack
    kind: str

    def as_plain(self) -> dict[str, Any]:
        """Return what is told of it, as plain values."""
        return {**self.track.as_plain(), "kind": self.kind}


class Result(NamedTuple):
    """Track that was found.

    Attributes:
        row: In the catalogue; None of an end of a path that is none of its tracks.
        track: Of that row.
        distance: Weighted distance from the query, where seeds are avoided from the one that is moved away from them; None of a track
            that was named, not searched for.
        distances: Distance in the subspace of each condition that something stands for, without its weight; the weighted squares sum to
            that of ``distance``.
        percentile: Share of the catalogue, in percent, that is farther from the query; None where that was not asked for.
        percentiles: The same in the subspace of each of these conditions.
        matches: What it has in common with what was asked for, in words.
        duplicates: Tracks that were folded into this row.
    """

    row: int | None
    track: CatalogueTrack
    distance: float | None
    distances: dict[str, float]
    percentile: float | None = None
    percentiles: dict[str, float] | None = None
    matches: str = ""
    duplicates: tuple[Duplicate, ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """Return what is told of it, as plain values; what only the answer to a question has, only of one that has it."""
        content = {**self.track.as_plain(), "distance": self.distance, "distances": self.distances}
        if self.percentile is None:
            return content
        return {
            **content,
            "percentile": self.percentile,
            "percentiles": self.percentiles,
            "matches": self.matches,
            "duplicates": [duplicate.as_plain() for duplicate in self.duplicates],
        }


@dataclass(frozen=True)
class Answer:
    """Answer to a question.

    Attributes:
        results: The tracks, in their order.
        weights: Per condition, as they counted: zero where nothing stood for the condition.
        seed_duplicates: Tracks that are the same as a seed, which were left out of the results.
        beyond_artist: Number of tracks that were skipped on the way to the last result, for their artist has enough.
        beyond_album: The same of albums.
        without_tempo: Number of tracks that were left out, for their tempo is not known; 0 where tempo was not asked for.
    """

    results: list[Result]
    weights: dict[str, float]
    seed_duplicates: tuple[Duplicate, ...] = ()
    beyond_artist: int = 0
    beyond_album: int = 0
    without_tempo: int = 0
