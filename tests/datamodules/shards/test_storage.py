"""Shards behind an address are read like those in a folder; what goes wrong on the way is named."""

import io
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from datamodules.batches.composer import BatchPlan
from datamodules.batches.loaders import StreamLoader
from datamodules.batches.streams import Source, TrainingStream
from datamodules.shards.conditions import build_conditions
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.storage import Forward, opened, parse_root
from datamodules.shards.subset import write_subset
from datamodules.shards.tar import read_infos
from datamodules.triplet_lists.lists import ListSettings, kept_triplets

CHUNK_FRAMES = 16
PLAN = BatchPlan(
    CHUNK_FRAMES, chunks_per_track=2, tracks_per_batch=8, pool_tracks=10, triplets_per_condition=12, track_triplets=9
)


class Quiet(SimpleHTTPRequestHandler):
    """Serve a folder; of a file called by ``cut`` only the first half of what is promised, of ``broken`` an error."""

    cut, broken = "none", "none"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name == self.broken:
            self.send_error(500)
            return
        if name != self.cut:
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True


@pytest.fixture
def handler() -> type[Quiet]:
    return type("Handler", (Quiet,), {})


@pytest.fixture
def address(tmp_path, handler) -> Iterator[str]:
    """Serve the folder of the test on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def stream_of(index: ShardIndex, workers: int = 0, max_damaged: float = 0.0) -> TrainingStream:
    conditions = build_conditions(index)
    source = Source(index, conditions, chunk_frames=CHUNK_FRAMES, workers=workers, max_damaged=max_damaged)
    return TrainingStream(source, PLAN, seed=0)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_are_those_of_the_folder(make_shards, address, workers):
    local = make_shards(train=20, val=5)
    remote = ShardIndex.read(f"{address}/shards/")
    assert remote.root == f"{address}/shards"
    assert remote.as_json() == local.as_json()
    assert read_infos(remote, "val") == read_infos(local, "val")
    pairs = zip(
        StreamLoader(stream_of(remote, workers), workers), StreamLoader(stream_of(local, workers), workers), strict=True
    )
    assert all(torch.equal(a.audio, b.audio) for a, b in pairs)


def test_lists_are_made_but_not_kept_there(make_shards, address, tmp_path, monkeypatch):
    local = make_shards(val=20)
    remote, conditions = ShardIndex.read(f"{address}/shards"), build_conditions(local)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    infos, settings = read_infos(local, "val"), ListSettings(9, chunk_frames=CHUNK_FRAMES)
    remote_list = kept_triplets(remote, "val", infos, conditions, settings)
    assert set(tmp_path.rglob("*")) == before
    assert remote_list == kept_triplets(local, "val", infos, conditions, settings)


def test_a_subset_is_that_of_the_folder(make_shards, address, tmp_path):
    local = make_shards(train=20, val=5, test=4, features=("msd",))
    write_subset(ShardIndex.read(f"{address}/shards"), 7, tmp_path / "far")
    write_subset(local, 7, tmp_path / "near")
    far, near = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("far", "near"))
    assert "test-000000.tar" in far
    assert far == near


@pytest.mark.parametrize("fault", ["missing", "cut", "broken"])
def test_a_subset_is_not_written_without_a_shard(make_shards, address, handler, tmp_path, fault):
    local, name = make_shards(train=20, val=5, test=4), "test-000000.tar"
    if fault == "missing":
        (local.root / name).unlink()
    else:
        setattr(handler, fault, name)
    with pytest.raises(ShardsError, match=rf"{address}/shards/{name} (does not exist: prepare|cannot be copied)"):
        write_subset(ShardIndex.read(f"{address}/shards"), 7, tmp_path / "far")
    assert not (tmp_path / "far/index.json").exists()


def test_an_address_without_an_index(address):
    with pytest.raises(ShardsError, match=rf"{address}/nothing/index.json does not exist: make the shards first"):
        ShardIndex.read(f"{address}/nothing")


def test_nobody_listens():
    with pytest.raises(ShardsError, match=r"http://127.0.0.1:9/index.json (does not exist|cannot be read)"):
        ShardIndex.read("http://127.0.0.1:9")


@pytest.mark.parametrize(("text", "reason"), [("s3://bucket/shards", "s3fs"), ("odd://x", "Protocol not known: odd")])
def test_addresses_that_cannot_be_read(text, reason):
    with pytest.raises(ValueError, match=rf"{re.escape(text)} cannot be read from \(.*{reason}.*\): give a folder"):
        parse_root(text)


@pytest.mark.parametrize("fault", ["cut", "broken"])
def test_a_transfer_that_breaks_off_is_damage(make_shards, address, handler, fault):
    make_shards(train=20)
    index = ShardIndex.read(f"{address}/shards")
    setattr(handler, fault, "train-000002.tar")
    with pytest.raises(ShardsError, match=rf"shard {address}/shards/train-000002.tar cannot be read"):
        list(stream_of(index))
    stream = stream_of(index, max_damaged=0.5)
    assert len(list(stream)) == len(stream)
    assert 1 <= int(stream.lost.sum()) <= 6


def test_a_missing_file_is_an_oserror(address):
    with pytest.raises(FileNotFoundError), opened(address, "gone.tar") as file:
        file.read()


def test_a_forward_stream_reads_whole_blocks_skips_and_never_goes_back():
    """Here of a stream that gives three bytes at a time, as a network may."""

    class Dripping(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 3) if size >= 0 else 3)

    stream = Forward(Dripping(bytes(range(20))))
    assert stream.read(5) == bytes(range(5))
    assert stream.seek(12) == stream.tell() == 12
    assert stream.read() == bytes(range(12, 20))
    with pytest.raises(ValueError, match="cannot go back from byte 20 to 3"):
        stream.seek(3)
    assert stream.seek(99) == 20
