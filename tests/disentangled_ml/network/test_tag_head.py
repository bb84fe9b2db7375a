"""The model of which nothing is trained: its head, and the parts of its embedding, which weigh alike."""

import pytest
import torch

from datamodules.audio import musicnn
from disentangled_ml.chunks import FEATURE_SIZE, pack
from disentangled_ml.network.checkpoint import make_tags_network
from disentangled_ml.network.model import balance
from disentangled_ml.network.tag_head import TagHead
from disentangled_ml.structures import AudioSettings

TAGS = {"genre": ["rock", "pop", "jazz"], "mood": ["sad", "happy"]}
AUDIO = AudioSettings(n_mels=16)
ATOL = 1e-6  # of sums in float32


@pytest.fixture
def network():
    draw = torch.Generator().manual_seed(0)
    made = make_tags_network(TAGS, AUDIO, ("msd",)).eval()
    made.head.weight.copy_(torch.randn(FEATURE_SIZE, 5, generator=draw))
    return made


def chunks(number: int, features: torch.Tensor) -> torch.Tensor:
    mel = torch.rand(number, 1, 16, 129, generator=torch.Generator().manual_seed(1)).numpy()
    return torch.stack([torch.from_numpy(pack(one, row.numpy())) for one, row in zip(mel, features, strict=True)])


def test_the_head_gives_standardised_logits():
    head = TagHead(4, 2)
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    head.weight.copy_(torch.arange(8.0).view(4, 2))
    head.bias.copy_(torch.tensor([1.0, -1.0]))
    logits = torch.stack([sum(row[i] * head.weight[i] for i in range(4)) + head.bias for row in features])
    assert torch.allclose(head.logits(features), logits, atol=1e-5)
    head.mean.copy_(logits.mean(0))
    head.deviation.copy_(logits.std(0))
    assert torch.allclose(head(features), (logits - logits.mean(0)) / logits.std(0), atol=1e-5)
    assert head(features.half()).dtype == torch.float32


def test_every_condition_has_the_same_share_of_a_unit_embedding(network):
    embedding = network(chunks(3, torch.randn(3, FEATURE_SIZE)))
    masks = network.masks()
    assert embedding.shape == (3, 5 + 96)
    assert masks.sum(1).tolist() == [3, 2, 96]
    assert network.condition_names == ["genre", "mood", "tempo"]
    assert torch.allclose(embedding.square() @ masks.T, torch.full((3, 3), 1 / 3), atol=ATOL)
    # The mean of chunks that differ is shorter in some parts than in others, until it is scaled as they are.
    mean = embedding.mean(0, keepdim=True)
    assert (mean.square() @ masks.T).std() > ATOL
    assert torch.allclose(network.normalised(mean).square() @ masks.T, torch.full((1, 3), 1 / 3), atol=ATOL)


def test_a_chunk_without_onsets_has_no_rhythm_and_still_unit_length(network):
    silent = chunks(1, torch.randn(1, FEATURE_SIZE))
    silent[:, :, :16] = 0
    embedding = network(silent)
    assert embedding.isfinite().all()
    assert not embedding[:, 5:].any()
    assert torch.allclose(embedding.norm(dim=1), torch.ones(1), atol=ATOL)


def test_scaling_one_condition_changes_no_other():
    masks = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    one, other = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 3.0]])
    assert torch.allclose(balance(one, masks), balance(other, masks), atol=ATOL)
    assert not balance(torch.zeros(1, 3), masks).any()


def test_nothing_is_trained_and_the_state_holds_the_head_alone(network):
    assert not list(network.parameters())
    assert set(network.state_dict()) == {f"head.{name}" for name in ("weight", "bias", "mean", "deviation")}


@pytest.mark.parametrize("condition", musicnn.CONDITION_TAGS)
def test_the_tags_of_a_condition_are_tags_of_the_network_each_once(condition):
    for model in musicnn.CONDITION_TAGS[condition]:
        rows = musicnn.tag_rows(condition, model)
        assert len(set(rows)) == len(rows)
