"""MagnaTagATune's annotations, written by the tests in the publisher's form: tabs, quotes, a column per tag."""

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.corpora.magnatagatune import read_magnatagatune
from datamodules.corpora.records import collect
from datamodules.corpora.text_files import CorpusError
from disentangled_ml.commands.schemas import PrepareConfig
from disentangled_ml.config import load_config
from disentangled_ml.structures import Rejected, TrackInfo, TrackRecord

COLUMNS = ("no voice", "clasical", "classical", "guitars", "classical guitar", "sad", "slow")
TAGS = {"genre": ["classical"], "mood": ["sad"], "instrument": ["guitar", "classical guitar", "no vocals"]}
SYNONYMS = {
    "classical": ["clasical"],
    "guitar": ["guitars", "classical guitar"],
    "no vocals": ["no voice"],
}
CLIPS = [  # clip_id, tags, mp3_path
    ("2", {"clasical", "sad"}, "f/bach-01-117-146.mp3"),
    ("6", {"classical guitar", "classical"}, "c/bach-02-0-29.mp3"),
    ("10", {"guitars", "slow"}, "0/jag-01-0-29.mp3"),
    ("11", {"no voice"}, "b/jag-02-0-29.mp3"),
    ("12", set(), "d/jag-03-0-29.mp3"),
]
ALL_TAGS = """
acoustic, acoustic guitar, airy, ambient, arabic, banjo, baroque, bass, beat, beats, bells, birds, blues, bongos, calm, cello, celtic,
chant, chanting, chimes, choir, choral, chorus, clapping, clarinet, clasical, classic, classical, classical guitar, country, dance,
dark, deep, different, disco, drone, drum, drums, duet, eastern, echo, eerie, electric, electric guitar, electro, electronic,
electronica, english, fast, fast beat, female, female opera, female singer, female singing, female vocal, female vocals,
female voice, fiddle, flute, flutes, folk, foreign, funk, funky, girl, guitar, guitars, happy, hard, hard rock, harp, harpsichord,
harpsicord, heavy, heavy metal, hip hop, horn, horns, house, india, indian, industrial, instrumental, irish, jazz, jazzy, jungle,
keyboard, light, lol, loud, low, lute, male, male opera, male singer, male vocal, male vocals, male voice, man, man singing,
medieval, mellow, men, metal, middle eastern, modern, monks, new age, no beat, no drums, no flute, no guitar, no piano, no singer,
no singing, no strings, no violin, no vocal, no vocals, no voice, no voices, noise, not classical, not english, not opera, not rock,
oboe, old, opera, operatic, orchestra, orchestral, organ, oriental, percussion, piano, piano solo, plucking, pop, punk, quick,
quiet, rap, reggae, repetitive, rock, sad, sax, scary, silence, singer, singing, sitar, slow, soft, soft rock, solo, soprano,
space, spacey, spanish, strange, string, strings, synth, synthesizer, talking, techno, trance, tribal, trumpet, upbeat, viola,
violin, violins, vocal, vocals, voice, voices, water, weird, wind, woman, woman singing, women, woodwind, world
"""
EVERY_COLUMN = [tag.strip() for tag in ALL_TAGS.split(",")]


