"""Labels where there are none: probabilities in the samples, thresholds in the index, labels for all that read."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.audio import musicnn
from datamodules.audio.tempo import Tempo
from datamodules.batches.streams import Source
from datamodules.corpora.manifest import read_manifest
from datamodules.shards import preparation
from datamodules.shards.conditions import build_conditions
from datamodules.shards.estimates import labelled, threshold
from datamodules.shards.index import ShardIndex, ShardsError, labels_name
from datamodules.shards.preparation import PreparationSettings, prepare_shards, prepare_tracks
from datamodules.shards.tar import decode_features, decode_info, read_infos, read_samples, share_slices
from disentangled_ml.commands.schemas import PrepareConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.prepare import build_corpus, estimated_conditions
from disentangled_ml.structures import SPLITS, AudioSettings, TrackInfo
from tests.disentangled_ml.catalogues import write_recordings

N = 10
SHARE = 0.3
ROUNDING = 0.01  # of a probability: three digits, and features in float16
SETTINGS = PreparationSettings(
    AudioSettings(),
    tempo="manifest",
    tracks_per_shard=4,
    features=("msd",),
    estimated=("mood",),
    tag_share=SHARE,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("recordings"), N, 4.0)


def prepared(manifest: Path, out: Path, settings: PreparationSettings = SETTINGS) -> ShardIndex:
    """Prepare in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "Workers", HereAlone)
        return prepare_shards(read_manifest(manifest, [0.6, 0.2, 0.2]), out, settings, 1)


class HereAlone:
    """Workers that are this process."""

    def __init__(self, n: int, work: partial):
        self.work = work

    def __enter__(self) -> HereAlone:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, groups: Iterable[Any]) -> Iterator[Any]:
        for group in groups:
            yield from self.work(group)


@pytest.fixture(scope="module")
def index(manifest, tmp_path_factory) -> ShardIndex:
    return prepared(manifest, tmp_path_factory.mktemp("estimates") / "out")


def all_infos(index: ShardIndex) -> dict[str, TrackInfo]:
    return {info.track_id: info for split in SPLITS for info in read_infos(index, split)}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_the_stated_share_is_above_a_threshold(share):
    probabilities = np.random.default_rng(0).permutation(np.linspace(0, 1, 200))
    assert (probabilities >= threshold(probabilities, share)).sum() == max(1, round(200 * share))


def test_the_index_says_what_is_estimated(index):
    genre, tempo, mood = index.conditions
    assert (genre["name"], tempo["name"], mood["name"]) == ("genre", "tempo", "mood")
    assert "estimated" not in genre
    assert tempo == {"name": "tempo", "kind": "tempo"}
    assert mood["vocabulary"] == sorted(musicnn.CONDITION_TAGS["mood"]["msd"]) == list(mood["thresholds"])
    assert (mood["estimated"], mood["share"]) == ("musicnn", SHARE)
    assert index.estimated() == ["mood"]
    assert ShardIndex.read(index.root) == index


def test_every_tag_is_had_by_the_stated_share_of_the_tracks(index):
    infos = all_infos(index)
    assert len(infos) == N
    counts = Counter(tag for info in infos.values() for tag in info.labels.get("mood", []))
    # Of two tracks with the same probability both have the tag.
    assert all(round(SHARE * N) <= counts[tag] <= round(SHARE * N) + 1 for tag in index.thresholds()["mood"])
    assert all(set(info.labels["genre"]) <= {"jazz", "rock"} for info in infos.values())


def test_probabilities_are_the_mean_over_the_windows(index):
    for sample in read_samples(index.root, share_slices(index.splits["train"], 0, 1), ("json", "musicnn.npy")):
        logits = musicnn.tag_logits(decode_features(sample["musicnn.npy"], 200).astype(np.float32), "msd")
        info = decode_info(sample["json"])
        assert "mood" not in info.labels
        for tag, probability in info.estimates["mood"].items():
            windows = 1 / (1 + np.exp(-logits[:, musicnn.TAGS["msd"].index(tag)]))
            assert probability == pytest.approx(windows.mean(), rel=ROUNDING)


