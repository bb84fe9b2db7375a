"""A catalogue that follows its recordings: each content is analysed and embedded once, whatever its files are called."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from datamodules.audio.fingerprint import NO_FINGERPRINT
from datamodules.audio.tempo import Tempo
from datamodules.batches.analysis import Analysis, AnalysisSettings, AnalysisStore
from datamodules.corpora.manifest import read_manifest
from disentangled_ml.search import analysed
from disentangled_ml.search.analysed import (
    EMBEDDINGS,
    AnalysedCatalogue,
    analyse_rows,
    describe_tracks,
    embed_contents,
    read_embeddings,
)
from disentangled_ml.search.assembly import assemble
from disentangled_ml.search.catalogue import EmbeddedCatalogue, read_catalogue
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import TrackRecord
from tests.disentangled_ml.catalogues import embed_recordings, save_checkpoint, write_recordings

N = 5
ATOL = 1e-5  # of a network on batches of other sizes


class Folder:
    """Recordings, their manifest, and the catalogue of their analyses."""

    def __init__(self, folder: Path):
        self.folder, self.manifest = folder, write_recordings(folder, N)
        self.embedder = Embedder(save_checkpoint(folder / "x.ckpt"))
        model = self.embedder.model
        settings = AnalysisSettings(model.audio, self.embedder.source, model.chunk_frames, None, "manifest")
        self.store, self.digests = AnalysisStore(folder / "analyses", settings), {}

    def update(self) -> EmbeddedCatalogue:
        corpus = read_manifest(self.manifest, (1.0, 0.0, 0.0))
        tracks, rejected = analyse_rows(corpus, self.digests, self.store, workers=1)
        self.digests = {track.record.track_id: track.digest for track in tracks}
        embeddings = embed_contents(self.embedder, tracks, self.store, self.folder)
        found = AnalysedCatalogue("manifest.csv", tracks, embeddings, self.store, rejected, 0.1)
        assemble(self.folder, self.embedder, found, found.batches(), None)
        return read_catalogue(self.folder)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def test_it_is_the_catalogue_that_embed_makes(folder, tmp_path_factory):
    expected = read_catalogue(embed_recordings(tmp_path_factory.mktemp("embed"), N) / "index")
    found = folder.update()
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=ATOL)
    assert [(t.track_id, t.artist, t.labels) for t in found.every_track()] == [
        (t.track_id, t.artist, t.labels) for t in expected.every_track()
    ]
    assert [float(track.metadata["duration"]) for track in found.every_track()] == [1.5, 1.6, 1.7, 1.8, 1.9]
    assert all(Path(track.path).is_file() for track in found.every_track())


def test_what_is_known_is_neither_decoded_nor_embedded_again(folder, monkeypatch):
    before = folder.update().embedding.copy()
    embedded: list[str] = []
    embed_tracks = folder.embedder.embed_tracks

    def noted(tracks):
        return embed_tracks((embedded.append(digest) or digest, chunks) for digest, chunks in tracks)

    monkeypatch.setattr(folder.embedder, "embed_tracks", noted)
    (folder.folder / "0.flac").rename(folder.folder / "renamed.flac")
    shutil.copy(folder.folder / "1.flac", folder.folder / "copy.flac")
    folder.digests.pop("r0")
    text = folder.manifest.read_text().replace("r0,0.flac", "r0,renamed.flac")
    folder.manifest.write_text(text + "copy,copy.flac,,,jazz,100\n")
    found = folder.update()
    assert not embedded
    np.testing.assert_array_equal(found.embedding, [*before, before[1]])
    shutil.copy(folder.folder / "3.flac", folder.folder / "2.flac")
    folder.digests.pop("r2")
    found = folder.update()
    assert not embedded
    np.testing.assert_array_equal(found.embedding[2], before[3])


def test_another_model_embeds_what_is_analysed(folder, monkeypatch):
    before = folder.update().embedding.copy()
    folder.embedder = Embedder(save_checkpoint(folder.folder / "y.ckpt", seed=1))
    monkeypatch.setattr(analysed, "Workers", None)  # nothing is decoded
    assert np.abs(folder.update().embedding - before).max() > 0.01


def test_what_cannot_be_used_is_listed(folder):
    (folder.folder / "1.flac").write_bytes(b"no recording")
    (folder.folder / "2.flac").unlink()
    text = folder.manifest.read_text()
    folder.manifest.write_text(text + "r3,3.flac,,,jazz,100\nbad,3.flac,,,jazz,fast\n")
    found = folder.update()
    assert [track.track_id for track in found.every_track()] == ["r0", "r3", "r4"]
    lines = (folder.folder / "rejected.csv").read_text().splitlines()[1:]
    assert sorted(line.split(",")[0] for line in lines) == ["bad", "r1", "r2", "r3"]


def test_windows_are_of_usable_recordings(folder, monkeypatch):
    monkeypatch.setattr(analysed, "MOST_FITTED", 1)
    monkeypatch.setattr(analysed, "features_of", lambda chunks, _: chunks)
    for number in range(1, N):
        (folder.folder / f"{number}.flac").write_bytes(b"no recording %d" % number)
    tracks, _ = analyse_rows(read_manifest(folder.manifest, (1.0, 0.0, 0.0)), {}, folder.store, workers=1)
    assert len([*analysed.read_windows(tracks, folder.store)]) == 1


def test_it_does_not_go_on_where_nothing_can_be_kept(folder):
    (folder.folder / "analyses").write_text("no folder")
    with pytest.raises(OSError, match="analyses"):
        folder.update()


def test_a_damaged_analysis_is_made_anew_by_the_next_update(folder):
    folder.update()
    folder.store.path(folder.digests["r1"]).write_bytes(b"PK")
    assert [len(folder.update()), len(folder.update())] == [N - 1, N]


@pytest.mark.parametrize("content", [b"", b"PK", None])
def test_damaged_embeddings_are_made_anew(folder, content):
    before = folder.update().embedding.copy()
    path = folder.folder / EMBEDDINGS
    path.write_bytes(path.read_bytes()[:-300] if content is None else content)
    assert read_embeddings(path, folder.embedder.model.fingerprint) == {}
    np.testing.assert_allclose(folder.update().embedding, before, atol=ATOL)


@pytest.mark.parametrize("change", [None, lambda old: old[:, :5], lambda old: old.astype(np.float32)])
def test_embeddings_without_todays_fingerprints_are_made_anew(folder, change):
    before = folder.update().audio_fingerprint.copy()
    with np.load(folder.folder / EMBEDDINGS) as kept:
        content = dict(kept)
    old = content.pop("audio_fingerprint")
    np.savez(folder.folder / EMBEDDINGS, **content, **({} if change is None else {"audio_fingerprint": change(old)}))
    np.testing.assert_array_equal(folder.update().audio_fingerprint, before)


def test_a_damaged_analysis_is_made_anew_by_the_next_run(folder):
    before = folder.update().embedding.copy()
    path = folder.store.path(folder.digests["r1"])
    path.write_bytes(path.read_bytes()[:100])
    left = path.with_name(f"{path.name}.host-1.tmp")  # of a killed process
    left.touch()
    assert len(folder.update()) == N - 1
    assert not left.exists()
    np.testing.assert_allclose(folder.update().embedding, before, atol=ATOL)


def test_embeddings_are_kept_while_others_are_made(folder, monkeypatch):
    written = []
    monkeypatch.setattr(analysed, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(analysed, "write_embeddings", lambda path, fingerprint, known: written.append(len(known)))
    folder.update()
    assert written == [1, 2, 3, 4, 5, 5]


def analysis(tempo: float | None, **moods: float) -> Analysis:
    return Analysis(np.empty(0), NO_FINGERPRINT, [0.0], 10.0, tempo and Tempo(tempo), {"mood": moods}, [])


def test_labels_are_estimated_where_most_tracks_have_none():
    records = [TrackRecord(str(n), f"{n}.wav", None, "train", {}) for n in range(4)]
    notes = [analysis(90.0, sad=0.1), analysis(None, sad=0.4), analysis(80.0, sad=0.3), analysis(70.0, sad=0.2)]
    records[0].labels["mood"] = ["Calm"]
    records[3].labels["tempo"] = 71.0
    tracks, estimated = describe_tracks(records, notes, 0.5)
    assert [track.labels for track in tracks] == [
        {"mood": ["Calm"], "tempo": 90.0},
        {"mood": ["sad"]},
        {"tempo": 80.0, "mood": ["sad"]},
        {"tempo": 71.0},
    ]
    assert [track.estimated for track in tracks] == [["tempo"], ["mood"], ["tempo", "mood"], []]
    assert estimated == {"tempo": 2, "mood": 2}
    records[1].labels["mood"] = ["Calm"]  # that is half of them
    tracks, estimated = describe_tracks(records, notes, 0.5)
    assert [track.labels.get("mood") for track in tracks] == [["Calm"], ["Calm"], None, None]
    assert estimated == {"tempo": 2}
    for record in records:
        record.labels.setdefault("tempo", 60.0)
    assert [track.estimated for track in describe_tracks(records, notes, 0.5)[0]] == [None] * 4


def test_an_estimated_tag_that_some_files_name_is_written_as_they_do():
    given = [{"mood": ["Laid Back", "Sad"]}, {}, {}, {}]
    records = [TrackRecord(str(number), "x.wav", None, "train", labels) for number, labels in enumerate(given)]
    notes = [analysis(None, **{"laid-back": 0.1 * n, "sad": 0.4 - 0.1 * n, "calm": 0.5}) for n in range(4)]
    tracks, estimated = describe_tracks(records, notes, 0.25)
    assert estimated == {"mood": 3}
    found = {tag for track in tracks for tag in track.labels["mood"]}
    assert found == {"Laid Back", "Sad", "calm"}


def test_no_track_at_all_is_an_error_that_keeps_the_old_catalogue(folder):
    before = folder.update()
    for path in folder.folder.glob("*.flac"):
        path.unlink()
    folder.digests.clear()
    with pytest.raises(ValueError, match="no track is usable"):
        folder.update()
    assert len(read_catalogue(folder.folder)) == len(before)
