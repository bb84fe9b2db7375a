import csv
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import symusic
from sklearn.metrics import normalized_mutual_info_score

from datamodules.corpora.demo.corpus import COLUMNS, SAMPLE_RATE, generate_demo, soundfont_path, tune_soundfont
from datamodules.corpora.demo.score import (
    BASS_PROGRAMS,
    CHORD_PROGRAMS,
    DRUMS,
    GENRES,
    LEAD_CELLS,
    LEAD_PROGRAMS,
    LEAD_SPAN,
    MOODS,
    SPLIT_SHARES,
    TEMPO_CLASSES,
    TEMPO_RANGE,
    Piece,
    compose,
    plan_pieces,
)
from disentangled_ml.structures import SPLITS

N_PIECES, SECONDS = 12, 4.0
INDEPENDENT = 0.02  # normalised mutual information of independent labels; 360 pieces leave some by chance
PIECE = Piece(seed=3, index=5, genre="rock", mood="happy", instrument="brass", tempo=97.3, split="train")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return generate_demo(tmp_path_factory.mktemp("demo"), N_PIECES, seed=1, seconds=SECONDS, workers=1)


def read(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def samples(manifest: Path) -> dict[str, np.ndarray]:
    return {row["track_id"]: soundfile.read(manifest.parent / row["path"], dtype="int16")[0] for row in read(manifest)}


def parts(piece: Piece, seconds: float = 20.0):
    return compose(piece, seconds, piece.generator())


def factors(pieces: list[Piece]) -> dict[str, list]:
    low, high = TEMPO_RANGE
    labels = {name: [getattr(piece, name) for piece in pieces] for name in ("genre", "mood", "instrument", "split")}
    return labels | {"tempo": [int(TEMPO_CLASSES * (piece.tempo - low) / (high - low)) for piece in pieces]}


def test_manifest_has_the_columns_and_legal_labels(manifest):
    rows = read(manifest)
    assert tuple(rows[0]) == COLUMNS
    assert len({row["track_id"] for row in rows}) == N_PIECES
    assert {row["split"] for row in rows} == set(SPLITS)
    for row in rows:
        assert row["genre"] in GENRES
        assert row["mood"] in MOODS
        assert row["instrument"] in LEAD_PROGRAMS
        assert TEMPO_RANGE[0] <= float(row["tempo"]) <= TEMPO_RANGE[1]
        assert row["tempo"] == f"{float(row['tempo']):.1f}"


def test_audio_has_the_format_and_is_neither_silent_nor_clipped(manifest):
    for row in read(manifest):
        info = soundfile.info(manifest.parent / row["path"])
        assert (info.samplerate, info.channels, info.subtype, info.format) == (SAMPLE_RATE, 1, "PCM_16", "FLAC")
    for audio in samples(manifest).values():
        assert len(audio) == round(SECONDS * SAMPLE_RATE)
        assert np.abs(audio.astype(int)).max() < 32767
        half_seconds = audio[: len(audio) // 11025 * 11025].reshape(-1, 11025) / 32768
        assert np.sqrt((half_seconds**2).mean(axis=1)).min() > 0.01


def test_no_temporary_file_is_left(manifest):
    assert {path.suffix for path in manifest.parent.rglob("*") if path.is_file()} == {".flac", ".csv"}


@pytest.mark.slow
def test_result_does_not_depend_on_the_number_of_workers(manifest, tmp_path):
    other = generate_demo(tmp_path, N_PIECES, seed=1, seconds=SECONDS, workers=2)
    assert other.read_bytes() == manifest.read_bytes()
    expected, got = samples(manifest), samples(other)
    assert all(np.array_equal(expected[track_id], got[track_id]) for track_id in expected)


def test_what_is_missing_is_made_again_and_nothing_else(tmp_path):
    manifest = generate_demo(tmp_path, 3, seconds=1.0, workers=1)
    text, expected = manifest.read_bytes(), samples(manifest)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    generate_demo(tmp_path, 3, seconds=1.0, workers=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == times

    missing = tmp_path / "audio" / "demo-00001.flac"
    missing.unlink()
    manifest.unlink()
    generate_demo(tmp_path, 3, seconds=1.0, workers=1)
    assert manifest.read_bytes() == text
    got = samples(manifest)
    assert all(np.array_equal(expected[track_id], got[track_id]) for track_id in expected)
    redone = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert redone == {missing, manifest}


def test_audio_of_another_seed_is_not_kept(tmp_path):
    first = samples(generate_demo(tmp_path, 2, seed=0, seconds=1.0, workers=1))
    second = samples(generate_demo(tmp_path, 2, seed=1, seconds=1.0, workers=1))
    assert not any(np.array_equal(first[track_id], second[track_id]) for track_id in first)


@pytest.mark.parametrize("argument", ["n_pieces", "seconds", "workers"])
def test_numbers_below_one_are_refused(tmp_path, argument):
    with pytest.raises(ValueError, match=f"{argument} is 0"):
        generate_demo(tmp_path, **{argument: 0})


def test_plan_is_deterministic_and_balanced():
    pieces = plan_pieces(360, seed=0)
    assert pieces == plan_pieces(360, seed=0)
    assert pieces != plan_pieces(360, seed=1)
    labels = factors(pieces)
    for name in ("genre", "mood", "instrument", "tempo"):
        counts = Counter(labels[name])
        assert max(counts.values()) - min(counts.values()) <= 1
    for one, other in combinations(("genre", "mood", "instrument"), 2):
        counts = Counter(zip(labels[one], labels[other], strict=True))
        assert len(counts) == len(set(labels[one])) * len(set(labels[other]))
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("pair", list(combinations(("genre", "mood", "instrument", "tempo", "split"), 2)), ids="-".join)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_label_tells_of_another(pair, seed):
    labels = factors(plan_pieces(360, seed))
    assert normalized_mutual_info_score(labels[pair[0]], labels[pair[1]]) < INDEPENDENT


def test_splits_have_their_shares_of_everything():
    pieces = plan_pieces(360, seed=0)
    for name in ("genre", "mood", "instrument", "tempo"):
        labels = factors(pieces)[name]
        total, found = Counter(labels), Counter(zip(labels, (piece.split for piece in pieces), strict=True))
        for label, split in found:
            assert found[label, split] / total[label] == pytest.approx(SPLIT_SHARES[split], abs=0.05)
    assert len(found) == TEMPO_CLASSES * len(SPLITS)


@pytest.mark.parametrize("genre", GENRES)
def test_patterns_are_one_bar_long(genre):
    style = GENRES[genre]
    steps = style.beats * style.subdivision
    drums = [pattern for variant in style.drums for pattern in variant.values()]
    assert {len(pattern) for pattern in (*drums, *style.bass, *style.chords)} == {steps}
    assert {drum for variant in style.drums for drum in variant} <= set(DRUMS)
    assert {len(cell) for cell in LEAD_CELLS[style.subdivision]} == {style.subdivision}
    for variant in style.drums:
        onsets = {step for pattern in variant.values() for step, character in enumerate(pattern) if character != "."}
        assert onsets >= set(range(0, steps, style.subdivision)), "a beat without a drum"


def test_accompaniment_shares_no_program_with_the_leads():
    leads = [program for family in LEAD_PROGRAMS.values() for program in family]
    assert len(set(leads)) == len(leads)
    assert not {*BASS_PROGRAMS, *CHORD_PROGRAMS} & set(leads)


@pytest.mark.parametrize("genre", GENRES)
@pytest.mark.parametrize("mood", MOODS)
def test_lead_keeps_the_register_of_its_mood_in_every_genre(genre, mood):
    lead = parts(replace(PIECE, genre=genre, mood=mood))["lead"].notes
    assert all(abs(note.pitch - MOODS[mood].register) <= LEAD_SPAN for note in lead)


def test_instrument_changes_the_program_of_the_lead_only():
    brass, piano = parts(PIECE), parts(replace(PIECE, instrument="piano"))
    assert brass["lead"].program in LEAD_PROGRAMS["brass"]
    assert piano["lead"].program in LEAD_PROGRAMS["piano"]
    assert brass["lead"].notes == piano["lead"].notes
    assert all(brass[name] == piano[name] for name in ("chords", "bass", "drums"))


@pytest.mark.parametrize("tempo", [60.0, 180.0])
@pytest.mark.parametrize("genre", GENRES)
def test_every_part_covers_the_piece_and_the_lead_never_pauses(genre, tempo):
    seconds = 20.0
    played = parts(replace(PIECE, genre=genre, tempo=tempo), seconds)
    beat = 60 / tempo
    for part in played.values():
        starts = [0.0, *sorted(note.start for note in part.notes), seconds]
        assert max(later - earlier for earlier, later in pairwise(starts)) < 3.5 * beat
        assert max(starts) >= seconds
    starts = sorted(note.start for note in played["lead"].notes)
    assert max(np.diff(starts)) < 1.1 * beat


@pytest.mark.parametrize("tempo", [60.0, 97.3, 180.0])
def test_waltz_has_a_kick_every_three_beats(tempo):
    drums = parts(replace(PIECE, genre="waltz", tempo=tempo))["drums"].notes
    kicks = sorted(note.start for note in drums if note.pitch == DRUMS["kick"])
    assert np.diff(kicks) == pytest.approx(np.full(len(kicks) - 1, 3 * 60 / tempo), abs=0.03)


def test_tuned_soundfont_plays_in_tune(tmp_path):
    """The violin's samples carry no root key of their own: untuned, it plays the wrong pitch."""
    path = tmp_path / "tuned.sf2"
    path.write_bytes(tune_soundfont(soundfont_path().read_bytes()))
    track = symusic.Track(program=40, ttype="second")
    track.notes.append(symusic.Note(0, 1, 69, 90, ttype="second"))
    score = symusic.Score(480).to("second")
    score.tracks.append(track)
    audio = symusic.Synthesizer(sf_path=str(path), sample_rate=SAMPLE_RATE).render(score, stereo=True).mean(axis=0)
    spectrum = np.abs(np.fft.rfft(audio[4000:20000]))
    lowest_partial = np.flatnonzero(spectrum > 0.2 * spectrum.max())[0] * SAMPLE_RATE / 16000
    assert lowest_partial == pytest.approx(440, rel=0.02)


def test_what_is_no_soundfont_is_refused():
    with pytest.raises(ValueError, match="not a SoundFont"):
        tune_soundfont(b"RIFF")
