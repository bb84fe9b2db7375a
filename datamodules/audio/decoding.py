"""Recordings in: mono samples out; and the FLAC members of shards (the only file that imports soundfile).

Conventions: a waveform is float32, shape (n,), full scale 1. What cannot be used raises ``UnusableAudio``, whose message is
the reason that stands in ``rejected.csv``: one line, without the path.

libsndfile's mp3 decoder writes its own notes about damaged streams to stderr; they cannot be silenced from here.
"""

import io
import os
import sys
from pathlib import Path

import numpy as np
import soundfile

from disentangled_ml.files import existing_form

# Beyond, the header is wrong, and resampling to 22,050 Hz could fill the memory.
LEGAL_SAMPLE_RATES = (4_000, 768_000)
SILENCE_DBFS = -80.0
MISSING_FILE = "missing file"
END_TOLERANCE = 0.1  # seconds
# Floating-point files may exceed full scale; beyond this a float16 spectrogram of them may overflow.
MAX_PEAK = 1e6
# Bounds the memory of a block at the 1,024 channels that libsndfile allows to 256 MB.
BLOCK_FRAMES = 1 << 16


class UnusableAudio(ValueError):
    """The reason, in one line, why a recording is rejected."""


class _Stream(soundfile.SoundFile):
    """A recording that is read forwards only.

    On seekable files soundfile cuts reads to the header's length and seeks after each; the first loses samples, the second
    fails at the end of FLAC streams of unknown length and restarts the mp3 decoder between blocks.
    """

    def seekable(self) -> bool:
        return False


def decode(
    path: Path, start: float = 0.0, end: float | None = None, max_seconds: float | None = None
) -> tuple[np.ndarray, int]:
    """Decode a recording (wav, flac, ogg, mp3, ...), or a section of it, to mono, the mean of its channels.

    The length is that of what decodes, whatever the header says. Of a file cut off in the middle, what can be decoded is
    kept (wav, ogg, mp3; FLAC raises an error, as the decoder does). Channels of opposite phase cancel in the mean: such a
    recording has no mono signal, and silence is then the reason it is given.

    What lies before a section is decoded and dropped, since seeking is not exact in every format; what lies behind it is not
    decoded. A section may end up to ``END_TOLERANCE`` seconds behind the recording, as rounded times do.

    Args:
        path: Of the recording.
        start: Of the section, in seconds.
        end: Of the section, in seconds; None: the end of the recording.
        max_seconds: How much of its beginning to decode; None: all of it.

    Returns: Waveform and sample rate in Hz.
    Shape: waveform (n,) float32, n >= 1.

    Raises:
        UnusableAudio: The file is missing, empty, not a recording, silent, holds no usable samples, or ends before the section.
    """
    path = existing_form(Path(path))
    if not path.exists():
        raise UnusableAudio(MISSING_FILE)
    if not path.is_file():
        raise UnusableAudio("not a file")
    if path.stat().st_size == 0:
        raise UnusableAudio("empty file")
    blocks, position = [], 0
    try:
        with _Stream(os.fsencode(path)) as file, np.errstate(invalid="ignore", over="ignore"):
            sample_rate = file.samplerate
            first = round(start * sample_rate)
            last = sys.maxsize if end is None else round(end * sample_rate)
            if max_seconds is not None:
                last = min(last, first + round(max_seconds * sample_rate))
            while position < last:
                block = file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
                if not len(block):
                    break
                wanted = block[max(0, first - position) : last - position]
                if len(wanted):
                    blocks.append(wanted.mean(axis=1))
                position += len(block)
    except soundfile.LibsndfileError as error:
        detail = " ".join(error.error_string.split()).removeprefix("Error : ").rstrip(".")
        raise UnusableAudio(f"not a decodable recording: {detail}") from error
    except TypeError as error:
        # Of a file named *.raw soundfile asks for the sample rate.
        raise UnusableAudio("not a decodable recording: samples without a header") from error
    if not position:
        raise UnusableAudio("no samples")
    low, high = LEGAL_SAMPLE_RATES
    if not low <= sample_rate <= high:
        raise UnusableAudio(f"sample rate of {sample_rate} Hz (legal: {low} to {high})")
    needed = start if end is None else end - END_TOLERANCE
    if not blocks or position < min(last, needed * sample_rate):
        section = f"from {start:g} s on" if end is None else f"from {start:g} to {end:g} s"
        length = f"{position / sample_rate:.2f} s"
        raise UnusableAudio(f"the section {section} goes beyond the end of the recording at {length}")
    waveform = np.concatenate(blocks)
    peak = np.abs(waveform).max()
    if not peak < MAX_PEAK:  # so written that NaN fails it
        raise UnusableAudio(f"non-finite samples, or above {MAX_PEAK:g} (full scale is 1)")
    if peak < 10 ** (SILENCE_DBFS / 20):
        raise UnusableAudio(f"silent (peak below {SILENCE_DBFS:.0f} dBFS)")
    return waveform, sample_rate


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
