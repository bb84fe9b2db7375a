"""The tags of a recording's file: ID3, Vorbis comments, MP4, APEv2, ASF (the only file that imports mutagen)."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import mutagen
from mutagen.apev2 import APEv2
from mutagen.id3 import ID3, TCON

from datamodules.corpora.folder.tag_text import (
    date_cell,
    isrc_cell,
    name_cell,
    split_written,
    tags_cell,
    tempo_cell,
    uuid_cell,
)

ITUNES = "----:com.apple.itunes:"
# Per column, the keys of it in ID3, Vorbis and APEv2, MP4 and ASF, in lower case; the first that holds something counts.
KEYS = {
    "artist": ("tpe1", "artist", "\xa9art", "author"),
    "title": ("tit2", "title", "\xa9nam"),
    "album": ("talb", "album", "\xa9alb", "wm/albumtitle"),
    "album_artist": ("tpe2", "albumartist", "album artist", "aart", "wm/albumartist"),
    "date": ("tdrc", "date", "year", "\xa9day", "wm/year", "tdor", "originaldate"),
    "isrc": ("tsrc", "isrc", f"{ITUNES}isrc", "wm/isrc"),
    "musicbrainz_recording": (
        *("ufid:http://musicbrainz.org", "musicbrainz_trackid"),
        *(f"{ITUNES}musicbrainz track id", "musicbrainz/track id"),
    ),
    "musicbrainz_album": (
        *("txxx:musicbrainz album id", "musicbrainz_albumid"),
        *(f"{ITUNES}musicbrainz album id", "musicbrainz/album id"),
    ),
    "tempo": ("tbpm", "txxx:bpm", "bpm", "tmpo", f"{ITUNES}bpm", "wm/beatsperminute"),
    "genre": ("tcon", "genre", "\xa9gen", "wm/genre"),
    "mood": ("tmoo", "txxx:mood", "mood", f"{ITUNES}mood", "wm/mood"),
}
CELLS: dict[str, Callable[[list[str]], str]] = {
    "artist": name_cell,
    "title": lambda texts: name_cell(texts[:1]),
    "album": lambda texts: name_cell(texts[:1]),
    "album_artist": name_cell,
    "date": date_cell,
    "isrc": isrc_cell,
    "musicbrainz_recording": uuid_cell,
    "musicbrainz_album": uuid_cell,
    "genre": lambda texts: tags_cell(tag for text in texts for tag in genre_names(text)),
    "mood": lambda texts: tags_cell(tag for text in texts for tag in split_written(text)),
}


class FileTags(NamedTuple):
    """What the tags of a file say.

    Attributes:
        cells: Per column of the manifest its cell; columns of which nothing is known are absent.
        has_bad_tempo: Whether it names a tempo, but no legal one.
        is_broken: Whether its tags cannot be read.
    """

    cells: dict[str, str]
    has_bad_tempo: bool = False
    is_broken: bool = False


def read_tags(path: str | os.PathLike) -> FileTags:
    """Read the tags of a recording, whose file is only read; broken tags are none.

    Raises: OSError: if the file cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            texts = {str(key).casefold(): list(texts_of(value)) for key, value in raw_tags(file)}
            tempo, has_bad_tempo = tempo_cell(tag_texts(texts, "tempo"))
            cells = {column: make(tag_texts(texts, column)) for column, make in CELLS.items()}
        # Whatever bytes can make a parser of five formats raise: the recording may still be decoded.
        except Exception:
            return FileTags({}, is_broken=True)
    return FileTags({column: cell for column, cell in {**cells, "tempo": tempo}.items() if cell}, has_bad_tempo)


def raw_tags(file: BinaryIO) -> list[tuple[str, Any]]:
    """Return keys and values of a file's tags; of formats that mutagen does not know, those of ID3 or APEv2 around them.

    Raises: mutagen.MutagenError: if there are none that can be read, and something in their place cannot.
    """
    tags, failure = None, None
    try:
        tags = getattr(mutagen.File(file), "tags", None)
    except mutagen.MutagenError as error:
        failure = error
    for kind in (ID3, APEv2):
        if not tags:
            with suppress(mutagen.MutagenError):
                file.seek(0)
                tags = kind(file)
    if not tags and failure is not None:
        raise failure
    return list(tags.items()) if tags else []


def texts_of(value: Any) -> Iterator[str]:
    """Yield the texts of a value of any of the formats.

    >>> list(texts_of(["a", b"b", 3])), list(texts_of(TCON(encoding=3, text=["(17)", "Pop"])))
    (['a', 'b', '3'], ['(17)', 'Pop'])
    """
    if isinstance(value, list | tuple):
        for each in value:
            yield from texts_of(each)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", errors="replace")
    else:
        # Of frames of ID3; of those that hold bytes; of values of APEv2 and ASF
        inner = next((name for name in ("text", "data", "value") if hasattr(value, name)), None)
        yield from str(value).split("\0") if inner is None else texts_of(getattr(value, inner))


def tag_texts(texts: dict[str, list[str]], column: str) -> list[str]:
    """Return what is said for a column by the first key that says something."""
    said = (texts.get(key, []) for key in KEYS[column])
    return next((found for found in said if any(text.strip() for text in found)), [])


def genre_names(text: str) -> list[str]:
    """Return the genres that a text names, by name or by number of ID3.

    >>> genre_names("(17)"), genre_names("17"), genre_names("(17)(13)"), genre_names("Rock/Pop"), genre_names("9;Swing")
    (['Rock'], ['Rock'], ['Rock', 'Pop'], ['Rock', 'Pop'], ['Metal', 'Swing'])
    """
    named = [name for part in split_written(text) for name in TCON(encoding=3, text=[part]).genres]
    return [tag for name in named for tag in split_written(name)]
