"""A network that tells nothing apart is said to have collapsed, once; one that does is not."""

import logging

import pytest
import torch
from tiny_runs import TinyData, tiny_module, tiny_trainer

from callbacks.collapse import CollapseWarning
from disentangled_ml.evaluation.collapse import COLLAPSED, collapse_remarks
from disentangled_ml.network.masks import LearnedMasks


def equal_embeddings(module) -> None:
    """Make a network embed everything as one vector."""
    norm = module.network.backbone.head.project[1]
    norm.weight.zero_()
    norm.bias.fill_(1.0)


def equal_in_mood(module) -> None:
    """Make a network embed everything alike in the dimensions of mood."""
    norm = module.network.backbone.head.project[1]
    norm.weight[8:16].zero_()


def dead_mask(module) -> None:
    """Make the learned mask of genre die."""
    module.network.masks.weight[0] = -1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (equal_embeddings, ["collapse: the embeddings of all 24 tracks are equal"]),
        (equal_in_mood, ["collapse: in the subspace of mood all 24 tracks are equal"]),
        (dead_mask, ["collapse: the mask of genre is 0 throughout"]),
        (lambda module: None, []),
    ],
    ids=["all", "one subspace", "a mask", "none"],
)
def test_a_collapse_is_said_once(tmp_path, caplog, change, said):
    masks = {"masks": LearnedMasks} if change is dead_mask else {}
    module = tiny_module(learning_rate=0.0, **masks)
    with torch.no_grad():
        change(module)
    with caplog.at_level(logging.WARNING):
        tiny_trainer(tmp_path, CollapseWarning(), epochs=2).fit(module, TinyData())
    messages = [record.getMessage() for record in caplog.records if record.name == "callbacks.collapse"]
    assert len(messages) == len(said)
    assert all(message.startswith(start) for message, start in zip(messages, said, strict=True))


@pytest.mark.parametrize(("apart", "n_remarks"), [(0.9 * COLLAPSED, 1), (1.1 * COLLAPSED, 0)])
def test_what_rounding_tells_apart_is_equal(apart, n_remarks):
    embedding = torch.eye(2)[[0] * 9] + apart * torch.tensor([[0.0, 1.0]] + 8 * [[0.0, 0.0]])
    assert len(collapse_remarks(embedding, torch.ones(1, 2), ["genre"])) == n_remarks


def test_few_tracks_may_be_copies():
    assert not collapse_remarks(torch.ones(4, 2), torch.ones(1, 2), ["genre"])
    assert not collapse_remarks(torch.empty(0, 0), torch.ones(1, 2), ["genre"])
