"""Recordings of every usual format, decoded by FFmpeg (the only file that imports PyAV).

Formats and codecs are those that people keep music in, and no others: of what FFmpeg knows besides, much is found in bytes that are
no recording at all. Damaged packets are counted, not fatal. Recordings that were joined in a file are decoded one after the other.
The file is never named to FFmpeg, so that its name decides nothing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np

from datamodules.audio.content import Part, UnusableAudio, joined_parts, lacks_index, promised_size, without_padding

FORMATS = ("mp3", "aac", "mov", "ogg", "flac", "wav", "w64", "aiff", "au", "caf", "asf", "matroska", "wv")
CODECS = (
    *("mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float", "aac", "alac", "vorbis", "opus", "flac", "wavpack"),
    *("wmav1", "wmav2", "wmapro", "wmalossless", "ac3", "eac3", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt"),
    *("pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be"),
    *(f"pcm_s{bits}{order}" for bits in (16, 24, 32) for order in ("le", "be")),
)
# Of these the container tells no length, FFmpeg guesses one from the bit rate. An mp3 may tell it in its first frame; a W64 tells
# its bytes.
GUESSED = ("mp3", "aac", "w64")
# Here a packet says when it sounds, and a gap between them is a loss.
TIMED = ("ogg", "matroska,webm", "asf")
# Its header tells the number of samples, and frames that were found to be damaged are dropped without a word.
EXACT = "flac"
GAP = 0.05  # seconds; below, timestamps are rounded, or codecs prime themselves
FULL_SCALE = {"uint8": 1 << 7, "int16": 1 << 15, "int32": 1 << 31}
BLOCK_SAMPLES = 1 << 16  # of each channel
MOST_PLANES = 8  # channels that lie apart; of more PyAV reads beyond their end, which is the end of the process
RESERVE = 1 << 13  # the longest block of Vorbis
NO_INDEX = "cut off: this MP4 lacks the index at its end (moov), without which nothing of it can be decoded; get the whole file"
XING_REACH = 4096  # bytes before the first packet of an mp3 in which its frame with the length stands


@dataclass
class DecodingReport:
    """What became of a recording that was decoded, as far as it was.

    Attributes:
        promised: Seconds that the container promises; None: it does not tell.
        decoded: Seconds that were decoded.
        damaged: Number of packets that could not be decoded.
        lost: Seconds that are missing between others; what is missing at the end shows in ``promised``.
        unread: Seconds that the bytes behind the promised end may hold.
    """

    promised: float | None = None
    decoded: float = 0.0
    damaged: int = 0
    lost: float = 0.0
    unread: float = 0.0

    def add(self, other: "DecodingReport") -> None:
        """Add what became of the recording that follows in the file."""
        known = self.promised is not None and other.promised is not None
        self.promised = self.promised + other.promised if known else None
        self.decoded += other.decoded
        self.damaged += other.damaged
        self.lost += other.lost
        self.unread += other.unread

    def compare(self, promised: int | None, part: Part) -> None:
        """Compare the bytes that a header promises with those that are there: what is missing, or lies behind, in seconds.

        Decoders take the length of a file that was cut off for that which its header tells.
        """
        if promised is None:
            return
        size = part.end - part.start
        seconds_per_byte = self.decoded / min(promised, size)
        self.unread = seconds_per_byte * max(0, size - promised)
        if promised > size or self.promised is None:
            missing = seconds_per_byte * max(0, promised - size)
            self.promised = max(self.promised or 0.0, self.decoded + missing)


def decode_blocks(path: Path, report: DecodingReport) -> Iterator[tuple[np.ndarray, int]]:
    """Decode a recording block by block; its sample rate may change on the way.

    Args:
        path: Of the recording.
        report: Is filled in on the way; whole when the last block was taken.

    Yields: The mean of the channels (n,) float32, full scale 1, and its sample rate in Hz.
    Raises: UnusableAudio: If it is no recording, or of no allowed format.
    """
    with open(path, "rb", buffering=0) as file:
        first, *others = joined_parts(file)
        yield from _decode_part(file, first, report)
        first_is_lost = not report.decoded
        for part in others:
            own = DecodingReport()
            try:
                yield from _decode_part(file, part, own)
            except UnusableAudio:
                own.damaged += 1
            if not own.decoded:
                seconds_per_byte = report.decoded / part.start
                own.lost = seconds_per_byte * (part.end - part.start)
            report.add(own)
        if first_is_lost and others:
            report.damaged += 1
            report.lost += report.decoded / (others[-1].end - first.end) * (first.end - first.start)


class _PartOfFile:
    """A part of an open file, as a file by itself, without a name."""

    def __init__(self, file: IO[bytes], part: Part):
        self.file, self.part, self.position = file, part, 0

    def read(self, size: int) -> bytes:
        remaining = self.part.end - self.part.start - self.position
        if remaining <= 0:
            return b""
        self.file.seek(self.part.start + self.position)
        data = self.file.read(min(size, remaining))
        self.position += len(data)
        return data

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Return the new position; -1, which is no error to Python, where damaged headers lead before the beginning."""
        length = self.part.end - self.part.start
        target = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: length}[whence]
        if target < 0:
            return -1
        self.position = target
        return target


