"""The page's answers: right ones, and a clear word for everything that is not a proper question."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from servers import ARTISTS, CONDITIONS, GENRES, HOSTILE_IDS, IDS, RATE, Made, make_catalogue, sound
from starlette.testclient import TestClient

from datamodules.audio.bounded_decoding import Bounds
from datamodules.audio.fingerprint import NO_FINGERPRINT
from disentangled_ml.commands.schemas import ServeConfig
from disentangled_ml.commands.serve import bind_socket, main, upload_embedder, warm_up_index
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.search.catalogue import TRACKS, read_catalogue
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.recording import EmbeddedRecording
from disentangled_ml.web.app import build_app
from disentangled_ml.web.guard import HEADERS
from disentangled_ml.web.listening.draw import open_listening_test
from disentangled_ml.web.listening.session import ListeningTest
from disentangled_ml.web.recordings import recording_of
from disentangled_ml.web.routes.pages import FILES
from disentangled_ml.web.uploads import KEPT, UploadLimits, Uploads
from disentangled_ml.web.view import CatalogueView

ALL = dict.fromkeys(CONDITIONS, 1.0)
LIMITS = UploadLimits(max_bytes=200_000, max_seconds=3.0, uploads_at_a_time=1, receive_seconds=5.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return make_catalogue(tmp_path_factory.mktemp("catalogue"))


@pytest.fixture(scope="module")
def embedder(made) -> Embedder:
    return Embedder(made.checkpoint).open(made.index)


def shadow(points: np.ndarray) -> np.ndarray:
    """Draw a map as simply as possible."""
    return points.astype(float) @ np.random.default_rng(0).normal(size=(points.shape[1], 2))


def make_view(embedder: Embedder, limits: UploadLimits = LIMITS, root: Path | None = None) -> CatalogueView:
    return CatalogueView(
        embedder.search_of(), upload_embedder(embedder, Bounds(limits.max_seconds)), shadow, limits, root
    )


def client_of(view: CatalogueView, listening: ListeningTest | None = None, loopback_only: bool = True) -> TestClient:
    app = build_app(lambda: view, listening, loopback_only)
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


@pytest.fixture
def view(embedder) -> CatalogueView:
    return make_view(embedder)


@pytest.fixture
def client(view) -> TestClient:
    return client_of(view)


def wav(waveform: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="WAV")
    return buffer.getvalue()


def send(client: TestClient, data: bytes, kind: str = "audio/wav"):
    return client.post("/api/v1/upload", content=data, headers={"content-type": kind})


def found(client: TestClient, **question) -> list[str]:
    given = {"track": "t3", "weights": ALL, "fold_duplicates": False, **question}
    answer = client.post("/api/v1/similar", json=given)
    assert answer.status_code == 200, answer.text
    return [result["track"]["id"] for result in answer.json()["results"]]


# What is asked properly


def test_the_catalogue_is_summed_up(client):
    content = client.get("/api/v1/catalogue").json()
    assert content["size"] == len(IDS)
    assert [condition["name"] for condition in content["conditions"]] == CONDITIONS
    assert (content["has_artists"], content["listening_test"]) == (True, False)
    assert content["tempo"] == [80.0, 80.0 + 5 * (len(IDS) - 1)]
    assert content["upload"] == {"max_bytes": 200_000, "max_seconds": 3.0}


def test_results_are_those_of_a_plain_loop(client, embedder):
    weights = {"genre": 1.0, "mood": 0.25, "tempo": 0.0}
    question = {"track": "t3", "weights": weights, "k": 100, "fold_duplicates": False}
    answer = client.post("/api/v1/similar", json=question).json()
    embedding, masks = embedder.catalogue.embedding.astype(float), embedder.model.masks.astype(float)
    query = embedding[IDS.index("t3")]
    expected = {}
    for track_id, row in zip(IDS, embedding, strict=True):
        squared = [float((((row - query) * mask) ** 2).sum()) for mask in masks]
        expected[track_id] = (sum(w * d for w, d in zip(weights.values(), squared, strict=True)) ** 0.5, squared)
    order = sorted((distance, track_id) for track_id, (distance, _) in expected.items() if track_id != "t3")
    assert [r["track"]["id"] for r in answer["results"]] == [track_id for _, track_id in order]
    for result in answer["results"]:
        distance, squared = expected[result["track"]["id"]]
        assert result["distance"] == pytest.approx(distance, abs=1e-6)
        assert list(result["distances"].values()) == pytest.approx(np.sqrt(squared), abs=1e-6)
        farther = [other for other, _ in expected.values() if other > distance + 1e-9]
        assert result["percentile"] == pytest.approx(100 * len(farther) / len(IDS), abs=0.01)
    assert [track["id"] for track in answer["seeds"]] == ["t3"]
    assert answer["weights"] == weights


def test_weights_change_the_order(client):
    orders = {tuple(found(client, weights={name: 1.0}, k=100)) for name in CONDITIONS}
    assert len(orders) == len(CONDITIONS)
    assert {frozenset(order) for order in orders} == {frozenset(IDS) - {"t3"}}


def test_filters(client):
    artist = {track_id: ARTISTS[i % 4] for i, track_id in enumerate(IDS)}
    others = found(client, track="t2", k=100, other_artists=True)
    assert artist["t2"] == "Bob"
    assert set(others) == {track_id for track_id in IDS if artist[track_id] != "Bob"}
    assert set(found(client, k=100, other_artists=True)) == set(IDS) - {"t3"}  # whose artist is unknown
    tempo = {track_id: 80 + 5 * i for i, track_id in enumerate(IDS)}
    assert set(found(client, k=100, tempo=[100, 120])) == {i for i in IDS if 100 <= tempo[i] <= 120 and i != "t3"}
    assert set(found(client, k=100, tempo=[None, 90])) == {i for i in IDS if tempo[i] <= 90}
    assert found(client, tempo=[1, 2]) == []
    assert len(found(client, k=4)) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t1", ["t1", "t10", "t11", "t12"]),
        ("T12", ["t12"]),
        ("bob t2", ["t2"]),
        ("etc/passwd", ["../../etc/passwd"]),
        ("nothing of the kind", []),
        ("", [*HOSTILE_IDS, *(f"t{i}" for i in range(13))]),
        ("\0", []),
    ],
)
def test_tracks_are_found_as_one_types(client, text, expected):
    tracks = client.get("/api/v1/tracks", params={"q": text}).json()["tracks"]
    assert [track["id"] for track in tracks][: len(expected)] == expected
    assert bool(tracks) == bool(expected)


def test_labels_and_artists_find_tracks_and_no_more_than_a_page(client):
    jazz = client.get("/api/v1/tracks", params={"q": "JAZZ"}).json()["tracks"]
    assert [track["labels"]["genre"] for track in jazz] == [["jazz"]] * 10
    assert len(client.get("/api/v1/tracks", params={"q": "a"}).json()["tracks"]) <= 20


@pytest.mark.parametrize("track_id", HOSTILE_IDS, ids=range(len(HOSTILE_IDS)))
def test_hostile_names_travel_unchanged(client, track_id):
    answer = client.post("/api/v1/similar", json={"track": track_id, "weights": ALL})
    assert answer.headers["content-type"] == "application/json"
    (seed,) = answer.json()["seeds"]
    assert seed["id"] == track_id
    assert seed["labels"]["genre"][0] in GENRES
    if "%" not in track_id:  # which this client, other than a server, decodes twice
        assert client.get(f"/api/v1/tracks/{quote(track_id, safe='')}").json() == seed
    sounds = client.get("/audio", params={"track": track_id})
    assert sounds.status_code == 200
    assert sounds.headers["content-type"] in ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg")


def test_the_map_has_every_track_and_is_kept(view, made):
    drawn = []
    view.plane = lambda points: drawn.append(points) or shadow(points)
    for path in made.index.glob("maps/*"):
        path.unlink()
    client = client_of(view)
    whole, genre = (client.get("/api/v1/map", params={"space": space}).json() for space in ("", "genre"))
    assert set(whole["ids"]) == set(genre["ids"]) == set(IDS)
    assert (min(whole["x"]), max(whole["x"]), min(whole["y"]), max(whole["y"])) == (0, 1, 0, 1)
    assert whole["labels"]["tempo"][1] == 85.0
    assert [len(points) for points in drawn] == [len(IDS)] * 2
    assert not np.array_equal(drawn[0], drawn[1])
    client.get("/api/v1/map")
    assert len(drawn) == 2
    view.maps.clear()  # another start
    assert client.get("/api/v1/map").json() == whole
    assert len(drawn) == 2
    for path in made.index.glob("maps/*"):
        path.write_text('{"places": [[0, 1]]}')
    view.maps.clear()
    assert client.get("/api/v1/map").json() == whole
    assert len(drawn) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda tracks: tracks.write_bytes(b"{" * tracks.stat().st_size),
        lambda tracks: tracks.write_bytes(b""),
        lambda tracks: tracks.unlink(),
    ],
    ids=["damaged", "empty", "gone"],
)
def test_a_damaged_list_of_tracks_is_said_without_its_path(made, tmp_path, damage, caplog):
    shutil.copytree(made.index, tmp_path / "index")
    view = make_view(Embedder(made.checkpoint).open(tmp_path / "index"))
    damage(read_catalogue(tmp_path / "index").files / TRACKS)
    warm_up_index(view)
    client = client_of(view)
    answers = [
        client.get("/api/v1/tracks", params={"q": "t"}),
        client.get("/api/v1/map"),
        client.get("/audio", params={"track": "t5"}),
        client.post("/api/v1/similar", json={"track": "t5", "weights": ALL}),
    ]
    assert [answer.status_code for answer in answers] == [503] * 4
    assert {answer.json()["error"] for answer in answers} == {
        "the catalogue is damaged on the server, whose log says how: it must be embedded anew"
    }
    assert caplog.text.count(f"{TRACKS}") >= 4


# Recordings


def test_a_recording_is_played_whole_or_in_part(client, made):
    whole = (made.folder / "audio" / f"{IDS.index('t5')}.wav").read_bytes()
    answer = client.get("/audio", params={"track": "t5"})
    assert (answer.status_code, answer.content) == (200, whole)
    part = client.get("/audio", params={"track": "t5"}, headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    end = client.get("/audio", params={"track": "t5"}, headers={"range": "bytes=-7"})
    assert (end.status_code, end.content) == (206, whole[-7:])


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("bytes=99999999-", 416),
        ("bytes=5-2", 400),
        ("bytes=x-y", 400),
        ("bytes=", 400),
        ("nonsense", 400),
        ("lines=1-2", 400),
    ],
)
def test_nonsense_ranges(client, given, status):
    answer = client.get("/audio", params={"track": "t5"}, headers={"range": given})
    assert answer.status_code == status
    assert len(answer.content) < 200


def test_a_recording_that_may_not_be_read_is_not_found(client, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read all
    assert client.get("/audio", params={"track": "t5"}).status_code == 404
    assert client.get("/api/v1/tracks/t5").json()["audio"] is False


def test_ten_thousand_ranges_are_no_reason_for_work(client):
    ranges = ",".join(f"{i}-{i}" for i in range(0, 20_000, 2))
    answer = client.get("/audio", params={"track": "t5"}, headers={"range": f"bytes={ranges}"})
    assert answer.status_code == 200  # the whole, as if no range had been given
    assert answer.content == client.get("/audio", params={"track": "t5"}).content


@pytest.mark.parametrize(
    "path",
    [
        "/audio",
        "/audio?track=",
        "/audio?track=/etc/passwd",
        "/audio?track=../../../etc/passwd",
        "/audio?track=audio/0.wav",
        "/audio?track=%00",
        "/audio?path=/etc/passwd",
        "/audio/../../../etc/passwd",
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/app.py",
        "/static/",
        "/static",
        "/etc/passwd",
        "//etc/passwd",
        "/listen",
        "/api/listen/turn",
        "/api",
        "/" + "x" * 10_000,
    ],
)
def test_what_is_not_there_is_not_found(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("there is no")


def test_nothing_outside_of_the_folder_of_recordings_is_played(embedder, made, tmp_path):
    inside, outside = client_of(make_view(embedder, root=made.folder)), client_of(make_view(embedder, root=tmp_path))
    assert inside.get("/audio", params={"track": "t5"}).status_code == 200
    assert outside.get("/audio", params={"track": "t5"}).status_code == 404
    assert not any(track["audio"] for track in outside.get("/api/v1/tracks", params={"q": "t"}).json()["tracks"])


def test_a_track_without_a_path_is_found_by_its_id_inside_of_the_folder_alone(embedder, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "t1.mp3").touch()
    (tmp_path / "secret.wav").touch()
    (root / "link.wav").symlink_to(tmp_path / "secret.wav")
    track = embedder.catalogue.track(0)
    for track_id, expected in {"t1": root / "t1.mp3", "t2": None, "../secret": None, "link": None, "\0": None,
                               "x" * 5000: None, str(tmp_path / "secret"): None}.items():  # fmt: skip
        assert recording_of(track._replace(track_id=track_id, path=None), root.resolve()) == expected
    assert recording_of(track._replace(track_id="t1", path=None), None) is None


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "gone.wav", "\0.wav", "x" * 5000 + ".wav", ""])
def test_a_catalogue_that_names_other_files_gives_none_of_them(embedder, path):
    assert recording_of(embedder.catalogue.track(0)._replace(path=path), None) is None


# Questions that are none


@pytest.mark.parametrize(
    ("question", "status", "said"),
    [
        ({"track": "nobody", "weights": ALL}, 404, "no such track"),
        ({"track": "\ud800", "weights": ALL}, 400, ""),
        ({"track": 3, "weights": ALL}, 400, "name either a track or an upload"),
        ({"track": "t1", "upload": "x", "weights": ALL}, 400, "name either a track or an upload"),
        ({"upload": "guessed", "weights": ALL}, 404, "upload it again"),
        ({"track": "t1", "weights": 1}, 400, "weights are an object"),
        ({"track": "t1", "weights": [1]}, 400, "weights are an object"),
        ({"track": "t1", "weights": {}}, 400, "weight"),
        ({"track": "t1", "weights": {"genre": 0}}, 400, "weight"),
        ({"track": "t1", "weights": {"genre": -1}}, 400, "weights.genre=-1 is not legal"),
        ({"track": "t1", "weights": {"genre": "1"}}, 400, "weights.genre=1 is not legal"),
        (
            {"track": "t1", "weights": {"genre": 1e39}},
            400,
            "genre=1e+39 is not legal: give 0, or a number from 1e-06 to 1e+06",
        ),
        ({"track": "t1", "weights": {"genre": 10**400}}, 400, "is not legal: give 0, or a number from 1e-06 to 1e+06"),
        ({"track": "t1", "weights": ALL, "tempo": [1, 10**400]}, 400, "both from 0 to 1000 BPM"),
        ({"track": "t1", "weights": ALL, "k": 10**400}, 400, "k is a number from 1 to 100"),
        ({"track": "t1", "weights": {"genre": 1e400}}, 400, "weights.genre=inf is not legal"),
        ({"track": "t1", "weights": {"<b>": 1, "\ud800": 1}}, 400, "knows no such condition"),
        ({"track": "t1", "weights": ALL, "k": 0}, 400, "k is a number from 1 to 100"),
        ({"track": "t1", "weights": ALL, "k": 101}, 400, "k is a number from 1 to 100"),
        ({"track": "t1", "weights": ALL, "k": True}, 400, "k is a number from 1 to 100"),
        ({"track": "t1", "weights": ALL, "tempo": [120, 100]}, 400, "slowest tempo must not be above"),
        ({"track": "t1", "weights": ALL, "tempo": ["a", None]}, 400, "slowest tempo must not be above"),
        ({"track": "t1", "weights": ALL, "tempo": [float("nan"), 100]}, 400, "slowest tempo must not be above"),
        ({"track": "t1", "weights": ALL, "tempo": 100}, 400, "tempo is a list"),
        ({"track": "t1", "weights": ALL, "tempo": [1, 2, 3]}, 400, "tempo is a list"),
        ({"track": "t1", "tempo_change": [-1, 0]}, 400, "tempo_change is a list of the least and the most"),
        ({"track": "t1", "tempo_change": [0.1]}, 400, "tempo_change is a list"),
        ({"track": "t1", "tempo_change": [0.1, float("nan")]}, 400, "tempo_change is a list"),
        ({"track": "t1", "other_artists": 1}, 400, "other_artists is true or false"),
        ({"track": "t1", "per_artist": 0}, 400, "per_artist is a number from 1 to 1000"),
        ({"track": "t1", "seeds": ["t2"]}, 400, "seeds is no part of this question"),
    ],
)
def test_questions_that_are_none_are_refused(client, question, status, said):
    answer = client.post("/api/v1/similar", content=json.dumps(question), headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert said in answer.json()["error"]


@pytest.mark.parametrize("body", ["", "{", "[]", "3", "null", '"x"', "[" * 50_000, "\xff\xfe", "{" * 50_000])
def test_bodies_that_are_no_objects_are_refused(client, body):
    answer = client.post(
        "/api/v1/similar", content=body.encode("latin-1"), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()) == (400, {"error": "this is no JSON object"})


def test_large_questions_and_other_kinds_are_refused(client):
    large = client.post("/api/v1/similar", json={"track": "x" * 70_000})
    assert large.status_code == 413
    assert "65,536 bytes" in large.json()["error"]
    form = client.post("/api/v1/similar", data={"track": "t1"})
    assert (form.status_code, form.json()["error"]) == (415, "send application/json")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/v1/similar"), ("GET", "/api/v1/upload"), ("DELETE", "/api/v1/similar"), ("PUT", "/"), ("POST", "/"),
     ("POST", "/audio"), ("PATCH", "/static/style.css"), ("OPTIONS", "/api/v1/upload"), ("TRACE", "/"), ("QQQ", "/")],
)  # fmt: skip
def test_wrong_methods(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert "not possible here" in answer.json()["error"]


def test_an_unknown_space_has_no_map(client):
    answer = client.get("/api/v1/map", params={"space": "<script>"})
    assert (answer.status_code, answer.json()["error"]) == (
        *(400, "the model knows no such condition, only genre, mood, tempo"),
    )


def test_a_fault_of_the_program_is_said_and_the_server_goes_on(view):
    view.search_tracks = None
    client = client_of(view)
    answer = client.post("/api/v1/similar", json={"track": "t1", "weights": ALL})
    assert (answer.status_code, answer.json()) == (500, {"error": "the server failed on this; its log says why"})
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get("/api/v1/catalogue").status_code == 200


# Who asks


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:8000", 200), ("127.1.2.3", 200),
        ("evil.example", 421), ("127.0.0.1.evil.example", 421), ("localhost.evil.example:8000", 421), ("0.0.0.0", 421),
        ("192.168.1.1", 421), ("", 400), ("a@127.0.0.1", 400), ("127.0.0.1:99999", 400), ("127.0.0.1/x", 400), ("[::1", 400),
    ],
)  # fmt: skip
def test_only_hosts_that_are_this_machine(client, host, status):
    answer = client.get("/api/v1/catalogue", headers={"host": host})
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)


def test_a_server_for_others_answers_under_any_name(view):
    client = client_of(view, loopback_only=False)
    assert client.get("/api/v1/catalogue", headers={"host": "music.example"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_only_the_page_itself_may_send(client, headers, status):
    question = {"track": "t1", "weights": ALL}
    assert client.post("/api/v1/similar", json=question, headers=headers).status_code == status
    assert client.get("/api/v1/catalogue", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/static/search.js", "/audio?track=t1", "/nowhere", "/api/v1/similar", "/api/v1/map?space=x"]
)
def test_every_answer_has_the_guarding_headers(client, path):
    answer = client.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value


def test_the_page_loads_nothing_from_elsewhere(client):
    for path in ("/", "/static/style.css", *(f"/static/{name}" for name in FILES)):
        text = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text
        assert "innerHTML" not in text
        assert "insertAdjacentHTML" not in text


# Uploads


def test_an_upload_finds_what_its_recording_finds(client, embedder):
    answer = send(client, wav(sound(99)))
    assert answer.status_code == 200
    assert answer.json()["seconds"] == pytest.approx(2.0)
    assert not answer.json()["cut"]
    question = {"upload": answer.json()["upload"], "weights": ALL, "k": 5, "fold_duplicates": False}
    content = client.post("/api/v1/similar", json=question).json()
    assert content["seeds"] == []
    expected = embedder.search(embedder.embed(sound(99)), ALL, k=5)
    assert [result["track"]["id"] for result in content["results"]] == [each.track.track_id for each in expected]


def test_what_is_odd_about_an_upload_is_told(client):
    assert send(client, wav(sound(1))).json()["warnings"] == []
    answer = send(client, wav(sound(1, seconds=4.0))[: 44 + 4 * RATE]).json()
    assert answer["warnings"] == ["other length: 2.00 s are decoded, the header promises 4.00 s"]


def test_only_the_beginning_of_a_long_upload_is_used(embedder):
    client = client_of(make_view(embedder, LIMITS._replace(max_bytes=10_000_000)))
    answer = send(client, wav(sound(1, seconds=20.0))).json()
    assert (answer["seconds"], answer["cut"]) == (3.0, True)


@pytest.mark.parametrize(
    ("data", "kind", "status", "said"),
    [
        (b"", "audio/wav", 422, "empty"),
        (b"\0" * 1000, "audio/wav", 422, "not a decodable recording"),
        (wav(sound(1))[:60], "audio/wav", 422, "cannot be used"),
        (wav(np.zeros(RATE)), "audio/wav", 422, "silent"),
        (wav(sound(1, seconds=0.1)), "audio/wav", 422, "cannot be used: shorter than a chunk: 0.10 s"),
        (b"x" * 200_001, "audio/wav", 413, "the most is 200,000 bytes"),
        (wav(sound(1)), "text/html", 415, "send the recording itself"),
        (wav(sound(1)), "", 415, "send the recording itself"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x", 415, "send the recording itself"),
    ],
)
def test_uploads_that_cannot_be_used_are_refused_with_the_reason(client, data, kind, status, said):
    answer = send(client, data, kind)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert send(client, wav(sound(2))).status_code == 200


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999999999999999999999", "x", ""])
def test_lengths_that_are_none(client, length):
    answer = client.post(
        "/api/v1/upload", content=b"x", headers={"content-type": "audio/wav", "content-length": length}
    )
    assert answer.status_code == 413


def test_no_upload_leaves_a_file(client, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for data in (wav(sound(1)), b"no sound", b"x" * 200_001):
        send(client, data)
    assert not list(tmp_path.iterdir())


def test_further_uploads_at_one_time_are_told_to_come_again(view):
    began, go = threading.Event(), threading.Event()
    hear = view.embed_upload

    def slow(file):
        began.set()
        assert go.wait(30)
        return hear(file)

    view.embed_upload = slow
    answers = []
    with client_of(view) as client:
        first = threading.Thread(target=lambda: answers.append(send(client, wav(sound(1)))))
        first.start()
        assert began.wait(30)
        busy = send(client, wav(sound(2)))
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "5")
        assert "try again in a moment" in busy.json()["error"]
        assert client.get("/api/v1/catalogue").status_code == 200
        go.set()
        first.join()
        assert answers[0].status_code == 200
        assert send(client, wav(sound(2))).status_code == 200


def test_only_the_last_uploads_are_kept():
    uploads = Uploads()
    names = [uploads.add(EmbeddedRecording(np.array([i]), NO_FINGERPRINT)) for i in range(KEPT)]
    assert uploads.find(names[0]).embedding == 0  # used again, so it stays
    names.append(uploads.add(EmbeddedRecording(np.array([KEPT]), NO_FINGERPRINT)))
    assert uploads.find(names[1]) is None
    assert [uploads.find(name).embedding for name in (names[0], names[2], names[-1])] == [0, 2, KEPT]
    assert len(set(names)) == KEPT + 1


# The listening test


@pytest.fixture
def listening(view, tmp_path):
    test = open_listening_test(tmp_path / "test", view, n=3, seed=0)
    yield test
    test.close()


@pytest.fixture
def raters(view, listening) -> TestClient:
    return client_of(view, listening)


def turn_of(client: TestClient, rater: str = "Ann", **more) -> dict:
    answer = client.get("/api/listen/turn", params={"rater": rater, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def say(client: TestClient, **content):
    return client.post("/api/listen/answer", json={"rater": "Ann", "chosen": "left", **content})


def test_a_rater_answers_all_questions(raters, listening, tmp_path):
    asked = []
    while (turn := turn_of(raters))["number"] is not None:
        asked.append(turn["number"])
        assert (turn["done"], turn["total"]) == (len(asked) - 1, 12)
        assert {turn[role]["track"] for role in ("reference", "left", "right")} <= set(IDS)
        assert say(raters, number=turn["number"], chosen="left").json() == {"saved": True}
        assert turn_of(raters, number=turn["number"])["chosen"] == "left"
    assert sorted(asked) == list(range(12))
    for question, chosen in listening.votes.items():
        left = turn_of(raters, number=listening.questions.index(question))["left"]["track"]
        assert {"first": question.first, "second": question.second}[chosen["Ann"]].track_id == left
    assert raters.get("/api/listen/figures").json()["all"]["answers"] == 12
    table = raters.get("/api/listen/triplets.csv")
    assert len(table.text.splitlines()) > 12
    assert "attachment" in table.headers["content-disposition"]
    assert raters.get("/listen").status_code == 200
    assert raters.get("/api/v1/catalogue").json()["listening_test"] is True


def test_raters_are_not_told_what_the_list_says(raters):
    turn = turn_of(raters)
    assert set(turn) == {"number", "done", "total", "asked", "chunk_seconds", "chosen", "reference", "left", "right"}
    assert set(turn["left"]) == {"track", "start"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"rater": ""}, "a rater's name has"),
        ({"rater": "x" * 10_000}, "a rater's name has"),
        ({"rater": None}, "a rater's name has"),
        ({"rater": ["Ann"]}, "a rater's name has"),
        ({"number": 99}, "no question has that number"),
        ({"number": "0"}, "no question has that number"),
        ({"number": -1}, "no question has that number"),
        ({"number": 10**30}, "no question has that number"),
        ({"chosen": "both"}, "an answer is one of left, right, cannot tell"),
        ({"chosen": None}, "an answer is one of"),
        ({"chosen": {}}, "an answer is one of"),
    ],
)
def test_answers_that_are_none_are_refused(raters, listening, content, said):
    answer = say(raters, **{"number": 0, **content})
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert listening.file.path.read_text() == ""


def test_an_answer_without_a_number_answers_nothing(raters, listening):
    assert say(raters).status_code == 400
    assert listening.file.path.read_text() == ""


@pytest.mark.parametrize("number", ["x", "1.5", "99", "-1"])
def test_numbers_that_no_question_has(raters, number):
    assert raters.get("/api/listen/turn", params={"rater": "Ann", "number": number}).status_code == 400


def test_an_answer_that_cannot_be_saved_is_said(raters, listening, monkeypatch):
    def full(answer):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(listening.file, "append", full)
    answer = say(raters, number=0)
    assert answer.status_code == 507
    assert "could not be saved" in answer.json()["error"]
    assert turn_of(raters)["done"] == 0


def test_raters_at_one_time_lose_no_answer(raters, listening):
    async def everybody() -> None:
        numbers = [(f"rater {r}", n) for r in range(8) for n in range(12)]
        answers = await asyncio.gather(*(asyncio.to_thread(say, raters, rater=r, number=n) for r, n in numbers))
        assert {answer.status_code for answer in answers} == {200}

    asyncio.run(everybody())
    assert len(listening.file.path.read_text().splitlines()) == 96
    assert raters.get("/api/listen/figures").json()["all"]["answers"] == 96


def test_a_test_goes_on_with_its_list(view, tmp_path):
    test = open_listening_test(tmp_path, view, n=2, seed=0)
    questions = test.questions
    test.close()
    test = open_listening_test(tmp_path, view, n=5, seed=9)  # the list is there
    assert test.questions == questions
    test.close()


def test_questions_without_a_recording_are_left_out(view, tmp_path, caplog):
    header = "condition,anchor_id,anchor_start,positive_id,positive_start,negative_id,negative_start\n"
    (tmp_path / "triplets.csv").write_text(header + "genre,t1,,t2,0.5,t3,\ngenre,t1,,gone,,t3,\n")
    test = open_listening_test(tmp_path, view, n=1, seed=0)
    assert len(test.questions) == 1
    assert "1 of 2 questions" in caplog.text
    client = client_of(view, test)
    turn = turn_of(client)
    starts = [turn[side]["start"] for side in ("left", "right")]
    assert starts.count(None) == 1
    assert max(start or 0 for start in starts) == pytest.approx(0.5, abs=0.02)
    test.close()
    (tmp_path / "triplets.csv").write_text(header + "genre,t1,,gone,,t3,\n")
    with pytest.raises(ConfigError, match="no question has all three recordings"):
        open_listening_test(tmp_path, view, n=1, seed=0)


# The command


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["index={0}/nowhere"], "embed the catalogue first"),
        (["checkpoint={0}/manifest.csv"], "cannot be read"),
        (["audio={0}/nowhere"], "is not a folder"),
        (["port=70000"], "port=70000 is too large"),
        (["host=not-a-host.invalid"], "cannot be listened on"),
        (["uploads_at_a_time=0"], "too small"),
        (["token=hunter2"], "token is too short"),
        (["weights_file={0}/manifest.csv"], "manifest.csv"),
    ],
)
def test_what_cannot_be_served_is_refused(made, arguments, match):
    given = [argument.format(made.folder) for argument in arguments]
    with pytest.raises(ValueError, match=match):
        main(load_config(ServeConfig, made.arguments("port=0", *given)))


def test_a_port_that_is_taken_is_said():
    with bind_socket("127.0.0.1", 0) as door, pytest.raises(ConfigError, match="give another port"):
        bind_socket("127.0.0.1", door.getsockname()[1])


def test_an_upload_that_does_not_come_is_given_up(embedder):
    """The body comes byte by byte, each in time, and never ends."""
    view = make_view(embedder, LIMITS._replace(receive_seconds=0.3))
    app = build_app(lambda: view, None, loopback_only=True)
    sent = []

    async def receive() -> dict:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"audio/wav")]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/upload", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert b"not sent within 0.3 seconds" in sent[1]["body"]
