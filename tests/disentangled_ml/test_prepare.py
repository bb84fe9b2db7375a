"""What ``prepare`` reads: a manifest or one of the data sets, whose keys stand in conf/data/."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from pkgutil import resolve_name

import pytest
from omegaconf import OmegaConf

from datamodules.corpora.manifest import read_manifest
from datamodules.corpora.records import collect
from datamodules.corpora.text_files import CorpusError
from datamodules.shards.index import ShardIndex
from disentangled_ml.commands.schemas import CORPORA, PrepareConfig, corpus_choices
from disentangled_ml.config import ConfigError, TrainConfig, load_config, loading
from disentangled_ml.config.loading import CONF
from disentangled_ml.prepare import build_corpus, count_reasons, kind_of, log_summary
from disentangled_ml.structures import SPLITS, AudioSettings

WHERE = ("corpus.metadata=m", "corpus.audio=a")
HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\r\n"


@pytest.fixture
def conf(tmp_path, monkeypatch) -> Path:
    """Copy conf/ to a place where a test may change it."""
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setattr(loading, "CONF", tmp_path / "conf")
    return tmp_path / "conf"


@pytest.fixture
def jamendo(tmp_path) -> list[str]:
    """Give the arguments of a list of two tracks and a row that cannot be used."""
    rows = ("t\ta\tb\t1/1.mp3\t9\tgenre---rock\tinstrument---guitar", "u\ta\tb\t1/2.mp3\t9\tmood/theme---sad", "v\ta")
    (tmp_path / "autotagging-train.tsv").write_bytes((HEADER + "".join(f"{row}\r\n" for row in rows)).encode())
    return ["data=mtg_jamendo", f"corpus.metadata={tmp_path}", f"corpus.audio={tmp_path}"]


def test_there_is_a_reader_for_every_schema_and_a_file_for_every_reader():
    assert all(callable(resolve_name(schema.reader)) for schema in CORPORA.values())
    assert {OmegaConf.load(CONF / "data" / f"{name}.yaml").corpus.reader for name in corpus_choices()} == set(CORPORA)


@pytest.mark.parametrize("name", corpus_choices())
def test_the_file_of_a_data_set_names_every_key(name):
    given = OmegaConf.load(CONF / "data" / f"{name}.yaml").corpus
    schema = CORPORA[given.pop("reader")].__dataclass_fields__
    assert set(given) == set(schema)
    tree = load_config(PrepareConfig, [f"data={name}", *WHERE])
    assert (tree.data, tree.out, tree.manifest) == (name, f"shards/{name}", None)
    assert set(tree.corpus) == set(schema)
    assert (tree.corpus.metadata, tree.corpus.audio) == ("m", "a")


@pytest.mark.parametrize("name", corpus_choices())
def test_training_on_a_data_set_knows_its_shards_alone(name):
    tree = load_config(TrainConfig, [f"data={name}"])
    assert tree.data.shards == f"shards/{name}"
    assert "corpus" not in tree.data
    with pytest.raises(ConfigError, match=r"'data\.corpus\.audio' is unknown"):
        load_config(TrainConfig, [f"data={name}", "data.corpus.audio=a"])


@pytest.mark.parametrize("arguments", [["out=o"], ["out=o", "data=None"]], ids=["", "data=None"])
def test_a_manifest_as_ever(tmp_path, arguments):
    (tmp_path / "m.csv").write_text("track_id,path,genre\na,a.wav,rock\n")
    tree = load_config(PrepareConfig, [f"manifest={tmp_path}/m.csv", *arguments])
    assert collect(build_corpus(tree)) == collect(read_manifest(tmp_path / "m.csv", tree.split_shares))
    assert (tree.out, tree.corpus) == ("o", None)


def test_values_that_are_unknown_can_be_chosen(tmp_path):
    (tmp_path / "m.csv").write_text("track_id,path,genre\na,a.wav,none\nb,b.wav,NaN\n")
    keys = [f"manifest={tmp_path}/m.csv", "out=o"]
    for given, expected in (((), [{}, {}]), (["unknown_values=[nan]"], [{"genre": ["none"]}, {}])):
        records, _ = collect(build_corpus(load_config(PrepareConfig, [*keys, *given])))
        assert [record.labels for record in records] == expected
    with pytest.raises(ConfigError, match=r"unknown_values is of manifests, data=msd has its own rows"):
        load_config(PrepareConfig, ["data=msd", *WHERE, "unknown_values=[]"])


def test_what_was_changed_is_told_at_the_end(tmp_path, caplog):
    (tmp_path / "m.csv").write_text("track_id,path,Artist,genre\na,a.wav,nan,Rock\nb,b.wav,NaN,rock\n,,,\n")
    corpus = build_corpus(load_config(PrepareConfig, [f"manifest={tmp_path}/m.csv", "out=o"]))
    (tmp_path / "rejected.csv").write_text("track_id,path,reason\n")
    (tmp_path / "warnings.csv").write_text("track_id,path,warning\n")
    index = ShardIndex(tmp_path, AudioSettings(), False, [{"name": "genre"}], {split: [] for split in SPLITS})
    with caplog.at_level(logging.INFO):
        log_summary(index, corpus.notes)
    assert [record.getMessage().removeprefix(f"{tmp_path / 'm.csv'}: ") for record in caplog.records][1:] == [
        "column 'Artist' is artist",
        "blank rows left out: 1",
        "values taken as unknown: 2 (1 nan, 1 NaN); unknown_values=[] keeps them",
        "column genre: spellings shown as another: 1, as 'rock' as 'Rock'",
    ]


def test_arguments_beat_the_file_of_the_data_set():
    tree = load_config(
        PrepareConfig, ["corpus.edition=low", "out=o", "--data=mtg_jamendo", "--corpus.metadata=007", WHERE[1]]
    )
    assert (tree.corpus.edition, tree.corpus.metadata, tree.out) == ("low", "007", "o")


def test_tags_can_be_sorted_otherwise_and_conditions_added():
    keys = ["corpus.tags.genre=[rock]", "corpus.tags={era: [80s, 90s]}"]
    tags = load_config(PrepareConfig, ["data=msd", *WHERE, *keys]).corpus.tags
    assert (list(tags), tags.genre, tags.era) == (["genre", "mood", "instrument", "era"], ["rock"], ["80s", "90s"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=msd"], r"no value for corpus.audio, corpus.metadata: give it as corpus.audio=VALUE"),
        (["data=msd", WHERE[1]], r"no value for corpus.metadata: give it as corpus.metadata=VALUE"),
        (["data=demo"], r"data=demo is no data set: choose one of magnatagatune, msd, mtg_jamendo"),
        (["data=mds"], r"data=mds is no data set"),
        (["manifest=m", "out=o", "corpus.audio=a"], r"corpus.audio is of a data set: choose one as data=NAME, magna"),
        (["data=msd", *WHERE, "manifest=m"], r"manifest is of manifests, data=msd has its own rows and splits"),
        (["data=msd", *WHERE, "split_shares=[1,0,0]"], r"split_shares is of manifests, data=msd has"),
        (["data=msd", *WHERE, "corpus.edition=low"], r"'corpus.edition' is unknown.*legal here: corpus.metadata"),
        (["data=mtg_jamendo", *WHERE, "corpus.tag_threshold=3"], r"'corpus.tag_threshold' is unknown"),
        (["data=msd", *WHERE, "corpus.reader=mtg_jamendo"], r"'corpus.reader' is unknown"),
        (["data=msd", "corpus=None"], r"corpus is no key by itself: give its keys, as corpus.metadata=DIR"),
        (["data=msd", *WHERE, "corpus.tags.genre=rock"], r"^corpus.tags.genre"),
        (["data=msd", *WHERE, "corpus.tag_threshold=high"], r"^corpus.tag_threshold=high is not a number"),
    ],
)
def test_keys_that_do_not_fit(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_config(PrepareConfig, arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shards: s\ncorpus: {reader: mine}\n", "data=mine: corpus.reader=mine is unknown: choose one of msd, "),
        ("shards: s\ncorpus: {audio: a}\n", "data=mine: corpus.reader=None is unknown"),
        ("shards: s\ncorpus: {reader: msd, adio: a}\n", r"'corpus\.adio' is unknown \(did you mean audio\?\)"),
    ],
)
def test_faults_in_the_file_of_a_data_set(conf, text, message):
    (conf / "data" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(PrepareConfig, ["data=mine", *WHERE])


def test_a_data_set_of_ones_own(conf, jamendo, tmp_path):
    text = "shards: s\ncorpus: {reader: mtg_jamendo, subset: autotagging, edition: low, tags: {style: genre}}\n"
    (conf / "data" / "mine.yaml").write_text(text)
    tree = load_config(PrepareConfig, ["data=mine", *jamendo[1:]])
    records, _ = collect(build_corpus(tree))
    assert [(record.path, record.labels) for record in records] == [
        (f"{tmp_path}/1/1.low.mp3", {"style": ["rock"]}),
        (f"{tmp_path}/1/2.low.mp3", {}),
    ]
    assert tree.out == "s"


def test_conditions_choose_among_those_of_the_data_set(jamendo):
    catalogue = build_corpus(load_config(PrepareConfig, [*jamendo, "conditions=[tempo, genre]"]))
    assert catalogue.conditions == ["tempo", "genre"]
    records, rejected = collect(catalogue)
    assert [record.labels for record in records] == [{"genre": ["rock"]}, {}]
    assert [row.track_id for row in rejected] == ["v"]
    assert build_corpus(load_config(PrepareConfig, jamendo)).conditions == ["genre", "mood", "instrument"]


@pytest.mark.parametrize("conditions", ["[gnere]", "[]", "[genre, genre]"])
def test_conditions_that_the_data_set_has_not(jamendo, conditions):
    with pytest.raises(CorpusError, match=r"are not legal: choose distinct ones of genre, mood, instrument, tempo"):
        build_corpus(load_config(PrepareConfig, [*jamendo, f"conditions={conditions}"]))


def test_a_folder_of_recordings_that_is_not_there(jamendo):
    with pytest.raises(
        ConfigError, match=r"corpus.audio=/nowhere is not a folder: give the one that holds the recordings"
    ):
        build_corpus(load_config(PrepareConfig, [*jamendo, "corpus.audio=/nowhere"]))
    build_corpus(
        load_config(PrepareConfig, [*jamendo, "corpus.audio=/nowhere", "merge=true"])
    )  # which needs no recording


def test_rejections_are_counted_by_kind():
    reasons = [
        *("empty file", "missing file", "missing file", "empty file", "empty file"),
        *("shorter than a chunk: 0.35 s, 3.00 s needed", "shorter than a chunk: 1.10 s, 3.00 s needed"),
        *("tag 'a' is '2', not 0 or 1", "tag 'b(c' is '7', not 0 or 1"),
        *("unexpected OSError: disk", "unexpected KeyError: 'x'"),
    ]
    assert count_reasons(reasons) == (
        "11 rejected: 2 missing file, 3 empty file, 2 shorter than a chunk, 2 tag ... is ..., "
        "1 unexpected KeyError, 1 unexpected OSError"
    )


@pytest.mark.parametrize("reason", ["sample rate of 3 Hz (legal: 4000 to 768000)", "sample rate of 12.5 Hz"])
def test_numbers_do_not_make_a_kind(reason):
    assert kind_of(reason) == "sample rate of ... Hz"
