"""Tempo accuracies at their limits and against plain arithmetic, and the command end to end on own recordings."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from disentangled_ml.commands.tempo_check import known_tempi
from disentangled_ml.config import ConfigError
from disentangled_ml.evaluation.tempo_metrics import FACTORS, is_hit, tempo_report
from tests import warm

SAMPLE_RATE = 22050


@pytest.mark.parametrize("factor", FACTORS["accuracy_2"])
@pytest.mark.parametrize(
    ("deviation", "hit"), [(0.961, True), (1.0, True), (1.039, True), (0.959, False), (1.041, False)]
)
def test_limits(factor, deviation, hit):
    estimated = 120.0 * factor * deviation
    assert is_hit(120.0, estimated, FACTORS["accuracy_2"]) == hit
    assert is_hit(120.0, estimated, FACTORS["accuracy_1"]) == (hit and factor == 1.0)


@pytest.mark.parametrize("ratio", [2 / 3, 3 / 4, 4 / 3, 3 / 2, 4.0, 1 / 4])
def test_other_ratios_are_wrong(ratio):
    assert not is_hit(120.0, 120.0 * ratio, FACTORS["accuracy_2"])


def test_the_tolerance_is_of_the_true_tempo():
    assert is_hit(100.0, 104.0)
    assert not is_hit(104.0, 99.8)  # 4.04 % of 104, though 104 is within 4.2 % of 99.8


@pytest.mark.parametrize(
    ("true", "estimated"), [(0.0, 100.0), (-100.0, 100.0), (float("nan"), 1.0), (1.0, float("nan"))]
)
def test_what_is_no_tempo_is_refused(true, estimated):
    with pytest.raises(ValueError, match="tempi"):
        is_hit(true, estimated)


def test_report_by_plain_arithmetic():
    rng = np.random.default_rng(0)
    true = rng.uniform(40, 200, 300).tolist()
    estimated = [t * f for t, f in zip(true, rng.choice([1.0, 2.0, 1 / 3, 1.5, 1.03, 1.05], 300), strict=True)]
    estimated[5] = estimated[9] = None
    report = tempo_report([str(i) for i in range(300)], true, estimated)
    ratios = [0.0 if e is None else e / t for t, e in zip(true, estimated, strict=True)]
    expected = {
        name: sum(any(abs(r / f - 1) <= 0.04 for f in factors) for r in ratios) / 300
        for name, factors in {"accuracy_1": [1], "accuracy_2": [1 / 3, 1 / 2, 1, 2, 3]}.items()
    }
    for name, accuracy in expected.items():
        assert report[name]["accuracy"] == pytest.approx(accuracy)
        low, high = report[name]["ci95"]
        assert 0 < accuracy - low < 0.08
        assert 0 < high - accuracy < 0.08
    assert (report["n"], report["without_estimate"]) == (300, 2)


def test_perfect_and_hopeless():
    ids, true = ["a", "b"], [60.0, 120.0]
    assert tempo_report(ids, true, true)["accuracy_1"] == {"accuracy": 1.0, "ci95": [1.0, 1.0]}
    assert tempo_report(ids, true, [None, None])["accuracy_2"] == {"accuracy": 0.0, "ci95": [0.0, 0.0]}


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="no tempo to compare"):
        tempo_report([], [], [])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        tempo_report(["a", "b"], [60.0], [60.0, 60.0])


def clicks(bpm: float, seconds: float = 10.0) -> np.ndarray:
    """Strike a decaying noise on every beat, over a soft floor."""
    rng = np.random.default_rng(0)
    n = int(seconds * SAMPLE_RATE)
    strike = rng.standard_normal(2000) * np.exp(-np.arange(2000) / 300)
    waveform = 0.001 * rng.standard_normal(n + 2000)
    for start in (np.arange(0, seconds, 60 / bpm) * SAMPLE_RATE).astype(int):
        waveform[start : start + 2000] += 0.2 * strike
    return waveform[:n]


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Write three good recordings, one of them too short for an estimate, and bad rows."""
    recordings = {"a": clicks(100), "b": clicks(128), "short": clicks(100, 2.0)}
    for name, waveform in recordings.items():
        soundfile.write(tmp_path / f"{name}.wav", waveform, SAMPLE_RATE)
    (tmp_path / "empty.wav").touch()
    rows = [
        *(
            ("a", "a.wav", 100, 50),
            ("b", "b.wav", 64, 128),
            ("short", "short.wav", 100, ""),
            ("e", "empty.wav", 90, "x"),
        ),
        *(("gone", "gone.wav", 90, ""), ("untold", "a.wav", "", ""), ("odd", "a.wav", "fast", "")),
    ]
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([("track_id", "path", "tempo", "annotated"), *rows])
    return tmp_path / "manifest.csv"


def test_only_recordings_with_a_true_tempo_are_taken(manifest):
    known = known_tempi(manifest, "tempo")
    assert [record.track_id for record in known.records] == ["a", "b", "short", "e", "gone"]
    assert known.tempi == [100.0, 64.0, 100.0, 90.0, 90.0]
    assert [(track.track_id, track.reason[:12]) for track in known.rejected] == [("odd", "tempo 'fast'")]


def test_the_column_may_have_another_name(manifest):
    known = known_tempi(manifest, "annotated")
    assert ([record.track_id for record in known.records], known.tempi) == (["a", "b"], [50.0, 128.0])
    assert [track.track_id for track in known.rejected] == ["e"]


def test_a_manifest_without_tempi_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("track_id,path,genre,bare\na,a.wav,rock,\n")
    for column in ("tempo", "genre", "bare"):
        with pytest.raises(ConfigError, match=f"no usable tempo in the column {column}: give column=NAME"):
            known_tempi(tmp_path / "m.csv", column)
    with pytest.raises(ValueError, match="no column annotated"):
        known_tempi(tmp_path / "m.csv", "annotated")


def tempo_check(*arguments: str) -> subprocess.CompletedProcess:
    return warm.run("tempo_check", *arguments, timeout=240)


@pytest.mark.slow
def test_command_estimates_compares_and_lists(manifest, tmp_path):
    done = tempo_check(f"manifest={manifest}", f"out={tmp_path}/out/tempi.csv", "workers=2")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out" / "tempi.csv", newline="") as file:
        rows = {row["track_id"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a", "b", "short"]
    assert float(rows["a"]["ratio"]) == pytest.approx(1, abs=0.04)
    assert float(rows["b"]["ratio"]) == pytest.approx(2, abs=0.08)
    assert (rows["short"]["true"], rows["short"]["estimated"], rows["short"]["ratio"]) == ("100.0", "", "")
    assert "tempo of 3 recordings" in done.stdout
    assert "accuracy_1  0.333 [" in done.stdout
    assert "accuracy_2  0.667 [" in done.stdout
    assert "without an estimate, counted wrong: 1" in done.stdout
    for line in ("skipped odd (a.wav): tempo 'fast'", "empty.wav): empty file", "gone.wav): missing file"):
        assert line in done.stderr


def test_command_fails_if_nothing_is_usable(tmp_path):
    (tmp_path / "m.csv").write_text("track_id,path,tempo\na,gone.wav,100\nb,gone.wav,100\n")
    done = tempo_check(f"manifest={tmp_path}/m.csv", "limit=1", f"out={tmp_path}/tempi.csv")
    assert done.returncode == 1
    assert "none of the 1 recordings of" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tempi.csv").exists()
