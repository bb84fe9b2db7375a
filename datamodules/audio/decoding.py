"""Recordings in: mono samples out; and the FLAC members of shards (the only file that imports soundfile).

Conventions: a waveform is float32, shape (n,), full scale 1. What cannot be used raises ``UnusableAudio``, whose message is
the reason that stands in ``rejected.csv``: one line, without the path. What can be used but is not quite as it should be comes
with warnings, which stand in ``warnings.csv``: a line each, the kind before the colon.

WAV files are read by libsndfile, which is exact and fast for them; all others, and those it cannot read, by FFmpeg (ffmpeg.py).
"""

import io
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from datamodules.audio.content import (
    HEAD,
    WAV,
    Part,
    UnusableAudio,
    check_content,
    joined_parts,
    promised_size,
    without_padding,
)
from datamodules.audio.ffmpeg import DecodingReport, decode_blocks, resample_segment
from disentangled_ml.files import existing_form

# Beyond, the header is wrong, and resampling to 22,050 Hz could fill the memory.
LEGAL_SAMPLE_RATES = (4_000, 768_000)
SILENCE_DBFS = -80.0
SILENCE = 10 ** (SILENCE_DBFS / 20)
MISSING_FILE = "missing file"
END_TOLERANCE = 0.1  # seconds
LENGTH_TOLERANCE = 1.0  # seconds between what was decoded and what the container promises
MAX_LOST = 0.05  # share of a recording that may be missing between the rest
# Of the level; less does no harm. A short stretch of sound has more by chance, within so many standard deviations.
MIN_OFFSET, CHANCE = 0.01, 5.0
# Masters in floating point may exceed full scale by as much; what is beyond is on another scale.
LOUD = 4.0
MOST_BURSTS = 0.02  # share of the samples; of damage, which some decoders turn into noise
BYTE_SCALE = float(1 << 7)
INTEGER_SCALES = (float(1 << 15), float(1 << 23), float(1 << 31))
# Bounds the memory of a block at the 1,024 channels that libsndfile allows to 256 MB.
BLOCK_FRAMES = 1 << 16
EXACT = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # subtypes of WAV that are left to libsndfile
logger = logging.getLogger(__name__)


class Recording(NamedTuple):
    """A decoded recording.

    Attributes:
        waveform: (n,) float32, n >= 1, full scale 1, the mean of the channels, without a constant offset.
        sample_rate: In Hz.
        warnings: What is not as it should be, a line each.
    """

    waveform: np.ndarray
    sample_rate: int
    warnings: tuple[str, ...]


class _Stream(soundfile.SoundFile):
    """A recording that is read forwards only.

    On seekable files soundfile cuts reads to the header's length and seeks after each; that loses samples.
    """

    def seekable(self) -> bool:
        return False


@dataclass
class _Stretch:
    """What is kept of a recording: the samples from ``start`` to ``end``, in seconds; their rate may change on the way."""

    start: float
    end: float
    segments: list[tuple[int, list[np.ndarray]]] = field(default_factory=list)
    before: float = 0.0  # seconds of the segments before the last
    position: int = 0  # samples of the last one

    @property
    def seconds(self) -> float:
        return self.before + (self.position / self.segments[-1][0] if self.segments else 0.0)

    def add(self, block: np.ndarray, sample_rate: int) -> None:
        low, high = LEGAL_SAMPLE_RATES
        if not low <= sample_rate <= high:
            raise UnusableAudio(f"sample rate of {sample_rate} Hz (legal: {low} to {high})")
        if not self.segments or self.segments[-1][0] != sample_rate:
            self.before, self.position = self.seconds, 0
            self.segments.append((sample_rate, []))
        first = max(0, round((self.start - self.before) * sample_rate))
        last = None if self.end == math.inf else max(0, round((self.end - self.before) * sample_rate) - self.position)
        wanted = block[max(0, first - self.position) : last]
        if len(wanted):
            self.segments[-1][1].append(wanted)
        self.position += len(block)

    def join(self) -> tuple[np.ndarray, int]:
        """Return the samples, at the highest of their rates, and that rate."""
        kept = [(rate, np.concatenate(blocks)) for rate, blocks in self.segments if blocks]
        highest = max(rate for rate, _ in kept)
        parts = [part if rate == highest else resample_segment(part, rate, highest) for rate, part in kept]
        return np.concatenate(parts) if len(parts) > 1 else parts[0], highest


