"""What is kept of uploads: their embeddings, of the last few, and nothing else."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

KEPT = 64  # uploads that can still be searched with


class UploadLimits(NamedTuple):
    """Limits of uploads.

    Attributes:
        max_bytes: Size of a file.
        max_seconds: Of the beginning of a recording that are used.
        uploads_at_a_time: More are told to come again.
        receive_seconds: In which a file must have arrived.
    """

    max_bytes: int = 50_000_000
    max_seconds: float = 600.0
    uploads_at_a_time: int = 2
    receive_seconds: float = 120.0


class EmbeddedUpload(NamedTuple):
    """Embedding (D,) of an upload, the seconds of it that were used, whether there were more, and what is odd about it."""

    embedding: np.ndarray
    seconds: float
    cut: bool
    warnings: Sequence[str] = ()


class Uploads:
    """Embeddings of the last uploads, under names that cannot be guessed."""

    def __init__(self):
        self.kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self.lock = threading.Lock()

    def add(self, embedding: np.ndarray) -> str:
        name = secrets.token_urlsafe(16)
        with self.lock:
            self.kept[name] = embedding
            if len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        return name

    def find(self, name: str) -> np.ndarray | None:
        with self.lock:
            if name in self.kept:
                self.kept.move_to_end(name)
            return self.kept.get(name)
