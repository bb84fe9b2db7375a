"""What a file holds, by its bytes: whether it can be a recording at all, and where recordings were joined in it."""

import os
import re
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

HEAD = 512  # bytes that tell what a file holds
STEP = 1 << 20  # bytes read at a time
BLOCK_HEADER = 32  # bytes that tell type and size of a block of any format
WAV, CAF, AU = (b"RIFF", b"RIFX", b"RF64", b"BW64"), b"caff", b".snd"
CAF_CHUNKS = (
    *(
        CAF,
        b"desc",
        b"data",
        b"kuki",
        b"pakt",
        b"chan",
        b"free",
        b"info",
        b"uuid",
        b"strg",
        b"mark",
        b"regn",
        b"midi",
        b"ovvw",
    ),
    *(b"peak", b"edct", b"umid", b"inst"),
)
# How WMA, Matroska and WebM, and W64 begin
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
EBML = b"\x1a\x45\xdf\xa3"
W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
# The object with the size of a WMA, behind the 40 bytes of its type, its own size and an id
ASF_PROPERTIES = re.compile(re.escape(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")) + rb".{24}(.{8})", re.DOTALL)
# Programs that write a WAV into a pipe promise as much or more.
UNKNOWN_SIZE = 0x7F000000
MOST_BYTES = 1 << 62  # what promises more knows no size
MOST_BLOCKS = 1 << 19  # of a file; then no more are looked at
PAGE_HEADER = 27  # bytes of an Ogg page before its table of segments
# The first block of a WavPack: of sample 0, and the first of its channels
FIRST_BLOCK = re.compile(
    rb"wvpk.{6}\0.{5}\0{4}.{5}[" + b"".join(re.escape(bytes([flags])) for flags in range(256) if flags & 8) + rb"]",
    re.DOTALL,
)
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


class MissingPackage(ImportError, ValueError):
    """What to install, in one line: a ValueError, as commands show it, and no fault of a recording, as ImportErrors are none."""


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

    Joined are Ogg streams, WAV, W64, AIFF, AU, CAF, MP4, WMA, WavPack, Matroska and WebM files, of one kind; zeros may lie
    between them. Frames of mp3, AAC and FLAC need no such care: decoders go on behind a join.
    """
    file.seek(0)
    head = file.read(BLOCK_HEADER)
    size = file.seek(0, os.SEEK_END)
    if head.startswith(b"OggS"):
        starts = list(_ogg_starts(file))
    else:
        kind = next((kind for kind in CHAINS if kind.begin.match(head)), None)
        starts = [] if kind is None else list(_starts(file, size, kind))
    starts = starts if starts[:1] == [0] else [0]
    return [Part(*part) for part in zip(starts, [*starts[1:], size], strict=True)]


def promised_size(file: IO[bytes], part: Part) -> int | None:
    """Return how many bytes a recording has by its header; None where that does not tell, as of one from a pipe."""
    file.seek(part.start)
    head = file.read(HEAD)
    if head.startswith(CAF):
        return _promised_by_chunks(file, part)
    if head.startswith(ASF):
        found = ASF_PROPERTIES.search(head)
        size = 0 if found is None else int.from_bytes(found[1], "little")
    elif head.startswith((*WAV, b"FORM", W64)):
        size = (_guid_size if head.startswith(W64) else _chunk_size)(head)[1]
    elif head.startswith(AU):
        size = _au_size(head)[1]
    else:
        return None
    return size if BLOCK_HEADER < size <= MOST_BYTES and not _is_unknown(head) else None


def without_padding(file: IO[bytes], part: Part, promised: int | None) -> Part:
    """Return a recording without what lies behind its promised end, where that is nothing but zeros."""
    if promised is None or part.end - part.start <= promised:
        return part
    end = part.start + promised
    return Part(part.start, end) if _behind_zeros(file, end) >= part.end else part


def _is_unknown(head: bytes) -> bool:
    """Return whether a header of 32 bits holds the size that programs write which do not know it yet."""
    return head.startswith((b"RIFF", b"RIFX", b"FORM")) and _chunk_size(head)[1] > UNKNOWN_SIZE


def _promised_by_chunks(file: IO[bytes], part: Part) -> int | None:
    """Return where the last chunk of a CAF ends, which may be beyond the end of the file; None where it is of unknown size."""
    position = 0
    for _ in range(MOST_BLOCKS):
        file.seek(part.start + position)
        kind, length = _caf_size(file.read(BLOCK_HEADER))
        if kind not in CAF_CHUNKS:
            break
        if not length:
            return None
        position += length
        if position >= part.end - part.start:
            break
    return position


def lacks_index(file: IO[bytes], part: Part) -> bool:
    """Return whether a recording is an MP4 without its index, which most programs write at its end, as of one that was cut off."""
    position = 0
    for _ in range(MOST_BLOCKS):
        file.seek(part.start + position)
        kind, length = _box_size(file.read(BLOCK_HEADER))
        if (position == 0 and kind != b"ftyp") or kind == b"moov":
            return False
        position += length
        if length < 8 or position >= part.end - part.start:
            return True
    return False


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


def _matches(file: IO[bytes], pattern: re.Pattern[bytes], offset: int = 0) -> Iterator[int]:
    """Yield where a pattern of at most ``PAGE_HEADER`` bytes occurs from an offset on, reading the file piece by piece."""
    while True:
        file.seek(offset)
        piece = file.read(STEP + PAGE_HEADER)
        if len(piece) < PAGE_HEADER:
            return
        yield from (offset + match.start() for match in pattern.finditer(piece) if match.start() < STEP)
        offset += STEP


def _starts(file: IO[bytes], size: int, kind: "Chain") -> Iterator[int]:
    """Yield where files begin that are chains of blocks with their sizes, each file with a block of a certain type.

    Where the chain does not end with the file, since one was cut off or does not know its size, they are looked for byte by byte.
    """
    position = behind = 0
    for _ in range(MOST_BLOCKS):
        if position + 8 > size:
            break
        file.seek(position)
        header = file.read(BLOCK_HEADER)
        if not any(header[:8]):
            position = _behind_zeros(file, position)
            continue
        if kind.begin.match(header):
            yield position
            behind = position + 1
        _, length = kind.size_of(header)
        if length < 8:
            break
        position += length
    if position != size:
        yield from _matches(file, kind.begin, behind)


def _behind_zeros(file: IO[bytes], position: int) -> int:
    """Return where zeros end."""
    file.seek(position)
    while block := file.read(STEP):
        if rest := block.lstrip(b"\0"):
            return position + len(block) - len(rest)
        position += len(block)
    return position


def _chunk_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of a chunk of RIFF or, in the other order of bytes, of AIFF; chunks are padded to even sizes.

    A file of more than 4 GB has its size in a chunk of its own.
    """
    size = int.from_bytes(header[4:8], "big" if header.startswith((b"FORM", b"RIFX")) else "little")
    if header.startswith((b"RF64", b"BW64")) and header[12:16] == b"ds64":
        size = int.from_bytes(header[20:28], "little")
    return header[:4], 8 + size + size % 2


def _guid_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of a chunk of W64; chunks are padded to eight bytes."""
    size = int.from_bytes(header[16:24], "little")
    return header[:16], size + -size % 8


def _au_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of an AU; 0 where it reaches to the end of the file."""
    offset, size = int.from_bytes(header[4:8], "big"), int.from_bytes(header[8:12], "big")
    return header[:4], 0 if size == 0xFFFFFFFF else offset + size


def _caf_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of a chunk of CAF, or of the header before all; 0 where it reaches to the end of the file."""
    if header.startswith(CAF):
        return CAF, 8
    size = int.from_bytes(header[4:12], "big")
    return header[:4], 12 + size if size <= MOST_BYTES else 0


def _box_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of a box of MP4; 0 where it reaches to the end of the file."""
    size = int.from_bytes(header[:4], "big")
    return header[4:8], int.from_bytes(header[8:16], "big") if size == 1 else size


def _wavpack_size(header: bytes) -> tuple[bytes, int]:
    """Return type and whole size of a block of WavPack."""
    return header[:4], 8 + int.from_bytes(header[4:8], "little")


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


class Chain(NamedTuple):
    """A format of files that are chains of blocks: how one begins, and what returns type and size of a block by its header."""

    begin: re.Pattern[bytes]
    size_of: Callable[[bytes], tuple[bytes, int]]


CHAINS = (
    Chain(re.compile(rb"(?:RIFF|RIFX|RF64|BW64).{4}WAVE", re.DOTALL), _chunk_size),
    Chain(re.compile(rb"FORM.{4}AIF[FC]", re.DOTALL), _chunk_size),
    Chain(re.compile(rb"\.snd\0\0.{6}\0{3}[\x01-\x1b]", re.DOTALL), _au_size),
    Chain(re.compile(re.escape(W64) + rb".{8}wave", re.DOTALL), _guid_size),
    Chain(re.compile(rb"caff\x00\x01\x00\x00desc"), _caf_size),
    Chain(re.compile(rb"\0\0\0.ftyp[ -~]{4}", re.DOTALL), _box_size),
    Chain(FIRST_BLOCK, _wavpack_size),
    Chain(re.compile(re.escape(ASF)), _object_size),
    Chain(re.compile(re.escape(EBML) + rb".{1,8}?\x42[\x82\x85-\x87\xf2\xf3\xf7]", re.DOTALL), _element_size),
)
