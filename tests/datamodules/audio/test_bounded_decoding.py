"""Recordings of strangers: decoded as everywhere, in bounds of time, memory and length, whatever they are."""

import io
import os
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.audio.bounded_decoding import Bounds, decode_bounded
from datamodules.audio.decoding import Recording, UnusableAudio, decode, encode_flac, encode_mp3
from tests.datamodules.audio.sounds import encode

RATE = 22_050
TONE = (0.3 * np.sin(np.arange(2 * RATE) * 0.1)).astype(np.float32)


def decoded(data: bytes, **bounds: float) -> Recording:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        return decode_bounded(file, Bounds(**bounds))


def as_wav(waveform: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def as_ogg(waveform: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="OGG", subtype="VORBIS")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "write",
    [
        as_wav,
        as_ogg,
        lambda tone: encode_flac(tone, RATE),
        lambda tone: encode_mp3(tone, RATE),
        lambda tone: encode(tone, "aac", "ipod", RATE),
    ],
    ids=["wav", "ogg", "flac", "mp3", "m4a"],
)
def test_what_is_decoded_is_what_decode_gives(write, tmp_path):
    data = write(TONE)
    (tmp_path / "recording").write_bytes(data)
    waveform, rate, warnings = decoded(data)
    assert warnings == ()
    expected, expected_rate = decode(tmp_path / "recording")
    assert rate == expected_rate == RATE
    np.testing.assert_array_equal(waveform, expected)


@pytest.mark.parametrize(("seconds", "samples"), [(0.5, RATE // 2), (2.0, 2 * RATE), (9.0, 2 * RATE)])
def test_only_the_beginning_is_used(seconds, samples):
    waveform, _, _ = decoded(as_wav(TONE), max_seconds=seconds)
    assert len(waveform) == samples
    np.testing.assert_allclose(waveform, TONE[:samples], atol=1e-4)


def test_what_is_warned_of_comes_along():
    assert decoded(as_wav(np.tile(TONE, 3))[: 44 + 4 * RATE]).warnings == (
        "other length: 2.00 s are decoded, the header promises 6.00 s",
    )


def test_decode_takes_the_beginning_alone(tmp_path):
    """An hour of which a second is wanted is not decoded to where it is damaged."""
    path = tmp_path / "long.flac"
    data = bytearray(encode_flac(np.tile(TONE, 60), RATE))
    half = len(data) // 2
    data[half : half + len(data) // 4] = bytes(len(data) // 4)
    path.write_bytes(data)
    with pytest.raises(UnusableAudio, match="damaged"):
        decode(path)
    assert len(decode(path, max_seconds=1.0)[0]) == RATE


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\0" * 5000, "not a decodable recording"),
        (os.urandom(100_000), "not a decodable recording"),
        (b"<html><script>alert(1)</script></html>", "not a recording: its content is text/HTML"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "not a decodable recording"),
        (as_wav(np.zeros(RATE)), "silent"),
        (encode_flac(TONE, RATE)[:200], "no samples|not a decodable recording"),
    ],
    ids=["empty", "zeros", "noise", "html", "header alone", "silence", "cut flac"],
)
def test_what_is_no_recording_is_refused_with_its_reason(data, reason):
    with pytest.raises(UnusableAudio, match=reason):
        decoded(data)


def test_a_flac_of_silence_does_not_fill_the_memory():
    """Some hundred kilobytes that unpack to half an hour: only the first minutes are unpacked."""
    hours = io.BytesIO()
    with soundfile.SoundFile(hours, "w", 48_000, channels=1, subtype="PCM_16", format="FLAC") as file:
        for _ in range(30):
            file.write(np.zeros(48_000 * 60, np.int16))
    assert len(hours.getvalue()) < 5_000_000
    with pytest.raises(UnusableAudio, match="silent"):
        decoded(hours.getvalue(), max_seconds=60.0)


def many_channels(channels: int, rate: int, seconds: float) -> bytes:
    size = int(seconds * rate) * channels
    header = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, channels, rate, rate * channels, channels, 8
    ) + b"data" + struct.pack("<I", size)  # fmt: skip
    return header + b"\x90" * size


def test_too_much_memory_is_said(monkeypatch):
    with pytest.raises(UnusableAudio, match=r"more than 250 MB of memory|decoder failed"):
        decoded(many_channels(1000, 8000, 4.0), memory=250 << 20)


def test_a_decoder_that_takes_too_long_is_killed():
    began = time.monotonic()
    with pytest.raises(UnusableAudio, match=r"not decoded within 0\.05 seconds"):
        decoded(as_wav(TONE), timeout=0.05)
    assert time.monotonic() - began < 30


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    decoded(as_wav(TONE))
    with pytest.raises(UnusableAudio):
        decoded(b"no sound")
    assert not list(tmp_path.iterdir())


def test_the_decoder_is_another_process():
    """What limits the decoder leaves this process alone."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    decoded(as_wav(TONE))
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert Path("/proc/self").exists()
