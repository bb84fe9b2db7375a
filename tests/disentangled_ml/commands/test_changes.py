"""The commands on songs that change, end to end on own recordings, and what they say of bad input."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from disentangled_ml.commands.changes import main, report_lines
from disentangled_ml.commands.schemas import ChangesConfig, TrajectoryConfig
from disentangled_ml.commands.trajectory import main as follow
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import AudioSettings
from disentangled_ml.trajectories.change_metrics import boundary_f
from disentangled_ml.trajectories.change_points import Novelty
from disentangled_ml.trajectories.change_report import NONE, change_report
from disentangled_ml.trajectories.changing_tracks import ANY, MEL, WHOLE, ChangingTrack, mel_means, read_changes
from disentangled_ml.trajectories.recordings import embed_recording, read_recording
from tests.conftest import N_MELS
from tests.disentangled_ml.catalogues import NAMES, save_checkpoint

AUDIO = AudioSettings(n_mels=N_MELS)
RATE, SECONDS, CHANGE = 22050, 6.0, 3.2
SETTINGS = ("accelerator=cpu", "hop_seconds=0.1", "context_seconds=1.0", "min_gap_seconds=1.0")
HEADER = "path,split,condition,time\n"
EMBEDDING_ATOL = 1e-5  # of float32, in batches of other sizes


def tone(frequency: float, seconds: float) -> np.ndarray:
    return 0.4 * np.sin(2 * math.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def song(first: float, second: float) -> np.ndarray:
    """Make a tone that changes its pitch."""
    noise = 0.02 * np.random.default_rng(0).normal(size=round(SECONDS * RATE))
    return np.concatenate([tone(first, CHANGE), tone(second, SECONDS - CHANGE)])[: len(noise)] + noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Give a folder with a checkpoint, songs that change and steady ones, and their table."""
    root = tmp_path_factory.mktemp("changes")
    save_checkpoint(root / "tiny.ckpt", "shards/x", 0, "rhythm=false")  # chunks are too short for a beat
    rows = []
    for number in range(8):
        split, steady = "val" if number < 4 else "test", number % 4 == 3
        name = f"{number}.flac"
        soundfile.write(root / name, song(200.0 + 40 * number, 200.0 + 40 * number if steady else 3000.0), RATE)
        rows.append([name, split, "" if steady else NAMES[number % 3], "" if steady else CHANGE])
    with open(root / "changes.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER.strip().split(","), *rows])
    return root


@pytest.fixture(autouse=True)
def quick(one_thread) -> None:
    """Compute on one thread."""


def score(folder: Path, out: Path, *arguments: str) -> dict:
    given = [f"checkpoint={folder}/tiny.ckpt", f"changes={folder}", f"out={out}"]
    main(load_config(ChangesConfig, [*given, *SETTINGS, *arguments]))
    return json.loads(out.read_text())


def test_changes_are_scored_and_their_thresholds_followed(folder, tmp_path, capsys):
    report = score(folder, tmp_path / "changes.json")
    shown = capsys.readouterr().out
    assert list(report["conditions"]) == [*NAMES, ANY]
    assert set(report["thresholds"]) == {*NAMES, WHOLE, MEL}
    assert report["conditions"][ANY]["mel"]["f_3"] > 0.9  # a jump of the pitch is plain in a spectrogram
    assert list(report["firing"]) == [*NAMES, NONE]
    assert all(name in shown for name in (*NAMES, "wrong subspaces", "all pieces"))
    out = tmp_path / "followed"
    given = [f"checkpoint={folder}/tiny.ckpt", f"path={folder}/4.flac", f"out={out}"]
    follow(load_config(TrajectoryConfig, [*given, *SETTINGS, f"thresholds={tmp_path}/changes.json"]))
    trajectory = json.loads((out / "trajectory.json").read_text())
    assert {name: entry["threshold"] for name, entry in trajectory["conditions"].items()} == {
        name: report["thresholds"][name] for name in NAMES
    }
    assert trajectory["fingerprint"] == report["fingerprint"]


def test_a_trajectory_holds_what_it_says(folder, tmp_path, capsys):
    out = tmp_path / "out"
    given = [f"checkpoint={folder}/tiny.ckpt", f"path={folder}/0.flac", f"out={out}", "threshold=0.0001"]
    follow(load_config(TrajectoryConfig, [*given, *SETTINGS]))
    trajectory = json.loads((out / "trajectory.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["trajectory.json", "trajectory.png"]
    assert (out / "trajectory.png").read_bytes().startswith(b"\x89PNG")
    n = len(trajectory["times"])
    assert trajectory["seconds"] == SECONDS
    assert trajectory["times"][0] == pytest.approx(AUDIO.seconds(16) / 2, abs=1e-4)
    assert np.diff(trajectory["times"]) == pytest.approx([AUDIO.seconds(4)] * (n - 1), abs=1e-4)
    assert trajectory["times"][-1] + AUDIO.seconds(16) / 2 <= SECONDS + AUDIO.seconds(1)
    for name in NAMES:
        entry = trajectory["conditions"][name]
        assert [len(curve) for curve in entry["curves"]] == [n, n]
        assert len(entry["novelty"]["times"]) == len(entry["novelty"]["values"]) > 10
        assert entry["changes"] == sorted(entry["changes"])
        assert set(entry["changes"]) <= set(entry["novelty"]["times"])
        assert min(np.diff(entry["changes"]), default=1.0) >= 1.0 - 1e-4
        assert any(abs(time - CHANGE) < 0.3 for time in entry["changes"])
    assert name in capsys.readouterr().out
    assert trajectory["settings"]["context_seconds"] == 1.0


@pytest.mark.parametrize("frontend", ["mel", "nnaudio"])
def test_chunks_are_embedded_as_if_each_were_a_recording(folder, tmp_path, frontend):
    embedder = Embedder(save_checkpoint(tmp_path / "tiny.ckpt", "shards/x", 0, f"frontend={frontend}"))
    recording = read_recording(folder / "1.flac", embedder)
    starts, embedding = embed_recording(embedder, recording, hop_frames=3)
    assert starts.tolist() == [AUDIO.seconds(3 * i) for i in range(len(starts))]
    mel = recording.spectrogram(AUDIO)
    assert len(starts) == (mel.shape[1] - 16) // 3 + 1 > 64  # more than a batch
    for i in (0, 70, len(starts) - 1):
        first = 3 * i
        if frontend == "mel":
            chunk = torch.from_numpy(mel[None, None, :, first : first + 16])
        else:
            chunk = torch.from_numpy(recording.waveform[None, 512 * first : 512 * (first + 15)])
        with torch.inference_mode():
            assert torch.allclose(embedder.network(chunk)[0], embedding[i], atol=EMBEDDING_ATOL)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(len(starts)), atol=EMBEDDING_ATOL)


def test_mel_means_against_a_loop():
    mel = np.random.default_rng(0).uniform(0, 2, (4, 30)).astype(np.float16)
    mel[2] = 0.5  # a flat band
    found = mel_means(mel, chunk_frames=16, hop_frames=5)
    assert found.shape == (3, 4)
    values = mel.astype(np.float64)
    for row, start in enumerate((0, 5, 10)):
        for band in (0, 1, 3):
            mean, deviation = values[band].mean(), values[band].std(ddof=1)
            expected = sum((values[band, frame] - mean) / deviation for frame in range(start, start + 16)) / 16
            assert found[row, band] == pytest.approx(expected, abs=1e-4)
    assert found[:, 2].tolist() == [0.0, 0.0, 0.0]


def peak_at(time: float, height: float) -> Novelty:
    times = torch.arange(3.0, 21.0, 0.5, dtype=torch.float64)
    return Novelty(times, (height * (1 - (times - time).abs() / 3)).clamp(min=0).float())


def made_tracks() -> list[ChangingTrack]:
    """Make tracks of which each changes one condition, or none, whose own subspace has a peak of 1 there and others of 0.2."""
    tracks = []
    for split in ("val", "test"):
        for number, changed in enumerate(["genre", "mood", None] * 3):
            time = 6.0 + number
            changes = {changed: [time]} if changed else {}
            heights = {name: 1.0 if name == changed else 0.2 for name in ("genre", "mood")}
            heights |= {WHOLE: 1.0 if changed else 0.2, MEL: 0.5}
            curves = {name: peak_at(time, height) for name, height in heights.items()}
            tracks.append(ChangingTrack(Path("x"), split, changes, curves, 24.0))
    return tracks


def test_a_disentangled_embedding_scores_all():
    report = change_report(made_tracks(), ["genre", "mood", "tempo"], min_gap=6.0)
    assert list(report["conditions"]) == ["genre", "mood", ANY]  # no tempo changes, so none is scored
    for entry in report["conditions"].values():
        assert entry["embedding"]["f_3"] == entry["embedding"]["f_0.5"] == entry["embedding"]["all_pieces"] == 1.0
    for name in ("genre", "mood"):
        assert report["conditions"][name]["wrong"] == 0.0
        assert report["conditions"][name]["embedding"]["n"] == 3
        assert report["thresholds"][name] == pytest.approx(0.6)
        # mel sees all changes, and as many where nothing changes; of one condition it can be right in one piece of three
        assert report["conditions"][name]["mel"]["f_3"] == 1.0
        assert report["conditions"][name]["mel"]["all_pieces"] == pytest.approx(0.5)
    assert report["firing"]["genre"] == {"genre": 1.0, "mood": 0.0, MEL: 1.0}
    assert report["firing"][NONE] == {"genre": 0.0, "mood": 0.0, MEL: 1.0}
    assert any("wrong subspaces" in line for line in report_lines(report))


def test_thresholds_are_of_validation_alone():
    tracks = made_tracks()
    before = change_report(tracks, ["genre", "mood"], 6.0)["thresholds"]
    for track in tracks:
        if track.split == "test":
            track.curves = {name: peak_at(9.0, 0.9) for name in track.curves}
    after = change_report(tracks, ["genre", "mood"], 6.0)
    assert after["thresholds"] == before
    assert after["conditions"]["genre"]["wrong"] == 1.0  # now every subspace fires everywhere


def test_scores_are_mir_evals_means():
    tracks = made_tracks()
    tests = [track for track in tracks if track.split == "test" and "genre" in track.changes]
    tests[0].curves["genre"] = peak_at(14.0, 1.0)
    tests[1].curves["genre"] = peak_at(tests[1].changes["genre"][0] + 2.0, 1.0)
    found = [[14.0], [tests[1].changes["genre"][0] + 2.0], tests[2].changes["genre"]]
    report = change_report(tracks, ["genre", "mood"], 6.0)["conditions"]["genre"]["embedding"]
    for key, window in (("f_3", 3.0), ("f_0.5", 0.5)):
        expected = [boundary_f(t.changes["genre"], f, 24.0, window) for t, f in zip(tests, found, strict=True)]
        assert report[key] == pytest.approx(sum(expected) / 3)


def test_several_changes_of_a_recording(tmp_path):
    text = f"{HEADER}a.wav,val,genre,3\na.wav,val,mood,4.5\na.wav,val,genre,9\nb.wav,test,,\nc.wav,test,mood,2\n"
    (tmp_path / "changes.csv").write_text(text)
    a, b, c = read_changes(tmp_path / "changes.csv", ["genre", "mood"])
    assert (a.path, a.split, a.changes) == (tmp_path / "a.wav", "val", {"genre": [3.0, 9.0], "mood": [4.5]})
    assert a.times(ANY) == [3.0, 4.5, 9.0]
    assert a.times("mood") == [4.5]
    assert (b.changes, b.times(ANY), c.changes) == ({}, [], {"mood": [2.0]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read as UTF-8 CSV"),
        (b"\xff\xfe", "cannot be read as UTF-8 CSV"),
        ("path,split,time\na,val,3\n", "has no column condition; it needs path, split, condition, time"),
        (f"{HEADER},val,mood,3\n", "line 2: path='', split='val': give a path, and a split of val, test"),
        (f"{HEADER}a,train,mood,3\n", "line 2: path='a', split='train'"),
        (f"{HEADER}a,val,mood,3\na,test,mood,3\n", "line 3: a is of split val above, here of test"),
        (f"{HEADER}a,val,key,3\n", "line 2: condition 'key' is none of the checkpoint's: genre, mood, tempo"),
        (f"{HEADER}a,val,,3\n", "line 2: condition '' is none of"),
        (f"{HEADER}a,val,mood,\n", "line 2: time='' is not a number of seconds above 0"),
        (f"{HEADER}a,val,mood,nan\n", "line 2: time='nan' is not a number"),
        (f"{HEADER}a,val,mood,0\n", "line 2: time='0' is not a number"),
        (f"{HEADER}a,val,mood,3\n", "has no change in a recording of split test"),
        (f"{HEADER}a,val,,\nb,test,mood,3\n", "has no change in a recording of split val"),
        (f"{HEADER}0.flac,val,mood,3\n1.flac,test,genre,3\n", "no condition changes in recordings of both splits"),
        (f"{HEADER}0.flac,val,mood,3\n1.flac,test,mood,60\n", "1.flac ends at 6.00 s, before its change at 60 s"),
        (f"{HEADER}none.flac,val,mood,3\n1.flac,test,mood,3\n", "none.flac: missing file"),
    ],
)
def test_bad_tables(folder, tmp_path, text, message):
    for path in folder.glob("*.flac"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "tiny.ckpt").symlink_to(folder / "tiny.ckpt")
    if text is not None:
        (tmp_path / "changes.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        score(tmp_path, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hop_seconds=0.5"], r"hop_seconds=0.5 is longer than a chunk, 0.37 s"),
        (["context_seconds=0.2"], r"context_seconds=0.2 is shorter than a chunk: give at least 0.37"),
        (["path={folder}/none.wav"], "none.wav: missing file"),
        (["path={tmp}/short.wav"], r"short.wav: shorter than a chunk: 0.20 s, 0.35 s needed"),
        (["path={tmp}/silent.wav"], "silent.wav: silent"),
        (["path={folder}/changes.csv"], "changes.csv: not a recording: its content is text"),
        (["thresholds={tmp}/none.json"], "none.json"),
        (
            ["thresholds={folder}/tiny.ckpt"],
            r"^thresholds=.*tiny\.ckpt holds no JSON object \(.*\): give the out=FILE.json of",
        ),
        (["thresholds={tmp}/empty.json"], "empty.json has none of genre, mood, tempo"),
        (["thresholds={tmp}/other.json"], r"other.json are of hop_seconds=0.5, not 0.1: give hop_seconds as there"),
        (["thresholds={tmp}/foreign.json"], r"foreign.json are of another checkpoint"),
        (["checkpoint={folder}/changes.csv"], "cannot be read"),
        (["out={folder}/changes.csv"], "changes.csv cannot be made"),
    ],
)
def test_bad_input_of_a_trajectory(folder, tmp_path, arguments, message):
    soundfile.write(tmp_path / "short.wav", tone(440, 0.2), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "empty.json").write_text("{}")
    thresholds = dict.fromkeys(NAMES, 0.5)
    (tmp_path / "other.json").write_text(json.dumps({"thresholds": thresholds, "settings": {"hop_seconds": 0.5}}))
    settings = {"hop_seconds": 0.1, "context_seconds": 1.0}
    foreign = {"thresholds": thresholds, "settings": settings, "fingerprint": "0" * 64}
    (tmp_path / "foreign.json").write_text(json.dumps(foreign))
    given = [f"checkpoint={folder}/tiny.ckpt", f"path={folder}/0.flac", f"out={tmp_path}/out", *SETTINGS]
    given += [argument.format(folder=folder, tmp=tmp_path) for argument in arguments]
    with pytest.raises((ValueError, OSError), match=message):
        follow(load_config(TrajectoryConfig, given))
    assert not (tmp_path / "out" / "trajectory.json").exists()


def test_a_recording_of_exactly_a_chunk_has_a_trajectory(folder, tmp_path):
    soundfile.write(tmp_path / "short.wav", tone(440, 15 * 512 / RATE), RATE)
    given = [f"checkpoint={folder}/tiny.ckpt", f"path={tmp_path}/short.wav", f"out={tmp_path}/out", *SETTINGS]
    follow(load_config(TrajectoryConfig, given))
    entry = json.loads((tmp_path / "out" / "trajectory.json").read_text())["conditions"]["mood"]
    assert entry["novelty"] == {"times": [], "values": []}
    assert (entry["changes"], entry["curves"]) == ([], [[0.0], [0.0]])


def test_illegal_keys():
    with pytest.raises(ConfigError, match=r"threshold=3\.0 is too large"):
        load_config(TrajectoryConfig, ["checkpoint=x", "path=y", "threshold=3"])
    with pytest.raises(ConfigError, match="no value for checkpoint"):
        load_config(ChangesConfig, [])
