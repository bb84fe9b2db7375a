"""The HTML page of a run or of a comparison: what was read becomes tables and figures, and these become one file.

Reports come from other versions of this program, and from runs that were stopped: every part is shown if it is there, and a list
names what is missing. The only file that imports jinja2; it escapes every name.
"""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from disentangled_ml.reporting.cells import estimated_of
from disentangled_ml.reporting.page_tables import (
    ReportTable,
    comparison_tables,
    evaluation_tables,
    metrics_table,
    nested,
    run_summary,
    settings_of,
    show,
)

TABLE = "table.json"
TEMPLATES = Path(__file__).resolve().parent / "templates"
CAPTIONS = {
    "embedding_map": "The test tracks in each subspace, laid out in two dimensions and coloured by label",
    "triplet_accuracy": "Triplet accuracy over the epochs",
    "filters": "The filters of the frontend: centre frequencies and bandwidths, before and after training",
    "masks": "The condition masks: which dimensions each condition looks at",
    "table": "Triplet accuracy of the systems",
    "matrices": "Accuracy of each condition's triplets (rows) in each subspace (columns)",
}


class Figure(NamedTuple):
    """Figure as a data URI."""

    name: str
    caption: str
    uri: str


@dataclass
class Page:
    """Everything that the template shows.

    Attributes:
        title: Of the page.
        summary: One line.
        missing: What could not be shown, and why.
        settings: Name and value.
        config: The whole configuration as text.
        shards: Folder of the shards of the run, if its configuration names it.
        tables: In order.
        figures: In order.
        queries: Tracks with their neighbours, see ``neighbours.view_queries``.
        clips: Sounds as data URIs, by number.
    """

    title: str
    summary: str = ""
    missing: list[str] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    config: str = ""
    shards: str | None = None
    tables: list[ReportTable] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)


def render(page: Page) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(page=page)


def data_uri(kind: str, content: bytes) -> str:
    """Return the data URI of a file.

    >>> data_uri("image/png", b"hi")
    'data:image/png;base64,aGk='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def read_figures(folder: Path) -> list[Figure]:
    """Read the PNG files of a folder, the known figures first; folders and broken links are left out."""
    known = list(CAPTIONS)
    paths = [path for path in folder.glob("*.png") if path.is_file()]
    paths.sort(key=lambda path: (known.index(path.stem) if path.stem in known else len(known), path.stem))
    captions = [CAPTIONS.get(path.stem, path.stem.replace("_", " ")) for path in paths]
    return [
        Figure(path.stem, caption, data_uri("image/png", path.read_bytes()))
        for path, caption in zip(paths, captions, strict=True)
    ]


def table_page(folder: Path) -> Page:
    page = Page(f"Comparison {folder.resolve().name}", figures=read_figures(folder))
    content = read_mapping(folder / TABLE, page.missing)
    page.tables = comparison_tables(content)
    if page.tables:
        page.summary = f"{len({names[0] for names, _ in page.tables[0].rows})} systems on the same test triplets"
    elif content:
        page.missing.append(f"the table: {folder / TABLE} has no rows")
    page.settings = [(name, show(value)) for name, value in nested(content, "settings").items()]
    return page


def run_page(run: Path) -> Page:
    """Return the page of a run, finished or not, without nearest neighbours."""
    page = Page(f"Run {run.resolve().name}", figures=read_figures(run / "figures"))
    config = read_config(run / "config.yaml", page)
    evaluation = read_mapping(run / "evaluation.json", page.missing)
    metrics = read_mapping(run / "metrics.json", page.missing)
    page.summary, page.settings = run_summary(config, evaluation), settings_of(config)
    page.shards = nested(config, "data").get("shards")
    page.tables = evaluation_tables(evaluation) + (
        [metrics_table(metrics, estimated_of(evaluation))] if metrics else []
    )
    if not page.figures:
        page.missing.append(f"figures: {run / 'figures'} has none, training draws them at its end")
    return page


def read_mapping(path: Path, missing: list[str]) -> dict[str, Any]:
    """Read a JSON object; where there is none, return an empty one and add the reason to ``missing``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing.append(f"{path.name}: not there, a run writes it when it is finished")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        missing.append(f"{path.name}: cannot be read ({error})")
        return {}
    if not isinstance(content, dict):
        missing.append(f"{path.name}: holds no JSON object")
        return {}
    return content


def read_config(path: Path, page: Page) -> dict[str, Any]:
    """Read the configuration of a run, and put its text onto the page."""
    try:
        page.config = path.read_text(encoding="utf-8")
        config = OmegaConf.to_container(OmegaConf.create(page.config))
    except (OSError, ValueError, RecursionError, AssertionError, YAMLError, OmegaConfBaseException) as error:
        page.missing.append(f"{path.name}: cannot be read ({' '.join(str(error).split()) or type(error).__name__})")
        return {}
    return config if isinstance(config, dict) else {}
