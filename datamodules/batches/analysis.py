"""What is kept of a recording, so that it is never decoded again: its chunks as a network reads them, its tempo, its tags.

A recording is known by the digest of its bytes. One that is renamed, moved or copied is the same, and a model that comes later
reads what was kept for an earlier one. Of long recordings some chunks are kept, spread evenly: 60 s stand for four minutes nearly as
well as all of them (docs/music.md has the figures).

A store is a folder: ``DIGEST[:2]/DIGEST.npz`` with ``chunks``, ``audio_fingerprint`` and ``notes`` (JSON, as bytes), written
atomically. A recording that cannot be used has no arrays, and the reason in its notes. No pickles.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.audio.decoding import MAX_LOST, UnusableAudio, read_recording
from datamodules.audio.fingerprint import audio_fingerprint
from datamodules.audio.musicnn import CONDITION_TAGS, tag_model, tag_probabilities
from datamodules.audio.tempo import NOTHING, Tempo, estimate_tempi, excerpt_of
from datamodules.batches.cutting import open_waveform
from datamodules.shards.origin import UNEXPECTED, is_unexpected, read_origin, renew
from datamodules.shards.workers import do_or_reject
from disentangled_ml.chunks import FEATURE_SIZE, feature_rows, split_source
from disentangled_ml.files import DAMAGED_NPZ, as_json, atomic_write, remove_unfinished
from disentangled_ml.structures import MAX_BPM, MIN_BPM, AudioSettings, Rejected, TrackRecord, chunk_grid, stable_hash

# Of the middle of a recording: half of what ``prepare`` takes, for half the time and memory.
TEMPO_SECONDS = 60.0
ARRAYS = ("chunks", "audio_fingerprint")  # of an analysis
LEAST_ROOM = 1_000_000  # bytes, about what one analysis takes
FORMAT_VERSION = 2  # of an analysis; 1 had no fingerprint
# What was found may be of other bytes than those that the digest is of.
CHANGED = f"{UNEXPECTED}change of the file while it was analysed: repeat the command"


@dataclass(frozen=True)
class AnalysisSettings:
    """How recordings are analysed.

    Attributes:
        audio: Of the spectrogram.
        source: What the array of a chunk holds, see ``disentangled_ml.chunks``.
        chunk_frames: Length of a chunk.
        most_seconds: Of a recording that are kept, in chunks spread over it; None: all.
        tempo: What runs the networks that estimate the tempo: ``torch`` or ``madmom``; ``manifest``: nothing does.
    """

    audio: AudioSettings
    source: str
    chunk_frames: int
    most_seconds: float | None = 60.0
    tempo: str = "torch"

    def name(self) -> str:
        """Return the name of the folder for what is analysed so.

        >>> AnalysisSettings(AudioSettings(), "mel+msd", 129).name()
        'mel+msd-129-60s-d118adbe'
        """
        length = "all" if self.most_seconds is None else f"{self.most_seconds:g}s"
        return (
            f"{self.source}-{self.chunk_frames}-{length}-{stable_hash(as_json([FORMAT_VERSION, asdict(self)]), 4):08x}"
        )

    def starts(self, frames: int) -> list[int]:
        """Return the first frames of the chunks that are kept of a recording of some frames: at most ``most_seconds``, spread evenly.

        >>> AnalysisSettings(AudioSettings(), "mel", 129, most_seconds=9.0).starts(129 * 7)
        [129, 387, 645]
        """
        grid = chunk_grid(frames, self.chunk_frames)
        most = len(grid)
        if self.most_seconds is not None:
            most = min(most, max(1, round(self.most_seconds / self.audio.seconds(self.chunk_frames))))
        return [grid[int((number + 0.5) * len(grid) / most)] for number in range(most)]


class Analysis(NamedTuple):
    """What is kept of a recording.

    Attributes:
        chunks: (n, ...) as the network reads them, n >= 1, in order.
        audio_fingerprint: Of the whole recording, (SIZE,) int8, see ``datamodules/audio/fingerprint.py``.
        starts: Of the chunks, in seconds.
        seconds: Length of the recording.
        tempo: As it was estimated; None where nothing was, or there is no beat.
        tags: Per condition the probability of each tag.
        warnings: What is not as it should be, a line each.
    """

    chunks: np.ndarray
    audio_fingerprint: np.ndarray
    starts: list[float]
    seconds: float
    tempo: Tempo | None
    tags: dict[str, dict[str, float]]
    warnings: list[str]


class AnalysisStore:
    """The analyses of recordings by their content, in a folder; any number of processes may write to it.

    Args:
        folder: Of the analyses with these settings.
        settings: Of them.
    """

    def __init__(self, folder: Path, settings: AnalysisSettings):
        self.folder, self.settings = folder / settings.name(), settings

    def path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.npz"

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def remove_unfinished(self) -> None:
        """Remove what killed processes have left; none may be writing."""
        for folder in self.folder.glob("*/"):
            remove_unfinished(folder)

    def remove(self, digest: str) -> None:
        """Forget what is kept of a recording, which is damaged."""
        self.path(digest).unlink(missing_ok=True)

    def save(self, digest: str, result: Analysis | Rejected) -> None:
        """Keep what was found of a recording."""
        if isinstance(result, Rejected):
            notes, arrays = {"rejected": result.reason}, {}
        else:
            notes = result._asdict()
            arrays = {name: notes.pop(name) for name in ARRAYS}
        self.path(digest).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path(digest), "wb") as file:
            np.savez(file, notes=np.frombuffer(as_json(notes).encode(), np.uint8), **arrays)

    def check_room(self) -> None:
        """Check that another analysis can be kept. Raises OSError if not: the disk is full, or cannot be written to any more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.write(bytes(LEAST_ROOM))

    def read(self, digest: str, chunks: bool = True) -> Analysis | str | None:
        """Read what is kept of a recording; without ``chunks`` these are left out.

        Returns: The analysis; the reason for which the recording cannot be used; or None if nothing is kept, or it was damaged. What
            is damaged is removed, so that it is made anew.
        """
        try:
            with np.load(self.path(digest), allow_pickle=False) as content:
                notes = json.loads(content["notes"].tobytes())
                if "rejected" in notes:
                    return str(notes["rejected"])
                arrays = [content[name] if chunks else np.empty(0, np.float16) for name in ARRAYS]
            tempo = notes["tempo"] and Tempo(*notes["tempo"])
            return Analysis(*arrays, **{**notes, "tempo": tempo})
        except OSError:
            return None
        except DAMAGED_NPZ:
            self.path(digest).unlink(missing_ok=True)
            return None


