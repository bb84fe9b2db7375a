"""The folder of a catalogue: what is written is read, and what is damaged is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from disentangled_ml.search import catalogue as module
from disentangled_ml.search.catalogue import (
    COLUMNS_FILE,
    EMBEDDING,
    HEADER,
    TRACKS,
    CatalogueError,
    CatalogueTrack,
    describe_model,
    read_catalogue,
    read_description,
)
from disentangled_ml.structures import UNKNOWN
from tests.disentangled_ml.catalogues import NAMES, disjoint_masks, track_of, unit_rows, write_catalogue

N = 30


@pytest.fixture
def folder(tmp_path):
    write_catalogue(tmp_path / "index", unit_rows(N))
    return tmp_path / "index"


def test_a_catalogue_is_read_as_it_was_written(folder):
    catalogue = read_catalogue(folder)
    assert len(catalogue) == N
    assert catalogue.condition_names == NAMES
    np.testing.assert_array_equal(catalogue.embedding, unit_rows(N))
    np.testing.assert_array_equal(catalogue.model.masks, disjoint_masks())
    assert catalogue.tracks(range(N)) == [track_of(row) for row in range(N)]
    assert isinstance(catalogue.embedding, np.memmap)
    assert describe_model(read_description(describe_model(catalogue.model))) == describe_model(catalogue.model)
    columns = catalogue.columns
    assert [np.isnan(bpm) for bpm in columns["tempo"]] == [row % 4 == 0 for row in range(N)]
    assert [key == UNKNOWN for key in columns["artist"]] == [row % 3 == 0 for row in range(N)]


def test_masks_survive_exactly(tmp_path):
    masks = np.random.default_rng(0).uniform(0, 1, (3, 12)).astype(np.float32)
    np.testing.assert_array_equal(write_catalogue(tmp_path / "index", unit_rows(3), masks).model.masks, masks)


def test_tracks_are_found_by_their_ids(folder):
    catalogue = read_catalogue(folder)
    assert [catalogue.find(f"t{row}") for row in range(N)] == list(range(N))
    assert catalogue.find("nobody") is None
    assert catalogue.find("") is None


def test_ids_of_one_key_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "name_code", lambda name: 7)
    catalogue = write_catalogue(tmp_path / "index", unit_rows(N))
    assert [catalogue.find(f"t{row}") for row in (0, 13, N - 1)] == [0, 13, N - 1]
    assert catalogue.find("nobody") is None


def test_names_of_any_characters(tmp_path):
    tracks = [CatalogueTrack('a\nb "c" <d>', "Ünï\u2028cödé", "/x y/ü.mp3", {}), CatalogueTrack("ä", None, None, {})]
    catalogue = write_catalogue(tmp_path / "index", unit_rows(2), tracks=tracks)
    assert catalogue.tracks([1, 0]) == tracks[::-1]
    assert catalogue.find('a\nb "c" <d>') == 0


def test_what_is_estimated_is_known_of_each_track_or_else_of_all(tmp_path):
    labels = {"mood": ["sad"], "tempo": 90.0}
    tracks = [
        CatalogueTrack(str(n), None, None, labels, estimated=known) for n, known in enumerate((None, [], ["mood"]))
    ]
    catalogue = write_catalogue(tmp_path / "index", unit_rows(3), tracks=tracks, estimated=["genre", "tempo"])
    assert catalogue.tracks(range(3)) == tracks
    assert [catalogue.estimated_of(track) for track in tracks] == [["tempo"], [], ["mood"]]
    assert ["estimated" in track.as_plain() for track in tracks] == [False, True, True]


def change(folder, **changed) -> None:
    content = json.loads((folder / HEADER).read_text())
    (folder / HEADER).write_text(json.dumps({**content, **changed}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format_version": 2}, "format version 2, expected 1: embed it anew"),
        ({"tracks": 0}, "tracks is 0, not a number from 1 on"),
        ({"tracks": "30"}, "tracks is '30'"),
        (
            {"tracks": N + 1},
            rf"embedding\.npy holds float32 of shape \({N}, 12\), expected float32 of shape \({N + 1}, 12\)",
        ),
        ({"conditions": []}, "no list of names"),
        ({"conditions": ["genre", "genre", "tempo"]}, "are not distinct"),
        ({"conditions": [1, 2, 3]}, "no list of names"),
        ({"conditions": ["genre"]}, r"masks of shape \(3, 12\) are not one row of finite numbers >= 0"),
        ({"masks": [[1.0] * 12] * 2 + [[-1.0] * 12]}, "finite numbers >= 0"),
        ({"masks": [[float("nan")] * 12] * 3}, "finite numbers >= 0"),
        ({"masks": [[1.0], [1.0, 2.0], [1.0]]}, "is not that of a catalogue"),
        ({"masks": [[1.0] * 8] * 3}, rf"embedding\.npy holds float32 of shape \({N}, 12\), expected .* \({N}, 8\)"),
        ({"model": 3}, "no fingerprint"),
        ({"state": "../elsewhere"}, r"state is '\.\./elsewhere', not the name of a folder of this one"),
        ({"state": "state-/../.."}, "not the name of a folder"),
        ({"state": 3}, "state is 3, not the name"),
        ({"state": "state-gone"}, r"state-gone/embedding\.npy does not exist: embed the catalogue anew"),
        ({"tempo": None}, "no relation of tempi"),
        ({"audio": {"x": 1}}, "is not that of a catalogue"),
        ({"audio": [1]}, "is not that of a catalogue"),
        ({"chunk_frames": 0}, "chunk_frames is 0, not a number from 1 on"),
    ],
)
def test_a_header_with_a_wrong_part_is_refused_by_name(folder, changed, message):
    change(folder, **changed)
    with pytest.raises(CatalogueError, match=message) as caught:
        read_catalogue(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff" * 9999, b"{}"])
def test_a_header_that_is_none(folder, content):
    (folder / HEADER).write_bytes(content)
    with pytest.raises(
        CatalogueError, match=r"catalogue\.json is not that of a catalogue \(.*\): embed it anew"
    ) as caught:
        read_catalogue(folder)
    assert len(str(caught.value)) < 400


def test_no_catalogue_at_all(tmp_path):
    with pytest.raises(CatalogueError, match=r"does not exist: embed the catalogue first, or to its end, with embed"):
        read_catalogue(tmp_path / "nowhere")
    (tmp_path / HEADER).mkdir()
    with pytest.raises(CatalogueError, match=r"catalogue\.json cannot be read \(Is a directory\)"):
        read_catalogue(tmp_path)


def unclosed(array: bytes) -> bytes:
    """Return an array with one byte of its header changed, so that numpy looks in vain for the end of a bracket."""
    return array.replace(b"}", b"(", 1)


@pytest.mark.parametrize("name", [EMBEDDING, COLUMNS_FILE])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "cut off", "other type", "pickled", "npz", "header"])
def test_a_damaged_array_is_named(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other type":
        np.save(path, np.zeros((N, 12), np.float64))
    elif damage == "pickled":
        np.save(path, np.array([print] * N, object), allow_pickle=True)
    elif damage == "npz":
        with open(path, "wb") as file:
            np.savez(file, a=np.zeros(3))
    else:
        path.write_bytes(
            {"empty": b"", "garbage": b"garbage" * 99, "cut off": content[:200], "header": unclosed(content)}[damage]
        )
    with pytest.raises(CatalogueError, match=rf"{name} .*: embed the catalogue anew"):
        read_catalogue(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{}\n" * N, b"garbage" * 999, b"null\n", b'{"track_id": 1}\n', b"\xff" * 9999]
)
def test_a_damaged_line_is_named(folder, content):
    (folder / TRACKS).write_bytes(content)
    with pytest.raises(
        CatalogueError, match=r"tracks\.jsonl, row 3 is not that of a track .*: embed the catalogue anew"
    ):
        read_catalogue(folder).track(3)


def test_a_line_with_values_of_other_types_is_named(folder):
    line = json.dumps({"track_id": 1, "artist": None, "path": None, "labels": {}}).encode()
    (folder / TRACKS).write_bytes(line)
    with pytest.raises(CatalogueError, match="row 0 is not that of a track"):
        read_catalogue(folder).track(0)


def test_lines_that_are_gone(folder):
    catalogue = read_catalogue(folder)
    (folder / TRACKS).unlink()
    with pytest.raises(CatalogueError, match=r"tracks\.jsonl cannot be read \(No such file or directory\)"):
        catalogue.track(0)


def test_every_track_is_read_or_its_line_is_named(folder):
    catalogue = read_catalogue(folder)
    assert list(catalogue.every_track()) == catalogue.tracks(range(N))
    lines = (folder / TRACKS).read_bytes().splitlines(keepends=True)
    (folder / TRACKS).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(
        CatalogueError, match=rf"tracks\.jsonl has {N - 1} rows, expected {N}: embed the catalogue anew"
    ):
        list(catalogue.every_track())
    (folder / TRACKS).unlink()
    with pytest.raises(CatalogueError, match=r"tracks\.jsonl cannot be read \(No such file or directory\)"):
        list(catalogue.every_track())
