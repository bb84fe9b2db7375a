"""The API: its description is valid and complete, answers are as it says, and what each question means."""

from __future__ import annotations

import csv
import io
import json
from fnmatch import fnmatch
from urllib.parse import parse_qs, urlsplit

import jsonschema
import numpy as np
import pytest
from openapi_spec_validator import validate
from starlette.routing import Route
from starlette.testclient import TestClient

from datamodules.audio.fingerprint import NO_FINGERPRINT
from disentangled_ml.search.question import Question
from disentangled_ml.search.recording import EmbeddedRecording
from disentangled_ml.search.similarity_search import SimilaritySearch
from disentangled_ml.web import maps
from disentangled_ml.web.app import build_app
from disentangled_ml.web.asking import FILTERS, FLAGS, PATH, PLACES, SEEDS, composed_question
from disentangled_ml.web.openapi import PREFIX, document
from disentangled_ml.web.routes import api, pages
from disentangled_ml.web.schemas import EXAMPLES, SCHEMAS
from disentangled_ml.web.texts import TextIndex, searched_text
from disentangled_ml.web.token import Token
from disentangled_ml.web.uploads import EmbeddedUpload
from disentangled_ml.web.view import CatalogueView
from tests.disentangled_ml.catalogues import track_of, unit_rows, write_catalogue

N = 40
SECRET = "correct-horse-battery"


def tracks_of(folder) -> list:
    """Every second track has a title and an album, the first ten a recording."""
    tracks = [track_of(number) for number in range(N)]
    for number in range(0, N, 2):
        about = {"title": f"Song {number}", "album": ("Red", "Gold", "Blue")[number % 3]}
        tracks[number] = tracks[number]._replace(metadata=about)
    for number in range(10):
        path = folder / f"{number}.wav"
        path.write_bytes(b"x")
        tracks[number] = tracks[number]._replace(path=str(path))
    tracks[3] = tracks[3]._replace(estimated=[])  # the others are as their catalogue says
    tracks[5] = tracks[5]._replace(estimated=["mood"])
    return tracks


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> CatalogueView:
    """Open a catalogue in which the last two tracks are the same, and the embedding of every upload is that of the first track."""
    folder = tmp_path_factory.mktemp("api")
    embedding = unit_rows(N)
    embedding[-1] = embedding[-2]
    catalogue = write_catalogue(folder / "index", embedding, tracks=tracks_of(folder), estimated=["tempo"])
    uploaded = EmbeddedUpload(EmbeddedRecording(np.array(embedding[0]), NO_FINGERPRINT), 2.0, False, ["other length"])
    return CatalogueView(SimilaritySearch(catalogue), lambda file: uploaded, lambda points: points[:, :2])


def client_of(view: CatalogueView, loopback_only: bool = True, token: Token | None = None) -> TestClient:
    app = build_app(lambda: view, None, loopback_only, token)
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(view) -> TestClient:
    return client_of(view)


def check(content, name: str) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}}
    jsonschema.Draft202012Validator(schema).validate(content)


def asked(client: TestClient, name: str, **content) -> dict:
    answer = client.post(f"{PREFIX}/{name}", json=content)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: dict) -> list[str]:
    return [each["track"]["id"] for each in answer.get("results", answer.get("steps"))]


# The description


def test_the_description_is_valid_openapi(client):
    content = client.get(f"{PREFIX}/openapi.json").json()
    validate(content)
    assert content == document(content["info"]["version"])


def test_every_route_is_described_and_the_other_way_round():
    described = {(path, method.upper()) for path, methods in document("1")["paths"].items() for method in methods}
    recordings = [route for route in pages.ROUTES if route.path == "/audio"]
    routes = [route for route in (*api.ROUTES, *recordings) if isinstance(route, Route)]
    served = {
        (route.path.replace(":path}", "}"), method) for route in routes for method in route.methods if method != "HEAD"
    }
    assert served == described


def test_what_questions_may_say_is_described():
    assert set(SCHEMAS["Question"]["properties"]) == {*SEEDS, *FILTERS}
    assert set(SCHEMAS["PlainQuestion"]["properties"]) == {"track", "upload", *FILTERS}
    assert set(SCHEMAS["Path"]["properties"]) == set(PATH)
    assert set(SCHEMAS["MapQuestion"]["properties"]) == set(PLACES)
    assert {name: SCHEMAS["Question"]["properties"][name]["default"] for name in FLAGS} == FLAGS
    for name, example in EXAMPLES.items():
        check(example, name)


