"""The HTML page of a run or of a comparison table: what was read becomes tables and figures, and these one file.

Reports come from other versions of this program, and from runs that were stopped: every part is shown if it is there, and
whatever is not a number is shown as a dash. The only file that imports jinja2; it escapes every name.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).resolve().parent / "templates"
NONE = "-"
CHANCE = 0.5  # of a triplet
SPACES = {"sub": "own subspace", "all": "all dimensions"}
SETTINGS = (  # of config.yaml, in the order of the page
    ("data.shards", "data"),
    ("backbone.name", "backbone"),
    ("backbone.width", "width"),
    ("frontend.name", "frontend"),
    ("mask.name", "masks"),
    ("loss.name", "loss"),
    ("loss.margin", "margin"),
    ("loss.track_weight", "track weight"),
    ("data.chunk_frames", "frames of a chunk"),
    ("data.chunks_per_track", "chunks per track"),
    ("data.tracks_per_batch", "tracks per batch"),
    ("training.max_epochs", "most epochs"),
    ("training.learning_rate", "learning rate"),
    ("trainer.precision", "precision"),
    ("seed", "seed"),
)
COSTS = {"parameters": "parameters", "seconds": "seconds"}
PROBE_SCORES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}
CAPTIONS = {
    "embedding_map": "The test tracks in each subspace, laid out in two dimensions and coloured by label",
    "triplet_accuracy": "Triplet accuracy over the epochs",
    "filters": "The filters of the frontend: centre frequencies and bandwidths, before and after training",
    "masks": "The condition masks: which dimensions each condition looks at",
    "table": "Triplet accuracy of the systems",
    "matrices": "Accuracy of each condition's triplets (rows) in each subspace (columns)",
    "matrix": "Accuracy of each condition's triplets in each subspace",
}


class Cell(NamedTuple):
    """Hold one cell of a table.

    Attributes:
        text: Shown first.
        detail: Shown small behind it.
        level: How strongly it is coloured, from 0 to 1.
        bar: Low end, value and high end of an interval, each from 0 to 1.
        best: Whether it is the best of its column.
    """

    text: str
    detail: str = ""
    level: float | None = None
    bar: tuple[float, float, float] | None = None
    best: bool = False


class Table(NamedTuple):
    """Hold one table: each row is its names, which head it, and its cells."""

    title: str
    note: str
    columns: list[str]
    rows: list[tuple[list[str], list[Cell]]]


class Figure(NamedTuple):
    """Hold one figure as a data URI."""

    name: str
    caption: str
    uri: str


class TrackView(NamedTuple):
    """Hold what is shown of a track: its name, artist, a label per condition, and the number of its clip, if it has one."""

    name: str
    artist: str
    labels: dict[str, str]
    clip: int | None


class NeighbourView(NamedTuple):
    """Hold one neighbour; ``similar`` is what the labels say of the pair, None where they do not decide."""

    track: TrackView
    distance: float
    similar: bool | None


class SpaceView(NamedTuple):
    """Hold the neighbours of a query in the subspace of a condition, or in all dimensions (no condition)."""

    title: str
    condition: str | None
    neighbours: list[NeighbourView]


class QueryView(NamedTuple):
    """Hold a query track with its neighbours in every space."""

    track: TrackView
    spaces: list[SpaceView]


@dataclass
class Page:
    """Hold everything the template shows.

    Attributes:
        title: Of the page.
        summary: One line.
        missing: What could not be shown, and why.
        settings: Name and value.
        config: The whole setup as text.
        tables: In order.
        figures: In order.
        queries: Tracks with their neighbours.
        clips: Sounds as data URIs, by number.
    """

    title: str
    summary: str = ""
    missing: list[str] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    config: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    queries: list[QueryView] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)


def render(page: Page) -> str:
    """Make the HTML text of a page."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(page=page)


