"""Duplicates by their audio fingerprints, in a catalogue."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from datamodules.audio.fingerprint import SIZE
from disentangled_ml.commands import embed
from disentangled_ml.commands.schemas import EmbedConfig
from disentangled_ml.config import load_config
from disentangled_ml.search.catalogue import AUDIO_FINGERPRINTS, read_catalogue
from disentangled_ml.search.duplicates import DUPLICATE, duplicate_threshold
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.question import Question
from tests.datamodules.audio.test_fingerprint import music
from tests.disentangled_ml.catalogues import SAMPLE_RATE, embed_recordings, unit_rows


def test_a_threshold_knows_copies_by_their_fingerprints():
    rows = unit_rows(20).astype(np.float64)
    prints = np.random.default_rng(0).integers(-127, 128, (20, SIZE), np.int8)
    alone = duplicate_threshold(rows, prints)
    twice, both = np.concatenate([rows, rows + 1e-4]), np.concatenate([prints, prints])
    assert duplicate_threshold(twice, both) == pytest.approx(alone, rel=1e-3)
    assert duplicate_threshold(twice) < 0.01 * alone
    assert duplicate_threshold(rows[:2], prints[[0, 0]]) == 0


def test_a_strongly_compressed_copy_is_folded_into_its_original(tmp_path, monkeypatch):
    monkeypatch.setattr("disentangled_ml.search.similarity_search.duplicate_threshold", lambda *known: 0.0)
    folder = tmp_path / "recordings"
    folder.mkdir()
    rows = ["track_id,path"]
    for seed in range(6):
        soundfile.write(folder / f"{seed}.flac", music(seed, 2.0), SAMPLE_RATE)
        rows.append(f"r{seed},{seed}.flac")
    soundfile.write(folder / "copy.mp3", music(3, 2.0), SAMPLE_RATE, format="MP3", compression_level=0.99)
    (folder / "manifest.csv").write_text("\n".join([*rows, "copy,copy.mp3"]) + "\n")
    (tmp_path / "x").mkdir()
    embed_recordings(tmp_path / "x", 1)
    arguments = [f"checkpoint={tmp_path}/x/x.ckpt", f"manifest={folder}/manifest.csv", f"out={tmp_path}/index"]
    embed.main(load_config(EmbedConfig, [*arguments, "workers=1"]))
    model = Embedder(tmp_path / "x" / "x.ckpt").open(tmp_path / "index")
    catalogue = model.catalogue
    assert catalogue.audio_fingerprint.shape == (7, SIZE)
    asked = Question(seeds=["r3"], k=6)
    assert [(d.track.track_id, d.kind) for d in model.ask(asked).seed_duplicates] == [("copy", DUPLICATE)]
    by_file = model.ask(replace(asked, seeds=[folder / "copy.mp3"]))
    assert {d.track.track_id for d in by_file.seed_duplicates} == {"r3", "copy"}
    (catalogue.files / AUDIO_FINGERPRINTS).unlink()
    assert read_catalogue(tmp_path / "index").audio_fingerprint is None
    assert model.open(tmp_path / "index").ask(asked).seed_duplicates == ()
