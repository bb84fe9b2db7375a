"""The network of random weights against the plain computation, layer by layer in float64; the real weights are in test_musicnn.py."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from datamodules.audio import musicnn_network
from datamodules.audio.musicnn_network import BandFilters, MusicnnNetwork, are_dead, shapes

pytestmark = pytest.mark.usefixtures("one_thread")
ROUNDING = 1e-5  # of sums of up to 4,000 terms in float32; features are of order one
DEAD = slice(3, 40, 5)  # of each layer's filters


def random_weights() -> dict[str, np.ndarray]:
    """Draw weights with which every layer's output is of order one, batch norms that fall and rise, and some dead filters."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in shapes().items():
        kind = name.partition("/")[2]
        if kind == "kernel":
            weights[name] = rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        elif kind == "moving_variance":
            weights[name] = rng.uniform(0.3, 1, shape)
        else:
            weights[name] = rng.normal(0, 0.5, shape)
    for name in [name for name in weights if name.startswith("conv2d") and name.endswith("kernel")]:
        weights[name][..., DEAD] *= 1e-30
    return {name: array.astype(np.float32) for name, array in weights.items()}


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return random_weights()


@pytest.fixture(scope="module")
def network(weights) -> MusicnnNetwork:
    return MusicnnNetwork(weights)


@pytest.fixture(scope="module")
def recording() -> Tensor:
    """Return a log-mel spectrogram of noise, (700, 96)."""
    return torch.rand(700, 96, generator=torch.Generator().manual_seed(0)) * 2


