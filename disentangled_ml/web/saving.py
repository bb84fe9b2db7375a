"""Lists of tracks as files for other programs: playlists, tables, JSON."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from disentangled_ml.search.playlists import (
    PlaylistEntry,
    playlist,
    playlist_entries,
    playlist_title,
    results_csv,
    results_json,
    whole_seconds,
)
from disentangled_ml.search.results import Result
from disentangled_ml.web.asking import MAX_RESULTS, check_keys
from disentangled_ml.web.recordings import recording_of
from disentangled_ml.web.view import CatalogueView

MEDIA_TYPES = {"m3u8": "audio/mpegurl", "csv": "text/csv", "json": "application/json"}
SOURCES = ("tracks", "question", "path")
FILES, ADDRESSES = "files", "addresses"


def listed_text(
    view: CatalogueView, content: Mapping[str, Any], tells_paths: bool, address: str, key: str | None
) -> tuple[str, str]:
    """Return the form and the text of a list that is asked for. Raises ValueError for what is not legal, or cannot be listed.

    Args:
        view: Of the catalogue.
        content: What is asked for: a ``form``, one of ``SOURCES``, and what the entries of a playlist are.
        tells_paths: Whether whoever asks is told the paths of files.
        address: Of the server.
        key: That opens its recordings.
    """
    check_keys(content, ("form", "entries", *SOURCES))
    form, entries = content.get("form", "m3u8"), content.get("entries", FILES if tells_paths else ADDRESSES)
    if not isinstance(form, str) or form not in MEDIA_TYPES:
        raise ValueError(f"form is one of {', '.join(MEDIA_TYPES)}")
    if entries not in (FILES, ADDRESSES) or (entries == FILES and not tells_paths):
        legal = f"{FILES} or {ADDRESSES}" if tells_paths else f"{ADDRESSES}: paths are told to the machine itself alone"
        raise ValueError(f"entries are {legal}")
    check_source(content)
    results = [with_path(found, view, tells_paths) for found in view.listed(content)]
    if form == "csv":
        return form, results_csv(results)
    if form == "json":
        return form, results_json(results)
    listed = playlist_entries(results, None) if entries == FILES else address_entries(view, results, address, key)
    if not listed:
        raise ValueError("none of these tracks has a recording that a playlist can name")
    return form, playlist(listed)


def check_source(content: Mapping[str, Any]) -> None:
    given = [name for name in SOURCES if name in content]
    if len(given) != 1:
        raise ValueError(f"give one of {', '.join(SOURCES)}")
    tracks = content.get("tracks", [])
    if not isinstance(tracks, list) or len(tracks) > MAX_RESULTS + 1 or not all(isinstance(id_, str) for id_ in tracks):
        raise ValueError(f"tracks are a list of at most {MAX_RESULTS + 1} ids")
    if not isinstance(content[given[0]], list if given[0] == "tracks" else dict):
        raise ValueError(f"{given[0]} is an object")


def with_path(found: Result, view: CatalogueView, tells_paths: bool) -> Result:
    """Return a result with the path of its recording, where that may be told."""
    path = found.track.path or recording_of(found.track, view.root)
    return found._replace(track=found.track._replace(path=str(path) if tells_paths and path else None))


def address_entries(
    view: CatalogueView, results: Sequence[Result], address: str, key: str | None
) -> list[PlaylistEntry]:
    """Return the entries of recordings that browsers, and other players, can fetch from here."""
    tracks = [found.track for found in results if view.recording(found.track.track_id) is not None]
    addresses = [f"{address}/audio?{urlencode(audio_query(track.track_id, key))}" for track in tracks]
    return [
        PlaylistEntry(playlist_title(t), where, whole_seconds(t)) for t, where in zip(tracks, addresses, strict=True)
    ]


def audio_query(track_id: str, key: str | None) -> dict[str, str]:
    """Return what an address of a recording asks with.

    >>> audio_query("a", None), audio_query("a", "k")
    ({'track': 'a'}, {'track': 'a', 'key': 'k'})
    """
    return {"track": track_id} if key is None else {"track": track_id, "key": key}
