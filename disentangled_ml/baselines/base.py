"""What all baselines have in common."""

from collections.abc import Iterable

from torch import Tensor


class Baseline:
    """Map from a stored spectrogram to a vector, to be compared by Euclidean distance; ``seed`` is that of whatever it draws."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, mels: Iterable[Tensor]) -> None:
        """Learn from the spectrograms (n_mels, F) of the training tracks; here: nothing, and none is read."""

    def embed(self, mel: Tensor) -> Tensor:
        """Embed a whole track or a chunk of it, a log-mel as stored, (n_mels, F >= 1), to (D,) float32.

        Raises:
            ValueError: before ``fit``, or for what is no spectrogram with enough bands.
        """
        raise NotImplementedError


def check_mel(mel: Tensor, min_bands: int = 1) -> None:
    """Check that a spectrogram has at least one frame and ``min_bands`` bands. Raises ValueError if it has not."""
    if mel.ndim != 2 or mel.shape[0] < min_bands or mel.shape[1] < 1:
        raise ValueError(f"mel of shape {tuple(mel.shape)}, expected (n_mels >= {min_bands}, frames >= 1)")
