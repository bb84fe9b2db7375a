"""Results for other programs: as a playlist, as JSON, as a table.

A playlist is extended M3U in UTF-8 (``.m3u8``): a line ``#EXTINF:203,Artist - Title`` and a line with the path per track. The number
is the length in seconds, -1 where the catalogue does not know it; players then read it themselves. The format has no escapes. So a
path that holds a line break, or ends in a space, cannot be written; a relative one that would be read as a comment, as an address or
without its first space has ``./`` before it.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.corpora.cells import parse_number
from disentangled_ml.files import read_object, text_cell, write_text
from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.search.similarity_search import Result
from disentangled_ml.structures import TEMPO

NOT_KNOWN = -1  # the length of a track
# The comment tells our playlists from those of a player; those that were written before there was one have no lengths.
HEAD, EARLIER_HEAD = "#EXTM3U\n# of disentangled search\n", f"#EXTM3U\n#EXTINF:{NOT_KNOWN},"
COLUMNS = ("rank", "track_id", "path", "artist", "title", "album", "tempo", "distance")


class PlaylistEntry(NamedTuple):
    """A track as a playlist names it.

    Attributes:
        title: What players show.
        path: Of its recording, or an address.
        seconds: Its length; -1 where that is not known.
    """

    title: str
    path: str
    seconds: int = NOT_KNOWN


def write_results(
    path: Path, results: Sequence[Result], about: Mapping[str, Any] | None = None, absolute: bool = False
) -> int:
    """Write results atomically, in the form that the suffix of the file names; return how many tracks it had to leave out.

    Args:
        path: ``.m3u8`` or ``.m3u``, both in UTF-8, ``.json`` or ``.csv``.
        results: In order.
        about: What else the JSON says, such as the query.
        absolute: Whether a playlist holds absolute paths, not those from its folder.

    Raises:
        ValueError: for another suffix.
        OSError: if it cannot be written; what was there before stays.
    """
    form = check_suffix(path)
    entries = playlist_entries(results, None if absolute else path.parent) if form is playlist else results
    text = results_json(results, about) if form is results_json else form(entries)
    write_text(path, text)
    return len(results) - len(entries)


def check_suffix(path: Path) -> Callable[..., str]:
    """Return the function that makes the text of a file. Raises ValueError for a suffix without one.

    >>> check_suffix(Path("calm.m3u8")).__name__
    'playlist'
    """
    if path.suffix not in FORMS:
        raise ValueError(f"out={path} is of no known form: give a file that ends in one of {', '.join(FORMS)}")
    return FORMS[path.suffix]


def is_result(path: Path) -> bool:
    """Return whether a file is one that a search may have written, by what it begins with or, of JSON, holds."""
    if path.suffix == ".json":
        return not {"results", "k"}.isdisjoint(read_object(path))
    begins = [",".join(COLUMNS)] if path.suffix == ".csv" else [HEAD, EARLIER_HEAD]
    with open(path, "rb") as file:
        content = file.read(max(map(len, begins)))
    return any(begin.encode().startswith(content[: len(begin)]) for begin in begins)


def playlist_entries(results: Sequence[Result], folder: Path | None) -> list[PlaylistEntry]:
    """Return the tracks that a playlist can hold, their paths relative to a folder or, without one, absolute.

    Left out are tracks without a path, and those whose path a line of UTF-8 cannot hold.
    """
    tracks = [result.track for result in results]
    paths = [playlist_path(track.path, folder) for track in tracks]
    return [
        PlaylistEntry(playlist_title(track), path, whole_seconds(track))
        for track, path in zip(tracks, paths, strict=True)
        if path
    ]


def playlist(entries: Sequence[PlaylistEntry]) -> str:
    """Return the playlist of some entries.

    >>> print(playlist([PlaylistEntry("Nina - Blue", "a.flac", 203), PlaylistEntry("b", "b.flac")]))
    #EXTM3U
    # of disentangled search
    #EXTINF:203,Nina - Blue
    a.flac
    #EXTINF:-1,b
    b.flac
    <BLANKLINE>
    """
    lines = [f"#EXTINF:{entry.seconds},{entry.title}\n{entry.path}\n" for entry in entries]
    return "".join([HEAD, *lines])


def playlist_path(path: str | None, folder: Path | None) -> str | None:
    r"""Return a path as a playlist in a folder names it; None if there is no path, or no line of UTF-8 can hold it.

    >>> playlist_path("/music/#1/a.flac", Path("/music")), playlist_path("/music/b.flac", Path("/lists"))
    ('./#1/a.flac', '../music/b.flac')
    >>> playlist_path("/music/a.flac", None), playlist_path("/music/a\nb.flac", None)
    ('/music/a.flac', None)
    """
    if path is None or not is_line(path):
        return None
    if folder is None:
        return os.path.abspath(path)
    # "..": of what the folders are, not of links to them
    target = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    relative = os.path.relpath(target, os.path.realpath(folder))
    is_odd = relative != relative.lstrip() or relative.startswith("#") or ":" in relative
    return f"./{relative}" if is_odd else relative


def is_line(text: str) -> bool:
    r"""Return whether a text can be a line of a UTF-8 file whose readers strip spaces at the end.

    >>> is_line("Zoë"), is_line("a "), is_line("a\nb"), is_line("a\udcff")
    (True, False, False, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return text == text.rstrip() and not {"\n", "\r", "\0"} & set(text)


def playlist_title(track: CatalogueTrack) -> str:
    r"""Return what players show of a track: artist and name, in one line.

    >>> playlist_title(CatalogueTrack("a", "Nina", None, {}, None, {"title": "Blue\nSky"}))
    'Nina - Blue Sky'
    >>> playlist_title(CatalogueTrack("a", None, None, {}))
    'a'
    """
    shown = " - ".join(filter(None, [track.artist, track.name])).encode(errors="replace").decode()
    return " ".join(shown.split())


def whole_seconds(track: CatalogueTrack) -> int:
    """Return the length of a track in whole seconds, -1 where it is not known.

    >>> track = CatalogueTrack("a", None, None, {}, metadata={"duration": "203.4"})
    >>> whole_seconds(track), whole_seconds(track._replace(metadata=None))
    (203, -1)
    """
    seconds = parse_number((track.metadata or {}).get("duration", ""))
    # 0 would say that there is nothing to play.
    return max(1, round(seconds)) if seconds is not None and seconds > 0 else NOT_KNOWN


def results_json(results: Sequence[Result], about: Mapping[str, Any] | None = None) -> str:
    """Return results as JSON, with all that is told of each."""
    return json.dumps({**(about or {}), "results": [result.as_plain() for result in results]}, indent=1) + "\n"


def results_csv(results: Sequence[Result]) -> str:
    """Return results as a table: a row per track, the nearest first, with the distance in each condition and what is estimated.

    >>> track = CatalogueTrack("a", "Nina", None, {"tempo": 120.0}, None, {"title": "Blue"}, ["tempo"])
    >>> print(results_csv([Result(3, track, 0.5, {"genre": 0.25})]))
    rank,track_id,path,artist,title,album,tempo,distance,distance_genre,estimated
    1,a,,Nina,Blue,,120.0,0.5,0.25,tempo
    <BLANKLINE>
    """
    names = list(results[0].distances) if results else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"distance_{name}" for name in names), "estimated"])
    for rank, result in enumerate(results, start=1):
        track, distances = result.track, result.distances
        metadata = track.metadata or {}
        about = (track.track_id, track.path, track.artist, metadata.get("title"), metadata.get("album"))
        writer.writerow(
            [
                rank,
                *map(text_cell, about),
                track.labels.get(TEMPO),
                result.distance,
                *(distances[name] for name in names),
                text_cell(";".join(track.estimated or ())),
            ]
        )
    return text.getvalue()


FORMS = {".m3u8": playlist, ".m3u": playlist, ".json": results_json, ".csv": results_csv}
