"""What the page shows of a catalogue, without the web: its tracks, its maps, and the results of searches with their reasons.

Answers are dictionaries of plain values. They have names as they are in the catalogue; the page shows them as text.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from disentangled_ml.files import existing_form, read_json, write_json
from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.search.similarity_search import SearchFilters, SimilaritySearch
from disentangled_ml.search.weighted_distance import condition_distances
from disentangled_ml.structures import UNKNOWN
from disentangled_ml.web.uploads import EmbeddedUpload, UploadLimits, Uploads

# Of formats that browsers play.
EXTENSIONS = (".flac", ".wav", ".ogg", ".mp3", ".m4a", ".aac", ".opus", ".oga", ".webm")
MAX_RESULTS, MAX_SUGGESTIONS = 100, 20
MAP_TRACKS, TYPICAL_TRACKS, SEED = 2_000, 2_000, 0
# Subfolder of a catalogue for its maps.
MAPS = "maps"
MAX_BPM = 1_000.0
logger = logging.getLogger("serve")


class UnknownQuery(ValueError):
    """The query of a search does not exist."""


class CatalogueView:
    """Answers to the page's questions about a catalogue.

    Args:
        search: Of the catalogue.
        embed_upload: Embeds an open file that was uploaded, or raises a ValueError with the reason why not.
        plane: Projects points (N, D) to two dimensions.
        limits: Of uploads.
        root: Folder that the recordings lie in; None: wherever the catalogue says.
    """

    def __init__(
        self,
        search: SimilaritySearch,
        embed_upload: Callable[[IO[bytes]], EmbeddedUpload],
        plane: Callable[[np.ndarray], np.ndarray],
        limits: UploadLimits | None = None,
        root: Path | None = None,
    ):
        self.search_tracks, self.embed_upload, self.plane = search, embed_upload, plane
        self.limits, self.root = limits or UploadLimits(), None if root is None else root.resolve()
        self.catalogue, self.uploads = search.catalogue, Uploads()
        self.texts: list[str] | None = None
        self.maps: dict[str | None, dict[str, Any]] = {}
        # Texts and maps are made once, when they are first asked for.
        self.reading, self.drawing = threading.Lock(), threading.Lock()

    @property
    def chunk_seconds(self) -> float:
        return self.catalogue.model.audio.seconds(self.catalogue.model.chunk_frames)

    def summary(self) -> dict[str, Any]:
        columns = self.catalogue.columns
        tempo = columns["tempo"][np.isfinite(columns["tempo"])]
        return {
            "size": len(self.catalogue),
            "conditions": [{"name": name} for name in self.catalogue.condition_names],
            "has_artists": bool((columns["artist"] != UNKNOWN).any()),
            "tempo": [float(tempo.min()), float(tempo.max())] if len(tempo) else None,
            "upload": {"max_bytes": self.limits.max_bytes, "max_seconds": self.limits.max_seconds},
        }

    def find(self, text: str) -> list[dict[str, Any]]:
        """Find the tracks whose id, artist or labels hold all words of a text, first those whose id begins with it."""
        text = text.casefold().strip()[:200]
        words = text.split()
        if not words:
            return []
        begin: list[int] = []
        hold: list[int] = []
        for row, searched in enumerate(self.searched_texts()):
            if all(word in searched for word in words):
                (begin if searched.startswith(text) else hold).append(row)
                if len(begin) == MAX_SUGGESTIONS:
                    break
        return [self.shown(track) for track in self.catalogue.tracks([*begin, *hold][:MAX_SUGGESTIONS])]

    def searched_texts(self) -> list[str]:
        """Return the text that each track is found by, in lower case and in the order of the rows; it is read once.

        Raises CatalogueError if a row is damaged or missing.
        """
        with self.reading:
            if self.texts is None:
                self.texts = list(map(searched_text, self.catalogue.every_track()))
            return self.texts

    def search(self, question: dict[str, Any]) -> dict[str, Any]:
        """Find the tracks similar to a track or an upload.

        The question is ``{"track": id}`` or ``{"upload": name}``, with ``weights`` ({condition: number}), and if wanted ``k``,
        ``other_artists`` (leave out the artist of the query) and ``tempo`` ([slowest, fastest], None for no bound).
        Raises UnknownQuery if the track or the upload is not there, ValueError for anything else that is not legal.
        """
        k, weights = question.get("k", 10), question.get("weights")
        if type(k) is not int or not 1 <= k <= MAX_RESULTS:
            raise ValueError(f"k is a number from 1 to {MAX_RESULTS}")
        if not isinstance(weights, dict):
            raise ValueError("weights are an object with a number for each condition")
        row, embedding = self.query_of(question)
        query = None if row is None else self.catalogue.track(row)
        artist = query.artist if query is not None and question.get("other_artists") is True else None
        filters = SearchFilters(row, artist, tempo_range(question.get("tempo")))
        results = self.search_tracks.search(embedding, weights, k, filters)
        return {
            "query": None if query is None else self.shown(query),
            "results": [
                {"track": self.shown(found.track), "distance": found.distance, "distances": found.distances}
                for found in results
            ],
            "typical": self.typical_distances(embedding),
        }

    def query_of(self, question: dict[str, Any]) -> tuple[int | None, np.ndarray]:
        """Return the row of the query, if it has one, and its embedding."""
        track_id, upload = question.get("track"), question.get("upload")
        if isinstance(track_id, str) and upload is None:
            row = self.catalogue.find(track_id)
            if row is None:
                raise UnknownQuery("the catalogue has no such track")
            return row, self.catalogue.embedding[row]
        if isinstance(upload, str) and track_id is None:
            embedding = self.uploads.find(upload)
            if embedding is None:
                raise UnknownQuery("this upload is no longer known: upload it again")
            return None, embedding
        raise ValueError("name either a track or an upload to search with")

    def typical_distances(self, embedding: np.ndarray) -> dict[str, float]:
        """Return the median distance of the tracks of the catalogue from a query, per condition."""
        rows = some_rows(len(self.catalogue), TYPICAL_TRACKS)
        squared = condition_distances(self.catalogue.embedding[rows], embedding, self.catalogue.model.masks)
        median = np.median(np.sqrt(squared), axis=0).tolist()
        return dict(zip(self.catalogue.condition_names, median, strict=True))

    def add_upload(self, file: IO[bytes]) -> dict[str, Any]:
        """Embed an uploaded recording to search with. Raises ValueError if it cannot be used."""
        embedded = self.embed_upload(file)
        return {
            "upload": self.uploads.add(embedded.embedding),
            "seconds": embedded.seconds,
            "cut": embedded.cut,
            "warnings": list(embedded.warnings),
        }

    def recording(self, track_id: str) -> Path | None:
        """Return the file of a track's recording; None if there is none that can be played."""
        row = self.catalogue.find(track_id)
        return None if row is None else recording_of(self.catalogue.track(row), self.root)

    def shown(self, track: CatalogueTrack) -> dict[str, Any]:
        """Return what the page shows of a track."""
        audio = recording_of(track, self.root) is not None
        return {"id": track.track_id, "artist": track.artist, "labels": track.labels, "audio": audio}

    def map(self, space: str | None) -> dict[str, Any]:
        """Return the map of a condition's subspace, or of all dimensions (None); it is drawn once and saved.

        It is ``{"ids", "artists", "x", "y", "labels": {condition: [label or None]}, "of": tracks of the catalogue}``, x and y
        from 0 to 1. Of a large catalogue ``MAP_TRACKS`` tracks are drawn by lot. Raises ValueError for an unknown condition.
        """
        names = self.catalogue.condition_names
        if space is not None and space not in names:
            raise ValueError(f"the model knows no such condition, only {', '.join(names)}")
        with self.drawing:
            if space not in self.maps:
                self.maps[space] = self.make_map(space)
            return self.maps[space]

    def make_map(self, space: str | None) -> dict[str, Any]:
        """Draw a map, or read it where it was saved."""
        names, model = self.catalogue.condition_names, self.catalogue.model
        rows = some_rows(len(self.catalogue), MAP_TRACKS)
        points = self.catalogue.embedding[rows] * (1.0 if space is None else model.masks[names.index(space)])
        points = np.asarray(points, np.float32)
        path = self.catalogue.folder / MAPS / f"{hashlib.blake2b(points.tobytes(), digest_size=8).hexdigest()}.json"
        places = kept_places(path, len(rows))
        if places is None:
            places = fit_square(self.plane(points)).round(4)
            keep_places(path, places)
        tracks = self.catalogue.tracks(rows.tolist())
        return {
            "ids": [track.track_id for track in tracks],
            "artists": [track.artist for track in tracks],
            "x": places[:, 0].tolist(),
            "y": places[:, 1].tolist(),
            "labels": {name: [track.labels.get(name) for track in tracks] for name in names},
            "of": len(self.catalogue),
        }


