"""Make the demo corpus: short synthetic pieces in which genre, mood, instrument and tempo are independent and known exactly.

``generate_demo`` writes a manifest as ``prepare`` reads it, so that the whole system can be tried without any recording. What the
pieces consist of is decided in ``demo_score``; here they are rendered with symusic and the SoundFont ``TimGM6mb.sf2`` that comes
with pretty_midi, mixed and written.

Four faults of symusic 0.5.9 and 0.6 are worked around. Its synthesizer ignores the instruments' root keys, so most programs play
out of tune: the keys are copied to where it looks (``tune_soundfont``). It ignores velocities, so the notes of each velocity are
rendered by themselves and scaled. It keeps samples with the settings of the program that asked first, so each part has its own
synthesizer, without which a piece would depend on the pieces before it. Mono fails in 0.6, so stereo is averaged.

Every stem is brought to the level of its role before mixing, so that no program, pattern or key is betrayed by its loudness,
and the whole to a loudness drawn at random; only the dynamics of the mood raise or lower lead and chords against bass and drums.

Audio: mono, 22,050 Hz, 16 bit FLAC. The comment in each file states its recipe; a file is made again only if it is missing or
made by another recipe.
"""

import csv
import io
import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import groupby, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import symusic

from datamodules.audio.decoding import encode_flac, read_comment
from datamodules.corpora.demo.score import MOODS, InstrumentPart, Note, Piece, compose, plan_pieces
from disentangled_ml.files import atomic_write, remove_unfinished, write_text
from disentangled_ml.progress import show_progress

logger = logging.getLogger(__name__)

SAMPLE_RATE = 22050
RECIPE = 1  # raise it when the pieces sound otherwise
COLUMNS = ("track_id", "path", "split", "genre", "mood", "instrument", "tempo")

STEM_DB = {"lead": 2.0, "chords": -8.0, "bass": -6.0, "drums": -1.0}
MOODY_STEMS = ("lead", "chords")
STEM_SPREAD_DB = 1.5  # mixing level, to either side
LOUDNESS_DB = (-22.0, -17.0)  # RMS of the whole, re full scale
REFERENCE_VELOCITY = 80  # of the mood; played at 0 dB
MAX_VELOCITY = 127
CLOSING_PITCH = 60
TICKS_PER_QUARTER = 480

# SoundFont 2.04, sections 7.7, 7.8, 7.10 and 8.1.2
SF2_BAG = np.dtype([("generator", "<u2"), ("modulator", "<u2")])
SF2_GENERATOR = np.dtype([("operator", "<u2"), ("amount", "<u2")])
SF2_SAMPLE = np.dtype([("name", "S20"), ("positions", "<u4", 5), ("root_key", "u1"), ("rest", "V5")])
SF2_SAMPLE_ID, SF2_ROOT_KEY = 53, 58


class Composed(Protocol):
    """A piece to be rendered."""

    @property
    def track_id(self) -> str:
        """Name of the track."""


def generate_demo(out: Path, n_pieces: int = 360, seed: int = 0, seconds: float = 12.0, workers: int = 2) -> Path:
    """Write the demo corpus; finish it if it is there in part, and leave it alone if it is complete.

    The result depends on ``n_pieces``, ``seed`` and ``seconds`` only.

    Args:
        out: Folder that receives ``audio/<track_id>.flac`` and ``manifest.csv``.
        n_pieces: Number of pieces.
        seed: Fixes labels and music.
        seconds: Duration of each piece.
        workers: Number of processes; with more than one, a calling script needs ``if __name__ == "__main__"``.

    Returns: The path of the manifest.

    Raises:
        ValueError: If a number is below 1.
        FileNotFoundError: If the SoundFont is not installed.
    """
    for name, value in (("seconds", seconds), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} is {value}, must be at least 1")
    pieces = plan_pieces(n_pieces, seed)
    out = Path(out)
    manifest, text = out / "manifest.csv", csv_text([COLUMNS, *map(_manifest_row, pieces)])
    if manifest.exists() and manifest.read_text(encoding="utf-8") != text:
        manifest.unlink()  # it describes other audio
    render_missing(out / "audio", pieces, seconds, workers, render_piece)
    if not manifest.exists():
        write_text(manifest, text)
    return manifest