def test_of_tags_that_mean_the_same_the_highest_counts():
    features = np.random.default_rng(0).normal(size=(3, 400)).astype(np.float32)
    found = musicnn.tag_probabilities(features, ("msd", "mtt"), ("mood", "instrument"))
    probabilities = (1 / (1 + np.exp(-musicnn.tag_logits(features[:, 200:], "mtt")))).mean(0)
    of = dict(zip(musicnn.TAGS["mtt"], probabilities, strict=True))
    highest = max(of[tag] for tag in ("male vocal", "male voice", "male", "man"))
    assert found["instrument"]["male vocals"] == pytest.approx(highest, rel=ROUNDING)
    assert found["instrument"]["harp"] == pytest.approx(of["harp"], rel=ROUNDING)
    alone = musicnn.tag_probabilities(features[:, :200], ("msd",), ("mood",))
    assert found["mood"] == alone["mood"]


def test_a_tag_that_the_network_of_a_condition_lacks_is_that_of_the_other():
    features = np.random.default_rng(0).normal(size=(3, 400)).astype(np.float32)
    both = musicnn.tag_probabilities(features, ("msd", "mtt"), ("genre",))["genre"]
    alone = musicnn.tag_probabilities(features[:, :200], ("msd",), ("genre",))["genre"]
    assert (both.keys() - alone.keys(), both.items() >= alone.items()) == ({"classical"}, True)
    probabilities = (1 / (1 + np.exp(-musicnn.tag_logits(features[:, 200:], "mtt")))).mean(0)
    named = [probabilities[musicnn.TAGS["mtt"].index(tag)] for tag in ("classical", "classic")]
    assert both["classical"] == pytest.approx(max(named), rel=ROUNDING)


def test_labels_are_the_same_for_all_who_read(index, tmp_path):
    infos = all_infos(index)
    source = Source(index, build_conditions(index), chunk_frames=129)
    streamed = {info.track_id: info.labels for split in SPLITS for info, _ in source.read(index.splits[split], 0)}
    assert streamed == {track_id: info.labels for track_id, info in infos.items()}
    for split in SPLITS:
        (index.root / labels_name(split)).rename(tmp_path / split)
    try:
        assert all_infos(index) == infos
    finally:
        for split in SPLITS:
            (tmp_path / split).rename(index.root / labels_name(split))


def test_repeating_changes_nothing_and_another_share_the_index_alone(index, manifest):
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in index.root.glob("*.tar")}
    assert prepared(manifest, index.root) == index
    more = prepared(manifest, index.root, replace(SETTINGS, tag_share=0.6))
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in index.root.glob("*.tar")} == before
    assert more.fingerprint() != index.fingerprint()
    least, now = index.thresholds()["mood"], more.thresholds()["mood"]
    assert all(now[tag] <= least[tag] for tag in least)
    assert prepared(manifest, index.root) == index


def test_a_given_label_stays():
    info = TrackInfo("a", None, 9, {"mood": ["given"]}, estimates={"mood": {"sad": 0.9}})
    assert labelled(info, {"mood": {"sad": 0.1}}).labels == {"mood": ["given"]}
    assert labelled(info, {}).labels == {"mood": ["given"]}
    without = TrackInfo("a", None, 9, {}, estimates={"mood": {"sad": 0.1}})
    assert labelled(without, {"mood": {"sad": 0.2}}).labels == {}


def test_estimated_tempi_are_counted(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(
        preparation, "estimate_tempi", lambda excerpts, _: [Tempo(120.0, None) if len(x) else None for x in excerpts]
    )
    rows = manifest.read_text().splitlines()
    partly = manifest.with_name("partly.csv")
    partly.write_text("\n".join([rows[0], *(row.rpartition(",")[0] + "," for row in rows[1:4]), *rows[4:]]))
    settings = replace(SETTINGS, tempo="torch", features=(), estimated=())
    index = prepared(partly, tmp_path / "partly", settings)
    assert index.conditions[1] == {"name": "tempo", "kind": "tempo", "estimated": "madmom", "estimated_tracks": 3}
    assert prepared(partly, tmp_path / "partly", settings) == index
    unmarked = [index.conditions[0], {"name": "tempo", "kind": "tempo"}]
    assert replace(index, conditions=unmarked).fingerprint() == index.fingerprint()
    lacking = manifest.with_name("lacking.csv")
    lacking.write_text("\n".join(row.rpartition(",")[0] for row in rows))
    index = prepared(lacking, tmp_path / "lacking", settings)
    assert index.conditions[1]["estimated_tracks"] == N


def test_samples_without_estimates_are_stored_as_before():
    assert TrackInfo("a", None, 9, {}).as_plain() == {"track_id": "a", "artist": None, "frames": 9, "labels": {}}
    assert "estimated" not in replace(SETTINGS, estimated=()).content()
    assert replace(SETTINGS, tag_share=0.7).content() == SETTINGS.content()


@pytest.mark.parametrize(
    "estimates", ['{"mood": 3}', '{"mood": {"sad": "yes"}}', "[]", '"mood"', '{"mood": {"sad": null}}']
)
def test_estimates_that_are_none(estimates):
    with pytest.raises(ShardsError, match="member json does not hold the labels of a track"):
        decode_info(
            f'{{"track_id": "a", "artist": null, "frames": 9, "labels": {{}}, "estimates": {estimates}}}'.encode()
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": {"sad": 0.1}}, "thresholds of condition 'mood'"),
        ({"thresholds": [0.1]}, "thresholds of condition 'mood'"),
        ({"estimated": 3}, "what estimated condition 'mood'"),
    ],
)
def test_an_index_whose_thresholds_do_not_fit(index, tmp_path, change, message):
    content = json.loads((index.root / "index.json").read_text())
    content["conditions"][2] |= change
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(ShardsError, match=message):
        ShardIndex.read(tmp_path)


