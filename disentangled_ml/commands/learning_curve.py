"""Accuracy against the number of training tracks: ``disentangled learning_curve shards=DIR key=value ...``.

Each number of tracks has a table of systems of its own (see ``disentangled table``) in OUT/NUMBER, on the same test triplets; smaller
numbers are parts of larger ones, and all tracks are the shards themselves. OUT then holds learning_curve.json and
learning_curve.png. Repeat the command to continue; other shards need another OUT.
"""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.shards.index import ShardIndex
from datamodules.shards.subset import write_subset
from disentangled_ml.commands import table
from disentangled_ml.commands.schemas import TableConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.files import read_json, write_json
from disentangled_ml.reporting.cells import accuracy_text, aligned
from disentangled_ml.reporting.learning_curve import draw_curve

# Keys that every table takes over.
SHARED = ("systems", "base", "train", "seeds", "triplets_per_condition", "jobs")
logger = logging.getLogger("learning_curve")


def main(config: DictConfig) -> None:
    index = ShardIndex.read(config.shards)
    out = Path(config.out or Path("tables") / f"{Path(config.shards).resolve().name}-curve")
    sizes = [*config.sizes, index.count("train")]
    if sizes != sorted(set(sizes)) or sizes[0] < 2:
        raise ConfigError(f"sizes={list(config.sizes)} must rise from 2 on, below the {sizes[-1]} training tracks")
    claim_folder(out, index)
    curve = [{"tracks": size, "rows": table_of(config, index, size, out)} for size in sizes]
    write_json(out / "learning_curve.json", curve)
    draw_curve(curve, out / "learning_curve.png")
    sys.stdout.write("\n".join([*curve_lines(curve), "", str(out), ""]))


def claim_folder(out: Path, index: ShardIndex) -> None:
    """Make the folder of a curve, or check that it was begun with the same shards: subsets of others would be taken for theirs.

    Raises: ConfigError: if it was not, or cannot be made.
    """
    if not (out / "settings.json").is_file() and any(out.glob("*/shards/index.json")):
        raise ConfigError(f"out={out} does not say of which shards its subsets are: delete it, or give another out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={out} cannot be made ({error.strerror}): give another folder") from error
    table.keep_settings(out, {"shards": index.fingerprint()})


def table_of(config: DictConfig, index: ShardIndex, size: int, out: Path) -> list[dict[str, Any]]:
    """Make the table of a number of training tracks, and return its rows: of each system in its own space."""
    folder = out / str(size)
    shards = folder / "shards" if size < index.count("train") else index.root
    if size < index.count("train") and not (folder / "shards/index.json").is_file():
        shutil.rmtree(folder / "shards", ignore_errors=True)
        write_subset(index, size, folder / "shards")
    logger.info("%d training tracks", size)
    settings = {key: OmegaConf.to_container(config)[key] for key in SHARED}
    made = load_config(TableConfig, [f"shards={shards}", f"out={folder}/table"])
    table.main(OmegaConf.merge(made, settings))
    rows = read_json(folder / "table/table.json")["rows"]
    with_subspaces = {row["system"] for row in rows if row["space"] == "sub"}
    return [row for row in rows if row["space"] == "sub" or row["system"] not in with_subspaces]


def curve_lines(curve: list[dict[str, Any]]) -> list[str]:
    names = [*curve[0]["rows"][0]["matrix"], "mean"]
    lines = [("tracks", "system", *names)]
    for point in curve:
        lines += [
            (str(point["tracks"]), row["title"], *(accuracy_text(row[name], 2) for name in names))
            for row in point["rows"]
        ]
    return aligned(lines)
