"""The same recording under several ids: in which split it stays, and that all else stays as it was."""

import csv
import logging
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.audio.decoding import decode_flac
from datamodules.corpora.manifest import read_manifest
from datamodules.shards import workers
from datamodules.shards.copies import NotedSounds
from datamodules.shards.index import ShardIndex
from datamodules.shards.parts import Part
from datamodules.shards.plan import ShardPlan
from datamodules.shards.preparation import (
    PreparationSettings,
    ShardStore,
    merge_parts,
    prepare_part,
    prepare_shards,
    write_index,
)
from datamodules.shards.tar import decode_mel, read_infos, read_samples, share_slices
from disentangled_ml.prepare import log_summary
from disentangled_ml.structures import SPLITS, AudioSettings
from tests.datamodules.conftest import write_catalogue

SETTINGS = PreparationSettings(
    AudioSettings(), min_frames=16, store_waveform=True, tempo="manifest", tracks_per_shard=2
)
SHARES = [1.0, 0.0, 0.0]  # the catalogue's own tracks are in train
COPIES = {  # id: path, split
    "same file": ("0.wav", "test"),
    "copied": ("copy.wav", "val"),
    "other format": ("copy.flac", "test"),
    "twice": ("2.wav", "train"),
}


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Path:
    """Write t0 to t4, of which t0 is in test too, t1 in validation and, as another file, in test, and t2 in train again."""
    monkeypatch.setattr(workers, "new_pool", lambda n, *_: ThreadPoolExecutor(n))
    rows = [{"track_id": name, "path": path, "split": split} for name, (path, split) in COPIES.items()]
    path = write_catalogue(tmp_path, 5, *rows)
    shutil.copy(path.parent / "1.wav", path.parent / "copy.wav")
    samples, rate = soundfile.read(path.parent / "1.wav", dtype="int16")
    soundfile.write(path.parent / "copy.flac", samples, rate)
    return path


def prepare(manifest: Path, out: Path) -> ShardIndex:
    return prepare_shards(read_manifest(manifest, SHARES), out, SETTINGS, workers=1)


def ids(index: ShardIndex) -> dict[str, set[str]]:
    return {split: {info.track_id for info in read_infos(index, split)} for split in SPLITS}


def rejections(index: ShardIndex) -> dict[str, list[str]]:
    with open(index.root / "rejected.csv", newline="", encoding="utf-8") as file:
        return {row["track_id"]: [row["path"], row["reason"]] for row in csv.DictReader(file)}


def test_a_recording_stays_in_test_or_validation(manifest, tmp_path, caplog):
    index = prepare(manifest, tmp_path / "out")
    assert ids(index) == {"train": {"t2", "t3", "t4", "twice"}, "val": set(), "test": {"same file", "other format"}}
    folder = manifest.parent
    assert rejections(index) == {
        "t0": [str(folder / "0.wav"), "the same recording as 'same file' in test, which keeps it"],
        "t1": [str(folder / "1.wav"), "the same recording as 'other format' in test, which keeps it"],
        "copied": [str(folder / "copy.wav"), "the same recording as 'other format' in test, which keeps it"],
    }
    with caplog.at_level(logging.INFO, "prepare"):
        log_summary(index, [])
    assert "3 rejected: 3 the same recording as ... in test, see" in caplog.text


def test_other_samples_stay_as_they_were(manifest, tmp_path):
    index, folder = prepare(manifest, tmp_path / "out"), manifest.parent
    lines = manifest.read_text().splitlines()
    kept = [line for line in lines if line.split(",")[0] not in ("t0", "t1", "copied")]
    (folder / "kept.csv").write_text("\n".join(kept))
    expected = samples(prepare(folder / "kept.csv", tmp_path / "kept"))
    assert samples(index) == expected


