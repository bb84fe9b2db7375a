"""Which files are found: names, links, and what cannot be looked into."""

import os

import pytest

from datamodules.corpora.folder import walk
from datamodules.corpora.folder.walk import list_audio


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def paths(listing):
    return [found.path for found in listing.files]


def test_extensions_in_any_case_and_odd_names(tmp_path):
    names = ["B.MP3", "a.flac", "x/y/z.Opus", "c,d;e.wav", " blank .ogg", "two.dots.m4a", "line\nbreak.mp3"]
    for name in [*names, "cover.jpg", "list.m3u", "mp3"]:
        touch(tmp_path / name)
    touch(tmp_path / os.fsdecode(b"caf\xe9.mp3"))
    assert paths(list_audio(tmp_path)) == sorted([*names, "caf\udce9.mp3"])


def test_hidden_ones_are_counted(tmp_path):
    for name in ("a.mp3", "._a.mp3", ".trash/b.mp3", ".DS_Store", ".mp3"):
        touch(tmp_path / name)
    listing = list_audio(tmp_path)
    assert paths(listing) == ["a.mp3"]
    assert listing.hidden == 3


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "music" / "real" / "a.mp3")
    touch(tmp_path / "elsewhere" / "b.mp3")
    (tmp_path / "music" / "aaa").symlink_to("real")
    (tmp_path / "music" / "real" / "loop").symlink_to("..")
    (tmp_path / "music" / "far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music" / "self").symlink_to("self")
    (tmp_path / "music" / "gone.mp3").symlink_to("nowhere")
    (tmp_path / "music" / "circle.mp3").symlink_to("circle.mp3")
    listing = list_audio(tmp_path / "music")
    assert paths(listing) == ["circle.mp3", "far/b.mp3", "gone.mp3", "real/a.mp3"]
    assert {found.path for found in listing.files if "cannot be read" in found.problem} == {"circle.mp3", "gone.mp3"}


def test_what_is_no_file_or_not_decoded_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp3")
    touch(tmp_path / "a.ape")
    (tmp_path / "folder.mp3").mkdir()
    problems = {found.path: found.problem for found in list_audio(tmp_path).files}
    assert problems == {"pipe.mp3": "not a file", "a.ape": ".ape is a format that is not decoded"}


def test_folders_that_cannot_be_listed_are_told(tmp_path, monkeypatch):
    touch(tmp_path / "a" / "a.mp3")
    touch(tmp_path / "b" / "b.mp3")
    scandir = os.scandir

    def refuse(path):  # as root may list everything
        if os.path.basename(path) == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(walk.os, "scandir", refuse)
    listing = list_audio(tmp_path)
    assert paths(listing) == ["b/b.mp3"]
    assert listing.unreadable == {"a": "cannot be listed: Permission denied"}
    assert listing.is_unseen("a/x/y.mp3")
    assert not listing.is_unseen("ab.mp3")


def test_the_folder_itself_must_be_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        list_audio(tmp_path / "nowhere")