def decode(
    path: Path, start: float = 0.0, end: float | None = None, max_seconds: float | None = None
) -> tuple[np.ndarray, int]:
    """Decode a recording to mono, as ``read_recording`` does; what it warns of is logged.

    Returns: Waveform and sample rate in Hz.
    Shape: waveform (n,) float32, n >= 1.
    Raises: UnusableAudio: with the reason.
    """
    waveform, sample_rate, warnings = read_recording(path, start, end, max_seconds)
    for warning in warnings:
        logger.warning("%s: %s", path, warning)
    return waveform, sample_rate


def read_recording(
    path: Path,
    start: float = 0.0,
    end: float | None = None,
    max_seconds: float | None = None,
    max_lost: float = MAX_LOST,
) -> Recording:
    """Decode a recording of any usual format, or a section of it, to mono, the mean of its channels.

    The length is that of what decodes, whatever the header says. Of a file cut off in the middle, what can be decoded is kept.
    Recordings joined in a file are one, at the highest of their sample rates. A constant offset is removed. Channels of opposite
    phase cancel in the mean: such a recording has no mono signal, and silence is then the reason it is given.

    What lies before a section is decoded and dropped, since seeking is not exact in every format; what lies behind it is not
    decoded. A section may end up to ``END_TOLERANCE`` seconds behind the recording, as rounded times do.

    Args:
        path: Of the recording.
        start: Of the section, in seconds.
        end: Of the section, in seconds; None: the end of the recording.
        max_seconds: How much of its beginning to decode; None: all of it.
        max_lost: Share of the recording that may be lost to damage in its middle.

    Raises:
        UnusableAudio: The file is missing, empty, not a recording, too damaged, silent, holds no usable samples, or ends before
            the section.
    """
    path = existing_form(Path(path))
    check_file(path)
    until = math.inf if end is None else end
    if max_seconds is not None:
        until = min(until, start + max_seconds)
    stretch, report = _Stretch(start, until), DecodingReport()
    is_whole = True
    try:
        for block, sample_rate in _blocks(path, report):
            stretch.add(block, sample_rate)
            if stretch.seconds >= until:
                is_whole = False
                break
    except soundfile.LibsndfileError as error:
        detail = " ".join(error.error_string.split()).removeprefix("Error : ").rstrip(".")
        raise UnusableAudio(f"not a decodable recording: {detail}") from error
    except OSError as error:
        raise UnusableAudio(f"cannot be read: {error.strerror or error}") from error
    if not stretch.seconds:
        raise UnusableAudio("no samples")
    check_section(stretch, start, end)
    warnings = [*damage(report, max_lost), *(other_length(report) if is_whole else [])]
    waveform, sample_rate = stretch.join()
    waveform, warning = on_scale(without_offset(waveform))
    return Recording(waveform, sample_rate, (*warnings, *warning))


def check_file(path: Path) -> None:
    """Check that a path is a file that can be a recording. Raises UnusableAudio, with the reason, if it is not."""
    try:
        if not path.exists():
            raise UnusableAudio(MISSING_FILE)
        if not path.is_file():
            raise UnusableAudio("not a file")
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:  # also of names that are too long for any file
        raise UnusableAudio(f"cannot be read: {error.strerror}") from error
    if not head:
        raise UnusableAudio("empty file")
    check_content(head)


