"""The tagging split of the Million Song Dataset, written by the tests in the publisher's form, and the Last.fm database."""

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.corpora.msd import COLUMNS, read_artists, read_msd
from datamodules.corpora.records import collect
from datamodules.corpora.text_files import CorpusError
from disentangled_ml.commands.schemas import PrepareConfig
from disentangled_ml.config import load_config
from disentangled_ml.structures import Rejected, TrackInfo, TrackRecord

TAGS = {"genre": ["rock", "Hip-Hop"], "mood": ["sad"]}
TRACKS = {  # id, file and tags of the rows of each list
    "train": [("TRA", "6/0/6010476.npy", {"rock", "sad"}), ("TRB", "2/3/2351046.npy", {"80s"})],
    "valid": [("TRC", "5/2/5280339.npy", {"Hip-Hop", "rock"})],
    "test": [("TRD", "1/1/11.npy", {"sad", "guitar"}), ("TRE", "1/2/12.npy", set())],
}
Rows = dict[str, list[tuple[str, str, set[str]]]]


def write_lists(folder: Path, tracks: Rows = TRACKS) -> Path:
    """Write the parallel files of each split."""
    folder.mkdir(exist_ok=True)
    for name, rows in tracks.items():
        for kind, column in (("msd_id", 0), ("filename", 1)):
            (folder / f"{name}_x_{kind}.txt").write_text("".join(f"{row[column]}\n" for row in rows))
        (folder / f"{name}_x_7d_id.txt").write_text("".join(f"{Path(row[1]).stem}\n" for row in rows))
        np.save(folder / f"{name}_y.npy", np.array([[tag in row[2] for tag in COLUMNS] for row in rows]))
    return folder


