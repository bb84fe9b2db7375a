"""Reports of systems and seeds to one table, in all its forms, from cells that are made up."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from PIL import Image

from disentangled_ml.commands.schemas import TableConfig
from disentangled_ml.config import load_config
from disentangled_ml.reporting.comparison import TITLES, assemble, markdown, write_comparison
from disentangled_ml.reporting.comparison_figures import draw_accuracies, draw_matrices
from disentangled_ml.reporting.published import ACCURACIES, COLUMNS, published
from disentangled_ml.reporting.published import TRACK as PAPERS_TRACK
from disentangled_ml.reporting.report import accuracy_table, retrieval_table

NAMES = ["genre", "mood", "tempo"]
ROUNDING = 1e-4  # of pooled accuracies and deviations


def make_cell(system: str, seed: int = 0, has_subspaces: bool = False, names: list[str] = NAMES) -> dict[str, Any]:
    """Make the report of a system and seed; no two of its numbers are equal."""
    rng = random.Random(f"{system} {seed}")

    def entry() -> dict[str, Any]:
        accuracy = rng.uniform(0.3, 0.9)
        return {"accuracy": accuracy, "ci95": [accuracy - 0.05, accuracy + 0.04], "n": rng.randint(100, 2000)}

    def numbers(*keys: str) -> dict[str, float]:
        return {key: rng.random() for key in keys}

    return {
        "system": system,
        "seed": seed,
        "has_subspaces": has_subspaces,
        "parameters": None if system == "vq" else rng.randint(10_000, 9_000_000),
        "seconds": None if system == "vq" else rng.uniform(10, 9000),
        **{space: {**{name: entry() for name in names}, "mean": rng.random()} for space in ("sub", "all")},
        "mean_ci95": {space: sorted([rng.random(), rng.random()]) for space in ("sub", "all")},
        "track": entry(),
        "track_recall": entry(),
        "skipped": dict.fromkeys([*names, "track"], 0),
        "matrix": {name: numbers(*names) for name in names},
        "disentanglement": rng.uniform(-0.1, 0.4),
        "recall": {
            space: {name: {**numbers("1", "2", "4", "8"), "n": 50} for name in names} for space in ("sub", "all")
        }
        | {"chance": {name: {"1": len(name) / 50} for name in names}},  # of the tracks, whatever the system
        "probe": {
            name: {**{space: {**numbers("roc_auc", "pr_auc"), "tags": 3} for space in ("sub", "all")}, "chance_pr": 0.3}
            for name in names
            if name != "tempo"
        },
    }


def make_cells(*seeds: int) -> list[dict[str, Any]]:
    systems = {"vq": False, "category": False, "disentangled": True, "specialised": True}
    return [make_cell(system, seed, has) for system, has in systems.items() for seed in seeds]


def row_of(comparison: dict[str, Any], system: str, space: str) -> dict[str, Any]:
    (row,) = (row for row in comparison["rows"] if (row["system"], row["space"]) == (system, space))
    return row


def test_rows_are_the_systems_in_their_spaces():
    comparison = assemble(make_cells(0), NAMES, {"base": "demo"})
    assert [(row["system"], row["space"]) for row in comparison["rows"]] == [
        *(
            ("vq", "all"),
            ("category", "all"),
            ("disentangled", "all"),
        ),  # specialised networks are no system of their own
        *(("disentangled", "sub"), ("specialised", "sub")),
    ]
    assert comparison["columns"] == [*NAMES, "mean", "track"]
    assert comparison["settings"] == {"base": "demo"}


@pytest.mark.parametrize(
    ("system", "space"), [("vq", "all"), ("disentangled", "all"), ("disentangled", "sub"), ("specialised", "sub")]
)
def test_a_row_of_one_seed_is_its_cell(system, space):
    cells = make_cells(0)
    row = row_of(assemble(cells, NAMES, {}), system, space)
    (cell,) = (cell for cell in cells if cell["system"] == system)
    for name in NAMES:
        assert row[name] == cell[space][name]
        assert row["recall"][name] == cell["recall"][space][name]["1"]
        assert row["chance_recall"][name] == cell["recall"]["chance"][name]["1"]
    assert row["mean"]["accuracy"] == cell[space]["mean"]
    assert row["mean"]["ci95"] == cell["mean_ci95"][space]
    assert row["track"] == (cell["track"] if space == "all" else None)
    assert row["track_recall"] == (None if system == "specialised" else cell["track_recall"])
    assert (row["parameters"], row["seconds"]) == (cell["parameters"], cell["seconds"])
    assert row["disentanglement"] == (cell["disentanglement"] if cell["has_subspaces"] else None)
    assert row["matrix"] == cell["matrix"]
    assert set(row["probe"]) == {"genre", "mood"}
    for name, probe in row["probe"].items():
        assert probe == {key: cell["probe"][name][space][key] for key in ("roc_auc", "pr_auc")}


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 7)], ids=["two", "three"])
def test_several_seeds_give_mean_and_deviation(seeds):
    cells = make_cells(*seeds)
    random.Random(0).shuffle(cells)  # whatever their order
    comparison = assemble(cells, NAMES, {})
    for system, space in (("category", "all"), ("disentangled", "sub")):
        row = row_of(comparison, system, space)
        own = [cell for cell in cells if cell["system"] == system]
        assert len(own) == len(seeds)
        found = {name: [cell[space][name]["accuracy"] for cell in own] for name in NAMES}
        found["mean"] = [cell[space]["mean"] for cell in own]
        found["track_recall"] = [cell["track_recall"]["accuracy"] for cell in own]
        if space == "all":
            found["track"] = [cell["track"]["accuracy"] for cell in own]
        for name, values in found.items():
            assert row[name]["accuracy"] == pytest.approx(mean(values), abs=ROUNDING), name
            assert row[name]["deviation"] == pytest.approx(stdev(values), abs=ROUNDING), name
            low, high = row[name]["ci95"]
            width = stdev(values) * {2: 12.706, 3: 4.303}[len(seeds)] / len(seeds) ** 0.5
            assert low <= max(0, mean(values) - width) + ROUNDING  # of seeds and anchor tracks together
            assert high >= min(1, mean(values) + width) - ROUNDING
        assert row["seconds"] == pytest.approx(mean(cell["seconds"] for cell in own))
        assert row["recall"]["mood"] == pytest.approx(mean(cell["recall"][space]["mood"]["1"] for cell in own))
        assert row["matrix"]["mood"]["genre"] == pytest.approx(mean(cell["matrix"]["mood"]["genre"] for cell in own))
    spread = row_of(comparison, "category", "all")["mood"]
    assert f"{spread['accuracy']:.3f} ± {spread['deviation']:.3f}" in markdown(comparison)


def test_a_baseline_of_one_seed_stands_beside_networks_of_several():
    cells = [make_cell("vq"), *(make_cell("category", seed) for seed in (0, 1))]
    comparison = assemble(cells, NAMES, {})
    assert row_of(comparison, "vq", "all")["genre"] == cells[0]["all"]["genre"]
    assert "deviation" in row_of(comparison, "category", "all")["genre"]


def read_markdown(text: str) -> list[list[list[str]]]:
    """Give the cells of every table of a text, header first."""
    tables: list[list[list[str]]] = [[]]
    for line in text.split("\n"):
        if not line.startswith("|"):
            tables.append([])
        elif not line.startswith("|---"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return [table for table in tables if table]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["one seed", "two seeds"])
def test_markdown_csv_and_json_hold_the_same_numbers(tmp_path, seeds):
    comparison = assemble(make_cells(*seeds), NAMES, {"systems": ["vq"]})
    write_comparison(tmp_path, comparison)
    assert json.loads((tmp_path / "table.json").read_text()) == comparison
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        flat = list(csv.DictReader(file))
    assert [(row["system"], row["space"]) for row in flat] == [
        (row["system"], row["space"]) for row in comparison["rows"]
    ]
    tables = read_markdown((tmp_path / "table.md").read_text(encoding="utf-8"))
    accuracies = [[line for line in table[1:] if line[0] != "*the paper*"] for table in tables[:2]]
    spaces = [[row for row in comparison["rows"] if row["space"] == space] for space in ("all", "sub")]
    assert [len(lines) for lines in accuracies] == [len(rows) for rows in spaces] == [3, 2]
    for row, line in zip([*spaces[0], *spaces[1]], [*accuracies[0], *accuracies[1]], strict=True):
        (flat_row,) = (f for f in flat if (f["system"], f["space"]) == (row["system"], row["space"]))
        assert line[0] == row["title"]
        for column, shown in zip(comparison["columns"], line[1:6], strict=True):
            entry = row[column]
            if entry is None:
                assert (shown, flat_row[column]) == ("", "")
                continue
            assert shown.startswith(f"{entry['accuracy']:.3f} ")
            assert float(flat_row[column]) == entry["accuracy"]
            assert int(flat_row[f"{column}_n"]) == entry["n"]
            if len(seeds) == 1:
                low, high = entry["ci95"]
                assert shown.endswith(f"[{low:.2f}, {high:.2f}]")
                assert [float(flat_row[f"{column}_{end}"]) for end in ("low", "high")] == [low, high]
                assert flat_row[f"{column}_deviation"] == ""
            else:
                low, high = entry["ci95"]
                assert shown.endswith(f"± {entry['deviation']:.3f} [{low:.2f}, {high:.2f}]")
                assert float(flat_row[f"{column}_deviation"]) == entry["deviation"]
                assert [float(flat_row[f"{column}_{end}"]) for end in ("low", "high")] == [low, high]
        assert line[6] == ("-" if row["parameters"] is None else f"{row['parameters']:,}")
        assert line[7] == ("-" if row["seconds"] is None else f"{row['seconds']:.0f}")
        for name in NAMES:
            assert float(flat_row[f"recall1_{name}"]) == row["recall"][name]
        assert float(flat_row["probe_pr_auc_mood"]) == row["probe"]["mood"]["pr_auc"]
    labels = {line[0]: line for line in tables[2][1:]}
    best = row_of(comparison, "disentangled", "sub")
    assert labels[best["title"]][1:5] == [
        f"{value:.3f}" for value in (best["disentanglement"], *(best["recall"][name] for name in NAMES))
    ]
    assert (
        labels[best["title"]][6] == f"{best['probe']['genre']['roc_auc']:.3f} / {best['probe']['genre']['pr_auc']:.3f}"
    )
    assert labels["*chance*"][2] == f"*{best['chance_recall']['genre']:.3f}*"
    matrices = tables[3:]
    assert len(matrices) == 2
    assert [float(x) for x in matrices[0][2][1:]] == pytest.approx([best["matrix"]["mood"][j] for j in NAMES], abs=5e-4)


def test_what_is_unknown_is_shown_so(tmp_path):
    cell = make_cell("category")
    nothing = {"accuracy": None, "ci95": [None, None], "n": 0}
    cell["all"]["tempo"], cell["track"], cell["track_recall"] = dict(nothing), dict(nothing), dict(nothing)
    cell["all"]["mean"], cell["mean_ci95"]["all"] = None, [None, None]
    cell["recall"]["all"]["tempo"] = dict.fromkeys(("1", "2", "4", "8"), None)
    cell["recall"]["chance"]["tempo"] = {"1": None}
    cell["probe"]["mood"]["all"] = {"roc_auc": None, "pr_auc": None, "tags": 0}
    cell["matrix"]["tempo"] = dict.fromkeys(NAMES)
    cell["disentanglement"] = None
    comparison = assemble([cell], NAMES, {})
    write_comparison(tmp_path, comparison)
    (line,) = (line for line in read_markdown((tmp_path / "table.md").read_text())[0] if line[0] == TITLES["category"])
    assert line[3:6] == ["-", "-", "-"]
    draw_accuracies(comparison, tmp_path / "table.png")
    cell["has_subspaces"] = True
    cell["sub"]["tempo"] = dict(nothing)
    draw_matrices(assemble([cell], NAMES, {}), tmp_path / "matrices.png")
    assert (tmp_path / "matrices.png").stat().st_size > 0


def test_a_seed_without_a_triplet_does_not_count():
    cells = [make_cell("category", seed) for seed in (0, 1, 2)]
    cells[0]["all"]["mood"] = {"accuracy": None, "ci95": [None, None], "n": 0}
    entry = row_of(assemble(cells, NAMES, {}), "category", "all")["mood"]
    known = [cell["all"]["mood"]["accuracy"] for cell in cells[1:]]
    assert entry["accuracy"] == pytest.approx(mean(known), abs=ROUNDING)
    assert entry["deviation"] == pytest.approx(stdev(known), abs=ROUNDING)


def test_the_papers_figures_stand_below_ours():
    names = list(COLUMNS[:-1])
    cells = [
        make_cell("vq", names=names),
        make_cell("disentangled", 0, True, names),
        make_cell("proxy", 0, True, names),
    ]
    tables = read_markdown(markdown(assemble(cells, names, {})))
    whole, sub = ([line for line in table if line[0] == "*the paper*"] for table in tables[:2])
    assert [line[1:6] for line in whole] == [
        ["*0.563*", "*0.481*", "*0.495*", "*0.516*", "*0.514*"],
        ["*0.708*", "*0.717*", "*0.657*", "*0.783*", "*0.716*"],
    ]
    assert [line[6] for line in whole] == ["*0.833*", "*0.985*"]
    assert [line[1:7] for line in sub] == [["*0.785*", "*0.790*", "*0.798*", "*0.955*", "*0.832*", ""]]


def test_the_paper_has_no_mean_over_other_conditions():
    assert "mean" not in published("sub", "disentangled", NAMES)
    assert published("sub", "disentangled", ["colour"]) == {}
    assert published("all", "proxy", COLUMNS[:-1]) == {}


def test_the_papers_figures_are_consistent():
    """Its means are those of its four conditions, up to rounding; and every system of it is a row of our table."""
    for key, values in ACCURACIES.items():
        assert len(values) == len(COLUMNS)
        assert mean(values[:-1]) == pytest.approx(values[-1], abs=0.0011), key
    assert {system for space, system in ACCURACIES if space == "all"} == set(PAPERS_TRACK)
    systems = set(load_config(TableConfig, ["shards=d"]).systems)
    assert {system for _, system in ACCURACIES} <= systems <= set(TITLES)


def assert_drawn(path: Path) -> None:
    image = Image.open(path).convert("RGB")
    assert min(image.size) > 100
    assert len(image.getcolors(1 << 22)) > 20


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["one seed", "two seeds"])
def test_figures_are_drawn(tmp_path, seeds):
    comparison = assemble(make_cells(*seeds), NAMES, {})
    draw_accuracies(comparison, tmp_path / "table.png")
    draw_matrices(comparison, tmp_path / "matrices.png")
    assert_drawn(tmp_path / "table.png")
    assert_drawn(tmp_path / "matrices.png")


def test_without_subspaces_there_is_no_matrix(tmp_path):
    comparison = assemble([make_cell("vq")], NAMES, {})
    draw_accuracies(comparison, tmp_path / "table.png")
    draw_matrices(comparison, tmp_path / "matrices.png")
    assert [path.name for path in tmp_path.iterdir()] == ["table.png"]
    assert "Matrix" not in markdown(comparison)


@pytest.mark.parametrize("n", [1, 5])
def test_any_number_of_systems_is_drawn(tmp_path, n):
    cells = [make_cell(f"system {i}", 0, True, ["genre"]) for i in range(n)]
    draw_matrices(assemble(cells, ["genre"], {}), tmp_path / "matrices.png")
    assert_drawn(tmp_path / "matrices.png")


def test_conditions_with_estimated_labels_are_marked(tmp_path):
    cells = [{**make_cell("vq"), "estimated": ["tempo"]}, {**make_cell("proxy", 0, True), "estimated": ["tempo"]}]
    comparison = assemble(cells, NAMES, {})
    assert comparison["estimated"] == ["tempo"]
    text = markdown(comparison)
    assert "\n\n\\* labels estimated, not given: tempo.\n\n" in text
    assert read_markdown(text)[0][0][1:4] == ["genre", "mood", "tempo*"]
    # Cells of earlier versions do not say it.
    plain = assemble([make_cell("vq")], NAMES, {})
    assert plain["estimated"] == []
    assert "*" not in markdown(plain).partition("**All")[0]


def test_the_screen_marks_estimated_labels_too():
    report = {**make_cell("proxy", 0, True), "estimated": ["mood"]}
    report["recall"]["chance"] = report["recall"]["sub"]
    lines = accuracy_table(report).splitlines()
    assert [line.split()[0] for line in lines[3:6]] == ["genre", "mood*", "tempo"]
    assert lines[-1] == "* labels estimated, not given: mood"
    assert "mood* " in retrieval_table(report)
    assert "*" not in accuracy_table({**report, "estimated": []})


def with_folded(cell: dict[str, Any], sub: float) -> dict[str, Any]:
    entries = {space: {"accuracy": a, "ci95": [a - 0.1, a + 0.1], "n": 40} for space, a in (("sub", sub), ("all", 0.5))}
    return {**cell, "octaves_folded": {"tempo": entries}}


def test_tempo_stands_there_with_octaves_folded_too(tmp_path):
    cells = [
        with_folded(make_cell("disentangled", has_subspaces=True), 0.75),
        make_cell("vq"),
    ]  # vq: a report of before
    comparison = assemble(cells, NAMES, {})
    assert row_of(comparison, "disentangled", "sub")["octaves_folded"]["tempo"]["accuracy"] == 0.75
    assert row_of(comparison, "vq", "all")["octaves_folded"] == {}
    write_comparison(tmp_path, comparison)
    assert json.loads((tmp_path / "table.json").read_text()) == comparison
    with open(tmp_path / "table.csv", newline="") as file:
        flat = {(row["system"], row["space"]): row for row in csv.DictReader(file)}
    key = "octaves_folded_tempo"
    found = [flat[row][key] for row in (("disentangled", "all"), ("disentangled", "sub"), ("vq", "all"))]
    assert found == ["0.5", "0.75", ""]
    assert flat["disentangled", "sub"][f"{key}_n"] == "40"
    whole, sub = read_markdown((tmp_path / "table.md").read_text(encoding="utf-8"))[:2]
    assert whole[0] == ["system", *NAMES, "mean", "track", "tempo, octaves folded", "parameters", "time"]
    # Of whose rows the paper's have as many cells.
    assert {len(line) for line in (*whole, *sub)} == {len(whole[0])}
    shown = {line[0]: line[6] for line in whole}
    assert (shown[TITLES["disentangled"]], shown[TITLES["vq"]]) == ("0.500 [0.40, 0.60]", "-")
    assert sub[1][6] == "0.750 [0.65, 0.85]"


def test_octaves_folded_is_pooled_over_the_seeds_if_all_have_it():
    seeds = [make_cell("category", seed) for seed in (0, 1)]
    both = assemble([with_folded(seed, 0.5) for seed in seeds], NAMES, {})
    assert both["rows"][0]["octaves_folded"]["tempo"]["deviation"] == 0
    assert assemble([with_folded(seeds[0], 0.5), seeds[1]], NAMES, {})["rows"][0]["octaves_folded"] == {}


def test_reports_of_before_have_no_column_of_folded_octaves(tmp_path):
    write_comparison(tmp_path, assemble(make_cells(0), NAMES, {}))
    assert not any("folded" in (tmp_path / f"table.{form}").read_text() for form in ("md", "csv"))


def test_the_row_of_folded_octaves_stands_behind_its_tempo():
    report = with_folded(make_cell("disentangled"), 0.75)
    lines = accuracy_table(report).split("\n")
    (number,) = (n for n, line in enumerate(lines) if line.startswith("- octaves folded"))
    shown = "- octaves folded 0.750 [0.650, 0.850] 0.500 [0.400, 0.600] 40"
    assert " ".join(lines[number].split()) == shown
    assert lines[number - 1].startswith("tempo ")
    assert "octaves" not in accuracy_table(make_cell("disentangled"))
