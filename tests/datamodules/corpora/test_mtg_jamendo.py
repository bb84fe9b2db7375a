"""MTG-Jamendo's lists, written by the tests in the publisher's form: tabs, CRLF, and rows of unequal length."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.corpora.mtg_jamendo import read_mtg_jamendo
from datamodules.corpora.records import collect
from datamodules.corpora.text_files import CorpusError
from disentangled_ml.structures import Rejected, TrackInfo, TrackRecord

TAGS = {"genre": "genre", "mood": "mood/theme", "instrument": "instrument"}
HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
ROWS = {
    "train": ["track_1\tartist_1\talbum_1\t14/214.mp3\t124.6\tgenre---rock\tmood/theme---happy\tgenre---pop"],
    "validation": ["track_2\tartist_2\talbum_1\t15/215.mp3\t151.4\tinstrument---guitar"],
    "test": ["track_3\tartist_3\talbum_1\t16/216.mp3\t151.4\tmood/theme---sad\tinstrument---piano\tgenre---jazz"],
}


def write_lists(folder: Path, rows: dict[str, list[str]] = ROWS, subset: str = "autotagging") -> Path:
    folder.mkdir(exist_ok=True)
    for name, lines in rows.items():
        (folder / f"{subset}-{name}.tsv").write_bytes("".join(f"{line}\r\n" for line in (HEADER, *lines)).encode())
    return folder


@pytest.fixture
def read(tmp_path) -> Callable[..., tuple[list[TrackRecord], list[Rejected]]]:
    """Read the lists in ``tmp_path``, or those given."""

    def read(rows: dict | None = None, **how) -> tuple[list[TrackRecord], list[Rejected]]:
        if rows is not None:
            write_lists(tmp_path, rows)
        how = {"subset": "autotagging", "edition": "full", "tags": TAGS, **how}
        return collect(read_mtg_jamendo(str(tmp_path), "/audio", **how))

    return read


def test_every_row_of_every_split(read):
    records, rejected = read(ROWS)
    one, two, three = (
        {"genre": ["pop", "rock"], "mood": ["happy"]},
        {"instrument": ["guitar"]},
        {"genre": ["jazz"], "mood": ["sad"], "instrument": ["piano"]},
    )
    assert records == [
        TrackRecord("track_1", "/audio/14/214.mp3", "artist_1", "train", one),
        TrackRecord("track_2", "/audio/15/215.mp3", "artist_2", "val", two),
        TrackRecord("track_3", "/audio/16/216.mp3", "artist_3", "test", three),
    ]
    assert rejected == []


def test_the_low_edition_has_other_files(read):
    full, low = read(ROWS)[0], read(ROWS, edition="low")[0]
    assert [record.path for record in low] == [f"/audio/{n}.low.mp3" for n in ("14/214", "15/215", "16/216")]
    assert [record._replace(path="") for record in low] == [record._replace(path="") for record in full]


def test_conditions_are_those_asked_for(read):
    records, _ = read(ROWS, tags={"feeling": "mood/theme"})
    assert [record.labels for record in records] == [{"feeling": ["happy"]}, {}, {"feeling": ["sad"]}]


def test_another_subset(read, tmp_path):
    write_lists(tmp_path, {"train": ROWS["test"]}, "autotagging_moodtheme")
    records, _ = read(subset="autotagging_moodtheme")
    assert [(record.track_id, record.split) for record in records] == [("track_3", "train")]


def test_rows_without_tags_have_no_labels(read):
    rows = ["t\ta\tb\t1/1.mp3\t9.9\t", "u\t\tb\t1/2.mp3\t9.9\t\t\tgenre---rock\t"]
    records, rejected = read({"train": rows})
    assert [(record.artist, record.labels) for record in records] == [("a", {}), (None, {"genre": ["rock"]})]
    assert rejected == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("", "the row is too short: 1 cells of TRACK_ID"),
        ("t\ta\tb\t1/1.mp3\t9.9", "the row is too short: 5 cells of TRACK_ID"),
        ("\ta\tb\t1/1.mp3\t9.9\tgenre---rock", "no track_id"),
        ("t\ta\tb\t\t9.9\tgenre---rock", "no path"),
        ("t\ta\tb\t1/1.wav\t9.9\tgenre---rock", "path '1/1.wav' does not end in .mp3"),
        ("t\ta\tb\t1/1.mp3\t9.9\trock", "tag 'rock' is not one of genre, instrument, mood/theme with --- and a name"),
        ("t\ta\tb\t1/1.mp3\t9.9\tera---80s", "tag 'era---80s' is not one of"),
        ("t\ta\tb\t1/1.mp3\t9.9\tgenre---", "tag 'genre---' is not one of"),
    ],
)
def test_rows_are_rejected_with_their_reason(read, row, reason):
    records, rejected = read({"train": [row, *ROWS["train"]]})
    assert [record.track_id for record in records] == ["track_1"]
    cells = [*row.split("\t"), "", "", ""]
    assert [found[:2] for found in rejected] == [(cells[0], cells[3])]
    assert rejected[0].reason.startswith(reason)


def test_a_split_without_list_is_left_out_and_said(read, caplog):
    with caplog.at_level(logging.WARNING):
        records, _ = read({"train": ROWS["train"]})
    assert len(records) == 1
    assert "left out, since there is no autotagging-validation.tsv, autotagging-test.tsv in " in caplog.text


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"subset": "autotaging"}, r"no autotaging-train.tsv, .*corpus.subset can be autotagging$"),
        ({"edition": "mid"}, "corpus.edition=mid is unknown: choose one of full, low"),
        ({"tags": {"mood": "mood"}}, "corpus.tags.mood=mood is no prefix: choose one of genre, instrument, mood/theme"),
        ({"tags": {"mean": "genre"}}, "a condition of tags cannot be called 'mean'"),
    ],
)
def test_keys_that_are_wrong(read, how, match):
    with pytest.raises(CorpusError, match=match):
        read(ROWS, **how)


@pytest.mark.parametrize(
    "content", [b"", b"track,path\r\na,b\r\n", HEADER.replace("\t", ",").encode()], ids=["empty", "other", "commas"]
)
def test_files_with_other_columns(read, tmp_path, content):
    (write_lists(tmp_path) / "autotagging-test.tsv").write_bytes(content)
    with pytest.raises(
        CorpusError, match=r"autotagging-test\.tsv, line 1: the columns are .*, not TRACK_ID, ARTIST_ID"
    ):
        read()


def test_a_list_that_is_no_text(read, tmp_path):
    (write_lists(tmp_path) / "autotagging-test.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(CorpusError, match=r"autotagging-test\.tsv cannot be read as UTF-8 text"):
        read()


def test_from_lists_and_recordings_to_shards(tmp_path, prepare_corpus, write_noise, caplog):
    metadata = write_lists(tmp_path / "metadata")
    for file in ("14/214", "16/216"):
        write_noise(tmp_path / "audio" / f"{file}.low.mp3")
    arguments = [f"corpus.metadata={metadata}", f"corpus.audio={tmp_path}/audio", "corpus.edition=low"]
    with caplog.at_level(logging.INFO):
        tracks, rejected = prepare_corpus("data=mtg_jamendo", *arguments, "conditions=[mood, genre]")
    assert tracks == {
        "train": [TrackInfo("track_1", "artist_1", 0, {"genre": ["pop", "rock"], "mood": ["happy"]})],
        "val": [],
        "test": [TrackInfo("track_3", "artist_3", 0, {"genre": ["jazz"], "mood": ["sad"]})],
    }
    assert rejected == {"track_2": "missing file"}
    assert "1 train, 0 val, 1 test tracks; conditions: mood, genre" in caplog.text
    assert "1 rejected: 1 missing file, see " in caplog.text
