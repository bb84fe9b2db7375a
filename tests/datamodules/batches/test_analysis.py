"""What is kept of recordings: the chunks that a network would read, by content, whatever a file is called, and nothing unpickled."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.audio.decoding import decode
from datamodules.batches import analysis
from datamodules.batches.analysis import (
    Analysis,
    AnalysisSettings,
    AnalysisStore,
    analyse_group,
    features_of,
    keep_analyses,
)
from datamodules.batches.cutting import cut_waveform
from datamodules.shards.origin import read_origin
from disentangled_ml.chunks import unpack
from disentangled_ml.structures import AudioSettings, Rejected, TrackRecord, chunk_grid

SAMPLE_RATE, FRAMES = 22050, 129
SETTINGS = AnalysisSettings(AudioSettings(), "mel+msd", FRAMES, most_seconds=6.0, tempo="manifest")


def clicks(seconds: float, bpm: float = 120.0) -> np.ndarray:
    waveform = 0.01 * np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE))
    beats = np.arange(0, seconds - 0.1, 60 / bpm)
    for start in (beats * SAMPLE_RATE).astype(int):
        waveform[start : start + 400] += 0.5 * np.hanning(400)
    return waveform.astype(np.float32)


def record(path: Path) -> TrackRecord:
    return TrackRecord(path.stem, str(path), None, "train", {})


def write(path: Path, seconds: float) -> TrackRecord:
    soundfile.write(path, clicks(seconds), SAMPLE_RATE)
    return record(path)


@pytest.mark.parametrize("n_chunks", [1, 2, 3, 7])
@pytest.mark.parametrize("most", [3.0, 6.0, None])
def test_the_chunks_are_spread_over_the_recording(n_chunks, most):
    settings = SETTINGS.__class__(AudioSettings(), "mel", FRAMES, most)
    grid = list(chunk_grid(n_chunks * FRAMES + 5, FRAMES))
    starts = settings.starts(n_chunks * FRAMES + 5)
    assert len(starts) == min(n_chunks, n_chunks if most is None else round(most / 3))
    assert set(starts) <= set(grid)
    assert starts == sorted(set(starts))
    # As far from the beginning as from the end, but for a chunk.
    assert abs(grid.index(starts[0]) - (len(grid) - 1 - grid.index(starts[-1]))) <= 1


def test_all_that_is_kept_is_what_the_network_would_read(tmp_path):
    row = write(tmp_path / "a.wav", 10.0)
    whole = AnalysisSettings(AudioSettings(), "mel+msd", FRAMES, None, "torch")
    (found,) = analyse_group([row], whole)
    waveform, rate = decode(tmp_path / "a.wav")
    np.testing.assert_array_equal(found.chunks, cut_waveform(waveform, rate, AudioSettings(), "mel+msd", FRAMES))
    assert found.starts == [0.0, 2.995, 5.991]
    assert found.seconds == 10.0
    assert found.tempo.bpm == pytest.approx(120, abs=1)
    assert set(found.tags) == {"genre", "mood", "instrument"}
    assert all(0 <= p <= 1 for tags in found.tags.values() for p in tags.values())
    _, features = unpack(torch.from_numpy(found.chunks), 200)
    np.testing.assert_array_equal(features_of(found.chunks, "mel+msd"), features.float().numpy())


def test_a_store_knows_recordings_by_their_content(tmp_path, monkeypatch):
    store, row = AnalysisStore(tmp_path / "store", SETTINGS), write(tmp_path / "a.wav", 12.0)
    (digest,) = keep_analyses([row], store)
    assert digest == read_origin(row.path).digest
    kept = store.read(digest)
    assert len(kept.chunks) == 2
    assert store.read(digest, chunks=False).seconds == 12.0
    os.rename(tmp_path / "a.wav", tmp_path / "b.wav")
    monkeypatch.setattr(analysis, "read_recording", None)  # it would fail
    assert keep_analyses([record(tmp_path / "b.wav")], store) == [digest]


def test_what_cannot_be_used_is_remembered_and_what_may_work_again_is_not(tmp_path, monkeypatch):
    store = AnalysisStore(tmp_path / "store", SETTINGS)
    (tmp_path / "a.wav").write_bytes(b"no recording")
    rows = [record(tmp_path / "a.wav"), write(tmp_path / "b.wav", 1.0), record(tmp_path / "gone.wav")]
    digests = keep_analyses(rows, store)
    assert "not" in store.read(digests[0])
    assert store.read(digests[1]) == "shorter than a chunk: 1.00 s, 2.97 s needed"
    assert isinstance(digests[2], Rejected)
    assert "missing" in digests[2].reason

    def fail(*_, **__):
        raise MemoryError("no memory")

    monkeypatch.setattr(analysis, "read_recording", fail)
    row = write(tmp_path / "c.wav", 4.0)
    (result,) = keep_analyses([row], store)
    assert "unexpected MemoryError" in result.reason
    assert not store.has(read_origin(row.path).digest)


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    store, row, read = (
        AnalysisStore(tmp_path / "store", SETTINGS),
        write(tmp_path / "a.wav", 4.0),
        analysis.read_recording,
    )

    def change_and_read(*arguments, **options):
        write(tmp_path / "a.wav", 5.0)
        return read(*arguments, **options)

    digest = read_origin(row.path).digest
    monkeypatch.setattr(analysis, "read_recording", change_and_read)
    (result,) = keep_analyses([row], store)
    assert "while it was analysed: repeat" in result.reason
    assert not store.has(digest)


def test_a_damaged_analysis_is_none_and_made_anew(tmp_path):
    store, row = AnalysisStore(tmp_path / "store", SETTINGS), write(tmp_path / "a.wav", 4.0)
    (digest,) = keep_analyses([row], store)
    whole = store.path(digest).read_bytes()
    assert isinstance(store.read(digest), Analysis)
    method = whole.index(b"PK\x01\x02") + 10  # of compression, that zipfile does not know then
    unknown_method = whole[:method] + b"\x7f" + whole[method + 1 :]
    for content in (b"", b"PK", b"\x93NUMPY", whole[: len(whole) // 2], unknown_method):
        store.path(digest).write_bytes(content)
        assert store.read(digest) is None
        assert not store.has(digest)
    assert keep_analyses([row], store) == [digest]
    assert isinstance(store.read(digest), Analysis)


def test_a_store_unpickles_nothing(tmp_path):
    store = AnalysisStore(tmp_path, SETTINGS)
    store.path("ab").parent.mkdir(parents=True)
    np.savez(store.path("ab"), chunks=np.array([{}], object), notes=np.array([{}], object))
    assert store.read("ab") is None


def test_other_settings_have_another_folder(tmp_path):
    folders = {
        AnalysisStore(tmp_path, AnalysisSettings(AudioSettings(n_mels=n_mels), source, FRAMES, most)).folder
        for n_mels in (64, 128)
        for source in ("mel", "mel+msd")
        for most in (None, 60.0)
    }
    assert len(folders) == 8
