"""What is not as it should be about the tracks that are used: listed beside the shards, and counted at the end of ``prepare``."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.audio.tempo import Tempo
from datamodules.corpora.manifest import read_manifest
from datamodules.shards import preparation, workers
from datamodules.shards.index import ShardIndex
from datamodules.shards.preparation import NO_TEMPO, PreparationSettings, prepare_shards
from datamodules.shards.tar import read_infos
from disentangled_ml.prepare import log_summary
from disentangled_ml.structures import AudioSettings

RATE = 22_050
AUDIO = AudioSettings(n_mels=16)
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE)


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Path:
    """Write a manifest of one recording that is as it should be, one that is too loud, and a FLAC with a hole."""
    monkeypatch.setattr(workers, "new_pool", lambda n, *_: ThreadPoolExecutor(n))
    soundfile.write(tmp_path / "good.wav", NOISE, RATE)
    soundfile.write(tmp_path / "loud.wav", NOISE * 20_000, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "hole.flac", NOISE, RATE)
    data = bytearray((tmp_path / "hole.flac").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "hole.flac").write_bytes(data)
    (tmp_path / "m.csv").write_text("track_id,path,genre\ngood,good.wav,a\nloud,loud.wav,b\nhole,hole.flac,c\n")
    return tmp_path / "m.csv"


def prepare(manifest: Path, **how) -> ShardIndex:
    settings = PreparationSettings(AUDIO, min_frames=16, **how)
    return prepare_shards(read_manifest(manifest, [1.0, 0.0, 0.0]), manifest.parent / "out", settings, workers=1)


def listed(index: ShardIndex, name: str, column: str) -> dict[str, str]:
    with open(index.root / name, newline="", encoding="utf-8") as file:
        return {row["track_id"]: row[column] for row in csv.DictReader(file)}


def test_warnings_are_listed_and_counted(manifest, caplog):
    index = prepare(manifest, tempo="manifest")
    warnings = listed(index, "warnings.csv", "warning")
    assert sorted(warnings) == ["hole", "loud"]
    assert warnings["hole"].startswith("damaged: 0.19 of 5.00 s are lost")
    assert warnings["loud"].startswith("beyond full scale: ")
    assert len(list(read_infos(index, "train"))) == 3
    with caplog.at_level("WARNING"):
        log_summary(index, [])
    assert [record.getMessage() for record in caplog.records] == [
        f"2 warnings: 1 beyond full scale, 1 damaged, see {index.root / 'warnings.csv'}"
    ]


def test_a_short_track_is_rejected_with_what_is_odd_about_it(manifest):
    data = bytearray((manifest.parent / "good.wav").read_bytes())
    place = data.index(b"data") + 4
    data[4:8], data[place : place + 4] = (1036).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    (manifest.parent / "good.wav").write_bytes(data)
    reason = listed(prepare(manifest, tempo="manifest"), "rejected.csv", "reason")["good"]
    assert reason.startswith(
        "shorter than a chunk: 0.02 s, 0.35 s needed; other length: 0.02 s are decoded, 4.77 s lie"
    )


def test_a_repeated_run_keeps_the_warnings(manifest):
    before = (prepare(manifest, tempo="manifest").root / "warnings.csv").read_text()
    assert (prepare(manifest, tempo="manifest").root / "warnings.csv").read_text() == before


def test_how_much_may_be_lost_is_a_setting(manifest):
    index = prepare(manifest, tempo="manifest", max_lost=0.01)
    assert listed(index, "rejected.csv", "reason")["hole"].endswith("more than max_lost=0.01 allows")
    assert sorted(listed(index, "warnings.csv", "warning")) == ["loud"]


def test_a_track_without_a_beat_has_no_tempo_and_that_is_told(manifest, monkeypatch):
    monkeypatch.setattr(
        preparation, "estimate_tempi", lambda excerpts, _: [Tempo(120.0), *[None] * (len(excerpts) - 1)]
    )
    index = prepare(manifest)
    tempi = {info.track_id: info.labels.get("tempo") for info in read_infos(index, "train")}
    assert sorted(tempi.values(), key=str) == [120.0, None, None]
    with open(index.root / "warnings.csv", newline="", encoding="utf-8") as file:
        told = [row["track_id"] for row in csv.DictReader(file) if row["warning"] == NO_TEMPO]
    assert sorted(told) == sorted(name for name, bpm in tempi.items() if bpm is None)
