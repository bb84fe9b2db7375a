"""From a folder of music to a catalogue: the one command, and the same again after the folder has changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from disentangled_ml.commands import embed, music
from disentangled_ml.commands.schemas import EmbedConfig, MusicConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.network.checkpoint import load_model
from disentangled_ml.search.catalogue import CatalogueTrack, read_catalogue
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.similarity_search import open_search
from tests.disentangled_ml.catalogues import save_checkpoint

SAMPLE_RATE, N = 22050, 4
pytestmark = pytest.mark.usefixtures("one_thread")


def write(path: Path, seed: int, seconds: float = 4.0) -> None:
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in rng.uniform(100, 4000, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * chord + 0.01 * rng.standard_normal(len(time)), SAMPLE_RATE)


class Library:
    """A folder of music, and what the command makes of it."""

    def __init__(self, folder: Path):
        self.music, self.out = folder / "My Music", folder / "index"
        for number in range(N):
            write(self.music / f"album {number % 2}" / f"{number}.flac", number)

    def run(self, *arguments: str) -> dict[str, CatalogueTrack]:
        keys = [f"music={self.music}", f"out={self.out}", "page=false", "workers=1", "accelerator=cpu"]
        music.main(load_config(MusicConfig, [*keys, *arguments]))
        return {track.track_id: track for track in read_catalogue(self.out).every_track()}


@pytest.fixture
def library(tmp_path) -> Library:
    return Library(tmp_path)


def test_a_folder_becomes_a_catalogue_and_stays_one(library, capsys):
    (library.music / "empty.mp3").touch()
    before = {path: path.stat().st_mtime_ns for path in library.music.rglob("*")}
    tracks = library.run()
    assert {path: path.stat().st_mtime_ns for path in library.music.rglob("*")} == before
    assert len(tracks) == N
    assert all(Path(track.path).is_file() for track in tracks.values())
    assert any("mood" in track.labels for track in tracks.values())
    catalogue = read_catalogue(library.out)
    assert catalogue.condition_names == ["genre", "mood", "instrument", "tempo"]
    rows = {track.track_id: row for track, row in zip(tracks.values(), catalogue.embedding.copy(), strict=True)}
    model = (library.out / "tags.ckpt").read_bytes()

    shutil.move(library.music / "album 0", library.music / "renamed")
    (library.music / "album 1" / "1.flac").unlink()
    write(library.music / "new.flac", 9)
    again = library.run()
    assert (library.out / "tags.ckpt").read_bytes() == model
    new = set(again) - set(tracks)
    assert [Path(again[name].path).name for name in new] == ["new.flac"]
    assert [Path(tracks[name].path).name for name in set(tracks) - set(again)] == ["1.flac"]
    for row, name in zip(read_catalogue(library.out).embedding, again, strict=True):
        if name not in new:
            np.testing.assert_array_equal(row, rows[name])
    assert sum("renamed" in track.path for track in again.values()) == 2
    # What is found can be searched with the model that was made.
    found = Embedder(library.out / "tags.ckpt").open(library.out).search(library.music / "new.flac", k=1)
    assert found[0].track.track_id in new
    assert found[0].distance < 1e-3
    assert open_search(library.out).catalogue.model.fingerprint == load_model(library.out / "tags.ckpt").fingerprint
    assert f"{N} tracks" in capsys.readouterr().out


def test_a_model_of_few_recordings_is_made_anew_when_there_are_twice_as_many(library):
    library.run("tempo=manifest")
    first = (library.out / "tags.ckpt").read_bytes()
    for number in range(N, 2 * N - 1):
        write(library.music / f"{number}.flac", number)
    library.run("tempo=manifest")
    assert (library.out / "tags.ckpt").read_bytes() == first
    write(library.music / "last.flac", 2 * N)
    assert len(library.run("tempo=manifest")) == 2 * N
    assert (library.out / "tags.ckpt").read_bytes() != first
    assert read_catalogue(library.out).model.fingerprint == load_model(library.out / "tags.ckpt").fingerprint


def test_any_checkpoint_may_be_the_model(library, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "x.ckpt")
    tracks = library.run(f"model={checkpoint}", "tempo=manifest")
    assert len(tracks) == N
    assert read_catalogue(library.out).condition_names == ["genre", "mood", "tempo"]
    assert all(track.labels == {} for track in tracks.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=trained"], r"needs 80 tracks with a tag of 5 tracks at least \(found: none\)"),
        (["model=nowhere.ckpt"], r"nowhere.ckpt does not exist"),
    ],
)
def test_a_model_that_cannot_be_had(library, arguments, message):
    with pytest.raises(ValueError, match=message):
        library.run(*arguments)


def test_catalogues_of_embed_and_of_music_are_left_alone_by_each_other(library, tmp_path):
    (tmp_path / "embeddings.npz").touch()
    with pytest.raises(ConfigError, match="holds a catalogue that music made"):
        embed.main(load_config(EmbedConfig, [f"out={tmp_path}", "checkpoint=x.ckpt", "manifest=m.csv"]))
    (library.out / "pieces").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds a catalogue that embed made"):
        library.run()


def test_no_model_is_made_of_nothing(library):
    shutil.rmtree(library.music)
    write(library.music / "short.flac", 0, seconds=0.5)
    with pytest.raises(
        ConfigError, match=r"no recording .* can be used, the first one for this reason: shorter than a chunk"
    ):
        library.run("tempo=manifest")
    write(library.music / "long.flac", 1)
    assert len(library.run("tempo=manifest")) == 1


def test_a_killed_training_goes_on_and_a_finished_one_stays(tmp_path):
    assert music.unfinished_run("a", tmp_path) == "a"
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    assert music.unfinished_run("a", tmp_path) == "a"
    (tmp_path / "a" / "metrics.json").touch()
    assert music.unfinished_run("a", tmp_path) == "a-2"


def test_a_damaged_model_is_told_with_the_way_out(library):
    library.out.mkdir()
    (library.out / "tags.ckpt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"tags.ckpt cannot be read .*; or delete it to have it made anew"):
        library.run()


def test_an_out_that_is_a_file_is_named(library):
    library.out.write_text("mine")
    with pytest.raises(OSError, match="index cannot be written to"):
        library.run()
    assert library.out.read_text() == "mine"


@pytest.mark.parametrize("given", [[], ["music="], ["music=null"]])
def test_music_must_be_given(given):
    with pytest.raises(ConfigError, match=r"no value for music: give .*, music=DIR \(make music MUSIC=DIR\)"):
        load_config(MusicConfig, given)


def test_what_is_no_folder_of_music(library, tmp_path):
    library.music = tmp_path / "nowhere"
    with pytest.raises(ConfigError, match=r"music=.*nowhere does not exist: give music=DIR"):
        library.run()
    library.music = tmp_path / "list.txt"
    library.music.write_text("a.mp3")
    with pytest.raises(ConfigError, match=r"music=.*list\.txt is a file: give music=DIR"):
        library.run()
    library.music = tmp_path / "nothing"
    library.music.mkdir()
    (library.music / "list.txt").touch()
    with pytest.raises(ValueError, match=r"music=.*nothing holds no audio file"):
        library.run()
