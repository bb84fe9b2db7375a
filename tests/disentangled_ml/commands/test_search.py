"""The command: a ranked table, JSON, precision, and clear errors."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from disentangled_ml.commands import search
from disentangled_ml.commands.schemas import SearchConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.search.catalogue import CatalogueError
from tests import warm
from tests.disentangled_ml.catalogues import embed_recordings, save_checkpoint

ROOT = Path(__file__).resolve().parents[3]
N = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Give a folder with a checkpoint, recordings and the catalogue of them."""
    return embed_recordings(tmp_path_factory.mktemp("use"), N)


def run(folder: Path, *arguments: str) -> None:
    search.main(load_config(SearchConfig, [f"index={folder}/index", *arguments]))


def test_a_ranked_table_and_json(folder, capsys, tmp_path):
    out = tmp_path / "found" / "r.json"
    run(folder, "like=r3", "weights.genre=1", "weights.mood=.5", "k=4", "fold=false", f"out={out}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "track",
        "distance",
        "closer",
        "than",
        "genre",
        "mood",
        "tempo",
        "artist",
        "matches",
        "labels",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    content = json.loads(out.read_text())
    assert content["like"] == "r3"
    assert [line.split()[1] for line in lines[1:]] == [result["track_id"] for result in content["results"]]
    for result in content["results"]:
        parts = result["distances"]
        assert result["distance"] ** 2 == pytest.approx(parts["genre"] ** 2 + 0.5 * parts["mood"] ** 2)
        assert Path(result["path"]).is_file()
        assert set(result["labels"]) == {"genre", "tempo"}


def test_filters(folder, capsys):
    run(folder, "like=r1", "k=99", "same_artist=false", "tempo=[62,65]", "fold=false")
    found = [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert sorted(found) == ["r2", "r3", "r4"]  # r5 is by the artist of r1
    run(folder, "like=r1", "tempo=[200,300]")
    assert capsys.readouterr().out == "no track is left by the filters\n"


def test_a_file_is_embedded_by_the_checkpoint_of_the_index(folder, capsys, tmp_path):
    path = folder / "recordings" / "2.flac"
    asked = [f"like={path}", "k=1", "method=exact", "fold=false"]
    for given in ([], [f"checkpoint={folder}/x.ckpt"]):
        run(folder, *asked, *given)
        assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["1", "r2", "0.000"]
    shutil.copytree(folder / "index", tmp_path / "index")
    header = json.loads((tmp_path / "index" / "catalogue.json").read_text())
    assert header["checkpoint"] == f"{folder}/x.ckpt"
    for changed, message in (
        ("gone.ckpt", r"index/gone\.ckpt, which embedded .*index, is gone: give checkpoint=FILE"),
        (None, "index does not say which checkpoint embedded it, for an earlier version made it: give checkpoint=FILE"),
        (7, "catalogue.json is not that of a catalogue"),
    ):
        (tmp_path / "index" / "catalogue.json").write_text(json.dumps({**header, "checkpoint": changed}))
        with pytest.raises(CatalogueError, match=message):
            run(tmp_path, *asked)


def test_a_question_of_several_parts(folder, capsys, tmp_path):
    out, path = tmp_path / "q.json", folder / "recordings" / "5.flac"
    asked = ["seeds.tempo=[r2,r3]", f"like={path}", f"checkpoint={folder}/x.ckpt", "labels.genre=rock", "avoid=[r6]"]
    run(folder, *asked, "tempo_change=[-50,50]", "per_artist=1", "fold=false", f"out={out}")
    shown, content = capsys.readouterr().out, json.loads(out.read_text())
    found = [result["track_id"] for result in content["results"]]
    assert found
    assert not {"r2", "r3", "r6"} & set(found)
    artists = [result["artist"] for result in content["results"] if result["artist"]]
    assert len(artists) == len(set(artists))
    assert content["weights"] == {"genre": 1, "mood": 1, "tempo": 1}
    assert content["seeds"] == {"tempo": "[r2,r3]"}
    assert "tempo 62 / " in shown
    assert content["skipped"]["per_artist"] > 0
    assert "skipped by per_artist" in shown
    run(folder, "like=r0", "dissimilar=true", "k=1", "fold=false")
    farthest = capsys.readouterr().out.splitlines()[1].split()[1]
    run(folder, "like=r0", "k=99", "fold=false")
    assert capsys.readouterr().out.splitlines()[-1].split()[1] == farthest


def test_what_is_folded_is_told(folder, capsys):
    path = folder / "recordings" / "2.flac"
    run(folder, f"like={path}", f"checkpoint={folder}/x.ckpt", "k=3")
    shown = capsys.readouterr().out
    assert "r2 is a duplicate of what was asked for" in shown


def test_a_path(folder, capsys, tmp_path):
    run(folder, "like=r1", "path_to=r6", "steps=3", "per_artist=4", f"out={tmp_path}/p.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["track", "step"]
    assert [lines[1].split()[1], lines[-1].split()[1], len(lines)] == ["r1", "r6", 5]
    assert json.loads((tmp_path / "p.json").read_text())["path_to"] == "r6"


def test_a_path_between_files(folder, tmp_path):
    paths = [folder / "recordings" / f"{number}.flac" for number in (1, 6)]
    ends = [f"like={paths[0]}", f"path_to={paths[1]}", f"checkpoint={folder}/x.ckpt"]
    run(folder, *ends, "steps=3", f"out={tmp_path}/p.m3u8", "absolute_paths=true")
    listed = [line for line in (tmp_path / "p.m3u8").read_text().splitlines() if not line.startswith("#")]
    assert [listed[0], listed[-1], len(listed)] == [*map(str, paths), 4]
    assert not {str(path) for path in paths} & set(listed[1:-1])


def test_precision(folder, capsys, tmp_path):
    run(folder, "precision=true", "k=3", f"out={tmp_path}/p.json")
    shown = capsys.readouterr().out
    assert shown.startswith("precision at 3 by label, without the query and its artist")
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["conditions"]["genre"]["n"] == N
    assert content["conditions"]["mood"] == {"sub": None, "all": None, "chance": None, "best": None, "n": 0}


def test_another_checkpoint_is_refused(folder, tmp_path):
    other = save_checkpoint(tmp_path / "y.ckpt", seed=1)
    for like in ("r0", folder / "recordings" / "0.flac"):
        with pytest.raises(ValueError, match=r"index was embedded by another checkpoint"):
            run(folder, f"like={like}", f"checkpoint={other}")
    with pytest.raises(ValueError, match=r"checkpoint nowhere cannot be read \(No such file or directory\)"):
        run(folder, "like=r0", "checkpoint=nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give like=TRACK_ID or like=FILE, seeds.CONDITION or labels.CONDITION, or precision=true"),
        (["like=r0", "precision=true"], "or precision=true"),
        (["like=nobody"], "like=nobody is neither a track of .*index nor a file"),
        (["like=r0", "weights.genr=1"], r"weights\.genr: the model knows no such condition, only genre, mood, tempo"),
        (["like=r0", "weights.genre=-1"], r"weights\.genre=-1\.0 is not legal"),
        (
            ["like=r0", "weights.genre=1e39"],
            r"weights\.genre=1e\+39 is not legal: give 0, or a number from 1e-06 to 1e\+06",
        ),
        (["like=r0", "weights.genre=nan"], r"weights\.genre=nan is not a number"),
        (["like=r0", "weights.genre=much"], r"weights\.genre=much is not a number"),
        (["like=r0", "weights.genre=0"], "all weights are zero"),
        (["like=r0", "weights=3"], "weights: Cannot assign int"),
        (["like=r0", "tempo=[120,90]"], r"tempo=\[120\.0, 90\.0\] is no range"),
        (["like=r0", "tempo=90-120"], r"^tempo=90-120 is not a list: write it as tempo=\[A,B\]$"),
        (["like=r0", "k=0"], "k=0 is too small"),
        (["seeds.genre=nobody"], r"seeds\.genre=nobody is neither a track of .*index nor a file"),
        (["like=r0", "avoid=[r1,nobody]"], "avoid=nobody is neither a track of"),
        (["like=r0", "labels.genre=jaz"], r"labels\.genre=jaz: no track of the catalogue has it; there are jazz"),
        (["labels.gen=jazz"], r"labels\.gen: the model knows no such condition"),
        (["like=r0", "steps=0", "path_to=r1"], "steps=0 is too small"),
        (["like=r0", "path_to=nobody"], "path_to=nobody is neither a track of .*index nor a file"),
        (["like=r0", "path_to=r1", "avoid=r2"], "path_to=r1 has no use for avoid: leave it out"),
        (["like=[r0,r2]", "path_to=r1"], "path_to=r1 needs one track: give like=TRACK_ID"),
        (["like=r0", "match=best", "dissimilar=true"], "match=best has no use for dissimilar"),
        (
            ["like=r0", "match=best", "fold=false", "per_album=1"],
            "match=best has no use for per_album, fold: leave them",
        ),
        (["like=r0", "path_to=r1", "fold=false"], "path_to=r1 has no use for fold: leave it out"),
        (["like=r0", "path_to=r1", "k=3", "same_artist=false"], "path_to=r1 has no use for k, same_artist: leave them"),
        (["like=r0", "path_to=r1", "tempo=[60,90]", "labels.mood=calm"], "has no use for labels, tempo: leave them"),
        (["like=r0", "path_to=r1", "match=best"], "path_to=r1 has no use for match: leave it out"),
        (["like=r0", "steps=3", "rerank=9"], "a question has no use for steps, rerank: leave them out"),
        (["precision=true", "weights.genre=1"], "precision=true has no use for weights: leave it out"),
        (["seeds.genr=r0"], r"^seeds\.genr: the model knows no such condition, only genre, mood, tempo"),
        (["seeds.mood=r0", "labels.mood=calm"], r"mood has seeds and a label: give seeds\.mood or labels\.mood"),
        (["like=r0", "tempo_change=[5,-5]"], r"tempo_change=\[5.0, -5.0\] is no range: .* in percent"),
        (["like=r0", "method=fast"], "method=fast is not legal: choose one of auto, exact, approximate"),
        (["like=r0", "method=approximate"], "has no index for method=approximate"),
        (["like=r0", "accelerator=tpu"], "accelerator=tpu is not legal"),
    ],
)
def test_bad_arguments(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(folder, *arguments)


def test_every_key_has_its_ways_and_a_default_is_not_given(folder):
    known = {key for keys in search.TAKES.values() for key in keys} | search.COMMON
    assert known == set(load_config(SearchConfig, ["index=."]))
    run(folder, "like=r0", "k=10", "steps=8", "rerank=30", "match=mean", "precision=false")
    run(folder, "like=r0", "path_to=r1", "steps=2", "fold=true", "k=10", "tempo=null")


def test_no_index(tmp_path):
    with pytest.raises(ValueError, match=r"catalogue\.json does not exist: embed the catalogue first"):
        run(tmp_path, "like=r0")


@pytest.mark.slow
def test_a_command_fails_in_one_line(tmp_path):
    command = warm.cold("search", f"index={tmp_path}", "like=a")  # as a user's: the one that imports for itself
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_results_become_a_playlist_and_a_table(folder, tmp_path, capsys):
    run(folder, "like=r1", "k=3", f"out={tmp_path}/lists/calm.m3u8", f"weights_file={weights_file(tmp_path)}")
    lines = (tmp_path / "lists" / "calm.m3u8").read_text().splitlines()
    assert lines[0] == "#EXTM3U"
    assert [(tmp_path / "lists" / line).resolve().suffix for line in lines[3::2]] == [".flac"] * 3
    assert all((tmp_path / "lists" / line).is_file() for line in lines[3::2])
    run(folder, "like=r1", "k=3", f"out={tmp_path}/calm.m3u8", "absolute_paths=true")
    assert all(Path(line).is_absolute() for line in (tmp_path / "calm.m3u8").read_text().splitlines()[3::2])
    run(folder, "like=r1", "k=3", f"out={tmp_path}/calm.csv")
    assert len((tmp_path / "calm.csv").read_text().splitlines()) == 4
    with pytest.raises(ValueError, match="is of no known form"):
        run(folder, "like=r1", f"out={tmp_path}/calm.xml")
    with pytest.raises(ValueError, match="would hold no track"):
        run(folder, "like=r1", "tempo=[900,901]", f"out={tmp_path}/none.m3u8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.csv", "track_id,path\na,a.mp3\n"),
        ("catalogue.json", '{"format_version": 1}'),
        ("mine.json", "no json"),
        ("mine.m3u8", "#EXTM3U\n#EXTINF:200,Nina - Blue\na.mp3\n"),
    ],
)
def test_only_earlier_results_are_overwritten(folder, tmp_path, name, content):
    out = tmp_path / name
    run(folder, "like=r1", f"out={out}")
    run(folder, "like=r2", f"out={out}")
    out.write_text(content)
    with pytest.raises(ConfigError, match=f"{name} is there, and no result of a search"):
        run(folder, "like=r1", f"out={out}")
    assert out.read_text() == content


def test_weights_of_people_count_where_none_are_given(folder, tmp_path):
    weights = weights_file(tmp_path, genre=0.0, mood=2.0)
    distances = {}
    for name, arguments in {
        "file": [f"weights_file={weights}"],
        "given": ["weights.mood=2", "weights.tempo=1"],
    }.items():
        run(folder, "like=r1", "k=3", *arguments, f"out={tmp_path}/{name}.json")
        distances[name] = [r["distance"] for r in json.loads((tmp_path / f"{name}.json").read_text())["results"]]
    assert distances["file"] == distances["given"]
    run(folder, "like=r1", "k=3", f"weights_file={weights}", "weights.genre=1", f"out={tmp_path}/other.json")
    other = json.loads((tmp_path / "other.json").read_text())
    assert other["weights"] == {"genre": 1.0, "mood": 0.0, "tempo": 0.0}


def weights_file(folder: Path, **changed: float) -> Path:
    path = folder / "weights.json"
    path.write_text(json.dumps({"weights": {"genre": 1.0, "mood": 1.0, "tempo": 1.0, **changed}}))
    return path
