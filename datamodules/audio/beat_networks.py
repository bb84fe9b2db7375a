"""madmom's beat networks in torch, several recordings at a time: samples to beat activations, 100 per second.

After ``madmom.features.beats.RNNBeatProcessor`` (S. Boeck, M. Schedl, "Enhanced beat tracking with context-aware neural networks",
DAFx 2011), whose trained weights and filterbanks are handed over as arrays and never stored: see tempo.py.

* Features: for frames of 1024, 2048 and 4096 samples of 44,100 Hz, 441 apart, centred and padded by zeros, the magnitude spectrum
  (symmetric Hann window, no Nyquist bin) in logarithmic bands, ``log10(1 + x)``, and beside it its rise since an earlier frame.
* Networks: each is three bidirectional layers of LSTM units with peepholes and a sigmoid; the activation is the mean over networks.

A layer of a network in one direction is a *cell*; the first half of the cells run forwards, the second half backwards. All cells
and all recordings take a step together, since a step is so small that its operations cost more than its arithmetic. Every
recording has a *slot* in the tensors: there are as many slots as ever, filled or not, and frames are projected in blocks of one
size. So the shapes of all products, and with them the order of all sums, are always the same, and the activations of a recording
do not depend, not even in their last bit, on which others are beside it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

# Recordings at a time. Of 30 s, 0.44 s each; 0.64 s if alone, and no less in eights, which take twice the memory.
SLOTS = 4
HOP = 441  # samples, of 44,100 per second
BLOCK_FRAMES = 128  # whose spectra fit into the cache
BLOCK_STEPS = 256  # whose projections do
INT16_RANGE = 32767  # of a sample at full scale
GATES = ("input", "forget", "cell", "output")


class LayerWeights(NamedTuple):
    """Weights of one layer, of all its cells.

    Shape:
        inputs: (cells, n_inputs, gates, units).
        recurrent: (cells, units, gates, units).
        bias: (cells, gates, units).
        peepholes: (cells, 3, units), of the input, forget and output gates.
    """

    inputs: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray
    peepholes: np.ndarray


class NetworkWeights(NamedTuple):
    """All learned weights of the networks.

    Shape:
        layers: from the first on; the inputs of each further one are the units forwards, then those backwards.
        weight: (networks, 2 units), of the last sigmoid.
        bias: (networks,).
    """

    layers: Sequence[LayerWeights]
    weight: np.ndarray
    bias: np.ndarray


def count_frames(n_samples: int) -> int:
    """Count the frames of a recording: one for each begun hop.

    >>> count_frames(441), count_frames(442), count_frames(0)
    (1, 2, 0)
    """
    return -(-n_samples // HOP)


def rise_frames(frame_size: int) -> int:
    """Return how many frames lie between the two whose difference counts: half the height of the window, at least one.

    >>> [rise_frames(size) for size in (1024, 2048, 4096)]
    [1, 1, 2]
    """
    return max(1, round(frame_size / 4 / HOP))


class BandSpectrum(nn.Module):
    """Logarithmic bands, and their rise, of frames of one size.

    Args:
        filterbank: (frame_size / 2, bands).
    """

    def __init__(self, filterbank: np.ndarray):
        super().__init__()
        self.frame_size = 2 * len(filterbank)
        self.n_bins = 1 + int(np.flatnonzero(filterbank.any(axis=1))[-1])  # those above are in no band
        window = np.hanning(self.frame_size) / INT16_RANGE
        self.register_buffer("window", torch.tensor(window, dtype=torch.float32), persistent=False)
        self.register_buffer("filterbank", torch.tensor(filterbank[: self.n_bins]), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Compute the bands of a recording, samples (n,) of full scale 32767: (frames, 2 bands)."""
        half = self.frame_size // 2
        frames = pad(samples, (half, half + HOP)).unfold(0, self.frame_size, HOP)[: count_frames(len(samples))]
        bands = torch.cat([self.magnitude(block) @ self.filterbank for block in frames.split(BLOCK_FRAMES)])
        bands.add_(1).log10_()
        earlier = rise_frames(self.frame_size)
        rise = pad((bands[earlier:] - bands[:-earlier]).clamp_(min=0), (0, 0, min(earlier, len(bands)), 0))
        return torch.cat([bands, rise], dim=1)

    def magnitude(self, frames: Tensor) -> Tensor:
        """Compute the magnitude spectra of frames, (frames, bins); by hand, since ``abs`` of complex numbers takes twice the time."""
        real, imaginary = torch.view_as_real(torch.fft.rfft(frames * self.window)[:, : self.n_bins]).unbind(-1)
        return (real * real).addcmul_(imaginary, imaginary).sqrt_()


