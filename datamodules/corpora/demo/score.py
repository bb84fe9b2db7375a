"""Plan and compose the pieces of the demo corpus: four independent factors, known exactly; no audio here.

A piece is one choice of each factor, and every factor acts on its own part of the music:

* *genre*: metre, drum pattern, rhythm of bass and chords, chord progressions, grid of the lead's rhythm;
* *mood*: scale, register, step sizes, articulation and velocity of the lead; scale, articulation and velocity of the chords;
* *instrument*: the family of General MIDI programs that plays the lead, and nothing else;
* *tempo*: the speed, in quarter notes per minute.

Key, melody, pattern variants, fills, swing, accompanying programs, drum kit and timing are nuisance, drawn independently of
the factors.

Conventions: time is in beats (quarter notes) in a ``Note`` on the grid and in seconds once performed; pitches are MIDI numbers;
velocities lie in 1..127. A pattern is a string with one character per grid step and one bar long: ``.`` rests, ``-`` prolongs
the note before, any other character begins a note.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

from disentangled_ml.structures import SPLITS

T = TypeVar("T")

TEMPO_RANGE = (60.0, 180.0)  # BPM
TEMPO_CLASSES = 5  # among which the splits are balanced
SPLIT_SHARES = dict(zip(SPLITS, (0.60, 0.15, 0.25), strict=True))

DRUMS = {
    "kick": 36, "rim": 37, "snare": 38, "clap": 39, "hat": 42, "pedal": 44, "tom": 45, "open": 46, "ride": 51, "shaker": 70,
}  # fmt: skip
DRUM_VELOCITY = {"o": 50, "x": 84, "X": 112}
DRUM_KITS = (0, 8, 16, 25)  # standard, room, power, TR-808
BASS_PROGRAMS = (32, 33, 38)
# Vibraphone, marimba, reed organ, voices: of no lead family.
CHORD_PROGRAMS = (11, 12, 20, 53)
LEAD_PROGRAMS = {
    "piano": (0, 2, 4),
    "guitar": (24, 25, 27),
    "strings": (40, 42, 48),
    "brass": (56, 57, 61),
    "woodwind": (71, 73, 74),
}
LEAD_CELLS = {2: ("x-", "xx"), 3: ("x--", "x-x", "xxx"), 4: ("x---", "x-x-", "x--x")}  # one beat, by subdivision
LEAD_SPAN = 7  # semitones to either side of the register
FILL_PERIOD = 4  # bars
MIN_DURATION = 0.05  # seconds


@dataclass(frozen=True)
class Style:
    """A genre: bars of ``beats`` beats, ``subdivision`` grid steps each; every field after these lists variants.

    Attributes:
        swing: Lowest and highest share of the beat that goes before its off-beat.
        drums: Patterns by drum; ``o``, ``x`` and ``X`` grow in velocity.
        bass: Patterns of scale degrees counted from the chord's root (1).
        chords: Rhythms.
        progressions: Roots as scale degrees (0 is the tonic), one per bar.
        chord_size: Number of stacked thirds' tones.
    """

    beats: int
    subdivision: int
    swing: tuple[float, float]
    drums: tuple[dict[str, str], ...]
    bass: tuple[str, ...]
    chords: tuple[str, ...]
    progressions: tuple[tuple[int, ...], ...]
    chord_size: int


@dataclass(frozen=True)
class Mood:
    """A mood.

    Attributes:
        scales: Variants; semitones above the tonic, seven each.
        register: Centre of the lead.
        steps: Moves of the lead in scale steps, to draw from.
        articulation: Sounding share of a note's length.
        velocity: Mean velocity of lead and chords.
        accent: Extra velocity on the beat.
    """

    scales: tuple[tuple[int, ...], ...]
    register: int
    steps: tuple[int, ...]
    articulation: float
    velocity: int
    accent: int


GENRES = {
    "rock": Style(
        beats=4,
        subdivision=2,
        swing=(0.49, 0.52),
        drums=(
            {"kick": "x...x...", "snare": "..X...X.", "hat": "xoxoxoxo"},
            {"kick": "x..ox...", "snare": "..X...X.", "hat": "XxXxXxXx"},
            {"kick": "x...oo..", "snare": "..X...X.", "ride": "xoxoxoxo"},
        ),
        bass=("11111111", "1-11111-", "1-111155"),
        chords=("x-x-x-x-", "xxxxxxxx", "x--xx-x-"),
        progressions=((0, 4, 5, 3), (0, 6, 3, 0), (0, 3, 4, 3), (0, 5, 3, 4)),
        chord_size=3,
    ),
    "waltz": Style(
        beats=3,
        subdivision=2,
        swing=(0.48, 0.52),
        drums=(
            {"kick": "x.....", "snare": "..x.x.", "hat": "x.x.x."},
            {"kick": "x.....", "rim": "..X.X.", "hat": "x.xox."},
            {"kick": "x.....", "snare": "..o.x.", "ride": "X.x.xo"},
        ),
        bass=("1-----", "1---5-", "1-3-5-"),
        chords=("..x-x-", "..x.x."),
        progressions=((0, 4, 4, 0), (0, 3, 4, 0), (0, 5, 1, 4), (0, 0, 4, 4)),
        chord_size=3,
    ),
    "house": Style(
        beats=4,
        subdivision=4,
        swing=(0.50, 0.54),
        drums=(
            {"kick": "x...x...x...x...", "clap": "....X.......X...", "open": "..x...x...x...x."},
            {
                "kick": "x...x...x...x...",
                "clap": "....x.......x..o",
                "open": "..X...X...X...X.",
                "hat": "xo.oxo.oxo.oxo.o",
            },
            {
                "kick": "x...x...x...x...",
                "snare": "....X.......X...",
                "open": "..x...x...x...x.",
                "shaker": "ooxoooxoooxoooxo",
            },
        ),
        bass=("..1...1...1...1.", "..18..18..18..18", "1.81..8.1.81..8."),
        chords=("..x-..x-..x-..x-", "x..x..x.x..x..x.", "x..x..x-..x-..x."),
        progressions=((0, 0, 5, 5), (0, 5, 3, 4), (5, 3, 0, 4), (0, 2, 3, 3)),
        chord_size=4,
    ),
    "bossa": Style(
        beats=4,
        subdivision=4,
        swing=(0.49, 0.52),
        drums=(
            {
                "kick": "x..ox..ox..ox..o",
                "rim": "x..x..x...x..x..",
                "pedal": "x...x...x...x...",
                "shaker": "xoooxoooxoooxooo",
            },
            {
                "kick": "x..ox..ox..ox..o",
                "rim": "..x...x..x..x..x",
                "pedal": "x...x...x...x...",
                "hat": "xoxoxoxoxoxoxoxo",
            },
            {"kick": "o..oo..oo..oo..o", "rim": "x..x..x..x..x...", "shaker": "XoxoXoxoXoxoXoxo"},
        ),
        bass=("1--55--51--55--5", "1--15--51--15--5", "1-----5-5-----1-"),
        chords=("x--x--x---x--x--", "x-.x-.x-..x-.x-.", "x---..x-.x-.x-.."),
        progressions=((1, 4, 0, 0), (0, 1, 4, 0), (0, 5, 1, 4), (2, 5, 1, 4)),
        chord_size=4,
    ),
    "swing": Style(
        beats=4,
        subdivision=3,
        swing=(0.60, 0.70),
        drums=(
            {"ride": "X..x.xX..x.x", "pedal": "...X.....X..", "kick": "o.....o....."},
            {"ride": "X.xX.xX.xX.x", "pedal": "...x.....x..", "kick": "o..o..o..o.."},
            {"hat": "X..x.oX..x.o", "rim": ".........X..", "kick": "o..o..o..o..", "pedal": "...X.....X.."},
        ),
        bass=("1--3--5--6--", "1--2--3--5--", "8--6--5--3--", "1--5--8--5--"),
        chords=("x----x------", "..x-....x-..", "x--...--.x-.", "...x-....x-."),
        progressions=((1, 4, 0, 5), (0, 5, 1, 4), (0, 3, 0, 4), (2, 5, 1, 4)),
        chord_size=4,
    ),
}

MOODS = {
    "happy": Mood(
        scales=((0, 2, 4, 5, 7, 9, 11), (0, 2, 4, 5, 7, 9, 10)),
        register=76,
        steps=(-2, -2, -1, 1, 1, 2, 2, 4),
        articulation=0.6,
        velocity=98,
        accent=8,
    ),
    "sad": Mood(
        scales=((0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10)),
        register=59,
        steps=(-2, -1, -1, -1, 0, 1, 1, 3),
        articulation=1.0,
        velocity=68,
        accent=4,
    ),
    "tense": Mood(
        scales=((0, 1, 3, 5, 7, 8, 11), (0, 1, 4, 5, 7, 8, 10), (0, 1, 3, 5, 6, 8, 10)),
        register=68,
        steps=(-5, -3, -1, -1, 0, 0, 1, 1, 4, 6),
        articulation=0.4,
        velocity=104,
        accent=20,
    ),
    "calm": Mood(
        scales=((0, 2, 4, 6, 7, 9, 11), (0, 2, 4, 5, 7, 9, 11)),
        register=71,
        steps=(-1, -1, 0, 1, 1),
        articulation=1.05,
        velocity=58,
        accent=0,
    ),
}


@dataclass(frozen=True)
class Piece:
    """A piece, known by its factors; ``seed`` and ``index`` fix all that the factors leave open.

    Attributes:
        tempo: In BPM, with one decimal.
    """

    seed: int
    index: int
    genre: str
    mood: str
    instrument: str
    tempo: float
    split: str

    @property
    def track_id(self) -> str:
        return f"demo-{self.index:05d}"

    @property
    def bar_seconds(self) -> float:
        """Duration of a bar in seconds."""
        return GENRES[self.genre].beats * 60 / self.tempo

    def generator(self) -> Generator:
        """Return the piece's own random generator, the same in whichever process it is used."""
        return default_rng(SeedSequence(self.seed, spawn_key=(self.index,)))


