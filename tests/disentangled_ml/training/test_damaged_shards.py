"""A run on shards that are damaged in part goes on and says so; on shards that are damaged too much it ends and names them."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from datamodules.shards.index import ShardIndex, ShardsError, labels_name
from datamodules.shards.tar import read_infos
from disentangled_ml.files import as_json
from tests.conftest import train_here

SPLITS = ("train", "val", "test")


@pytest.fixture
def shards(tmp_path, tiny_shards) -> Path:
    """Copy the shards, with the files of labels that ``prepare`` leaves beside them."""
    index = ShardIndex.read(
        Path(shutil.copytree(tiny_shards, tmp_path / "shards", ignore=shutil.ignore_patterns("triplets")))
    )
    for split in SPLITS:
        lines = (as_json(info._asdict()) + "\n" for info in read_infos(index, split))
        (index.root / labels_name(split)).write_text("".join(lines))
    return index.root


def damage(shards: Path, *splits: str) -> None:
    """Lose a training shard; cut a validation or a test shard in the middle."""
    if "train" in splits:
        (shards / "train-000001.tar").unlink()
    for split in {"val", "test"} & set(splits):
        path = shards / f"{split}-000000.tar"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def run(shards: Path, tiny_arguments: tuple[str, ...], *arguments: str) -> Path:
    runs = shards.parent / "runs"
    where = (f"data.shards={shards}", f"runs={runs}", "run_name=damaged", "training.max_epochs=2")
    train_here(*tiny_arguments, *where, *arguments)
    return runs / "damaged"


@pytest.mark.parametrize("with_labels", [True, False], ids=["with labels", "tars alone"])
def test_damage_within_the_limit_is_skipped_and_reported(shards, tiny_arguments, caplog, with_labels):
    """The list is of all tracks where their labels are known; else it is of those that are left, and is not kept."""
    if not with_labels:
        for path in shards.glob("labels-*.jsonl"):
            path.unlink()
    damage(shards, *SPLITS)
    with caplog.at_level(logging.WARNING):
        run_dir = run(shards, tiny_arguments, "data.max_damaged=0.5")
    messages = [record.getMessage() for record in caplog.records]
    for name in ("train-000001.tar", "val-000000.tar", "test-000000.tar"):
        assert any(f"skipped: shard {shards / name} " in message for message in messages), name
    report = json.loads((run_dir / "evaluation.json").read_text())
    assert (sum(report["skipped"].values()) > 0) == with_labels
    assert all(report["sub"][name]["n"] > 0 for name in ("genre", "mood", "tempo"))
    assert "test/triplet_accuracy/mean" in json.loads((run_dir / "metrics.json").read_text())
    assert any(shards.glob("triplets/*.csv")) == with_labels


@pytest.mark.parametrize("split", SPLITS)
def test_damage_beyond_the_limit_ends_the_run(shards, tiny_arguments, split):
    damage(shards, split)
    with pytest.raises(ShardsError, match=rf"shard .*{split}-00000..tar .*more than data.max_damaged=0.01 allows"):
        run(shards, tiny_arguments)
