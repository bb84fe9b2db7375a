"""A server answers from one state of its catalogue, and takes up a new one once it is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from servers import ARTISTS, CONDITIONS, IDS, NEW, Made, embed_again, grow, make_catalogue
from starlette.testclient import TestClient

from datamodules.audio.bounded_decoding import Bounds
from disentangled_ml.commands.schemas import ServeConfig
from disentangled_ml.commands.serve import ViewOpener, upload_embedder
from disentangled_ml.config import load_config
from disentangled_ml.search.catalogue import HEADER, TRACKS, read_catalogue
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.web.app import build_app
from disentangled_ml.web.current import CurrentView
from disentangled_ml.web.uploads import UploadLimits
from disentangled_ml.web.view import CatalogueView
from tests.disentangled_ml.catalogues import save_checkpoint, write_catalogue

ALL = dict.fromkeys(CONDITIONS, 1.0)


@pytest.fixture
def made(tmp_path) -> Made:
    return make_catalogue(tmp_path / "catalogue")


@pytest.fixture
def current(made) -> CurrentView:
    embedder = Embedder(made.checkpoint)

    def open_view() -> CatalogueView:
        search = embedder.open(made.index).search_of()
        return CatalogueView(search, upload_embedder(embedder, Bounds(9.0)), lambda points: points[:, :2])

    return CurrentView(made.index, open_view)


@pytest.fixture
def client(current) -> TestClient:
    return TestClient(build_app(current, None, True), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def upload(client: TestClient, path: Path) -> str:
    answer = client.post("/api/v1/upload", content=path.read_bytes(), headers={"content-type": "audio/wav"})
    return answer.json()["upload"]


def nearest(client: TestClient, **query: str) -> dict:
    answer = client.post("/api/v1/similar", json={**query, "weights": ALL, "k": 1, "fold_duplicates": False})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


def test_an_upload_is_answered_by_the_catalogue_that_was_embedded_last(made, client):
    old = upload(client, made.folder / "audio/8.wav")
    assert nearest(client, upload=old)["track"]["id"] == IDS[8]
    grow(made)
    found = nearest(client, upload=upload(client, made.folder / "new.wav"))
    assert (found["track"]["id"], found["track"]["artist"]) == (NEW, "New")
    assert found["track"]["labels"] == {"genre": ["new genre"], "mood": ["calm"], "tempo": 150.0}
    assert found["distance"] == pytest.approx(0, abs=1e-4)
    found = nearest(client, upload=old)  # is still known
    assert (found["track"]["id"], found["track"]["artist"]) == (IDS[8], ARTISTS[0])
    assert client.get("/api/v1/catalogue").json()["size"] == len(IDS) + 1
    assert [track["id"] for track in client.get("/api/v1/tracks", params={"q": "the new"}).json()["tracks"]] == [NEW]
    assert client.get("/api/v1/map").json()["of"] == len(IDS) + 1
    assert client.get("/audio", params={"track": NEW}).content == (made.folder / "new.wav").read_bytes()


def test_a_request_that_began_before_is_answered_from_the_old_state(made, current):
    view, question = current(), {"track": "t3", "weights": ALL, "k": 100}
    before = view.similar(question)
    grow(made)
    assert current() is not view
    assert view.similar(question) == before
    assert [track["id"] for track in view.tracks("new")["tracks"]] == []
    assert len(current().similar(question)["results"]) == len(IDS)


def test_nothing_is_opened_again_while_nothing_has_changed(made, current):
    view = current()
    assert current() is view


def test_a_model_that_was_made_anew_is_served_with_its_catalogue(made):
    opener = ViewOpener(load_config(ServeConfig, [f"index={made.index}", "accelerator=cpu"]), UploadLimits(), None)
    current = CurrentView(made.index, opener)
    client = TestClient(build_app(current, None, True), base_url="http://127.0.0.1:8000")
    old = upload(client, made.folder / "audio/8.wav")
    assert nearest(client, upload=old)["track"]["id"] == IDS[8]
    save_checkpoint(made.folder / "other.ckpt", seed=1)
    shutil.rmtree(made.index / "pieces")
    embed_again(made._replace(checkpoint=made.folder / "other.ckpt"))
    new = upload(client, made.folder / "audio/8.wav")
    assert opener.embedder.checkpoint == made.folder / "other.ckpt"
    assert nearest(client, upload=new)["track"]["id"] == IDS[8]
    assert client.post("/api/v1/similar", json={"upload": old}).status_code == 404


def test_the_old_catalogue_is_served_on_while_there_is_none_or_another_models(made, current, client, caplog, tmp_path):
    header = (made.index / HEADER).read_bytes()
    (made.index / HEADER).unlink()
    assert nearest(client, track="t3")["distance"] > 0
    other = write_catalogue(tmp_path / "other", np.eye(4, 12))
    shutil.copy(other.folder / HEADER, made.index / HEADER)
    assert nearest(client, track="t3")["distance"] > 0
    assert nearest(client, track="t3")["distance"] > 0
    assert caplog.text.count("the new catalogue cannot be used, the old one is served on") == 1
    (made.index / HEADER).write_bytes(header)
    grow(made)
    assert client.get("/api/v1/catalogue").json()["size"] == len(IDS) + 1


@pytest.mark.parametrize("damage", [Path.unlink, lambda tracks: tracks.write_bytes(b"{}\n")], ids=["gone", "damaged"])
def test_the_old_catalogue_is_served_on_while_the_tracks_of_the_new_one_cannot_be_read(made, client, caplog, damage):
    grow(made)
    damage(read_catalogue(made.index).files / TRACKS)
    for _ in range(2):
        assert client.get("/api/v1/catalogue").json()["size"] == len(IDS)
        assert nearest(client, track="t3")["distance"] > 0
        assert client.get("/api/v1/tracks", params={"q": "t3"}).json()["tracks"][0]["id"] == "t3"
    assert caplog.text.count("the new catalogue cannot be used, the old one is served on") == 1
    embed_again(made)
    assert client.get("/api/v1/catalogue").json()["size"] == len(IDS) + 1
