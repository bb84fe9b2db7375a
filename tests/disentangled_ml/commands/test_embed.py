"""Embedding a catalogue: the same arrays from shards and recordings, after a kill, and on a manifest that has grown."""

from __future__ import annotations

import csv
import errno
import logging
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.tar import read_infos
from disentangled_ml.commands import embed
from disentangled_ml.commands.schemas import EmbedConfig
from disentangled_ml.config import load_config
from disentangled_ml.network.checkpoint import load_checkpoint, network_from
from disentangled_ml.search import assembly, build
from disentangled_ml.search.catalogue import HEADER, INDEX, describe_model, read_catalogue
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import SPLITS
from disentangled_ml.systems import load_network_system
from tests import warm
from tests.disentangled_ml.catalogues import save_checkpoint, write_recordings

ROOT = Path(__file__).resolve().parents[3]
BATCH_ATOL = 1e-5  # of a network on batches of other sizes
N = 12
MINUTE = 60.0


def run(*arguments: str | Path) -> None:
    embed.main(load_config(EmbedConfig, [*map(str, arguments), "workers=1", "accelerator=cpu"]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "x.ckpt")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("recordings"), N)


def rejected(folder: Path) -> list[dict]:
    with open(folder / "rejected.csv", newline="") as file:
        return list(csv.DictReader(file))


def content_of(folder: Path) -> dict[str, bytes]:
    files = read_catalogue(folder).files
    return {path.name: path.read_bytes() for path in (folder / HEADER, folder / "rejected.csv", *files.iterdir())}


