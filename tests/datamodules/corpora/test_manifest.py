"""Every case of a column, every kind of row that is rejected, every kind of file that is no manifest."""

import logging
from collections import Counter
from pathlib import Path

import pytest

from datamodules.corpora.manifest import ManifestError, read_manifest
from datamodules.corpora.records import collect, draw_split
from disentangled_ml.structures import SPLITS, Rejected, TrackRecord

SHARES = [0.7, 0.1, 0.2]
WAY_OUT = ": give one such number, or leave the cell empty"
SHARE_ATOL = 0.03  # 5,000 draws have a standard deviation below 0.007


def read(tmp_path: Path, text: str | bytes, **how) -> tuple[list[TrackRecord], list[Rejected]]:
    manifest = tmp_path / "m.csv"
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    return collect(read_manifest(manifest, SHARES, **how))


def test_all_columns(tmp_path):
    text = 'track_id,path,artist,split,tempo,genre,mood\n a , x/a.wav ,"Ella, F.",val,120.5,"rock; jazz;;rock",happy\n'
    records, rejected = read(tmp_path, text)
    labels = {"tempo": 120.5, "genre": ["jazz", "rock"], "mood": ["happy"]}
    assert records == [TrackRecord("a", str(tmp_path / "x/a.wav"), "Ella, F.", "val", labels)]
    assert rejected == []


def test_required_columns_alone(tmp_path):
    (record,), _ = read(tmp_path, "path,track_id\na.wav,a\n")
    assert record == TrackRecord("a", str(tmp_path / "a.wav"), None, draw_split("a", SHARES), {})


def test_absolute_path_stays(tmp_path):
    (record,), _ = read(tmp_path, "track_id,path\na,/music/a.wav\n")
    assert record.path == "/music/a.wav"


@pytest.mark.parametrize("cells", [",,,", "  , , ; ;, ", ""], ids=["empty", "blank", "short row"])
def test_empty_cells_are_unknown_labels(tmp_path, cells):
    text = f"track_id,path,artist,split,genre,tempo\na,a.wav,{cells}\nb,b.wav,x,test,rock,100\n"
    records, rejected = read(tmp_path, text)
    assert records[0] == TrackRecord("a", str(tmp_path / "a.wav"), None, draw_split("a", SHARES), {})
    assert rejected == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",a.wav,,,rock", "no track_id"),
        ("b,,,,rock", "no path"),
        ("b", "no path"),
        ("b,b.wav,dev,,rock", "unknown split 'dev', legal: train, val, test"),
        ("b,b.wav,,fast,rock", "tempo 'fast' is not a number of BPM from 10 to 1000" + WAY_OUT),
        ("b,b.wav,,90-120,rock", "tempo '90-120' is not a number of BPM from 10 to 1000" + WAY_OUT),
        ("b,b.wav,,1_20,rock", "tempo '1_20' is not a number of BPM from 10 to 1000" + WAY_OUT),
        ("b,b.wav,,9.9,rock", "tempo '9.9' is not a number of BPM from 10 to 1000" + WAY_OUT),
        ("b,b.wav,,1000.5,rock", "tempo '1000.5' is not a number of BPM from 10 to 1000" + WAY_OUT),
        ("b,b.wav,,,rock, pop", "more cells than the header has columns: put cells that hold a comma in quotes"),
    ],
)
def test_rows_are_rejected_with_their_reason(tmp_path, row, reason):
    text = f"track_id,path,split,tempo,genre\nfirst,1.wav,,,rock\n{row}\nlast,2.wav,,1000,rock,\n"
    records, rejected = read(tmp_path, text)
    assert [record.track_id for record in records] == ["first", "last"]
    cells = [*row.split(","), ""]
    assert rejected == [Rejected(cells[0], cells[1], f"{reason} (m.csv, line 3)")]


def test_the_first_of_two_rows_of_one_track_is_kept(tmp_path):
    records, rejected = read(tmp_path, "track_id,path,genre\na,1.wav,rock\nb,2.wav,\na,3.wav,jazz\n")
    assert [(record.track_id, record.labels) for record in records] == [("a", {"genre": ["rock"]}), ("b", {})]
    assert rejected == [Rejected("a", str(tmp_path / "3.wav"), "duplicate track_id, the first one is kept")]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "has no column track_id, path"),
        (b"track_id,genre\na,rock\n", "has no column path; it has: track_id, genre"),
        (b"track_id|path\na|a.wav\n", r"it has: track_id\|path \(columns are separated by comma, semicolon, tab\)"),
        (
            b'track_id,path,"genre\na,a.wav,rock\n',
            "the column 'genre' runs over several lines, close its quotation mark",
        ),
        (b"track_id,path\n", "has no rows"),
        (b"track_id,path\na,\xe9.wav\n", "cannot be read as UTF-8 CSV, line 2: save it as UTF-8"),
        (b'track_id,path\na,"' + b"x" * 200_000 + b'"\n', "cannot be read as UTF-8 CSV"),
        (b"track_id,path,track\na,a.wav,one\n", "a condition cannot be called 'track'"),
    ],
    ids=["empty", "no path", "other separator", "open quotation mark", "no rows", "latin-1", "huge cell", "track"],
)
def test_files_that_are_no_manifest(tmp_path, content, match):
    with pytest.raises(ManifestError, match=match) as error:
        read(tmp_path, content)
    assert str(tmp_path / "m.csv") in str(error.value)