UPLOAD = {"content": b"sound", "headers": {"content-type": "audio/wav"}}
REQUESTS = [
    ("GET", "/openapi.json", {}, "Description"),
    ("GET", "/health", {}, "Health"),
    ("GET", "/catalogue", {}, "Catalogue"),
    ("GET", "/labels", {}, "Labels"),
    ("GET", "/tracks", {"params": {"q": "song", "limit": 3}}, "Tracks"),
    ("GET", "/tracks/{track_id}", {}, "Track"),
    ("GET", "/map", {"params": {"space": "genre"}}, "Map"),
    ("POST", "/places", {"json": {"seeds": ["t1"], "space": "genre"}}, "Places"),
    ("POST", "/similar", {"json": {"track": "t1"}}, "Answer"),
    ("POST", "/compose", {"json": {"seeds": ["t38", "t2"], "labels": {"mood": "calm"}, "avoid": ["t3"]}}, "Answer"),
    ("POST", "/path", {"json": {"a": "t1", "b": "t2", "steps": 4, "per_album": 2}}, "PathAnswer"),
    ("POST", "/playlist", {"json": {"form": "json", "question": {"seeds": ["t1"]}}}, "SavedResults"),
    ("POST", "/upload", UPLOAD, "Upload"),
]


@pytest.mark.parametrize(("method", "path", "given", "name"), REQUESTS, ids=[path for _, path, _, _ in REQUESTS])
def test_answers_are_as_described(client, method, path, given, name):
    answer = client.request(method, PREFIX + path.replace("{track_id}", "t1"), **given)
    assert answer.status_code == 200, answer.text
    operation = document("1")["paths"][PREFIX + path][method.lower()]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{name}")
    check(answer.json(), name)


def test_every_operation_was_asked():
    described = {path.removeprefix(PREFIX) for path in document("1")["paths"]}
    assert {path for _, path, _, _ in REQUESTS} == described - {"/audio"}


@pytest.mark.parametrize(
    ("method", "path", "given", "status"),
    [
        ("GET", "/tracks", {"params": {"limit": "0"}}, 400),
        ("GET", "/tracks/nobody", {}, 404),
        ("GET", "/map", {"params": {"space": "x"}}, 400),
        ("POST", "/compose", {"json": {"seeds": ["nobody"]}}, 404),
        ("POST", "/compose", {"json": {"seeds": [{"upload": "guessed"}]}}, 404),
        ("POST", "/compose", {"content": b"x"}, 415),
        ("POST", "/path", {"json": {"a": "t1", "b": "t1", "steps": 3}}, 400),
        ("POST", "/playlist", {"json": {"tracks": ["nobody"]}}, 404),
        ("POST", "/upload", {"content": b"", "headers": {"content-type": "audio/wav"}}, 422),
    ],
)
def test_errors_are_described(client, method, path, given, status):
    answer = client.request(method, PREFIX + path, **given)
    assert answer.status_code == status
    check(answer.json(), "Error")
    path = "/tracks/{track_id}" if path.startswith("/tracks/") else path
    assert str(status) in document("1")["paths"][PREFIX + path][method.lower()]["responses"]


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _, _ in REQUESTS])
def test_unknown_parameters_are_refused_by_name(client, method, path):
    answer = client.request(method, PREFIX + path.replace("{track_id}", "t1"), params={"limitt": 3})
    assert answer.status_code == 400
    known = {"/tracks": "q, limit, offset", "/map": "space"}.get(path, "none")
    assert answer.json() == {"error": f"limitt is not a parameter of this address, which takes {known}"}
    assert "400" in document("1")["paths"][PREFIX + path][method.lower()]["responses"]