class PeepholeLayer(nn.Module):
    """The cells of one layer, each of which runs forwards in its own time.

    ``i = sigmoid(W_i x + R_i h + p_i c)``, ``f`` alike, ``c' = f c + i tanh(W_c x + R_c h)``, ``o = sigmoid(W_o x + R_o h + p_o c')``,
    ``h' = o tanh(c')``. It computes with ``tanh(x) = 2 sigmoid(2 x) - 1``, which takes a quarter of the time of torch's tanh,
    and with twice the state: ``C = 2 c``.
    """

    def __init__(self, weights: LayerWeights):
        super().__init__()
        self.n_cells, _, _, self.n_units = weights.inputs.shape
        twice = np.array([2 if gate == "cell" else 1 for gate in GATES], np.float32)[:, None]
        arrays = {
            "inputs": (weights.inputs * twice).reshape(self.n_cells, -1, 4 * self.n_units),
            "recurrent": (weights.recurrent * twice).reshape(self.n_cells, self.n_units, 4 * self.n_units),
            "bias": (weights.bias * twice).reshape(self.n_cells, 4 * self.n_units),
            "early_peepholes": weights.peepholes[:, None, :2] / 2,
            "late_peephole": weights.peepholes[:, None, 2] / 2,
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.float32), persistent=False)

    def forward(self, inputs: Sequence[Tensor], n_steps: int) -> Tensor:
        """Run all cells.

        Shape:
            inputs: of each cell (steps, slots, n_inputs), of whole blocks.
            n_steps: those that are to be run.
            returns: (cells, steps, slots, units); zero where it was not run.
        """
        steps, slots, _ = inputs[0].shape
        outputs = self.bias.new_zeros(self.n_cells, 1 + steps, slots, self.n_units)  # the first one is the start
        projected = self.bias.new_empty(self.n_cells, BLOCK_STEPS, slots, 4 * self.n_units)
        state = self.bias.new_zeros(self.n_cells, slots, 2, self.n_units)  # that of the output gate, and C
        views = outputs.unbind(1)
        for first in range(0, n_steps, BLOCK_STEPS):
            last = min(first + BLOCK_STEPS, n_steps)
            for cell, sequence in enumerate(inputs):
                block = sequence[first : first + BLOCK_STEPS].flatten(0, 1)
                torch.addmm(self.bias[cell], block, self.inputs[cell], out=projected[cell].view(len(block), -1))
            self.run(projected.unbind(1), views[first : last + 1], state)
        return outputs[:, 1:]

    def run(self, projected: Iterable[Tensor], outputs: Sequence[Tensor], state: Tensor) -> None:
        """Compute each output from the one before; the first comes from the last block, as does the state.

        Shape:
            projected: of each step (cells, slots, 4 units).
            outputs: of each step (cells, slots, units).
            state: (cells, slots, 2, units).
        """
        gates = state.new_empty(*state.shape[:2], 4 * self.n_units)
        by_gate = gates.unflatten(-1, (4, self.n_units))
        early, squashed, (i, f, z, o) = by_gate[:, :, :2], by_gate[:, :, :3], by_gate.unbind(2)
        late, c = state.unbind(2)
        c_beside = c.unsqueeze(2)
        squashed_state = torch.empty_like(state)
        o_squashed, c_squashed = squashed_state.unbind(2)
        tanh, one_below = torch.empty_like(c), state.new_tensor(-1.0)
        for x, h, h_next in zip(projected, outputs, outputs[1:], strict=False):  # the projections are of a whole block
            torch.baddbmm(x, h, self.recurrent, out=gates)
            early.addcmul_(c_beside, self.early_peepholes)
            squashed.sigmoid_()
            torch.add(one_below, z, alpha=2, out=tanh)
            c.mul_(f).addcmul_(i, tanh, value=2)
            torch.addcmul(o, c, self.late_peephole, out=late)
            torch.sigmoid(state, out=squashed_state)
            torch.add(one_below, c_squashed, alpha=2, out=tanh)
            torch.mul(o_squashed, tanh, out=h_next)


