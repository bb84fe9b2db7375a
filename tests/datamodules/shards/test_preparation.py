"""Every usable track ends up in exactly one shard, every other in ``rejected.csv``, however often the run is killed."""

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from datamodules.audio.content import MissingPackage
from datamodules.audio.decoding import decode_flac
from datamodules.audio.spectrogram import log_mel
from datamodules.audio.tempo import Tempo
from datamodules.corpora.manifest import read_manifest
from datamodules.corpora.records import collect
from datamodules.shards import preparation
from datamodules.shards import workers as processes
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.parts import Part
from datamodules.shards.plan import plan_shards
from datamodules.shards.preparation import (
    PreparationSettings,
    ShardStore,
    merge_parts,
    prepare_part,
    prepare_shards,
    prepare_tracks,
)
from datamodules.shards.tar import decode_mel, read_infos, read_samples, share_slices
from datamodules.shards.workers import Workers
from disentangled_ml.files import write_json
from disentangled_ml.structures import SPLITS, AudioSettings, Rejected, TrackInfo, TrackRecord
from tests import warm
from tests.datamodules.conftest import write_catalogue

ROOT = Path(__file__).parents[3]
SAMPLE_RATE = 22050
AUDIO = AudioSettings()
SETTINGS = PreparationSettings(AUDIO, min_frames=16, tempo="manifest", tracks_per_shard=4)
SHARES = [0.6, 0.2, 0.2]
PATIENCE = 300.0  # seconds, for a command on a busy machine
N_TRACKS = 84  # of runs in processes: each of seven parts has some shards of four


@pytest.fixture
def threads(monkeypatch) -> None:
    """Replace the processes, which take seconds to start, by threads."""
    monkeypatch.setattr(processes, "new_pool", lambda n, *_: ThreadPoolExecutor(n))


@pytest.fixture
def prepare(tmp_path) -> Callable[..., ShardIndex]:
    def prepare(
        manifest: Path, settings: PreparationSettings = SETTINGS, out: str = "out", workers: int = 2
    ) -> ShardIndex:
        catalogue = read_manifest(manifest, SHARES)
        return prepare_shards(catalogue, tmp_path / out, settings, workers)

    return prepare


def all_infos(index: ShardIndex) -> list[TrackInfo]:
    return [info for split in SPLITS for info in read_infos(index, split)]


