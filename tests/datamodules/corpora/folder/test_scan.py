"""A manifest kept in step with a folder: what comes, goes, moves and changes, what a person edits, and what breaks."""

import csv
import os
from pathlib import Path

import pytest

from datamodules.corpora.folder import reading
from datamodules.corpora.folder import scan as scan_module
from datamodules.corpora.folder.scan import scan_folder
from datamodules.corpora.manifest import read_manifest
from datamodules.corpora.manifest_table import ManifestError
from disentangled_ml.config import ConfigError
from disentangled_ml.files import locked
from disentangled_ml.structures import Rejected
from tests.datamodules.corpora.folder.music import counts, failures_of, make, rows_of, scan, tag


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder with three tracks, scanned."""
    for number, name in enumerate(("A/one.mp3", "A/two.flac", "B/three.wav")):
        tags = {"artist": name[0], "title": f"T {number}", "genre": "Rock/Pop", "tempo": "120"}
        make(tmp_path / "music" / name, number, **tags)
    assert counts(scan(tmp_path)) == {"read": 3, "new": 3}
    return tmp_path


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "all.csv").read_text()
    assert old in text
    (folder / "all.csv").write_text(text.replace(old, new))


def ids(folder: Path) -> list[str]:
    return list(rows_of(folder / "all.csv"))


def test_the_manifest_is_one_that_is_read(folder):
    assert rows_of(folder / "all.csv")["A__two"] == {
        **dict.fromkeys(
            ("date", "isrc", "musicbrainz_recording", "musicbrainz_album", "album", "album_artist", "mood"), ""
        ),
        **{"track_id": "A__two", "path": "music/A/two.flac", "artist": "A", "title": "T 1", "tempo": "120"},
        "genre": "Rock;Pop",
    }
    corpus = read_manifest(folder / "all.csv", (1.0, 0.0, 0.0))
    records = list(corpus.rows())
    assert corpus.conditions == ["tempo", "genre"]
    assert [Path(record.path).is_file() for record in records] == [True] * 3
    assert records[1].labels == {"tempo": 120.0, "genre": ["Pop", "Rock"]}
    assert records[1].metadata == {"title": "T 1"}


def test_what_is_edited_while_files_are_read_is_kept(folder, monkeypatch):
    make(folder / "music" / "new.wav", 7)
    read = scan_module.read_file

    def read_and_edit(*arguments):
        edit(folder, "T 1", "my title")
        return read(*arguments)

    monkeypatch.setattr(scan_module, "read_file", read_and_edit)
    assert counts(scan(folder)) == {"read": 1, "new": 1}
    assert rows_of(folder / "all.csv")["A__two"]["title"] == "my title"


def test_nothing_new_reads_no_file_and_writes_no_manifest(folder, monkeypatch):
    monkeypatch.setattr(scan_module, "read_file", None)
    before = (folder / "all.csv").stat().st_mtime_ns
    assert counts(scan(folder), "tracks") == {"tracks": 3}
    assert (folder / "all.csv").stat().st_mtime_ns == before


def test_new_ones_come_last_and_others_stay_in_order(folder):
    lines = (folder / "all.csv").read_text().splitlines()
    (folder / "all.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    make(folder / "music" / "A" / "a new one.ogg", 7)
    assert counts(scan(folder)) == {"read": 1, "new": 1}
    assert ids(folder) == ["B__three", "A__two", "A__one", "A__a_new_one"]


def test_names_are_unique(tmp_path):
    for number, name in enumerate(("a b.mp3", "a_b.mp3", "a b.flac")):
        make(tmp_path / "music" / name, number)
    scan(tmp_path)
    assert ids(tmp_path) == ["a_b", "a_b-2", "a_b-3"]


def test_a_moved_file_keeps_name_and_edits(folder):
    edit(folder, "A__two,music/A/two.flac,A,T 1,", "A__two,music/A/two.flac,A,My title,")
    (folder / "music" / "C").mkdir()
    (folder / "music" / "A" / "two.flac").rename(folder / "music" / "C" / "zwei.FLAC")
    assert counts(scan(folder)) == {"read": 1, "moved": 1}
    row = rows_of(folder / "all.csv")["A__two"]
    assert (row["path"], row["title"]) == ("music/C/zwei.FLAC", "My title")


def test_a_copy_is_a_track_of_its_own(folder):
    content = (folder / "music" / "A" / "two.flac").read_bytes()
    (folder / "music" / "copy.flac").write_bytes(content)
    assert counts(scan(folder)) == {"read": 1, "new": 1, "copies": 1}
    assert ids(folder)[1:] == ["A__two", "B__three", "copy"]
    (folder / "music" / "A" / "two.flac").unlink()
    assert counts(scan(folder)) == {"removed": 1}
    assert rows_of(folder / "all.csv")["copy"]["path"] == "music/copy.flac"


def test_a_removed_file_comes_back_as_it_was(folder):
    edit(folder, ",Rock;Pop,", ",mine,")
    path = folder / "music" / "A" / "one.mp3"
    path.rename(folder / "away.mp3")
    assert counts(scan(folder)) == {"removed": 1}
    assert ids(folder) == ["A__two", "B__three"]
    assert counts(scan(folder)) == {}
    (folder / "away.mp3").rename(folder / "music" / "back.mp3")
    assert counts(scan(folder)) == {"read": 1, "moved": 1, "returned": 1}
    row = rows_of(folder / "all.csv")["A__one"]
    assert (row["path"], row["genre"]) == ("music/back.mp3", "mine")
    assert counts(scan(folder), "tracks") == {"tracks": 3}


def test_files_that_exchange_their_names_keep_their_tracks(folder):
    music = folder / "music" / "A"
    make(music / "x.mp3", 8, mtime=1)
    scan(folder)
    for old, new in (("one.mp3", "kept"), ("x.mp3", "one.mp3"), ("kept", "x.mp3")):
        (music / old).rename(music / new)
    assert counts(scan(folder)) == {"read": 2, "moved": 2}
    rows = rows_of(folder / "all.csv")
    assert (rows["A__one"]["path"], rows["A__x"]["path"]) == ("music/A/x.mp3", "music/A/one.mp3")


def test_a_changed_file_keeps_its_track_beside_a_copy_of_what_it_was(folder):
    path = folder / "music" / "A" / "one.mp3"
    (folder / "music" / "backup.mp3").write_bytes(path.read_bytes())
    tag(path, mtime=1, title="New")
    assert counts(scan(folder)) == {"read": 2, "new": 1, "changed": 1}
    assert rows_of(folder / "all.csv")["A__one"]["path"] == "music/A/one.mp3"


def test_a_file_moved_to_where_one_was_that_is_gone(folder):
    (folder / "music" / "A" / "one.mp3").unlink()
    scan(folder)
    (folder / "music" / "B" / "three.wav").rename(folder / "music" / "A" / "one.mp3")
    assert counts(scan(folder)) == {"read": 1, "moved": 1}
    assert rows_of(folder / "all.csv")["B__three"]["path"] == "music/A/one.mp3"


def test_changed_tags_replace_what_is_the_scans_alone(folder):
    edit(folder, "A__one,music/A/one.mp3,A,T 0,", "A__one,music/A/one.mp3,The A,T 0,")
    tag(folder / "music" / "A" / "one.mp3", mtime=1, artist="B", title="New", genre="Jazz")
    assert counts(scan(folder)) == {"read": 1, "changed": 1}
    row = rows_of(folder / "all.csv")["A__one"]
    assert (row["artist"], row["title"], row["genre"], row["tempo"]) == ("The A", "New", "Jazz", "120")
    # What a person has written stays theirs, even where a tag has said the same for a while.
    for artist in ("The A", "C"):
        tag(folder / "music" / "A" / "one.mp3", mtime=len(artist), artist=artist)
        assert counts(scan(folder))["changed"] == 1
        assert rows_of(folder / "all.csv")["A__one"]["artist"] == "The A"


def test_an_emptied_cell_stays_empty_and_a_restored_one_is_the_scans_again(folder):
    edit(folder, "music/A/one.mp3,A,T 0,", "music/A/one.mp3,,T 0,")
    tag(folder / "music" / "A" / "one.mp3", mtime=1, artist="B")
    scan(folder)
    assert rows_of(folder / "all.csv")["A__one"]["artist"] == ""
    edit(folder, "music/A/one.mp3,,T 0,", "music/A/one.mp3,A,T 0,")
    scan(folder)
    assert rows_of(folder / "all.csv")["A__one"]["artist"] == "B"


def test_a_touched_file_has_not_changed(folder):
    os.utime(folder / "music" / "A" / "one.mp3", ns=(5, 5))
    assert counts(scan(folder)) == {"read": 1}
    assert counts(scan(folder)) == {}


def test_own_columns_and_rows_stay_and_a_deleted_column_too(folder):
    with open(folder / "all.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "all.csv", "w", newline="", encoding="utf-8-sig") as file:
        names = ["Track ID", "stars", *[name for name in rows[0] if name not in ("track_id", "mood")]]
        file.write(";".join(names) + "\n")
        for number, row in enumerate(rows):
            row["tempo"] = "120,0"
            cells = [row["track_id"], f"{number} *", *[row[name] for name in names[2:]]]
            file.write(";".join(f'"{cell}"' for cell in cells) + "\n")
        file.write("other;5 *;elsewhere.mp3\n")
    make(folder / "music" / "new.mp3", 9, tempo="99.5")
    assert counts(scan(folder)) == {"read": 1, "new": 1, "own_rows": 1}
    text = (folder / "all.csv").read_text()
    assert text.startswith("\ufeffTrack ID;stars;path;artist;")
    assert "mood" not in text
    lines = text.splitlines()
    assert lines[1].startswith("A__one;0 *;music/A/one.mp3;A;T 0;")
    assert "120,0" in lines[1]
    assert lines[4].startswith("other;5 *;elsewhere.mp3;")
    assert lines[5].startswith("new;;music/new.mp3;")
    records = list(read_manifest(folder / "all.csv", (1.0, 0.0, 0.0)).rows())
    assert [record.labels["tempo"] for record in (*records[:3], records[4])] == [120.0, 120.0, 120.0, 99.5]


def test_a_deleted_row_stays_out_until_a_person_puts_it_back(folder):
    lines = (folder / "all.csv").read_text().splitlines()
    (folder / "all.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert counts(scan(folder), "tracks") == {"tracks": 2, "deleted": 1, "lost": 1}
    assert counts(scan(folder), "tracks") == {"tracks": 2, "deleted": 1}
    (folder / "music" / "A" / "one.mp3").rename(folder / "music" / "1.mp3")
    assert counts(scan(folder)) == {"read": 1, "moved": 1, "deleted": 1}
    with open(folder / "all.csv", "a") as file:
        file.write("A__one,music/1.mp3\n")
    assert counts(scan(folder), "tracks") == {"tracks": 3}


def test_rows_that_an_editor_has_lost_are_put_back_as_they_were(folder):
    edit(folder, "track_id,path,", "track_id,path,stars,")
    for name, stars in (("one.mp3", "=5"), ("two.flac", "4"), ("three.wav", "3")):
        edit(folder, f"{name},", f"{name},{stars},")
    edit(folder, "T 1", "My own title")
    assert counts(scan(folder)) == {}
    whole = (folder / "all.csv").read_text()
    header, one, two, three = whole.splitlines()
    (folder / "all.csv").write_text(f"{header}\n{one}\n{two[:5]}")
    assert counts(scan(folder), "tracks") == {"tracks": 1, "deleted": 2, "lost": 2, "own_rows": 1}
    edit(folder, one, "")
    assert counts(scan(folder), "tracks") == {"deleted": 3, "lost": 1, "own_rows": 1}
    deletions = scan(folder).deletions
    assert deletions.read_text().splitlines() == [header, two, three, one]
    lines = deletions.read_text().splitlines()
    (folder / "all.csv").write_text("\n".join([header, *lines[2:], lines[1]]) + "\n")
    assert counts(scan(folder), "tracks") == {"tracks": 3}
    assert (folder / "all.csv").read_text().splitlines() == [header, three, one, two]


def test_a_row_that_is_lost_twice_is_kept_as_it_was_last(folder):
    header, one, two, three = (folder / "all.csv").read_text().splitlines()
    for title in ("T 1", "My own title"):
        (folder / "all.csv").write_text("\n".join([header, one, two, three]) + "\n")
        edit(folder, "T 1", title)
        scan(folder)
        edited = (folder / "all.csv").read_text().splitlines()
        (row,) = (line for line in edited if title in line)
        (folder / "all.csv").write_text("\n".join(line for line in edited if line != row) + "\n")
        assert scan(folder).deletions.read_text().splitlines() == [header, row]


def test_a_lost_row_is_kept_while_its_file_is_away(folder):
    header, one, two, three = (folder / "all.csv").read_text().splitlines()
    (folder / "all.csv").write_text(header + "\n")
    scan(folder)
    away = folder / "away.mp3"
    (folder / "music" / "A" / "one.mp3").rename(away)
    scan(folder)
    away.rename(folder / "music" / "A" / "one.mp3")
    assert set(scan(folder).deletions.read_text().splitlines()) == {header, one, two, three}


@pytest.mark.parametrize("place", ["before the manifest", "behind the manifest"])
def test_lost_rows_are_kept_by_a_scan_that_is_killed(folder, monkeypatch, place):
    header, *rows = (folder / "all.csv").read_text().splitlines()
    (folder / "all.csv").write_text(header + "\n")
    write = scan_module.write_manifest

    def die(path, text):
        if place == "behind the manifest" and path.name == "all.csv":
            write(path, text)
            raise Killed
        if place == "before the manifest" and path.name == "all.csv":
            raise Killed
        write(path, text)

    monkeypatch.setattr(scan_module, "write_manifest", die)
    with pytest.raises(Killed):
        scan(folder)
    monkeypatch.undo()
    report = scan(folder)
    assert report.deleted == 3
    assert report.deletions.read_text().splitlines() == [header, *rows]


def test_a_manifest_by_hand_is_taken_up(tmp_path):
    for number, name in enumerate(("a.mp3", "b.mp3")):
        make(tmp_path / "music" / name, number, artist="A", genre="Rock")
    (tmp_path / "all.csv").write_text("track_id,path,Genre\nmine,music/b.mp3,Blues\nmine,music/b.mp3,\n")
    assert counts(scan(tmp_path)) == {"read": 2, "new": 1}
    with open(tmp_path / "all.csv", newline="") as file:
        rows = [(row["track_id"], row["Genre"], row["artist"]) for row in csv.DictReader(file)]
    assert rows == [("mine", "Blues", "A"), ("mine", "Rock", "A"), ("a", "Rock", "A")]


def test_a_track_id_may_be_changed(folder):
    edit(folder, "A__one,", "first,")
    assert counts(scan(folder), "tracks") == {"tracks": 3}
    assert ids(folder) == ["first", "A__two", "B__three"]


def test_what_cannot_be_used_is_listed_and_remembered(folder, monkeypatch):
    music = folder / "music"
    (music / "empty.mp3").write_bytes(b"")
    (music / "page.mp3").write_text("<html>404</html>")
    (music / "pipe.ape").write_bytes(b"MAC ")
    (music / "line\nbreak.mp3").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(music) + b"/caf\xe9.mp3")).write_bytes(b"x")
    (music / ".hidden.mp3").write_bytes(b"x")
    assert counts(scan(folder)) == {"read": 5, "failed": 5, "hidden": 1}
    failures = failures_of(folder / "all.csv")
    assert list(failures) == ["caf\\xe9.mp3", "empty.mp3", "line\\nbreak.mp3", "page.mp3", "pipe.ape"]
    assert failures["empty.mp3"] == "empty file"
    assert "not UTF-8" in failures["caf\\xe9.mp3"]
    assert "line break" in failures["line\\nbreak.mp3"]
    assert "text/HTML" in failures["page.mp3"]
    looked_at = []
    monkeypatch.setattr(reading, "check_content", looked_at.append)
    assert counts(scan(folder))["failed"] == 5
    assert not looked_at
    monkeypatch.undo()
    make(music / "empty.mp3", 8, mtime=1)
    report = scan(folder)
    assert (report.failed, report.new, report.tracks) == (4, 1, 4)


def test_formulas_stay_what_they_are_in_the_manifest_and_are_none_in_the_list_of_failures(folder):
    make(folder / "music" / "=1.mp3", 9, artist="=1+1", title="@x")
    (folder / "music" / "-1.mp3").write_bytes(b"")
    assert counts(scan(folder)) == {"read": 2, "new": 1, "failed": 1}
    row = list(rows_of(folder / "all.csv").values())[-1]
    assert (row["path"], row["artist"], row["title"]) == ("music/=1.mp3", "=1+1", "@x")
    assert list(failures_of(folder / "all.csv")) == ["'-1.mp3"]
    assert counts(scan(folder)) == {"failed": 1}


def test_a_file_that_breaks_and_is_mended(folder):
    path = folder / "music" / "A" / "one.mp3"
    content = path.read_bytes()
    edit(folder, "music/A/one.mp3,A,", "music/A/one.mp3,mine,")
    path.write_bytes(b"")
    assert counts(scan(folder)) == {"read": 1, "removed": 1, "failed": 1}
    path.write_bytes(content)
    assert counts(scan(folder)) == {"read": 1, "returned": 1}
    assert rows_of(folder / "all.csv")["A__one"]["artist"] == "mine"


def test_an_unreadable_file_is_tried_again(folder, monkeypatch):
    make(folder / "music" / "new.mp3", 5)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading, "read_origin", refuse)  # as root may read everything
    assert counts(scan(folder)) == {"read": 1, "failed": 1}
    assert failures_of(folder / "all.csv") == {"new.mp3": "cannot be read: Permission denied"}
    monkeypatch.undo()
    assert counts(scan(folder)) == {"read": 1, "new": 1}


def test_tracks_below_a_folder_that_cannot_be_listed_stay(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "A":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert counts(scan(folder), "tracks") == {"tracks": 3, "failed": 1}
    assert failures_of(folder / "all.csv") == {"A": "cannot be listed: Permission denied"}
    assert len(ids(folder)) == 3


def test_names_that_a_manifest_can_hold(tmp_path):
    names = [
        " blank.mp3",
        "a, b.mp3",
        "c;d.mp3",
        '"quoted".mp3',
        "#1.mp3",
        "Zoe\u0301.mp3",
        "x" * 240 + ".mp3",
        "tab\t.mp3",
    ]
    for number, name in enumerate([*names, " folder /x /in.mp3"]):
        make(tmp_path / "music" / name, number)
    assert scan_folder(tmp_path / "music", tmp_path / "music" / "all.csv").failed == 0
    records = list(read_manifest(tmp_path / "music" / "all.csv", (1.0, 0.0, 0.0)).rows())
    assert len(records) == len({record.track_id for record in records}) == len(names) + 1
    assert not any(isinstance(record, Rejected) for record in records)
    assert all(Path(record.path).is_file() for record in records)


def test_a_folder_elsewhere_has_absolute_paths(folder, tmp_path):
    manifest = tmp_path / "lists" / "all.csv"
    manifest.parent.mkdir()
    scan_folder(folder / "music", manifest)
    assert rows_of(manifest)["A__one"]["path"] == str(folder / "music" / "A" / "one.mp3")


def test_counts_of_tags(tmp_path):
    make(tmp_path / "music" / "a.mp3", 0, tempo="fast")
    path = make(tmp_path / "music" / "b.flac", 1)
    path.write_bytes(path.read_bytes().replace(b"fLaC\0\0\0", b"fLaC\0\xff\xff"))
    assert counts(scan(tmp_path)) == {"read": 2, "new": 2, "bad_tempi": 1, "broken_tags": 1}
    assert rows_of(tmp_path / "all.csv")["a"]["tempo"] == ""


def test_a_folder_without_music_or_of_another_manifest_changes_nothing(folder):
    before = (folder / "all.csv").read_bytes()
    (folder / "music").rename(folder / "gone")
    (folder / "music").mkdir()
    with pytest.raises(ManifestError, match=r"holds no audio file: .*is its drive there"):
        scan(folder)
    make(folder / "other" / "x.mp3", 0)
    with pytest.raises(ManifestError, match=r"all\.csv is of .*music, and .*other holds no file of it"):
        scan_folder(folder / "other", folder / "all.csv")
    assert (folder / "all.csv").read_bytes() == before
    assert counts(scan_folder(folder / "gone", folder / "all.csv")) == {}  # the same files elsewhere
    assert rows_of(folder / "all.csv")["A__one"]["path"] == "gone/A/one.mp3"


@pytest.mark.parametrize(
    "damage", [lambda s: s[: len(s) // 2], lambda s: s.replace(b"one", b"two"), lambda s: b"\0\xff"]
)
def test_a_damaged_state_is_told_and_edits_are_kept(folder, caplog, damage):
    edit(folder, "music/A/one.mp3,A,", "music/A/one.mp3,mine,")
    state = folder / "all.csv.scan" / "state.jsonl"
    state.write_bytes(damage(state.read_bytes()))
    assert counts(scan(folder)) == {"read": 3}
    assert "state.jsonl is damaged" in caplog.text
    assert rows_of(folder / "all.csv")["A__one"]["artist"] == "mine"
    tag(folder / "music" / "A" / "one.mp3", mtime=1, artist="B", title="New")
    scan(folder)
    row = rows_of(folder / "all.csv")["A__one"]
    assert (row["artist"], row["title"]) == ("mine", "New")


def test_a_deleted_manifest_is_made_anew_under_the_old_names(folder):
    edit(folder, "B__three,", "last,")
    scan(folder)
    (folder / "all.csv").unlink()
    assert counts(scan(folder), "tracks") == {"tracks": 3}
    assert sorted(ids(folder)) == ["A__one", "A__two", "last"]


def test_a_broken_manifest_is_an_error_and_stays(folder):
    (folder / "all.csv").write_text("name\nx\n")
    with pytest.raises(ManifestError, match="has no column track_id, path"):
        scan(folder)
    assert (folder / "all.csv").read_text() == "name\nx\n"


def test_two_scans_at_once_are_refused(folder):
    with locked(folder / "all.csv.scan"), pytest.raises(ConfigError, match="being worked in by another process"):
        scan(folder)


class Killed(BaseException):
    """The end of a process, as far as files show it."""


@pytest.mark.parametrize("place", ["before the manifest", "behind the manifest"])
def test_a_scan_that_ends_around_the_manifest_takes_no_cell_of_its_own_for_a_persons(folder, monkeypatch, place):
    edit(folder, "music/A/one.mp3,A,", "music/A/one.mp3,mine,")
    path = folder / "music" / "A" / "one.mp3"
    tag(path, mtime=1, title="second", genre="Jazz")
    (folder / "music" / "B" / "three.wav").rename(folder / "three.wav")
    make(folder / "music" / "new.mp3", 9, title="n")
    write = scan_module.write_manifest

    def end(manifest, text):
        if place == "behind the manifest":
            write(manifest, text)
        raise Killed

    monkeypatch.setattr(scan_module, "write_manifest", end)
    with pytest.raises(Killed):
        scan(folder)
    monkeypatch.undo()
    tag(path, mtime=2, title="third", genre="Blues")
    (folder / "three.wav").rename(folder / "music" / "B" / "three.wav")
    scan(folder)
    rows = rows_of(folder / "all.csv")
    assert sorted(rows) == ["A__one", "A__two", "B__three", "new"]
    assert [rows["A__one"][name] for name in ("artist", "title", "genre")] == ["mine", "third", "Blues"]


def test_nothing_of_the_music_is_changed(folder):
    music = folder / "music"

    def snapshot() -> dict:
        return {
            path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else sorted(os.listdir(path)))
            for path in [music, *music.rglob("*")]
        }

    make(music / "broken.flac", 3).write_bytes(b"fLaC\0\xff\xff\xff")
    for path in [*music.rglob("*"), music]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot()
    scan(folder)
    assert snapshot() == before
    for path in [music, *music.rglob("*")]:
        path.chmod(0o755)