def mirror(sequences: Tensor, lengths: Sequence[int]) -> Tensor:
    """Reverse the time of each slot of (..., steps, slots, features), from the end of its own recording; zero behind it.

    >>> mirror(torch.tensor([[1, 4], [2, 5], [3, 0]])[..., None], [3, 2])[..., 0].tolist()
    [[3, 5], [2, 4], [1, 0]]
    """
    mirrored = torch.zeros_like(sequences)
    for slot, length in enumerate(lengths):
        mirrored[..., :length, slot, :] = sequences[..., :length, slot, :].flip(-2)
    return mirrored


def forwards(outputs: Tensor, lengths: Sequence[int]) -> Tensor:
    """Concatenate the units of both directions, in the time of the recordings.

    Shape:
        outputs: (cells, steps, slots, units), of each cell in its own time.
        returns: (networks, steps, slots, 2 units).
    """
    ahead, back = outputs.chunk(2)
    return torch.cat([ahead, mirror(back, lengths)], dim=-1)


def backwards(outputs: Tensor, lengths: Sequence[int]) -> Tensor:
    """Concatenate the units of both directions, in the reversed time."""
    ahead, back = outputs.chunk(2)
    return torch.cat([mirror(ahead, lengths), back], dim=-1)


class BeatNetworks(nn.Module):
    """Networks that compute beat activations, on the device that the module is moved to.

    Args:
        filterbanks: (frame_size / 2, bands) for each frame size, in the order of the inputs of the networks.
        weights: Of the networks.
    """

    def __init__(self, filterbanks: Sequence[np.ndarray], weights: NetworkWeights):
        super().__init__()
        self.spectra = nn.ModuleList(map(BandSpectrum, filterbanks))
        self.layers = nn.ModuleList(map(PeepholeLayer, weights.layers))
        self.register_buffer("weight", torch.tensor(weights.weight)[:, :, None], persistent=False)
        self.register_buffer("bias", torch.tensor(weights.bias)[:, None, None], persistent=False)

    @torch.inference_mode()
    def forward(self, recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the activations of some recordings.

        Shape:
            recordings: each (n,) int16 at 44,100 Hz; n = 0 leaves a slot empty.
            returns: each (ceil(n / 441),) float32.

        Raises: ValueError: If there are more recordings than slots, or none.
        """
        if not 1 <= len(recordings) <= SLOTS:
            raise ValueError(f"{len(recordings)} recordings at a time, 1 to {SLOTS} are legal")
        lengths = [count_frames(len(samples)) for samples in recordings]
        features = self.features(recordings, lengths)
        inputs = [each for each in (features, mirror(features, lengths)) for _ in self.bias]
        outputs = self.layers[0](inputs, max(lengths))
        for layer in self.layers[1:]:
            outputs = layer([*forwards(outputs, lengths), *backwards(outputs, lengths)], max(lengths))
        outputs = forwards(outputs, lengths)
        return [self.activation(outputs[:, :length, slot]) for slot, length in enumerate(lengths)]

    def features(self, recordings: Sequence[np.ndarray], lengths: Sequence[int]) -> Tensor:
        """Compute the features of recordings, (steps, slots, n_inputs), of whole blocks, zero where there is nothing."""
        steps = -(-max(lengths) // BLOCK_STEPS) * BLOCK_STEPS
        features = self.bias.new_zeros(steps, SLOTS, self.layers[0].inputs.shape[1])
        for slot, (samples, length) in enumerate(zip(recordings, lengths, strict=True)):
            if length:
                waveform = torch.from_numpy(samples).to(features)
                features[:length, slot] = torch.cat([spectrum(waveform) for spectrum in self.spectra], dim=1)
        return features

    def activation(self, outputs: Tensor) -> np.ndarray:
        """Compute the mean activation (frames,) of the outputs of the last layer, (networks, frames, 2 units)."""
        return torch.baddbmm(self.bias, outputs, self.weight).sigmoid_().mean(0)[:, 0].cpu().numpy()
