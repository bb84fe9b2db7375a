"""Make pieces of the demo corpus in which one factor changes in the middle, at a time that is known exactly.

Of five pieces in a row one changes its genre, one its mood, one its instrument, one its tempo, and one nothing. All else continues
over the change: the other factors, key, accompanying programs, drum kit, loudness of each part and, but for a change of genre,
the patterns, since both halves are composed from the same random numbers. The change comes at the bar line that is nearest to
a point drawn in the middle third. Every third group of five is for validation, the others for test; none is for training.

``generate_changes`` writes ``changes.csv``: ``path, split, condition, time, before, after``, where ``time`` is in seconds and
``condition`` and what follows are empty for pieces without a change; ``sections.csv``, a manifest of their sections as ``prepare``
reads it, with ``start`` and ``end`` in seconds; ``tracks.csv``, a manifest of the whole pieces, with the tags of both sections and the
tempo of the first; and ``triplets.csv``, a list of test triplets of whole pieces as ``evaluate`` reads it: the condition does not
change in the anchor, in the positive it changes from or to what it is in the anchor, in the negative between two others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

from datamodules.corpora.demo.corpus import (
    LOUDNESS_DB,
    MOODY_STEMS,
    REFERENCE_VELOCITY,
    SAMPLE_RATE,
    STEM_DB,
    STEM_SPREAD_DB,
    csv_text,
    decibels,
    file_name,
    levelled,
    render_missing,
    render_part,
)
from datamodules.corpora.demo.score import (
    GENRES,
    LEAD_PROGRAMS,
    MOODS,
    TEMPO_RANGE,
    InstrumentPart,
    Note,
    Piece,
    balanced_cells,
    compose,
    stratified_tempos,
)
from disentangled_ml.files import write_text
from disentangled_ml.structures import TRIPLET_COLUMNS

TAG_FACTORS = ("genre", "mood", "instrument")
FACTORS = (*TAG_FACTORS, "tempo")
KINDS = (*FACTORS, None)  # what changes, in turn
COLUMNS = ("path", "split", "condition", "time", "before", "after")
TRACK_COLUMNS = ("track_id", "path", "split", *FACTORS)
TRIPLETS_PER_CONDITION = 1000
SECTION_COLUMNS = ("track_id", "path", "start", "end", "split", *FACTORS)
MIDDLE = (1 / 3, 2 / 3)  # share of the piece
# Of the faster to the slower tempo: beyond estimation errors, short of an octave.
TEMPO_RATIO = (1.25, 1.6)
VALIDATION_PERIOD = 3  # of groups of five, the first
SALT = 6  # other random numbers than the corpus's
SLACK = 0.04  # seconds, more than a note is early


@dataclass(frozen=True)
class ChangingPiece:
    """A piece, known by its factors before and after the change; without a change they are the same.

    Attributes:
        position: Share of the piece near which the change comes.
    """

    before: Piece
    after: Piece
    position: float

    @property
    def track_id(self) -> str:
        return f"change-{self.before.index:05d}"

    @property
    def condition(self) -> str | None:
        """The factor that changes; None if none does."""
        return next((name for name in FACTORS if getattr(self.before, name) != getattr(self.after, name)), None)

    def generator(self) -> Generator:
        return default_rng(SeedSequence(self.before.seed, spawn_key=(SALT, self.before.index)))

    def start(self) -> float:
        """Return the time in seconds from the first bar line at which the recording begins, within the first bar."""
        return self.generator().uniform(0, self.before.bar_seconds)

    def bars_before(self, seconds: float) -> int:
        """Count the bars before the change in a recording of ``seconds`` seconds."""
        return round((self.start() + self.position * seconds) / self.before.bar_seconds)

    def change(self, seconds: float) -> float:
        """Return the time of the change in a recording of ``seconds`` seconds, in seconds."""
        return self.bars_before(seconds) * self.before.bar_seconds - self.start()


def generate_changes(out: Path, n_pieces: int = 150, seed: int = 0, seconds: float = 24.0, workers: int = 2) -> Path:
    """Write the pieces; finish them if they are there in part, and leave them alone if they are complete.

    The result depends on ``n_pieces``, ``seed`` and ``seconds`` only.

    Args:
        out: Folder that receives ``audio/<track_id>.flac`` and the tables.
        n_pieces: Number of pieces.
        seed: Fixes labels and music.
        seconds: Duration of each piece.
        workers: Number of processes; with more than one, a calling script needs ``if __name__ == "__main__"``.

    Returns: The path of ``changes.csv``.

    Raises:
        ValueError: If there are no pieces, or they are too short for a bar before and after the change.
        FileNotFoundError: If the SoundFont is not installed.
    """
    out, shortest = Path(out), 2 / MIDDLE[0] * 4 * 60 / TEMPO_RANGE[0]
    if n_pieces < 1:
        raise ValueError(f"n_pieces is {n_pieces}, must be at least 1")
    if seconds < shortest:
        raise ValueError(f"seconds is {seconds}, must be at least {shortest:g} for pieces that change")
    pieces = plan_changes(n_pieces, seed)
    tables = {
        "changes.csv": change_rows(pieces, seconds),
        "sections.csv": section_rows(pieces, seconds),
        "tracks.csv": track_rows(pieces),
        "triplets.csv": triplet_rows(pieces, seed),
    }
    texts = {out / name: csv_text(rows) for name, rows in tables.items()}
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            path.unlink()  # it describes other audio
    render_missing(out / "audio", pieces, seconds, workers, render_change)
    for path, text in texts.items():
        write_text(path, text)
    return out / "changes.csv"


def plan_changes(n_pieces: int, seed: int) -> list[ChangingPiece]:
    """Draw the factors of every piece, balanced before the change, uniform among the others after it.

    >>> [piece.condition for piece in plan_changes(6, seed=0)]
    ['genre', 'mood', 'instrument', 'tempo', None, 'genre']
    """
    rng = default_rng(SeedSequence(seed, spawn_key=(SALT,)))
    cells, tempos = list(islice(balanced_cells(rng), n_pieces)), stratified_tempos(n_pieces, rng)
    pieces = []
    for index, (cell, tempo) in enumerate(zip(cells, tempos, strict=True)):
        split = "test" if index // len(KINDS) % VALIDATION_PERIOD else "val"
        before = Piece(seed, index, *cell, tempo=tempo, split=split)
        condition = KINDS[index % len(KINDS)]
        after = before if condition is None else replace(before, **{condition: draw_other(before, condition, rng)})
        pieces.append(ChangingPiece(before, after, rng.uniform(*MIDDLE)))
    return pieces


def draw_other(piece: Piece, condition: str, rng: Generator) -> str | float:
    if condition == "tempo":
        ratio, (low, high) = rng.uniform(*TEMPO_RATIO), TEMPO_RANGE
        faster, slower = piece.tempo * ratio, piece.tempo / ratio
        is_faster = slower < low or (faster <= high and rng.random() < 0.5)
        return round(float(faster if is_faster else slower), 1)
    values = {"genre": GENRES, "mood": MOODS, "instrument": LEAD_PROGRAMS}[condition]
    others = [value for value in values if value != getattr(piece, condition)]
    return others[rng.integers(len(others))]


def compose_change(piece: ChangingPiece, seconds: float) -> tuple[dict[str, InstrumentPart], dict[str, InstrumentPart]]:
    """Write a piece: the parts before and after the change, in seconds from the first bar line on."""
    bars = piece.bars_before(seconds)
    change = bars * piece.before.bar_seconds
    bar_after = piece.after.bar_seconds
    more = int(np.ceil((seconds + piece.start() - change) / min(piece.before.bar_seconds, bar_after))) + 1
    first, second = (
        compose(half, (bars + more - 1.5) * half.bar_seconds, piece.generator())  # as many bars in both halves
        for half in (piece.before, piece.after)
    )
    shift = change - bars * bar_after
    before, after = {}, {}
    for name, part in first.items():
        before[name] = part._replace(notes=[note for note in part.notes if note.start < change - SLACK])
        moved = [note._replace(start=note.start + shift) for note in second[name].notes]
        program = second[name].program if name == "lead" else part.program
        notes = [clip(note, change) for note in moved if note.start >= change - SLACK]
        after[name] = InstrumentPart(program, part.is_drum, notes)
    return before, after


def clip(note: Note, earliest: float) -> Note:
    """Return a note that begins no earlier than a time.

    >>> clip(Note(0.99, 0.5, 60, 80), 1.0).start, clip(Note(1.5, 0.5, 60, 80), 1.0).start
    (1.0, 1.5)
    """
    return note._replace(start=max(note.start, earliest))


def render_change(piece: ChangingPiece, seconds: float, soundfont: Path) -> np.ndarray:
    """Render a piece as ``render_piece`` does; what sounds at the change rings on over it."""
    rng = piece.generator()
    first, last = round(piece.start() * SAMPLE_RATE), round((piece.start() + seconds) * SAMPLE_RATE)
    middle = first + round(piece.change(seconds) * SAMPLE_RATE)
    mix = np.zeros(round(seconds * SAMPLE_RATE))
    spreads = {name: rng.uniform(-STEM_SPREAD_DB, STEM_SPREAD_DB) for name in STEM_DB}
    halves = zip((piece.before, piece.after), compose_change(piece, seconds), strict=True)
    for (half, parts), within in zip(halves, (slice(first, middle), slice(middle, last)), strict=True):
        dynamics = decibels(MOODS[half.mood].velocity / REFERENCE_VELOCITY)
        for name, part in parts.items():
            level = STEM_DB[name] + spreads[name] + dynamics * (name in MOODY_STEMS)
            stem = render_part(part, piece.start() + seconds + 1, soundfont)
            mix += levelled(stem, level, within)[first : first + len(mix)]
    return np.tanh(levelled(mix, rng.uniform(*LOUDNESS_DB)))


def change_rows(pieces: Sequence[ChangingPiece], seconds: float) -> list[Sequence[Any]]:
    """List what changes when, under a header."""
    rows: list[Sequence[Any]] = [COLUMNS]
    for piece in pieces:
        row = [f"audio/{file_name(piece)}", piece.before.split]
        if name := piece.condition:
            change = [name, f"{piece.change(seconds):.3f}", getattr(piece.before, name), getattr(piece.after, name)]
        rows.append([*row, *(change if name else [""] * 4)])
    return rows


def section_rows(pieces: Sequence[ChangingPiece], seconds: float) -> list[Sequence[Any]]:
    """List the sections of all pieces with their labels, under a header."""
    rows: list[Sequence[Any]] = [SECTION_COLUMNS]
    for piece in pieces:
        if piece.condition is None:
            sections = [(piece.before, 0.0, seconds)]
        else:
            change = piece.change(seconds)
            sections = [(piece.before, 0.0, change), (piece.after, change, seconds)]
        for half, start, end in sections:
            labels = [getattr(half, name) for name in FACTORS]
            times = f"{start:.3f}", f"{end:.3f}"
            rows.append([piece.track_id, f"audio/{file_name(piece)}", *times, half.split, *labels])
    return rows


def track_rows(pieces: Sequence[ChangingPiece]) -> list[Sequence[Any]]:
    """List the whole pieces, with the tags of both halves, under a header."""
    rows: list[Sequence[Any]] = [TRACK_COLUMNS]
    for piece in pieces:
        tags = [";".join(sorted(tags_of(piece, name))) for name in TAG_FACTORS]
        rows.append([piece.track_id, f"audio/{file_name(piece)}", piece.before.split, *tags, piece.before.tempo])
    return rows


def tags_of(piece: ChangingPiece, name: str) -> set[str]:
    """Return the tags that a piece has of a factor, before or after its change."""
    return {getattr(piece.before, name), getattr(piece.after, name)}


def triplet_rows(pieces: Sequence[ChangingPiece], seed: int) -> list[Sequence[Any]]:
    """Draw triplets of whole test pieces, between one that keeps a tag, one that changes from or to it, and one that never has it."""
    rng = default_rng(SeedSequence(seed, spawn_key=(SALT, SALT)))
    rows: list[Sequence[Any]] = [TRIPLET_COLUMNS]
    tests = [piece for piece in pieces if piece.before.split == "test"]
    for name in TAG_FACTORS:
        changing = [piece for piece in tests if piece.condition == name]
        values = {value for piece in tests for value in tags_of(piece, name)}
        positives = {value: [piece for piece in changing if value in tags_of(piece, name)] for value in values}
        negatives = {value: [piece for piece in changing if value not in tags_of(piece, name)] for value in values}
        anchors = [piece for piece in tests if piece.condition != name]
        usable = [a for a in anchors if positives[getattr(a.before, name)] and negatives[getattr(a.before, name)]]
        for _ in range(TRIPLETS_PER_CONDITION if usable else 0):
            anchor = usable[rng.integers(len(usable))]
            sides = (side[getattr(anchor.before, name)] for side in (positives, negatives))
            members = [anchor, *(side[rng.integers(len(side))] for side in sides)]
            rows.append([name, *(cell for member in members for cell in (member.track_id, ""))])
    return rows