def write_table(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows(rows)


def write_annotations(folder: Path, clips: list = CLIPS, columns: tuple | list = COLUMNS) -> Path:
    rows = [[clip_id, *(str(int(tag in tags)) for tag in columns), path] for clip_id, tags, path in clips]
    write_table(folder / "annotations_final.csv", [["clip_id", *columns, "mp3_path"], *rows])
    return folder


@pytest.fixture
def read(tmp_path) -> Callable[..., tuple[list[TrackRecord], list[Rejected]]]:
    """Read the annotations in ``tmp_path``, or those given."""

    def read(clips: list | None = None, **how) -> tuple[list[TrackRecord], list[Rejected]]:
        if clips is not None:
            write_annotations(tmp_path, clips)
        return collect(read_magnatagatune(str(tmp_path), "/audio", **{"tags": TAGS, "synonyms": SYNONYMS, **how}))

    return read


def test_every_row_with_its_synonyms(read):
    records, rejected = read(CLIPS)
    labels = [
        {"genre": ["classical"], "mood": ["sad"]},
        {"genre": ["classical"], "instrument": ["classical guitar", "guitar"]},
        {"instrument": ["guitar"]},
        {"instrument": ["no vocals"]},
        {},
    ]
    splits = ["test", "val", "train", "train", "test"]
    assert records == [
        TrackRecord(clip_id, f"/audio/{path}", None, split, label)
        for (clip_id, _, path), split, label in zip(CLIPS, splits, labels, strict=True)
    ]
    assert rejected == []


def test_the_folder_tells_the_split(read):
    folders = "0123456789abcdef"
    records, _ = read([(folder, set(), f"{folder}/x.mp3") for folder in folders])
    assert "".join(record.split[0] for record in records) == "t" * 12 + "v" + "t" * 3
    assert [record.split for record in records].count("test") == 3


def test_artists_of_the_clips(read, tmp_path):
    header = ["clip_id", "track_number", "title", "artist", "album", "url", "segmentStart", "segmentEnd"]
    rows = [["10", "1", 'A "B"', "Jag", "x", "u", "0", "29"], ["11", "2", "B", "", "x", "u", "0", "29"]]
    write_table(
        tmp_path / "clip_info_final.csv", [[*header, "original_url", "mp3_path"], *([*row, "o", "m"] for row in rows)]
    )
    records, _ = read(CLIPS)
    assert [record.artist for record in records] == [None, None, "Jag", None, None]


def test_missing_artists_are_said(read, caplog):
    with caplog.at_level(logging.WARNING):
        read(CLIPS)
    assert "has no clip_info_final.csv, so the artists are unknown" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"10"', '""', "no track_id"),
        ('"0/jag-01-0-29.mp3"', '""', "no path"),
        ('"0/jag-01-0-29.mp3"', '"g/x.mp3"', "path 'g/x.mp3' is in none of the folders 0 to f, which tell the split"),
        ('"10"\t"0"', '"10"\t"2"', "tag 'no voice' is '2', not 0 or 1"),
        ('\t"1"\t"0/jag-01-0-29.mp3"', "", "no path"),
    ],
    ids=["no id", "no path", "other folder", "two", "short"],
)
def test_rows_are_rejected_with_their_reason(read, tmp_path, old, new, reason):
    path = write_annotations(tmp_path) / "annotations_final.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    records, rejected = read()
    assert [record.track_id for record in records] == ["2", "6", "11", "12"]
    assert [found.reason for found in rejected] == [reason]


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (
            {"tags": {"mood": ["sda"]}},
            r"annotations_final\.csv has no tag 'sda': correct corpus.tags or corpus.synonyms",
        ),
        ({"tags": {"instrument": ["guitar"]}, "synonyms": {}}, "has no tag 'guitar'"),
        ({"tags": {"instrument": ["guitar"]}, "synonyms": {"guitar": []}}, "has no tag 'guitar'"),
        ({"synonyms": {**SYNONYMS, "sad": ["bad"]}}, "has no tag 'bad'"),
        ({"tags": {"tempo": ["slow"]}}, "a condition of tags cannot be called 'tempo'"),
        ({"tags": {"mood": ["mp3_path"]}}, "has no tag 'mp3_path'"),
    ],
)
def test_tags_that_are_unknown(read, how, match):
    with pytest.raises(CorpusError, match=match):
        read(CLIPS, **how)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("clip_id,sad,mp3_path", "line 1: no column clip_id, mp3_path in this tab-separated file"),
        ("clip_id\tsad", "line 1: no column mp3_path"),
        ("clip_id\tsad\tsad\tmp3_path", "line 1: two columns have one name"),
        ("", "line 1: no column clip_id, mp3_path"),
    ],
)
def test_tables_of_another_form(read, tmp_path, header, match):
    (tmp_path / "annotations_final.csv").write_text(header + "\n")
    with pytest.raises(CorpusError, match=rf"annotations_final\.csv, {match}"):
        read()


