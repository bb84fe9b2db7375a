"""Accuracy against the number of training tracks, by real trainings on tiny shards."""

import json
import signal

import pytest
from PIL import Image

from datamodules.shards.index import ShardIndex
from disentangled_ml import processes
from disentangled_ml.commands import learning_curve
from disentangled_ml.commands.schemas import LearningCurveConfig
from disentangled_ml.config import ConfigError, load_config
from tests.disentangled_ml.commands.test_table import TRAIN, start_warm


def make(shards, out, *arguments: str) -> None:
    given = [f"shards={shards}", f"out={out}", "base=table", f"train=[{','.join(TRAIN)}]", "triplets_per_condition=60"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "start", start_warm)
        before = signal.getsignal(signal.SIGTERM)
        try:
            learning_curve.main(load_config(LearningCurveConfig, [*given, "jobs=2", *arguments]))
        finally:
            signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_each_number_of_tracks_has_its_table_on_the_same_triplets(tiny_shards, tmp_path, capsys):
    n_tracks = ShardIndex.read(tiny_shards).count("train")
    systems = "systems=[mfcc,disentangled]"
    make(tiny_shards, tmp_path / "curve", systems, "sizes=[8]", "seeds=[0]")
    curve = json.loads((tmp_path / "curve/learning_curve.json").read_text())
    assert [point["tracks"] for point in curve] == [8, n_tracks]
    assert [[row["system"] for row in point["rows"]] for point in curve] == [["mfcc", "disentangled"]] * 2
    assert {row["space"] for row in curve[0]["rows"]} == {"all", "sub"}
    lists = [(tmp_path / f"curve/{n}/shards/triplets").glob("test-*.csv") for n in (8, n_tracks)]
    few, every = ([path.read_bytes() for path in sorted(found)] for found in lists)
    assert few == every
    assert few
    with Image.open(tmp_path / "curve/learning_curve.png") as picture:
        assert picture.width > 500
    assert str(n_tracks) in capsys.readouterr().out


@pytest.mark.parametrize("sizes", ["[8,4]", "[1,4]", "[4,4]", "[100000]"])
def test_sizes_must_rise(tiny_shards, tmp_path, sizes):
    with pytest.raises(ConfigError, match=r"must rise from 2 on, below the \d+ training tracks"):
        make(tiny_shards, tmp_path / "curve", f"sizes={sizes}")
