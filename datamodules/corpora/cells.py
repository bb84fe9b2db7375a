"""How people write columns and cells, and what is meant: the rules of every manifest (docs/manifests.md), each a function.

Names are brought to the Unicode form NFC. Two names are one where they differ in case, in blanks or in their Unicode form alone:
they have one ``key_of``, and all are shown in the spelling that is written most often. Tags are one, too, where one has a hyphen or
an underscore for a blank of the other.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping

from disentangled_ml.structures import TEMPO

# Columns that mean the same in every manifest, by how their key may be written; start and end only where both are there.
KNOWN_COLUMNS = {name: name for name in ("track_id", "path", "artist", "split", TEMPO, "start", "end")} | {"bpm": TEMPO}
# What programs and people write into a cell whose content they do not know, in any case.
UNKNOWN_VALUES = ("nan", "none", "null", "na", "n/a", "#n/a", "<na>", "unknown", "-")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
QUOTED = r"""'[^']*'|"[^"]*\""""
WRITTEN_LIST = re.compile(rf"\[\s*(?:(?:{QUOTED})\s*(?:,\s*(?:{QUOTED})\s*)*,?\s*)?\]")
FOR_BLANKS = re.compile("[-_\u2010\u2011]")
JOINED_OTHERWISE = re.compile(r"[,|]")


def plain(text: str | None) -> str:
    """Return a cell in NFC, without the blanks around it.

    >>> plain(" Zoe\\u0301 ") == "Zo\\xe9", plain(None)
    (True, '')
    """
    return unicodedata.normalize("NFC", text or "").strip()


def key_of(name: str) -> str:
    """Return what all spellings of a name have in common.

    >>> key_of("The Example  Band ") == key_of("THE EXAMPLE BAND")
    True
    """
    return unicodedata.normalize("NFC", " ".join(plain(name).split()).casefold())


def tag_key(tag: str) -> str:
    """Return what all spellings of a tag have in common.

    >>> tag_key("Hip-Hop") == tag_key("hip hop"), tag_key("hiphop") == tag_key("hip hop"), tag_key("-")
    (True, False, '-')
    """
    return key_of(FOR_BLANKS.sub(" ", tag)) or key_of(tag)


def known_column(header: str) -> str | None:
    """Return the known column that a header means; None if it means none.

    >>> known_column(" Track ID"), known_column("BPM"), known_column("Genre")
    ('track_id', 'tempo', None)
    """
    return KNOWN_COLUMNS.get(key_of(header).replace(" ", "_"))


def list_items(cell: str) -> list[str] | None:
    """Return the items of a list as Python and JSON write it; None of any other cell.

    >>> list_items("['rock', \\"children's\\"]"), list_items("[]"), list_items("[traditional]")
    (['rock', "children's"], [], None)
    """
    if not (cell.startswith("[") and WRITTEN_LIST.fullmatch(cell)):
        return None
    return [item[1:-1] for item in re.findall(QUOTED, cell)]


def split_tags(cell: str) -> list[str]:
    """Return the tags of a cell, which are a list or joined by ``;``.

    >>> split_tags("rock; jazz;;rock"), split_tags("['rock', 'jazz']"), split_tags("rock, jazz")
    (['rock', 'jazz', 'rock'], ['rock', 'jazz'], ['rock, jazz'])
    """
    items = list_items(cell)
    return [tag for tag in map(plain, cell.split(";") if items is None else items) if tag]


def looks_joined(tag: str) -> bool:
    """Return whether a tag looks like several, joined by something else than ``;``.

    >>> looks_joined("rock, jazz"), looks_joined("rock|jazz"), looks_joined("drum and bass")
    (True, True, False)
    """
    return JOINED_OTHERWISE.search(tag) is not None


def parse_number(cell: str, decimal_comma: bool = False) -> float | None:
    """Return the finite number that a cell holds; None if it holds something else.

    >>> parse_number("1e2"), parse_number("120,5"), parse_number("120,5", decimal_comma=True), parse_number("1_20")
    (100.0, None, 120.5, None)
    """
    if decimal_comma and DECIMAL_COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    number = float(cell) if NUMBER.fullmatch(cell) else math.inf
    return number if math.isfinite(number) else None


def other_spellings(counts: Mapping[str, int], key_of: Callable[[str], str] = key_of) -> dict[str, str]:
    """Return what to show instead of each name that is more often written otherwise; of equally frequent ones the first stays.

    Args:
        counts: How often each name is written so.
        key_of: Returns what the spellings of a name have in common.

    >>> other_spellings({"Rock": 2, "rock": 3, "ROCK": 1, "jazz": 1, "Jazz": 1})
    {'Rock': 'rock', 'ROCK': 'rock', 'Jazz': 'jazz'}
    """
    shown: dict[str, str] = {}
    for name, count in counts.items():
        key = key_of(name)
        if count > counts[shown.setdefault(key, name)]:
            shown[key] = name
    return {name: shown[key_of(name)] for name in counts if shown[key_of(name)] != name}
