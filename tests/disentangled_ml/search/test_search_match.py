"""Search by matching stretches: the ranking against loops, sections, and what it cannot do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.batches.cutting import cut_record
from disentangled_ml.commands import embed, search
from disentangled_ml.commands.schemas import EmbedConfig, SearchConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import TrackRecord
from tests.disentangled_ml.catalogues import save_checkpoint

N, RATE = 6, 22050
WEIGHTS = {"genre": 1.0, "mood": 0.5}
ATOL = 1e-4  # float32, in batches of other sizes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Give a folder with a checkpoint, songs that change, and the catalogue of their halves and wholes."""
    folder = tmp_path_factory.mktemp("match")
    save_checkpoint(folder / "x.ckpt")
    lines = ["track_id,path,start,end"]
    rng = np.random.default_rng(0)
    for number in range(N):
        parts = [rng.uniform(0.1, 0.5) * rng.uniform(-1, 1, round(n * RATE)).cumsum() / 50 for n in (1.5, 2.0)]
        waveform = np.concatenate([np.clip(part - part.mean(), -1, 1) for part in parts])
        soundfile.write(folder / f"{number}.flac", waveform, RATE)
        lines += [f"r{number},{number}.flac,,", f"r{number},{number}.flac,1.5,"]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    arguments = [f"checkpoint={folder}/x.ckpt", f"manifest={folder}/m.csv", f"out={folder}/index", "workers=1"]
    embed.main(load_config(EmbedConfig, arguments))
    return folder


def found(folder: Path, tmp_path: Path, *arguments: str) -> list[dict]:
    given = [f"index={folder}/index", f"checkpoint={folder}/x.ckpt", f"out={tmp_path}/found.json"]
    given += [f"weights.{name}={weight}" for name, weight in WEIGHTS.items()]
    search.main(load_config(SearchConfig, [*given, *arguments]))
    return json.loads((tmp_path / "found.json").read_text())["results"]


def sequence(folder: Path, track_id: str, embedder: Embedder) -> list[list[float]]:
    """Embed the chunks of a track, weighted and masked."""
    name, at, _ = track_id.partition("@")
    record = TrackRecord(track_id, f"{folder}/{name[1:]}.flac", None, "", {}, (1.5, None) if at else (0.0, None))
    notes = embedder.model
    chunks = cut_record(record, notes.audio, embedder.source, notes.chunk_frames)
    scale = sum(w * notes.masks[notes.condition_names.index(name)] ** 2 for name, w in WEIGHTS.items())
    with torch.inference_mode():
        rows = torch.cat([embedder.network(torch.from_numpy(chunk[None])) for chunk in chunks])
    return (rows * torch.from_numpy(np.sqrt(scale))).tolist()


def best(x: list[list[float]], y: list[list[float]]) -> float:
    forth = sum(min(math.dist(a, b) for b in y) for a in x) / len(x)
    back = sum(min(math.dist(a, b) for a in x) for b in y) / len(y)
    return (forth + back) / 2


@pytest.mark.parametrize("like", ["r2", "r2@1.5-end"])
def test_the_ranking_is_that_of_a_loop(folder, tmp_path, like):
    embedder = Embedder(folder / "x.ckpt")
    query = sequence(folder, like, embedder)
    results = found(folder, tmp_path, f"like={like}", "match=best", "k=99")
    others = [result["track_id"] for result in results]
    assert len(results) >= N - 1
    assert like not in others
    expected = {track_id: best(query, sequence(folder, track_id, embedder)) for track_id in others}
    for result in results:
        assert result["distance"] == pytest.approx(expected[result["track_id"]], abs=ATOL)
    assert [result["distance"] for result in results] == sorted(result["distance"] for result in results)


def test_a_file_is_compared_too_and_finds_itself_first(folder, tmp_path):
    for match in ("best", "dtw"):
        results = found(folder, tmp_path, f"like={folder}/4.flac", f"match={match}", "k=3")
        assert len(results) == 3
        assert results[0]["track_id"] == "r4"
        assert results[0]["distance"] == pytest.approx(0, abs=ATOL)


def test_only_the_nearest_by_mean_are_compared(folder, tmp_path):
    by_mean = [result["track_id"] for result in found(folder, tmp_path, "like=r1", "k=2", "fold=false")]
    matched = [result["track_id"] for result in found(folder, tmp_path, "like=r1", "k=1", "rerank=2", "match=dtw")]
    assert len(matched) == 1
    assert matched[0] in by_mean


def test_sections_are_embedded_by_themselves(folder):
    """The catalogue's row of a section is the normalised mean of the section's chunks, not of the recording's."""
    embedder = Embedder(folder / "x.ckpt").open(folder / "index")
    rows = {track.track_id: row for row, track in enumerate(embedder.catalogue.tracks(range(2 * N)))}
    assert len(rows) == 2 * N
    waveform, _ = soundfile.read(folder / "3.flac", dtype="float32")
    alone = embedder.embed(waveform[round(1.5 * RATE) :], RATE)
    assert embedder.catalogue.embedding[rows["r3@1.5-end"]] == pytest.approx(alone, abs=ATOL)
    assert np.abs(embedder.catalogue.embedding[rows["r3"]] - alone).max() > 10 * ATOL


def test_an_id_like_that_of_a_section_is_an_id(tmp_path, folder):
    """The recordings last 3.5 s: of 1 to 1.5 s another distance would come, of 8 to 9 s an error."""
    lines = ["track_id,path", "jam@1-1.5,0.flac", "b@8-9,1.flac", "c,2.flac"]
    lines = [line.replace(",", f",{folder}/") if ".flac" in line else line for line in lines]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    checkpoint = f"checkpoint={folder}/x.ckpt"
    embed.main(
        load_config(EmbedConfig, [checkpoint, f"manifest={tmp_path}/m.csv", f"out={tmp_path}/index", "workers=1"])
    )
    given = [f"index={tmp_path}/index", checkpoint, f"like={folder}/0.flac", "match=best", f"out={tmp_path}/found.json"]
    search.main(load_config(SearchConfig, given))
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert results[0]["track_id"] == "jam@1-1.5"
    assert results[0]["distance"] == pytest.approx(0, abs=ATOL)
    assert len(results) == 3


def test_it_needs_the_recordings(folder, tmp_path):
    moved = folder / "5.flac"
    content = moved.read_bytes()
    moved.unlink()
    try:
        with pytest.raises(ValueError, match=r"5\.flac: missing file; use match=mean"):
            found(folder, tmp_path, "like=r1", "match=dtw", "k=99")
    finally:
        moved.write_bytes(content)


def test_a_catalogue_of_shards_has_no_recordings(tiny_shards, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "tiny.ckpt")
    embed.main(load_config(EmbedConfig, [f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={tmp_path}/index"]))
    given = [f"index={tmp_path}/index", f"checkpoint={checkpoint}", "like=t3", "match=best"]
    with pytest.raises(ConfigError, match=r"needs the recordings, but .* was embedded from shards"):
        search.main(load_config(SearchConfig, given))
