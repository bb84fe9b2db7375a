"""The folder of an embedded catalogue, which ``disentangled embed`` makes and ``disentangled search`` reads.

* ``catalogue.json``: format version, number of tracks, the folder of the files below, the manifest or shards that they are of, the
  model (sha256 of its checkpoint), its conditions and their masks (C, D), audio settings, length of its chunks, how its tempi
  are related, and the conditions of which labels are estimated.

In ``state-DIGEST/``, named after its content, which never changes:

* ``embedding.npy``: (N, D) float32, a row per track: the mean of the unit embeddings of its non-overlapping chunks, of unit length.
* ``audio_fingerprint.npy``: (N, SIZE) int8, see ``datamodules/audio/fingerprint.py``; catalogues of before there were any have none.
* ``tracks.jsonl``: a line of JSON per track: ``track_id``, ``artist``, ``path``, ``labels``, ``section`` and, if known, ``metadata``;
  where some labels of the catalogue are estimated, ``estimated`` too.
* ``columns.npy``: (N,) of what is searched or filtered by without reading those lines, see ``COLUMNS``.
* ``index.faiss``: of large catalogues, see approximate.py.

A new state is written beside the old one, which stays until the next but one is there; then ``catalogue.json`` is replaced, by one
rename. So whoever opens a catalogue has one state of it, and keeps that. Catalogues that were made before there were states have
their files beside ``catalogue.json``, and are read too.

Plain ``.npy`` arrays, since they are exact, need no further library, hold no pickles and are mapped into memory: a catalogue of a
million tracks opens at once, and what is not looked at is not read. (The members of an npz cannot be mapped, nor can Parquet.)
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.audio.fingerprint import NO_FINGERPRINT, SIZE
from disentangled_ml.files import DAMAGED_NPZ
from disentangled_ml.network.checkpoint import ModelDescription
from disentangled_ml.search.recording import EmbeddedRecording
from disentangled_ml.structures import TEMPO, AudioSettings, name_code

FORMAT_VERSION = 1
HEADER, EMBEDDING, TRACKS, COLUMNS_FILE = "catalogue.json", "embedding.npy", "tracks.jsonl", "columns.npy"
AUDIO_FINGERPRINTS, INDEX = "audio_fingerprint.npy", "index.faiss"
FILES = (EMBEDDING, AUDIO_FINGERPRINTS, TRACKS, COLUMNS_FILE, INDEX)  # of a state
STATE = "state-"  # how the name of a state's folder begins
BESIDE = "."  # state of a catalogue without folders of states
COLUMNS = np.dtype(
    [
        ("key", "<i8"),  # of the track id, see name_code
        ("offset", "<i8"),  # of the track's line in tracks.jsonl, in bytes
        ("artist", "<i8"),  # key of the artist, -1 where unknown
        ("tempo", "<f4"),  # in BPM, NaN where unknown
    ]
)


class CatalogueError(ValueError):
    """A part of a catalogue cannot be used; the message says which, and what to do."""


class CatalogueTrack(NamedTuple):
    """Track of a catalogue.

    Attributes:
        track_id: Unique name.
        artist: None where unknown.
        path: Of the recording; None where unknown, as of tracks that were embedded from shards.
        labels: Per condition the tags (list of str) or the tempo (float, BPM); a condition without label is absent.
        section: Of the recording, from and to where in seconds, the latter None for its end; None where that was not yet kept.
        metadata: Title, album and the like, by ``METADATA``; None where the manifest has none.
        estimated: Conditions whose label is estimated; None where only ``EmbeddedCatalogue.estimated`` says something about that.
    """

    track_id: str
    artist: str | None
    path: str | None
    labels: dict[str, list[str] | float]
    section: Sequence[float | None] | None = None
    metadata: dict[str, str] | None = None
    estimated: list[str] | None = None

    @property
    def name(self) -> str:
        """What people are shown: the title, else the name of the file, if it is whole, else the id.

        >>> CatalogueTrack("a__b", None, "/music/a/b.ogg", {}).name, CatalogueTrack("a__b", None, None, {}).name
        ('b', 'a__b')
        >>> CatalogueTrack("a__b", None, "/music/a/b.ogg", {}, [30.0, 60.0]).name
        'a__b'
        """
        is_whole = self.section is None or list(self.section) == [0.0, None]
        stem = Path(self.path).stem if self.path and is_whole else ""
        return (self.metadata or {}).get("title") or stem or self.track_id

    def as_plain(self) -> dict[str, Any]:
        """Return what is stored of it; metadata, and what is estimated, only where that is known.

        >>> CatalogueTrack("a", None, None, {}).as_plain()
        {'track_id': 'a', 'artist': None, 'path': None, 'labels': {}, 'section': None}
        """
        content = self._asdict()
        for name in ("metadata", "estimated"):
            if content[name] is None:
                del content[name]
        return content


def describe_model(model: ModelDescription) -> dict[str, Any]:
    """Return what a catalogue stores of the model that embedded it, as plain values, the inverse of ``read_description``."""
    return {
        "model": model.fingerprint,
        "conditions": model.condition_names,
        "masks": model.masks.tolist(),
        "audio": asdict(model.audio),
        "chunk_frames": model.chunk_frames,
        "tempo": model.tempo,
    }


@dataclass(frozen=True)
class EmbeddedCatalogue:
    """Embedded catalogue of N tracks.

    Attributes:
        folder: Where it lies.
        files: The folder within, of the state that is open.
        model: That embedded it.
        embedding: (N, D) float32, unit rows.
        columns: (N,) of ``COLUMNS``.
        estimated: Conditions of which labels are estimated, of some tracks at least.
        audio_fingerprint: (N, SIZE) int8; None where an earlier version made the catalogue.
        checkpoint: That embedded it, where it was then; None where an earlier version made the catalogue.
    """

    folder: Path
    files: Path
    model: ModelDescription
    embedding: np.ndarray
    columns: np.ndarray
    estimated: tuple[str, ...] = ()
    audio_fingerprint: np.ndarray | None = None
    checkpoint: Path | None = None

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def condition_names(self) -> list[str]:
        return self.model.condition_names

    @cached_property
    def by_key(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted keys, and the row of each: (N,) int64, (N,) int64."""
        keys = np.ascontiguousarray(self.columns["key"])
        rows = np.argsort(keys, kind="stable")
        return keys[rows], rows

    def recording(self, row: int) -> EmbeddedRecording:
        """Return what the recording of a row is found by; its fingerprint is like none where the catalogue has none."""
        embeddings, fingerprints = self.recordings([row])
        return EmbeddedRecording(embeddings[0], fingerprints[0])

    def recordings(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the embeddings (R, D) and fingerprints (R, SIZE) of some rows, as ``recording`` does."""
        known = self.audio_fingerprint
        return self.embedding[rows], np.tile(NO_FINGERPRINT, (len(rows), 1)) if known is None else known[rows]

    def track(self, row: int) -> CatalogueTrack:
        """Read what is known about the track of a row. Raises CatalogueError if its line is damaged."""
        return self.tracks([row])[0]

    def tracks(self, rows: Iterable[int]) -> list[CatalogueTrack]:
        """Read what is known about the tracks of some rows. Raises CatalogueError, naming the line that is damaged."""
        path, found = self.files / TRACKS, []
        try:
            with open(path, "rb") as file:
                for row in rows:
                    file.seek(int(self.columns["offset"][row]))
                    found.append(parse_track(file.readline(), f"{path}, row {row}"))
        except OSError as error:
            raise CatalogueError(f"{path} cannot be read ({error.strerror}): embed the catalogue anew") from error
        return found

    def every_track(self) -> Iterator[CatalogueTrack]:
        """Read what is known about all tracks, in order. Raises CatalogueError, naming the line that is damaged or missing."""
        path, row = self.files / TRACKS, -1
        try:
            with open(path, "rb") as file:
                for row, line in enumerate(file):
                    yield parse_track(line, f"{path}, row {row}")
        except OSError as error:
            raise CatalogueError(f"{path} cannot be read ({error.strerror}): embed the catalogue anew") from error
        if row + 1 != len(self):
            raise CatalogueError(f"{path} has {row + 1} rows, expected {len(self)}: embed the catalogue anew")

    def estimated_of(self, track: CatalogueTrack) -> list[str]:
        """Return the conditions whose label is estimated, of a track; where it is not known of which tracks, that of all of them."""
        names = self.estimated if track.estimated is None else track.estimated
        return [name for name in track.labels if name in names]

    def find(self, track_id: str) -> int | None:
        """Find the row of a track; None if there is none."""
        keys, rows = self.by_key
        key = name_code(track_id)
        of_key = slice(np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right"))
        for row in rows[of_key].tolist():  # two ids might have one key
            if self.track(row).track_id == track_id:
                return row
        return None


def column_values(track: CatalogueTrack, offset: int) -> tuple[int, int, int, float]:
    """Return the columns of a track whose line begins at an offset.

    >>> column_values(CatalogueTrack("a", None, None, {"tempo": 120.0}), 7)[1:]
    (7, -1, 120.0)
    """
    tempo = track.labels.get(TEMPO)
    return (
        name_code(track.track_id),
        offset,
        name_code(track.artist),
        float(tempo) if isinstance(tempo, int | float) else float("nan"),
    )


def parse_track(line: bytes, where: str) -> CatalogueTrack:
    """Parse a line of ``tracks.jsonl``. Raises CatalogueError, naming the line, if it is not one."""
    try:
        track = CatalogueTrack(**json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise CatalogueError(f"{where} is not that of a track ({error}): embed the catalogue anew") from error
    legal = (str, str | None, str | None, dict, list | None, dict | None, list | None)
    if not all(isinstance(value, kind) for value, kind in zip(track, legal, strict=True)):
        raise CatalogueError(f"{where} is not that of a track ({line[:100]!r}): embed the catalogue anew")
    return track


def read_description(content: dict[str, Any]) -> ModelDescription:
    """Return the model that plain values describe. Raises ValueError, KeyError or TypeError for others."""
    names, masks = content["conditions"], np.array(content["masks"], np.float32)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"conditions {names!r} are no list of names")
    if len(set(names)) < len(names):
        raise ValueError(f"conditions {names!r} are not distinct")
    if masks.ndim != 2 or len(masks) != len(names) or not np.isfinite(masks).all() or (masks < 0).any():
        raise ValueError(f"masks of shape {masks.shape} are not one row of finite numbers >= 0 for each of {names}")
    if not isinstance(content["model"], str) or not isinstance(content["tempo"], dict):
        raise ValueError("the model has no fingerprint, or no relation of tempi")
    audio, chunk_frames = AudioSettings(**content["audio"]), content["chunk_frames"]
    for key, value in {**asdict(audio), "chunk_frames": chunk_frames}.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{key} is {value!r}, not a number from 1 on")
    return ModelDescription(content["model"], names, masks, audio, chunk_frames, content["tempo"])


def read_header(folder: Path) -> dict[str, Any]:
    """Read what makes a folder a catalogue. Raises CatalogueError if it is missing, damaged or of another format."""
    path = folder / HEADER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        if content["format_version"] != FORMAT_VERSION:
            version = content["format_version"]
            raise CatalogueError(f"{path} has format version {version!r}, expected {FORMAT_VERSION}: embed it anew")
        state = content.setdefault("state", BESIDE)
        if state != BESIDE and not (isinstance(state, str) and state.startswith(STATE) and Path(state).name == state):
            raise ValueError(f"state is {state!r}, not the name of a folder of this one")
    except FileNotFoundError as error:
        raise CatalogueError(
            f"{path} does not exist: embed the catalogue first, or to its end, with embed checkpoint=FILE out={folder}"
        ) from error
    except OSError as error:
        raise CatalogueError(f"{path} cannot be read ({error.strerror}): give index=DIR, which embed made") from error
    except CatalogueError:
        raise
    except (ValueError, KeyError, RecursionError) as error:
        raise damaged_header(path, error) from error
    return content


def damaged_header(path: Path, error: Exception) -> CatalogueError:
    # Not its repr, which of a UnicodeDecodeError has the whole file in it.
    return CatalogueError(f"{path} is not that of a catalogue ({type(error).__name__}: {error}): embed it anew")


def read_catalogue(folder: str | Path) -> EmbeddedCatalogue:
    """Open a catalogue; its arrays are mapped, not read. Raises CatalogueError if there is none, it is damaged or of another format."""
    folder = Path(folder)
    content = read_header(folder)
    try:
        n_tracks, model = content["tracks"], read_description(content)
        if type(n_tracks) is not int or n_tracks < 1:
            raise ValueError(f"tracks is {n_tracks!r}, not a number from 1 on")
    except (ValueError, KeyError, TypeError) as error:
        raise damaged_header(folder / HEADER, error) from error
    files = folder / content["state"]
    embedding = map_array(files / EMBEDDING, np.dtype("<f4"), (n_tracks, model.masks.shape[1]))
    columns = map_array(files / COLUMNS_FILE, COLUMNS, (n_tracks,))
    estimated = content.get("estimated", [])  # catalogues of before it was kept do not say
    if not isinstance(estimated, list) or not set(map(str, estimated)) <= set(model.condition_names):
        raise damaged_header(folder / HEADER, ValueError(f"estimated is {estimated!r}, no list of conditions"))
    fingerprints = None
    if (files / AUDIO_FINGERPRINTS).exists():
        fingerprints = map_array(files / AUDIO_FINGERPRINTS, np.dtype("|i1"), (n_tracks, SIZE))
    checkpoint = content.get("checkpoint")
    if not isinstance(checkpoint, str | None):
        raise damaged_header(folder / HEADER, ValueError(f"checkpoint is {checkpoint!r}, no path"))
    checkpoint = None if checkpoint is None else folder / checkpoint
    return EmbeddedCatalogue(folder, files, model, embedding, columns, tuple(estimated), fingerprints, checkpoint)


def check_source(folder: Path, source: str) -> None:
    """Check that a catalogue is of a manifest or of shards. Raises CatalogueError if it is of others, or does not say."""
    held, wanted = read_header(folder).get("source"), absolute_source(source)
    if held is None:
        raise CatalogueError(
            f"{folder} does not say what it is of, for an earlier version made it: delete it and embed {wanted} anew"
        )
    if held != wanted:
        raise CatalogueError(
            f"{folder} is of {held}, not of {wanted}: give another index=DIR (INDEX=DIR with make), or delete that folder"
        )


def absolute_source(source: str | Path) -> str:
    """Return the manifest or shards as a catalogue names them, wherever the command is run.

    >>> absolute_source("s3://bucket/shards"), absolute_source("/data/../data/m.csv")
    ('s3://bucket/shards', '/data/m.csv')
    """
    return str(source) if "://" in str(source) else os.path.abspath(source)


def map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Map an array into memory. Raises CatalogueError if it is missing, damaged, or not of this type and shape."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise CatalogueError(f"{path} does not exist: embed the catalogue anew") from error
    except (OSError, *DAMAGED_NPZ) as error:
        raise CatalogueError(f"{path} is not a .npy array ({error}): embed the catalogue anew") from error
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise CatalogueError(f"{path} holds {found}, expected {dtype} of shape {shape}: embed the catalogue anew")
    return array