def searched_text(track: CatalogueTrack) -> str:
    """Return the text that a track is found by.

    >>> searched_text(CatalogueTrack("T1", "Ann", None, {"genre": ["Rock"], "tempo": 90.0}))
    't1 ann rock'
    """
    tags = [tag for label in track.labels.values() if isinstance(label, list) for tag in label]
    return " ".join([track.track_id, *filter(None, [track.artist]), *map(str, tags)]).casefold()


def some_rows(n: int, most: int) -> np.ndarray:
    """Return some rows of n, drawn at random, always the same, in order.

    >>> some_rows(3, 5).tolist(), len(some_rows(10, 5))
    ([0, 1, 2], 5)
    """
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(SEED).choice(n, most, replace=False))


def tempo_range(tempo: Any) -> tuple[float, float] | None:
    """Return the range of tempi that a question asks for; None stands for no bound. Raises ValueError if it is no range.

    >>> tempo_range([90, None]), tempo_range([None, None]), tempo_range(None)
    ((90.0, 1000.0), None, None)
    """
    if tempo is None or tempo == [None, None]:
        return None
    if not isinstance(tempo, list) or len(tempo) != 2:
        raise ValueError("tempo is a list of the slowest and the fastest in BPM")
    bounds = [default if bound is None else bound for bound, default in zip(tempo, (0.0, MAX_BPM), strict=True)]
    if any(type(bound) not in (int, float) for bound in bounds) or not 0 <= bounds[0] <= bounds[1] <= MAX_BPM:
        raise ValueError(f"the slowest tempo must not be above the fastest, both from 0 to {MAX_BPM:g} BPM")
    return float(bounds[0]), float(bounds[1])


