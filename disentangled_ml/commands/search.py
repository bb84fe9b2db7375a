"""Find music like a track: ``disentangled search index=DIR like=TRACK_ID weights.genre=1 weights.mood=0.5``.

``index`` is a folder that ``embed`` made. ``like`` is the id of one of its tracks, or a recording (wav, flac, ogg, mp3), which needs
``checkpoint=FILE``, the one that embedded the folder. Conditions without a weight have none; without weights each has one.
``match=best`` or ``dtw`` sorts the ``rerank`` tracks that are nearest by their means again, by their matching stretches (see
matching.py); their recordings are decoded anew for that, so it takes seconds.
``precision=true`` instead of ``like`` measures how many of the k results have the query's labels, against chance.
"""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.audio import musicnn
from disentangled_ml.config import ConfigError
from disentangled_ml.evaluation.matching import MEAN
from disentangled_ml.files import writable, write_json
from disentangled_ml.network.checkpoint import choose_device, fingerprint
from disentangled_ml.reporting.cells import aligned, number_text
from disentangled_ml.search.catalogue import TEMPO, CatalogueTrack, check_source
from disentangled_ml.search.embedder import Embedder, check_fingerprint
from disentangled_ml.search.precision import catalogue_precision
from disentangled_ml.search.rematch import rematch
from disentangled_ml.search.similarity_search import Result, SearchFilters, SimilaritySearch, open_search
from disentangled_ml.search.weighted_distance import check_weights


def main(config: DictConfig) -> None:
    if (config.like is not None) == config.precision:
        raise ConfigError("give like=TRACK_ID or like=FILE, or precision=true")
    out = None if config.out is None else writable(config.out)
    if config.source is not None:
        check_source(Path(config.index), config.source)
    search = open_search(config.index)
    if config.checkpoint is not None:
        checkpoint = Path(config.checkpoint)
        check_fingerprint(search.catalogue, fingerprint(checkpoint), checkpoint)
    if config.precision:
        report = catalogue_precision(search.catalogue, config.k)
        shown = precision_table(report)
    else:
        found = find(config, search)
        report = {"like": config.like, "results": [as_json(result) for result in found]}
        shown = results_table(found, search.catalogue.condition_names)
    if out is not None:
        write_json(out, report)
    sys.stdout.write(shown + "\n")


def find(config: DictConfig, search: SimilaritySearch) -> list[Result]:
    """Find the tracks nearest to the query of a configuration."""
    weights = OmegaConf.to_container(config.weights) or None
    tempo = None if config.tempo is None else tuple(config.tempo)
    row = search.catalogue.find(config.like)
    if config.match != MEAN and config.checkpoint is None:
        raise ConfigError(f"match={config.match} embeds recordings anew: give checkpoint=FILE, that of {config.index}")
    if row is None and not Path(config.like).is_file():
        raise ConfigError(f"like={config.like} is neither a track of {config.index} nor a file")
    if row is None and config.checkpoint is None:
        raise ConfigError(
            f"like={config.like} is a file: give checkpoint=FILE too, the one that embedded {config.index}"
        )
    if row is None or config.match != MEAN:
        embedder = Embedder(config.checkpoint, choose_device(config.accelerator))
        musicnn.require(embedder.network.features)
    k = config.k if config.match == MEAN else max(config.k, config.rerank)
    if row is not None:
        query = search.catalogue.track(row)
        found = search.search_like(row, weights, k, config.same_artist, tempo, config.method)
    else:
        query = CatalogueTrack("", None, config.like, {})
        found = search.search(embedder.embed(config.like), weights, k, SearchFilters(tempo=tempo), config.method)
    if config.match == MEAN:
        return found
    if any(track.path is None for track in (query, *(result.track for result in found))):
        raise ConfigError(
            f"match={config.match} needs the recordings, but {config.index} was embedded from shards: embed it from "
            f"manifest=CSV, or use match={MEAN}"
        )
    checked = check_weights(weights, search.catalogue.condition_names)
    return rematch(embedder, query, found, checked, config.match)[: config.k]


def as_json(result: Result) -> dict[str, Any]:
    return {**result.track._asdict(), "distance": result.distance, "distances": result.distances}


def results_table(found: list[Result], names: list[str]) -> str:
    """Return results as a table: a line per track, with its distance in all and per condition, and its labels."""
    rows = [("", "track", "distance", *names, "artist", "labels")]
    for rank, result in enumerate(found, start=1):
        track, parts = result.track, [f"{result.distances[name]:.3f}" for name in names]
        rows.append(
            (str(rank), track.track_id, f"{result.distance:.3f}", *parts, track.artist or "-", show_labels(track))
        )
    return "\n".join(aligned(rows)) if found else "no track is left by the filters"


def precision_table(report: dict[str, Any]) -> str:
    rows = [("condition", "its weight alone", "equal weights", "chance", "at best", "queries")]
    for name, entry in report["conditions"].items():
        rows.append((name, *(number_text(entry[key]) for key in ("sub", "all", "chance", "best")), str(entry["n"])))
    return "\n".join([f"precision at {report['k']} by label, without the query and its artist", "", *aligned(rows)])


def show_labels(track: CatalogueTrack) -> str:
    """Return the labels of a track as text.

    >>> show_labels(CatalogueTrack("a", None, None, {"genre": ["jazz", "swing"], "tempo": 119.6}))
    'jazz;swing, 120 BPM'
    """
    shown = [f"{label:.0f} BPM" if name == TEMPO else ";".join(label) for name, label in track.labels.items()]
    return ", ".join(shown)
