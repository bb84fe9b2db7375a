"""Manifests as people and programs write them, rule by rule (docs/manifests.md), and what is told of it."""

import csv
import io
import logging
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from datamodules.audio.decoding import UnusableAudio, decode
from datamodules.corpora.cells import UNKNOWN_VALUES
from datamodules.corpora.manifest import ManifestError, read_manifest
from datamodules.corpora.records import collect, draw_split
from disentangled_ml.config.loading import CONF
from disentangled_ml.structures import Corpus, TrackRecord

SHARES = [0.7, 0.1, 0.2]
NFC, NFD = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))


def open_manifest(folder: Path, text: str | bytes, **how) -> Corpus:
    manifest = folder / "m.csv"
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(manifest, SHARES, **how)


def read(folder: Path, text: str | bytes, **how) -> list[TrackRecord]:
    """Read a manifest none of whose rows is rejected."""
    records, rejected = collect(open_manifest(folder, text, **how))
    assert rejected == []
    return records


def notes(folder: Path, text: str, **how) -> list[str]:
    found = open_manifest(folder, text, **how).notes
    assert all(note.startswith(f"{folder / 'm.csv'}: ") for note in found)
    return [note.removeprefix(f"{folder / 'm.csv'}: ") for note in found]


def tags(records: list[TrackRecord], column: str = "genre") -> list[list[str]]:
    return [record.labels.get(column, []) for record in records]


def test_manifests_that_were_right_before_are_read_as_they_were(tmp_path):
    """Splits that are drawn, too."""
    text = (
        "track_id,path,artist,split,tempo,genre\n1,a/1.wav,Ella,,120,rock; Jazz\n2,b.wav,,test,,\n"
        "3,b.wav,Miles  Davis,,,pop\n4,c.wav,Ella,,90.5,Jazz\n"
    )
    corpus = open_manifest(tmp_path, text)
    former = [
        TrackRecord("1", str(tmp_path / "a/1.wav"), "Ella", "test", {"tempo": 120.0, "genre": ["Jazz", "rock"]}),
        TrackRecord("2", str(tmp_path / "b.wav"), None, "test", {}),
        TrackRecord("3", str(tmp_path / "b.wav"), "Miles  Davis", "train", {"genre": ["pop"]}),
        TrackRecord("4", str(tmp_path / "c.wav"), "Ella", "test", {"tempo": 90.5, "genre": ["Jazz"]}),
    ]
    assert list(corpus.rows()) == former
    assert corpus.notes == []


# Columns


@pytest.mark.parametrize(
    "header",
    [
        "track_id,path,artist,split,tempo,genre",
        "Track_ID,PATH,Artist,Split,Tempo,genre",
        ' track id , "path ","artist ",split ,BPM,\tgenre ',
    ],
    ids=["as they are", "capitals", "blanks"],
)
def test_known_columns_whatever_their_case_and_blanks(tmp_path, header):
    expected = TrackRecord("a", str(tmp_path / "a.wav"), "Ann", "val", {"tempo": 120.0, "genre": ["rock"]})
    corpus = open_manifest(tmp_path, f"{header}\na,a.wav,Ann,val,120,rock\n")
    assert collect(corpus) == ([expected], [])
    assert sorted(corpus.conditions) == ["genre", "tempo"]


def test_columns_of_sections_in_capitals(tmp_path):
    (record,) = read(tmp_path, "track_id,path,Start,END \na,a.wav,1.5,3\n")
    assert (record.track_id, record.section) == ("a@1.5-3", (1.5, 3.0))


def test_other_columns_keep_their_case_and_are_chosen_in_any(tmp_path):
    text = "track_id,path,Genre ,Mood,BPM\na,a.wav,rock,sad,120\n"
    assert open_manifest(tmp_path, text).conditions == ["Genre", "Mood", "tempo"]
    assert open_manifest(tmp_path, text, conditions=["genre", "bpm"]).conditions == ["Genre", "tempo"]


def test_renamed_columns_are_told(tmp_path):
    text = "track_id,path,Artist,BPM,Genre \na,a.wav,Ann,120,rock\n"
    assert notes(tmp_path, text) == ["column 'Artist' is artist", "column 'BPM' is tempo"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("track_id,path,Tempo,BPM", "two columns for tempo: 'Tempo' and 'BPM'; rename or delete one of them"),
        ("track_id,path,artist,Artist ", "two columns for artist: 'artist' and 'Artist '"),
        ("track_id,Track ID,path", "two columns for track_id: 'track_id' and 'Track ID'"),
        ("track_id,path,genre,Genre", "two columns of one name: 'genre' and 'Genre'"),
        (f"track_id,path,{NFC},{NFD}", "two columns of one name"),
    ],
)
def test_two_columns_for_one_thing(tmp_path, header, message):
    with pytest.raises(ManifestError, match=f"m.csv has {message}"):
        open_manifest(tmp_path, f"{header}\n1,2,3,4\n")


