"""What has changed since shards were made of it is made anew, and that alone; the result is that of a fresh preparation."""

import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.corpora.manifest import read_manifest
from datamodules.shards import origin, preparation
from datamodules.shards import workers as processes
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.preparation import PreparationSettings, ShardStore, merge_parts, prepare_shards
from datamodules.shards.tar import read_infos
from disentangled_ml.structures import AudioSettings

RATE = 22050
SHARES = [1.0, 0.0, 0.0]
SETTINGS = PreparationSettings(AudioSettings(n_mels=16), min_frames=16, tempo="manifest", tracks_per_shard=3)
N = 9  # in three shards
CHANGE = {"jazz": "swing", "Ann": "Eve", "77": "78"}  # of a tag, an artist and a tempo of t4 alone


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, RATE // 2)


class Prepared:
    """A manifest, its recordings and the shards of them."""

    def __init__(self, folder: Path):
        self.folder, self.manifest, self.out = folder, folder / "manifest.csv", folder / "out"
        rows = ["track_id,path,artist,genre,tempo"]
        for i in range(N):
            (folder / f"album{i}").mkdir()
            soundfile.write(folder / f"album{i}" / "01.wav", noise(i), RATE)
            rows.append(f"t{i},album{i}/01.wav," + ("Ann,jazz,77" if i == 4 else f"Bob{i},rock,"))
        self.manifest.write_text("\n".join(rows) + "\n")

    def recording(self, number: int) -> Path:
        return self.folder / f"album{number}" / "01.wav"

    def edit(self, old: str, new: str) -> None:
        self.manifest.write_text(self.manifest.read_text().replace(old, new))

    def prepare(self, out: str = "out") -> ShardIndex:
        return prepare_shards(read_manifest(self.manifest, SHARES), self.folder / out, SETTINGS, workers=1)

    def tracks(self) -> set[str]:
        return {info.track_id for info in read_infos(ShardIndex.read(self.out), "train")}

    def again(self) -> int:
        """Prepare again, check that the result is that of a fresh preparation, and return how many shards were made."""
        before = {path.name: path.stat().st_ino for path in self.out.glob("*.tar")}
        self.prepare()
        made = sum(before.get(path.name) != path.stat().st_ino for path in self.out.glob("*.tar"))
        fresh = self.prepare(f"fresh {len(list(self.folder.iterdir()))}").root
        assert {path.name for path in self.out.iterdir()} == {path.name for path in fresh.iterdir()}
        for path in fresh.iterdir():
            assert path.is_dir() or path.read_bytes() == (self.out / path.name).read_bytes(), path
        return made


@pytest.fixture(autouse=True)
def threads(monkeypatch) -> None:
    """Replace the processes, which take seconds to start, by threads."""
    monkeypatch.setattr(processes, "new_pool", lambda n, *_: ThreadPoolExecutor(n))


@pytest.fixture
def prepared(tmp_path) -> Prepared:
    made = Prepared(tmp_path)
    made.prepare()
    return made


def later(path: Path, seconds: int = 9) -> None:
    """Set the time of a file to some time after what it was."""
    time = path.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(time, time))


def test_nothing_has_changed(prepared):
    assert prepared.again() == 0


def test_a_corrected_path(prepared):
    """Two albums have a file of one name, and one recording was taken from the wrong one."""
    prepared.edit("t2,album2/01.wav", "t2,album5/01.wav")
    assert prepared.again() == 1


def test_a_recording_is_replaced_under_its_name(prepared):
    path = prepared.recording(3)
    size = path.stat().st_size
    soundfile.write(path, noise(99), RATE)
    assert path.stat().st_size == size
    later(path)
    assert prepared.again() == 1
    assert prepared.again() == 0


@pytest.mark.parametrize(("old", "new"), CHANGE.items(), ids=["tag", "artist", "tempo"])
def test_a_label_is_corrected(prepared, old, new):
    before = ShardIndex.read(prepared.out)
    prepared.edit(old, new)
    assert prepared.again() == 1
    after = ShardIndex.read(prepared.out)
    assert before.fingerprint() != after.fingerprint()
    same = [one == other for one, other in zip(before.splits["train"], after.splits["train"], strict=True)]
    assert sorted(same) == [False, True, True]