class Note(NamedTuple):
    """A note; ``start`` and ``duration`` are in beats on the grid, in seconds once performed."""

    start: float
    duration: float
    pitch: int
    velocity: int


class InstrumentPart(NamedTuple):
    """What one player plays, in order of time."""

    program: int
    is_drum: bool
    notes: list[Note]


def plan_pieces(n_pieces: int, seed: int) -> list[Piece]:
    """Draw the factors of every piece so that they are balanced, and independent of each other.

    >>> Counter(piece.genre for piece in plan_pieces(40, seed=0))["rock"]
    8
    """
    if n_pieces < 1:
        raise ValueError(f"n_pieces is {n_pieces}, must be at least 1")
    rng = default_rng(seed)
    cells = list(islice(balanced_cells(rng), n_pieces))
    tempos = stratified_tempos(n_pieces, rng)
    splits = _balanced_splits(cells, tempos)
    return [
        Piece(seed, index, *cell, tempo=tempo, split=split)
        for index, (cell, tempo, split) in enumerate(zip(cells, tempos, splits, strict=True))
    ]


def balanced_cells(rng: Generator) -> Iterator[tuple[str, str, str]]:
    """Yield (genre, mood, instrument) for ever, in blocks that are Latin squares: all pairs of factors stay balanced."""
    genres, moods, instruments = list(GENRES), list(MOODS), list(LEAD_PROGRAMS)
    while True:
        for shift in rng.permutation(len(instruments)):
            block = [
                (genre, mood, instruments[(g + m + shift) % len(instruments)])
                for g, genre in enumerate(genres)
                for m, mood in enumerate(moods)
            ]
            yield from (block[i] for i in rng.permutation(len(block)))