# Unknown values


def test_the_file_of_keys_names_the_unknown_values_of_the_reader():
    for command in ("prepare", "embed"):
        assert tuple(OmegaConf.load(CONF / f"{command}.yaml").unknown_values) == UNKNOWN_VALUES


@pytest.mark.parametrize("value", ["nan", "NaN", "None", "NA", "N/A", "null", "-", " NULL ", "#N/A", "<NA>", "Unknown"])
def test_unknown_values_are_as_empty_cells(tmp_path, value):
    rows = ",".join(["b", "b.wav", *[value] * 7])
    text = f"track_id,path,artist,split,tempo,genre,mood,start,end\na,a.wav,x,val,100,rock,sad,0,1\n{rows}\n"
    record = read(tmp_path, text)[1]
    assert record == TrackRecord("b", str(tmp_path / "b.wav"), "recording b", draw_split("b", SHARES), {})


def test_unknown_values_are_counted(tmp_path):
    text = "track_id,path,artist,genre\na,a.wav,nan,rock\nb,b.wav,nan,None;jazz\nc,c.wav,Ann,nan\n"
    corpus = open_manifest(tmp_path, text)
    assert tags(collect(corpus)[0]) == [["rock"], ["jazz"], []]
    assert notes(tmp_path, text) == ["values taken as unknown: 4 (3 nan, 1 None); unknown_values=[] keeps them"]


def test_ids_and_paths_are_never_unknown(tmp_path):
    (record,) = read(tmp_path, "track_id,path,genre\nNA,none,rock\n")
    assert (record.track_id, record.path) == ("NA", str(tmp_path / "none"))


def test_a_tag_that_is_really_called_none(tmp_path):
    text = "track_id,path,artist,genre\na,a.wav,None,none\nb,b.wav,NaN,nan\n"
    records = read(tmp_path, text, unknown_values=["nan"])
    assert [record.artist for record in records] == ["None", None]
    assert tags(records) == [["none"], []]
    assert tags(read(tmp_path, text, unknown_values=[])) == [["none"], ["nan"]]


def test_unknown_values_make_no_column_of_numbers_one_of_tags(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        corpus = open_manifest(tmp_path, "track_id,path,year,key\na,a.wav,1999,NA\nb,b.wav,N/A,\n")
    assert corpus.conditions == []
    assert "columns of numbers, not tags, make no condition: year" in caplog.text
    assert "columns without any known value make no condition: key" in caplog.text


# Lists


@pytest.mark.parametrize("cell", ["['rock', 'jazz']", '["rock","jazz",]', "[ 'rock' , \"jazz\" ]", "rock;jazz"])
def test_written_lists(tmp_path, cell):
    file = io.StringIO()
    csv.writer(file).writerows([["track_id", "path", "genre"], ["a", "a.wav", cell], ["b", "b.wav", "[]"]])
    assert tags(read(tmp_path, file.getvalue())) == [["jazz", "rock"], []]


@pytest.mark.parametrize("cell", ["[traditional]", "['rock'", "rock']", "['rock' 'jazz']"])
def test_brackets_that_are_no_list_are_part_of_a_tag(tmp_path, cell):
    assert tags(read(tmp_path, f"track_id,path,genre\na,a.wav,{cell}\n")) == [[cell]]


def test_written_lists_are_told(tmp_path):
    rows = "".join(f"{i},a.wav,\"['rock', 'jazz']\"\n" for i in range(3))
    assert notes(tmp_path, f"track_id,path,genre\n{rows}") == [
        "column genre: cells written as lists, each read as its tags: 3"
    ]


@pytest.mark.parametrize("cell", ["rock, jazz", "rock|jazz"])
def test_a_warning_where_many_cells_look_like_lists(tmp_path, caplog, cell):
    rows = "".join(f'{i},a.wav,"{cell}",{cell if i == 9 else "sad"!r}\n' for i in range(10)).replace("'", '"')
    with caplog.at_level(logging.WARNING):
        records = read(tmp_path, f"track_id,path,genre,mood\n{rows}")
    message = f"column genre: 10 of 10 cells look like lists ('{cell}'), but each is taken as one tag: join tags by ;"
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path / 'm.csv'}: {message}"]
    assert tags(records) == [[cell]] * 10
    assert notes(tmp_path, f"track_id,path,genre,mood\n{rows}") == []  # it is told once


