"""The names of tracks: made once of a file's path, kept wherever the file goes."""

import os
import re
import unicodedata
from collections.abc import Container

MOST_CHARACTERS = 100
ILLEGAL = re.compile(r"[^\w.-]+")


def name_of(path: str) -> str:
    """Return a name that a path suggests: one word that needs no quotes in a shell, a table or an address.

    >>> name_of("Zoë/Live!/01 - A, B.mp3"), name_of("a@0-9.wav"), name_of("?.mp3")
    ('Zoë__Live__01_-_A_B', 'a_0-9', 'track')
    """
    parts = os.path.splitext(unicodedata.normalize("NFC", path))[0].split("/")
    words = [word for part in parts if (word := ILLEGAL.sub("_", part).strip("_"))]
    return "__".join(words)[-MOST_CHARACTERS:].strip("_") or "track"


def free_name(path: str, taken: Container[str]) -> str:
    """Return the name of a path, with a number where it is taken.

    >>> free_name("a.flac", {"a", "a-2"})
    'a-3'
    """
    name, number = name_of(path), 1
    while (found := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return found
