"""The HTML page: of finished, unfinished and damaged runs and of tables, with hostile names, and in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from datamodules.audio.decoding import decode, encode_flac, encode_mp3
from datamodules.shards.index import Shard, ShardIndex
from datamodules.shards.tar import write_shard
from disentangled_ml.builders import build_network
from disentangled_ml.commands import html_report
from disentangled_ml.commands.schemas import HtmlReportConfig
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.reporting.neighbours import nearest
from disentangled_ml.reporting.page_tables import (
    Cell,
    accuracy_cell,
    comparison_tables,
    evaluation_tables,
    metrics_table,
)
from disentangled_ml.structures import AudioSettings, TrackInfo
from tests import warm

CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
AUDIO = AudioSettings(n_mels=16)
FRAMES = 16
SETTINGS = (f"data.chunk_frames={FRAMES}", "data=shards", "backbone=conv", "backbone.width=0.1", "embedding_dim=24")
NAMES = (
    "<script>boom()</script>",
    "\"quoted\" & 'single'",
    "</script><b>",
    "日本語 \u202e ö",
    "--><img src=x onerror=boom()>",
)

TAGS = ("<i>rock</i>", '"pop" onload="boom()"')
ENTRY = {"accuracy": 0.75, "ci95": [0.7, 0.8], "n": 100}


class Elements(HTMLParser):
    """Collect the elements of a page with their attributes, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str, **attributes: str) -> list[dict]:
        return [a for name, a in self.found if name == tag and attributes.items() <= a.items()]


def make_page(run: Path, *arguments: str) -> str:
    """Make the page of a folder in this process."""
    html_report.main(load_config(HtmlReportConfig, [f"run={run}", *arguments]))
    return (run / "report.html").read_text(encoding="utf-8")