@pytest.mark.parametrize(
    ("asks_for", "status", "span"),
    [
        (None, 200, None),
        ("bytes=0-0", 206, "bytes 0-0/1"),
        ("bytes=0-0,0-0", 206, "bytes 0-0/1"),
        ("nonsense", 400, None),
        ("bytes=9-", 416, "bytes */1"),
    ],
)
def test_recordings_are_answered_as_described(client, asks_for, status, span):
    answer = client.get("/audio", params={"track": "t1"}, headers={} if asks_for is None else {"range": asks_for})
    described = document("1")["paths"]["/audio"]["get"]["responses"][str(status)]
    assert (answer.status_code, answer.headers.get("content-range")) == (status, span)
    assert set(described.get("headers", {})) <= {name.title() for name in answer.headers}
    kind = answer.headers["content-type"].partition(";")[0]
    assert not answer.content or any(fnmatch(kind, known) for known in described["content"])
    missing = client.get("/audio", params={"track": "t30"})
    assert missing.status_code == 404
    check(missing.json(), "Error")


# Tracks


def test_tracks_are_listed_page_by_page(client):
    seen, offset = [], 0
    while offset is not None:
        page = client.get(f"{PREFIX}/tracks", params={"limit": 7, "offset": offset}).json()
        seen += [track["id"] for track in page["tracks"]]
        offset = page["next"]
    assert seen == [f"t{number}" for number in range(N)]


def test_found_tracks_are_listed_page_by_page(client):
    seen, offset = [], 0
    while offset is not None:
        page = client.get(f"{PREFIX}/tracks", params={"q": "song BLUE", "limit": 4, "offset": offset}).json()
        seen += [track["id"] for track in page["tracks"]]
        offset = page["next"]
    assert seen == [f"t{number}" for number in range(0, N, 2) if number % 3 == 2]


@pytest.mark.parametrize(
    "given", [{"limit": "101"}, {"limit": "-1"}, {"offset": "1.5"}, {"offset": "99999999999999999"}]
)
def test_pages_that_are_none(client, given):
    assert client.get(f"{PREFIX}/tracks", params=given).status_code == 400


def test_texts_are_found_as_by_a_plain_loop():
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(["blue", "bl", "in", "green", "so\nwhat"], rng.integers(1, 5))) for _ in range(300)]
    index = TextIndex(lines)
    plain = [line.replace("\n", " ") for line in lines]
    for typed in ("blue", "BLUE in", "in blue", "bl green", "what so", "blue in green", "none", " ", "e b"):
        words = typed.lower().split()
        hold = [row for row, line in enumerate(plain) if words and all(word in line for word in words)]
        order = sorted(hold, key=lambda row: not plain[row].startswith(typed.lower().strip()))
        assert index.find(typed, 1000) == order
        assert index.find(typed, 3) == order[:3]


def test_texts_hold_what_people_type():
    track = track_of(1)._replace(metadata={"title": "Blue", "album": "Gold", "isrc": "X1"})
    assert searched_text(track) == "blue t1 artist 1 gold happy rock"


def test_a_track_is_named_by_its_title_its_file_or_its_id(client):
    named = {track["id"]: track["name"] for track in client.get(f"{PREFIX}/tracks").json()["tracks"]}
    assert [named[name] for name in ("t0", "t1", "t10", "t11")] == ["Song 0", "1", "Song 10", "t11"]
    drawn = client.get(f"{PREFIX}/map").json()
    assert dict(zip(drawn["ids"], drawn["names"], strict=True)).items() >= named.items()


@pytest.mark.parametrize(("typed", "expected"), [("7.wav", ["t7"]), ("6.WAV", ["t6"]), ("t7 7.wav", ["t7"])])
def test_a_track_is_found_by_the_name_of_its_file(client, typed, expected):
    assert [track["id"] for track in client.get(f"{PREFIX}/tracks", params={"q": typed}).json()["tracks"]] == expected


def test_labels_are_counted(client):
    labels = client.get(f"{PREFIX}/labels").json()["labels"]
    assert set(labels) == {"genre", "mood"}
    assert {each["label"]: each["tracks"] for each in labels["mood"]} == {"calm": 14, "happy": 13, "sad": 13}
    assert labels["mood"][0]["label"] == "calm"


def test_what_is_estimated_is_told(client):
    conditions = client.get(f"{PREFIX}/catalogue").json()["conditions"]
    assert {each["name"]: each["estimated"] for each in conditions} == {"genre": False, "mood": False, "tempo": True}


def test_labels_that_are_estimated_are_told_of_each_track(client):
    told = {track["id"]: track["estimated"] for track in client.get(f"{PREFIX}/tracks").json()["tracks"]}
    assert (told["t1"], told["t3"], told["t4"], told["t5"]) == (["tempo"], [], [], ["mood"])


