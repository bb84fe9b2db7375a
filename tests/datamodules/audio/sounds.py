"""Recordings in any format, and mp3s taken apart and put together, for tests."""

import io

import av
import numpy as np
import soundfile

RATE = 44_100
MP3_RATES = (None, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # kbit/s, of MPEG 1 layer 3


def tone(seconds: float, frequency: float = 440.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def frequency_of(waveform: np.ndarray, rate: int) -> float:
    """Return the loudest frequency of a waveform."""
    return float(np.argmax(np.abs(np.fft.rfft(waveform))) * rate / len(waveform))


def encode(waveform: np.ndarray, codec: str, container: str, rate: int = RATE, layout: str = "stereo") -> bytes:
    """Encode a mono waveform, on every channel, by FFmpeg."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        channels = np.repeat(waveform[None].astype(np.float32), stream.layout.nb_channels, axis=0)
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
        for each in [*resampler.resample(frame), None]:
            output.mux(stream.encode(each))
    return buffer.getvalue()


def write(waveform: np.ndarray, container: str, rate: int = RATE, **how) -> bytes:
    """Encode a waveform, (n,) or (n, channels), by libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=container, **how)
    return buffer.getvalue()


def mp3_frames(data: bytes) -> list[bytes]:
    """Split an mp3 of 44,100 Hz into its frames; the first holds the length."""
    frames, position = [], data.index(b"\xff\xfb")
    while position + 4 <= len(data) and data[position : position + 2] == b"\xff\xfb":
        header = data[position + 2]
        size = 144 * MP3_RATES[header >> 4] * 1000 // RATE + (header >> 1 & 1)
        frames.append(data[position : position + size])
        position += size
    return frames


def chords(seconds: float, rate: int = RATE) -> np.ndarray:
    """Play chords that change twice a second over a rising tone, as loud as a recording: sines alone, the same on every machine."""
    t = np.arange(round(seconds * rate)) / rate
    beat = t % 0.5
    root = 110 * 2 ** (np.floor(2 * t) * 7 % 12 / 12)
    notes = sum(np.sin(2 * np.pi * root * ratio * t) / ratio for ratio in (1, 1.25, 1.5, 2, 4, 8, 16))
    click = np.sin(2e6 * beat**2) * np.exp(-40 * beat)
    return (0.15 * notes * np.exp(-3 * beat) + 0.2 * click + 0.05 * np.sin(800 * t**2)).astype(np.float32)
