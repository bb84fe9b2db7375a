"""Results as playlists, JSON and tables; a playlist is also read by a real player."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.search.playlists import COLUMNS, HEAD, is_result, playlist_path, write_results
from disentangled_ml.search.results import Duplicate, Result

# Names that a careless playlist would lose, as paths below the folder of music.
NAMES = [
    "plain.wav",
    "#not a comment.wav",
    "Zoë — 日本/ẞ \U0001f3b5.wav",
    " leading.wav",
    "http://no address.wav",
    "file:x.wav",
    "-dash,comma;%41 'quote\".wav",
    "#EXTINF:1,x.wav",
    "back\\slash.wav",
]


def result(number: int, path: str | None, **metadata: str) -> Result:
    track = CatalogueTrack(f"t{number}", "Nina" if number % 2 else None, path, {"tempo": 100.0}, None, metadata or None)
    return Result(number, track, 0.5 + number, {"genre": 0.25, "mood": 0.5})


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Write a short sound under each name."""
    folder = tmp_path_factory.mktemp("music")
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            soundfile.write(file, np.zeros(800), 8000, format="WAV")
    return folder


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")


def test_a_playlist_holds_every_track_with_a_path_in_order(tmp_path, music):
    results = [result(i, str(music / name), title="Two\r\nlines", album="x") for i, name in enumerate(NAMES)]
    results += [result(90, None), result(91, f"{music}/a\nb.wav"), result(92, f"{music}/\udcff.wav")]
    results += [result(93, f"{music}/c.wav ")]
    assert write_results(tmp_path / "x.m3u8", results) == 4
    header, comment, *lines, end = lines_of(tmp_path / "x.m3u8")
    assert (header, comment[:2], end) == ("#EXTM3U", "# ", "")
    assert lines[::2] == [f"#EXTINF:-1,{'Nina - ' if i % 2 else ''}Two lines" for i in range(len(NAMES))]
    for line, name in zip(lines[1::2], NAMES, strict=True):
        assert not line.startswith("#")
        assert os.path.samefile(tmp_path / line, music / name)


def test_a_playlist_tells_lengths_in_whole_seconds_where_they_are_known(tmp_path, music):
    lengths = {"203.4": 203, "59.5": 60, "0.1": 1, "0.0": -1, "1e400": -1, "long": -1, "": -1}
    paths = [str(music / name) for name in NAMES]
    results = [result(i, paths[i], duration=text) for i, text in enumerate(lengths)] + [result(8, paths[8])]
    write_results(tmp_path / "x.m3u8", results)
    pairs = list(zip(*[iter(lines_of(tmp_path / "x.m3u8")[2:-1])] * 2, strict=True))
    found = [re.fullmatch(r"#EXTINF:(-1|[1-9]\d*),(.+)", line) for line, _ in pairs]
    assert [int(line[1]) for line in found] == [*lengths.values(), -1]
    assert all(
        os.path.samefile(tmp_path / path, whole) for (_, path), whole in zip(pairs, [*paths[:7], paths[8]], strict=True)
    )


def test_playlists_of_ours_old_and_new_are_told_from_those_of_players(tmp_path, music):
    write_results(tmp_path / "x.m3u8", [result(0, str(music / "plain.wav"), duration="200.0")])
    assert is_result(tmp_path / "x.m3u8")
    for text, ours in (("#EXTINF:-1,a\na.mp3\n", True), ("#EXTINF:200,a\na.mp3\n", False), ("# mine\n", False)):
        (tmp_path / "x.m3u8").write_text("#EXTM3U\n" + text)
        assert is_result(tmp_path / "x.m3u8") == ours


def test_absolute_paths_and_paths_beside_the_playlist(tmp_path, music):
    write_results(tmp_path / "x.m3u", [result(0, str(music / "plain.wav"))], absolute=True)
    assert lines_of(tmp_path / "x.m3u")[3] == str(music / "plain.wav")
    assert playlist_path(str(music / NAMES[2]), music) == NAMES[2]


def test_a_linked_folder_does_not_mislead(tmp_path, music):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    write_results(tmp_path / "link" / "x.m3u8", [result(0, str(music / "plain.wav"))])
    assert os.path.samefile(tmp_path / "link" / lines_of(tmp_path / "link" / "x.m3u8")[3], music / "plain.wav")


