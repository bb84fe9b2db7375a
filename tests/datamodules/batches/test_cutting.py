"""Recordings to chunks: as prepare makes them, at the boundaries of their length, and what cannot be used."""

import numpy as np
import pytest
import soundfile
import torch

from datamodules.audio.decoding import UnusableAudio, decode_flac, encode_flac
from datamodules.audio.musicnn import window_features
from datamodules.audio.spectrogram import log_mel
from datamodules.batches.cutting import chunk_grid, cut_recordings, cut_waveform, open_waveform
from datamodules.batches.streams import waveform_chunk
from disentangled_ml.chunks import join_source, unpack
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


def music(seconds: float) -> np.ndarray:
    """Make a chord that is struck anew every half second."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (sum(np.sin(2 * np.pi * pitch * time) for pitch in (220, 277, 330)) * np.exp(-4 * (time % 0.5)) / 5).astype(
        np.float32
    )


@pytest.mark.parametrize("networks", [("msd",), ("msd", "mtt")])
def test_features_come_below_the_spectrogram_of_their_chunk(networks):
    waveform, audio = music(7.0), AudioSettings()
    chunks = cut_waveform(waveform, SAMPLE_RATE, audio, join_source("mel", networks), 129)
    plain = cut_waveform(waveform, SAMPLE_RATE, audio, "mel", 129)
    mels, features = unpack(torch.from_numpy(chunks), 200 * len(networks))
    np.testing.assert_array_equal(mels, plain)
    every_second = window_features(waveform, SAMPLE_RATE, networks)
    assert len(every_second) == 5
    np.testing.assert_allclose(features, every_second[[0, 3]].astype(np.float16), atol=1e-3)


def test_only_the_windows_that_are_read_are_computed():
    waveform, audio, wanted = music(9.0), AudioSettings(), [0, 100, 216]
    track = open_waveform(waveform, SAMPLE_RATE, audio, "mel+msd", 129, lambda length: wanted)
    every_second = window_features(waveform, SAMPLE_RATE)
    for start in wanted:
        _, features = unpack(torch.from_numpy(track.read_chunk(start))[None], 200)
        expected = every_second[round(audio.seconds(start))]
        np.testing.assert_allclose(features[0], expected.astype(np.float16), atol=1e-3)


def test_of_a_longer_chunk_the_features_are_the_mean_of_its_windows():
    chunks = cut_waveform(music(7.0), SAMPLE_RATE, AudioSettings(), "mel+msd", 258)
    _, features = unpack(torch.from_numpy(chunks), 200)
    expected = window_features(music(7.0), SAMPLE_RATE)[:4].astype(np.float16).astype(np.float32).mean(0)
    np.testing.assert_allclose(features[0], expected.astype(np.float16), atol=1e-3)


def test_the_last_window_at_a_rate_whose_ratio_is_rounded():
    chunks = cut_waveform(noise(189_690), 47_999, AUDIO, "mel+msd", 16)
    assert len(chunks) == (1 + 189_690 * AUDIO.sample_rate // 47_999 // AUDIO.hop_length) // 16


def test_what_is_too_short_for_the_networks_is_said():
    with pytest.raises(UnusableAudio, match="too short for musicnn"):
        cut_waveform(music(2.0), SAMPLE_RATE, AudioSettings(), "mel+msd", 65)