def recording_of(track: CatalogueTrack, root: Path | None) -> Path | None:
    """Return the file of a track's recording, if browsers play its format.

    Nothing outside of the root is given, and a track without a path is looked for there under its id; without a root (None) the
    file is wherever the catalogue says.
    """
    if track.path:
        named = [existing_form(Path(track.path))]
    else:
        named = [] if root is None else [root / f"{track.track_id}{extension}" for extension in EXTENSIONS]
    return next((path for path in named if is_playable(path, root)), None)


def is_playable(path: Path, root: Path | None) -> bool:
    """Return whether a file exists inside of the root and browsers play its format."""
    try:
        inside = root is None or path.resolve().is_relative_to(root)
        return inside and path.suffix.lower() in EXTENSIONS and path.is_file()
    except (OSError, ValueError):  # of names that no file can have
        return False


def fit_square(places: np.ndarray) -> np.ndarray:
    """Scale points (N, 2) to the square from 0 to 1.

    >>> fit_square(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[0.0, 0.5], [1.0, 0.5]]
    """
    low, high = places.min(axis=0), places.max(axis=0)
    return np.where(high > low, (places - low) / np.where(high > low, high - low, 1.0), 0.5)


def kept_places(path: Path, n: int) -> np.ndarray | None:
    """Read the n points of a saved map; None if there is none, or it is damaged."""
    try:
        places = np.array(read_json(path)["places"], np.float64)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return places if places.shape == (n, 2) and np.isfinite(places).all() else None


def keep_places(path: Path, places: np.ndarray) -> None:
    """Save the points of a map beside the catalogue, where that can be written to."""
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"places": places.tolist()})
    except OSError as error:
        logger.warning("the map cannot be kept beside the catalogue and is drawn at each start (%s)", error)