def samples(index: ShardIndex) -> dict[str, tuple[bytes, bytes, bytes]]:
    """Read the members of each sample, by its key, and check that they can be decoded."""
    found = {}
    for split in SPLITS:
        for sample in read_samples(index.root, share_slices(index.splits[split], 0, 1), ("json", "mel.npy", "flac")):
            assert decode_mel(sample["mel.npy"]).shape[0] == AudioSettings().n_mels
            assert len(decode_flac(sample["flac"]))
            found[sample["__key__"]] = (sample["json"], sample["mel.npy"], sample["flac"])
    return found


def test_a_repeated_run_changes_nothing(manifest, tmp_path):
    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def times() -> list[int]:
        return [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").glob("*.tar"))]

    prepare(manifest, tmp_path / "out")
    before, made = contents(), times()
    prepare(manifest, tmp_path / "out")
    assert (contents(), times()) == (before, made)


def test_a_copy_is_taken_in_once_its_keeper_has_another_recording(manifest, tmp_path, caplog):
    """The same file is t0 in training, where it is rejected, and in test; there it is corrected."""
    index = prepare(manifest, tmp_path / "out")
    assert "t0" not in ids(index)["train"]
    text = manifest.read_text()
    line = next(line for line in text.splitlines() if line.startswith("same file,"))
    noise = np.random.default_rng(9).uniform(-0.5, 0.5, 40_000)
    soundfile.write(manifest.parent / "new.wav", noise, 22050)
    manifest.write_text(text.replace(line, line.replace("0.wav", "new.wav")))
    prepare(manifest, tmp_path / "out")
    assert "rejected as copies of recordings that are not there any more: t0" in caplog.text
    assert "t0" in ids(prepare(manifest, tmp_path / "out"))["train"]
    caplog.clear()
    prepare(manifest, tmp_path / "out")
    assert "copies" not in caplog.text


def test_copies_are_found_among_parts(manifest, tmp_path):
    corpus = read_manifest(manifest, SHARES)
    for number in (1, 2, 3):
        prepare_part(corpus, tmp_path / "parts", SETTINGS, 1, Part(number, 3))
    index = merge_parts(corpus, tmp_path / "parts", SETTINGS)
    assert samples(index) == samples(prepare(manifest, tmp_path / "out"))


def read_counts(monkeypatch) -> Counter[str]:
    """Count how often the note of each shard is read from now on."""
    counts: Counter[str] = Counter()
    read = ShardStore.read

    def counted(self, batch):
        counts[batch.name] += 1
        return read(self, batch)

    monkeypatch.setattr(ShardStore, "read", counted)
    return counts


def test_notes_are_read_twice_at_the_end_and_once_more_where_copies_are(manifest, tmp_path, monkeypatch):
    corpus = read_manifest(manifest, SHARES)
    plan = prepare_part(corpus, tmp_path / "out", SETTINGS, 1)
    counts = read_counts(monkeypatch)
    write_index(corpus, plan, tmp_path / "out", SETTINGS)
    assert min(counts.values()) == 2 < max(counts.values())
    # t0, t1 and "copied" are taken out of one shard each: read to find them and to write it anew.
    assert max(counts.values()) == 4
    counts.clear()
    write_index(corpus, plan, tmp_path / "out", SETTINGS)
    assert set(counts.values()) == {2}


def test_shards_with_some_sounds_are_found_among_all():
    names = [*(f"train-{i:06d}" for i in range(4)), "test-000000"]
    plan = ShardPlan("", names, np.array([0, 0, 1, 2, 2, 3, 4]), np.array([0, 1, 0, 0, 1, 0, 0]))
    codes = {"train": np.array([5, 2**64 - 1, 6, 7, 5], np.uint64), "test": np.array([], np.uint64)}
    sounds = NotedSounds(codes, {"train": [2, 0, 1, 2], "test": [0]}, {})

    def found(*wanted: int, split: str = "train") -> list[str]:
        return [batch.name for batch in sounds.shards_with(wanted, split, plan)]

    assert found(5) == ["train-000000", "train-000003"]
    assert found(2**64 - 1, 6) == ["train-000000", "train-000002"]
    assert found(8) == found(5, split="test") == []