def data_uri(kind: str, content: bytes) -> str:
    """Put a file into an address.

    >>> data_uri("image/png", b"hi")
    'data:image/png;base64,aGk='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def read_figures(folder: Path) -> list[Figure]:
    """Read the figures of a folder, the known ones first; what is called one and is no file is left out."""
    known = list(CAPTIONS)
    paths = sorted(filter(Path.is_file, folder.glob("*.png")), key=lambda path: (path.stem not in known, path.stem))
    paths.sort(key=lambda path: known.index(path.stem) if path.stem in known else len(known))
    return [
        Figure(
            path.stem, CAPTIONS.get(path.stem, path.stem.replace("_", " ")), data_uri("image/png", path.read_bytes())
        )
        for path in paths
    ]


def number(value: Any) -> float | None:
    """Take a finite number, and nothing else.

    >>> number(1), number(True), number("1"), number(float("nan"))
    (1.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def part(content: Any, *keys: str) -> dict[str, Any]:
    """Take a mapping out of nested ones; an empty one if it is not there.

    >>> part({"a": {"b": {"c": 1}}}, "a", "b"), part({"a": [1]}, "a", "b")
    ({'c': 1}, {})
    """
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return dict(content) if isinstance(content, Mapping) else {}


def show(value: Any) -> str:
    """Show a value of any kind in few characters.

    >>> show(0.001), show(2806464), show(["a", "b"]), show(None)
    ('0.001', '2,806,464', 'a, b', '-')
    """
    if value is None or value == []:
        return NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(show, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def above_chance(value: float) -> float:
    """Colour a triplet accuracy by how far it is above chance.

    >>> above_chance(0.75), above_chance(0.3)
    (0.5, 0.0)
    """
    return min(max((value - CHANCE) / (1 - CHANCE), 0.0), 1.0)


def value_cell(value: Any, level: float | None = None) -> Cell:
    """Show a number with three decimals."""
    found = number(value)
    return Cell(NONE if found is None else f"{found:.3f}", level=None if found is None else level)


def accuracy_cell(entry: Any) -> Cell:
    """Show an accuracy, alone or with its interval and count.

    >>> accuracy_cell({"accuracy": 0.712, "ci95": [0.68, 0.74], "n": 1000}).detail
    '[0.680, 0.740]'
    >>> accuracy_cell(None).text
    '-'
    """
    value = number(entry) if not isinstance(entry, Mapping) else number(entry.get("accuracy"))
    if value is None:
        return Cell(NONE)
    deviation = number(entry.get("deviation")) if isinstance(entry, Mapping) else None
    if deviation is not None:
        return Cell(f"{value:.3f}", f"± {deviation:.3f}")
    interval = entry.get("ci95") if isinstance(entry, Mapping) else None
    ends = [number(end) for end in interval] if isinstance(interval, list | tuple) else []
    if len(ends) != 2 or None in ends:
        return Cell(f"{value:.3f}", level=above_chance(value))
    low, high = (min(max(end, 0.0), 1.0) for end in ends)
    return Cell(f"{value:.3f}", f"[{low:.3f}, {high:.3f}]", bar=(low, min(max(value, 0.0), 1.0), high))


def evaluation_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """Make the tables of an evaluation report: those it has the numbers for."""
    made = (accuracy_table(evaluation), matrix_table(evaluation), recall_table(evaluation), probe_table(evaluation))
    return [table for table in made if table.rows]


def accuracy_table(evaluation: Mapping[str, Any]) -> Table:
    """Show the triplet accuracy per condition, in its subspace and in all dimensions."""
    spaces = {space: part(evaluation, space) for space in SPACES}
    names = [name for name in {**spaces["sub"], **spaces["all"]} if name != "mean"]
    rows = []
    for name in names:
        count = next((entry["n"] for space in spaces.values() if number((entry := part(space, name)).get("n"))), None)
        rows.append(([name], [*(accuracy_cell(space.get(name)) for space in spaces.values()), Cell(show(count))]))
    if names:
        rows.append((["mean"], [*(value_cell(space.get("mean")) for space in spaces.values()), Cell("")]))
    if track := part(evaluation, "track"):
        rows.append((["track"], [Cell(""), accuracy_cell(track), Cell(show(track.get("n")))]))
    skipped = {name: n for name, n in part(evaluation, "skipped").items() if number(n)}
    note = (
        "Share of the test triplets whose anchor is nearer to the positive than to the negative; chance is 0.5 (the tick "
        "of the bars). Small: 95 % interval by bootstrap over the anchor tracks."
    )
    if skipped:
        note += (
            " Left out for missing tracks: " + ", ".join(f"{show(n)} of {name}" for name, n in skipped.items()) + "."
        )
    return Table("Triplet accuracy", note, ["triplets of", *SPACES.values(), "triplets"], rows)


def matrix_table(evaluation: Mapping[str, Any]) -> Table:
    """Show how well each subspace orders the triplets of each condition."""
    matrix = {name: part(evaluation, "matrix", name) for name in part(evaluation, "matrix")}
    subspaces = list({subspace: None for row in matrix.values() for subspace in row})
    rows = []
    for name, row in matrix.items():
        values = [number(row.get(subspace)) for subspace in subspaces]
        rows.append(([name], [value_cell(v, None if v is None else above_chance(v)) for v in values]))
    note = (
        "Rows: triplets of a condition; columns: the subspace they are compared in. In a disentangled embedding the "
        "diagonal is high and the rest near chance (0.5)."
    )
    score = number(evaluation.get("disentanglement"))
    if score is not None:
        note += f" Disentanglement: {score:.3f}."
    return Table("Conditions and subspaces", note, ["triplets of", *(SPACES.get(s, s) for s in subspaces)], rows)


def recall_table(evaluation: Mapping[str, Any]) -> Table:
    """Show the recall among the nearest neighbours, beside chance."""
    recall = part(evaluation, "recall")
    conditions = list({name: None for space in recall for name in part(recall, space)})
    entries = [(name, space, part(recall, space, name)) for name in conditions for space in recall]
    ranks = sorted({int(key) for *_, entry in entries for key in entry if str(key).isdecimal()})
    rows = [
        ([name, SPACES.get(space, space)], [value_cell(v, number(v)) for v in (entry.get(str(k)) for k in ranks)])
        for name, space, entry in entries
        if entry
    ]
    note = (
        "How much of what a test track has, each of its tags or its tempo, is found among the K tracks nearest to it."
    )
    track = accuracy_cell(part(evaluation, "track_recall"))
    if track.text != NONE:
        interval = f" {track.detail}" if track.detail else ""
        note += f" Track recall at 1, the first chunk of a track finding its last: {track.text}{interval}."
    return Table("Recall at K", note, ["condition", "space", *(f"K = {rank}" for rank in ranks)], rows)


def probe_table(evaluation: Mapping[str, Any]) -> Table:
    """Show what linear probes read out of the embedding."""
    rows = []
    for name, entry in part(evaluation, "probe").items():
        for space, title in SPACES.items():
            if found := part(entry, space):
                cells = [value_cell(found.get("roc_auc")), value_cell(found.get("pr_auc"))]
                chance = entry.get("chance_pr", found.get("chance_pr"))
                rows.append(([name, title], [*cells, value_cell(chance), Cell(show(found.get("tags")))]))
    note = "Linear classifiers of the tags on the frozen embedding, averaged over the tags; chance is 0.5 for ROC-AUC."
    return Table("Linear probes", note, ["condition", "space", "ROC-AUC", "PR-AUC", "PR-AUC by chance", "tags"], rows)


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Show the flat metrics of a run, validation beside test."""
    scores = [key.partition("/") for key in metrics if key.startswith(("val/", "test/"))]
    names, splits = (list(dict.fromkeys(key[part] for key in scores)) for part in (2, 0))
    rows = [([name], [value_cell(metrics.get(f"{split}/{name}")) for split in splits]) for name in names]
    note = "Of the best checkpoint; accuracies in the subspace of their condition."
    return Table("Validation and test", note, ["metric", *splits], rows)


def settings_of(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Take the settings that matter out of a configuration."""
    found = []
    for key, label in SETTINGS:
        *parents, last = key.split(".")
        value = part(config, *parents).get(last)
        if value is not None:
            found.append((label, str(value) if last == "seed" else show(value)))
    return found


def run_summary(config: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """Say in one line what the run is and how well it does."""
    backbone, mask = part(config, "backbone").get("name"), part(config, "mask").get("name")
    data = part(config, "data").get("shards")
    what = f"{show(backbone)} backbone, {show(mask)} masks, trained on {show(data)}"
    means = [number(part(evaluation, space).get("mean")) for space in SPACES]
    if means[0] is None:
        return f"{what}: no evaluation yet"
    whole = "" if means[1] is None else f", {means[1]:.3f} in all dimensions"
    return f"{what}: mean triplet accuracy {means[0]:.3f} in the subspaces{whole} (chance 0.5)"


def comparison_tables(content: Mapping[str, Any]) -> list[Table]:
    """Make the tables of a ``table.json``: accuracies, then retrieval and labels, as far as it has them."""
    given = content.get("rows")
    entries = [dict(row) for row in given if isinstance(row, Mapping)] if isinstance(given, list) else []
    columns = content.get("columns")
    columns = [name for name in columns if isinstance(name, str)] if isinstance(columns, list) else []
    made = (comparison_table(entries, columns or accuracy_columns(entries)), labels_table(entries))
    return [table for table in made if table.rows]


def accuracy_columns(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Find the columns that hold accuracies.

    >>> accuracy_columns([{"system": "a", "genre": {"accuracy": 0.5}, "mean": 0.5, "seconds": 3.0}])
    ['genre', 'mean']
    """
    names = {name: None for entry in entries for name in entry if name == "mean" or "accuracy" in part(entry, name)}
    return list(names)


def system_names(entry: Mapping[str, Any]) -> list[str]:
    """Name a row: the system and the space it is compared in."""
    space = entry.get("space")
    return [show(entry.get("title", entry.get("system"))), SPACES.get(str(space), show(space)) if space else ""]


def comparison_table(entries: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """Show the accuracies of systems, the best of each column in bold."""
    costs = [name for name in COSTS if any(number(entry.get(name)) is not None for entry in entries)]
    cells = [[comparison_cell(entry, name) for name in columns] for entry in entries]
    best = [best_of(column) for column in zip(*cells, strict=True)]
    rows = [
        (
            system_names(entry),
            [cell._replace(best=cell.text == top) for cell, top in zip(row, best, strict=True)]
            + [cost_cell(entry.get(name)) for name in costs],
        )
        for entry, row in zip(entries, cells, strict=True)
    ]
    note = (
        "Triplet accuracy on the same test triplets (chance 0.5), behind it the 95 % interval over the anchor tracks or the "
        "deviation over the seeds; the best of a column in bold."
    )
    if any(part(entry, "paper") for entry in entries):
        note += " Paper: J. Lee et al., ICASSP 2020, on other data."
    return Table("Comparison", note, ["system", "space", *columns, *(COSTS[name] for name in costs)], rows)


def comparison_cell(entry: Mapping[str, Any], column: str) -> Cell:
    """Show one accuracy of a system, and the paper's; track is compared in all dimensions alone."""
    if column == "track" and entry.get("space") == "sub":
        return Cell("")
    value = entry.get(column)
    cell = accuracy_cell(value)._replace(bar=None)
    found = number(value.get("accuracy") if isinstance(value, Mapping) else value)
    paper = number(part(entry, "paper").get(column))
    detail = cell.detail if paper is None else f"{cell.detail} paper {paper:.3f}".strip()
    return cell._replace(detail=detail, level=None if found is None else above_chance(found))


def cost_cell(value: Any) -> Cell:
    """Show a count of parameters or seconds.

    >>> cost_cell(2806464).text, cost_cell(12.3).text
    ('2,806,464', '12')
    """
    found = number(value)
    return Cell(NONE if found is None else f"{found:,.0f}")


def best_of(cells: Sequence[Cell]) -> str | None:
    """Give the text of the best accuracy of a column, where there is a choice."""
    texts = [cell.text for cell in cells if cell.level is not None]
    return max(texts, key=float) if len(set(texts)) > 1 else None


def labels_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Show what systems retrieve, and what linear probes read out of them."""
    recalled = list({name: None for entry in entries for name in part(entry, "recall")})
    probed = list({name: None for entry in entries for name in part(entry, "probe")})
    columns = ["disentanglement", *(f"recall at 1: {name}" for name in recalled), "track recall at 1"]
    columns += [f"{score}: {name}" for name in probed for score in PROBE_SCORES.values()]
    rows = []
    for entry in entries:
        values = [entry.get("disentanglement"), *(part(entry, "recall").get(name) for name in recalled)]
        values += [part(entry, "track_recall").get("accuracy")]
        values += [part(entry, "probe", name).get(score) for name in probed for score in PROBE_SCORES]
        rows.append((system_names(entry), [value_cell(value) for value in values]))
    chance = next((part(entry, "chance_recall") for entry in entries if part(entry, "chance_recall")), {})
    note = "Recall of the nearest track, disentanglement, and linear probes of the tags on the frozen embedding."
    if chance:
        note += " Recall by chance: " + ", ".join(f"{value_cell(v).text} {name}" for name, v in chance.items()) + "."
    shown = any(cell.text != NONE for _, cells in rows for cell in cells)
    return Table("Retrieval and labels", note, ["system", "space", *columns], rows if shown else [])
