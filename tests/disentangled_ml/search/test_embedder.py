"""The model for use: cheap to import, embeds files and waveforms alike, searches by id, file and embedding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import disentangled_ml
from datamodules.audio.decoding import decode
from datamodules.audio.spectrogram import log_mel
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.question import Question
from tests.disentangled_ml.catalogues import NAMES, SAMPLE_RATE, embed_recordings, save_checkpoint

BATCH_ATOL = 1e-5  # of a network on batches of other sizes
MEL_ATOL = 1e-3  # of embeddings whose spectrograms differ in the last bits of float16
N = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Give a folder with a checkpoint, recordings and the catalogue of them."""
    return embed_recordings(tmp_path_factory.mktemp("use"), N)


@pytest.fixture
def model(folder) -> Embedder:
    return disentangled_ml.load(folder / "x.ckpt").open(folder / "index")


@pytest.mark.slow
def test_importing_the_package_is_cheap_and_using_it_needs_no_lightning(folder):
    code = (
        "import sys, disentangled_ml\n"
        "assert not {'torch', 'numpy', 'omegaconf', 'faiss'} & set(sys.modules)\n"
        f"disentangled_ml.load({str(folder / 'x.ckpt')!r}).open({str(folder / 'index')!r}).search('r0')\n"
        "heavy = {'pytorch_lightning', 'lightning', 'wandb', 'matplotlib', 'faiss', 'madmom'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[3], timeout=120)


def test_a_file_and_its_waveform_are_embedded_alike(model, folder):
    path = folder / "recordings" / "3.flac"
    by_file, (waveform, sample_rate) = model.embed(path), decode(path)
    assert (by_file.dtype, by_file.shape) == (np.float32, (24,))
    assert np.linalg.norm(by_file) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(model.embed(str(path)), by_file)
    np.testing.assert_array_equal(model.embed(waveform, sample_rate), by_file)
    np.testing.assert_array_equal(model.embed(waveform), by_file)  # the model's own rate
    soundfile.write(folder / "other.wav", np.repeat(waveform, 2), 2 * SAMPLE_RATE, subtype="FLOAT")
    assert not np.array_equal(model.embed(folder / "other.wav"), by_file)


@pytest.mark.parametrize("frontend", ["mel", "nnaudio"])
def test_an_embedding_is_the_normalised_mean_of_the_chunks(folder, tmp_path, frontend):
    model = disentangled_ml.load(save_checkpoint(tmp_path / "x.ckpt", "shards/x", 0, f"frontend={frontend}"))
    path = folder / "recordings" / "4.flac"
    waveform, audio, frames = decode(path)[0], model.model.audio, model.model.chunk_frames
    mel, total, start = log_mel(waveform, audio), torch.zeros(24), 0
    while start + frames <= mel.shape[1]:
        first = start * audio.hop_length
        chunk = mel[None, :, start : start + frames]
        if frontend == "nnaudio":
            chunk = waveform[first : first + audio.chunk_samples(frames)]
        with torch.inference_mode():
            total += model.network(torch.from_numpy(chunk[None].copy()))[0]
        start += frames
    assert start > frames
    np.testing.assert_allclose(model.embed(path), (total / total.norm()).numpy(), atol=BATCH_ATOL)


def test_searching_by_file_is_searching_by_id(model, folder):
    for row in range(N):
        by_id = model.search(f"r{row}", {"genre": 1.0, "tempo": 0.5}, k=N)
        itself, *by_file = model.search(folder / "recordings" / f"{row}.flac", {"genre": 1.0, "tempo": 0.5}, k=N)
        assert itself.track.track_id == f"r{row}"
        assert itself.distance < MEL_ATOL
        assert [r.row for r in by_file] == [r.row for r in by_id]
        np.testing.assert_allclose([r.distance for r in by_file], [r.distance for r in by_id], atol=MEL_ATOL)
        by_embedding = model.search(
            model.embed(folder / "recordings" / f"{row}.flac"), {"genre": 1.0, "tempo": 0.5}, k=N
        )
        assert [r.row for r in by_embedding[1:]] == [r.row for r in by_id]


def test_filters_of_a_model(model):
    assert "r4" not in [r.track.track_id for r in model.search("r0", k=N, tempo=(60, 63))]
    artist = model.catalogue.track(1).artist
    assert artist
    assert artist in {r.track.artist for r in model.search("r1", k=N)}
    assert artist not in {r.track.artist for r in model.search("r1", k=N, same_artist=False)}


def test_conditions_of_a_model(model):
    assert model.condition_names == NAMES
    assert set(model.search("r0")[0].distances) == set(NAMES)


def test_what_cannot_be_embedded_is_said(model, tmp_path):
    (tmp_path / "x.mp3").write_bytes(b"no recording")
    with pytest.raises(ValueError, match=r"x\.mp3: not a recording: its content is text"):
        model.embed(tmp_path / "x.mp3")
    with pytest.raises(ValueError, match=r"nowhere\.mp3: missing file"):
        model.embed("nowhere.mp3")
    with pytest.raises(ValueError, match="the waveform: shorter than a chunk"):
        model.embed(np.zeros(100))
    with pytest.raises(
        ValueError, match=r"a waveform has one dimension, got shape \(2, 9\): take the mean of its channels"
    ):
        model.embed(np.zeros((2, 9)))
    with pytest.raises(ValueError, match="the embedding of the waveform is not finite"):
        model.embed(np.full(SAMPLE_RATE, np.nan))


def test_what_cannot_be_searched_is_said(model, folder, tmp_path):
    with pytest.raises(ValueError, match=r"nobody is neither a track of .*index nor a file"):
        model.search("nobody")
    with pytest.raises(ValueError, match="the query is no embedding: 24 finite numbers expected"):
        model.search(np.zeros(23))
    with pytest.raises(ValueError, match=r"no catalogue is open: open one first, with model.open\(DIR\)"):
        disentangled_ml.load(folder / "x.ckpt").search("r0")
    with pytest.raises(ValueError, match=r"catalogue\.json does not exist"):
        disentangled_ml.load(folder / "x.ckpt").open(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint .*nowhere\.ckpt does not exist"):
        disentangled_ml.load(tmp_path / "nowhere.ckpt")


def test_the_catalogue_of_another_model_is_refused(folder, tmp_path):
    other = disentangled_ml.load(save_checkpoint(tmp_path / "y.ckpt", seed=1))
    with pytest.raises(ValueError, match=r"index was embedded by another checkpoint \(sha256 .*\) than .*y\.ckpt"):
        other.open(folder / "index")


def test_a_question_whose_seeds_are_files(model, folder):
    path = folder / "recordings" / "4.flac"
    asked = model.ask(
        Question(seeds_of={"genre": [path], "mood": [str(path), "r1"]}, avoid=["r2"], fold_duplicates=False)
    )
    embedding = model.embed(path)
    by_embedding = Question(
        seeds_of={"genre": [embedding], "mood": [embedding, "r1"]}, avoid=["r2"], fold_duplicates=False
    )
    assert [r.row for r in asked.results] == [r.row for r in model.searched.ask(by_embedding).results]
    assert asked.weights == {"genre": 1.0, "mood": 1.0, "tempo": 0.0}
    with pytest.raises(ValueError, match="nowhere is no track of"):
        model.ask(Question(seeds=["nowhere"]))


def test_a_path_of_the_open_catalogue(model):
    found = model.path("r0", "r5", 2, {"genre": 1.0}, per_artist=3)
    assert [found[0].track.track_id, found[-1].track.track_id, len(found)] == ["r0", "r5", 3]