# The file


def test_an_open_quotation_mark_above_the_header_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match="has no column track_id"):
        read(tmp_path, 'sep=,"\n,,,\n,,,\ntrack_id,path\na,a.wav\n')


@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("above", ["", "\n\n", "sep=S\n", '"sep=S"\n\n', ",,,\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_line_ends_and_encodings(tmp_path, separator, above, end, encoding):
    rows = [["track_id", "path", "genre", "tempo"], ["é", "a.wav", "rock;jazz", "100"], [], ["b", "b.wav", "a,b", "9"]]
    file = io.StringIO(newline="")
    file.write(above.replace("S", separator).replace("\n", end))
    csv.writer(file, delimiter=separator, lineterminator=end).writerows(rows)
    records, (rejected,) = collect(open_manifest(tmp_path, file.getvalue().encode(encoding)))
    labels = {"genre": ["jazz", "rock"], "tempo": 100.0}
    assert records == [TrackRecord("é", str(tmp_path / "a.wav"), None, draw_split("é", SHARES), labels)]
    line = 4 + above.count("\n")
    assert rejected.reason.endswith(f"(m.csv, line {line})")


def test_tags_of_a_semicolon_file_stand_in_quotes(tmp_path):
    text = 'track_id;path;tempo;genre\na;a.wav;120,5;"rock;jazz"\nb;b.wav;;rock;jazz\n'
    records, (rejected,) = collect(open_manifest(tmp_path, text))
    assert [record.labels for record in records] == [{"tempo": 120.5, "genre": ["jazz", "rock"]}]
    assert "put cells that hold a semicolon in quotes (m.csv, line 3)" in rejected.reason


def test_decimal_commas_are_numbers_where_no_comma_separates_columns(tmp_path):
    text = "track_id;path;energy;start;end\na;a.wav;0,5;1,25;2\n"
    corpus = open_manifest(tmp_path, text)
    assert corpus.conditions == []
    assert [row.section for row in corpus.rows()] == [(1.25, 2.0)]
    text = 'track_id,path,tempo\na,a.wav,"120,5"\n'
    (rejected,) = open_manifest(tmp_path, text).rows()
    assert rejected.reason.startswith("tempo '120,5' is not a number of BPM")


def test_blank_rows_are_no_rows(tmp_path):
    text = "track_id,path,genre\n\na,a.wav,rock\n,,\n , ,,,\n\nb,b.wav,jazz\n"
    assert [record.track_id for record in read(tmp_path, text)] == ["a", "b"]
    assert notes(tmp_path, text) == ["blank rows left out: 2"]
    with pytest.raises(ManifestError, match="has no rows below its header"):
        open_manifest(tmp_path, "track_id,path,genre\n,,\n\n")


def test_a_quotation_mark_behind_a_blank(tmp_path):
    (record,) = read(tmp_path, 'track_id, path, artist, genre\na, a.wav, "Ella, F.", "rock;jazz"\n')
    assert (record.artist, record.labels) == ("Ella, F.", {"genre": ["jazz", "rock"]})


# Names


@pytest.mark.parametrize("split", ["Train", "TRAIN ", " train"])
def test_splits_in_any_case(tmp_path, split):
    (record,) = read(tmp_path, f"track_id,path,split\na,a.wav,{split}\n")
    assert record.split == "train"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["The Band", "the band ", "THE BAND", "The Band"], "The Band"),
        (["the  band", "The Band", "The\u00a0Band", "The Band"], "The Band"),
        (["rock", "Rock"], "rock"),
        (["Straße", "STRASSE"], "Straße"),
        ([NFD, NFC, NFC.upper()], NFC),
    ],
    ids=["case", "blanks", "a tie", "German", "Unicode"],
)
def test_one_name_in_several_spellings(tmp_path, names, shown):
    rows = "".join(f"{i},{i}.wav,{name},x;{name}\n" for i, name in enumerate(names))
    records = read(tmp_path, f"track_id,path,artist,genre\n{rows}")
    assert {record.artist for record in records} == {shown}
    assert {record.split for record in records} == {draw_split(shown, SHARES)}
    assert {tuple(record.labels["genre"]) for record in records} == {tuple(sorted(["x", shown]))}