def test_shards_are_embedded_as_evaluation_embeds_them(tmp_path, checkpoint, tiny_shards, one_thread):
    run(f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={tmp_path}/index")
    catalogue, index = read_catalogue(tmp_path / "index"), ShardIndex.read(tiny_shards)
    infos = [info for split in SPLITS for info in read_infos(index, split)]
    assert len(catalogue) == len(infos) == 84
    for track, info in zip(catalogue.tracks(range(84)), infos, strict=True):
        assert track == (info.track_id, info.artist, None, info.labels, None, None, None)
    system, _ = load_network_system(checkpoint, index, "cpu")
    for split in SPLITS:
        ids, expected = system.embed(split, set()).tracks()
        rows = [catalogue.find(track_id) for track_id in ids]
        np.testing.assert_allclose(catalogue.embedding[rows], expected.numpy(), atol=BATCH_ATOL)
    np.testing.assert_allclose(np.linalg.norm(catalogue.embedding, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(catalogue.model.masks, network_from(load_checkpoint(checkpoint)).masks().numpy())
    assert rejected(tmp_path / "index") == []


def test_what_the_reader_of_a_manifest_changes_is_told(tmp_path, checkpoint, manifest, caplog):
    header, *rows = manifest.read_text().splitlines()
    other = manifest.parent / "other.csv"
    other.write_text("\n".join([header.replace("artist", "Artist"), *rows, ",,,,,"]))
    with caplog.at_level(logging.INFO):
        run(f"checkpoint={checkpoint}", f"manifest={other}", f"out={tmp_path}/index")
    told = [record.getMessage() for record in caplog.records]
    assert f"{other}: column 'Artist' is artist" in told
    assert f"{other}: blank rows left out: 1" in told


def test_shards_that_are_prepared_anew_meanwhile_are_refused_and_embedded_again(
    tmp_path, checkpoint, tiny_shards, monkeypatch
):
    shards = shutil.copytree(tiny_shards, tmp_path / "shards", ignore=shutil.ignore_patterns("triplets"))
    index = (shards / "index.json").read_bytes()
    arguments = (f"checkpoint={checkpoint}", f"shards={shards}", f"out={tmp_path}/index")

    def embed_late(*given):
        (shards / "index.json").unlink(missing_ok=True)
        return embed_batch(*given)

    embed_batch = build.embed_batch
    monkeypatch.setattr(build, "embed_batch", embed_late)
    with pytest.raises(ShardsError, match="shards was prepared anew, or is being, while it was read"):
        run(*arguments)
    assert not list((tmp_path / "index").rglob("*.npz"))
    monkeypatch.undo()
    (shards / "index.json").write_bytes(index)
    run(*arguments)
    assert len(read_catalogue(tmp_path / "index")) == 84


def test_one_split_of_shards(tmp_path, checkpoint, tiny_shards):
    run(f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={tmp_path}/index", "split=val")
    infos = read_infos(ShardIndex.read(tiny_shards), "val")
    catalogue = read_catalogue(tmp_path / "index")
    assert [track.track_id for track in catalogue.tracks(range(len(catalogue)))] == [info.track_id for info in infos]


def test_a_manifest_is_embedded_with_what_it_says(tmp_path, checkpoint, manifest, capsys):
    run(f"checkpoint={checkpoint}", f"manifest={manifest}", f"out={tmp_path}/index")
    catalogue, model = read_catalogue(tmp_path / "index"), Embedder(checkpoint)
    assert len(catalogue) == N
    for row, track in enumerate(catalogue.tracks(range(N))):
        assert track.track_id == f"r{row}"
        assert track.artist == (f"artist {row % 4}" if row % 3 else None)
        assert Path(track.path) == manifest.parent.absolute() / f"{row}.flac"
        assert track.labels == {"genre": [("jazz", "rock")[row % 2]], "tempo": 60.0 + row}
        np.testing.assert_allclose(catalogue.embedding[row], model.embed(track.path), atol=BATCH_ATOL)
    assert describe_model(catalogue.model) == describe_model(model.model)
    assert "12 tracks, 24 dimensions, searched exactly; conditions: genre, mood, tempo" in capsys.readouterr().out
    assert not (read_catalogue(tmp_path / "index").files / INDEX).exists()


def test_a_split_of_a_manifest(tmp_path, checkpoint, manifest):
    run(f"checkpoint={checkpoint}", f"manifest={manifest}", f"out={tmp_path}/index", "split=test")
    catalogue = read_catalogue(tmp_path / "index")
    assert [track.track_id for track in catalogue.tracks(range(len(catalogue)))] == ["r0", "r4", "r8"]


def test_what_is_odd_about_a_manifest_is_told_once(tmp_path, checkpoint, manifest, caplog):
    header, *rows = manifest.read_text().splitlines()
    odd = manifest.with_name("odd.csv")
    odd.write_text("\n".join([f"{header},year,mood", *(f"{row},1999," for row in rows[:5])]) + "\n")
    with caplog.at_level(logging.INFO):
        run(f"checkpoint={checkpoint}", f"manifest={odd}", f"out={tmp_path}/index", "split=test")
    told = [record.getMessage() for record in caplog.records]
    for odd in ("of numbers, not tags, make no condition: year", "without any known value make no condition: mood"):
        assert sum(odd in line for line in told) == 1


def test_an_index_on_demand(tmp_path, checkpoint, tiny_shards, capsys):
    arguments = [f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={tmp_path}/index"]
    run(*arguments, "approximate=true")
    assert (read_catalogue(tmp_path / "index").files / INDEX).is_file()
    assert "with an index for approximate search" in capsys.readouterr().out
    run(*arguments)
    assert not (read_catalogue(tmp_path / "index").files / INDEX).exists()


def test_one_file_for_other_programs(tmp_path, checkpoint, tiny_shards):
    run(f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={tmp_path}/index", f"npz={tmp_path}/all.npz")
    catalogue = read_catalogue(tmp_path / "index")
    with np.load(tmp_path / "all.npz", allow_pickle=False) as content:
        assert np.array_equal(content["embedding"], catalogue.embedding)
        assert content["track_id"].tolist() == [catalogue.track(row).track_id for row in range(len(catalogue))]
        assert content["condition"].tolist() == list(catalogue.condition_names)
        assert np.array_equal(content["mask"], catalogue.model.masks)
        assert str(content["fingerprint"]) == catalogue.model.fingerprint


def test_an_npz_that_cannot_be_written_is_refused_before_anything_is_embedded(tmp_path, checkpoint, tiny_shards):
    (tmp_path / "file").touch()
    for npz, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "x.npz", "cannot be made"),
        (tmp_path / "file", "lost"),
    ):
        with pytest.raises(ValueError, match=rf"npz={npz}.*{reason}.*give npz=FILE.npz"):
            run(f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={tmp_path}/index", f"npz={npz}")
    assert not (tmp_path / "index").exists()


def test_what_cannot_be_used_is_listed_and_gone_past(tmp_path, checkpoint):
    manifest = write_recordings(tmp_path, 5)
    (tmp_path / "1.flac").write_bytes(b"no recording")
    (tmp_path / "2.flac").rename(tmp_path / "gone.flac")
    shutil.copy(tmp_path / "0.flac", tmp_path / "long.flac")
    rows = "r3,3.flac,,,,\nr7,7.flac,,nowhere,,\n,0.flac,,,,\n"
    manifest.write_text(manifest.read_text() + rows)
    arguments = [f"checkpoint={checkpoint}", f"manifest={manifest}", f"out={tmp_path}/index"]
    run(*arguments)
    assert [track.track_id for track in read_catalogue(tmp_path / "index").tracks(range(3))] == ["r0", "r3", "r4"]
    reasons = {line["track_id"]: line["reason"] for line in rejected(tmp_path / "index")}
    assert set(reasons) == {"r1", "r2", "r3", "r7", ""}
    assert reasons["r1"] == "not a recording: its content is text"
    assert reasons["r2"] == "missing file"
    assert reasons["r3"].startswith("duplicate track_id")
    assert reasons["r7"].startswith("unknown split 'nowhere'")
    (tmp_path / "gone.flac").rename(tmp_path / "2.flac")
    run(*arguments)  # what was missing is there now
    assert len(read_catalogue(tmp_path / "index")) == 4
    assert "r2" not in {line["track_id"] for line in rejected(tmp_path / "index")}


def test_damaged_shards_are_listed_and_made_anew_when_mended(tmp_path, checkpoint, tiny_shards):
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    tar = shards / "train-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    arguments = [f"checkpoint={checkpoint}", f"shards={shards}", f"out={tmp_path}/index"]
    run(*arguments)
    assert 76 < len(read_catalogue(tmp_path / "index")) < 84
    assert "train-000001.tar" in rejected(tmp_path / "index")[0]["reason"]
    tar.write_bytes(whole)
    run(*arguments)
    assert len(read_catalogue(tmp_path / "index")) == 84
    assert rejected(tmp_path / "index") == []


def test_no_track_is_usable(tmp_path, checkpoint):
    (tmp_path / "m.csv").write_text("track_id,path\na,a.wav\n")
    with pytest.raises(ValueError, match=r"no track is usable, see the reasons in .*rejected\.csv"):
        run(f"checkpoint={checkpoint}", f"manifest={tmp_path}/m.csv", f"out={tmp_path}/index")
    assert rejected(tmp_path / "index")[0]["reason"] == "missing file"
    assert not (tmp_path / "index" / HEADER).exists()


def test_a_whole_catalogue_is_kept_where_nothing_new_is_usable(tmp_path, checkpoint):
    manifest = write_recordings(tmp_path, 3)
    arguments = [f"checkpoint={checkpoint}", f"manifest={manifest}", f"out={tmp_path}/index"]
    run(*arguments)
    manifest.write_text("track_id,path\na,a.wav\n")
    with pytest.raises(ValueError, match="no track is usable"):
        run(*arguments)
    assert len(read_catalogue(tmp_path / "index")) == 3


def test_a_full_disk_leaves_the_catalogue_as_it_was(tmp_path, checkpoint, tiny_shards, monkeypatch):
    arguments = [f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={tmp_path}/index"]
    run(*arguments, "split=val")
    expected = content_of(tmp_path / "index")
    with monkeypatch.context() as full:

        def no_space(*_, **__) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(assembly, "column_values", no_space)
        with pytest.raises(
            OSError, match=r"index cannot be written to .*No space left.*: mend that, then repeat the command"
        ):
            run(*arguments)
    assert content_of(tmp_path / "index") == expected
    assert not list((tmp_path / "index").rglob("*.tmp"))
    run(*arguments)
    assert len(read_catalogue(tmp_path / "index")) == 84


def test_embeddings_that_are_not_finite_are_no_catalogue(tmp_path, checkpoint, tiny_shards):
    content = load_checkpoint(checkpoint)
    state = {k: v * float("nan") if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    torch.save({**content, "state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="no track is usable"):
        run(f"checkpoint={tmp_path}/x.ckpt", f"shards={tiny_shards}", f"out={tmp_path}/index")
    assert {line["reason"] for line in rejected(tmp_path / "index")} == {"its embedding is not finite"}


def test_repeated_it_embeds_nothing_and_grown_only_what_is_new(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(build, "ROWS_PER_BATCH", 3)
    manifest = write_recordings(tmp_path, 8)
    lines = manifest.read_text().splitlines(keepends=True)
    embedded, embed_tracks = [], Embedder.embed_tracks

    def counted(self, tracks):
        for item, row in embed_tracks(self, tracks):
            embedded.append(item[0].track_id)
            yield item, row

    monkeypatch.setattr(Embedder, "embed_tracks", counted)
    arguments = [f"checkpoint={checkpoint}", f"manifest={manifest}", f"out={tmp_path}/index"]
    manifest.write_text("".join(lines[:7]))  # two whole pieces
    run(*arguments)
    assert embedded == [f"r{row}" for row in range(6)]
    first = content_of(tmp_path / "index")
    run(*arguments)
    assert len(embedded) == 6
    assert content_of(tmp_path / "index") == first
    manifest.write_text("".join(lines))
    run(*arguments)
    assert embedded[6:] == ["r6", "r7"]
    grown = read_catalogue(tmp_path / "index").embedding
    shutil.rmtree(tmp_path / "index")
    run(*arguments)
    np.testing.assert_array_equal(read_catalogue(tmp_path / "index").embedding, grown)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 99, "cut off", "pickled"])
def test_a_damaged_piece_is_made_anew(tmp_path, checkpoint, tiny_shards, damage):
    arguments = [f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={tmp_path}/index", "split=test"]
    run(*arguments)
    expected = content_of(tmp_path / "index")
    piece = tmp_path / "index" / "pieces" / "test-000000.npz"
    if damage == "pickled":
        with open(piece, "wb") as file:
            np.savez(file, embedding=np.array([print], object), notes=np.zeros(3, np.uint8))
    else:
        piece.write_bytes(piece.read_bytes()[:1000] if damage == "cut off" else damage)
    run(*arguments)
    assert content_of(tmp_path / "index") == expected


def test_another_model_is_refused(tmp_path, checkpoint, tiny_shards):
    arguments = [f"shards={tiny_shards}", f"out={tmp_path}/index", "split=val"]
    run(f"checkpoint={checkpoint}", *arguments)
    before = content_of(tmp_path / "index")
    other = save_checkpoint(tmp_path / "y.ckpt", seed=1)
    with pytest.raises(
        ValueError, match=r"index holds embeddings of another checkpoint \(sha256 .*\): give another out=DIR"
    ):
        run(f"checkpoint={other}", *arguments)
    assert content_of(tmp_path / "index") == before


def test_pieces_of_another_model_are_not_taken(tmp_path, checkpoint, tiny_shards):
    other = save_checkpoint(tmp_path / "y.ckpt", seed=1)
    for name, model in (("a", checkpoint), ("b", other)):
        run(f"checkpoint={model}", f"shards={tiny_shards}", f"out={tmp_path}/{name}", "split=val")
    expected = content_of(tmp_path / "b")
    for piece in (tmp_path / "a" / "pieces").glob("*.npz"):
        shutil.copy(piece, tmp_path / "b" / "pieces")
    run(f"checkpoint={other}", f"shards={tiny_shards}", f"out={tmp_path}/b", "split=val")
    assert content_of(tmp_path / "b") == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the recordings come from manifest=CSV or from shards=DIR: give one of the two"),
        (["manifest=m.csv", "shards=s"], "give one of the two"),
        (["manifest=nowhere.csv"], "manifest nowhere.csv cannot be read"),
        (["shards=nowhere"], "nowhere/index.json does not exist"),
        (["shards=s", "split=all"], "split=all is not legal: choose one of train, val, test"),
        (["shards=s", "checkpoint=nowhere.ckpt"], "checkpoint nowhere.ckpt does not exist"),
    ],
)
def test_bad_arguments(tmp_path, checkpoint, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(f"checkpoint={checkpoint}", f"out={tmp_path}/index", *arguments)
    assert not (tmp_path / "index").exists()


def test_shards_that_do_not_fit_are_refused(tmp_path, checkpoint, tiny_shards, long_shards):
    waveform = save_checkpoint(tmp_path / "w.ckpt", "shards/x", 0, "frontend=nnaudio")
    with pytest.raises(ValueError, match=r"holds no waveforms, which this frontend needs: prepare with store_waveform"):
        run(f"checkpoint={waveform}", f"shards={tiny_shards}", f"out={tmp_path}/index")
    shutil.copytree(tiny_shards, tmp_path / "s")
    index = tmp_path / "s" / "index.json"
    index.write_text(index.read_text().replace('"n_mels": 16', '"n_mels": 17'))
    with pytest.raises(ValueError, match=r"s was prepared with AudioSettings.*n_mels=17.*, the checkpoint with"):
        run(f"checkpoint={checkpoint}", f"shards={tmp_path}/s", f"out={tmp_path}/other")


def test_two_commands_do_not_work_in_one_folder(tmp_path, checkpoint, tiny_shards):
    from disentangled_ml.files import locked

    (tmp_path / "index").mkdir()
    with locked(tmp_path / "index"), pytest.raises(ValueError, match="is being worked in by another process"):
        run(f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={tmp_path}/index")


@pytest.mark.slow
def test_a_killed_command_goes_on_and_makes_the_same(tmp_path, checkpoint):
    manifest = write_recordings(tmp_path / "recordings", 280, seconds=0.5)

    def start(out: Path, before: str = "") -> warm.Popen:
        command = warm.cold("embed", f"checkpoint={checkpoint}", f"manifest={manifest}", f"out={out}", "workers=1")
        return warm.Popen(command, env=warm.environment(PYTHONPATH=str(ROOT)), cwd=tmp_path, before=before)

    assert start(tmp_path / "whole").wait(5 * MINUTE) == 0
    killed = start(tmp_path / "killed", before=warm.hold_before(".npz", 2))
    first = tmp_path / "killed" / "pieces" / "rows-000000.npz"
    until = time.monotonic() + 5 * MINUTE
    while not first.exists():
        assert killed.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / HEADER).exists()
    assert len(list((tmp_path / "killed" / "pieces").glob("*.npz"))) < 3
    made = first.stat().st_mtime_ns
    assert start(tmp_path / "killed").wait(5 * MINUTE) == 0
    assert first.stat().st_mtime_ns == made  # was kept
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.tmp"))