def test_json_says_everything(tmp_path):
    assert write_results(tmp_path / "x.json", [result(1, None, title="Zoë")], {"like": "a"}) == 0
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["like"] == "a"
    (row,) = content["results"]
    assert (row["track_id"], row["metadata"], row["distances"]) == (
        "t1",
        {"title": "Zoë"},
        {"genre": 0.25, "mood": 0.5},
    )
    assert "percentile" not in row
    again = Duplicate(2, result(2, None).track, "version")
    asked = result(1, None)._replace(
        percentile=50.0, percentiles={"genre": 25.0}, matches="mood calm", duplicates=(again,)
    )
    write_results(tmp_path / "x.json", [asked])
    (row,) = json.loads((tmp_path / "x.json").read_text())["results"]
    assert (row["percentile"], row["percentiles"], row["matches"]) == (50.0, {"genre": 25.0}, "mood calm")
    assert [(each["track_id"], each["kind"]) for each in row["duplicates"]] == [("t2", "version")]


def test_a_table_has_a_row_per_result(tmp_path):
    title = 'a, "b"\nc'
    assert write_results(tmp_path / "x.csv", [result(1, "/a.wav", title=title), result(2, None)]) == 0
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert [*first] == [*COLUMNS, "distance_genre", "distance_mood", "estimated"]
    assert [*first.values()] == ["1", "t1", "/a.wav", "Nina", title, "", "100.0", "1.5", "0.25", "0.5", ""]
    assert (second["rank"], second["path"], second["artist"]) == ("2", "", "")


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\n"])
def test_no_text_of_a_table_is_a_formula_and_numbers_stay_numbers(tmp_path, begin):
    text = f"{begin}HYPERLINK(1)"
    track = CatalogueTrack(text, text, text, {"tempo": -1.0}, None, {"title": text, "album": f"a {text}"})
    write_results(tmp_path / "x.csv", [Result(0, track, -0.5, {"genre": -0.25})])
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        _, row = csv.reader(file)
    assert row == ["1", f"'{text}", f"'{text}", f"'{text}", f"'{text}", f"a {text}", "-1.0", "-0.5", "-0.25", ""]


def test_a_track_without_a_title_is_listed_by_the_name_of_its_file(tmp_path):
    write_results(tmp_path / "x.m3u8", [Result(0, CatalogueTrack("a__b", None, str(tmp_path / "b.ogg"), {}), 0.0, {})])
    assert (tmp_path / "x.m3u8").read_text() == f"{HEAD}#EXTINF:-1,b\nb.ogg\n"


@pytest.mark.parametrize(("suffix", "content"), [("m3u8", HEAD), ("csv", ",".join([*COLUMNS, "estimated"]) + "\n")])
def test_no_result_is_an_empty_file_of_the_form(tmp_path, suffix, content):
    write_results(tmp_path / f"x.{suffix}", [])
    assert (tmp_path / f"x.{suffix}").read_text() == content


def test_other_suffixes_are_refused_and_files_are_whole_or_as_before(tmp_path):
    with pytest.raises(ValueError, match=r"out=.*x\.pls is of no known form.*\.m3u8, \.m3u, \.json, \.csv"):
        write_results(tmp_path / "x.pls", [])
    (tmp_path / "x.json").write_text("before")
    with pytest.raises(TypeError):
        write_results(tmp_path / "x.json", [], {"like": object()})
    assert (tmp_path / "x.json").read_text() == "before"
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpv") is None, reason="mpv is not there: apt-get install mpv")
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_a_real_player_plays_every_track(tmp_path, music, absolute):
    playlist = (tmp_path if absolute else music) / "x.m3u8"
    lengths = [{"duration": f"{100 + i}.4"} if i % 3 else {} for i in range(len(NAMES))]
    results = [result(i, str(music / name), title=f"title {i}", **lengths[i]) for i, name in enumerate(NAMES)]
    assert write_results(playlist, results, absolute=absolute) == 0
    quiet = ["--no-config", "--vo=null", "--ao=null", "--untimed", "--length=0.05", "--msg-level=all=no"]
    shown = "--term-playing-msg=${path}\t${media-title}"
    done = subprocess.run(
        ["mpv", *quiet, "--msg-level=cplayer=info", shown, f"--playlist={playlist}"],
        capture_output=True,
        timeout=60,
        check=True,
        cwd="/",
    )
    played = [line.split("\t") for line in done.stdout.decode().split("\n") if "\t" in line]
    assert [title for _, title in played] == [f"{'Nina - ' if i % 2 else ''}title {i}" for i in range(len(NAMES))]
    for (path, _), name in zip(played, NAMES, strict=True):
        assert os.path.samefile(path, music / name)
