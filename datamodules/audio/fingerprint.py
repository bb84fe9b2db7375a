"""Audio fingerprints: by which the same recording is known in another encoding, however strongly it is compressed.

Where the energy of a recording rises and falls, in some bands of the voice's range and some slots of its length, as one vector of unit
length: the product of those of two recordings is their correlation. What an encoder, a volume or an equaliser changes is constant in a
band or in a slot, and is taken out. J. Haitsma and T. Kalker, "A Highly Robust Audio Fingerprinting System", ISMIR 2002, compare the
same differences along time and frequency, but as bits.

Slots are shares of the length. So recordings that begin or end elsewhere have another fingerprint; these are known by their
embeddings (``disentangled_ml/search/duplicates.py``).
"""

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from datamodules.audio.spectrogram import log_mel
from disentangled_ml.structures import AudioSettings

BANDS, SLOTS = 16, 32
SIZE = BANDS * SLOTS
# The bands that all encoders keep, as shares of the mel bands: 190 to 3,400 Hz of those up to 11,025 Hz
LOWEST, HIGHEST = 1 / 16, 9 / 16
LEAST_DEVIATION = 0.05  # of a band that is silent but for noise
SCALE = 127  # of int8
# Of a recording of which none is known: like no other
NO_FINGERPRINT = np.zeros(SIZE, np.int8)


def audio_fingerprint(chunks: np.ndarray, audio: AudioSettings) -> np.ndarray:
    """Return the fingerprint of a recording that is cut into chunks, in order.

    Args:
        chunks: (n, 1, rows, frames), the spectrogram in the first ``n_mels`` rows, or waveforms (n, samples).
        audio: Of the spectrogram.

    Returns:
        (``SIZE``,) int8; all 0 for a recording that never changes, which is then like no other.
    """
    is_waveform = chunks.ndim == 2
    mel = np.stack([log_mel(chunk, audio) for chunk in chunks]) if is_waveform else chunks[:, 0, : audio.n_mels]
    bands = slice(round(LOWEST * audio.n_mels), round(HIGHEST * audio.n_mels))
    track = torch.from_numpy(np.concatenate([*mel[:, bands]], axis=1, dtype=np.float32))
    return normalised(np.nan_to_num(adaptive_avg_pool2d(track[None], (BANDS, SLOTS))[0].numpy()))


def normalised(energy: np.ndarray) -> np.ndarray:
    """Return what is left of log energies (bands, slots) without the means of bands and slots and the deviation of each band.

    Returns:
        (bands * slots,) int8, as large as they can be.

    >>> normalised(np.array([[0.0, 1.0], [1.0, 0.0]])).tolist()
    [-127, 127, 127, -127]
    >>> normalised(np.array([[0.0, 1.0], [0.0, 1.0]])).tolist()
    [0, 0, 0, 0]
    """
    changes = energy - energy.mean(1, keepdims=True)
    changes -= changes.mean(0, keepdims=True)
    changes /= changes.std(1, keepdims=True) + LEAST_DEVIATION
    largest = np.abs(changes).max()
    return np.rint(changes.ravel() * (SCALE / largest if largest > 1e-6 else 0)).astype(np.int8)


def unit_fingerprints(fingerprints: np.ndarray) -> np.ndarray:
    """Return fingerprints (n, ``SIZE``) int8 as float32 rows of length 1, whose products are correlations; those of 0 stay so.

    >>> unit_fingerprints(np.array([[3, -4], [0, 0]], np.int8)).tolist()
    [[0.6000000238418579, -0.800000011920929], [0.0, 0.0]]
    """
    rows = fingerprints.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