def stratified_tempos(n_pieces: int, rng: Generator) -> list[float]:
    """Draw one tempo from each of ``n_pieces`` equal parts of the range, in random order."""
    low, high = TEMPO_RANGE
    position = (rng.permutation(n_pieces) + rng.random(n_pieces)) / n_pieces
    return [round(float(tempo), 1) for tempo in low + (high - low) * position]


def _balanced_splits(cells: list[tuple[str, str, str]], tempos: list[float]) -> list[str]:
    """Assign each piece to one of the splits that are behind their share: the one with least of its factors and their pairs."""
    low, high = TEMPO_RANGE
    counts: Counter[tuple] = Counter()
    sizes: Counter[str] = Counter()
    splits = []
    for number, (cell, tempo) in enumerate(zip(cells, tempos, strict=True), start=1):
        factors = (*cell, int(TEMPO_CLASSES * (tempo - low) / (high - low)))
        keys = [*((factor,) for factor in factors), *combinations(factors, 2)]
        load = {
            split: sum((counts[split, key] + 0.5) / share for key in keys)
            for split, share in SPLIT_SHARES.items()
            if sizes[split] < share * number
        }
        split = min(load, key=load.__getitem__)
        counts.update((split, key) for key in keys)
        sizes[split] += 1
        splits.append(split)
    return splits


