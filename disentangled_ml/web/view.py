"""What the API tells of a catalogue, without the web: its tracks, labels and maps, and the answers to questions.

Questions and answers are plain values, as api.md and openapi.py describe them. They have names as they are in the catalogue; the page
shows them as text.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from disentangled_ml.search.answering import find_seed
from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.search.labels import LabelledTracks, rows_by_label
from disentangled_ml.search.path import path_between
from disentangled_ml.search.question import Question, Seed
from disentangled_ml.search.results import Duplicate, Result
from disentangled_ml.search.similarity_search import SimilaritySearch
from disentangled_ml.structures import UNKNOWN
from disentangled_ml.web.asking import composed_question, path_question, places_question, plain_question
from disentangled_ml.web.maps import make_map, nearest_drawn
from disentangled_ml.web.recordings import recording_of
from disentangled_ml.web.texts import TextIndex, searched_text
from disentangled_ml.web.uploads import EmbeddedUpload, UploadLimits, Uploads


class UnknownQuery(ValueError):
    """A track or an upload does not exist."""


class CatalogueView:
    """Answers to questions about a catalogue.

    Args:
        search: Of the catalogue.
        embed_upload: Embeds an open file that was uploaded, or raises a ValueError with the reason why not.
        plane: Projects points (N, D) to two dimensions.
        limits: Of uploads.
        root: Folder that the recordings lie in; None: wherever the catalogue says.
        weights: Per condition, of questions that give none; None: 1 each.
    """

    def __init__(
        self,
        search: SimilaritySearch,
        embed_upload: Callable[[IO[bytes]], EmbeddedUpload],
        plane: Callable[[np.ndarray], np.ndarray],
        limits: UploadLimits | None = None,
        root: Path | None = None,
        weights: Mapping[str, float] | None = None,
    ):
        self.search_tracks, self.embed_upload, self.plane = search, embed_upload, plane
        self.limits, self.root = limits or UploadLimits(), None if root is None else root.resolve()
        self.catalogue, self.uploads = search.catalogue, Uploads()
        self.weights = dict(weights or dict.fromkeys(search.catalogue.condition_names, 1.0))
        self.texts: TextIndex | None = None
        self.maps: dict[str | None, dict[str, Any]] = {}
        # Texts and maps are made once, when they are first asked for.
        self.reading, self.drawing = threading.Lock(), threading.Lock()

    @property
    def chunk_seconds(self) -> float:
        return self.catalogue.model.audio.seconds(self.catalogue.model.chunk_frames)

    def summary(self) -> dict[str, Any]:
        columns, estimated = self.catalogue.columns, self.catalogue.estimated
        tempo = columns["tempo"][np.isfinite(columns["tempo"])]
        return {
            "size": len(self.catalogue),
            "conditions": [
                {"name": name, "weight": self.weights[name], "estimated": name in estimated}
                for name in self.catalogue.condition_names
            ],
            "has_artists": bool((columns["artist"] != UNKNOWN).any()),
            "tempo": [float(tempo.min()), float(tempo.max())] if len(tempo) else None,
            "upload": {"max_bytes": self.limits.max_bytes, "max_seconds": self.limits.max_seconds},
        }

    def health(self) -> dict[str, Any]:
        catalogue = self.catalogue
        return {
            "ok": True,
            "tracks": len(catalogue),
            "conditions": catalogue.condition_names,
            "model": catalogue.model.fingerprint,
        }

    # Tracks and labels

    def tracks(self, text: str = "", limit: int = 20, offset: int = 0) -> dict[str, Any]:
        """Return a page of the tracks that hold all words of a text, or of all tracks, and where the next one begins, if any."""
        end = offset + limit
        some = range(min(len(self.catalogue), end + 1))
        rows = self.read_texts().find(text, end + 1) if text.strip() else some
        shown = [self.shown(track) for track in self.catalogue.tracks(rows[offset:end])]
        return {"tracks": shown, "next": end if len(rows) > end else None}

    def track(self, track_id: str) -> dict[str, Any]:
        """Return what is known about a track. Raises UnknownQuery if there is none."""
        return self.shown(self.catalogue.track(self.row_of(track_id)))

    def row_of(self, track_id: str) -> int:
        row = self.catalogue.find(track_id)
        if row is None:
            raise UnknownQuery("the catalogue has no such track")
        return row

    def labels(self) -> dict[str, list[dict[str, Any]]]:
        """Return the labels of each condition that has some, and how many tracks have each, the most frequent first."""
        self.read_texts()
        names, found = self.catalogue.condition_names, self.search_tracks.labelled.rows
        counted = {name: {label: len(rows) for label, rows in found.get(name, {}).items()} for name in names}
        return {
            name: [
                {"label": label, "tracks": count}
                for label, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            ]
            for name, counts in counted.items()
            if counts
        }

    def read_texts(self) -> TextIndex:
        """Read all tracks, once, for what they are found by: the texts that are returned, and the labels.

        Raises CatalogueError if a row is damaged or missing.
        """
        with self.reading:
            if self.texts is None:
                texts: list[str] = []

                def noted() -> Iterator[CatalogueTrack]:
                    for track in self.catalogue.every_track():
                        texts.append(searched_text(track))
                        yield track

                self.search_tracks.labelled = LabelledTracks(rows_by_label(noted()))
                self.texts = TextIndex(texts)
            return self.texts

    def shown(self, track: CatalogueTrack) -> dict[str, Any]:
        """Return what is told of a track."""
        metadata = track.metadata or {}
        return {
            "id": track.track_id,
            "name": track.name,
            "title": metadata.get("title"),
            "artist": track.artist,
            "album": metadata.get("album"),
            "labels": track.labels,
            "estimated": self.catalogue.estimated_of(track),
            "audio": recording_of(track, self.root) is not None,
        }

    def recording(self, track_id: str) -> Path | None:
        """Return the file of a track's recording; None if there is none that can be played."""
        row = self.catalogue.find(track_id)
        return None if row is None else recording_of(self.catalogue.track(row), self.root)

    # Questions

    def similar(self, content: dict[str, Any]) -> dict[str, Any]:
        """Find the tracks similar to a track or an upload. Raises UnknownQuery if it is not there, ValueError for what is not legal."""
        return self.answer(plain_question(self.weighted(content), self.find_seed))

    def compose(self, content: dict[str, Any]) -> dict[str, Any]:
        """Answer a question of several seeds and labels; errors as of ``similar``."""
        return self.answer(composed_question(self.weighted(content), self.find_seed))

    def answer(self, question: Question) -> dict[str, Any]:
        if question.labels:
            self.read_texts()
        answer = self.search_tracks.ask(question)
        return {
            "results": [self.shown_result(found) for found in answer.results],
            "weights": answer.weights,
            "seeds": [self.track(track_id) for track_id in track_seeds(question)],
            "seed_duplicates": self.shown_duplicates(answer.seed_duplicates),
            "beyond_artist": answer.beyond_artist,
            "beyond_album": answer.beyond_album,
            "without_tempo": answer.without_tempo,
        }

    def weighted(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return a question with weights: its own, or those of the view."""
        return content if content.get("weights") is not None else {**content, "weights": self.weights}

    def path(self, content: dict[str, Any]) -> dict[str, Any]:
        """Find a path between two tracks or uploads; errors as of ``similar``."""
        return {"steps": [self.shown_step(found) for found in self.path_results(content)]}

    def path_results(self, content: dict[str, Any]) -> list[Result]:
        return path_between(self.search_tracks, **path_question(self.weighted(content), self.find_seed))

    def listed(self, content: dict[str, Any]) -> list[Result]:
        """Return the tracks of a list to save: of ids, of a question or of a path, whose uploads are none of the catalogue's."""
        if isinstance(content.get("question"), dict):
            return self.search_tracks.ask(composed_question(self.weighted(content["question"]), self.find_seed)).results
        if isinstance(content.get("path"), dict):
            return [found for found in self.path_results(content["path"]) if found.row is not None]
        rows = [self.row_of(track_id) for track_id in content["tracks"]]
        tracks = self.catalogue.tracks(rows)
        return [Result(row, track, None, {}) for row, track in zip(rows, tracks, strict=True)]

    def find_seed(self, seed: Any) -> Seed:
        """Return a seed as ``Question`` has it. Raises UnknownQuery if it is not there."""
        if isinstance(seed, str):
            self.row_of(seed)
            return seed
        recording = self.uploads.find(seed["upload"])
        if recording is None:
            raise UnknownQuery("this upload is no longer known: upload it again")
        return recording

    def shown_result(self, found: Result) -> dict[str, Any]:
        return {
            **self.shown_step(found),
            "percentile": found.percentile,
            "percentiles": found.percentiles,
            "matches": found.matches,
            "duplicates": self.shown_duplicates(found.duplicates),
        }

    def shown_step(self, found: Result) -> dict[str, Any]:
        track = None if found.row is None else self.shown(found.track)
        return {"track": track, "distance": found.distance, "distances": found.distances}

    def shown_duplicates(self, duplicates: Sequence[Duplicate]) -> list[dict[str, Any]]:
        return [{"track": self.shown(each.track), "kind": each.kind} for each in duplicates]

    # Uploads and maps

    def add_upload(self, file: IO[bytes]) -> dict[str, Any]:
        """Embed an uploaded recording to search with. Raises ValueError if it cannot be used."""
        embedded = self.embed_upload(file)
        return {
            "upload": self.uploads.add(embedded.recording),
            "seconds": embedded.seconds,
            "cut": embedded.cut,
            "warnings": list(embedded.warnings),
        }

    def map(self, space: str | None) -> dict[str, Any]:
        """Return the map of a condition's subspace, or of all dimensions (None); it is drawn once and saved.

        It is ``{"ids", "names", "titles", "artists", "x", "y", "labels": {condition: [label or None]}, "of": tracks in all}``,
        x and y from 0 to 1. Of a large catalogue some tracks are drawn by lot. Raises ValueError for an unknown condition.
        """
        names = self.catalogue.condition_names
        if space is not None and space not in names:
            raise ValueError(f"the model knows no such condition, only {', '.join(names)}")
        with self.drawing:
            if space not in self.maps:
                self.maps[space] = make_map(self.catalogue, space, self.plane)
            return self.maps[space]

    def places(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return where seeds lie on a map, each at the nearest track that is drawn: itself, where it is; errors as of ``similar``."""
        seeds, space = places_question(content, self.find_seed)
        drawn = self.map(space)
        embeddings = [find_seed(self.search_tracks, seed, {}).embedding for seed in seeds]
        nearest = nearest_drawn(self.catalogue, space, np.array(embeddings)).tolist()
        return {axis: [drawn[axis][place] for place in nearest] for axis in ("x", "y")}


def track_seeds(question: Question) -> list[str]:
    """Return the ids of the seeds of a question, each once.

    >>> track_seeds(Question(seeds=["a"], avoid_of={"mood": ["b", "a"]}))
    ['a', 'b']
    """
    lists = [question.seeds, question.avoid, *question.seeds_of.values(), *question.avoid_of.values()]
    return list(dict.fromkeys(seed for own in lists for seed in own if isinstance(seed, str)))
