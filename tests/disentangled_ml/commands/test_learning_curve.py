"""Accuracy against the number of training tracks, by real trainings on tiny shards."""

import json
import signal

import pytest
from PIL import Image

from disentangled_ml import processes
from disentangled_ml.commands import learning_curve, table
from disentangled_ml.commands.schemas import LearningCurveConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.reporting.learning_curve import draw_curve
from tests.conftest import write_tiny_shards
from tests.disentangled_ml.commands.test_table import TRAIN, start_warm


def make(shards, out, *arguments: str) -> None:
    given = [f"shards={shards}", f"out={out}", "base=table", f"train=[{','.join(TRAIN)}]", "triplets_per_condition=60"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "start", start_warm)
        # They are looked at in test_table.
        for name in ("draw_accuracies", "draw_matrices"):
            patch.setattr(table, name, lambda *_: None)
        before = signal.getsignal(signal.SIGTERM)
        try:
            learning_curve.main(load_config(LearningCurveConfig, [*given, "jobs=2", *arguments]))
        finally:
            signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_each_number_of_tracks_has_its_table_on_the_same_triplets(tmp_path, capsys):
    n_tracks = 12
    shards = write_tiny_shards(tmp_path / "shards", train=n_tracks, val=8, test=16)
    make(shards, tmp_path / "curve", "systems=[random,disentangled]", "sizes=[8]", "seeds=[0]")
    curve = json.loads((tmp_path / "curve/learning_curve.json").read_text())
    assert [point["tracks"] for point in curve] == [8, n_tracks]
    assert [[row["system"] for row in point["rows"]] for point in curve] == [["random", "disentangled"]] * 2
    assert {row["space"] for row in curve[0]["rows"]} == {"all", "sub"}
    assert not (tmp_path / f"curve/{n_tracks}/shards").exists()
    lists = [(folder / "triplets").glob("test-*.csv") for folder in (tmp_path / "curve/8/shards", shards)]
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


def test_other_shards_in_the_same_folder_are_refused(tmp_path):
    out, arguments = tmp_path / "curve", ("systems=[random]", "sizes=[4]", "seeds=[0]")
    make(write_tiny_shards(tmp_path / "a", train=8, val=4, test=20), out, *arguments)
    kept = (out / "4/shards/index.json").read_bytes()
    others = write_tiny_shards(tmp_path / "b", train=9, val=4, test=20)
    with pytest.raises(ConfigError, match=r"was begun with shards=.*, or another out"):
        make(others, out, *arguments)
    (out / "settings.json").unlink()
    with pytest.raises(
        ConfigError, match="does not say of which shards its subsets are: delete it, or give another out"
    ):
        make(others, out, *arguments)
    assert (out / "4/shards/index.json").read_bytes() == kept


def test_a_condition_without_test_triplets_has_no_line(tmp_path):
    nothing = {"accuracy": None, "ci95": [None, None], "n": 0}
    row = {"system": "a", "title": "a", "matrix": {"genre": {}, "mood": {}}, "genre": {"accuracy": 0.7, "n": 9}}
    draw_curve([{"tracks": n, "rows": [{**row, "mood": nothing, "mean": 0.7}]} for n in (4, 8)], tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 300
