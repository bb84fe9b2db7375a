"""Masks: blocks that share the dimensions, learned masks that stay non-negative, and what the state holds."""

import pytest
import torch

from disentangled_ml.network.masks import MASKS, FixedMasks, GroupMasks, LearnedMasks, NoMasks, disjoint_blocks


@pytest.mark.parametrize(("n_conditions", "embedding_dim"), [(1, 1), (1, 8), (2, 4), (3, 192), (4, 256), (6, 6)])
def test_every_dimension_belongs_to_one_condition(n_conditions, embedding_dim):
    blocks = disjoint_blocks(n_conditions, embedding_dim)
    size = embedding_dim // n_conditions
    assert blocks.shape == (n_conditions, embedding_dim)
    assert blocks.sum(0).tolist() == [1.0] * embedding_dim
    for c, row in enumerate(blocks):
        assert row.nonzero()[:, 0].tolist() == list(range(c * size, (c + 1) * size))
        assert set(row.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(("n_conditions", "embedding_dim", "legal"), [(3, 256, 255), (4, 2, 4), (5, 9, 5)])
def test_dimensions_that_cannot_be_shared(n_conditions, embedding_dim, legal):
    with pytest.raises(ValueError, match=rf"embedding_dim={embedding_dim} .* {n_conditions} conditions.* {legal}\b"):
        FixedMasks(n_conditions, embedding_dim)
    assert embedding_dim % n_conditions
    disjoint_blocks(n_conditions, legal)  # what the message proposes works


def test_no_condition_at_all():
    with pytest.raises(ValueError, match="0 conditions"):
        disjoint_blocks(0, 8)


@pytest.mark.parametrize("name", MASKS)
def test_every_choice_gives_non_negative_masks(name):
    masks = MASKS[name](4, 16)()
    assert masks.shape == (4, 16)
    assert masks.dtype == torch.float32
    assert (masks >= 0).all()


@pytest.mark.parametrize("masks", [FixedMasks(2, 4), NoMasks(2, 4)], ids=["fixed", "none"])
def test_constant_masks_are_no_part_of_a_checkpoint_but_move_with_the_module(masks):
    assert not list(masks.parameters())
    assert not masks.state_dict()
    assert len(list(masks.buffers())) == 1


def test_values_of_constant_masks():
    assert torch.equal(FixedMasks(2, 4)(), disjoint_blocks(2, 4))
    assert torch.equal(NoMasks(2, 4)(), torch.ones(2, 4))


def test_learned_masks_start_disjoint():
    masks, blocks = LearnedMasks(2, 6)(), disjoint_blocks(2, 6).bool()
    assert masks[blocks].tolist() == [1.0] * 6
    assert masks[~blocks].tolist() == pytest.approx([0.1] * 6)


def test_learned_masks_start_random():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = LearnedMasks(8, 512, start="random")
    weight = module.weight.detach()
    assert weight.mean().item() == pytest.approx(0.9, abs=0.05)  # 4096 values of deviation 0.7: four standard errors
    assert weight.std().item() == pytest.approx(0.7, abs=0.05)
    assert (weight < 0).any()
    assert torch.equal(module(), weight.clamp(min=0))


def test_random_start_needs_no_equal_shares():
    assert LearnedMasks(3, 10, start="random")().shape == (3, 10)


def test_learned_masks_are_trained_where_positive():
    module = LearnedMasks(2, 4)
    with torch.no_grad():
        module.weight[0, 0] = -1.0
    module().sum().backward()
    assert module.weight.grad.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert list(module.state_dict()) == ["weight"]


def test_unknown_start():
    with pytest.raises(ValueError, match=r"'zeros' is unknown: choose disjoint or random"):
        LearnedMasks(2, 4, start="zeros")


def test_groups_have_their_own_sizes():
    masks = GroupMasks([2, 1, 3])()
    assert masks.sum(0).tolist() == [1.0] * 6
    assert masks.sum(1).tolist() == [2.0, 1.0, 3.0]
    assert torch.equal(GroupMasks([4, 4])(), disjoint_blocks(2, 8))
    assert not GroupMasks([2, 1]).state_dict()
