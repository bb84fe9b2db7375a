"""What is kept of uploads: the embeddings and fingerprints of the last few, and nothing else."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from disentangled_ml.search.recording import EmbeddedRecording

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
    """An upload, the seconds of it that were used, whether there were more, and what is odd about it."""

    recording: EmbeddedRecording
    seconds: float
    cut: bool
    warnings: Sequence[str] = ()


class Uploads:
    """The last uploads, under names that cannot be guessed."""

    def __init__(self):
        self.kept: OrderedDict[str, EmbeddedRecording] = OrderedDict()
        self.lock = threading.Lock()

    def add(self, recording: EmbeddedRecording) -> str:
        name = secrets.token_urlsafe(16)
        with self.lock:
            self.kept[name] = recording
            if len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        return name

    def find(self, name: str) -> EmbeddedRecording | None:
        with self.lock:
            if name in self.kept:
                self.kept.move_to_end(name)
            return self.kept.get(name)
