"""Beat networks of random weights against loops that follow the equations; the real weights are in test_tempo.py."""

import numpy as np
import pytest
import torch

from datamodules.audio.beat_networks import BLOCK_STEPS, HOP, SLOTS, BeatNetworks, LayerWeights, NetworkWeights

N_NETWORKS, N_UNITS, N_LAYERS = 2, 3, 2
FRAME_SIZES, N_BANDS = (512, 4096), (4, 6)
pytestmark = pytest.mark.usefixtures("one_thread")
ROUNDING = 1e-5  # of some hundred steps in float32


def random_layer(rng: np.random.Generator, n_inputs: int) -> LayerWeights:
    shapes = [(n_inputs, 4, N_UNITS), (N_UNITS, 4, N_UNITS), (4, N_UNITS), (3, N_UNITS)]
    return LayerWeights(*(rng.normal(0, 0.7, (2 * N_NETWORKS, *shape)).astype(np.float32) for shape in shapes))


def filterbank(rng: np.random.Generator, frame_size: int, n_bands: int) -> np.ndarray:
    """Make bands of random shape, with the highest bins in none."""
    bank = rng.uniform(0, 0.1, (frame_size // 2, n_bands)).astype(np.float32)
    bank[-frame_size // 8 :] = 0
    return bank


@pytest.fixture(scope="module")
def filterbanks() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [filterbank(rng, size, n_bands) for size, n_bands in zip(FRAME_SIZES, N_BANDS, strict=True)]


@pytest.fixture(scope="module")
def weights() -> NetworkWeights:
    rng = np.random.default_rng(2)
    layers = [random_layer(rng, 2 * sum(N_BANDS)), *(random_layer(rng, 2 * N_UNITS) for _ in range(N_LAYERS - 1))]
    last = rng.normal(0, 1, (N_NETWORKS, 2 * N_UNITS)).astype(np.float32)
    return NetworkWeights(layers, last, rng.normal(0, 1, N_NETWORKS).astype(np.float32))


@pytest.fixture(scope="module")
def networks(filterbanks, weights) -> BeatNetworks:
    return BeatNetworks(filterbanks, weights)


def recording(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, n).astype(np.int16)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def spectrum_by_hand(samples: np.ndarray, bank: np.ndarray) -> np.ndarray:
    size, rows = 2 * len(bank), []
    padded = np.concatenate([np.zeros(size // 2), samples / 32767, np.zeros(size)])
    for start in range(0, len(samples), HOP):
        rows.append(np.log10(1 + np.abs(np.fft.rfft(np.hanning(size) * padded[start : start + size]))[:-1] @ bank))
    earlier = {512: 1, 4096: 2}[size]
    rises = [np.maximum(row - rows[i - earlier], 0) if i >= earlier else 0 * row for i, row in enumerate(rows)]
    return np.hstack([rows, rises])


def cell_by_hand(layer: LayerWeights, cell: int, inputs: np.ndarray) -> np.ndarray:
    weight, recurrent, bias, (p_i, p_f, p_o) = (array[cell].astype(float) for array in layer)
    h, c, outputs = np.zeros(N_UNITS), np.zeros(N_UNITS), []
    for x in inputs:
        i, f, z, o = (x @ weight[:, gate] + h @ recurrent[:, gate] + bias[gate] for gate in range(4))
        c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(z)
        h = sigmoid(o + p_o * c) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def activation_by_hand(samples: np.ndarray, filterbanks: list[np.ndarray], weights: NetworkWeights) -> np.ndarray:
    predictions = []
    for network in range(N_NETWORKS):
        data = np.hstack([spectrum_by_hand(samples, bank) for bank in filterbanks])
        for layer in weights.layers:
            ahead = cell_by_hand(layer, network, data)
            back = cell_by_hand(layer, N_NETWORKS + network, data[::-1])[::-1]
            data = np.hstack([ahead, back])
        predictions.append(sigmoid(data @ weights.weight[network] + weights.bias[network]))
    return np.mean(predictions, axis=0)


@pytest.mark.parametrize("n", [1, HOP, HOP + 1, 3 * HOP, BLOCK_STEPS * HOP, BLOCK_STEPS * HOP + 1])
def test_the_equations(networks, filterbanks, weights, n):
    samples = recording(3, n)
    (activation,) = networks([samples])
    expected = activation_by_hand(samples, filterbanks, weights)
    assert (activation.dtype, activation.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(activation, expected, atol=ROUNDING)


def test_each_direction_begins_at_the_end_of_its_own_recording(networks, filterbanks, weights):
    recordings = [recording(seed, n) for seed, n in enumerate([9 * HOP, 0, 300 * HOP + 7, 40 * HOP])]
    for samples, activation in zip(recordings, networks(recordings), strict=True):
        expected = activation_by_hand(samples, filterbanks, weights) if len(samples) else np.empty(0)
        np.testing.assert_allclose(activation, expected, atol=ROUNDING)


def test_what_is_beside_a_recording_changes_no_bit(networks):
    samples, short, long = recording(0, 290 * HOP), recording(1, 5 * HOP), recording(2, 400 * HOP)
    (alone,) = networks([samples])
    for slot in range(SLOTS):
        for other in (short[:0], short, long):
            recordings = [other] * SLOTS
            recordings[slot] = samples
            np.testing.assert_array_equal(networks(recordings)[slot], alone)


@pytest.mark.parametrize("n", [0, SLOTS + 1])
def test_more_recordings_than_slots_or_none(networks, n):
    with pytest.raises(ValueError, match=f"{n} recordings at a time, 1 to {SLOTS} are legal"):
        networks([recording(0, HOP)] * n)


def test_weights_are_never_stored(networks):
    assert networks.state_dict() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(filterbanks, weights, networks):
    samples = [recording(0, 300 * HOP), recording(1, 20 * HOP)]
    for expected, found in zip(networks(samples), BeatNetworks(filterbanks, weights).cuda()(samples), strict=True):
        np.testing.assert_allclose(found, expected, atol=ROUNDING)
