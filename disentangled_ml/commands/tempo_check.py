"""Check the tempo estimation on recordings of known tempo: ``disentangled tempo_check manifest=FILE.csv``.

It is the estimation that ``prepare`` uses where a manifest has no tempo, here of the recordings as they are.
"""

import csv
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig

from datamodules.audio.decoding import decode
from datamodules.audio.tempo import NOTHING, estimate_tempi, excerpt_of, grouped
from datamodules.corpora.manifest import parse_tempo, read_manifest
from datamodules.corpora.records import collect
from datamodules.shards.workers import Workers, do_or_reject
from disentangled_ml.config import ConfigError
from disentangled_ml.evaluation.tempo_metrics import FACTORS, TOLERANCE, tempo_report
from disentangled_ml.files import atomic_write, writable
from disentangled_ml.progress import show_progress
from disentangled_ml.reporting.cells import accuracy_text
from disentangled_ml.structures import Rejected, TrackRecord

COLUMNS = ("track_id", "true", "estimated", "ratio")
ONE_SPLIT = (1.0, 0.0, 0.0)  # a split is of no interest here
logger = logging.getLogger("tempo_check")


def excerpt(record: TrackRecord) -> np.ndarray:
    """Return the part of a recording whose tempo is estimated."""
    return excerpt_of(*decode(Path(record.path), *record.section))


def estimate(records: Sequence[TrackRecord], estimator: str) -> list[float | Rejected | None]:
    """Estimate the tempi of a group of recordings."""
    found = [do_or_reject(record, excerpt) for record in records]
    tempi = estimate_tempi([NOTHING if isinstance(each, Rejected) else each for each in found], estimator)
    return [
        each if isinstance(each, Rejected) else tempo and tempo.bpm for each, tempo in zip(found, tempi, strict=True)
    ]


class KnownTempi(NamedTuple):
    """Recordings that have a true tempo, their tempi, and the rows that cannot be used."""

    records: list[TrackRecord]
    tempi: list[float]
    rejected: list[Rejected]


def known_tempi(manifest: Path, column: str) -> KnownTempi:
    """Read the recordings of a manifest that have a true tempo. Raises ConfigError if there is none."""
    corpus = read_manifest(manifest, ONE_SPLIT, [column])
    # It is tempo, where the column is called BPM; a column that holds nothing is no condition.
    name = next(iter(corpus.conditions), column)
    records, rejected = collect(corpus)
    known = KnownTempi([], [], rejected)
    for record in records:
        if name not in record.labels:
            continue
        # A list of tags where the column is not called tempo.
        label = record.labels[name]
        try:
            known.tempi.append(label if isinstance(label, float) else parse_tempo(";".join(label)))
            known.records.append(record)
        except ValueError as error:
            known.rejected.append(Rejected(record.track_id, record.path, str(error)))
    if not known.records:
        reason = f"; the first row: {known.rejected[0].reason}" if known.rejected else ""
        raise ConfigError(f"{manifest} has no usable tempo in the column {column}: give column=NAME{reason}")
    return known


def estimate_all(records: Sequence[TrackRecord], estimator: str, workers: int) -> list[float | Rejected | None]:
    groups = list(grouped(records))
    with Workers(min(workers, len(groups)), partial(estimate, estimator=estimator)) as pool:
        return list(show_progress(pool.map(groups), total=len(records), desc="estimate", unit="track"))


def write_tempi(path: Path, rows: Sequence[tuple[str, float, float | None]]) -> None:
    """Write track id, true and estimated tempo, and their ratio (empty without an estimate)."""
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for track_id, true, estimated in rows:
            writer.writerow([track_id, true, estimated, None if estimated is None else f"{estimated / true:.4f}"])


def tempo_lines(report: dict[str, Any]) -> str:
    lines = [f"tempo of {report['n']} recordings, within {100 * TOLERANCE:g} %, with 95 % intervals", ""]
    meanings = {"accuracy_1": "of the true tempo", "accuracy_2": "or of a third, half, twice or three times it"}
    lines += [f"{name}  {accuracy_text(report[name])}  {meanings[name]}" for name in FACTORS]
    return "\n".join([*lines, f"without an estimate, counted wrong: {report['without_estimate']}"])


def main(config: DictConfig) -> None:
    out = None if config.out is None else writable(config.out, "csv")
    if out is not None and out.resolve() == Path(config.manifest).resolve():
        raise ConfigError(f"out={out} is the manifest, which would be lost: give another out=FILE.csv")
    known = known_tempi(Path(config.manifest), config.column)
    records = known.records[: config.limit]
    results = estimate_all(records, config.estimator, config.workers or os.cpu_count() or 1)
    rejected = [*known.rejected, *(result for result in results if isinstance(result, Rejected))]
    for track in rejected:
        logger.warning("skipped %s (%s): %s", track.track_id, track.path, track.reason)
    rows = [
        (record.track_id, true, result)
        for record, true, result in zip(records, known.tempi, results, strict=False)  # tempi are not cut to the limit
        if not isinstance(result, Rejected)
    ]
    if not rows:
        raise ValueError(f"none of the {len(records)} recordings of {config.manifest} is usable, see the reasons above")
    if out is not None:
        write_tempi(out, rows)
    sys.stdout.write(tempo_lines(tempo_report(*zip(*rows, strict=True))) + "\n")
