"""Samples come back as they were written, every share is right, and damage of every kind is named."""

import gc
import io
import os
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from datamodules.shards.index import Shard, ShardsError
from datamodules.shards.tar import (
    PlainHeader,
    ShardSlice,
    decode_info,
    decode_mel,
    read_infos,
    read_samples,
    sample_key,
    share_slices,
    write_shard,
)
from disentangled_ml.structures import TrackInfo

BOTH = ("json", "mel.npy")
IDS = [
    "a.b.c",
    "a/b",
    "../up",
    "/root",
    "_",
    "__meta__",
    "%2E",
    "a b ",
    "Ünïcödé 音楽",
    "json",
    "x\ny",
    "nul\0",
    "c\\d",
    "x" * 300,
]


def sample(track_id: str, frames: int = 5) -> dict:
    return {"info": TrackInfo(track_id, "é", frames, {"tempo": 99.5}), "mel": np.full((4, frames), 7, np.float16)}


def whole(file: str, samples: int) -> list[ShardSlice]:
    return [ShardSlice(Shard(file, samples), 0, samples)]


def test_a_second_tempo_comes_back_and_samples_without_one_are_as_ever(tmp_path):
    infos = [sample("a")["info"], sample("b")["info"]._replace(other_tempo=199.0)]
    write_shard(tmp_path / "x.tar", ({**sample(""), "info": info} for info in infos))
    members = [each["json"] for each in read_samples(tmp_path, whole("x.tar", 2), ("json",))]
    assert [b"other_tempo" in data for data in members] == [False, True]
    assert [decode_info(data) for data in members] == infos


