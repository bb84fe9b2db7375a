"""The same recording again, in another encoding, and other versions of it.

Two tracks are duplicates if they carry the same ISRC or MusicBrainz recording id, or if their embeddings are nearer than
``THRESHOLD``, over all dimensions (docs/search.md says how it was chosen). They are versions of each other if they have the same
artist and title, but are not that near: live, remixed, recorded again.
"""

import re

from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.structures import name_code

DUPLICATE, VERSION = "duplicate", "version"
THRESHOLD = 0.1
IDS = ("isrc", "musicbrainz_recording")
BRACKETS = re.compile(r"[(\[].*?[)\]]")


def kind_of(one: CatalogueTrack, other: CatalogueTrack, distance: float) -> str | None:
    """Return what two tracks are of each other, ``DUPLICATE``, ``VERSION`` or None.

    Args:
        one: A track.
        other: The other track.
        distance: Of their embeddings, over all dimensions.

    >>> kind_of(CatalogueTrack("a", None, None, {}), CatalogueTrack("b", None, None, {}), 0.001)
    'duplicate'
    """
    first, second = one.metadata or {}, other.metadata or {}
    if distance <= THRESHOLD or any(first.get(key) and first.get(key) == second.get(key) for key in IDS):
        return DUPLICATE
    title = plain_title(first.get("title"))
    if title and one.artist and name_code(one.artist) == name_code(other.artist):
        return VERSION if title == plain_title(second.get("title")) else None
    return None


def plain_title(title: str | None) -> str:
    """Return a title without what tells versions apart.

    >>> plain_title("Song (Live) [2011 Remaster]"), plain_title("Song - Radio Edit"), plain_title(None)
    ('song', 'song', '')
    """
    text = BRACKETS.sub(" ", title or "").partition(" - ")[0]
    return " ".join(text.casefold().split())
