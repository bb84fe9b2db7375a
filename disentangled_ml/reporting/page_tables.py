"""The tables of the HTML page, made of what was read from a run or a comparison.

Reports come from other versions of this program, and from runs that were stopped: every table is made if there is something in it, and
whatever is not a number is shown as a dash.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from disentangled_ml.reporting.cells import (
    MISSING,
    accuracy_of,
    accuracy_text,
    estimated_note,
    estimated_of,
    finite,
    interval_of,
    marked,
    number_text,
    octaves_folded,
    spread_text,
)

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
COSTS = ("parameters", "seconds")
PROBE_SCORES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}


class Cell(NamedTuple):
    """Cell of a table.

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


class ReportTable(NamedTuple):
    """Table of the page: each row has its names, which head it, and its cells."""

    title: str
    note: str
    columns: list[str]
    rows: list[tuple[list[str], list[Cell]]]


def nested(content: Any, *keys: str) -> dict[str, Any]:
    """Return a mapping out of nested ones; an empty one if it is not there.

    >>> nested({"a": {"b": {"c": 1}}}, "a", "b"), nested({"a": [1]}, "a", "b")
    ({'c': 1}, {})
    """
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return dict(content) if isinstance(content, Mapping) else {}


def show(value: Any) -> str:
    """Format a value of any kind in few characters.

    >>> show(0.001), show(2806464), show(["a", "b"]), show(None)
    ('0.001', '2,806,464', 'a, b', '-')
    """
    if value is None or value == []:
        return MISSING
    if isinstance(value, list | tuple):
        return ", ".join(map(show, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def above_chance(accuracy: float | None) -> float | None:
    """Return how far a triplet accuracy lies above chance, from 0 to 1, which is how strongly it is coloured.

    >>> above_chance(0.75), above_chance(0.3), above_chance(None)
    (0.5, 0.0, None)
    """
    return None if accuracy is None else min(max((accuracy - CHANCE) / (1 - CHANCE), 0.0), 1.0)


def value_cell(value: Any, level: float | None = None) -> Cell:
    """Return the cell of a number, coloured by ``level`` if it is one."""
    return Cell(number_text(value), level=None if finite(value) is None else level)


def accuracy_cell(entry: Any) -> Cell:
    """Return the cell of an accuracy: with its deviation or interval, or else coloured.

    >>> accuracy_cell({"accuracy": 0.712, "ci95": [0.68, 0.74], "n": 1000}).detail, accuracy_cell(None).text
    ('[0.680, 0.740]', '-')
    """
    value, interval = accuracy_of(entry), interval_of(entry)
    if value is None:
        return Cell(MISSING)
    text, detail = number_text(value), spread_text(entry)
    if not detail:
        return Cell(text, level=above_chance(value))
    return Cell(text, detail, bar=interval and (interval[0], min(max(value, 0.0), 1.0), interval[1]))


def evaluation_tables(evaluation: Mapping[str, Any]) -> list[ReportTable]:
    """Return the tables of an evaluation report that it has the numbers for."""
    made = (accuracy_table(evaluation), matrix_table(evaluation), recall_table(evaluation), probe_table(evaluation))
    return [table for table in made if table.rows]


def accuracy_table(evaluation: Mapping[str, Any]) -> ReportTable:
    spaces, estimated = {space: nested(evaluation, space) for space in SPACES}, estimated_of(evaluation)
    names = [name for name in {**spaces["sub"], **spaces["all"]} if name != "mean"]
    rows = []
    for name in names:
        count = next((entry["n"] for space in spaces.values() if finite((entry := nested(space, name)).get("n"))), None)
        cells = [accuracy_cell(space.get(name)) for space in spaces.values()]
        rows.append(([marked(name, estimated)], [*cells, Cell(show(count))]))
        if folded := nested(evaluation, "octaves_folded", name):
            cells = [accuracy_cell(folded.get(space)) for space in SPACES]
            rows.append(([octaves_folded(name)], [*cells, Cell(show(nested(folded, "sub").get("n")))]))
    if names:
        rows.append((["mean"], [*(value_cell(space.get("mean")) for space in spaces.values()), Cell("")]))
    if track := nested(evaluation, "track"):
        rows.append((["track"], [Cell(""), accuracy_cell(track), Cell(show(track.get("n")))]))
    skipped = [f"{show(n)} of {name}" for name, n in nested(evaluation, "skipped").items() if finite(n)]
    note = (
        "Share of the test triplets whose anchor is nearer to the positive than to the negative; chance is 0.5 (the tick "
        "of the bars). Small: 95 % interval by bootstrap over the anchor tracks."
    )
    if skipped:
        note += f" Left out for missing tracks: {', '.join(skipped)}."
    if estimated:
        note += f" {estimated_note(estimated)}."
    return ReportTable("Triplet accuracy", note, ["triplets of", *SPACES.values(), "triplets"], rows)


def matrix_table(evaluation: Mapping[str, Any]) -> ReportTable:
    """Return how well each subspace orders the triplets of each condition."""
    matrix = {name: nested(evaluation, "matrix", name) for name in nested(evaluation, "matrix")}
    subspaces = list({subspace: None for row in matrix.values() for subspace in row})
    rows = []
    for name, row in matrix.items():
        values = [finite(row.get(subspace)) for subspace in subspaces]
        rows.append(([name], [value_cell(value, above_chance(value)) for value in values]))
    note = (
        "Rows: triplets of a condition; columns: the subspace they are compared in. In a disentangled embedding the "
        "diagonal is high and the rest near chance (0.5)."
    )
    score = finite(evaluation.get("disentanglement"))
    if score is not None:
        note += f" Disentanglement: {score:.3f}."
    return ReportTable("Conditions and subspaces", note, ["triplets of", *(SPACES.get(s, s) for s in subspaces)], rows)


def recall_table(evaluation: Mapping[str, Any]) -> ReportTable:
    recall = nested(evaluation, "recall")
    conditions = list({name: None for space in recall for name in nested(recall, space)})
    entries = [(name, space, nested(recall, space, name)) for name in conditions for space in recall]
    ranks = sorted({int(key) for *_, entry in entries for key in entry if str(key).isdecimal()})
    rows = [
        (
            [marked(name, estimated_of(evaluation)), SPACES.get(space, space)],
            [value_cell(v, finite(v)) for v in (entry.get(str(k)) for k in ranks)],
        )
        for name, space, entry in entries
        if entry
    ]
    note = (
        "How much of what a test track has, each of its tags or its tempo, is found among the K tracks nearest to it."
    )
    track = accuracy_text(nested(evaluation, "track_recall"))
    if track != MISSING:
        note += f" Track recall at 1, the first chunk of a track finding its last: {track}."
    return ReportTable("Recall at K", note, ["condition", "space", *(f"K = {rank}" for rank in ranks)], rows)


def probe_table(evaluation: Mapping[str, Any]) -> ReportTable:
    rows = []
    for name, entry in nested(evaluation, "probe").items():
        for space, title in SPACES.items():
            if found := nested(entry, space):
                cells = [value_cell(found.get("roc_auc")), value_cell(found.get("pr_auc"))]
                chance = entry.get("chance_pr", found.get("chance_pr"))
                rows.append(([name, title], [*cells, value_cell(chance), Cell(show(found.get("tags")))]))
    note = "Linear classifiers of the tags on the frozen embedding, averaged over the tags; chance is 0.5 for ROC-AUC."
    columns = ["condition", "space", *PROBE_SCORES.values(), "PR-AUC by chance", "tags"]
    return ReportTable("Linear probes", note, columns, rows)


def metrics_table(metrics: Mapping[str, Any], estimated: Sequence[str] = ()) -> ReportTable:
    """Return the metrics of both splits, those of conditions with estimated labels marked."""
    scores = [key.partition("/") for key in metrics if key.startswith(("val/", "test/"))]
    names, splits = (list(dict.fromkeys(key[part] for key in scores)) for part in (2, 0))
    rows = [
        ([marked(name, estimated)], [value_cell(metrics.get(f"{split}/{name}")) for split in splits]) for name in names
    ]
    note = "Of the best checkpoint; accuracies in the subspace of their condition."
    if estimated:
        note += f" {estimated_note(estimated)}."
    return ReportTable("Validation and test", note, ["metric", *splits], rows)


def settings_of(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for key, label in SETTINGS:
        *parents, last = key.split(".")
        value = nested(config, *parents).get(last)
        if value is not None:
            found.append((label, str(value) if last == "seed" else show(value)))
    return found


def run_summary(config: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """Return one line on what the run is and how well it does."""
    backbone, mask = nested(config, "backbone").get("name"), nested(config, "mask").get("name")
    data = nested(config, "data").get("shards")
    what = f"{show(backbone)} backbone, {show(mask)} masks, trained on {show(data)}"
    means = [finite(nested(evaluation, space).get("mean")) for space in SPACES]
    if means[0] is None:
        return f"{what}: no evaluation yet"
    whole = "" if means[1] is None else f", {means[1]:.3f} in all dimensions"
    return f"{what}: mean triplet accuracy {means[0]:.3f} in the subspaces{whole} (chance 0.5)"


def comparison_tables(content: Mapping[str, Any]) -> list[ReportTable]:
    """Return the tables of a ``table.json``: accuracies, then retrieval and labels, as far as it has them."""
    given = content.get("rows")
    entries = [dict(row) for row in given if isinstance(row, Mapping)] if isinstance(given, list) else []
    columns = content.get("columns")
    columns = [name for name in columns if isinstance(name, str)] if isinstance(columns, list) else []
    estimated = estimated_of(content)
    made = (comparison_table(entries, columns or accuracy_columns(entries), estimated), labels_table(entries))
    return [table for table in made if table.rows]


def accuracy_columns(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns that hold accuracies.

    >>> accuracy_columns([{"system": "a", "genre": {"accuracy": 0.5}, "mean": 0.5, "seconds": 3.0}])
    ['genre', 'mean']
    """
    names = {name: None for entry in entries for name in entry if name == "mean" or "accuracy" in nested(entry, name)}
    return list(names)


def system_names(entry: Mapping[str, Any]) -> list[str]:
    """Return what heads a row: the system and the space it is compared in."""
    space = entry.get("space")
    return [show(entry.get("title", entry.get("system"))), SPACES.get(str(space), show(space)) if space else ""]


def comparison_table(
    entries: Sequence[Mapping[str, Any]], columns: Sequence[str], estimated: Sequence[str] = ()
) -> ReportTable:
    """Return the accuracies of systems, the best of each column in bold; conditions with estimated labels are marked."""
    costs = [name for name in COSTS if any(finite(entry.get(name)) is not None for entry in entries)]
    folded = list({name: None for entry in entries for name in nested(entry, "octaves_folded")})
    cells = [
        [
            *(comparison_cell(entry, name) for name in columns),
            *(comparison_cell(nested(entry, "octaves_folded"), name) for name in folded),
        ]
        for entry in entries
    ]
    best = [best_of(column) for column in zip(*cells, strict=True)]
    rows = [
        (
            system_names(entry),
            [cell._replace(best=cell.text == top) for cell, top in zip(row, best, strict=True)]
            + [Cell(number_text(entry.get(name), ",.0f")) for name in costs],
        )
        for entry, row in zip(entries, cells, strict=True)
    ]
    note = (
        "Triplet accuracy on the same test triplets (chance 0.5), behind it the deviation over several seeds and the 95 % interval "
        "over anchor tracks and seeds; the best of a column in bold."
    )
    if any(nested(entry, "paper") for entry in entries):
        note += " Paper: J. Lee et al., ICASSP 2020, on other data."
    if estimated:
        note += f" {estimated_note(estimated)}."
    shown = [*(marked(name, estimated) for name in columns), *map(octaves_folded, folded)]
    return ReportTable("Comparison", note, ["system", "space", *shown, *costs], rows)


def comparison_cell(entry: Mapping[str, Any], column: str) -> Cell:
    """Return the cell of an accuracy, with the paper's; track triplets are compared in all dimensions alone."""
    if column == "track" and entry.get("space") == "sub":
        return Cell("")
    accuracy, paper = accuracy_of(entry.get(column)), finite(nested(entry, "paper").get(column))
    details = [accuracy_cell(entry.get(column)).detail, "" if paper is None else f"paper {paper:.3f}"]
    return Cell(number_text(accuracy), " ".join(filter(None, details)), above_chance(accuracy))


def best_of(cells: Sequence[Cell]) -> str | None:
    """Return the text of the best accuracy of a column; None where all are equal."""
    texts = [cell.text for cell in cells if cell.level is not None]
    return max(texts, key=float) if len(set(texts)) > 1 else None


def labels_table(entries: Sequence[Mapping[str, Any]]) -> ReportTable:
    """Return what systems retrieve, and what linear probes predict from them."""
    recalled = list({name: None for entry in entries for name in nested(entry, "recall")})
    probed = list({name: None for entry in entries for name in nested(entry, "probe")})
    columns = ["disentanglement", *(f"recall at 1: {name}" for name in recalled), "track recall at 1"]
    columns += [f"{score}: {name}" for name in probed for score in PROBE_SCORES.values()]
    rows = []
    for entry in entries:
        values = [entry.get("disentanglement"), *(nested(entry, "recall").get(name) for name in recalled)]
        values += [nested(entry, "track_recall").get("accuracy")]
        values += [nested(entry, "probe", name).get(score) for name in probed for score in PROBE_SCORES]
        rows.append((system_names(entry), [value_cell(value) for value in values]))
    chance = next((nested(entry, "chance_recall") for entry in entries if nested(entry, "chance_recall")), {})
    note = "Recall of the nearest track, disentanglement, and linear probes of the tags on the frozen embedding."
    if chance:
        note += " Recall by chance: " + ", ".join(f"{value_cell(v).text} {name}" for name, v in chance.items()) + "."
    shown = any(cell.text != MISSING for _, cells in rows for cell in cells)
    return ReportTable("Retrieval and labels", note, ["system", "space", *columns], rows if shown else [])