@pytest.mark.parametrize("name", ["gone.csv", "."], ids=["missing", "folder"])
def test_unreadable_file(tmp_path, name):
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / name, SHARES)


def test_numeric_columns_are_no_conditions(tmp_path, caplog):
    text = "track_id,path,year,genre,danceability,tempo\na,a.wav,1999,80s,,120\nb,b.wav,,1,0.5,90\n"
    with caplog.at_level(logging.WARNING):
        records, _ = read(tmp_path, text)
    assert [record.labels for record in records] == [
        {"genre": ["80s"], "tempo": 120.0},
        {"genre": ["1"], "tempo": 90.0},
    ]
    assert "year, danceability" in caplog.text


def test_named_conditions_alone_are_read(tmp_path):
    text = "track_id,path,year,genre,mood,tempo\na,a.wav,1999,rock,sad,120\n"
    (record,), _ = read(tmp_path, text, conditions=["mood", "year"])
    assert record.labels == {"mood": ["sad"], "year": ["1999"]}
    (record,), _ = read(tmp_path, "track_id,path\na,a.wav\n", conditions=["tempo"])  # to be estimated
    assert record.labels == {}


@pytest.mark.parametrize(("name", "match"), [("gnere", "choose from: genre, track"), ("track", "cannot be called")])
def test_named_conditions_must_be_there_and_legal(tmp_path, name, match):
    with pytest.raises(ManifestError, match=match):
        read(tmp_path, "track_id,path,genre,track\na,a.wav,rock,1\n", conditions=["genre", name])


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (record,), _ = read(tmp_path, "\ufefftrack_id,path\né,é.wav\n")
    assert (record.track_id, record.path) == ("é", str(tmp_path / "é.wav"))


def test_tracks_of_an_artist_share_a_split(tmp_path):
    rows = "".join(f"t{i},{i}.wav,artist {i % 20}\n" for i in range(400))
    records, _ = read(tmp_path, "track_id,path,artist\n" + rows)
    splits: dict[str, set[str]] = {}
    for record in records:
        splits.setdefault(record.artist, set()).add(record.split)
    assert len(splits) == 20
    assert all(len(of_artist) == 1 for of_artist in splits.values())
    assert len({split for of_artist in splits.values() for split in of_artist}) > 1


def test_split_does_not_depend_on_the_other_rows(tmp_path):
    rows = [f"t{i},{i}.wav\n" for i in range(50)]
    everything, _ = read(tmp_path, "track_id,path\n" + "".join(rows))
    some, _ = read(tmp_path, "track_id,path\n" + "".join(rows[::-3]))
    assert {(r.track_id, r.split) for r in some} <= {(r.track_id, r.split) for r in everything}


def test_split_is_the_same_for_ever():
    drawn = [draw_split(name, SHARES) for name in ("a", "b", "c", "Björk", "t9")]
    assert drawn == ["train", "train", "train", "val", "test"]


def test_shares_of_the_splits():
    counts = Counter(draw_split(f"name {i}", SHARES) for i in range(5000))
    assert [counts[split] / 5000 for split in SPLITS] == pytest.approx(SHARES, abs=SHARE_ATOL)


@pytest.mark.parametrize("only", SPLITS)
def test_a_share_of_zero_draws_none(only):
    shares = [float(split == only) for split in SPLITS]
    assert {draw_split(f"name {i}", shares) for i in range(1000)} == {only}


def test_an_open_quotation_mark_is_named_and_swallows_nothing(tmp_path):
    message = r"m.csv cannot be read .*: line 3: the cell 'rock,' of column 'genre' runs over several lines, close"
    with pytest.raises(ManifestError, match=message):
        read(tmp_path, 'track_id,path,genre\na,a.wav,"rock,\nb,b.wav,jazz\n')
    records, _ = read(tmp_path, 'track_id,path,genre\na,a.wav,"Weird Al" rock\nb,b.wav,jazz\n')
    assert [record.track_id for record in records] == ["a", "b"]


def test_metadata_are_no_conditions_unless_they_are_chosen(tmp_path):
    header = "track_id,path,artist,Title,album,genre\n"
    write = tmp_path / "manifest.csv"
    write.write_text(header + "a,a.wav,Ann,None,The; Album,rock\nb,b.wav,,,,\n", encoding="utf-8")
    corpus = read_manifest(write, SHARES)
    first, second = corpus.rows()
    assert corpus.conditions == ["genre"]
    assert first.metadata == {"title": "None", "album": "The; Album"}
    assert second.metadata is None
    assert "Album" not in first.content()
    chosen = read_manifest(write, SHARES, ["album", "genre"])
    first = next(iter(chosen.rows()))
    assert chosen.conditions == ["album", "genre"]
    assert first.labels["album"] == ["Album", "The"]
    assert first.metadata == {"title": "None"}
