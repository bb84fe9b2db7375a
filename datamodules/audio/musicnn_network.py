"""musicnn in torch: log-mel windows to the features of its last but one layer, and to tags.

J. Pons, X. Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging", ISMIR 2019 (late-breaking demo). The
trained weights are handed over as arrays under the names of the checkpoint: see musicnn.py.

* Input: a batch norm of one scale and shift for all; from here on what lies outside a window is zero.
* Front: five sets of filters over frames and bands, 7 x 38 and 7 x 67 (timbre), 128 x 1, 64 x 1 and 32 x 1 (rhythm), each with the
  maximum over all places in the bands: 561 channels.
* Middle: three sets over 7 frames of all channels; to the second and third what they read is added. With the front: 753 channels.
* Back: maximum and mean over time of every channel, a dense layer to 200, the features, and one to the 50 tags.

Each layer but the last is followed by ReLU and batch norm, in this order. All is computed in float32, also under autocast.

Three things make it fast, and change the result by rounding at most:

* Batch norm falls where its factor is negative: there the maximum over bands behind it is the minimum before it. Such filters are
  turned in sign, so that the maximum comes first, and ReLU and batch norm see one value per frame instead of up to 96.
* Many filters died in training: what they add to their bias is less than its rounding, whatever is played. They are constants.
  Of the 561 of the front 87 live in MSD_musicnn and 392 in MTT_musicnn: 3.8 and 14 ms per window and core instead of 21.
* Windows that overlap share what the filters of 7 x 38 and 7 x 67 find, but for the 3 frames at each end of a window, where these
  filters see zeros instead of its neighbours: 2.4 and 7.5 ms per window, one per second.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, pad

from disentangled_ml.chunks import FEATURE_SIZE

N_TAGS = 50
N_MELS = 96
NORM_PARTS = ("gamma", "beta", "moving_mean", "moving_variance")
EPSILON = 1e-3  # of the batch norms
# Shapes of the kernels: frames, bands or channels, 1, filters
FRONT = ((7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51))
MIDDLE = ((7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64))
NORMS = (1, *(kernel[-1] for kernel in FRONT + MIDDLE), 1506, FEATURE_SIZE)  # channels
# Of a filter's input. That of the front is below 5 for sound at full scale and below 10 at 100,000 times full scale; in the middle,
# where it may be more, the kernels of dead filters are of order 1e-30.
MOST_INPUT = 10.0
# Frames whose responses, of all filters and places, fit into the cache.
BLOCK_FRAMES = 256
# Of filters that windows share: sharing longer ones, whose edges are longer too, saves nothing.
MOST_SHARED_FRAMES = 7
WINDOWS_AT_A_TIME = 16
Weights = Mapping[str, np.ndarray]


def layer_name(kind: str, number: int) -> str:
    """Return the name of a layer in the checkpoint.

    >>> layer_name("conv2d", 0), layer_name("conv2d", 1)
    ('conv2d', 'conv2d_1')
    """
    return f"{kind}_{number}" if number else kind


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all weights."""
    kernels = {layer_name("conv2d", number): shape for number, shape in enumerate(FRONT + MIDDLE)}
    kernels |= {"dense": (NORMS[-2], FEATURE_SIZE), "dense_1": (FEATURE_SIZE, N_TAGS)}
    parts = {f"{name}/kernel": shape for name, shape in kernels.items()}
    parts |= {f"{name}/bias": shape[-1:] for name, shape in kernels.items()}
    norms = {layer_name("batch_normalization", number): n_channels for number, n_channels in enumerate(NORMS)}
    return parts | {f"{name}/{part}": (n_channels,) for name, n_channels in norms.items() for part in NORM_PARTS}


