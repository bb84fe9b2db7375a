"""Every format, and every kind of file that cannot be used, each with its reason."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.audio import decoding as audio
from datamodules.audio.decoding import UnusableAudio, decode, decode_flac, encode_flac

SAMPLE_RATE = 22050
LSB = 2**-15  # one step of 16 bits
CODEC_ATOL = 0.05  # a loud tone after a lossy codec, within the recording


def tone(n: int, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(n) / SAMPLE_RATE)).astype(np.float32)


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, n).astype(np.float32)


def write(path: Path, samples: np.ndarray, sample_rate: int = SAMPLE_RATE, **how) -> Path:
    soundfile.write(path, samples, sample_rate, **how)
    return path


def set_flac_length(path: Path, frames: int) -> None:
    """Overwrite the 36-bit number of samples in the header."""
    data = bytearray(path.read_bytes())
    data[21] = (data[21] & 0xF0) | (frames >> 32)
    data[22:26] = (frames & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_every_format_decodes_to_its_length_and_frequency(tmp_path, extension, channels):
    n = 2 * SAMPLE_RATE + 7
    samples = np.stack([tone(n)] * channels, axis=1)
    waveform, sample_rate = decode(write(tmp_path / f"a.{extension}", samples))
    assert (waveform.dtype, waveform.shape, sample_rate) == (np.float32, (n,), SAMPLE_RATE)
    spectrum = np.abs(np.fft.rfft(waveform))
    assert np.argmax(spectrum) * SAMPLE_RATE / n == pytest.approx(440, abs=1)
    inside = slice(1000, -1000)
    np.testing.assert_allclose(waveform[inside], tone(n)[inside], atol=CODEC_ATOL)


@pytest.mark.parametrize("surplus", [-1, 0, 1])
def test_blocks_join(tmp_path, surplus, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_FRAMES", 1000)
    samples = noise(3000 + surplus)
    waveform, _ = decode(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    np.testing.assert_array_equal(waveform, samples)


def test_one_sample_is_a_recording(tmp_path):
    assert len(decode(write(tmp_path / "a.wav", np.ones(1)))[0]) == 1


def test_channels_are_averaged(tmp_path):
    left, right = tone(1000), noise(1000)
    waveform, _ = decode(write(tmp_path / "a.wav", np.stack([left, right, right], 1), subtype="FLOAT"))
    np.testing.assert_allclose(waveform, (left + 2 * right) / 3, atol=1e-6)


@pytest.mark.parametrize("frames", [0, 2**36 - 1], ids=["unknown", "absurd"])
def test_length_in_a_flac_header_is_not_trusted(tmp_path, frames):
    path = write(tmp_path / "a.flac", noise(100_000))
    set_flac_length(path, frames)
    assert len(decode(path)[0]) == 100_000


def test_length_in_a_wav_header_is_not_trusted(tmp_path):
    path = write(tmp_path / "a.wav", noise(1000))
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"\xff\xff\xff\xff" + data[44:])
    assert len(decode(path)[0]) == 1000


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_of_a_truncated_file_what_decodes_is_kept(tmp_path, extension):
    n = 10 * SAMPLE_RATE
    path = write(tmp_path / f"a.{extension}", noise(n))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert 0.3 * n < len(decode(path)[0]) < 0.6 * n


def test_variable_bitrate_mp3(tmp_path):
    path = write(tmp_path / "a.mp3", noise(5 * SAMPLE_RATE), bitrate_mode="VARIABLE", compression_level=0.9)
    assert len(decode(path)[0]) == 5 * SAMPLE_RATE


def test_name_that_is_no_unicode(tmp_path):
    path = write(tmp_path / "a.wav", noise(100)).rename(tmp_path / "caf\udce9.wav")
    assert len(decode(path)[0]) == 100


def with_value(value: float):
    def make(path: Path) -> None:
        samples = noise(1000)
        samples[500] = value
        write(path, np.stack([samples, noise(1000)], 1), subtype="FLOAT")

    return make


MALFORMED = {
    "missing": ("a.wav", lambda path: None, "missing file"),
    "long name": (300 * "a" + ".wav", lambda path: None, "cannot be read: File name too long"),
    "folder": ("a.wav", Path.mkdir, "not a file"),
    "empty": ("a.mp3", Path.touch, "empty file"),
    "text": (
        "a.wav",
        lambda path: path.write_text("no audio " * 99),
        "not a recording: its content is text",
    ),
    "text-mp3": ("a.mp3", lambda path: path.write_text("no audio " * 99), "not a recording: its content is text"),
    "headerless": (
        "a.raw",
        lambda path: path.write_bytes(bytes(999)),
        "not a decodable recording: ",
    ),
    "no-samples": ("a.wav", lambda path: write(path, np.zeros(0)), "no samples"),
    "sample-rate-low": (
        "a.wav",
        lambda path: write(path, noise(99), 1),
        r"sample rate of 1 Hz \(legal: 4000 to 768000\)",
    ),
    "sample-rate-high": ("a.wav", lambda path: write(path, noise(99), 10**6), "sample rate of 1000000 Hz"),
    "nan": ("a.wav", with_value(np.nan), "non-finite samples"),
    "inf": ("a.wav", with_value(np.inf), "non-finite samples"),
    "-inf": ("a.wav", with_value(-np.inf), "non-finite samples"),
    "huge": ("a.wav", with_value(1e38), "non-finite samples, or above"),
    "zeros": ("a.flac", lambda path: write(path, np.zeros(1000)), r"silent \(peak below -80 dBFS\)"),
    "quiet": ("a.wav", lambda path: write(path, np.full(1000, 0.9e-4), subtype="FLOAT"), "silent"),
    "cancels": ("a.wav", lambda path: write(path, np.stack([tone(1000), -tone(1000)], 1)), "silent"),
}


@pytest.mark.parametrize(("name", "make", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_what_cannot_be_used_has_its_reason(tmp_path, name, make, reason):
    path = tmp_path / name
    make(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnusableAudio, match=f"^{reason}") as caught:
            decode(path)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_just_above_silence_is_used(tmp_path):
    samples = np.resize([1.1e-4, -1.1e-4], 10)
    assert len(decode(write(tmp_path / "a.wav", samples, subtype="FLOAT"))[0]) == 10


def test_flac_round_trip_is_exact_to_16_bits():
    samples = noise(5000)
    decoded = decode_flac(encode_flac(samples, SAMPLE_RATE))
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, samples, atol=LSB)
    np.testing.assert_array_equal(decode_flac(encode_flac(decoded, SAMPLE_RATE)), decoded)


def test_flac_clips():
    decoded = decode_flac(encode_flac(np.array([3.0, -3.0, 0.0]), SAMPLE_RATE))
    np.testing.assert_allclose(decoded, [1, -1, 0], atol=LSB)


@pytest.mark.parametrize("start", [0, 1, 4095, 4096, 4097, 19_999, 20_000, 20_001])
@pytest.mark.parametrize("stop", [None, 20_000, 20_001])
def test_flac_range_equals_the_slice(start, stop):
    data = encode_flac(noise(20_000), SAMPLE_RATE)
    np.testing.assert_array_equal(decode_flac(data, start, stop), decode_flac(data)[start:stop])


def test_flac_short_ranges_equal_the_slice():
    data = encode_flac(noise(20_000), SAMPLE_RATE)
    whole = decode_flac(data)
    for start in range(0, 19_000, 611):
        np.testing.assert_array_equal(decode_flac(data, start, start + 1000), whole[start : start + 1000])


def test_flac_errors():
    with pytest.raises(ValueError, match="one dimension"):
        encode_flac(np.zeros((2, 3)), SAMPLE_RATE)
    with pytest.raises(soundfile.LibsndfileError):
        decode_flac(b"no flac")
