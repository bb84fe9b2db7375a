"""Recordings to chunks: as prepare makes them, at the boundaries of their length, and what cannot be used."""

import numpy as np
import pytest
import soundfile

from datamodules.audio.decoding import UnusableAudio, decode_flac, encode_flac
from datamodules.audio.spectrogram import log_mel
from datamodules.batches.cutting import chunk_grid, cut_recordings, cut_waveform
from datamodules.batches.streams import waveform_chunk
from disentangled_ml.structures import AudioSettings, Rejected, TrackRecord

AUDIO, FRAMES, SAMPLE_RATE = AudioSettings(n_mels=16), 16, 22050


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, n).astype(np.float32)


def samples_of(frames: int) -> int:
    """Give the least number of samples that has so many frames."""
    return (frames - 1) * AUDIO.hop_length


@pytest.mark.parametrize("source", ["mel", "waveform"])
@pytest.mark.parametrize("frames", [FRAMES, FRAMES + 1, 2 * FRAMES - 1, 2 * FRAMES, 3 * FRAMES + 5])
def test_chunks_do_not_overlap_and_are_all_there(source, frames):
    waveform = noise(samples_of(frames))
    chunks = cut_waveform(waveform, SAMPLE_RATE, AUDIO, source, FRAMES)
    assert len(chunks) == frames // FRAMES
    if source == "mel":
        assert chunks.dtype == np.float16
        mel = log_mel(waveform, AUDIO)
        np.testing.assert_array_equal(np.concatenate(chunks, axis=2)[0], mel[:, : len(chunks) * FRAMES])
    else:
        flac = encode_flac(waveform, SAMPLE_RATE)
        for chunk, start in zip(chunks, chunk_grid(frames, FRAMES), strict=True):
            np.testing.assert_allclose(chunk, waveform_chunk(flac, AUDIO, FRAMES, start), atol=2**-15)


@pytest.mark.parametrize("source", ["mel", "waveform"])
def test_too_short_by_one_frame(source):
    with pytest.raises(UnusableAudio, match=r"shorter than a chunk: 0\.35 s, 0\.35 s needed"):
        cut_waveform(noise(samples_of(FRAMES) - 1), SAMPLE_RATE, AUDIO, source, FRAMES)
    with pytest.raises(UnusableAudio, match=r"shorter than a chunk: 0\.00 s"):
        cut_waveform(noise(1), SAMPLE_RATE, AUDIO, source, FRAMES)


def test_other_sample_rates_are_resampled():
    chunks = cut_waveform(noise(2 * samples_of(3 * FRAMES)), 44100, AUDIO, "waveform", FRAMES)
    assert chunks.shape == (3, AUDIO.chunk_samples(FRAMES))


def test_a_group_goes_on_past_what_cannot_be_used(tmp_path):
    waveform = noise(2 * SAMPLE_RATE)
    soundfile.write(tmp_path / "a.flac", waveform, SAMPLE_RATE)
    (tmp_path / "b.flac").write_bytes(b"no recording")

    def record(name: str) -> TrackRecord:
        return TrackRecord(name, str(tmp_path / f"{name}.flac"), None, "train", {})

    given = Rejected("x", "x.mp3", "no path")
    cut, bad, gone, kept = cut_recordings([record("a"), record("b"), record("c"), given], AUDIO, "mel", FRAMES)
    expected = cut_waveform(decode_flac((tmp_path / "a.flac").read_bytes()), SAMPLE_RATE, AUDIO, "mel", FRAMES)
    np.testing.assert_array_equal(cut, expected)
    assert bad.reason == "not a recording: its content is text"
    assert gone == Rejected("c", str(tmp_path / "c.flac"), "missing file")
    assert kept is given