def compose(piece: Piece, seconds: float, rng: Generator) -> dict[str, InstrumentPart]:
    """Write a piece from its first bar on, for at least ``seconds`` seconds; ``rng`` draws the nuisance variation.

    Returns: The parts ``lead``, ``chords``, ``bass`` and ``drums``, performed: times in seconds.
    """
    style, mood = GENRES[piece.genre], MOODS[piece.mood]
    bars = int(np.ceil(seconds / piece.bar_seconds)) + 1
    harmony = _harmony(style, mood, bars, rng)
    grid = {
        "lead": (_choice(LEAD_PROGRAMS[piece.instrument], rng), _lead(style, mood, harmony, rng)),
        "chords": (_choice(CHORD_PROGRAMS, rng), _chords(style, mood, harmony, rng)),
        "bass": (_choice(BASS_PROGRAMS, rng), _bass(style, harmony, rng)),
        "drums": (_choice(DRUM_KITS, rng), _drums(style, bars, rng)),
    }
    swing = rng.uniform(*style.swing)
    return {
        name: InstrumentPart(program, name == "drums", _perform(notes, piece.tempo, style.subdivision, swing, rng))
        for name, (program, notes) in grid.items()
    }


class Harmony(NamedTuple):
    """The scale as pitch classes and, for every bar, the scale degree of the chord's root."""

    scale: list[int]
    roots: list[int]

    def pitch_class(self, bar: int, degree: int) -> int:
        """Return the pitch class ``degree`` scale steps above the root of the chord of a bar."""
        return self.scale[(self.roots[bar] + degree) % len(self.scale)]


def _choice(options: Sequence[T], rng: Generator) -> T:
    return options[rng.integers(len(options))]


def _lift(pitch_class: int, floor: int) -> int:
    """Return the lowest pitch of a pitch class that is not below ``floor``.

    >>> _lift(0, 48), _lift(11, 48)
    (48, 59)
    """
    return floor + (pitch_class - floor) % 12


def _events(pattern: str) -> list[tuple[int, int, str]]:
    """List the notes of a pattern as (step, length in steps, character).

    >>> _events("x-.5")
    [(0, 2, 'x'), (3, 1, '5')]
    """
    onsets = [step for step, character in enumerate(pattern) if character not in ".-"]
    rest = [*pattern, "."]
    lengths = [1 + next(n for n, character in enumerate(rest[step + 1 :]) if character != "-") for step in onsets]
    return [(step, length, pattern[step]) for step, length in zip(onsets, lengths, strict=True)]


def _harmony(style: Style, mood: Mood, bars: int, rng: Generator) -> Harmony:
    tonic = rng.integers(12)
    progression = _choice(style.progressions, rng)
    scale = [int(tonic + step) % 12 for step in _choice(mood.scales, rng)]
    return Harmony(scale, [progression[bar % len(progression)] for bar in range(bars)])