def _decode_part(file: IO[bytes], part: Part, report: DecodingReport) -> Iterator[tuple[np.ndarray, int]]:
    promised = promised_size(file, part)
    part = without_padding(file, part, promised)
    try:
        yield from _decode_container(_PartOfFile(file, part), report)
    except UnusableAudio as error:
        if lacks_index(file, part):
            raise UnusableAudio(NO_INDEX) from error
        raise
    report.compare(promised, part)


def _decode_container(file: _PartOfFile, report: DecodingReport) -> Iterator[tuple[np.ndarray, int]]:
    options = {"format_whitelist": ",".join(FORMATS), "codec_whitelist": ",".join(CODECS)}
    try:
        container = av.open(file, metadata_errors="replace", options=options)
    except MemoryError:
        raise
    except av.ArgumentError as error:
        reason = "its format is unknown, or none of recordings"
        raise UnusableAudio(f"not a decodable recording: {reason}") from error
    except av.FFmpegError as error:
        raise UnusableAudio(f"not a decodable recording: {describe(error)}") from error
    with container:
        stream = _sound_of(container)
        stream.codec_context.thread_count = 1
        if stream.codec_context.name == "flac":
            # Else a damaged frame is decoded to noise at full scale.
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        try:
            yield from _decode_stream(container, stream, file, report)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            if not report.decoded:
                raise UnusableAudio(f"not a decodable recording: {describe(error)}") from error
            report.damaged += 1


def describe(error: av.FFmpegError) -> str:
    """Return what FFmpeg says, in one line and without the name of the file."""
    return " ".join((error.strerror or type(error).__name__).split()).rstrip(".")


def _sound_of(container: av.container.InputContainer) -> av.AudioStream:
    """Return the best audio stream. Raises UnusableAudio if there is none, or none of an allowed codec."""
    stream = container.streams.best("audio")
    if stream is None:
        raise UnusableAudio(f"not a recording: its content is {container.format.long_name} without sound")
    context = stream.codec_context
    if context is None or context.name not in CODECS:
        name = "unknown" if context is None else context.name
        raise UnusableAudio(f"not a decodable recording: its codec is {name}, none of those allowed")
    return stream


def _decode_stream(
    container: av.container.InputContainer, stream: av.AudioStream, file: _PartOfFile, report: DecodingReport
) -> Iterator[tuple[np.ndarray, int]]:
    good = bad = waiting = 0  # bytes
    times, queue = _Times(), _Queue()
    for packet in _packets(container, stream, report):
        times.add(packet)
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError:
            report.damaged += 1
            waiting += packet.size
            continue
        if frames:
            # Damage at the end alone is a recording that was cut off.
            good, bad, waiting = good + packet.size, bad + waiting, 0
            if not report.decoded:
                report.promised = _promised_seconds(container, stream, file, packet, frames[0])
        for frame in frames:
            report.decoded += frame.samples / frame.sample_rate
            yield from queue.put(frame)
        report.lost = bad / max(1, good) * report.decoded
    yield from queue.flush(_surplus(container, stream, report))
    gap = 0.0
    if container.format.name in TIMED:
        gap = times.seconds(stream) - report.decoded
    elif container.format.name == EXACT and not waiting:
        gap = (report.promised or 0.0) - report.decoded
    if GAP < gap < report.decoded:  # of more, the times are not to be believed
        report.lost = max(report.lost, gap)


def _packets(
    container: av.container.InputContainer, stream: av.AudioStream, report: DecodingReport
) -> Iterator[av.Packet]:
    """Yield the packets up to the end, or up to where the container is so damaged that none is found behind."""
    try:
        yield from container.demux(stream)
    except MemoryError:
        raise
    except av.FFmpegError:
        if not report.decoded:
            raise
        report.damaged += 1


def _surplus(container: av.container.InputContainer, stream: av.AudioStream, report: DecodingReport) -> int:
    """Return the samples behind the end of an Ogg stream: FFmpeg does not cut them off where all is in one page."""
    if container.format.name != "ogg" or report.promised is None:
        return 0
    surplus = round((report.decoded - report.promised) * stream.codec_context.sample_rate)
    return surplus if 0 < surplus <= RESERVE else 0