def test_tags_with_and_without_hyphens_are_one_and_artists_are_not(tmp_path):
    names = ["Hip-Hop", "hip hop", "hip_hop", "Hip-Hop", "hiphop"]
    rows = "".join(f"{i},{i}.wav,{name},{name};-\n" for i, name in enumerate(names))
    records = read(tmp_path, f"track_id,path,artist,genre\n{rows}")
    assert tags(records) == [["Hip-Hop"]] * 4 + [["hiphop"]]
    assert len({record.artist for record in records}) == 4


def test_names_in_another_unicode_form_are_told(tmp_path):
    text = f"track_id,path,artist,genre\na,a.wav,{NFD},{NFC}\nb,b.wav,{NFD},rock\n"
    assert {record.artist for record in read(tmp_path, text)} == {NFC}
    assert notes(tmp_path, text) == ["cells brought to the Unicode form NFC: 2"]


def test_spellings_are_chosen_column_by_column_and_told(tmp_path):
    text = "track_id,path,artist,genre,mood\na,a.wav,Sad,sad,Sad\nb,b.wav,Ann,Sad;SAD;Sad,\n"
    records = read(tmp_path, text)
    assert [record.labels for record in records] == [{"genre": ["Sad"], "mood": ["Sad"]}, {"genre": ["Sad"]}]
    assert notes(tmp_path, text) == ["column genre: spellings shown as another: 2, as 'sad' as 'Sad'"]


@pytest.mark.parametrize(
    ("folder", "name", "asked"), [("a", NFD, NFC), ("a", NFC, NFD), (NFC, NFD, NFC), (NFD, NFC, NFD)]
)
def test_files_are_found_in_either_unicode_form(tmp_path, folder, name, asked):
    (tmp_path / folder).mkdir()
    sound = np.tile(np.float32([0.5, -0.5]), 4000)
    soundfile.write(tmp_path / folder / f"{name}.wav", sound, 8000)
    other = unicodedata.normalize("NFD" if unicodedata.is_normalized("NFC", folder) else "NFC", folder)
    assert len(decode(tmp_path / other / f"{asked}.wav")[0]) == 8000
    with pytest.raises(UnusableAudio, match="missing file"):
        decode(tmp_path / other / f"{asked}2.wav")


# Very long cells


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,a.wav,{},,,", "unknown split '{}...'"),
        ("a,a.wav,,{},,", "tempo '{}...' is not a number"),
        ("a,a.wav,,,{},", "start '{}...' is not a number"),
    ],
    ids=["split", "tempo", "start"],
)
def test_a_reason_shows_the_beginning_of_a_very_long_cell(tmp_path, row, reason):
    text = "track_id,path,split,tempo,start,end\n" + row.format("x" * 100_000) + "\n"
    _, (rejected,) = collect(open_manifest(tmp_path, text))
    assert rejected.reason.startswith(reason.format("x" * 60))
    assert len(rejected.reason) < 300


def test_an_error_about_columns_is_short(tmp_path):
    columns = ",".join(f"column{i}" for i in range(10_000))
    with pytest.raises(ManifestError, match=r"has no column track_id, path; it has: column0, .*\.\.\.") as caught:
        open_manifest(tmp_path, columns + "\n")
    assert len(str(caught.value)) < 1000
    with pytest.raises(ManifestError, match="two columns of one name: 'a' and 'a' and ") as caught:
        open_manifest(tmp_path, "track_id,path" + ",a" * 10_000 + "\n")
    assert len(str(caught.value)) < 1000


def test_very_many_columns_take_time_in_proportion(tmp_path, caplog):
    columns = [f"column{i}" for i in range(10_000)]
    text = f"track_id,path,{','.join(columns)}\na,a.wav,{','.join(['rock'] * len(columns))}\n"
    begin = time.process_time()
    corpus = open_manifest(tmp_path, text)
    assert corpus.conditions == columns
    # A second; where each column asks for all others, or each row for all columns, it is a minute.
    assert time.process_time() - begin < 15
    short = text + "".join(f"{i},a.wav,jazz\n" for i in range(10_000))
    assert sum(record.labels == {"column0": ["jazz"]} for record in read(tmp_path, short)) == 10_000
    assert time.process_time() - begin < 15
    caplog.clear()
    open_manifest(tmp_path, text.replace("rock", "1"))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert len(warning.removeprefix(str(tmp_path))) < 1000