def config_of(manifest: Path, *arguments: str):
    return load_config(PrepareConfig, [f"manifest={manifest}", "out=x", "tags=musicnn", *arguments])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["features=musicnn"], ("mood",)),
        (["features=musicnn_mtt"], ("instrument",)),
        (["features=musicnn_both"], ("mood", "instrument")),
        (["features=musicnn_both", "conditions=[genre,instrument]"], ("instrument",)),
        (["features=musicnn", "conditions=[tempo]"], ()),
    ],
)
def test_what_the_manifest_lacks_is_estimated_as_far_as_the_features_tell(manifest, arguments, expected):
    config = config_of(manifest, *arguments)
    corpus = build_corpus(config)
    assert "genre" in corpus.conditions or "conditions=[tempo]" in arguments
    assert estimated_conditions(config, corpus) == expected


def without_genres(manifest: Path) -> Path:
    """Write a manifest whose column of genres says nothing; return it."""
    with open(manifest, newline="") as file:
        rows = [{**row, "genre": ("", "unknown")[number % 2]} for number, row in enumerate(csv.DictReader(file))]
    written = manifest.with_name("no_genres.csv")
    with open(written, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return written


@pytest.mark.parametrize(
    ("chosen", "expected"), [([], ("genre", "mood")), (["conditions=[genre]"], ("genre",))], ids=["all", "genre"]
)
def test_a_column_that_says_nothing_is_estimated_as_one_that_is_not_there(manifest, chosen, expected):
    config = config_of(without_genres(manifest), "features=musicnn", *chosen)
    corpus = build_corpus(config)
    assert "genre" not in corpus.conditions
    assert estimated_conditions(config, corpus) == expected


def test_a_chosen_column_that_says_nothing_and_cannot_be_estimated_is_named(manifest, caplog):
    bare = without_genres(manifest)
    config = config_of(bare, "features=musicnn_mtt", "conditions=[genre]")
    with pytest.raises(ConfigError, match="genre is not in the data"):
        estimated_conditions(config, build_corpus(config))
    caplog.clear()
    assert read_manifest(bare, [1, 0, 0], ["genre", "tempo"]).conditions == ["tempo"]
    assert "no_genres.csv: columns without any known value make no condition: genre" in caplog.text


def test_conditions_of_no_track_are_named(manifest, tmp_path, caplog):
    corpus = read_manifest(manifest, [0.6, 0.2, 0.2])
    named = corpus._replace(conditions=[*corpus.conditions, "theme"])  # as a data set may have it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "Workers", HereAlone)
        made = prepare_shards(named, tmp_path, replace(SETTINGS, features=(), estimated=()), 1)
    assert [entry["name"] for entry in made.conditions] == ["genre", "tempo"]
    assert "no track has a label of theme, which is left out of the conditions" in caplog.text


def test_what_cannot_be_estimated(manifest):
    with pytest.raises(ConfigError, match=r"tags=musicnn .*: give features=musicnn .* or musicnn_both"):
        config_of(manifest)
    config = config_of(manifest, "features=musicnn", "conditions=[instrument]")
    with pytest.raises(ConfigError, match=r"instrument is not in the data.*use musicnn_mtt or musicnn_both"):
        estimated_conditions(config, build_corpus(config))


def test_estimates_come_with_the_samples(manifest):
    record = next(read_manifest(manifest, [1, 0, 0]).rows())
    (sample,) = prepare_tracks([record], SETTINGS)
    assert set(sample["info"].estimates) == {"mood"}
    (plain,) = prepare_tracks([record], replace(SETTINGS, estimated=()))
    assert plain["info"].estimates is None