def test_a_missing_table(read, tmp_path):
    with pytest.raises(CorpusError, match=rf"{tmp_path} has no annotations_final\.csv: give the folder of it"):
        read()


@pytest.mark.parametrize("n_rows", [0, 2], ids=["in the header", "further down"])
def test_a_table_that_is_no_text(read, tmp_path, n_rows):
    path = write_annotations(tmp_path, CLIPS[:n_rows]) / "annotations_final.csv"
    path.write_bytes(path.read_bytes() + b"\xff\t\xfe\n")
    with pytest.raises(CorpusError, match=r"annotations_final\.csv cannot be read as UTF-8 text"):
        read()


def test_artists_of_another_form(read, tmp_path):
    (tmp_path / "clip_info_final.csv").write_text("clip_id\ttitle\n")
    with pytest.raises(CorpusError, match=r"clip_info_final\.csv, line 1: no column artist"):
        read(CLIPS)


def configured() -> dict[str, dict[str, list[str]]]:
    corpus = load_config(PrepareConfig, ["data=magnatagatune", "corpus.metadata=m", "corpus.audio=a"]).corpus
    return {"tags": corpus.tags, "synonyms": corpus.synonyms}


def test_the_configuration_names_columns_of_the_data_set(tmp_path):
    assert len(set(EVERY_COLUMN)) == len(EVERY_COLUMN) == 188
    folder = write_annotations(tmp_path, [(tag, {tag}, "0/x.mp3") for tag in EVERY_COLUMN], EVERY_COLUMN)
    records, rejected = collect(read_magnatagatune(str(folder), "/audio", **configured()))
    assert rejected == []
    labels = {record.track_id: record.labels for record in records}
    assert labels["clasical"] == {"genre": ["classical"]}
    assert labels["female opera"] == {"genre": ["opera"], "instrument": ["female vocals"]}
    assert labels["classical guitar"] == {"instrument": ["classical guitar", "guitar"]}
    assert labels["no singer"] == labels["instrumental"] == {"instrument": ["no vocals"]}
    assert labels["slow"] == labels["singing"] == labels["no piano"] == {}


def test_every_synonym_of_the_configuration_serves_a_tag():
    tags = {tag for names in configured()["tags"].values() for tag in names}
    assert set(configured()["synonyms"]) <= tags


def test_from_annotations_and_clips_to_shards(tmp_path, prepare_corpus, write_noise, caplog):
    metadata = write_annotations(tmp_path / "metadata", [*CLIPS, ("13", {"sad"}, "1/empty.mp3")], EVERY_COLUMN)
    write_table(metadata / "clip_info_final.csv", [["clip_id", "artist"], ["6", "Bach"]])
    for _, _, path in CLIPS[:3]:
        write_noise(tmp_path / "audio" / path)
    (tmp_path / "audio" / "1").mkdir()
    (tmp_path / "audio" / "1" / "empty.mp3").touch()
    arguments = [f"corpus.metadata={metadata}", f"corpus.audio={tmp_path}/audio"]
    with caplog.at_level(logging.INFO):
        tracks, rejected = prepare_corpus("data=magnatagatune", *arguments)
    assert tracks == {
        "train": [TrackInfo("10", None, 0, {"instrument": ["guitar"]})],
        "val": [TrackInfo("6", "Bach", 0, {"genre": ["classical"], "instrument": ["classical guitar", "guitar"]})],
        "test": [TrackInfo("2", None, 0, {"genre": ["classical"], "mood": ["sad"]})],
    }
    assert rejected == {"11": "missing file", "12": "missing file", "13": "empty file"}
    assert "3 rejected: 2 missing file, 1 empty file, see " in caplog.text