def rejections(out: Path) -> dict[str, str]:
    """Read the reasons of ``rejected.csv`` by id."""
    with open(out / "rejected.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(set(row) == {"track_id", "path", "reason"} for row in rows)
    assert len({row["track_id"] for row in rows}) == len(rows)
    return {row["track_id"]: row["reason"] for row in rows}


def contents(out: Path) -> dict[str, bytes]:
    """Read all that users see of a folder of shards."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def noise(seed: int, seconds: float = 0.5, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * sample_rate)).astype(np.float32)


def test_every_format_and_every_fault(tmp_path, threads, prepare, make_catalogue):
    extra = [
        {"track_id": "t0", "path": "0.wav"},  # a duplicate
        {"track_id": "dev", "path": "0.wav", "split": "dev"},
        {"track_id": "fast", "path": "0.wav", "tempo": "fast"},
        {"track_id": "pathless"},
    ]
    extra += [{"track_id": name.partition(".")[0], "path": name} for name in FAULTS]
    good = {"wav": (SAMPLE_RATE, 1), "flac": (44100, 2), "ogg": (32000, 1), "mp3": (44100, 2)}
    extra += [{"track_id": f"good {extension}", "path": f"good.{extension}"} for extension in good]
    manifest = make_catalogue(6, *extra)
    folder = manifest.parent
    for extension, (sample_rate, channels) in good.items():
        samples = np.stack([noise(99, 0.7, sample_rate)] * channels, axis=1)
        soundfile.write(folder / f"good.{extension}", samples, sample_rate)
    for name, make in FAULTS.items():
        make(folder / name)
    index = prepare(manifest)
    reasons = rejections(index.root)
    expected = {f"t{i}" for i in range(6)} | {f"good {extension}" for extension in good}
    assert sorted(info.track_id for info in all_infos(index)) == sorted(expected)
    for track_id, reason in REASONS.items():
        assert reasons.pop(track_id).startswith(reason), track_id
    assert reasons == {}


FAULTS = {
    "corrupt.wav": lambda path: path.write_bytes(b"RIFF nothing of the kind" * 99),
    "text.mp3": lambda path: path.write_text("not music"),
    "silent.wav": lambda path: soundfile.write(path, np.zeros(SAMPLE_RATE), SAMPLE_RATE),
    "nan.wav": lambda path: soundfile.write(path, np.full(SAMPLE_RATE, np.nan), SAMPLE_RATE, subtype="FLOAT"),
    "empty.wav": lambda path: path.write_bytes(b""),
    "hollow.wav": lambda path: soundfile.write(path, np.zeros(0), SAMPLE_RATE),
    "missing.wav": lambda path: None,
    "folder.wav": lambda path: path.mkdir(),
    "short.wav": lambda path: soundfile.write(path, noise(0)[: 15 * 512 - 1], SAMPLE_RATE),  # 15 frames
}
REASONS = {
    "t0": "duplicate track_id",
    "dev": "unknown split 'dev'",
    "fast": "tempo 'fast' is not a number",
    "pathless": "no path",
    "corrupt": "not a recording: its content is text",
    "text": "not a recording: its content is text",
    "silent": "silent",
    "nan": "non-finite samples",
    "empty": "empty file",
    "hollow": "no samples",
    "missing": "missing file",
    "folder": "not a file",
    "short": "shorter than a chunk: 0.35 s, 0.35 s needed",
}


def test_a_track_of_exactly_a_chunk_is_usable(threads, prepare, make_catalogue):
    manifest = make_catalogue(1)
    soundfile.write(manifest.parent / "0.wav", noise(0)[: 15 * 512], SAMPLE_RATE)
    (info,) = all_infos(prepare(manifest))
    assert info.frames == 16


def test_samples_hold_labels_and_spectrogram(threads, prepare, make_catalogue):
    manifest = make_catalogue(6)
    index = prepare(manifest, PreparationSettings(AUDIO, 16, store_waveform=True, tempo="manifest"))
    records = {record.track_id: record for record in collect(read_manifest(manifest, SHARES))[0]}
    assert index.conditions == [
        {"name": "genre", "kind": "tags", "vocabulary": ["blues", "jazz", "rock"]},
        {"name": "tempo", "kind": "tempo"},
    ]
    assert index.has_waveform
    assert ShardIndex.read(index.root) == index
    n = 0
    for split in SPLITS:
        infos = read_infos(index, split)
        slices = share_slices(index.splits[split], 0, 1)
        for info, sample in zip(infos, read_samples(index.root, slices, ("mel.npy", "flac")), strict=True):
            record = records[info.track_id]
            assert (info.artist, info.labels, split) == (record.artist, record.labels, record.split)
            samples, _ = soundfile.read(record.path, dtype="float32")
            mel = decode_mel(sample["mel.npy"])
            assert mel.shape == (AUDIO.n_mels, info.frames)
            np.testing.assert_array_equal(mel, log_mel(samples, AUDIO))
            np.testing.assert_allclose(decode_flac(sample["flac"]), samples, atol=2**-15)
            n += 1
    assert n == 6


def test_tempo_is_estimated_only_where_the_manifest_has_none(threads, prepare, make_catalogue, monkeypatch, caplog):
    found = iter([None, Tempo(5.0), *[Tempo(133.0, 66.5)] * 99])  # none, a nonsense one, then good ones
    monkeypatch.setattr(preparation, "excerpt_of", lambda waveform, sample_rate: waveform)
    monkeypatch.setattr(
        preparation, "estimate_tempi", lambda excerpts, _: [next(found) if len(each) else None for each in excerpts]
    )
    manifest = make_catalogue(12)
    with caplog.at_level(logging.INFO):
        index = prepare(manifest, PreparationSettings(AUDIO, 16), workers=1)
    assert "the octave of 7 estimated tempi is ambiguous" in caplog.text
    given = {record.track_id: record.labels.get("tempo") for record in collect(read_manifest(manifest, SHARES))[0]}
    estimated = []
    for info in all_infos(index):
        if given[info.track_id] is None:
            estimated.append(info.labels.get("tempo"))
            assert info.other_tempo == (66.5 if "tempo" in info.labels else None)
        else:
            assert info.other_tempo is None
            assert info.labels["tempo"] == given[info.track_id]
    assert sorted(estimated, key=str) == [133.0] * 7 + [None] * 2


@pytest.mark.slow
def test_a_tempo_does_not_depend_on_the_rest_of_its_group(tmp_path, one_thread):
    """Alone, in a group, beside rejected tracks, by torch and by madmom."""
    records = [TrackRecord(f"t{i}", str(tmp_path / f"{i}.wav"), None, "train", {}) for i in range(4)]
    for period, record in zip((9000, 11000, 14000), records, strict=False):  # the last file is missing
        samples = 0.1 * noise(period, 3 + period / 20000)
        samples[::period] = 1
        soundfile.write(record.path, samples, SAMPLE_RATE)
    settings = PreparationSettings(AUDIO)
    together = prepare_tracks(records, settings)
    assert together[3] == Rejected("t3", records[3].path, "missing file")
    infos = [sample["info"] for sample in together[:3]]
    assert all(40 <= info.labels["tempo"] <= 250 for info in infos)
    others = [prepare_tracks([record], settings)[0] for record in records[:3]]
    others += prepare_tracks(records[2::-1], settings)[::-1]
    others += prepare_tracks(records[:3], replace(settings, tempo="madmom"))
    assert [sample["info"] for sample in others] == 3 * infos


def test_unusual_ids_come_back(threads, prepare, make_catalogue):
    ids = ["a.b", "a/b", "../c", "_d", "__e__", "f g", "Ünïcödé 音楽", "100%", "h.mel.npy", "i,j;k"]
    manifest = make_catalogue(0, *({"track_id": name, "path": "x.wav", "split": "test"} for name in ids))
    soundfile.write(manifest.parent / "x.wav", noise(0), SAMPLE_RATE)
    assert sorted(info.track_id for info in all_infos(prepare(manifest))) == sorted(ids)


def test_an_unexpected_error_rejects_the_track_alone(threads, prepare, make_catalogue, monkeypatch):
    def fail(waveform, sample_rate, new_sample_rate):
        if len(waveform) == 10_000:
            raise ZeroDivisionError("of all things")
        return waveform

    monkeypatch.setattr(preparation, "resample", fail)
    manifest = make_catalogue(5)
    soundfile.write(manifest.parent / "3.wav", noise(0)[:10_000], SAMPLE_RATE)
    index = prepare(manifest)
    assert rejections(index.root) == {"t3": "unexpected ZeroDivisionError: of all things"}
    assert len(all_infos(index)) == 4


def test_a_missing_madmom_ends_the_run(threads, prepare, make_catalogue, monkeypatch):
    def fail(excerpts, estimator):
        raise MissingPackage("tempo estimation needs madmom")

    monkeypatch.setattr(preparation, "estimate_tempi", fail)
    with pytest.raises(MissingPackage, match="needs madmom"):
        prepare(make_catalogue(5), PreparationSettings(AUDIO, 16))


def test_the_text_of_the_settings_is_as_ever():
    """Else folders of before would be taken for those of other settings."""
    before = (
        "PreparationSettings(audio=AudioSettings(sample_rate=22050, n_fft=1024, hop_length=512, n_mels=128), min_frames=129, "
        "store_waveform=False, tempo='torch', tracks_per_shard=64, max_lost=0.05"
    )
    settings = PreparationSettings(AudioSettings(), max_lost=0.05)
    assert settings.content() == before + ")"
    featured = replace(settings, features=("msd", "mtt"), tag_share=0.3)
    assert featured.content() == before + ", features=('msd', 'mtt'))"
    estimated = replace(featured, estimated=("mood",))
    assert estimated.content() == before + ", features=('msd', 'mtt'), estimated=('mood',))"


def groups_of(n: int, size: int) -> list[list[TrackRecord]]:
    records = [TrackRecord(f"t{i}", f"{i}.wav", None, "train", {}) for i in range(n)]
    return [records[first : first + size] for first in range(0, n, size)]


def test_workers_read_ahead_by_a_bounded_number(threads):
    taken = []

    def groups():
        for group in groups_of(1000, 2):
            taken.append(group)
            yield group

    with Workers(2, partial(prepare_tracks, settings=SETTINGS)) as workers:
        results = list(islice(workers.map(groups()), 3))
        assert [result.track_id for result in results] == ["t0", "t1", "t2"]
        assert len(taken) <= 2 + processes.IN_FLIGHT * 2


def test_a_group_that_fails_is_worked_on_one_by_one(threads):
    def work(records):
        if len(records) > 1 or records[0].track_id == "t3":
            raise MemoryError("too much")
        return [records[0].track_id]

    with Workers(1, work) as workers:
        results = list(workers.map(groups_of(7, 4)))
    assert results == ["t0", "t1", "t2", Rejected("t3", "3.wav", "unexpected MemoryError: too much"), "t4", "t5", "t6"]


class Deadly(TrackRecord):
    """Stand for a recording whose decoder takes the process down: it ends the one that receives it."""

    def __reduce__(self):
        return os._exit, (3,)


@pytest.mark.slow
def test_a_track_that_takes_its_process_down_is_rejected_alone(make_catalogue, monkeypatch):
    monkeypatch.setattr(processes, "IN_FLIGHT", 1)
    records, _ = collect(read_manifest(make_catalogue(4), SHARES))
    records[1] = Deadly(*records[1])
    with Workers(1, partial(prepare_tracks, settings=SETTINGS)) as workers:
        results = list(workers.map([records[:3], records[3:]]))
        on_interrupt = workers.pool.submit(signal.getsignal, signal.SIGINT).result()
    assert on_interrupt == signal.SIG_IGN, "Ctrl-C is for the main process alone"
    assert results[1] == Rejected("t1", records[1].path, "its decoding takes the process down")
    assert [results[i]["info"].track_id for i in (0, 2, 3)] == ["t0", "t2", "t3"]


def test_a_repeated_run_changes_nothing(tmp_path, threads, prepare, make_catalogue, monkeypatch):
    manifest = make_catalogue(20, {"track_id": "gone", "path": "gone.wav"})
    index, before = prepare(manifest), contents(tmp_path / "out")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished track is prepared again")

    monkeypatch.setattr(preparation, "prepare_track", never)  # a track that calls it is rejected: the contents differ
    assert prepare(manifest) == index
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("lost", ["tar", "note"])
def test_a_lost_shard_is_made_again(tmp_path, threads, prepare, make_catalogue, lost):
    manifest = make_catalogue(20)
    prepare(manifest)
    out = tmp_path / "out"
    before = contents(out)
    ((out / "train-000001.tar") if lost == "tar" else (out / ".prepare/train-000001.json")).unlink()
    prepare(manifest)
    assert contents(out) == before


def test_a_failed_write_keeps_what_is_made(tmp_path, threads, prepare, make_catalogue, monkeypatch):
    """A full disk ends the run; the next one continues."""
    manifest, write_shard = make_catalogue(20), preparation.write_shard

    def fail(path, samples):
        if path.name == "train-000001.tar":
            raise OSError(28, "No space left on device")
        return write_shard(path, samples)

    monkeypatch.setattr(preparation, "write_shard", fail)
    with pytest.raises(OSError, match="No space left"):
        prepare(manifest)
    made = (tmp_path / "out/train-000000.tar").stat()
    monkeypatch.setattr(preparation, "write_shard", write_shard)
    index = prepare(manifest)
    assert (tmp_path / "out/train-000000.tar").stat().st_mtime_ns == made.st_mtime_ns
    assert sorted(info.track_id for info in all_infos(index)) == sorted(f"t{i}" for i in range(20))


@pytest.mark.parametrize(
    "settings",
    [
        PreparationSettings(AudioSettings(n_mels=64), 16, tempo="manifest", tracks_per_shard=4),
        PreparationSettings(AUDIO, 17, tempo="manifest", tracks_per_shard=4),
        PreparationSettings(AUDIO, 16, tempo="manifest", tracks_per_shard=5),
        PreparationSettings(AUDIO, 16, True, tempo="manifest", tracks_per_shard=4),
    ],
    ids=["audio", "min_frames", "tracks_per_shard", "store_waveform"],
)
def test_other_settings_are_refused(tmp_path, threads, prepare, make_catalogue, settings):
    manifest = make_catalogue(6)
    prepare(manifest)
    before = contents(tmp_path / "out")
    with pytest.raises(ShardsError, match=r"out holds shards of other tracks or other settings: give another out=DIR"):
        prepare(manifest, settings)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("t3,", "other,"),
        lambda text: text + "t9,3.wav,,,,\n",
        lambda text: text[: text.index("t5,")],
    ],
    ids=["another", "more", "less"],
)
def test_other_tracks_are_refused(tmp_path, threads, prepare, make_catalogue, change):
    manifest = make_catalogue(6)
    prepare(manifest)
    before = contents(tmp_path / "out")
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(ShardsError, match="holds shards of other tracks or other settings"):
        prepare(manifest)
    assert contents(tmp_path / "out") == before


def test_shards_of_an_earlier_version_are_refused(tmp_path, threads, prepare, make_catalogue):
    """They did not note what they were made of. They are read as before, and the message says how to make them anew."""
    manifest = make_catalogue(6)
    index = prepare(manifest)
    (tmp_path / "out/.prepare/plan.json").write_text('{"fingerprint": "538cec784c5e64e96cc4edb86447522d"}')
    with pytest.raises(
        ShardsError, match=r"out holds what an earlier version made, .*: give another out=DIR, or delete"
    ):
        prepare(manifest)
    assert ShardIndex.read(tmp_path / "out") == index


def test_a_folder_with_foreign_tars_is_refused(tmp_path, threads, prepare, make_catalogue):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/backup.tar").write_bytes(b"precious")
    with pytest.raises(ShardsError, match=r"out holds tars that prepare did not make: give another out=DIR"):
        prepare(make_catalogue(6))
    assert contents(tmp_path / "out") == {"backup.tar": b"precious"}


def test_no_usable_track_and_then_the_mistake_is_mended(tmp_path, threads, prepare, make_catalogue):
    manifest = make_catalogue(3)
    text = manifest.read_text()
    manifest.write_text(text.replace(".wav", ".mp3"))
    with pytest.raises(ShardsError, match=r"no track is usable, see the reasons in .*rejected.csv"):
        prepare(manifest)
    assert rejections(tmp_path / "out") == {f"t{i}": "missing file" for i in range(3)}
    manifest.write_text(text)
    assert len(all_infos(prepare(manifest))) == 3


def test_parts_make_what_one_run_makes(tmp_path, threads, prepare, make_catalogue):
    extra = [{"track_id": "gone", "path": "gone.wav"}, {"track_id": "t7", "path": "7.wav"}, {"track_id": "pathless"}]
    manifest = make_catalogue(40, *extra)
    index = prepare(manifest)
    catalogue, parts = read_manifest(manifest, SHARES), tmp_path / "parts"
    n_shards = len(list(index.root.glob("*.tar")))
    for number in (4, 2, 3):
        prepare_part(catalogue, parts, SETTINGS, 1, Part(number, 4))
    made = {path.stem for path in parts.glob("*.tar")}
    missing = sorted({path.stem for path in index.root.glob("*.tar")} - made, key=index_order)
    assert 0 < len(missing) < n_shards
    message = (
        rf"parts lacks {len(missing)} of {n_shards} shards \({', '.join(missing)}\): run prepare with part=1/4 first"
    )
    with pytest.raises(ShardsError, match=message):
        merge_parts(catalogue, parts, SETTINGS)
    assert not (parts / "index.json").exists()
    prepare_part(catalogue, parts, SETTINGS, 1, Part(1, 4))
    merge_parts(catalogue, parts, SETTINGS)
    assert contents(parts) == contents(index.root)


def index_order(name: str) -> tuple[int, str]:
    return SPLITS.index(name.partition("-")[0]), name


def test_more_parts_than_shards(tmp_path, threads, prepare, make_catalogue):
    manifest = make_catalogue(3)
    catalogue = read_manifest(manifest, SHARES)
    for number in range(1, 10):
        prepare_part(catalogue, tmp_path / "parts", SETTINGS, 1, Part(number, 9))
    index = merge_parts(catalogue, tmp_path / "parts", SETTINGS)
    assert sorted(info.track_id for info in all_infos(index)) == ["t0", "t1", "t2"]


def test_a_part_skips_what_another_process_makes_meanwhile(tmp_path, threads, prepare, make_catalogue, monkeypatch):
    """Two processes on one part: here the second does all its work while the first is at its first shard."""
    manifest = make_catalogue(60)
    whole = prepare(manifest)
    catalogue, out, write = read_manifest(manifest, SHARES), tmp_path / "both", ShardStore.write
    made = []

    def write_and_be_overtaken(store, batch, results):
        if not made:
            monkeypatch.setattr(ShardStore, "write", write)
            prepare_part(catalogue, out, SETTINGS, 1)
        made.append(batch.name)
        write(store, batch, results)

    monkeypatch.setattr(ShardStore, "write", write_and_be_overtaken)
    monkeypatch.setattr(processes, "IN_FLIGHT", 1)
    first = prepare_part(catalogue, out, SETTINGS, 1)
    assert 1 <= len(made) < len(first.names)
    merge_parts(catalogue, out, SETTINGS)
    assert contents(out) == contents(whole.root)


def test_records_are_held_a_few_shards_at_a_time(tmp_path, threads, prepare, make_catalogue, monkeypatch):
    manifest = make_catalogue(30)
    whole = prepare(manifest)
    held, read_members = [], preparation.read_members
    monkeypatch.setattr(preparation, "RECORDS_HELD", 9)
    monkeypatch.setattr(preparation, "read_members", lambda *how: held.append(how[2]) or read_members(*how))
    assert contents(prepare(manifest, out="again").root) == contents(whole.root)
    assert max(map(len, held)) == 2
    assert sum(map(len, held)) == sum(len(shards) for shards in whole.splits.values())


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> SimpleNamespace:
    """Prepare a catalogue in one go, by a command as a user starts it, with one worker; return its manifest and shards."""
    folder = tmp_path_factory.mktemp("once")
    extra = [{"track_id": "gone", "path": "gone.wav"}, {"track_id": "t7", "path": "7.wav"}]
    manifest, out = write_catalogue(folder, N_TRACKS, *extra), folder / "out"
    subprocess.run(command(manifest, out, 1), cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    return SimpleNamespace(manifest=manifest, out=out)


def command(manifest: Path, out: Path, workers: int, *more: str) -> list[str]:
    keys = [f"manifest={manifest}", f"out={out}", f"workers={workers}", "tempo=manifest", "chunk_frames=16"]
    return warm.cold("prepare", *keys, "tracks_per_shard=4", *more)


def start_and_kill(manifest: Path, out: Path, n_tars: int, how: Callable[[int], None], *more: str) -> warm.Popen:
    """Start a run, and end it when some more shards are made: before the next one is put in its place it waits for that."""
    there = list(out.glob("*.tar"))
    # Where a kill came between a tar and its note, the tar is made again, which adds none.
    again = sum(not (out / ".prepare" / f"{path.stem}.json").exists() for path in there)
    hold = warm.hold_before(".tar", again + n_tars + 1)
    n_tars += len(there)
    process = warm.Popen(command(manifest, out, 2, *more), stderr=subprocess.PIPE, before=hold)
    deadline = time.monotonic() + PATIENCE
    while len(list(out.glob("*.tar"))) < n_tars:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    how(process.pid)
    return process


def alive(group: int) -> list[int]:
    """List the processes of a group that are not yet ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for_the_end(process: subprocess.Popen) -> None:
    """Wait until a run and all its helpers are gone; none of them may stay."""
    try:
        process.communicate(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive(process.pid) == []
    finally:
        for pid in alive(process.pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_killed_runs_continue_and_end_as_one_that_was_not(tmp_path, once):
    """Ctrl-C, then a hard kill, then to the end by two workers; against one run by one worker."""
    out = tmp_path / "out"
    made: dict[str, tuple[int, int]] = {}
    for how in (lambda pid: os.killpg(pid, signal.SIGINT), lambda pid: os.kill(pid, signal.SIGKILL)):
        process = start_and_kill(once.manifest, out, 2, how)
        wait_for_the_end(process)
        assert process.returncode != 0
        assert not (out / "index.json").exists()
        for name, (inode, mtime) in made.items():
            assert (out / name).stat().st_ino == inode
            assert (out / name).stat().st_mtime_ns == mtime
        noted = [path for path in out.glob("*.tar") if (out / ".prepare" / f"{path.stem}.json").exists()]
        made = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in noted}
    warm.run("prepare", *command(once.manifest, out, 2)[3:], check=True, timeout=PATIENCE)
    for name, (inode, mtime) in made.items():
        assert (out / name).stat().st_ino == inode, f"{name} was made again"
        assert (out / name).stat().st_mtime_ns == mtime
    assert contents(out) == contents(once.out)
    index = ShardIndex.read(out)
    assert sorted(info.track_id for info in all_infos(index)) == sorted(f"t{i}" for i in range(N_TRACKS))
    assert rejections(out) == {"gone": "missing file", "t7": "duplicate track_id, the first one is kept"}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_seven_parts_by_several_processes_one_killed_make_what_one_run_makes(tmp_path, once):
    """In any order, two processes on one part, and one killed hard and started again."""
    manifest, out = once.manifest, tmp_path / "out"

    def finish(*processes: warm.Popen) -> None:
        for process in processes:
            _, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, errors

    def start(part: str) -> warm.Popen:
        return warm.Popen(command(manifest, out, 1, f"part={part}"), stderr=subprocess.PIPE)

    killed = start_and_kill(manifest, out, 1, lambda pid: os.kill(pid, signal.SIGKILL), "part=5/7")
    wait_for_the_end(killed)
    for pair in (("6/7", "2/7"), ("3/7", "3/7"), ("5/7", "1/7")):
        finish(*map(start, pair))
    merge = command(manifest, out, 1, "merge=true")[3:]
    early = warm.run("prepare", *merge, timeout=PATIENCE)
    assert early.returncode != 0
    assert "run prepare with part=4/7, 7/7 first" in early.stderr
    finish(*map(start, ("7/7", "4/7")))
    warm.run("prepare", *merge, check=True, timeout=PATIENCE)
    assert contents(out) == contents(once.out)
    infos = all_infos(ShardIndex.read(out))
    assert sorted(info.track_id for info in infos) == sorted(f"t{i}" for i in range(N_TRACKS))


def test_a_shard_is_kept_where_others_of_its_recordings_are_gone(tmp_path, threads, prepare, make_catalogue, caplog):
    """A recording that was missing is there now, but one that is in the shard could not be prepared again."""
    manifest = make_catalogue(3, {"track_id": "late", "path": "late.wav", "split": "train"})
    index = prepare(manifest, replace(SETTINGS, tracks_per_shard=99))
    before = {info.track_id for info in all_infos(index)}
    soundfile.write(manifest.parent / "late.wav", noise(5), SAMPLE_RATE)
    gone = next(shard for shard in index.splits["train"])
    assert gone
    train = {info.track_id for info in read_infos(index, "train")}
    (manifest.parent / f"{min(train)[1:]}.wav").unlink()
    with caplog.at_level(logging.WARNING):
        again = prepare(manifest, replace(SETTINGS, tracks_per_shard=99))
    assert {info.track_id for info in all_infos(again)} == before
    assert "train-000000.tar is kept as it is" in caplog.text


def test_of_two_settings_only_one_claims_a_folder(tmp_path, make_catalogue):
    """The second finds the note of the first, which is never overwritten."""
    catalogue, out = read_manifest(make_catalogue(3), SHARES), tmp_path / "out"
    plans = [plan_shards(catalogue, settings, 4) for settings in ("one", "other")]
    stores = [ShardStore(out, plan) for plan in plans]
    stores[0].folder.mkdir(parents=True)
    for store in stores:
        write_json(store.folder / store.CLAIM, store.job, replace=False)
    stores[0].claim()
    with pytest.raises(ShardsError, match="holds shards of other tracks or other settings"):
        stores[1].claim()


def test_merging_claims_nothing(tmp_path, make_catalogue):
    catalogue, out = read_manifest(make_catalogue(3), SHARES), tmp_path / "out"
    with pytest.raises(ShardsError, match=r"plan.json is missing or damaged: make the parts first"):
        merge_parts(catalogue, out, SETTINGS)
    assert not out.exists()


@pytest.mark.parametrize(
    "damage",
    [{"rejected": [1, "x"]}, {"rejected": 3}, {"tracks": 3}, {"tracks": [{"track_id": "t0"}]}, {"bytes": 0}],
    ids=str,
)
def test_a_note_that_holds_something_else_is_made_again(tmp_path, threads, prepare, make_catalogue, damage):
    manifest = make_catalogue(6)
    before = contents(prepare(manifest).root)
    note = tmp_path / "out/.prepare/train-000000.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), **damage}))
    assert contents(prepare(manifest).root) == before


@pytest.mark.parametrize("parts", [0, "x", None])
def test_merging_with_a_damaged_number_of_parts(tmp_path, threads, prepare, make_catalogue, parts):
    manifest = make_catalogue(9)
    prepare(manifest)
    (tmp_path / "out/train-000000.tar").unlink()
    (tmp_path / "out/.prepare/parts.json").write_text(json.dumps({"parts": parts}))
    with pytest.raises(ShardsError, match=r"train-000000\): run prepare with part=1/1 first"):
        merge_parts(read_manifest(manifest, SHARES), tmp_path / "out", SETTINGS)
