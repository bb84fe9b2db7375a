"""Baselines: systems to compare networks with, that see the same stored spectrograms.

Every baseline is built as ``BASELINES[name](seed=0)``, fitted on the training tracks with ``fit`` (most learn little or nothing)
and maps a log-mel as stored, (n_mels, F) for a whole track or a chunk, to a vector (D,) with ``embed``. Distances between vectors
are Euclidean. Keyword arguments of the class go through: ``BASELINES["vq"](seed=0, words=64)``.

To add one: a file with a subclass of ``base.Baseline``, and its line in ``BASELINES``.
"""

from collections.abc import Callable
from functools import partial

from disentangled_ml.baselines.base import Baseline
from disentangled_ml.baselines.controls import Bandwidth, RandomVector
from disentangled_ml.baselines.mfcc import MfccStatistics
from disentangled_ml.baselines.vector_quantization import VectorQuantization

BASELINES: dict[str, Callable[..., Baseline]] = {
    "vq": VectorQuantization,
    "vq_soft": partial(VectorQuantization, nearest=8),
    "vq_sqrt": partial(VectorQuantization, square_root=True),
    "vq_soft_sqrt": partial(VectorQuantization, nearest=8, square_root=True),
    "mfcc": MfccStatistics,
    "random": RandomVector,
    "bandwidth": Bandwidth,
}
