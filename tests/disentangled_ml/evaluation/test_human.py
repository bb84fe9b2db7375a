"""Accuracy on human triplets: re-derived by plain loops, its properties, and the command end to end on own audio."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.audio.decoding import encode_flac
from datamodules.audio.spectrogram import log_mel
from datamodules.batches.composer import StreamedTrack
from datamodules.batches.streams import EvaluationStream, Source, mel_chunk
from datamodules.shards.index import Shard, ShardIndex
from datamodules.shards.tar import write_shard
from datamodules.triplet_lists.comparisons import IDS, VOTES, read_comparisons
from datamodules.triplet_lists.dim_sim import COLUMNS
from disentangled_ml.builders import build_network, model_settings
from disentangled_ml.commands.human_triplets import embed_members, main, parse_weights, recordings
from disentangled_ml.commands.schemas import HumanTripletsConfig
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.evaluation.human import condition_weights, fit_weights, human_report
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable
from disentangled_ml.network.checkpoint import load_model, load_network
from disentangled_ml.network.masks import MASKS
from disentangled_ml.structures import AudioSettings, ListedTriplet, Member, TrackInfo

NAMES = ["genre", "mood", "tempo"]
MASK = MASKS["fixed"](3, 12)().detach()
N_MELS, CHUNK_FRAMES = 16, 16
AUDIO = AudioSettings(n_mels=N_MELS)


def random_table(tracks: int = 30, seed: int = 0) -> EmbeddingTable:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(tracks, 12, generator=generator), dim=1)
    return EmbeddingTable(rows={Member(f"t{i}", 0): row for i, row in enumerate(rows)})


def random_triplets(n: int = 200, tracks: int = 30, seed: int = 0) -> list[ListedTriplet]:
    rng = np.random.default_rng(seed)
    drawn = (rng.choice(tracks, 3, replace=False) for _ in range(n))
    return [ListedTriplet("human", *(Member(f"t{i}", 0) for i in row)) for row in drawn]


def swapped(triplets: list[ListedTriplet]) -> list[ListedTriplet]:
    return [t._replace(positive=t.negative, negative=t.positive) for t in triplets]


def squared(table: EmbeddingTable, a: Member, b: Member, columns: range) -> float:
    return sum((float(table.rows[a][d]) - float(table.rows[b][d])) ** 2 for d in columns)


def decided_by(table: EmbeddingTable, weights: tuple, triplets: list[ListedTriplet]) -> list[ListedTriplet]:
    """Let people with these weights decide the triplets."""
    decided = []
    for t in triplets:
        near, far = (
            sum(w * squared(table, t.anchor, other, range(4 * c, 4 * c + 4)) for c, w in enumerate(weights))
            for other in (t.positive, t.negative)
        )
        decided.append(t if near < far else swapped([t])[0])
    return decided


def accuracies_of(part: dict) -> dict[str, float]:
    ways = {"whole": part["whole"], "weighted": part["weighted"], "fitted": part["fitted"], **part["subspaces"]}
    return {name: entry["accuracy"] for name, entry in ways.items() if entry is not None}


def test_accuracies_by_a_plain_loop():
    table, triplets, weights = random_table(), random_triplets(), {"genre": 3.0, "mood": 0.5, "tempo": 0.0}
    report = human_report(table, triplets, [1.0] * 200, MASK, NAMES, weights)
    ways = {"whole": (1, 1, 1), "weighted": (3.0, 0.5, 0.0), "genre": (1, 0, 0), "mood": (0, 1, 0), "tempo": (0, 0, 1)}
    found = accuracies_of(report["all"])
    for name, given in ways.items():
        expected = sum(a == b for a, b in zip(decided_by(table, given, triplets), triplets, strict=True)) / 200
        assert found[name] == pytest.approx(expected), name
    assert report["all"]["whole"]["n"] == 200
    low, high = report["all"]["whole"]["ci95"]
    assert low < found["whole"] < high
    assert report["weights"]["weighted"] == weights


def test_equal_weights_over_disjoint_masks_are_the_whole_embedding():
    report = human_report(random_table(), random_triplets(), [1.0] * 200, MASK, NAMES)
    assert report["all"]["weighted"] == report["all"]["whole"]


def test_swapping_winner_and_loser_flips_the_accuracy():
    table, triplets = random_table(), random_triplets()
    one, other = (
        accuracies_of(human_report(table, listed, [1.0] * 200, MASK, NAMES)["all"])
        for listed in (triplets, swapped(triplets))
    )
    for name in ("whole", "weighted", *NAMES):
        assert one[name] == pytest.approx(1 - other[name])


def test_fitted_weights_find_what_people_weigh():
    table, weights = random_table(), (0.75, 0.25, 0.0)
    report = human_report(table, decided_by(table, weights, random_triplets(600)), [1.0] * 600, MASK, NAMES)
    found = accuracies_of(report["all"])
    assert found["fitted"] > 0.95 > found["whole"]
    fitted = report["weights"]["fitted"]
    assert sum(fitted.values()) == pytest.approx(1)
    assert list(fitted.values()) == pytest.approx(weights, abs=0.06)


def test_fitted_weights_are_never_negative():
    table = random_table()
    triplets = decided_by(table, (1.0, 0.0, -1.0), random_triplets(600))
    assert human_report(table, triplets, [1.0] * 600, MASK, NAMES)["weights"]["fitted"]["tempo"] == 0


def test_judgements_of_a_track_do_not_weigh_in_its_own_prediction():
    difference = torch.from_numpy(np.random.default_rng(0).normal(0.5, 1, (200, 3)))
    anchors = [t.anchor.track_id for t in random_triplets()]
    before = fit_weights(difference, anchors)
    of_one = torch.tensor([anchor == anchors[0] for anchor in anchors])
    assert 1 < of_one.sum() < 40
    after = fit_weights(torch.where(of_one[:, None], -10 * difference, difference), anchors)
    assert torch.equal(before[of_one], after[of_one])
    assert not torch.allclose(before[~of_one], after[~of_one])


def test_weights_fitted_to_chance_predict_chance():
    rng = np.random.default_rng(0)
    triplets = [swapped([t])[0] if rng.random() < 0.5 else t for t in random_triplets(2000)]
    found = accuracies_of(human_report(random_table(), triplets, [1.0] * 2000, MASK, NAMES)["all"])
    assert found["fitted"] == pytest.approx(0.5, abs=0.06)


def test_high_agreement_is_a_share_of_the_triplets():
    table, triplets = random_table(), random_triplets()
    agreement = [0.9 if i % 4 == 0 else 0.89 for i in range(200)]
    report = human_report(table, triplets, agreement, MASK, NAMES)
    assert (report["high_agreement"]["whole"]["n"], report["high_agreement"]["fitted"]["n"]) == (50, 50)
    alone = human_report(table, triplets[::4], [1.0] * 50, MASK, NAMES)
    for way in ("whole", "weighted", "subspaces"):
        assert report["high_agreement"][way] == alone["all"][way]


def test_missing_members_are_counted_and_named():
    table, triplets = random_table(), random_triplets()
    extra = [
        ListedTriplet("human", Member("t1", 0), Member("z", 0), Member("t2", 0)),
        ListedTriplet("human", Member("t1", 7), Member("a", 0), Member("z", 3)),  # no such chunk of t1
    ]
    report = human_report(table, [extra[0], *triplets, extra[1]], [1.0] * 202, MASK, NAMES)
    assert (report["skipped"], report["missing"]) == (2, ["a", "t1", "z"])
    assert report["all"] == human_report(table, triplets, [1.0] * 200, MASK, NAMES)["all"]


def test_triplets_of_one_group_are_drawn_together():
    """Said twice is not known better: the interval of a list and of the list twice over is the same."""
    table, triplets, groups = random_table(), random_triplets(60), [f"g{i}" for i in range(60)]
    once = human_report(table, triplets, [1.0] * 60, MASK, NAMES, groups=groups)["all"]["whole"]
    twice = human_report(table, triplets * 2, [1.0] * 120, MASK, NAMES, groups=groups * 2)["all"]["whole"]
    assert (twice["accuracy"], twice["ci95"], twice["n"]) == (once["accuracy"], once["ci95"], 120)
    apart = human_report(table, triplets * 2, [1.0] * 120, MASK, NAMES, groups=[f"g{i}" for i in range(120)])
    assert np.ptp(apart["all"]["whole"]["ci95"]) < np.ptp(once["ci95"])


def test_groups_are_held_out_together():
    table, triplets = random_table(), random_triplets(40)
    assert (
        human_report(table, triplets, [1.0] * 40, MASK, NAMES, groups=["a", "b", "c", "d"] * 10)["all"]["fitted"]
        is None
    )
    assert human_report(table, triplets, [1.0] * 40, MASK, NAMES, groups=["a", "b", "c", "d", "e"] * 8)["all"]["fitted"]


@pytest.mark.parametrize("triplets", [[], random_triplets(4)], ids=["none", "of four anchors"])
def test_too_few_anchors_for_fitting(triplets):
    report = human_report(random_table(), triplets, [1.0] * len(triplets), MASK, NAMES)
    assert report["all"]["fitted"] is None
    assert report["weights"]["fitted"] is None
    assert (report["all"]["whole"]["accuracy"] is None) == (not triplets)
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"genre": 1.0}, "weights are given for genre: give one for each of genre, mood, tempo"),
        ({"genre": 1.0, "mood": 1.0, "tempo": 1.0, "era": 1.0}, "give one for each of"),
        ({"genre": -1.0, "mood": 1.0, "tempo": 1.0}, "finite numbers >= 0"),
        ({"genre": float("nan"), "mood": 1.0, "tempo": 1.0}, "finite numbers >= 0"),
        ({"genre": float("inf"), "mood": 1.0, "tempo": 1.0}, "finite numbers >= 0"),
        ({"genre": 0.0, "mood": 0.0, "tempo": 0.0}, "one of them above 0"),
    ],
)
def test_illegal_weights(weights, match):
    with pytest.raises(ValueError, match=match):
        condition_weights(weights, NAMES)


@pytest.mark.parametrize("text", ["genre:1,mood:2", "{genre:1,mood:2}", " { genre : 1 , 'mood': 2.0 } "])
def test_weights_as_an_argument(text):
    assert parse_weights(text) == {"genre": 1.0, "mood": 2.0}


@pytest.mark.parametrize("text", ["", "{}", "genre", "genre:x", ":1", "genre:1,genre:2", "genre:1,"])
def test_weights_that_cannot_be_read(text):
    with pytest.raises(ConfigError, match=r"give weights=\{genre:2,mood:1\}"):
        parse_weights(text)


def waveform_of(number: int) -> np.ndarray:
    """Make noise in 16-bit steps, which wav and FLAC keep exactly, of 3 chunks and some."""
    n = AUDIO.chunk_samples(3 * CHUNK_FRAMES + number)
    return (np.random.default_rng(number).integers(-9000, 9000, n) / 32768).astype(np.float32)


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Give a folder with shards of t0 ... t9, their recordings, and judgements about them."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "audio").mkdir()
    samples = []
    for i in range(10):
        waveform = waveform_of(i)
        soundfile.write(tmp_path / "audio" / f"t{i}.{('wav', 'flac')[i % 2]}", waveform, AUDIO.sample_rate, "PCM_16")
        mel = log_mel(waveform, AUDIO)
        info = TrackInfo(f"t{i}", None, mel.shape[1], {})
        samples.append({"info": info, "mel": mel, "flac": encode_flac(waveform, AUDIO.sample_rate)})
    write_shard(tmp_path / "shards" / "train-0.tar", iter(samples[:6]))
    write_shard(tmp_path / "shards" / "test-0.tar", iter(samples[6:]))
    splits = {"train": [Shard("train-0.tar", 6)], "val": [], "test": [Shard("test-0.tar", 4)]}
    ShardIndex(tmp_path / "shards", AUDIO, True, [], splits).write()
    with open(tmp_path / "triplets.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i in range(10):
            starts = [AUDIO.seconds(s) for s in (0, 7 + i, 2 * CHUNK_FRAMES)]
            ids = [f"t{(i + k) % 10}" for k in (0, 1, 3)]
            writer.writerow([*(cell for pair in zip(ids, starts, strict=True) for cell in pair), 10 - i, 2])
        last = AUDIO.seconds(2 * CHUNK_FRAMES)  # of t0, which has 3 chunks and not a frame more
        writer.writerow(["t0", last, "t1", last, "t2", last, 1, 0])
        writer.writerow(["t0", AUDIO.seconds(2 * CHUNK_FRAMES + 1), "t1", 0, "t2", 0, 1, 0])
        writer.writerow(["t1", 0, "../audio/t3", 0, "t2", 0, 1, 0])
    return tmp_path


@pytest.fixture
def make_checkpoint(tmp_path, tiny_arguments):
    """Save a network as it is born: ``make_checkpoint("nnaudio")`` gives the file."""

    def make(frontend: str) -> Path:
        config = load_config(TrainConfig, [*tiny_arguments, f"frontend={frontend}"])
        torch.manual_seed(0)
        network = build_network(config, NAMES, AUDIO)
        settings = model_settings(config, NAMES, AUDIO)
        weights = {f"network.{key}": value for key, value in network.state_dict().items()}
        torch.save({"state_dict": weights, **settings}, tmp_path / f"{frontend}.ckpt")
        return tmp_path / f"{frontend}.ckpt"

    return make


def compare(corpus: Path, checkpoint: Path, *arguments: str) -> dict:
    given = [f"checkpoint={checkpoint}", f"triplets={corpus}/triplets.csv", f"out={corpus}/out/report.json"]
    main(load_config(HumanTripletsConfig, [*given, "accelerator=cpu", *arguments]))
    return json.loads((corpus / "out" / "report.json").read_text())


@pytest.mark.parametrize("frontend", ["mel", "nnaudio"])
def test_shards_and_recordings_give_one_report(corpus, make_checkpoint, frontend, capsys):
    checkpoint = make_checkpoint(frontend)
    stored = compare(corpus, checkpoint, f"shards={corpus}/shards", "weights={genre:1,mood:2,tempo:0}")
    recorded = compare(corpus, checkpoint, f"audio={corpus}/audio", "weights={genre:1,mood:2,tempo:0}")
    for report in (stored, recorded):
        reasons = report.pop("reasons")
        assert list(reasons) == ["../audio/t3", "t0"]
        assert reasons["t0"] == "too short: the chunk from 0.77 s on ends at 1.14 s, the recording at 1.11 s"
    assert stored == recorded
    assert (stored["all"]["whole"]["n"], stored["high_agreement"]["whole"]["n"]) == (10, 1)
    assert (stored["skipped"], stored["undecided"]) == (2, 1)
    assert stored["all"]["fitted"] is not None
    assert stored["weights"]["weighted"] == {"genre": 1.0, "mood": 2.0, "tempo": 0.0}
    out = capsys.readouterr().out
    assert f"\nwhole        {stored['all']['whole']['accuracy']:.3f} [" in out
    assert "1 rows without a judgement, 2 triplets skipped for missing chunks" in out


@pytest.fixture
def comparisons(corpus) -> Path:
    """Write votes about three clips each of t0 ... t9, and about one that is too short and one that is nowhere."""
    rows = [(f"t{i}", f"t{(i + 1) % 10}", f"t{(i + 3) % 10}", i, 3, 1) for i in range(10)]
    rows += [
        ("t0", "t1", "short", 5, 0, 0),
        ("t0", "t2", "gone", 5, 0, 0),
        ("t0", "t4", "t5", 2, 2, 0),
        ("t0", "t4", "t6", 2, 0, 0),
    ]
    with open(corpus / "comparisons_final.csv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([(*IDS, *VOTES), *rows])
    waveform = waveform_of(0)[: 10 * AUDIO.hop_length]  # of 11 frames
    soundfile.write(corpus / "audio" / "short.wav", waveform, AUDIO.sample_rate, "PCM_16")
    info = TrackInfo("short", None, 11, {})
    write_shard(corpus / "shards" / "val-0.tar", iter([{"info": info, "mel": log_mel(waveform, AUDIO), "flac": b""}]))
    index = ShardIndex.read(corpus / "shards")
    ShardIndex(index.root, AUDIO, True, [], {**index.splits, "val": [Shard("val-0.tar", 1)]}).write()
    return corpus / "comparisons_final.csv"


def test_whole_clips_are_compared_as_evaluation_does(corpus, comparisons, make_checkpoint, capsys):
    checkpoint = make_checkpoint("mel")
    found = compare(corpus, checkpoint, f"shards={corpus}/shards", f"triplets={comparisons}")
    assert found == compare(corpus, checkpoint, f"audio={corpus}/audio", f"triplets={comparisons}") | {
        "reasons": found["reasons"]
    }
    network, table = load_network(checkpoint), EmbeddingTable()
    source = Source(ShardIndex.read(corpus / "shards"), [], chunk_frames=CHUNK_FRAMES)
    for split in ("train", "test"):
        for batch in EvaluationStream(source, split):
            table.add(batch, network(batch.audio))
    judged = read_comparisons(comparisons).triplets
    triplets, agreement, _, groups = zip(*judged, strict=True)
    expected = human_report(table, triplets, agreement, network.masks().detach(), NAMES, groups=groups)
    assert (found["all"], found["skipped"]) == (expected["all"], 4)
    # A pass of another size adds in another order.
    assert found["weights"]["fitted"] == pytest.approx(expected["weights"]["fitted"], abs=1e-5)
    assert found["all"]["whole"]["n"] == 2 * (9 + 1)  # of the ten rows, that of 3, 3 and 1 votes is a tie
    assert found["undecided"] == 2
    assert found["reasons"] == {
        "gone": "not in the shards",
        "short": "too short: the chunk from 0.00 s on ends at 0.37 s, the recording at 0.26 s",
    }
    assert "2 rows without a judgement, 4 triplets skipped" in capsys.readouterr().out


def test_a_whole_track_is_the_mean_of_its_non_overlapping_chunks_alone(make_checkpoint):
    model = load_model(make_checkpoint("mel"))
    mels = {name: np.random.default_rng(i).random((N_MELS, 40), np.float32) for i, name in enumerate("abc")}
    tracks = [(name, StreamedTrack(40, partial(mel_chunk, mel, CHUNK_FRAMES), {}, -1)) for name, mel in mels.items()]
    table, reasons = embed_members(model, tracks, {"a": {None, 5}, "b": {0, 25}, "gone": {None}})
    assert set(table.rows) == {Member("a"), Member("a", 0), Member("a", 5), Member("a", 16), Member("b", 0)}
    total = table.rows[Member("a", 0)] + table.rows[Member("a", 16)]
    torch.testing.assert_close(table.rows[Member("a")], total / total.norm())
    assert list(reasons) == ["b"]


def test_the_least_number_of_votes_is_asked_of_either_file(corpus, comparisons, make_checkpoint):
    checkpoint = make_checkpoint("mel")
    found = compare(corpus, checkpoint, f"audio={corpus}/audio", f"triplets={comparisons}", "least_votes=6")
    assert found["all"]["whole"]["n"] == 2 * 7
    assert compare(corpus, checkpoint, f"audio={corpus}/audio", "least_votes=6")["all"]["whole"]["n"] == 7


def test_unusable_recordings_are_listed_with_their_reason(corpus, make_checkpoint):
    (corpus / "audio" / "t2.wav").write_bytes(b"")
    (corpus / "audio" / "t4.wav").write_bytes(b"no sound at all")
    (corpus / "audio" / "t5.flac").unlink()
    reasons = compare(corpus, make_checkpoint("mel"), f"audio={corpus}/audio")["reasons"]
    assert reasons["t2"] == "empty file"
    assert reasons["t4"] == "not a recording: its content is text"
    assert "has no file t5 with one of .wav, .flac, .ogg, .mp3" in reasons["t5"]


def test_of_several_files_of_one_recording_the_first_kind_is_taken(tmp_path):
    for name in ("a.mp3", "a.FLAC", "b.ogg", "c.txt", "d.e.wav"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "f.wav").touch()
    assert {key: path.name for key, path in recordings(tmp_path).items()} == {
        "a": "a.FLAC",
        "b": "b.ogg",
        "d.e": "d.e.wav",
    }


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "give one of the two"),
        (["shards={0}/shards", "audio={0}/audio"], "give one of the two"),
        (["shards={0}/nowhere"], "index.json does not exist"),
        (["audio={0}/nowhere"], "is not a folder"),
        (["audio={0}/shards"], "holds no recording"),
        (["audio={0}/audio", "weights=genre:1"], "give one for each of genre, mood, tempo"),
        (["audio={0}/audio", "triplets={0}/nowhere.csv"], "nowhere.csv cannot be read"),
        (["audio={0}/audio", "high_agreement=1.5"], "high_agreement=1.5 is too large"),
    ],
)
def test_what_does_not_fit_is_refused(corpus, make_checkpoint, arguments, match):
    checkpoint = make_checkpoint("mel")
    with pytest.raises(ValueError, match=match):
        compare(corpus, checkpoint, *(argument.format(corpus) for argument in arguments))


def test_shards_of_other_settings_or_without_waveforms_are_refused(corpus, make_checkpoint, tiny_shards):
    with pytest.raises(ConfigError, match=r"holds no waveforms.*give audio=DIR"):
        compare(corpus, make_checkpoint("nnaudio"), f"shards={tiny_shards}")
    index = ShardIndex.read(corpus / "shards")
    ShardIndex(index.root, AudioSettings(n_mels=32), True, [], index.splits).write()
    with pytest.raises(ConfigError, match="was prepared with"):
        compare(corpus, make_checkpoint("mel"), f"shards={corpus}/shards")


def test_nothing_to_judge_by_is_an_error(corpus, make_checkpoint):
    for path in (corpus / "audio").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no triplet has all its chunks \(12 skipped, 1 rows without"):
        compare(corpus, make_checkpoint("mel"), f"audio={corpus}/audio")
