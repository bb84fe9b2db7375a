"""The readers on real metadata in the publishers' own files, cut to their first lines, which are no part of the repository.

The folder is named by METADATA_SAMPLES, or lies beside the repository as ``../shared/data/metadata_samples``.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from datamodules.corpora.records import collect
from disentangled_ml.commands.schemas import PrepareConfig
from disentangled_ml.config import load_config
from disentangled_ml.prepare import build_corpus
from disentangled_ml.structures import TrackRecord

ROOT = Path(__file__).parents[3]
SAMPLES = Path(os.environ.get("METADATA_SAMPLES", ROOT.parent / "shared" / "data" / "metadata_samples"))
pytestmark = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason=f"no real metadata in {SAMPLES}: name their folder by METADATA_SAMPLES"
)
COUNTS = {  # per split: tracks, and those with a label of genre, mood and instrument
    ("msd", "msd"): {"val": (500, 429, 71, 56), "test": (500, 441, 59, 72)},
    ("mtg_jamendo", "mtg_jamendo"): {"val": (399, 399, 55, 27), "test": (399, 395, 80, 81)},
    ("mtg_jamendo", "mtg_jamendo", "corpus.subset=autotagging_moodtheme"): {"train": (399, 0, 399, 0)},
}


def read_sample(data: str, folder: str, *arguments: str) -> tuple[list[TrackRecord], int]:
    keys = [f"data={data}", f"corpus.metadata={SAMPLES}/{folder}", f"corpus.audio={SAMPLES}"]
    records, rejected = collect(build_corpus(load_config(PrepareConfig, [*keys, *arguments])))
    return records, len(rejected)


@pytest.mark.parametrize("sample", COUNTS, ids=" ".join)
def test_counts_per_split_and_condition(sample):
    records, n_rejected = read_sample(*sample)
    assert n_rejected == 0
    found = {}
    for split in {record.split for record in records}:
        of_split = [record for record in records if record.split == split]
        labelled = Counter(condition for record in of_split for condition in record.labels)
        found[split] = (len(of_split), *(labelled[name] for name in ("genre", "mood", "instrument")))
    assert found == COUNTS[sample]


@pytest.mark.parametrize(
    ("sample", "tags"),
    [
        (("msd", "msd"), {"genre": ("rock", 167), "mood": ("beautiful", 10), "instrument": ("female vocalists", 63)}),
        (("mtg_jamendo", "mtg_jamendo"), {"genre": ("electronic", 402), "instrument": ("guitar", 36)}),
    ],
    ids=["msd", "mtg_jamendo"],
)
def test_counts_of_some_tags(sample, tags):
    records, _ = read_sample(*sample)
    for condition, (tag, n) in tags.items():
        assert sum(tag in record.labels.get(condition, ()) for record in records) == n, tag


def test_what_a_row_becomes():
    first, *_, last = read_sample("msd", "msd")[0]
    expected = {"genre": ["electronic"], "mood": ["chillout"]}
    assert first == TrackRecord("TRYLROL128F931C1A7", f"{SAMPLES}/3/9/3974574.clip.mp3", None, "val", expected)
    assert (last.track_id, last.path) == ("TRALKSW128F92E2DC1", f"{SAMPLES}/5/2/5280339.clip.mp3")
    first, *_ = read_sample("mtg_jamendo", "mtg_jamendo", "corpus.edition=low")[0]
    expected = {"genre": ["electronic"]}
    assert first == TrackRecord("track_0000773", f"{SAMPLES}/73/773.low.mp3", "artist_000104", "val", expected)