def command(*arguments: str) -> subprocess.CompletedProcess:
    return warm.run("html_report", *arguments, timeout=240)


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """Give a copy of the trained run, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "tiny"))


def hostile_samples(rng):
    for i, name in enumerate(NAMES * 2):
        track_id = name if i < len(NAMES) else f"{name} {i}"
        frames = 3 * FRAMES + i
        labels = {"<u>genre</u>": [TAGS[i % 2]], "tempo": 100.0 + i}
        waveform = 0.1 * np.sin(np.arange(frames * AUDIO.hop_length) * (0.02 + 0.01 * i))
        yield {
            "info": TrackInfo(track_id, f"<em>artist {i % 4}</em>", frames, labels),
            "mel": rng.uniform(0, 1, (AUDIO.n_mels, frames)).astype(np.float16),
            "flac": encode_flac(waveform, AUDIO.sample_rate),
        }


@pytest.fixture
def hostile(tmp_path) -> Path:
    """Make a run on shards with waveforms, all of whose names are markup."""
    root = tmp_path / "shards"
    root.mkdir()
    count = 2 * len(NAMES)
    write_shard(root / "test-000000.tar", hostile_samples(np.random.default_rng(0)))
    conditions = [
        {"name": "<u>genre</u>", "kind": "tags", "vocabulary": list(TAGS)},
        {"name": "tempo", "kind": "tempo"},
    ]
    splits = {"train": [], "val": [], "test": [Shard("test-000000.tar", count)]}
    ShardIndex(root, AUDIO, True, conditions, splits).write()
    config = load_config(TrainConfig, [*SETTINGS, f"data.shards={root}", "run_name=<script>boom()</script>"])
    with torch.random.fork_rng():
        torch.manual_seed(0)  # which tracks are neighbours, and so on the page, is up to the weights
        network = build_network(config, [entry["name"] for entry in conditions], AUDIO)
    run = tmp_path / "<b>run"
    (run / "checkpoints").mkdir(parents=True)
    OmegaConf.save(config, run / "config.yaml")
    weights = {f"network.{name}": weight for name, weight in network.state_dict().items()}
    notes = {"config": OmegaConf.to_container(config), "conditions": network.condition_names, "audio": vars(AUDIO)}
    torch.save({"state_dict": weights, **notes}, run / "checkpoints" / "best.ckpt")
    spaces = {space: {"<u>genre</u>": ENTRY, "tempo": ENTRY, "mean": 0.75} for space in ("sub", "all")}
    (run / "evaluation.json").write_text(json.dumps({**spaces, "track": ENTRY, "skipped": {}}))
    return run


@pytest.fixture
def table(tmp_path, trained) -> Path:
    """Make the folder of a comparison."""
    folder = tmp_path / "table"
    folder.mkdir()
    rows = [
        {"system": "random", "title": "<b>random</b>", "space": "all", "genre": {**ENTRY, "accuracy": 0.5}, "mean": 0.5,
         "track": ENTRY, "parameters": None, "seconds": None, "paper": {"genre": 0.123}},
        {"system": "full", "space": "sub", "genre": {"accuracy": 0.9, "deviation": 0.02, "n": 5}, "mean": 0.9,
         "track": ENTRY, "parameters": 1234567, "seconds": 61.7, "recall": {"genre": 0.625}},
    ]  # fmt: skip
    content = {"rows": rows, "columns": ["genre", "mean", "track"], "settings": {"shards": "shards/<x>", "seeds": [0]}}
    (folder / "table.json").write_text(json.dumps(content))
    shutil.copy(trained / "figures" / "masks.png", folder / "table.png")
    return folder


def test_page_of_a_finished_run(run):
    html = make_page(run)
    page = Elements(html)
    evaluation = json.loads((run / "evaluation.json").read_text())
    for name in ("genre", "mood", "tempo"):
        assert f"{evaluation['sub'][name]['accuracy']:.3f}" in page.text
    assert f"mean triplet accuracy {evaluation['sub']['mean']:.3f} in the subspaces" in page.text
    assert len(page.of("img")) == len(list((run / "figures").glob("*.png"))) >= 3
    assert "max_epochs: 1" in page.text
    assert len(page.of("article")) == 3
    assert len(page.of("li", **{"class": "track"}) + page.of("li", **{"class": "track same"})) == 3 * 4 * 5
    assert "the shards hold no waveforms; give manifest=FILE.csv" in page.text
    assert not page.of("button")


def test_everything_is_inside_the_file(hostile, table, run):
    for folder in (hostile, table, run):
        html = make_page(folder)
        for tag, attributes in Elements(html).found:
            for name in ("src", "href", "data", "action", "poster", "srcset"):
                assert attributes.get(name, "data:").startswith("data:"), (tag, name)
        assert not re.search(r"https?://|@import|url\(", html)
        assert "default-src 'none'" in html


def test_hostile_names_are_text(hostile):
    html = make_page(hostile)
    page = Elements(html)
    assert len(page.of("script")) == 2
    assert not page.of("img")
    assert not page.of("i", onerror="boom()")
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert {tag for tag, _ in page.found} & {"u", "em"} == set()
    for text in (*NAMES, *TAGS, "<em>artist 1</em>", "<u>genre</u>"):
        assert text in page.text
    assert [a["data-name"] for a in page.of("button") if a["data-name"] == NAMES[1]]


def test_each_track_sounds_once_however_often_it_is_shown(hostile):
    html = make_page(hostile, "queries=2", "neighbours=9")
    page = Elements(html)
    clips = json.loads(re.search(r'<script id="clips" type="application/json">(.*?)</script>', html, re.DOTALL)[1])
    buttons = page.of("button")
    assert len(clips) == len(set(clips)) == 2 * len(NAMES)
    assert len(buttons) > len(clips)
    number = {a["data-name"]: int(a["data-clip"]) for a in buttons}
    assert len(number) == len(clips)
    assert all(clip.startswith("data:audio/mpeg;base64,") for clip in clips)


def test_sound_of_a_manifest(run, tmp_path):
    lines = ["track_id,path"]
    for number in range(64, 84):
        path = tmp_path / f"{number}.flac"
        path.write_bytes(encode_flac(0.1 * np.sin(np.arange(44100 * 2) / (5 + number)), 44100))
        lines.append(f"t{number},{path.name}")
    (tmp_path / "66.flac").write_bytes(b"no sound")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    html = make_page(run, f"manifest={tmp_path / 'manifest.csv'}", "neighbours=19")
    names = {a["data-name"] for a in Elements(html).of("button")}
    assert names == {f"t{number}" for number in range(64, 84)} - {"t66"}
    assert "sound of 1 of 20 tracks" in html
    done = command(f"run={run}", f"manifest={tmp_path / 'none.csv'}")
    assert done.returncode == 1
    assert "none.csv cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_sound_in_shards_leaves_the_others(hostile, monkeypatch):
    def decode_some(data, start, stop):
        if len(data) % 2:
            raise RuntimeError("damaged")
        return np.zeros(stop - start, np.float32)

    monkeypatch.setattr(html_report, "decode_flac", decode_some)
    page = Elements(make_page(hostile))
    assert 0 < len({a["data-clip"] for a in page.of("button")}) < 2 * len(NAMES)
    assert re.search(r"sound of \d+ of \d+ tracks", page.text)


def test_clips_are_bounded(hostile, monkeypatch):
    monkeypatch.setattr(html_report, "CLIPS_BYTES", 20_000)
    html = make_page(hostile)
    assert Elements(html).of("button")
    assert "beyond 0 MB" in html


def test_mp3_decodes_to_what_was_encoded(tmp_path):
    waveform = (0.5 * np.sin(np.arange(22050) * 0.1)).astype(np.float32)
    (tmp_path / "clip.mp3").write_bytes(encode_mp3(waveform, 22050))
    decoded, rate = decode(tmp_path / "clip.mp3")
    assert rate == 22050
    assert abs(len(decoded) - len(waveform)) < 4000  # whole frames of MP3
    assert abs(np.abs(decoded).max() - 0.5) < 0.05
    with pytest.raises(ValueError, match="one dimension"):
        encode_mp3(waveform[None], 22050)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("evaluation.json", "evaluation.json: not there"),
        ("metrics.json", "metrics.json: not there"),
        ("figures", "figures has none"),
        ("checkpoints", "best.ckpt does not exist"),
        ("config.yaml", "config.yaml: cannot be read"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_there(run, gone, said):
    (shutil.rmtree if (run / gone).is_dir() else os.remove)(run / gone)
    page = Elements(make_page(run))
    assert said in page.text
    assert bool(page.of("article")) == (gone not in ("checkpoints", "config.yaml"))
    assert bool(page.of("img")) == (gone != "figures")
    assert ("own subspace" in page.text) == (gone != "evaluation.json")


def test_an_unfinished_run_has_a_page(run):
    for name in ("evaluation.json", "metrics.json", "figures", "checkpoints"):
        (shutil.rmtree if (run / name).is_dir() else os.remove)(run / name)
    page = Elements(make_page(run))
    assert "no evaluation yet" in page.text
    assert "max_epochs: 1" in page.text


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", '{"sub": 3, "all": [1], "track": "x", "matrix": {"a": 1}}', "\udcff"]
)
def test_damaged_reports_do_not_stop_the_page(run, content):
    (run / "evaluation.json").write_bytes(content.encode(errors="surrogateescape"))
    (run / "metrics.json").write_bytes(content.encode(errors="surrogateescape"))
    assert len(Elements(make_page(run, "queries=1")).of("article")) == 1


def test_shards_that_are_gone_are_named(run, tmp_path):
    config = OmegaConf.load(run / "config.yaml")
    config.data.shards = str(tmp_path / "gone")
    OmegaConf.save(config, run / "config.yaml")
    page = Elements(make_page(run))
    assert f"nearest neighbours: {tmp_path}/gone/index.json does not exist" in page.text


def test_no_queries_embed_nothing(run):
    shutil.rmtree(run / "checkpoints")
    page = Elements(make_page(run, "queries=0"))
    assert "best.ckpt" not in page.text
    assert not page.of("article")


def test_page_of_a_table(table):
    page = Elements(make_page(table))
    for text in (
        "<b>random</b>",
        "0.900",
        "± 0.020",
        "1,234,567",
        "62",
        "paper 0.123",
        "0.625",
        "2 systems",
        "shards/<x>",
    ):
        assert text in page.text, text
    assert len(page.of("img")) == 1
    assert len(page.of("strong")) == 2  # the best genre and mean; track has one value only


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "",
        '{"rows": null}',
        '{"rows": [1, {}]}',
        '{"rows": [{"system": "a", "genre": 0.5}], "columns": ["x"]}',
    ],
)
def test_odd_tables_have_a_page(table, content):
    (table / "table.json").write_text(content)
    assert len(Elements(make_page(table)).of("img")) == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    done = command(f"run={tmp_path}")
    assert done.returncode == 1
    assert re.search(rf"configuration error: run={tmp_path} is no run and no comparison: give .*runs/NAME", done.stderr)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="no run and no comparison"):
        make_page(tmp_path / "nowhere")


def test_command_writes_where_it_is_told(run, tmp_path):
    done = command(f"run={run}", f"out={tmp_path}/deep/page.html", "queries=1")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/deep/page.html" in done.stdout
    assert Elements((tmp_path / "deep" / "page.html").read_text()).of("article")
    assert not (run / "report.html").exists()
    with pytest.raises(ConfigError, match=r"is a folder: give out=FILE\.html"):
        make_page(run, f"out={tmp_path}")


def test_every_part_of_an_evaluation_is_shown():
    names = ("genre", "tempo")
    evaluation = {
        "sub": {**dict.fromkeys(names, ENTRY), "mean": 0.75},
        "all": {**dict.fromkeys(names, ENTRY), "mean": 0.75},
        "track": ENTRY,
        "skipped": {"genre": 3},
        "matrix": {a: {b: 0.9 if a == b else 0.5 for b in names} for a in names},
        "disentanglement": 0.4,
        "recall": {
            space: {name: {"1": 0.25, "8": 0.5, "n": 9} for name in names} for space in ("sub", "all", "chance")
        },
        "track_recall": ENTRY,
        "probe": {"genre": {"sub": {"roc_auc": 0.8, "pr_auc": 0.3, "tags": 4}, "all": {}, "chance_pr": 0.1}},
    }
    accuracy, matrix, recall, probe = evaluation_tables(evaluation)
    assert [names for names, _ in accuracy.rows] == [["genre"], ["tempo"], ["mean"], ["track"]]
    assert "3 of genre" in accuracy.note
    assert matrix.rows[0][1] == [Cell("0.900", level=pytest.approx(0.8)), Cell("0.500", level=0.0)]
    assert "0.400" in matrix.note
    assert recall.columns[2:] == ["K = 1", "K = 8"]
    assert len(recall.rows) == 6
    assert "0.750 [0.700, 0.800]" in recall.note
    assert probe.rows == [(["genre", "own subspace"], [Cell("0.800"), Cell("0.300"), Cell("0.100"), Cell("4")])]


def test_tempo_is_shown_with_octaves_folded_too():
    folded = {"tempo": {"sub": {**ENTRY, "accuracy": 0.875, "n": 7}, "all": {**ENTRY, "accuracy": 0.625, "n": 7}}}
    spaces = {"sub": {"tempo": ENTRY, "mood": ENTRY}, "all": {"tempo": ENTRY, "mood": ENTRY}}
    (accuracy,) = evaluation_tables({**spaces, "octaves_folded": folded})
    assert [names for names, _ in accuracy.rows] == [["tempo"], ["tempo, octaves folded"], ["mood"], ["mean"]]
    assert [cell.text for cell in accuracy.rows[1][1]] == ["0.875", "0.625", "7"]
    rows = [{"system": "a", "tempo": ENTRY, "octaves_folded": {"tempo": folded["tempo"]["sub"]}}]
    (table,) = comparison_tables({"rows": [*rows, {"system": "of before", "tempo": ENTRY}]})
    assert table.columns == ["system", "space", "tempo", "tempo, octaves folded"]
    assert [cells[1].text for _, cells in table.rows] == ["0.875", "-"]


def test_estimated_labels_are_marked():
    evaluation = {
        "sub": {"genre": ENTRY, "tempo": ENTRY},
        "recall": {"sub": {"tempo": {"1": 0.5}}},
        "estimated": ["tempo"],
    }
    accuracy, recall = evaluation_tables(evaluation)
    assert [names[0] for names, _ in accuracy.rows] == ["genre", "tempo*", "mean"]
    assert accuracy.note.endswith("* labels estimated, not given: tempo.")
    assert recall.rows[0][0] == ["tempo*", "own subspace"]
    metrics = metrics_table({"test/triplet_accuracy/tempo": 0.5, "test/loss": 0.1}, ["tempo"])
    assert [names[0] for names, _ in metrics.rows] == ["triplet_accuracy/tempo*", "loss"]
    (table,) = comparison_tables({"rows": [{"system": "a", "tempo": ENTRY}], "estimated": ["tempo"]})
    assert table.columns == ["system", "space", "tempo*"]
    assert "labels estimated" in table.note


@pytest.mark.parametrize("estimated", [None, 3, "tempo", [3], {}])
def test_a_mark_that_is_none(estimated):
    assert "*" not in evaluation_tables({"sub": {"tempo": ENTRY}, "estimated": estimated})[0].note


@pytest.mark.parametrize("entry", [None, {}, "0.5", True, float("nan"), {"accuracy": None}, {"accuracy": "x"}])
def test_what_is_no_number_is_a_dash(entry):
    assert accuracy_cell(entry) == Cell("-")


def test_a_table_shows_what_is_retrieved():
    row = {"system": "a", "genre": ENTRY, "recall": {"genre": 0.25}, "track_recall": ENTRY, "disentanglement": 0.125}
    _, labels = comparison_tables({"rows": [row]})
    assert labels.columns == ["system", "space", "disentanglement", "recall at 1: genre", "track recall at 1"]
    assert [cell.text for cell in labels.rows[0][1]] == ["0.125", "0.250", "0.750"]


def test_rows_of_a_table_may_lack_columns():
    rows = [{"system": "a", "genre": ENTRY}, {"system": "b", "mood": ENTRY, "mean": 0.5}]
    (table,) = comparison_tables({"rows": rows})
    assert table.columns == ["system", "space", "genre", "mood", "mean"]
    assert [[cell.text for cell in cells] for _, cells in table.rows] == [["0.750", "-", "-"], ["-", "0.750", "0.500"]]


def test_nearest_against_a_loop():
    rng = np.random.default_rng(3)
    points, mask = rng.normal(size=(30, 6)), np.array([1.0, 0.5, 0, 0, 1, 0])
    artists = [f"a{i % 5}" if i % 3 else None for i in range(30)]
    found = nearest(torch.tensor(points), torch.tensor(mask), range(30), 4, artists)
    for query, neighbours in enumerate(found):
        distances = {
            row: sum((mask[d] * (points[query, d] - points[row, d])) ** 2 for d in range(6)) ** 0.5
            for row in range(30)
            if row != query and (artists[row] is None or artists[row] != artists[query])
        }
        expected = sorted(distances, key=distances.get)[:4]
        assert [neighbour.row for neighbour in neighbours] == expected
        assert [n.distance for n in neighbours] == pytest.approx([distances[row] for row in expected])


def test_nearest_at_the_edges():
    points, mask = torch.zeros(3, 2), torch.ones(2)
    assert [n.row for n in nearest(points, mask, [1], 9)[0]] == [0, 2]
    assert nearest(points, mask, [0], 2, ["x", "x", "x"]) == [[]]
    assert nearest(points[:1], mask, [0], 1) == [[]]
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        nearest(points, mask, [0], 0)
    with pytest.raises(ValueError, match="2 artists for 3 tracks"):
        nearest(points, mask, [0], 1, ["a", "b"])


PROBE = """<script>
addEventListener("load", async () => {
  const seen = document.documentElement.dataset;
  seen.images = [...document.images].filter(image => image.naturalWidth > 0).length;
  seen.wide = document.documentElement.scrollWidth > innerWidth;
  const play = document.querySelector(".play");
  if (play) {
    const sound = document.querySelector("#player audio");
    const loaded = new Promise(done => sound.addEventListener("loadedmetadata", done));
    play.click();
    await loaded;
    seen.seconds = sound.duration.toFixed(1);
    seen.name = document.querySelector("#player span").textContent;
  }
  seen.ran = "yes";
});
</script></body>"""


def browse(html: str, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Open a page at the width of a phone; give what the probe wrote, and what the console said.

    The browser's virtual time does not wait for its decoder, so on a busy machine the probe may need more of it.
    """
    (folder / "page.html").write_text(html.replace("</body>", PROBE), encoding="utf-8")
    for budget in (10_000, 100_000, 1_000_000, 10_000_000):
        root, said = open_page(folder, budget)
        if "data-ran" in root:
            break
    return root, said