def test_health_says_what_is_served(client, view):
    content = client.get(f"{PREFIX}/health").json()
    assert (content["ok"], content["tracks"], content["model"]) == (True, N, view.catalogue.model.fingerprint)


# Questions


def test_a_composed_question_is_the_searchs_own(client, view):
    """Every attribute arrives where it belongs."""
    given = {
        "seeds": ["t1"], "seeds_of": {"mood": ["t2"]}, "labels": {"genre": "jazz"}, "avoid": ["t3"], "avoid_of": {"tempo": ["t6"]},
        "weights": {"genre": 1.0, "mood": 0.5, "tempo": 0.25}, "k": 7, "tempo": [70, None], "tempo_change": [0.1, 0.3],
        "other_artists": True, "most_dissimilar": True, "per_artist": 2, "per_album": 3, "fold_duplicates": False,
    }  # fmt: skip
    meant = {**given, "tempo": (70.0, 1000.0), "tempo_change": (0.1, 0.3), "method": "auto"}
    assert vars(composed_question(given, lambda seed: seed)) == meant
    answer = asked(client, "compose", **given)
    expected = view.search_tracks.ask(Question(**meant))
    assert ids(answer) == [found.track.track_id for found in expected.results]
    assert ids(answer)
    assert answer["weights"] == given["weights"]
    assert {track["id"] for track in answer["seeds"]} == {"t1", "t2", "t3", "t6"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "nothing is asked for"),
        ({"seeds": "t1"}, "seeds is a list of seeds"),
        ({"seeds": [1]}, "seeds is a list of seeds"),
        ({"seeds": [{"upload": 1}]}, "seeds is a list of seeds"),
        ({"seeds": ["t1"] * 21}, "at most 20 seeds, these are 21"),
        ({"seeds": ["t1"], "seeds_of": ["t1"]}, "seeds_of are an object"),
        ({"seeds_of": {"loudness": ["t1"]}}, "knows no such condition"),
        ({"labels": {"mood": 3}}, "each of the labels is a text"),
        ({"labels": ["calm"]}, "labels are an object with a label per condition"),
        ({"labels": {"mood": "clam"}}, "there are calm"),
        ({"labels": {"mood": "calm"}, "seeds_of": {"mood": ["t1"]}}, "has seeds and a label"),
        ({"seeds": ["t1"], "method": "exact"}, "method is no part of this question"),
    ],
)
def test_compositions_that_are_none_are_refused(client, given, said):
    answer = client.post(f"{PREFIX}/compose", json=given)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_questions_without_weights_have_those_of_the_server(view):
    """As a file of fitted weights gives them."""
    weights = {"genre": 2.0, "mood": 0.0, "tempo": 0.5}
    own = CatalogueView(view.search_tracks, view.embed_upload, view.plane, weights=weights)
    client = client_of(own)
    conditions = client.get(f"{PREFIX}/catalogue").json()["conditions"]
    assert {each["name"]: each["weight"] for each in conditions} == weights
    for name, question in (
        ("similar", {"track": "t1"}),
        ("compose", {"seeds": ["t1"]}),
        ("compose", {"seeds": ["t1"], "weights": None}),
    ):
        assert asked(client, name, **question)["weights"] == weights
    assert ids(asked(client, "path", a="t1", b="t2", steps=4)) == ids(
        asked(client, "path", a="t1", b="t2", steps=4, weights=weights)
    )
    assert asked(client, "similar", track="t1", weights={"mood": 1})["weights"] == {"genre": 0, "mood": 1, "tempo": 0}


def test_an_upload_is_a_seed_and_its_duplicate_is_told(client):
    name = client.post(f"{PREFIX}/upload", **UPLOAD).json()["upload"]
    answer = asked(client, "compose", seeds=[{"upload": name}])
    assert [each["track"]["id"] for each in answer["seed_duplicates"]] == ["t0"]
    assert "t0" not in ids(answer)
    assert ids(asked(client, "similar", upload=name, fold_duplicates=False))[0] == "t0"


def test_duplicates_are_folded_into_one_result(client):
    answer = asked(client, "similar", track="t1", k=100)
    (result,) = [each for each in answer["results"] if each["duplicates"]]
    assert {result["track"]["id"], result["duplicates"][0]["track"]["id"]} == {"t38", "t39"}
    assert len(ids(answer)) == N - 2