def plain_norm(weights: dict[str, np.ndarray], number: int, x: Tensor) -> Tensor:
    """Apply a batch norm to (..., channels)."""
    name = f"batch_normalization_{number}" if number else "batch_normalization"
    gamma, beta, mean, variance = (
        torch.tensor(weights[f"{name}/{part}"]).double() for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return gamma * (x - mean) / (variance + 1e-3).sqrt() + beta


def plain_filters(weights: dict[str, np.ndarray], number: int, x: Tensor) -> Tensor:
    """Filter (frames, bands), then ReLU and batch norm at every place, and last the maximum over bands: (frames, filters)."""
    name = f"conv2d_{number - 1}" if number > 1 else "conv2d"
    kernel = torch.tensor(weights[f"{name}/kernel"]).double()
    padded = pad(x, (0, 0, (len(kernel) - 1) // 2, len(kernel) // 2))
    bias = torch.tensor(weights[f"{name}/bias"]).double()
    found = conv2d(padded[None, None], kernel.permute(3, 2, 0, 1), bias)[0].permute(1, 2, 0)
    return plain_norm(weights, number, found.relu()).amax(1)


def plain_features(weights: dict[str, np.ndarray], log_mel: Tensor) -> Tensor:
    """Compute the features of one window (frames, 96) as the paper has it."""
    x = plain_norm(weights, 0, log_mel.double()[..., None])[..., 0]
    front = torch.cat([plain_filters(weights, number, x) for number in range(1, 6)], 1)
    first = plain_filters(weights, 6, front)
    second = first + plain_filters(weights, 7, first)
    third = second + plain_filters(weights, 8, second)
    channels = torch.cat([front, first, second, third], 1)
    pooled = torch.stack([channels.amax(0), channels.mean(0)], 1).flatten()
    kernel, bias = (torch.tensor(weights[f"dense/{part}"]).double() for part in ("kernel", "bias"))
    return plain_norm(weights, 10, (plain_norm(weights, 9, pooled) @ kernel + bias).relu())


@pytest.mark.parametrize("n_frames", [1, 16, 186, 187])
def test_the_plain_computation(weights, network, recording, n_frames):
    found = network(torch.stack([recording[:n_frames], recording[-n_frames:]]))
    expected = torch.stack(
        [plain_features(weights, recording[:n_frames]), plain_features(weights, recording[-n_frames:])]
    )
    assert (found.dtype, found.shape) == (torch.float32, (2, 200))
    assert expected.std() > 0.1
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=ROUNDING)


def test_logits(weights, network):
    features = torch.rand(3, 200)
    expected = features.double().numpy() @ weights["dense_1/kernel"] + weights["dense_1/bias"]
    np.testing.assert_allclose(network.logits(features), expected, atol=ROUNDING)


@pytest.mark.parametrize(
    "starts", [[5], [0, 62, 125, 188, 250, 312, 375, 438, 500, 513], [0, 187, 374], [400, 3, 90, 3], []]
)
@pytest.mark.parametrize("length", [186, 187])
def test_windows_that_share_are_as_they_are_alone(network, recording, starts, length, monkeypatch):
    monkeypatch.setattr(musicnn_network, "WINDOWS_AT_A_TIME", 4)
    found = network.windows(recording, starts, length)
    assert found.shape == (len(starts), 200)
    for start, features in zip(starts, found, strict=True):
        expected = network(recording[None, start : start + length])[0]
        torch.testing.assert_close(features, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("length", [7, 8, 20])
@pytest.mark.parametrize("block_frames", [1, 5, 64])
def test_short_windows_and_blocks(network, recording, length, block_frames, monkeypatch):
    starts = [0, 3, 5, 9, 11]
    expected = torch.cat([network(recording[None, start : start + length]) for start in starts])
    monkeypatch.setattr(musicnn_network, "BLOCK_FRAMES", block_frames)
    torch.testing.assert_close(network.windows(recording, starts, length), expected, rtol=0, atol=ROUNDING)


def counting(layer: BandFilters, filtered: list[int]) -> Callable[[Tensor], Tensor]:
    """Return the layer's forward, which notes how many frames it was handed."""
    forward = layer.forward

    def count(x: Tensor) -> Tensor:
        filtered.append(x.shape[0] * x.shape[1])
        return forward(x)

    return count


@pytest.mark.parametrize(
    ("starts", "of_the_first", "of_the_third"),
    [
        # The recording, and both edges of all windows; the longest filters share nothing.
        ([0, 62, 125, 188], [375 + 6, 4 * (3 + 6), 4 * (3 + 6)], [4 * (187 + 127)]),
        ([0, 400], [2 * (187 + 6)], [2 * (187 + 127)]),
    ],
    ids=["overlap", "apart"],
)
def test_how_many_frames_are_filtered(network, recording, monkeypatch, starts, of_the_first, of_the_third):
    calls = {0: [], 2: []}
    for number, filtered in calls.items():
        monkeypatch.setattr(network.front[number], "forward", counting(network.front[number], filtered))
    network.windows(recording, starts, 187)
    assert calls == {0: of_the_first, 2: of_the_third}


@pytest.mark.parametrize(("starts", "length"), [([-1], 187), ([514], 187), ([0, 700], 187), ([0], 6)])
def test_windows_outside_the_recording(network, recording, starts, length):
    with pytest.raises(ValueError, match=f"windows of {length} frames .* in a recording of 700 frames"):
        network.windows(recording, starts, length)


def test_dead_filters_change_nothing(weights, network, recording, monkeypatch):
    assert [len(layer.live) for layer in network.front] == [196, 196, 43, 43, 43]
    monkeypatch.setattr(musicnn_network, "are_dead", lambda kernel, bias: np.zeros(len(bias), bool))
    whole = MusicnnNetwork(weights)
    assert len(whole.front[0].live) == 204
    torch.testing.assert_close(network(recording[None]), whole(recording[None]), rtol=0, atol=ROUNDING)


def test_a_filter_is_dead_where_its_bias_hides_it_in_float32():
    bias = np.array([1, 1, 1e-8, 0, 0], np.float32)
    kernel = np.array([1e-9, 1e-8, 1e-9, 1e-30, 0], np.float32) * np.ones((1, 1, 1, 5), np.float32)
    dead = are_dead(kernel, bias)
    assert dead.tolist() == [True, False, False, False, False]
    assert np.float32(1) + 10 * kernel[0, 0, 0, 0] == 1


def test_autocast_changes_no_bit(network, recording):
    features = network(recording[None, :187])
    logits = network.logits(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(recording[None, :187]), features)
        assert torch.equal(network.windows(recording, [0], 187), features)
        assert torch.equal(network.logits(features), logits)


def test_weights_are_never_stored(network):
    assert network.state_dict() == {}


@pytest.mark.parametrize(
    ("change", "reason"), [(lambda a: a[:-1], r"\(49,\)"), (lambda a: None, "missing")], ids=["shape", "missing"]
)
def test_weights_of_another_network(weights, change, reason):
    changed = {**weights, "dense_1/bias": change(weights["dense_1/bias"])}
    changed = {name: array for name, array in changed.items() if array is not None}
    with pytest.raises(ValueError, match=rf"dense_1/bias of musicnn's networks has the shape \(50,\), it is {reason}"):
        MusicnnNetwork(changed)