def open_page(folder: Path, budget: int) -> tuple[dict[str, str], list[str]]:
    """Open a page for some milliseconds of virtual time."""
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=390,844",
         f"--user-data-dir={folder / f'profile-{budget}'}", "--autoplay-policy=no-user-gesture-required", "--mute-audio",
         f"--virtual-time-budget={budget}", "--dump-dom", (folder / "page.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    (root,) = Elements(done.stdout[: done.stdout.index("<head")]).of("html")
    return root, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@in_browser
def test_browser_shows_images_and_plays(hostile, run, tmp_path):
    shutil.copytree(run / "figures", hostile / "figures")
    seen, said = browse(make_page(hostile), tmp_path)
    assert seen["data-ran"] == "yes"
    assert int(seen["data-images"]) == len(list((hostile / "figures").glob("*.png")))
    assert 1.0 < float(seen["data-seconds"]) < 2.0
    assert seen["data-name"] in {*NAMES, *(f"{name} {i}" for i, name in enumerate(NAMES, len(NAMES)))}
    assert seen["data-wide"] == "false"
    assert not said


@in_browser
def test_browser_shows_a_table(table, tmp_path):
    seen, said = browse(make_page(table), tmp_path)
    assert (seen["data-ran"], seen["data-images"], seen["data-wide"]) == ("yes", "1", "false")
    assert not said


@in_browser
def test_browser_would_tell_of_a_fault(table, tmp_path):
    html = make_page(table).replace("</main>", '<img src="https://example.org/a.png"><script>fault()</script></main>')
    seen, said = browse(html, tmp_path)
    assert seen["data-images"] == "1"
    assert any("Content Security Policy" in line for line in said)
    assert any("fault is not defined" in line for line in said)