@pytest.mark.parametrize("other", ["sound", "artist"])
def test_the_digest_of_the_index_is_of_what_its_counts_do_not_show(prepared, other):
    before = json.loads((prepared.out / "index.json").read_text())
    if other == "sound":
        soundfile.write(prepared.recording(0), noise(77), RATE)
        later(prepared.recording(0))
    else:
        prepared.edit("Ann", "Eve")
    prepared.prepare()
    after = json.loads((prepared.out / "index.json").read_text())
    assert before["digest"] != after["digest"] == ShardIndex.read(prepared.out).fingerprint()
    for content in (before, after):
        del content["digest"]
        for shard in content["splits"]["train"]["shards"]:
            assert len(shard.pop("digest")) == 32
    assert before == after


def test_copies_and_moved_folders_are_the_same_recordings(prepared, monkeypatch):
    """Their bytes are read once; after that size and time at the new place are enough."""
    for number in range(N):
        later(prepared.recording(number))
    (prepared.folder / "moved").mkdir()
    for path in (*prepared.folder.glob("album*"), prepared.manifest):
        path.rename(prepared.folder / "moved" / path.name)
    prepared.manifest = prepared.folder / "moved" / "manifest.csv"
    assert prepared.again() == 0
    monkeypatch.setattr(origin, "read_origin", None)
    prepared.prepare()


MENDED = {
    "half a flac": (b"fLaC" + bytes(99), noise(1)),
    "a page": (b"<!DOCTYPE html><html>not here</html>", noise(2)),
    "nothing": (b"", noise(3)),
    "silence": (None, noise(4)),
}


@pytest.mark.parametrize("bad", MENDED)
def test_a_rejected_recording_is_tried_again_once_it_has_changed(prepared, bad):
    data, sound = MENDED[bad]
    path = prepared.recording(6)
    if data is None:
        soundfile.write(path, 0 * sound, RATE)
    else:
        path.write_bytes(data)
    later(path)
    assert prepared.again() == 1
    assert "t6" not in prepared.tracks()
    assert prepared.again() == 0
    soundfile.write(path, sound, RATE)
    later(path, 18)
    assert prepared.again() == 1
    assert "t6" in prepared.tracks()


def test_a_corrected_path_of_a_missing_recording(prepared):
    """The list of the rejected names the path that was looked for last."""
    prepared.edit("album7/01.wav", "nowhere/01.wav")
    prepared.recording(7).unlink()
    (prepared.out / f"{shard_of(prepared, 't7')}.tar").unlink()
    prepared.prepare()
    prepared.edit("nowhere/01.wav", "elsewhere/01.wav")
    assert prepared.again() == 1
    assert "elsewhere" in (prepared.out / "rejected.csv").read_text()


def shard_of(prepared: Prepared, track_id: str) -> str:
    """Return the name of the shard that holds a track."""
    notes = (prepared.out / ".prepare").glob("train-*.json")
    return next(path.stem for path in notes if f'"{track_id}"' in path.read_text())


def fail_once(work: Callable, error: Exception) -> Callable:
    failed = []

    def fail(*arguments: Any, **how: Any) -> Any:
        if not failed:
            failed.append(1)
            raise error
        return work(*arguments, **how)

    return fail


@pytest.mark.parametrize("error", [MemoryError("too much"), OSError(5, "Input/output error")], ids=["memory", "disk"])
def test_a_failure_that_was_not_the_recordings_is_tried_again(tmp_path, monkeypatch, error):
    prepared = Prepared(tmp_path)
    monkeypatch.setattr(preparation, "read_recording", fail_once(preparation.read_recording, error))
    prepared.prepare()
    assert len(prepared.tracks()) == N - 1
    assert prepared.again() == 1
    assert len(prepared.tracks()) == N


