"""What has changed since a catalogue was embedded is embedded anew, and that alone; a catalogue is whole at every moment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.batches import cutting
from datamodules.corpora.manifest import read_manifest
from datamodules.shards import workers
from datamodules.shards.preparation import PreparationSettings, prepare_shards
from disentangled_ml.commands import embed, search
from disentangled_ml.commands.schemas import EmbedConfig, SearchConfig
from disentangled_ml.config import load_config
from disentangled_ml.search import build
from disentangled_ml.search.catalogue import CatalogueTrack, EmbeddedCatalogue, read_catalogue
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import AudioSettings
from tests import warm
from tests.conftest import N_MELS
from tests.disentangled_ml.catalogues import SAMPLE_RATE, save_checkpoint, write_catalogue, write_recordings

N = 6
SHARES = (0.7, 0.1, 0.2)
ATOL = 1e-5  # of a network on batches of other sizes


class Made:
    """Recordings, their manifest, a checkpoint, and the catalogue ``index``, which ``embed`` fills."""

    def __init__(self, folder: Path, embedded: list[str]):
        self.folder, self.index, self.embedded = folder, folder / "index", embedded
        self.manifest, self.checkpoint = write_recordings(folder, N), save_checkpoint(folder / "x.ckpt")

    def embed(self, *arguments: str, out: str = "index") -> list[str]:
        """Embed by the manifest, or by what the arguments say; return the tracks that were embedded."""
        given = arguments or [f"manifest={self.manifest}"]
        keys = [f"checkpoint={self.checkpoint}", f"out={self.folder / out}", "workers=1", "accelerator=cpu"]
        self.embedded.clear()
        embed.main(load_config(EmbedConfig, [*given, *keys]))
        return sorted(self.embedded)

    def prepare(self, out: str = "shards") -> Path:
        settings = PreparationSettings(AudioSettings(n_mels=N_MELS), 16, tempo="manifest", tracks_per_shard=2)
        return prepare_shards(read_manifest(self.manifest, SHARES), self.folder / out, settings, workers=1).root

    def replace(self, number: int) -> None:
        """Put other sound of the same size under the name of a recording."""
        path = self.folder / f"{number}.flac"
        seconds = path.stat().st_mtime + 9
        soundfile.write(path, np.random.default_rng(99).normal(0, 0.1, 2 * SAMPLE_RATE), SAMPLE_RATE)
        os.utime(path, (seconds, seconds))

    def edit(self, old: str, new: str) -> None:
        self.manifest.write_text(self.manifest.read_text().replace(old, new))


def tracks_of(catalogue: EmbeddedCatalogue) -> dict[str, CatalogueTrack]:
    return {track.track_id: track for track in catalogue.tracks(range(len(catalogue)))}


@pytest.fixture
def made(tmp_path, monkeypatch) -> Made:
    """Make them, with batches of two rows and with threads for processes."""
    embedded, embed_tracks = [], Embedder.embed_tracks

    def counted(self, tracks):
        for item, row in embed_tracks(self, tracks):
            embedded.append(item[0].track_id)
            yield item, row

    monkeypatch.setattr(Embedder, "embed_tracks", counted)
    monkeypatch.setattr(build, "ROWS_PER_BATCH", 2)
    monkeypatch.setattr(workers, "new_pool", lambda n, *_: ThreadPoolExecutor(n))
    return Made(tmp_path, embedded)


def check_fresh(made: Made, *arguments: str) -> None:
    """Check that the catalogue is that of a folder that is embedded for the first time."""
    made.embed(*arguments, out="fresh")
    one, fresh = read_catalogue(made.index), read_catalogue(made.folder / "fresh")
    assert tracks_of(one) == tracks_of(fresh)
    np.testing.assert_array_equal(one.embedding, fresh.embedding)
    assert one.files.name == fresh.files.name
    assert (made.index / "rejected.csv").read_bytes() == (made.folder / "fresh/rejected.csv").read_bytes()


def test_a_recording_that_was_replaced_is_embedded_anew(made):
    assert len(made.embed()) == N
    made.replace(2)
    assert made.embed() == ["r2", "r3"]  # its batch
    check_fresh(made)
    assert made.embed() == []


def test_a_recording_whose_time_alone_has_changed_is_kept(made):
    made.embed()
    os.utime(made.folder / "2.flac", (9, 9))
    assert made.embed() == []


def test_rows_that_were_rejected_are_not_tried_again_but_when_their_recordings_have_changed(made):
    """Nor is a row without an id, which has no recording."""
    (made.folder / "0.flac").write_bytes(b"<html>")
    made.manifest.write_text(made.manifest.read_text() + ",1.flac,,,,\nr1,1.flac,,,,\n")
    assert len(made.embed()) == N - 1
    assert made.embed() == []
    made.replace(0)
    assert made.embed() == ["r0", "r1"]
    check_fresh(made)


def test_a_failure_that_was_not_the_recordings_is_tried_again(made, monkeypatch):
    with monkeypatch.context() as short:

        def fail(*_) -> None:
            raise MemoryError("too much")

        short.setattr(cutting, "cut_waveform", fail)
        with pytest.raises(ValueError, match="no track is usable"):
            made.embed()
    assert len(made.embed()) == N


def test_a_corrected_label_or_path(made):
    made.embed()
    made.edit("r4,4.flac,artist 0", "r4,5.flac,Ann")
    assert made.embed() == ["r4", "r5"]
    track = tracks_of(read_catalogue(made.index))["r4"]
    assert (track.artist, Path(track.path).name) == ("Ann", "5.flac")
    check_fresh(made)


@pytest.mark.parametrize("change", ["label", "artist", "sound"])
def test_shards_that_were_prepared_anew_are_noticed(made, change):
    """Their numbers of tracks are the same."""
    shards = f"shards={made.prepare()}"
    assert len(made.embed(shards)) == N
    assert made.embed(shards) == []
    if change == "sound":
        made.replace(1)
    else:
        made.edit(*{"label": ("rock,61", "jazz,61"), "artist": ("artist 1,train,rock,61", "Eve,train,rock,61")}[change])
    made.prepare()
    embedded = made.embed(shards)
    assert "r1" in embedded
    assert len(embedded) == 2  # of one shard
    check_fresh(made, shards)


def test_a_folder_is_of_one_manifest(made):
    """Folders of one name have manifests of one name, which make would embed into one index."""
    made.embed()
    other = write_recordings(made.folder / "other", 3)
    before = tracks_of(read_catalogue(made.index))
    message = rf"index holds embeddings of {made.manifest}, not of {other}: give another out=DIR, or delete that folder"
    with pytest.raises(ValueError, match=message):
        made.embed(f"manifest={other}")
    with pytest.raises(ValueError, match=rf"index holds embeddings of {made.manifest}, not of .*shards"):
        made.embed(f"shards={made.prepare()}")
    assert tracks_of(read_catalogue(made.index)) == before


def test_a_search_may_say_of_what_its_index_must_be(made, capsys, monkeypatch):
    made.embed()

    def ask(*arguments: str) -> None:
        search.main(load_config(SearchConfig, [f"index={made.index}", "like=r0", "accelerator=cpu", *arguments]))

    monkeypatch.chdir(made.folder)
    ask("source=manifest.csv")
    assert "r1" in capsys.readouterr().out
    message = rf"index is of {made.manifest}, not of {made.folder}/other.csv: give another index=DIR"
    with pytest.raises(ValueError, match=message):
        ask("source=other.csv")


def test_make_says_of_what_the_index_must_be():
    def said(*arguments: str) -> str:
        lines = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return lines

    for target in ("search", "serve"):
        assert "'index=indexes/b' 'source=a/b/m.csv'" in said(target, "MANIFEST=a/b/m.csv")
        assert "'index=indexes/s' 'source=x/s'" in said(target, "DATA=x/s")
        assert "'index=i' 'source=m.csv'" in said(target, "INDEX=i", "MANIFEST=m.csv")
        assert "source=" not in said(target, "INDEX=i")
        assert "checkpoint=" not in said(target, "INDEX=i").rpartition(f" {target} ")[2]
        assert "'checkpoint=x.ckpt'" in said(target, "INDEX=i", "CHECKPOINT=x.ckpt")
    assert '"checkpoint=x.ckpt"' in said("embed", "CHECKPOINT=x.ckpt")
    for demo in ([], ["DATA=demo"], ["INDEX=i"]):
        assert "{ ls -t runs/demo-*/checkpoints/best.ckpt; }" in said("embed", *demo)
    assert "{ ls -t runs/b-*/checkpoints/best.ckpt; ls -t runs/*/checkpoints/best.ckpt; }" in said(
        "embed", "MANIFEST=a/b/m.csv"
    )


ROOT = Path(__file__).resolve().parents[3]


def test_an_index_of_an_earlier_version_is_searched_but_not_gone_on_with(made, capsys):
    embedding = np.random.default_rng(0).standard_normal((4, 12))
    write_catalogue(made.index, embedding / np.linalg.norm(embedding, axis=1, keepdims=True))
    search.main(load_config(SearchConfig, [f"index={made.index}", "like=t0", "accelerator=cpu"]))
    assert "t1" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"index does not say what it is of, .*: delete it and embed .*manifest.csv anew"
    ):
        search.main(load_config(SearchConfig, [f"index={made.index}", "like=t0", f"source={made.manifest}"]))
    (made.index / "pieces").mkdir()
    (made.index / "pieces/model.json").write_text(f'{{"model": "{Embedder(made.checkpoint).model.fingerprint}"}}')
    with pytest.raises(
        ValueError, match=r"index holds what an earlier version made, .*: give another out=DIR, or delete"
    ):
        made.embed()


def test_files_of_an_earlier_version_go_once_nobody_reads_them(made):
    write_catalogue(made.index, np.eye(4, 12))
    made.embed()
    assert (made.index / "embedding.npy").is_file()
    made.replace(0)
    made.embed()
    assert not (made.index / "embedding.npy").exists()


def test_splits_are_those_of_the_manifest_or_refused(made):
    """Only ``prepare`` knows by which shares it drew a split."""
    assert made.embed(f"manifest={made.manifest}", "split=test") == ["r0", "r4"]
    made.edit("artist 1,train", "artist 1,-")  # an unknown value
    for split in ("train", "val", "test"):
        with pytest.raises(
            ValueError, match=rf"split={split}: 2 tracks of .*manifest.csv have no split there.*give shards"
        ):
            made.embed(f"manifest={made.manifest}", f"split={split}", out="other")
    assert not (made.folder / "other").exists()
    assert len(made.embed(out="other")) == N


def test_a_state_is_open_until_the_next_but_one(made):
    made.embed()
    first = read_catalogue(made.index)
    tracks, embedding = tracks_of(first), first.embedding.copy()
    made.manifest.write_text(made.manifest.read_text().replace("r0,", "a longer id,"))
    made.embed()
    second = read_catalogue(made.index)
    assert tracks_of(first) == tracks
    np.testing.assert_array_equal(first.embedding, embedding)
    assert "a longer id" in tracks_of(second)
    made.edit("jazz", "swing")
    made.embed()
    states = {path.name for path in made.index.glob("state*")}
    assert states == {second.files.name, read_catalogue(made.index).files.name}
    assert first.files.name not in states


def test_a_repeated_command_leaves_the_state_before_to_those_who_read_it(made):
    made.embed()
    first = read_catalogue(made.index)
    tracks = tracks_of(first)
    made.edit("jazz", "swing")
    made.embed()
    made.embed()
    assert tracks_of(first) == tracks


def test_a_damaged_state_is_mended(made):
    made.embed()
    expected = tracks_of(read_catalogue(made.index))
    for path in read_catalogue(made.index).files.iterdir():
        path.write_bytes(b"")
    made.embed()
    assert tracks_of(read_catalogue(made.index)) == expected


@pytest.mark.slow
def test_a_kill_before_the_swap_leaves_the_old_catalogue(made):
    made.embed()
    before = tracks_of(read_catalogue(made.index))
    made.edit("r0,", "a longer id,")
    keys = [f"checkpoint={made.checkpoint}", f"manifest={made.manifest}", f"out={made.index}", "workers=1"]
    process = warm.Popen(warm.cold("embed", *keys, "accelerator=cpu"), before=warm.hold_before("catalogue.json", 1))
    until = time.monotonic() + 300
    while len(list(made.index.glob("state-*"))) < 2 or not list(made.index.glob("catalogue.json.*.tmp")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert tracks_of(read_catalogue(made.index)) == before
    made.embed()
    assert "a longer id" in tracks_of(read_catalogue(made.index))
    assert not list(made.index.rglob("*.tmp"))
    shutil.rmtree(made.index)