def _blocks(path: Path, report: DecodingReport) -> Iterator[tuple[np.ndarray, int]]:
    """Decode by libsndfile what it reads well, else by FFmpeg: blocks (n,) and their sample rates."""
    if _is_plain_wav(path):
        with _Stream(os.fsencode(path)) as file, np.errstate(invalid="ignore", over="ignore"):
            report.promised = file.frames / file.samplerate
            while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                report.decoded += len(block) / file.samplerate
                yield block.mean(axis=1) if block.shape[1] > 1 else block[:, 0], file.samplerate
        with open(path, "rb") as file:
            whole = Part(0, file.seek(0, os.SEEK_END))
            promised = promised_size(file, whole)
            report.compare(promised, without_padding(file, whole, promised))
    else:
        yield from decode_blocks(path, report)


def _is_plain_wav(path: Path) -> bool:
    """Return whether a file is one WAV, not several, of samples that libsndfile finds and reads."""
    with open(path, "rb") as file:
        if file.read(4) not in WAV or len(joined_parts(file)) > 1:
            return False
    try:
        with _Stream(os.fsencode(path)) as file:
            return file.frames > 0 and file.subtype.startswith(EXACT)
    except (soundfile.LibsndfileError, TypeError):  # of a file named *.raw soundfile asks for the sample rate
        return False


def check_section(stretch: _Stretch, start: float, end: float | None) -> None:
    """Check that a recording reaches to the end of the wanted section. Raises UnusableAudio if it does not."""
    needed = start if end is None else end - END_TOLERANCE
    is_empty = not any(blocks for _, blocks in stretch.segments)
    if is_empty or stretch.seconds < min(stretch.end, needed):
        section = f"from {start:g} s on" if end is None else f"from {start:g} to {end:g} s"
        length = f"{stretch.seconds:.2f} s"
        raise UnusableAudio(f"the section {section} goes beyond the end of the recording at {length}")


def damage(report: DecodingReport, max_lost: float) -> list[str]:
    """Return the warning of what is lost in the middle, if anything is. Raises UnusableAudio if that is too much."""
    if not (report.damaged or report.lost):
        return []
    total = report.decoded + report.lost
    lost = f"{report.lost:.2f} of {total:.2f} s are lost, damaged packets: {report.damaged}"
    if report.lost > max_lost * total:
        raise UnusableAudio(f"damaged: {lost}; more than max_lost={max_lost:g} allows")
    return [f"damaged: {lost}"]


def other_length(report: DecodingReport) -> list[str]:
    """Return the warning of a length that is not that of the header, or not that of the file.

    >>> other_length(DecodingReport(promised=6.0, decoded=3.1)), other_length(DecodingReport(promised=6.0, decoded=5.9))
    (['other length: 3.10 s are decoded, the header promises 6.00 s'], [])
    """
    if report.unread > LENGTH_TOLERANCE:
        return [
            f"other length: {report.decoded:.2f} s are decoded, {report.unread:.2f} s lie behind the end that the header promises"
        ]
    if report.promised is None or abs(report.promised - report.decoded) <= LENGTH_TOLERANCE:
        return []
    return [f"other length: {report.decoded:.2f} s are decoded, the header promises {report.promised:.2f} s"]


def without_offset(waveform: np.ndarray) -> np.ndarray:
    """Remove a constant offset: what is left of one alone is silence.

    >>> without_offset(np.array([0.25, 0.75] * 100, np.float32))[:2].tolist()
    [-0.25, 0.25]
    """
    with np.errstate(invalid="ignore", over="ignore"):
        offset = float(waveform.mean())
        level = math.sqrt(float(np.dot(waveform, waveform)) / len(waveform))
    by_chance = CHANCE / math.sqrt(len(waveform))
    is_large = abs(offset) > max(SILENCE / 2, level * (MIN_OFFSET + by_chance))
    return waveform - np.float32(offset) if is_large else waveform


