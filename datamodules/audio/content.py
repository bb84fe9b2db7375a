"""What a file holds, by its bytes: whether it can be a recording at all, and where recordings were joined in it."""

import os
import re
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

HEAD = 512  # bytes that tell what a file holds
STEP = 1 << 20  # bytes read at a time
ASF, EBML = b"\x30\x26\xb2\x75", b"\x1a\x45\xdf\xa3"  # how WMA, and Matroska and WebM, begin
PAGE_HEADER = 27  # bytes of an Ogg page before its table of segments
# The first page of a logical stream: its flag, position and number say so
FIRST_PAGE = re.compile(rb"OggS\0[\x02\x03\x06\x07]\0{8}.{4}\0{4}", re.DOTALL)

# What people's folders hold under the names of recordings: the first bytes, and what they are
NO_RECORDINGS = (
    (re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE), "text/HTML"),
    (re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\0{4}|RIFF....WEBP|II\*\0|MM\0\*", re.DOTALL), "an image"),
    (re.compile(rb"%PDF"), "a PDF document"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ"), "an archive"),
    (re.compile(rb"MThd"), "MIDI, notes without sound"),
    (re.compile(rb"\x7fELF|MZ"), "a program"),
)


class UnusableAudio(ValueError):
    """The reason, in one line, why a recording is rejected."""


class Part(NamedTuple):
    """One of the recordings joined in a file: its bytes from ``start`` to ``end``."""

    start: int
    end: int


def is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are text; they may end within a character.

    >>> is_text("Motörhead".encode()[:6]), is_text(b"ID3\\3\\0"), is_text(b"")
    (True, False, False)
    """
    text = head.decode("utf-8", errors="replace").rstrip("\ufffd")
    return bool(text.strip()) and "\ufffd" not in text and all(c.isprintable() or c.isspace() for c in text)


def check_content(head: bytes) -> None:
    """Check that a file that begins so can be a recording: decoders make noise of anything.

    Raises: UnusableAudio: naming what the file holds instead.

    >>> check_content(b"<html>404</html>")
    Traceback (most recent call last):
        ...
    datamodules.audio.content.UnusableAudio: not a recording: its content is text/HTML
    """
    for pattern, kind in NO_RECORDINGS:
        if pattern.match(head):
            raise UnusableAudio(f"not a recording: its content is {kind}")
    if is_text(head):
        raise UnusableAudio("not a recording: its content is text")


def joined_parts(file: IO[bytes]) -> list[Part]:
    """Find the recordings that were joined by their bytes where decoders would read the first alone.

    Joined are Ogg streams, WAV, AIFF, MP4, WMA, Matroska and WebM files. Frames of mp3, AAC and FLAC need no
    such care: decoders go on behind a join.
    """
    file.seek(0)
    head = file.read(12)
    size = file.seek(0, os.SEEK_END)
    if head.startswith(b"OggS"):
        starts = list(_ogg_starts(file))
    elif head[:4] in (b"RIFF", b"FORM"):
        starts = list(_starts(file, size, head[:4], _chunk_size))
    elif head[4:8] == b"ftyp":
        starts = list(_starts(file, size, b"ftyp", _box_size))
    elif head.startswith(ASF):
        starts = list(_starts(file, size, ASF, _object_size))
    elif head.startswith(EBML):
        starts = list(_starts(file, size, EBML, _element_size))
    else:
        starts = []
    starts = starts if starts[:1] == [0] else [0]
    return [Part(*part) for part in zip(starts, [*starts[1:], size], strict=True)]


def _ogg_starts(file: IO[bytes]) -> Iterator[int]:
    """Yield where a group of logical Ogg streams begins: their first pages stand together."""
    behind = -1
    for start in _matches(file, FIRST_PAGE):
        file.seek(start)
        header = file.read(PAGE_HEADER)
        if len(header) < PAGE_HEADER:
            return
        end = start + PAGE_HEADER + header[-1] + sum(file.read(header[-1]))
        if start != behind:
            yield start
        behind = end


def _matches(file: IO[bytes], pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Yield where a pattern of at most ``PAGE_HEADER`` bytes occurs, reading the file piece by piece."""
    offset = 0
    while True:
        file.seek(offset)
        piece = file.read(STEP + PAGE_HEADER)
        if len(piece) < PAGE_HEADER:
            return
        yield from (offset + match.start() for match in pattern.finditer(piece) if match.start() < STEP)
        offset += STEP


def _starts(file: IO[bytes], size: int, first: bytes, size_of: Callable[[bytes], tuple[bytes, int]]) -> Iterator[int]:
    """Yield where files begin that are chains of blocks with their sizes, each file with a block of the type ``first``."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        kind, length = size_of(file.read(24))
        if kind == first:
            yield position
        if length < 8:
            return
        position += length


def _chunk_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of a chunk of RIFF or, in the other order of bytes, of AIFF; chunks are padded to even sizes."""
    size = int.from_bytes(header[4:8], "big" if header.startswith(b"FORM") else "little")
    return header[:4], 8 + size + size % 2


def _box_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of a box of MP4; 0 where it reaches to the end of the file."""
    size = int.from_bytes(header[:4], "big")
    return header[4:8], int.from_bytes(header[8:16], "big") if size == 1 else size


def _object_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of an object of ASF."""
    return header[:4], int.from_bytes(header[16:24], "little")


def _element_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of an element of EBML; 0 where it has none, as in a live stream.

    >>> _element_size(EBML + bytes([0xA3, 0]))[1], _element_size(EBML + bytes([1, *[255] * 7]))[1]
    (40, 0)
    """
    width = 9 - header[4].bit_length()
    most = (1 << 7 * width) - 1
    size = int.from_bytes(header[4 : 4 + width], "big") & most
    return header[:4], 0 if width > 8 or size == most else 4 + width + size
