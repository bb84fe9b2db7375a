"""Distances of chunk sequences: against plain loops and librosa, their properties, and in the evaluation."""

import json
import math

import librosa
import numpy as np
import pytest
import torch

from disentangled_ml.commands.schemas import EvaluateConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.evaluate import main
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable, evaluation_report
from disentangled_ml.evaluation.matching import MATCHES, PAIRS_PER_BLOCK, match_distances
from disentangled_ml.network.masks import disjoint_blocks
from disentangled_ml.structures import ListedTriplet, Member, TrackChunks
from tests.disentangled_ml.catalogues import save_checkpoint

ATOL = 1e-5  # float32 against float64
D = 6
NAMES = ["genre", "mood"]


def sequences(lengths: list[int], seed: int = 0, d: int = D) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1) for n in lengths]


def pairs(seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return sequences([1, 1, 4, 7, 3, 5, 12], seed), sequences([1, 6, 1, 7, 9, 5, 2], seed + 1)


def looped_best(x: list[list[float]], y: list[list[float]]) -> float:
    forth = sum(min(math.dist(a, b) for b in y) for a in x) / len(x)
    back = sum(min(math.dist(a, b) for a in x) for b in y) / len(y)
    return (forth + back) / 2


def looped_dtw(x: list[list[float]], y: list[list[float]]) -> float:
    best: dict[tuple[int, int], tuple[float, int]] = {(-1, -1): (0.0, 0)}
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            before = [best[cell] for cell in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if cell in best]
            cost, cells = min(before, key=lambda entry: entry[0])
            best[i, j] = (cost + math.dist(a, b), cells + 1)
    cost, cells = best[len(x) - 1, len(y) - 1]
    return cost / cells


@pytest.mark.parametrize(("match", "looped"), [("best", looped_best), ("dtw", looped_dtw)])
@pytest.mark.parametrize("seed", range(3))
def test_against_a_loop(match, looped, seed):
    left, right = pairs(seed)
    expected = [looped(x.tolist(), y.tolist()) for x, y in zip(left, right, strict=True)]
    assert match_distances(left, right, match).tolist() == pytest.approx(expected, abs=ATOL)


def test_of_equally_cheap_paths_the_diagonal_step():
    rng = np.random.default_rng(0)  # whole numbers, whose sums are often equal
    left, right = ([torch.from_numpy(rng.integers(0, 3, (n, 1))).float() for n in (5, 6, 4, 7, 5)] for _ in range(2))
    expected = [looped_dtw(x.tolist(), y.tolist()) for x, y in zip(left, right, strict=True)]
    assert match_distances(left, right, "dtw").tolist() == pytest.approx(expected, abs=ATOL)


@pytest.mark.parametrize("seed", range(5))
def test_dtw_against_librosa(seed):
    left, right = pairs(seed)
    expected = []
    for x, y in zip(left, right, strict=True):
        costs, path = librosa.sequence.dtw(C=torch.cdist(x.double(), y.double()).numpy())
        expected.append(costs[-1, -1] / len(path))
    assert match_distances(left, right, "dtw").tolist() == pytest.approx(expected, abs=ATOL)


@pytest.mark.parametrize("match", MATCHES)
def test_properties(match):
    left, right = pairs()
    found = match_distances(left, right, match)
    assert match_distances(right, left, match).tolist() == pytest.approx(found.tolist(), abs=ATOL)
    assert match_distances(left, left, match).tolist() == [0.0] * len(left)
    assert found[0] == pytest.approx(math.dist(left[0][0].tolist(), right[0][0].tolist()), abs=ATOL)
    alone = [match_distances([x], [y], match).item() for x, y in zip(left, right, strict=True)]
    assert found.tolist() == pytest.approx(alone, abs=ATOL)  # padding plays no part
    scaled = match_distances([3 * x for x in left], [3 * y for y in right], match)
    assert scaled.tolist() == pytest.approx((3 * found).tolist(), abs=10 * ATOL)


def test_order_counts_for_dtw_alone():
    (x,), (y,) = sequences([6]), sequences([6], seed=1)
    turned = [y[torch.arange(5, -1, -1)]]
    assert match_distances([x], turned, "best").item() == pytest.approx(match_distances([x], [y], "best").item())
    assert abs(match_distances([x], turned, "dtw").item() - match_distances([x], [y], "dtw").item()) > 10 * ATOL


def test_a_stretched_copy_is_the_same():
    (x,) = sequences([5])
    slower = x.repeat_interleave(3, dim=0)
    for match in MATCHES:
        assert match_distances([x], [slower], match).item() == pytest.approx(0, abs=ATOL)


def test_more_pairs_than_a_block():
    n = PAIRS_PER_BLOCK + 3
    left, right = sequences([3] * n), sequences([2] * n, seed=1)
    assert match_distances(left, right, "best")[-1].item() == pytest.approx(
        looped_best(left[-1].tolist(), right[-1].tolist()), abs=ATOL
    )


def test_no_pair():
    assert match_distances([], [], "dtw").tolist() == []


def test_what_cannot_be_compared():
    (x,) = sequences([3])
    with pytest.raises(ValueError, match="match=nearest is unknown: choose one of best, dtw"):
        match_distances([x], [x], "nearest")
    with pytest.raises(ValueError, match="without a chunk"):
        match_distances([x], [x[:0]], "best")
    with pytest.raises(ValueError, match="shorter"):
        match_distances([x, x], [x], "best")


def table_of(tracks: dict[str, torch.Tensor]) -> EmbeddingTable:
    table = EmbeddingTable(wanted={Member("a", 16)}, keep_sequences=True)
    rows = torch.cat(list(tracks.values()))
    number = torch.tensor([i for i, chunks in enumerate(tracks.values()) for _ in chunks])
    start = torch.tensor([16 * k for chunks in tracks.values() for k in range(len(chunks))])
    in_mean = torch.ones(len(rows), dtype=torch.bool)
    in_mean[-1] = False  # a chunk asked for by itself is not of the sequence
    table.add(TrackChunks(torch.empty(0), number, start, in_mean, list(tracks)), rows)
    return table


def test_the_table_keeps_the_chunks_of_whole_tracks_in_order():
    tracks = dict(zip("abc", sequences([2, 3, 4]), strict=True))
    table = table_of(tracks)
    assert torch.equal(table.sequences["a"], tracks["a"])
    assert torch.equal(table.sequences["b"], tracks["b"])
    assert torch.equal(table.sequences["c"], tracks["c"][:3])
    assert set(table.rows) == {Member("a"), Member("b"), Member("c"), Member("a", 16)}


@pytest.mark.parametrize(("match", "looped"), [("best", looped_best), ("dtw", looped_dtw)])
def test_the_report_compares_whole_tracks_by_their_chunks(match, looped):
    masks = disjoint_blocks(2, D)
    tracks = {f"t{i}": chunks for i, chunks in enumerate(sequences([2, 3, 4, 2, 5, 3]))}
    table = EmbeddingTable(keep_sequences=True)
    for name, chunks in tracks.items():
        table.sequences[name], table.rows[Member(name)] = chunks, chunks.mean(0)
        table.rows[Member(name, 0)] = chunks[0]
    rng = np.random.default_rng(0)
    draws = [rng.choice(6, 3, replace=False) for _ in range(40)]
    triplets = [ListedTriplet(NAMES[n % 2], *(Member(f"t{i}") for i in row)) for n, row in enumerate(draws)]
    triplets += [ListedTriplet("track", *(Member(f"t{i}", 0) for i in row)) for row in draws[:9]]
    report = evaluation_report(table, triplets, masks, NAMES, match)
    for c, name in enumerate(NAMES):
        outcomes = []
        for triplet in triplets:
            if triplet.condition == name:
                a, p, n = ((tracks[m.track_id] * masks[c]).tolist() for m in triplet[1:])
                outcomes.append(looped(a, p) < looped(a, n))
        assert report["sub"][name]["accuracy"] == pytest.approx(sum(outcomes) / len(outcomes))
    between = [math.dist(*(tracks[m.track_id][0].tolist() for m in (t.anchor, t.positive))) for t in triplets[40:]]
    beyond = [math.dist(*(tracks[m.track_id][0].tolist() for m in (t.anchor, t.negative))) for t in triplets[40:]]
    expected = sum(p < n for p, n in zip(between, beyond, strict=True)) / 9
    assert report["track"]["accuracy"] == pytest.approx(expected)


def test_evaluate_by_matching_stretches(tiny_shards, tmp_path, capsys, one_thread):
    checkpoint = save_checkpoint(tmp_path / "tiny.ckpt")
    given = [f"checkpoint={checkpoint}", f"shards={tiny_shards}", "triplets_per_condition=40"]
    reports = {}
    for match in ("mean", "best", "dtw"):
        out = tmp_path / f"{match}.json"
        main(load_config(EvaluateConfig, [*given, "accelerator=cpu", f"match={match}", f"out={out}"]))
        reports[match] = json.loads(out.read_text())
    assert {name: report.get("match") for name, report in reports.items()} == {
        "mean": None,
        "best": "best",
        "dtw": "dtw",
    }
    for report in reports.values():
        assert report["track"] == reports["mean"]["track"]  # chunks are compared as ever
        assert [report["sub"][name]["n"] for name in ("genre", "mood", "tempo")] == [40, 40, 40]
    assert reports["best"]["matrix"] != reports["mean"]["matrix"]
    assert "recall" not in reports["dtw"]
    assert "recall" in reports["mean"]
    assert capsys.readouterr().out.count("triplet accuracy") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["baseline=mfcc", "shards=x", "match=best"],
            "match=best compares chunks of a checkpoint, a baseline takes whole",
        ),
        (
            ["checkpoint=x", "probe=true", "match=dtw"],
            "match=dtw compares chunks of a checkpoint, probe=true takes whole",
        ),
    ],
)
def test_what_does_not_go_together(arguments, message):
    with pytest.raises(ConfigError, match=message):
        main(load_config(EvaluateConfig, arguments))


def test_an_unknown_match_names_the_legal_ones():
    with pytest.raises(ConfigError, match="match=nearest is not legal: choose one of mean, best, dtw"):
        load_config(EvaluateConfig, ["match=nearest"])
