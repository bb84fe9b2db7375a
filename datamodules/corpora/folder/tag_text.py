"""Tags as people write them, and the clean cells that are made of them; every function is pure."""

import re
import unicodedata
from collections.abc import Iterable

from datamodules.corpora.cells import UNKNOWN_VALUES, key_of, parse_number, tag_key
from disentangled_ml.structures import MAX_BPM, MIN_BPM

MOST_CHARACTERS = 500  # of a cell: some files hold a book in their title
MOST_TAGS = 30
# What stands where nobody knew a genre, besides what is unknown in every manifest.
NO_TAGS = frozenset((*UNKNOWN_VALUES, "other", "misc", "undefined", "unclassified", "<unknown>", "unknown genre"))
NO_NAMES = frozenset((*UNKNOWN_VALUES, "unknown artist", "unknown album", "<unknown>"))
BETWEEN_TAGS = re.compile(r"[;/,|\\\0]")
ONE_TAG = re.compile(r"singer\s*/\s*songwriter", re.IGNORECASE)  # the slash of which separates nothing
DATE = re.compile(r"(\d{4})(-\d{2}(-\d{2})?)?")
ISRC = re.compile(r"[A-Z]{2}[A-Z0-9]{3}\d{7}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TEMPO_UNIT = re.compile(r"\s*bpm\s*$", re.IGNORECASE)


def clean(text: str) -> str:
    """Return a text that a cell can hold: one line of NFC without control characters, the beginning of a very long one.

    >>> clean(" Two\\nlines\\0 "), clean("Zoe\\u0301") == "Zo\\xe9", clean("\\udcff")
    ('Two lines', True, '')
    """
    kept = (" " if c.isspace() or unicodedata.category(c) in ("Cc", "Cs") else c for c in text[: 4 * MOST_CHARACTERS])
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))[:MOST_CHARACTERS].strip()


def split_written(text: str) -> list[str]:
    """Split what one frame holds into tags, however people separate them.

    >>> split_written("Rock/Pop"), split_written("Hip-Hop; Rap"), split_written("Folk, World, & Country")
    (['Rock', 'Pop'], ['Hip-Hop', 'Rap'], ['Folk', 'World', 'Country'])
    >>> split_written("Singer/Songwriter")
    ['Singer/Songwriter']
    """
    kept = ONE_TAG.sub(lambda found: found[0].replace("/", "\1"), text)
    parts = (clean(part.replace("\1", "/")).strip("& ") for part in BETWEEN_TAGS.split(kept))
    return [part for part in parts if part]


def tags_cell(tags: Iterable[str]) -> str:
    """Join tags for a cell: known ones, each once, in the spelling that comes first.

    >>> tags_cell(["Hip-Hop", "hip hop ", "Other", "Pop"])
    'Hip-Hop;Pop'
    """
    shown: dict[str, str] = {}
    for tag in tags:
        if (key := key_of(tag)) and key not in NO_TAGS:
            shown.setdefault(tag_key(tag), clean(tag))
    cell = ""
    for tag in list(shown.values())[:MOST_TAGS]:
        if len(cell) + len(tag) < MOST_CHARACTERS:
            cell += f";{tag}" if cell else tag
    return cell


def name_cell(texts: Iterable[str]) -> str:
    """Return the cell of a title, or of artists, joined where there are several.

    >>> name_cell(["A", "B", "a "]), name_cell(["Unknown Artist"])
    ('A; B', '')
    """
    names: dict[str, str] = {}
    for text in map(clean, texts):
        if key_of(text) not in NO_NAMES:
            names.setdefault(key_of(text), text)
    return clean("; ".join(filter(None, names.values())))


def tempo_cell(texts: Iterable[str]) -> tuple[str, bool]:
    """Return the cell of the first legal tempo (BPM), and whether there is something, but no legal tempo.

    >>> tempo_cell(["128"]), tempo_cell(["127,96 BPM"]), tempo_cell(["0"]), tempo_cell(["fast"]), tempo_cell([])
    (('128', False), ('127.96', False), ('', True), ('', True), ('', False))
    """
    written = [text for text in map(clean, texts) if text]
    for text in written:
        tempo = parse_number(TEMPO_UNIT.sub("", text), decimal_comma=True)
        if tempo is not None and MIN_BPM <= tempo <= MAX_BPM:
            return f"{tempo:.6g}", False
    return "", bool(written)


def date_cell(texts: Iterable[str]) -> str:
    """Return the first date, as far as it is known.

    >>> date_cell(["1999-05-01T00:00:00"]), date_cell(["0000", "1987"]), date_cell(["in spring"])
    ('1999-05-01', '1987', '')
    """
    found = (DATE.match(clean(text)) for text in texts)
    return next((date[0] for date in found if date and int(date[1])), "")


def isrc_cell(texts: Iterable[str]) -> str:
    """Return the first ISRC, without hyphens.

    >>> isrc_cell(["de-a12-34-56789"]), isrc_cell(["none"])
    ('DEA123456789', '')
    """
    codes = (re.sub(r"[-\s]", "", text).upper() for text in texts)
    return next((code for code in codes if ISRC.fullmatch(code)), "")


def uuid_cell(texts: Iterable[str]) -> str:
    """Return the first MusicBrainz id.

    >>> uuid_cell(["F27EC8DB-AF05-4F36-916E-3D57F91ECF5E"]), uuid_cell(["x"])
    ('f27ec8db-af05-4f36-916e-3d57f91ecf5e', '')
    """
    return next((text for text in (clean(text).lower() for text in texts) if UUID.fullmatch(text)), "")