class _Times:
    """Times of packets, from the first to the end of the last."""

    def __init__(self):
        self.first: int | None = None
        self.last = 0

    def add(self, packet: av.Packet) -> None:
        if packet.size and packet.pts is not None:
            self.first = packet.pts if self.first is None else self.first
            duration = packet.duration or 0
            # A negative one comes as a large one.
            self.last = max(self.last, packet.pts + (duration if duration < 1 << 31 else 0))

    def seconds(self, stream: av.AudioStream) -> float:
        return 0.0 if self.first is None else float((self.last - self.first) * stream.time_base)


class _Queue:
    """Frames of an audio stream, gathered into blocks: NumPy's calls take longer than the decoding of a frame.

    The last ``RESERVE`` samples are held back, so that what is too much can be cut off when the end is reached.
    """

    def __init__(self):
        self.kind: tuple[int, str, str] | None = None
        self.fifo = av.AudioFifo()

    def put(self, frame: av.AudioFrame) -> Iterator[tuple[np.ndarray, int]]:
        if frame.format.is_planar and frame.layout.nb_channels > MOST_PLANES:
            raise UnusableAudio(
                f"not a decodable recording: {frame.layout.nb_channels} channels, at most {MOST_PLANES} can be read"
            )
        kind = (frame.sample_rate, frame.layout.name, frame.format.name)
        if kind != self.kind:
            yield from self.flush()
            self.kind, self.fifo = kind, av.AudioFifo()
        frame.pts = None  # a gap in time would be an error
        self.fifo.write(frame)
        if self.fifo.samples >= BLOCK_SAMPLES + RESERVE:
            yield _mono(self.fifo.read(BLOCK_SAMPLES)), kind[0]

    def flush(self, surplus: int = 0) -> Iterator[tuple[np.ndarray, int]]:
        remaining = self.fifo.samples - surplus if self.kind else 0
        if self.kind and remaining > 0:
            yield _mono(self.fifo.read(remaining)), self.kind[0]


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """Take the mean of the channels of a frame: (n,) float32, full scale 1."""
    samples, channels = frame.to_ndarray(), frame.layout.nb_channels
    full_scale = FULL_SCALE.get(samples.dtype.name, 1)
    accurate = np.float64 if samples.dtype == np.float64 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        if samples.dtype == np.uint8:
            samples = samples.astype(np.float32) - full_scale
        weights = np.full(channels, 1 / (channels * full_scale), accurate)
        samples = samples.astype(accurate, copy=False)
        mono = weights @ samples if frame.format.is_planar else samples.reshape(-1, channels) @ weights
        return mono.astype(np.float32, copy=False)


def _promised_seconds(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    file: _PartOfFile,
    packet: av.Packet,
    frame: av.AudioFrame,
) -> float | None:
    if container.format.name == "mp3":
        return _xing_seconds(file, packet.pos, frame)
    if container.format.name in GUESSED:
        return None
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # The whole of a film may be longer than its sound.
    has_others = any(other.type == "video" for other in container.streams)
    return None if has_others or not container.duration else container.duration / av.time_base


def _xing_seconds(file: _PartOfFile, position: int | None, frame: av.AudioFrame) -> float | None:
    """Read the length of an mp3 from the frame before its sound, if it has such a one."""
    here = file.tell()
    file.seek(max(0, (position or 0) - XING_REACH))
    before = file.read(min(position or 0, XING_REACH))
    file.seek(here)
    found = max(before.rfind(b"Xing"), before.rfind(b"Info"))
    tag = before[found : found + 12]
    if found < 0 or len(tag) < 12 or not tag[7] & 1:
        return None
    # 1,152 samples of MPEG 1, 576 of the lower rates
    samples = 1152 if frame.sample_rate >= 32_000 else 576
    return int.from_bytes(tag[8:], "big") * samples / frame.sample_rate


def resample_segment(waveform: np.ndarray, sample_rate: int, new_sample_rate: int) -> np.ndarray:
    """Resample a stretch of a recording whose sample rate changes; (n,) to (ceil(n * new / old),) float32, a sample more or less."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=new_sample_rate)
    blocks = []
    for first in range(0, len(waveform), BLOCK_SAMPLES):
        frame = av.AudioFrame.from_ndarray(waveform[None, first : first + BLOCK_SAMPLES], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, first, Fraction(1, sample_rate)
        blocks += resampler.resample(frame)
    return np.concatenate([block.to_ndarray()[0] for block in blocks + resampler.resample(None)])