def write_database(path: Path, values: dict[str, dict[str, float]], tags: list[str]) -> Path:
    """Write ``lastfm_tags.db``: the values of the tags of each track."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tids (tid TEXT)")
        connection.execute("CREATE TABLE tags (tag TEXT)")
        connection.execute("CREATE TABLE tid_tag (tid INT, tag INT, val FLOAT)")
        connection.executemany("INSERT INTO tids VALUES (?)", [(tid,) for tid in values])
        connection.executemany("INSERT INTO tags VALUES (?)", [(tag,) for tag in tags])
        for tid, given in values.items():
            for tag, value in given.items():
                connection.execute(
                    "INSERT INTO tid_tag SELECT tids.rowid, tags.rowid, ? FROM tids, tags WHERE tid = ? AND tag = ?",
                    (value, tid, tag),
                )
    connection.close()
    return path


@pytest.fixture
def read(tmp_path) -> Callable[..., tuple[list[TrackRecord], list[Rejected]]]:
    """Read the lists in ``tmp_path``, or those given."""

    def read(tracks: Rows | None = None, **how) -> tuple[list[TrackRecord], list[Rejected]]:
        if tracks is not None:
            write_lists(tmp_path, tracks)
        return collect(read_msd(str(tmp_path), "/audio", **{"tags": TAGS, **how}))

    return read


def test_every_row_of_every_split(read):
    records, rejected = read(TRACKS)
    assert records == [
        TrackRecord("TRA", "/audio/6/0/6010476.clip.mp3", None, "train", {"genre": ["rock"], "mood": ["sad"]}),
        TrackRecord("TRB", "/audio/2/3/2351046.clip.mp3", None, "train", {}),
        TrackRecord("TRC", "/audio/5/2/5280339.clip.mp3", None, "val", {"genre": ["Hip-Hop", "rock"]}),
        TrackRecord("TRD", "/audio/1/1/11.clip.mp3", None, "test", {"mood": ["sad"]}),
        TrackRecord("TRE", "/audio/1/2/12.clip.mp3", None, "test", {}),
    ]
    assert rejected == []


def test_every_column_is_the_tag_of_its_place(read):
    tracks = {"train": [(f"T{i}", f"{i}.npy", {tag}) for i, tag in enumerate(COLUMNS)]}
    records, _ = read(tracks, tags={"any": COLUMNS})
    assert [record.labels["any"] for record in records] == [[tag] for tag in COLUMNS]
    assert len(set(COLUMNS)) == 50


def test_the_configuration_sorts_all_tags_but_the_decades():
    tags = load_config(PrepareConfig, ["data=msd", "corpus.metadata=m", "corpus.audio=a"]).corpus.tags
    named = [tag for names in tags.values() for tag in names]
    assert {name: len(names) for name, names in tags.items()} == {"genre": 28, "mood": 12, "instrument": 5}
    assert sorted([*named, "00s", "90s", "80s", "70s", "60s"]) == sorted(COLUMNS)


def test_rows_stream_again_from_the_beginning(tmp_path):
    catalogue = read_msd(str(write_lists(tmp_path)), "/audio", TAGS)
    assert next(catalogue.rows()).track_id == "TRA"
    assert list(catalogue.rows()) == list(catalogue.rows())


def test_artists_of_the_listed_tracks(read, tmp_path):
    (tmp_path / "unique_tracks.txt").write_text(
        "TRZ<SEP>SOZ<SEP>Nobody<SEP>Song\nTRB<SEP>SOB<SEP>Sigur Rós<SEP>Á\nTRD<SEP>SOD<SEP><SEP>\n", encoding="utf-8"
    )
    records, _ = read(TRACKS)
    assert [record.artist for record in records] == [None, "Sigur Rós", None, None, None]


def test_no_more_artists_are_held_than_asked_for(tmp_path):
    (tmp_path / "x.txt").write_text("TRA<SEP>SOA<SEP>Ella<SEP>Song\nTRB<SEP>SOB<SEP>Nina<SEP>Song\n")
    assert read_artists(tmp_path / "x.txt", {"TRB", "TRC"}) == {"TRB": "Nina"}


def test_a_line_that_names_no_artist_is_an_error(read, tmp_path):
    (tmp_path / "unique_tracks.txt").write_text("TRA<SEP>SOA<SEP>A<SEP>T\nTRB,SOB,B,T\n")
    with pytest.raises(CorpusError, match=r"unique_tracks\.txt, line 2 is not of the form track id<SEP>song id<SEP>"):
        read(TRACKS)


def test_rows_are_rejected_with_their_reason(read):
    rows = [("", "1.npy", set()), ("TRF", "", set()), ("TRG", "3.wav", set()), ("TRH", "4.npy", {"rock"})]
    records, rejected = read({"train": rows})
    assert [record.track_id for record in records] == ["TRH"]
    assert rejected == [
        Rejected("", "1.npy", "no track_id"),
        Rejected("TRF", "", "no path"),
        Rejected("TRG", "3.wav", "file name '3.wav' does not end in .npy"),
    ]
    assert records[0].labels == {"genre": ["rock"]}


def test_a_split_without_lists_is_left_out_and_said(read, caplog):
    with caplog.at_level(logging.WARNING):
        records, _ = read({"test": TRACKS["test"]})
    assert {record.split for record in records} == {"test"}
    assert "left out, since there is no train_x_msd_id.txt, train_x_filename.txt, train_y.npy, valid_" in caplog.text
    assert "no unique_tracks.txt, so the artists are unknown" in caplog.text


def test_no_list_at_all(read, tmp_path):
    with pytest.raises(CorpusError, match=r"has no train_x_msd_id.txt, .*: give the folder of the tagging split"):
        read()


@pytest.mark.parametrize("kind", ["x_msd_id.txt", "x_filename.txt", "y.npy"])
def test_a_missing_list_is_named(read, tmp_path, kind):
    (write_lists(tmp_path) / f"valid_{kind}").unlink()
    with pytest.raises(CorpusError, match=rf"valid_{kind} is missing beside the other lists of valid"):
        read()


@pytest.mark.parametrize("kind", ["x_msd_id.txt", "x_filename.txt"])
def test_lists_of_unequal_length_are_named(read, tmp_path, kind):
    with open(write_lists(tmp_path) / f"train_{kind}", "a") as file:
        file.write("more\n")
    with pytest.raises(
        CorpusError, match=rf"not of equal length: .*train_{kind} has 3.*take all of them from one copy"
    ):
        read()


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        (np.zeros((1, 50), bool), "train_y.npy has 1; take all"),
        (np.zeros((2, 50), np.float32), r"holds float32 \(2, 50\), expected bool \(N, 50\)"),
        (np.zeros((2, 49), bool), r"holds bool \(2, 49\), expected bool"),
        (np.zeros(2, bool), r"holds bool \(2,\), expected bool"),
        (np.array([{"rock": 1}], dtype=object), "train_y.npy cannot be read as an array"),
    ],
    ids=["short", "float", "narrow", "flat", "pickled"],
)
def test_arrays_of_another_form(read, tmp_path, targets, match):
    np.save(write_lists(tmp_path) / "train_y.npy", targets, allow_pickle=True)
    with pytest.raises(CorpusError, match=match):
        read()


@pytest.mark.parametrize("content", [b"", b"rock,pop\n1,0\n", b"\x93NUMPY\x01\x00"], ids=["empty", "text", "cut"])
def test_files_that_are_no_array(read, tmp_path, content):
    (write_lists(tmp_path) / "train_y.npy").write_bytes(content)
    with pytest.raises(CorpusError, match=r"train_y\.npy cannot be read as an array .*take it from the tagging split"):
        read()


def test_an_archive_of_arrays_is_none(read, tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros((2, 50), bool))
    (tmp_path / "x.npz").rename(write_lists(tmp_path) / "train_y.npy")
    with pytest.raises(CorpusError, match="holds several arrays"):
        read()


def test_a_list_that_is_no_text(read, tmp_path):
    (write_lists(tmp_path) / "test_x_filename.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(CorpusError, match=r"test_x_filename\.txt cannot be read as UTF-8 text"):
        read()


def test_lists_may_end_in_crlf(read, tmp_path):
    expected = read(TRACKS)
    for path in tmp_path.glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read() == expected


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ({"genre": ["rokc"]}, r"SPLIT_y.npy has no tag 'rokc': correct corpus.tags"),
        ({"genre": ["Rock"]}, r"has no tag 'Rock'"),
        ({"track": ["rock"]}, r"corpus.tags.track: a condition of tags cannot be called 'track'"),
        ({"tempo": ["rock"]}, r"cannot be called 'tempo'"),
    ],
)
def test_tags_that_are_unknown(read, tmp_path, tags, match):
    with pytest.raises(CorpusError, match=match):
        read(TRACKS, tags=tags)


VALUES = {
    "TRA": {"rock": 100, "Sad": 51, "hip-hop": 50},
    "TRC": {"sad": 50.5, "HIP-HOP": 49},
    "TRD": {"seen live": 100},
    "TRX": {"rock": 100},
}
DATABASE_TAGS = ["seen live", "rock", "Sad", "sad", "hip-hop", "HIP-HOP"]


def test_tags_from_the_database(read, tmp_path):
    database = write_database(tmp_path / "lastfm_tags.db", VALUES, DATABASE_TAGS)
    write_lists(tmp_path)
    for path in tmp_path.glob("*_y.npy"):
        path.unlink()  # it is not needed
    records, rejected = read(tag_database=str(database), tag_threshold=50)
    assert {record.track_id: record.labels for record in records} == {
        "TRA": {"genre": ["rock"], "mood": ["sad"]},
        "TRB": {},
        "TRC": {"mood": ["sad"]},
        "TRD": {},
        "TRE": {},
    }
    assert [record.split for record in records] == ["train", "train", "val", "test", "test"]
    assert rejected == []
    records, _ = read(tag_database=str(database), tag_threshold=0)
    assert [record.labels.get("genre") for record in records] == [["Hip-Hop", "rock"], None, ["Hip-Hop"], None, None]


def test_the_database_stays_as_it_is(read, tmp_path):
    database = write_database(tmp_path / "lastfm_tags.db", VALUES, DATABASE_TAGS)
    before = database.read_bytes()
    read(TRACKS, tag_database=str(database), tag_threshold=50)
    assert database.read_bytes() == before
    assert [path.name for path in tmp_path.glob("lastfm*")] == ["lastfm_tags.db"]


def test_a_tag_that_the_database_lacks(read, tmp_path):
    database = write_database(tmp_path / "lastfm_tags.db", VALUES, ["rock", "sad"])
    with pytest.raises(CorpusError, match=r"lastfm_tags\.db has no tag 'Hip-Hop'"):
        read(TRACKS, tag_database=str(database), tag_threshold=50)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"tag_database": "x.db"}, "tag_database and corpus.tag_threshold go together"),
        ({"tag_threshold": 50}, "tag_database and corpus.tag_threshold go together"),
        ({"tag_database": "x.db", "tag_threshold": 101}, "tag_threshold=101 is no value of a tag"),
        ({"tag_database": "x.db", "tag_threshold": float("nan")}, "tag_threshold=nan is no value of a tag"),
        ({"tag_database": "gone.db", "tag_threshold": 50}, "tag_database=gone.db is not a file"),
    ],
)
def test_keys_of_the_database(read, how, match):
    with pytest.raises(CorpusError, match=match):
        read(TRACKS, **how)


def test_files_that_are_no_such_database(read, tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"no database at all, but long enough for the header of one" * 9)
    with pytest.raises(CorpusError, match=r"x\.db cannot be read as SQLite database"):
        read(TRACKS, tag_database=str(path), tag_threshold=50)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tids (tid TEXT)")
    connection.close()
    with pytest.raises(CorpusError, match=r"x\.db has no table tags\(tag\)"):
        read(TRACKS, tag_database=str(path), tag_threshold=50)


def test_from_lists_and_previews_to_shards(tmp_path, prepare_corpus, write_noise, caplog):
    metadata = write_lists(tmp_path / "metadata")
    (metadata / "unique_tracks.txt").write_text("TRA<SEP>SOA<SEP>Ella<SEP>Song\n")
    for file in ("6/0/6010476", "5/2/5280339", "1/1/11"):
        write_noise(tmp_path / "audio" / f"{file}.clip.mp3")
    arguments = ["data=msd", f"corpus.metadata={metadata}", f"corpus.audio={tmp_path}/audio"]
    with caplog.at_level(logging.INFO):
        tracks, rejected = prepare_corpus(*arguments)
    assert tracks == {
        "train": [TrackInfo("TRA", "Ella", 0, {"genre": ["rock"], "mood": ["sad"]})],
        "val": [TrackInfo("TRC", None, 0, {"genre": ["Hip-Hop", "rock"]})],
        "test": [TrackInfo("TRD", None, 0, {"mood": ["sad"], "instrument": ["guitar"]})],
    }
    assert rejected == {"TRB": "missing file", "TRE": "missing file"}
    assert f"2 rejected: 2 missing file, see {tmp_path}/prepared/rejected.csv" in caplog.text