def test_a_recording_whose_process_was_killed_is_tried_again(tmp_path, monkeypatch):
    prepared, killing = Prepared(tmp_path), [True]

    class Pool(ThreadPoolExecutor):
        def submit(self, task: Callable, rows: Any) -> Future:
            future = super().submit(task, rows)
            if killing and any(row.track_id == "t4" for row in rows):
                future = Future()
                future.set_exception(BrokenProcessPool())
            return future

    monkeypatch.setattr(processes, "new_pool", lambda n, *_: Pool(n))
    prepared.prepare()
    assert "takes the process down" in (prepared.out / "rejected.csv").read_text()
    assert len(prepared.tracks()) == N - 1
    killing.clear()
    assert prepared.again() == 1
    assert len(prepared.tracks()) == N


def test_a_recording_that_cannot_be_read_is_tried_again(tmp_path, monkeypatch):
    """Its rights, say, change neither size nor time."""
    prepared = Prepared(tmp_path)
    with monkeypatch.context() as locked:

        def refuse(*_: Any) -> None:
            raise PermissionError(13, "Permission denied")

        locked.setattr(origin.hashlib, "file_digest", refuse)
        prepared.prepare()
    assert prepared.again() == 3


def test_while_shards_are_made_anew_there_is_no_index(prepared, monkeypatch):
    """A run that ends between them leaves nothing that reads old and new shards as one."""
    prepared.edit("rock", "pop")
    write_shard, made = preparation.write_shard, []

    def fail(path: Path, samples: Any) -> Any:
        if made:
            raise OSError(28, "No space left on device")
        made.append(path)
        return write_shard(path, samples)

    with monkeypatch.context() as full:
        full.setattr(preparation, "write_shard", fail)
        with pytest.raises(OSError, match="No space left"):
            prepared.prepare()
    with pytest.raises(ShardsError, match=r"index\.json does not exist"):
        ShardIndex.read(prepared.out)
    assert prepared.again() == 2


@pytest.mark.parametrize("what", ["recording", "label"])
def test_merging_notices_what_has_changed(prepared, what):
    if what == "label":
        prepared.edit("jazz", "swing")
    else:
        soundfile.write(prepared.recording(4), noise(5), RATE)
        later(prepared.recording(4))
    with pytest.raises(
        ShardsError, match=rf"lacks 1 of 3 shards \({shard_of(prepared, 't4')}\): run prepare with part=1/1"
    ):
        merge_parts(read_manifest(prepared.manifest, SHARES), prepared.out, SETTINGS)


def test_merging_takes_what_fails_each_time(tmp_path, monkeypatch):
    prepared, read = Prepared(tmp_path), preparation.read_recording

    def fail(path: Path, *section: Any, **how: Any) -> Any:
        if path == prepared.recording(4):
            raise MemoryError("too much")
        return read(path, *section, **how)

    monkeypatch.setattr(preparation, "read_recording", fail)
    index = prepared.prepare()
    assert merge_parts(read_manifest(prepared.manifest, SHARES), prepared.out, SETTINGS) == index
    assert "t4," + str(prepared.recording(4)) + ",unexpected MemoryError" in (prepared.out / "rejected.csv").read_text()


def test_merging_needs_no_recordings(prepared):
    before = (prepared.out / "index.json").read_bytes()
    for number in range(N):
        prepared.recording(number).unlink()
    (prepared.out / "index.json").unlink()
    merge_parts(read_manifest(prepared.manifest, SHARES), prepared.out, SETTINGS)
    assert (prepared.out / "index.json").read_bytes() == before


def test_what_would_be_lost_is_kept_and_said(prepared, caplog):
    prepared.edit("jazz", "swing")
    prepared.recording(4).unlink()
    before = prepared.tracks()
    prepared.prepare()
    assert prepared.tracks() == before
    assert f"{shard_of(prepared, 't4')}.tar is kept as it is, though what it was made of has changed" in caplog.text


def test_a_kill_between_a_tar_and_its_note(prepared, monkeypatch):
    """The note is of the old labels, as is its tar's size: the shard is made again."""
    prepared.edit("jazz", "funk")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(ShardStore, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepared.prepare()
    assert prepared.again() == 1