def analyse(record: TrackRecord, settings: AnalysisSettings) -> tuple[Analysis, np.ndarray]:
    """Analyse one recording but for its tempo; return the excerpt too that this is estimated of.

    Raises: UnusableAudio: with the reason for which it is rejected.
    """
    recording = read_recording(Path(record.path), *record.section, max_lost=MAX_LOST)
    waveform, rate = recording.waveform, recording.sample_rate
    audio, frames = settings.audio, settings.chunk_frames
    track = open_waveform(waveform, rate, audio, settings.source, frames, settings.starts)
    starts = settings.starts(track.frames)
    if not starts:
        reason = f"shorter than a chunk: {len(waveform) / rate:.2f} s, {audio.seconds(frames - 1):.2f} s needed"
        raise UnusableAudio("; ".join([reason, *recording.warnings]))
    chunks = np.stack([track.read_chunk(start) for start in starts])
    whole = np.stack([track.read_chunk(start) for start in chunk_grid(track.frames, frames)])
    seconds = [round(audio.seconds(start), 3) for start in starts]
    tags = estimate_tags(chunks, settings.source)
    excerpt = NOTHING if settings.tempo == "manifest" else excerpt_of(waveform, rate, TEMPO_SECONDS)
    fingerprint = audio_fingerprint(whole, audio)
    found = Analysis(chunks, fingerprint, seconds, round(len(waveform) / rate, 3), None, tags, list(recording.warnings))
    return found, excerpt


def features_of(chunks: np.ndarray, source: str) -> np.ndarray:
    """Return the features that chunks (n, 1, rows, frames) hold below their spectrograms: (n, F) float32."""
    width = FEATURE_SIZE * len(split_source(source).features)
    rows = feature_rows(width, chunks.shape[-1])
    return chunks[:, 0, chunks.shape[2] - rows :].reshape(len(chunks), -1)[:, :width].astype(np.float32)


def estimate_tags(chunks: np.ndarray, source: str) -> dict[str, dict[str, float]]:
    """Return the probabilities of the tags of each condition that the features in some chunks tell of."""
    networks = split_source(source).features
    conditions = [name for name in CONDITION_TAGS if tag_model(name, networks) is not None]
    return tag_probabilities(features_of(chunks, source), networks, conditions) if conditions else {}


def analyse_group(records: Sequence[TrackRecord], settings: AnalysisSettings) -> list[Analysis | Rejected]:
    """Analyse a group of recordings: one by one, except for their tempi, which are estimated together."""
    found = [do_or_reject(record, partial(analyse, settings=settings)) for record in records]
    excerpts = [NOTHING if isinstance(each, Rejected) else each[1] for each in found]
    tempi = estimate_tempi(excerpts, settings.tempo) if settings.tempo != "manifest" else [None] * len(found)
    return [
        each if isinstance(each, Rejected) else each[0]._replace(tempo=legal_tempo(tempo))
        for each, tempo in zip(found, tempi, strict=True)
    ]


def legal_tempo(tempo: Tempo | None) -> Tempo | None:
    return tempo if tempo is not None and MIN_BPM <= tempo.bpm <= MAX_BPM else None


def keep_analyses(records: Sequence[TrackRecord], store: AnalysisStore) -> list[Any | Rejected]:
    """Analyse a group of recordings, each unless its content is known, and keep what was found; return their digests.

    A failure that is not the recording's is not kept: another attempt may succeed.
    """
    origins = [read_origin(record.path) for record in records]
    missing = [
        record
        for record, origin in zip(records, origins, strict=True)
        if origin is None or not origin.digest or not store.has(origin.digest)
    ]
    made = {record.path: result for record, result in zip(missing, analyse_group(missing, store.settings), strict=True)}
    digests: list[Any | Rejected] = []
    for record, origin in zip(records, origins, strict=True):
        result, digest = made.get(record.path), origin.digest if origin else ""
        if isinstance(result, Analysis) and renew(origin, record.path) is None:
            result = Rejected(record.track_id, record.path, CHANGED)
        if isinstance(result, Rejected) and (is_unexpected(result) or not digest):
            digests.append(result)
            continue
        if result is not None:
            store.save(digest, result)
        digests.append(digest)
    return digests