def rewrite(path: Path, change) -> None:
    """Copy a tar through ``change(name, data)``, which gives the new data, or None to leave the member out."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            if (changed := change(name, data)) is not None:
                info = tarfile.TarInfo(name)
                info.size = len(changed)
                tar.addfile(info, io.BytesIO(changed))


HEADERS = {
    "plain": tarfile.TarInfo("a.mel.npy"),
    "of 100 letters": tarfile.TarInfo("n" * 100),
    "with prefix": tarfile.TarInfo("d" * 80 + "/" + "n" * 80),
    "not ascii": tarfile.TarInfo("Ünïcödé 音楽"),
    "folder": tarfile.TarInfo("folder"),
    "link": tarfile.TarInfo("link"),
    "large": tarfile.TarInfo("large"),
}
HEADERS["plain"].size, HEADERS["large"].size = 123_456, (1 << 33) - 1
HEADERS["folder"].type, HEADERS["link"].type = tarfile.DIRTYPE, tarfile.SYMTYPE


def parsed(kind: type[tarfile.TarInfo], block: bytes) -> tuple | str:
    """Give what a header says, or why it is refused."""
    try:
        member = kind.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return str(error)
    return member.name, member.size, member.type, member.isreg()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT], ids=["ustar", "gnu"])
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_are_read_as_by_tarfile(header, form):
    block = header.tobuf(form)[-512:]
    assert parsed(PlainHeader, block) == parsed(tarfile.TarInfo, block)


def test_damaged_headers_are_read_as_by_tarfile():
    block, refused = HEADERS["plain"].tobuf(tarfile.USTAR_FORMAT), 0
    for position in range(len(block)):
        damaged = bytearray(block)
        damaged[position] ^= 0x41
        found = parsed(PlainHeader, bytes(damaged))
        assert found == parsed(tarfile.TarInfo, bytes(damaged))
        refused += isinstance(found, str)
    assert refused >= len(block) - 2  # all but those in what ends the checksum


def test_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    mels = [rng.random((128, frames)).astype(np.float16) for frames in (1, 129, 4000)]
    infos = [TrackInfo(f"t{i}", None, mel.shape[1], {"genre": ["ß"]}) for i, mel in enumerate(mels)]
    flacs = [bytes([i]) * 1000 * i for i in range(3)]
    samples = [{"info": i, "mel": m, "flac": f} for i, m, f in zip(infos, mels, flacs, strict=True)]
    write_shard(tmp_path / "a.tar", iter(samples))
    read = list(read_samples(tmp_path, whole("a.tar", 3), (*BOTH, "flac")))
    assert [decode_info(s["json"]) for s in read] == infos
    assert [s["flac"] for s in read] == flacs
    for s, mel in zip(read, mels, strict=True):
        np.testing.assert_array_equal(decode_mel(s["mel.npy"]), mel)


def test_members_that_are_not_asked_for_are_not_given(tmp_path):
    write_shard(tmp_path / "a.tar", iter([{**sample("t"), "flac": b"f"}]))
    (read,) = read_samples(tmp_path, whole("a.tar", 1), ("flac",))
    assert read == {"__key__": "t", "__url__": str(tmp_path / "a.tar"), "flac": b"f"}


def test_every_track_id_comes_back(tmp_path):
    write_shard(tmp_path / "a.tar", (sample(track_id) for track_id in IDS))
    read = list(read_samples(tmp_path, whole("a.tar", len(IDS)), BOTH))
    assert [decode_info(s["json"]).track_id for s in read] == IDS
    assert len({sample_key(track_id) for track_id in IDS}) == len(IDS)


def test_other_readers_see_the_contract_s_members(tmp_path):
    write_shard(tmp_path / "a.tar", iter([sample("t1"), sample("t2")]))
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert sorted(tar.getnames()) == ["t1.json", "t1.mel.npy", "t2.json", "t2.mel.npy"]
        mel = np.load(io.BytesIO(tar.extractfile("t1.mel.npy").read()), allow_pickle=False)
    np.testing.assert_array_equal(mel, sample("t1")["mel"])


def test_the_same_samples_are_the_same_bytes(tmp_path):
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, map(sample, "xyz"))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_shard_has_its_name_only_when_it_is_whole(tmp_path):
    def samples():
        yield sample("a")
        raise RuntimeError("power cut")

    (tmp_path / "a.tar").write_bytes(b"before")
    with pytest.raises(RuntimeError, match="power cut"):
        write_shard(tmp_path / "a.tar", samples())
    assert (tmp_path / "a.tar").read_bytes() == b"before"


def test_shares_cut_any_shards_for_any_consumers():
    rng = np.random.default_rng(0)
    for _ in range(200):
        shards = [Shard(str(i), int(n)) for i, n in enumerate(rng.integers(0, 9, rng.integers(0, 8)))]
        n_consumers = int(rng.integers(1, 12))
        shares = [share_slices(shards, consumer, n_consumers) for consumer in range(n_consumers)]
        samples = [(s.shard.file, i) for share in shares for s in share for i in range(s.start, s.stop)]
        assert samples == [(shard.file, i) for shard in shards for i in range(shard.samples)]
        sizes = [sum(s.stop - s.start for s in share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert sizes[-1] == max(sizes)  # on which EvaluationStream relies
        assert all(s.start < s.stop for share in shares for s in share)


def test_slices_are_read_exactly(tmp_path):
    for file, ids in (("a.tar", "abcd"), ("b.tar", "efg")):
        write_shard(tmp_path / file, map(sample, ids))
    slices = [ShardSlice(Shard("b.tar", 3), 1, 3), ShardSlice(Shard("a.tar", 4), 0, 1)]
    assert [s["__key__"] for s in read_samples(tmp_path, slices, BOTH)] == ["f", "g", "a"]


@pytest.mark.parametrize("folder", ["data:run1", "file:", "pipe:cat x", "a?b#c", "{0..2}"])
def test_folders_that_webdataset_would_take_for_addresses(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir()
    write_shard(Path(folder) / "a.tar", map(sample, "ab"))
    assert len(list(read_samples(Path(folder), whole("a.tar", 2), BOTH))) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts open files in /proc")
@pytest.mark.parametrize("taken", [1, 3], ids=["abandoned", "to the end"])
def test_files_are_closed(tmp_path, taken):
    write_shard(tmp_path / "a.tar", map(sample, "abc"))

    def still_open() -> int:
        links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
        return sum(os.readlink(link) == str(tmp_path / "a.tar") for link in links if link.is_symlink())

    gc.disable()  # reference cycles must not keep them
    try:
        samples = read_samples(tmp_path, whole("a.tar", 3), BOTH)
        for _ in range(taken):
            next(samples)
        assert still_open() == 1
        samples.close()
        assert still_open() == 0
    finally:
        gc.enable()


def test_missing_shard(tmp_path):
    with pytest.raises(ShardsError, match=r"shard .*gone.tar cannot be read .*No such file.*: prepare it anew"):
        list(read_samples(tmp_path, whole("gone.tar", 1), BOTH))


@pytest.mark.parametrize("kept", [0, 100, 512, 1600, 3000, 5632])
def test_truncated_shard(tmp_path, kept):
    path = tmp_path / "a.tar"
    write_shard(path, map(sample, "abc"))
    assert len(list(read_samples(tmp_path, whole("a.tar", 3), BOTH))) == 3
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        ShardsError, match=r"shard .*a.tar (cannot be read|ends after \d samples, 3 expected).*prepare it anew"
    ):
        list(read_samples(tmp_path, whole("a.tar", 3), BOTH))


def test_something_else_under_the_name_of_a_shard(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"<html>" * 1000)
    with pytest.raises(ShardsError, match=r"a\.tar cannot be read"):
        list(read_samples(tmp_path, whole("a.tar", 1), BOTH))


def test_fewer_samples_than_the_index_says(tmp_path):
    write_shard(tmp_path / "a.tar", map(sample, "abc"))
    with pytest.raises(ShardsError, match=r"a.tar ends after 3 samples, 4 expected"):
        list(read_samples(tmp_path, whole("a.tar", 4), BOTH))


@pytest.mark.parametrize("lost", BOTH)
def test_missing_member(tmp_path, lost):
    write_shard(tmp_path / "a.tar", map(sample, "abc"))
    rewrite(tmp_path / "a.tar", lambda name, data: None if name == f"b.{lost}" else data)
    with pytest.raises(ShardsError, match=f"a.tar, sample 1: no member '{lost}': prepare it anew"):
        list(read_samples(tmp_path, whole("a.tar", 3), BOTH))


def npy(array: np.ndarray, **how) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **how)
    return buffer.getvalue()


GOOD_MEL = npy(np.zeros((4, 5), np.float16))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an array",
        GOOD_MEL[:50],
        GOOD_MEL[:-1],
        GOOD_MEL + b"xx",
        GOOD_MEL.replace(b"(4, 5)", b"(4, 6)"),
        GOOD_MEL.replace(b"(4, 5)", b"(4, 5 "),
        GOOD_MEL.replace(b"'shape'", b"b'sha'"),
        npy(np.zeros((4, 5), np.float32)),
        npy(np.zeros((4, 5), np.float16, order="F")),
        npy(np.zeros(20, np.float16)),
        npy(np.array([[{"a": 1}]], dtype=object), allow_pickle=True),
    ],
    ids=["empty", "text", "header", "cut", "long", "shape", "open", "keys", "float32", "fortran", "vector", "pickle"],
)
def test_arrays_that_are_no_spectrogram(data):
    with pytest.raises(ShardsError, match=r"member mel\.npy is not a (whole )?float16 matrix"):
        decode_mel(data)


def test_damaged_headers_never_raise_anything_else():
    rng = np.random.default_rng(0)
    for _ in range(500):
        data = bytearray(GOOD_MEL)
        data[rng.integers(len(data))] = rng.choice(list(b"(){}[]'\",:#0 9x"))
        with suppress(ShardsError):
            assert decode_mel(bytes(data)).dtype == np.float16


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b"{}", b'{"track_id": "a"}', b"3"])
def test_labels_that_are_none(data):
    with pytest.raises(ShardsError, match="member json does not hold the labels of a track"):
        decode_info(data)


def test_read_infos(make_shards):
    index = make_shards(train=7, val=13)
    assert [info.track_id for info in read_infos(index, "val")] == [f"t{i}" for i in range(7, 20)]
    assert read_infos(index, "test") == []


def test_read_infos_names_the_damaged_sample(make_shards):
    index = make_shards(val=3)
    rewrite(index.root / "val-000000.tar", lambda name, data: b"{" if name == "t1.json" else data)
    with pytest.raises(ShardsError, match=r"shard .*val-000000\.tar, sample 't1': member json .*prepare it anew"):
        read_infos(index, "val")