def test_a_path_leads_from_one_track_to_the_other(client):
    answer = asked(client, "path", a="t1", b="t2", steps=5)
    assert (ids(answer)[0], ids(answer)[-1], len(set(ids(answer)))) == ("t1", "t2", 6)
    assert answer["steps"][0]["distance"] == 0


def test_a_path_begins_and_ends_at_uploads(client):
    """An upload is the recording of t0, which the path leaves out as its duplicate."""
    upload = {"upload": client.post(f"{PREFIX}/upload", **UPLOAD).json()["upload"]}
    for a, b, outside in ((upload, "t2", 0), ("t2", upload, -1)):
        answer = asked(client, "path", a=a, b=b, steps=5)
        check(answer, "PathAnswer")
        tracks = [step["track"] for step in answer["steps"]]
        assert tracks.pop(outside) is None
        shown = [track["id"] for track in tracks]
        assert (len(set(shown)), "t2" in shown, "t0" in shown) == (5, True, False)
        assert [step["distance"] == 0 for step in answer["steps"]] == [True, *[False] * 5]
        content = json.loads(saved(client, form="json", path={"a": a, "b": b, "steps": 5}))
        assert [row["track_id"] for row in content["results"]] == shown
    assert client.post(f"{PREFIX}/path", json={"a": upload, "b": upload, "steps": 3}).status_code == 400
    unknown = client.post(f"{PREFIX}/path", json={"a": "t1", "b": {"upload": "guessed"}, "steps": 3})
    assert (unknown.status_code, "upload it again" in unknown.json()["error"]) == (404, True)


@pytest.mark.parametrize(
    "given", [{"steps": 0}, {"steps": 101}, {"steps": None}, {"a": 3}, {"a": {"track": "t1"}}, {"k": 3}]
)
def test_paths_that_are_none_are_refused(client, given):
    assert client.post(f"{PREFIX}/path", json={"a": "t1", "b": "t2", "steps": 3, **given}).status_code == 400


# Places on the map


