"""Progress of training in a file: one line per epoch."""

from types import SimpleNamespace

import pytest
import torch

from callbacks.epoch_lines import EpochLines


def train(rank: int) -> None:
    """Run the hooks of one epoch."""
    metrics = {"val/loss": torch.tensor(0.05), "val/triplet_accuracy/mean": torch.tensor(0.9)}
    trainer = SimpleNamespace(
        current_epoch=7,
        num_training_batches=3,
        callback_metrics=metrics,
        is_global_zero=not rank,
    )
    lines = EpochLines()
    lines.on_train_epoch_start(trainer, None)
    for _ in range(3):
        lines.on_train_batch_end(trainer, None, None, None, 0)
    lines.on_train_epoch_end(trainer, None)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_shows_a_line_per_epoch(capsys, rank):
    train(rank)
    shown = "Epoch 7: 3 of 3, 0 s, val/loss 0.0500, val/triplet_accuracy/mean 0.9000\n"
    assert capsys.readouterr().err == ("" if rank else shown)