def render_missing(
    folder: Path,
    pieces: Sequence[Composed],
    seconds: float,
    workers: int,
    render: Callable[[Composed, float, Path], np.ndarray],
) -> None:
    """Write ``<track_id>.flac`` of those pieces that are not there, or are there by another recipe.

    Args:
        folder: To be filled.
        pieces: Of the corpus; all that their audio depends on stands in their ``repr``.
        seconds: Duration of each.
        workers: Number of processes.
        render: Returns the samples of a piece, of which it gets the duration and a tuned SoundFont.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pending = [piece for piece in pieces if not _is_written(folder / file_name(piece), piece, seconds)]
    logger.info("demo corpus in %s: %d of %d pieces to render", folder.parent, len(pending), len(pieces))
    if pending:
        with TemporaryDirectory() as scratch:
            soundfont = Path(scratch) / "tuned.sf2"
            soundfont.write_bytes(tune_soundfont(soundfont_path().read_bytes()))
            written = _map(partial(_write_piece, folder, seconds, soundfont, render), pending, workers)
            deque(show_progress(written, total=len(pending), desc="demo corpus", unit="piece"), maxlen=0)
        remove_unfinished(folder)


def render_piece(piece: Piece, seconds: float, soundfont: Path) -> np.ndarray:
    """Render a piece, from a random point of its first bar on, with a SoundFont that went through ``tune_soundfont``.

    Shape: returns (seconds * SAMPLE_RATE,) float64, in -1..1.
    """
    rng = piece.generator()
    total = piece.bar_seconds + seconds
    parts = compose(piece, total, rng)
    start = round(rng.uniform(0, piece.bar_seconds) * SAMPLE_RATE)
    length = round(seconds * SAMPLE_RATE)
    dynamics = decibels(MOODS[piece.mood].velocity / REFERENCE_VELOCITY)
    mix = np.zeros(length)
    for name, part in parts.items():
        level = STEM_DB[name] + rng.uniform(-STEM_SPREAD_DB, STEM_SPREAD_DB)
        level += dynamics * (name in MOODY_STEMS)
        mix += levelled(render_part(part, total, soundfont), level)[start : start + length]
    # the rare peak beyond full scale is rounded, not clipped
    return np.tanh(levelled(mix, rng.uniform(*LOUDNESS_DB)))


def decibels(ratio: float) -> float:
    """Convert a ratio of amplitudes.

    >>> decibels(10)
    20.0
    """
    return float(20 * np.log10(ratio))


def levelled(samples: np.ndarray, level: float, within: slice = slice(None)) -> np.ndarray:
    """Scale samples to an RMS of ``level`` decibels, measured in a part of them.

    >>> levelled(np.array([3.0, -3.0]), -20)
    array([ 0.1, -0.1])
    >>> levelled(np.array([3.0, -3.0, 0.0]), -20, slice(2))
    array([ 0.1, -0.1,  0. ])
    """
    return samples * (10 ** (level / 20) / np.sqrt(np.mean(samples[within] ** 2)))


def render_part(part: InstrumentPart, seconds: float, soundfont: Path) -> np.ndarray:
    """Render one part in mono, at its own level: (samples,) float64; the closing note makes every rendering long enough."""
    synthesizer = symusic.Synthesizer(sf_path=str(soundfont), sample_rate=SAMPLE_RATE)
    stem = np.zeros(round(seconds * SAMPLE_RATE))
    by_velocity = sorted(part.notes, key=lambda note: note.velocity)
    for velocity, notes in groupby(by_velocity, key=lambda note: note.velocity):
        track = symusic.Track(program=part.program, is_drum=part.is_drum, ttype="second")
        for note in (*notes, Note(seconds + 1, 1, CLOSING_PITCH, velocity)):
            track.notes.append(symusic.Note(*note, ttype="second"))
        score = symusic.Score(TICKS_PER_QUARTER).to("second")
        score.tracks.append(track)
        rendered = synthesizer.render(score, stereo=True)[:, : len(stem)]
        stem += (velocity / MAX_VELOCITY) ** 2 * rendered.mean(axis=0, dtype=np.float64)
    return stem


def soundfont_path() -> Path:
    """Find the SoundFont inside pretty_midi, without importing it."""
    spec = find_spec("pretty_midi")
    path = Path(spec.origin).with_name("TimGM6mb.sf2") if spec else None
    if path is None or not path.is_file():
        raise FileNotFoundError("TimGM6mb.sf2 not found: install pretty_midi, whose wheel contains it")
    return path


def tune_soundfont(soundfont: bytes) -> bytes:
    """Copy the root keys that the instruments of an sf2 file give to samples into the headers of these samples.

    Where instruments disagree on a sample, the first prevails.
    """
    tuned = bytearray(soundfont)
    bags = _sf2_records(tuned, b"ibag", SF2_BAG)
    generators = _sf2_records(tuned, b"igen", SF2_GENERATOR)
    samples = _sf2_records(tuned, b"shdr", SF2_SAMPLE)
    for first, last in reversed(list(pairwise(bags["generator"]))):
        zone = {int(operator): int(amount) for operator, amount in generators[first:last]}
        if SF2_SAMPLE_ID in zone and SF2_ROOT_KEY in zone:
            samples["root_key"][zone[SF2_SAMPLE_ID]] = zone[SF2_ROOT_KEY]
    return bytes(tuned)


def _sf2_records(soundfont: bytearray, name: bytes, dtype: np.dtype) -> np.ndarray:
    """View a chunk of the preset data as records; writing to them changes the SoundFont."""
    try:
        start = soundfont.index(name, soundfont.rindex(b"pdta")) + 8
    except ValueError:
        raise ValueError(f"not a SoundFont: it has no chunk {name.decode()} behind pdta") from None
    size = int.from_bytes(soundfont[start - 4 : start], "little")
    return np.frombuffer(soundfont, dtype, size // dtype.itemsize, start)


def _map(function: Callable[[Composed], None], pieces: list[Composed], workers: int) -> Iterator[None]:
    """Apply a function to every piece, in this process or in several."""
    if workers == 1 or len(pieces) < 2:
        yield from map(function, pieces)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, pieces)


def file_name(piece: Composed) -> str:
    return f"{piece.track_id}.flac"


def _recipe(piece: Composed, seconds: float) -> str:
    return f"recipe {RECIPE}, {seconds:g} s: {piece}"


def _is_written(path: Path, piece: Composed, seconds: float) -> bool:
    return read_comment(path) == _recipe(piece, seconds)


def _write_piece(
    folder: Path,
    seconds: float,
    soundfont: Path,
    render: Callable[[Composed, float, Path], np.ndarray],
    piece: Composed,
) -> None:
    samples = render(piece, seconds, soundfont)
    with atomic_write(folder / file_name(piece), "wb") as file:
        file.write(encode_flac(samples, SAMPLE_RATE, _recipe(piece, seconds)))


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _manifest_row(piece: Piece) -> Sequence[Any]:
    path = f"audio/{file_name(piece)}"
    return piece.track_id, path, piece.split, piece.genre, piece.mood, piece.instrument, piece.tempo