def batch_norm(weights: Weights, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift of a batch norm, (channels,) float64 each; ``number`` 0 is that of the input."""
    name = layer_name("batch_normalization", number)
    gamma, beta, mean, variance = (weights[f"{name}/{part}"].astype(np.float64) for part in NORM_PARTS)
    scale = gamma / np.sqrt(variance + EPSILON)
    return scale, beta - mean * scale


def are_dead(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return which filters leave their bias as it is in float32, whatever their input up to ``MOST_INPUT``.

    Shape: kernel (..., filters), bias (filters,); returns (filters,) bool.

    >>> are_dead(np.array([[1e-30, 1e-30, 1e-3]]), np.array([0.1, 0.0, 0.1])).tolist()
    [True, False, False]
    """
    most = MOST_INPUT * np.abs(kernel.astype(np.float64)).sum(tuple(range(kernel.ndim - 1)))
    return most < np.abs(bias) * np.finfo(np.float32).eps / 4


class Filters(nn.Module):
    """What all layers of filters share: the bias, ReLU and batch norm behind them, and the filters that died.

    Args:
        weights: Of the whole network.
        number: Of the batch norm behind the filters; theirs is one less.
    """

    def __init__(self, weights: Weights, number: int):
        super().__init__()
        kernel, bias = (weights[f"{layer_name('conv2d', number - 1)}/{part}"] for part in ("kernel", "bias"))
        scale, shift = batch_norm(weights, number)
        live = np.flatnonzero(~are_dead(kernel, bias))
        sign = np.where(scale[live] < 0, -1, 1)
        self.n_frames = len(kernel)
        arrays = {
            "weight": (kernel[..., live] * sign).transpose(3, 2, 0, 1),
            "sign": sign[:, None],
            "bias": bias[live][:, None],
            "scale": scale[live][:, None],
            "shift": shift[live][:, None],
            "constants": (np.maximum(bias, 0) * scale + shift)[:, None],
        }
        for key, array in arrays.items():
            self.register_buffer(key, torch.tensor(array, dtype=torch.float32), persistent=False)
        self.register_buffer("live", torch.tensor(live), persistent=False)

    def finish(self, responses: Tensor) -> Tensor:
        """Return all channels, (B, filters, frames), behind batch norm, from the responses of the live filters, (B, live, frames)."""
        channels = self.constants.expand(len(responses), -1, responses.shape[2]).clone()
        rectified = torch.addcmul(self.bias, responses, self.sign).relu_()
        channels[:, self.live] = rectified.mul_(self.scale).add_(self.shift)
        return channels


class BandFilters(Filters):
    """Filters over frames and bands with the maximum over their places in the bands: a layer of the front."""

    def forward(self, x: Tensor) -> Tensor:
        """Filter windows that are as they are: (B, frames + n_frames - 1, bands) to (B, filters, frames)."""
        n_windows = max(1, BLOCK_FRAMES // x.shape[1])
        return self.finish(torch.cat([self.respond(windows[:, None]) for windows in x.split(n_windows)]))

    def respond(self, x: Tensor) -> Tensor:
        overlap = self.n_frames - 1
        starts = range(0, x.shape[2] - overlap, BLOCK_FRAMES)
        return torch.cat(
            [conv2d(x[:, :, start : start + BLOCK_FRAMES + overlap], self.weight).amax(3) for start in starts], 2
        )

    def within(self, x: Tensor) -> Tensor:
        """Filter windows with zeros around them: (B, frames, bands) to (B, filters, frames)."""
        return self(pad(x, (0, 0, (self.n_frames - 1) // 2, self.n_frames // 2)))

    def shared(self, x: Tensor, starts: Sequence[int], length: int) -> Tensor:
        """Filter windows of one recording, each with zeros around it, computing once what several have in common.

        Shape:
            x: (frames, bands).
            starts: of (B,) windows of ``length`` >= n_frames - 1 frames.
            returns: (B, filters, length), what ``within`` returns for the windows.
        """
        before, behind = (self.n_frames - 1) // 2, self.n_frames // 2
        edge = before + behind
        first, last = min(starts), max(starts) + length
        found = self.within(x[None, first:last])[0]
        channels = torch.stack([found[:, start - first : start - first + length] for start in starts])
        channels[:, :, :before] = self(pad(stack_windows(x, starts, edge), (0, 0, before, 0)))
        tails = [start + length - edge for start in starts]
        channels[:, :, length - behind :] = self(pad(stack_windows(x, tails, edge), (0, 0, 0, behind)))
        return channels


class ContextFilters(Filters):
    """Filters over frames and all channels: a layer of the middle."""

    def __init__(self, weights: Weights, number: int):
        super().__init__(weights, number)
        self.weight = self.weight[:, 0].transpose(1, 2).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Filter windows with zeros around them: (B, channels, frames) to (B, filters, frames)."""
        return self.finish(conv1d(x, self.weight, padding=self.n_frames // 2))


def stack_windows(x: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """Stack windows of a recording (frames, ...): (B, length, ...)."""
    return torch.stack([x[start : start + length] for start in starts])


class MusicnnNetwork(nn.Module):
    """One of the two networks of its kind.

    Args:
        weights: Of a checkpoint, by their names there.

    Raises: ValueError: If a weight is missing or not of its shape.
    """

    def __init__(self, weights: Weights):
        super().__init__()
        for name, shape in shapes().items():
            if name not in weights or weights[name].shape != shape:
                found = weights[name].shape if name in weights else "missing"
                raise ValueError(f"{name} of musicnn's networks has the shape {shape}, it is {found}")
        self.front = nn.ModuleList(BandFilters(weights, number) for number in range(1, 6))
        self.middle = nn.ModuleList(ContextFilters(weights, number) for number in range(6, 9))
        self.input_scale, self.input_shift = (float(value[0]) for value in batch_norm(weights, 0))
        (pool_scale, pool_shift), (scale, shift) = batch_norm(weights, 9), batch_norm(weights, 10)
        kernel = weights["dense/kernel"].astype(np.float64)
        arrays = {
            # With the batch norm before it; maximum and mean take turns in the rows.
            "weight": (kernel * pool_scale[:, None])
            .reshape(-1, 2, FEATURE_SIZE)
            .transpose(1, 0, 2)
            .reshape(-1, FEATURE_SIZE),
            "bias": weights["dense/bias"] + pool_shift @ kernel,
            "scale": scale,
            "shift": shift,
            "tag_weight": weights["dense_1/kernel"],
            "tag_bias": weights["dense_1/bias"],
        }
        for key, array in arrays.items():
            self.register_buffer(key, torch.tensor(array, dtype=torch.float32), persistent=False)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Compute the features of windows of any length: (B, frames, 96) to (B, 200)."""
        with torch.autocast(log_mel.device.type, enabled=False):
            x = self.normalised(log_mel)
            return self.features([filters.within(x) for filters in self.front])

    def logits(self, features: Tensor) -> Tensor:
        """Compute the logits of the tags from features, (N, 200) to (N, 50); their sigmoid is the probability."""
        with torch.autocast(features.device.type, enabled=False):
            return torch.addmm(self.tag_bias, features.float(), self.tag_weight)

    def windows(self, log_mel: Tensor, starts: Sequence[int], length: int) -> Tensor:
        """Compute the features of windows of one recording, which may overlap, a bounded number of them at a time.

        Shape:
            log_mel: (frames, 96).
            starts: (N,) frames, in order where it should be fast.
            returns: (N, 200), what ``forward`` returns for the windows.

        Raises: ValueError: If a window does not lie within the recording, or has less than ``MOST_SHARED_FRAMES`` frames.
        """
        if length < MOST_SHARED_FRAMES or not all(0 <= start <= len(log_mel) - length for start in starts):
            raise ValueError(
                f"windows of {length} frames (at least {MOST_SHARED_FRAMES}) from {min(starts)} to {max(starts)} "
                f"in a recording of {len(log_mel)} frames"
            )
        with torch.autocast(log_mel.device.type, enabled=False):
            features = [self.scale.new_empty(0, FEATURE_SIZE)]
            for first in range(0, len(starts), WINDOWS_AT_A_TIME):
                group = starts[first : first + WINDOWS_AT_A_TIME]
                begin, end = min(group), max(group) + length
                x = self.normalised(log_mel[begin:end])
                features.append(self.features(self.front_of(x, [start - begin for start in group], length)))
            return torch.cat(features)

    def front_of(self, x: Tensor, starts: Sequence[int], length: int) -> list[Tensor]:
        """Apply the front to windows of (frames, 96), sharing where that saves frames."""
        windows = stack_windows(x, starts, length)
        saves = len(x) < len(starts) * length
        return [
            filters.shared(x, starts, length)
            if saves and filters.n_frames <= MOST_SHARED_FRAMES
            else filters.within(windows)
            for filters in self.front
        ]

    def normalised(self, log_mel: Tensor) -> Tensor:
        return log_mel.float() * self.input_scale + self.input_shift

    def features(self, front: Sequence[Tensor]) -> Tensor:
        """Compute the features from what the front found, (B, filters, frames) for each set of filters."""
        front = torch.cat(front, 1)
        first, second, third = self.middle
        x = first(front)
        y = second(x) + x
        z = third(y) + y
        channels = torch.cat([front, x, y, z], 1)
        pooled = torch.cat([channels.amax(2), channels.mean(2)], 1)
        return torch.addmm(self.bias, pooled, self.weight).relu_().mul_(self.scale).add_(self.shift)