def _drums(style: Style, bars: int, rng: Generator) -> list[Note]:
    """Repeat a drum pattern, with fills of toms on some last beats of four bars."""
    patterns = _choice(style.drums, rng)
    step = 1 / style.subdivision
    notes = []
    for bar in range(bars):
        for drum, pattern in patterns.items():
            for position, _, character in _events(pattern):
                notes.append(Note(bar * style.beats + position * step, step, DRUMS[drum], DRUM_VELOCITY[character]))
        if bar % FILL_PERIOD == FILL_PERIOD - 1 and rng.random() < 0.5:
            beat = (bar + 1) * style.beats - 1
            notes += [Note(beat + i * step, step, DRUMS["tom"] + 2 * i, 90) for i in range(style.subdivision)]
    return sorted(notes)


def _bass(style: Style, harmony: Harmony, rng: Generator) -> list[Note]:
    """Play a pattern of chord and scale tones in every bar."""
    pattern, floor = _choice(style.bass, rng), int(rng.integers(31, 37))
    step = 1 / style.subdivision
    return [
        Note(
            start=bar * style.beats + position * step,
            duration=length * step * 0.9,
            pitch=_lift(harmony.pitch_class(bar, int(degree) - 1), floor) + 12 * (degree == "8"),
            velocity=90,
        )
        for bar in range(len(harmony.roots))
        for position, length, degree in _events(pattern)
    ]


def _chords(style: Style, mood: Mood, harmony: Harmony, rng: Generator) -> list[Note]:
    """Play the chord of every bar in the rhythm of the style, articulated by the mood."""
    pattern, floor = _choice(style.chords, rng), int(rng.integers(47, 54))
    step = 1 / style.subdivision
    return [
        Note(
            start=bar * style.beats + position * step,
            duration=length * step * mood.articulation,
            pitch=_lift(harmony.pitch_class(bar, 2 * third), floor),
            velocity=mood.velocity,
        )
        for bar in range(len(harmony.roots))
        for position, length, _ in _events(pattern)
        for third in range(style.chord_size)
    ]


def _lead(style: Style, mood: Mood, harmony: Harmony, rng: Generator) -> list[Note]:
    """Walk through the scale within the mood's register, on a chord tone at every beat, without rests."""
    register = range(mood.register - LEAD_SPAN, mood.register + LEAD_SPAN + 1)
    ladder = [pitch for pitch in register if pitch % 12 in harmony.scale]
    liveliness = rng.uniform(0.2, 0.8)  # share of the beats that are divided
    position = int(rng.integers(len(ladder)))
    notes = []
    for beat in range(len(harmony.roots) * style.beats):
        whole, *divided = LEAD_CELLS[style.subdivision]
        cell = _choice(divided, rng) if rng.random() < liveliness else whole
        chord = {harmony.pitch_class(beat // style.beats, degree) for degree in (0, 2, 4)}
        for step, length, _ in _events(cell):
            position = int(np.clip(position + _choice(mood.steps, rng), 0, len(ladder) - 1))
            if step == 0:
                tones = [i for i, pitch in enumerate(ladder) if pitch % 12 in chord]
                position = min(tones, key=lambda i: abs(i - position))
            notes.append(
                Note(
                    start=beat + step / style.subdivision,
                    duration=length / style.subdivision * mood.articulation,
                    pitch=ladder[position],
                    velocity=mood.velocity + mood.accent * (step == 0),
                )
            )
    return notes


def _perform(notes: list[Note], tempo: float, subdivision: int, swing: float, rng: Generator) -> list[Note]:
    """Turn beats into seconds, with human deviations of timing; ``swing`` is the share of the beat before its off-beat."""
    off_beat = 2 / 3 if subdivision == 3 else 1 / 2
    starts = np.array([note.start for note in notes])
    starts = np.floor(starts) + np.interp(starts % 1, [0, off_beat, 1], [0, swing, 1])
    starts = np.maximum(starts * 60 / tempo + rng.normal(0, 0.004, len(notes)), 0)
    return [
        note._replace(start=float(start), duration=max(note.duration * 60 / tempo, MIN_DURATION))
        for note, start in zip(notes, starts, strict=True)
    ]
