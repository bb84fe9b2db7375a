"""Which track each file is: the one at its place, one whose file has moved there, or a new one. By paths, digests and times."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from datamodules.corpora.folder.state import Reading, Track


class Placement(NamedTuple):
    """Files and tracks brought together.

    Attributes:
        path_of: Per track_id the path of its file; a track whose file is gone is absent.
        new: Paths of files that no track has had, sorted.
        moved: Tracks whose file lies elsewhere now.
        changed: Tracks whose file has other bytes now.
        returned: Tracks whose file was gone.
    """

    path_of: dict[str, str]
    new: list[str]
    moved: set[str]
    changed: set[str]
    returned: set[str]


def place_tracks(tracks: Mapping[str, Track], readings: Mapping[str, Reading]) -> Placement:
    """Find the file of each track.

    In this order, a track is at its path if the bytes are the same; where a file of its bytes and time is now, as files keep their
    time when they are renamed; at its path, changed; where a file of its bytes is, by preference of its name. A track that is gone
    for longer is where its bytes are, else at its path.

    Args:
        tracks: By track_id.
        readings: Files that are there and can be tracks, by path.

    >>> tracks = {"a": Track("a", "a.mp3", "1"), "b": Track("b", "b.mp3", "2")}
    >>> readings = {path: Reading(path, 1, 1, digest) for path, digest in (("x/a.mp3", "1"), ("b.mp3", "3"), ("c.mp3", "1"))}
    >>> placed = place_tracks(tracks, readings)
    >>> placed.path_of, placed.new, placed.moved, placed.changed
    ({'b': 'b.mp3', 'a': 'x/a.mp3'}, ['c.mp3'], {'a'}, {'b'})
    """
    places = Places(readings)
    present = [track for track in tracks.values() if not track.is_gone]
    gone = [track for track in tracks.values() if track.is_gone]
    for track in present:
        if track.path in readings and readings[track.path].digest == track.digest:
            places.take(track, track.path)
    for track in present:
        places.take(track, places.of_content(track, track.mtime_ns))
    for track in present:
        places.take(track, track.path)
    for track in (*present, *gone):
        places.take(track, places.of_content(track))
    for track in gone:
        places.take(track, track.path)
    path_of = places.path_of
    return Placement(
        path_of,
        sorted(places.free),
        {name for name, path in path_of.items() if path != tracks[name].path},
        {name for name, path in path_of.items() if readings[path].digest != tracks[name].digest},
        {name for name in path_of if tracks[name].is_gone},
    )


class Places:
    """Files, each of which one track takes.

    Args:
        readings: By path.
    """

    def __init__(self, readings: Mapping[str, Reading]):
        self.readings, self.free = readings, {*readings}
        self.path_of: dict[str, str] = {}
        self.by_digest: dict[str, list[str]] = defaultdict(list)
        for path, reading in sorted(readings.items()):
            self.by_digest[reading.digest].append(path)

    def take(self, track: Track, path: str | None) -> None:
        """Assign a file to a track, if the file is free and the track has none."""
        if path in self.free and track.track_id not in self.path_of:
            self.free.remove(path)
            self.path_of[track.track_id] = path

    def of_content(self, track: Track, mtime_ns: int | None = None) -> str | None:
        """Return the free file, of a certain time, that has the bytes of a track; None if there is none."""
        free = [
            path
            for path in self.by_digest.get(track.digest, ())
            if path in self.free and mtime_ns in (None, self.readings[path].mtime_ns)
        ]
        return max(free, key=lambda path: likeness(path, track.path), default=None)


def likeness(path: str, old: str) -> tuple[bool, bool]:
    """Return how alike two places are: the same, or of one name."""
    return path == old, PurePosixPath(path).name == PurePosixPath(old).name