@pytest.mark.parametrize("space", [None, "genre"])
def test_seeds_lie_on_the_map_at_the_nearest_track_that_is_drawn(view, monkeypatch, space):
    monkeypatch.setattr(maps, "MAP_TRACKS", N // 2)
    own = CatalogueView(view.search_tracks, view.embed_upload, lambda points: points[:, :2])
    client, masks = client_of(own), view.catalogue.model.masks
    drawn = own.map(space)
    mask = 1.0 if space is None else masks[0]
    upload = {"upload": client.post(f"{PREFIX}/upload", **UPLOAD).json()["upload"]}
    given = [*(f"t{number}" for number in range(N)), upload]
    answer = asked(client, "places", seeds=given, space=space)
    embedding = view.catalogue.embedding
    for number, x, y in zip([*range(N), 0], answer["x"], answer["y"], strict=True):
        apart = [((embedding[int(id_[1:])] - embedding[number]) * mask) ** 2 for id_ in drawn["ids"]]
        place = int(np.argmin([each.sum() for each in apart]))
        assert (x, y) == (drawn["x"][place], drawn["y"][place])


@pytest.mark.parametrize("given", [{"seeds": []}, {"seeds": ["t1"] * 102}, {"space": 3}, {"space": "x"}, {"k": 3}])
def test_places_that_are_none_are_refused(client, given):
    assert client.post(f"{PREFIX}/places", json={"seeds": ["t1"], **given}).status_code == 400


# Playlists


def saved(client: TestClient, **content):
    answer = client.post(f"{PREFIX}/playlist", json=content)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == f'attachment; filename="playlist.{content["form"]}"'
    return answer.text


def test_a_playlist_names_the_files_of_its_tracks(client, view):
    text = saved(client, form="m3u8", tracks=["t2", "t20", "t1"])
    paths = [view.catalogue.track(row).path for row in (2, 1)]
    assert text.splitlines()[0] == "#EXTM3U"
    assert [line for line in text.splitlines() if not line.startswith("#")] == paths
    assert "#EXTINF:-1,artist 2 - Song 2" in text


def test_a_playlist_of_addresses_is_played_from_the_server(client):
    text = saved(client, form="m3u8", entries="addresses", tracks=["t2"])
    parts = urlsplit(text.splitlines()[-1])
    assert (parts.netloc, parts.path, parse_qs(parts.query)) == ("127.0.0.1:8000", "/audio", {"track": ["t2"]})
    assert client.get(f"{parts.path}?{parts.query}").content == b"x"


def test_tables_hold_what_the_answer_has(client):
    question = {"seeds": ["t1"], "k": 5}
    answer = asked(client, "compose", **question)
    rows = list(csv.DictReader(io.StringIO(saved(client, form="csv", question=question))))
    assert [row["track_id"] for row in rows] == ids(answer)
    assert [float(row["distance"]) for row in rows] == pytest.approx([r["distance"] for r in answer["results"]])
    path = {"a": "t1", "b": "t2", "steps": 3}
    content = json.loads(saved(client, form="json", path=path))
    assert [row["track_id"] for row in content["results"]] == ids(asked(client, "path", **path))


def test_tracks_that_are_named_have_no_distance(client):
    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    (found,) = json.loads(saved(client, form="json", tracks=["t2"]), parse_constant=refuse)["results"]
    assert (found["track_id"], found["distance"]) == ("t2", None)
    (row,) = csv.DictReader(io.StringIO(saved(client, form="csv", tracks=["t2"])))
    assert (row["track_id"], row["distance"]) == ("t2", "")


def test_paths_are_told_to_this_machine_alone(view):
    client = client_of(view, loopback_only=False)
    assert "/audio?track=t2" in saved(client, form="m3u8", tracks=["t2"])
    for form in ("csv", "json"):
        assert ".wav" not in saved(client, form=form, question={"seeds": ["t20"], "k": 30})
    refused = client.post(f"{PREFIX}/playlist", json={"tracks": ["t2"], "entries": "files"})
    assert (refused.status_code, "to the machine itself alone" in refused.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "give one of tracks, question, path"),
        ({"tracks": ["t1"], "path": {}}, "give one of"),
        ({"tracks": "t1"}, "tracks are a list"),
        ({"tracks": ["t1"] * 102}, "at most 101 ids"),
        ({"question": ["t1"]}, "question is an object"),
        ({"tracks": ["t1"], "form": "pls"}, "form is one of m3u8, csv, json"),
        ({"tracks": ["t1"], "form": ["csv"]}, "form is one of m3u8, csv, json"),
        ({"tracks": ["t20"]}, "none of these tracks has a recording"),
    ],
)
def test_lists_that_are_none_are_refused(client, content, said):
    answer = client.post(f"{PREFIX}/playlist", json=content)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


# The token


def test_with_a_token_nothing_of_the_catalogue_is_told_without_it(view):
    token = Token(SECRET)
    client = client_of(view, token=token)
    for path in ("/", "/static/search.js"):
        assert client.get(path).status_code == 200
    closed = [PREFIX + path.replace("{track_id}", "t1") for _, path, _, _ in REQUESTS]
    for path in (*closed, "/audio?track=t1", "/api/listen/turn"):
        for given in ({}, {"authorization": "Bearer wrong-horse-battery"}, {"authorization": f"Basic {SECRET}"}):
            answer = client.get(path, headers=given)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    allowed = {"authorization": f"Bearer {SECRET}"}
    assert client.get(f"{PREFIX}/health", headers=allowed).status_code == 200
    key = client.get(f"{PREFIX}/catalogue", headers=allowed).json()["audio_key"]
    assert client.get("/audio", params={"track": "t1", "key": key}).content == b"x"
    assert client.get("/audio", params={"track": "t1", "key": "x"}).status_code == 401
    assert client.get(f"{PREFIX}/health", params={"key": key}).status_code == 401
    listed = client.post(f"{PREFIX}/playlist", json={"tracks": ["t1"], "entries": "addresses"}, headers=allowed).text
    assert client.get(listed.splitlines()[-1]).content == b"x"
    assert SECRET not in listed + key


def test_a_token_is_not_printed_and_a_short_one_refused():
    assert SECRET not in f"{Token(SECRET)!r} {Token(SECRET)} {vars(Token(SECRET)).keys()}"
    for text in ("short", "a" * 15, "a space in the middle", "ä" * 20):
        with pytest.raises(ValueError, match="token is too short") as refused:
            Token(text)
        assert text not in str(refused.value).replace("too short", "")