def on_scale(waveform: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Scale down what is far beyond full scale, or clip it where it is no more than bursts; return the warning, if there is one.

    Raises: UnusableAudio: If it is silent or not finite.

    >>> scaled, warnings = on_scale(np.array([16384.0, -8192.0], np.float32))
    >>> scaled.tolist(), warnings
    ([0.5, -0.25], ['beyond full scale: the peak of 16384 is divided by 32768'])
    """
    peak = float(max(waveform.max(), -waveform.min()))
    if not peak <= INTEGER_SCALES[-1]:  # so written that NaN fails it
        raise UnusableAudio(f"non-finite samples, or above {INTEGER_SCALES[-1]:g} (full scale is 1)")
    if peak < SILENCE:
        raise UnusableAudio(f"silent (peak below {SILENCE_DBFS:.0f} dBFS)")
    if peak <= LOUD:
        return waveform, []
    bursts = float((np.abs(waveform) > LOUD).mean())
    if bursts < MOST_BURSTS:
        return waveform.clip(-1, 1), [f"beyond full scale: bursts of up to {peak:.5g} are clipped, {bursts:.2g} of all"]
    scale = peak if peak <= BYTE_SCALE else next(each for each in INTEGER_SCALES if peak <= each)
    return waveform / np.float32(scale), [f"beyond full scale: the peak of {peak:.5g} is divided by {scale:.5g}"]


def encode_flac(waveform: np.ndarray, sample_rate: int, comment: str = "") -> bytes:
    """Encode a waveform as 16-bit FLAC, clipped to [-1, 1]; ``decode_flac`` undoes it to one step of 16 bits.

    Args:
        waveform: To encode.
        sample_rate: In Hz.
        comment: Kept in the stream; ``read_comment`` reads it.

    Shape: waveform (n,) floating point.

    Raises:
        ValueError: If the waveform is not one-dimensional.
        soundfile.LibsndfileError: If FLAC does not know the sample rate (above 655,350 Hz).

    >>> decode_flac(encode_flac(np.array([0.5, -2.0, 0.25]), 22050)).round(3).tolist()
    [0.5, -1.0, 0.25]
    """
    if waveform.ndim != 1:
        raise ValueError(f"a waveform has one dimension, got shape {waveform.shape}")
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", sample_rate, channels=1, subtype="PCM_16", format="FLAC") as file:
        if comment:
            file.comment = comment
        file.write(np.clip(waveform, -1.0, 1.0))
    return buffer.getvalue()


def encode_mp3(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Encode a waveform as MP3, clipped to [-1, 1]: small, and every browser plays it; what a report lets one hear.

    Args:
        waveform: To encode.
        sample_rate: In Hz; 8,000, 11,025, 12,000, 16,000, 22,050, 24,000, 32,000, 44,100 or 48,000.

    Shape: waveform (n,) floating point.

    Raises:
        ValueError: If the waveform is not one-dimensional.
        soundfile.LibsndfileError: If MP3 does not know the sample rate.

    >>> soundfile.info(io.BytesIO(encode_mp3(np.zeros(22050), 22050))).format
    'MP3'
    """
    if waveform.ndim != 1:
        raise ValueError(f"a waveform has one dimension, got shape {waveform.shape}")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), sample_rate, format="MP3", subtype="MPEG_LAYER_III")
    return buffer.getvalue()


def read_comment(path: Path) -> str | None:
    """Read the comment of a recording; None if there is no such recording.

    >>> read_comment(Path("nowhere.flac"))
    """
    try:
        with soundfile.SoundFile(path) as file:
            return file.comment
    except soundfile.LibsndfileError:
        return None


def decode_flac(data: bytes, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Decode the samples ``start`` to ``stop`` of a FLAC stream, and little more than those.

    Equal to ``decode_flac(data)[start:stop]``, also beyond the end.

    Shape: returns (n,) float32.
    Raises: soundfile.LibsndfileError: If the bytes are no recording.

    >>> decode_flac(encode_flac(np.arange(8) / 8, 22050), start=2, stop=4).round(3).tolist()
    [0.25, 0.375]
    """
    return soundfile.read(io.BytesIO(data), start=start, stop=stop, dtype="float32")[0]
