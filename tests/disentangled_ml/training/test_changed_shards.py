"""A run whose shards are prepared anew while it trains ends and says so, rather than learn from both."""

import json
import shutil
from pathlib import Path

import pytest

from callbacks.unchanged_shards import UnchangedShards
from datamodules.shards.index import INDEX_NAME, ShardIndex, ShardsError
from tests.conftest import train_here

TOLD = r"shards was prepared anew, or is being, while it was read: wait until prepare has ended, .* another run_name"


@pytest.fixture
def shards(tmp_path, tiny_shards) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards", ignore=shutil.ignore_patterns("triplets")))


def run(shards: Path, tiny_arguments: tuple[str, ...], *arguments: str) -> Path:
    runs = shards.parent / "runs"
    where = (f"data.shards={shards}", f"runs={runs}", "run_name=changed", "training.max_epochs=3")
    train_here(*tiny_arguments, *where, *arguments)
    return runs / "changed"


def write_other_index(shards: Path) -> None:
    content = json.loads((shards / INDEX_NAME).read_text())
    content["splits"]["train"]["shards"][0]["digest"] = "other"
    (shards / INDEX_NAME).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change", [write_other_index, lambda shards: (shards / INDEX_NAME).unlink()], ids=["made", "being made"]
)
def test_shards_that_change_during_an_epoch_end_the_run_before_its_checkpoint(
    shards, tiny_arguments, monkeypatch, change
):
    epochs = []

    def on_train_epoch_start(self, trainer, *_):
        epochs.append(trainer.current_epoch)
        if trainer.current_epoch == 1:
            change(shards)

    monkeypatch.setattr(UnchangedShards, "on_train_epoch_start", on_train_epoch_start)
    with pytest.raises(ShardsError, match=TOLD):
        run(shards, tiny_arguments)
    assert epochs == [0, 1]


def test_a_shard_that_was_replaced_is_not_taken_for_damage(shards, tiny_arguments, monkeypatch):
    read = ShardIndex.read

    def read_then_change(root):
        index = read(root)
        monkeypatch.setattr(ShardIndex, "read", read)
        write_other_index(shards)
        tars = sorted(shards.glob("train-*.tar"))
        shutil.copy(shards / "val-000000.tar", tars[0])
        return index

    monkeypatch.setattr(ShardIndex, "read", read_then_change)
    with pytest.raises(ShardsError, match=TOLD):
        run(shards, tiny_arguments, "data.max_damaged=0.5")
