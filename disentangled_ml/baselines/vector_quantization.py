"""Histograms of MFCC words, the unlearnt system that J. Lee et al. (ICASSP 2020) compare with.

Frames of 13 MFCCs with first and second differences are assigned to the nearest of K = 1024 words, found by k-means on 2,500,000
random frames of the training tracks; an excerpt is its normalised histogram. The paper says nothing of a standardisation, so the
frames are taken as they are: coefficient 0, the loudness, has the largest part in the distance.

Two refinements are B. McFee, L. Barrington and G. Lanckriet's ("Learning content similarity for music recommendation", IEEE TASLP
2012): each of a frame's tau nearest words gets 1/tau of it, which softens the borders between words; and the probability product
kernel, the inner product of the square roots of two histograms, whose distance is the Euclidean one of these roots.

K-means starts from words that k-means++ chooses among a few thousand of the frames (on all of them the choice takes longer than
the iterations), and stops after ``MAX_ITERATIONS``, when the mean squared distance to the nearest word is within 1 % of where it
would end (measured on Emotify: 353,260 frames, 14 s on one core).
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from disentangled_ml.baselines.base import Baseline
from disentangled_ml.baselines.mfcc import mfcc_frames

MAX_ITERATIONS = 20
FRAMES_PER_WORD = 20  # among which k-means++ chooses
# Compared with all words at a time: 16 MB with 1024 words.
FRAMES_PER_BLOCK = 4096


def sample_frames(tracks: Iterable[np.ndarray], max_frames: int, generator: np.random.Generator) -> np.ndarray:
    """Draw frames (F, D) uniformly without replacement in one pass; all of them where there are at most ``max_frames``.

    The reservoir (J. Vitter's algorithm R) is all that is held, however many tracks there are. Raises ValueError without any.

    >>> sample_frames([np.zeros((4, 2)), np.ones((1, 2))], 10, np.random.default_rng(0)).sum()
    np.float32(2.0)
    """
    reservoir, seen = None, 0
    for frames in tracks:
        if reservoir is None:
            reservoir = np.empty((max_frames, frames.shape[1]), np.float32)
        number = np.arange(seen, seen + len(frames))
        slot = np.where(number < max_frames, number, generator.integers(number + 1))
        kept = slot < max_frames
        # Of two frames for one slot NumPy keeps the later, as the algorithm does.
        reservoir[slot[kept]] = frames[kept]
        seen += len(frames)
    if not seen:
        raise ValueError("there are no training frames, expected at least 1")
    return reservoir[:seen]


def find_words(frames: np.ndarray, n_words: int, generator: np.random.Generator) -> np.ndarray:
    """Find words (n_words, D) by k-means in frames (N, D). Raises ValueError if there are fewer distinct frames than words.

    >>> np.sort(find_words(np.array([[0], [0], [4], [6]], np.float32), 2, np.random.default_rng(0)), axis=0).tolist()
    [[0.0], [5.0]]
    """
    from sklearn.cluster import KMeans, kmeans_plusplus  # here, for it takes a second to import

    distinct = len(np.unique(frames, axis=0))
    if distinct < n_words:
        raise ValueError(f"words={n_words}, but there are only {distinct} distinct training frames: use fewer words")
    seed = int(generator.integers(2**31))
    few = generator.choice(len(frames), min(len(frames), FRAMES_PER_WORD * n_words), replace=False)
    first, _ = kmeans_plusplus(frames[few], n_words, random_state=seed)
    kmeans = KMeans(n_words, init=first, n_init=1, max_iter=MAX_ITERATIONS, random_state=seed)
    return kmeans.fit(frames).cluster_centers_


def word_histogram(frames: Tensor, words: Tensor, nearest: int = 1) -> Tensor:
    """Count the frames (F, D) per word (K, D), as shares; each of a frame's ``nearest`` words gets an equal part of it.

    The order of the frames changes nothing; the shares (K,) sum to one.

    >>> words = torch.tensor([[0.0], [10.0], [20.0]])
    >>> word_histogram(torch.tensor([[1.0], [9.0]]), words).tolist()
    [0.5, 0.5, 0.0]
    >>> word_histogram(torch.tensor([[1.0], [14.0]]), words, nearest=2).tolist()
    [0.25, 0.5, 0.25]
    """
    # In float32, differences of large squares would lose digits.
    center = words.mean(0)
    words = words - center
    half_square = words.square().sum(1) / 2
    count = torch.zeros(len(words), dtype=torch.int64)
    for block in frames.split(FRAMES_PER_BLOCK):
        closeness = (block - center) @ words.T - half_square  # (|x|^2 - |x - w|^2) / 2
        chosen = closeness.argmax(1) if nearest == 1 else closeness.topk(nearest, sorted=False).indices
        count += chosen.flatten().bincount(minlength=len(words))
    return count.float() / count.sum()


class VectorQuantization(Baseline):
    """Histogram of MFCC words; the defaults are the paper's.

    Args:
        seed: Of the frames drawn and the first words.
        words: Number of words.
        max_frames: Training frames at most.
        nearest: Words that share a frame.
        square_root: Whether the histogram's square root is the embedding.

    Raises:
        ValueError: for numbers below 1, or more nearest words than words.
    """

    def __init__(
        self, seed: int = 0, words: int = 1024, max_frames: int = 2_500_000, nearest: int = 1, square_root: bool = False
    ):
        super().__init__(seed)
        if words < 1 or max_frames < 1:
            raise ValueError(f"words={words} and max_frames={max_frames} must be at least 1")
        if not 1 <= nearest <= words:
            raise ValueError(f"nearest={nearest} must be from 1 to words={words}")
        self.n_words, self.max_frames, self.nearest, self.square_root = words, max_frames, nearest, square_root
        self.words: Tensor | None = None

    def fit(self, mels: Iterable[Tensor]) -> None:
        generator = np.random.default_rng(self.seed)
        frames = sample_frames((mfcc_frames(mel).numpy() for mel in mels), self.max_frames, generator)
        self.words = torch.from_numpy(find_words(frames, self.n_words, generator))

    def embed(self, mel: Tensor) -> Tensor:
        if self.words is None:
            raise ValueError("VectorQuantization has no words yet: fit it on training tracks first")
        histogram = word_histogram(mfcc_frames(mel), self.words, self.nearest)
        return histogram.sqrt() if self.square_root else histogram
