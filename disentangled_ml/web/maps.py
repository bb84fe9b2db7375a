"""The map of a catalogue: its tracks in two dimensions, drawn once and saved beside it."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from disentangled_ml.files import read_json, write_json
from disentangled_ml.search.catalogue import EmbeddedCatalogue

MAP_TRACKS, SEED = 2_000, 0
# Subfolder of a catalogue for its maps.
MAPS = "maps"
logger = logging.getLogger("serve")


def make_map(
    catalogue: EmbeddedCatalogue, space: str | None, plane: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """Draw the map of a condition's subspace, or of all dimensions (None), or read it where it was saved; see ``CatalogueView.map``."""
    rows = some_rows(len(catalogue), MAP_TRACKS)
    points = seen_in(catalogue, space, catalogue.embedding[rows])
    path = catalogue.folder / MAPS / f"{hashlib.blake2b(points.tobytes(), digest_size=8).hexdigest()}.json"
    places = kept_places(path, len(rows))
    if places is None:
        places = fit_square(plane(points)).round(4)
        keep_places(path, places)
    tracks = catalogue.tracks(rows.tolist())
    return {
        "ids": [track.track_id for track in tracks],
        "names": [track.name for track in tracks],
        "titles": [(track.metadata or {}).get("title") for track in tracks],
        "artists": [track.artist for track in tracks],
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "labels": {name: [track.labels.get(name) for track in tracks] for name in catalogue.condition_names},
        "of": len(catalogue),
    }


def seen_in(catalogue: EmbeddedCatalogue, space: str | None, embeddings: np.ndarray) -> np.ndarray:
    """Return embeddings (R, D) as the map of a condition's subspace, or of all dimensions (None), sees them."""
    mask = 1.0 if space is None else catalogue.model.masks[catalogue.condition_names.index(space)]
    return np.asarray(embeddings * mask, np.float32)


def nearest_drawn(catalogue: EmbeddedCatalogue, space: str | None, embeddings: np.ndarray) -> np.ndarray:
    """Return which track of a map is nearest to each embedding (R, D), as its place in the map's lists: (R,)."""
    drawn = seen_in(catalogue, space, catalogue.embedding[some_rows(len(catalogue), MAP_TRACKS)])
    points = seen_in(catalogue, space, embeddings)
    return ((drawn**2).sum(1) - 2 * points @ drawn.T).argmin(1)


def some_rows(n: int, most: int) -> np.ndarray:
    """Return some rows of n, drawn at random, always the same, in order.

    >>> some_rows(3, 5).tolist(), len(some_rows(10, 5))
    ([0, 1, 2], 5)
    """
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(SEED).choice(n, most, replace=False))


def fit_square(places: np.ndarray) -> np.ndarray:
    """Scale points (N, 2) to the square from 0 to 1.

    >>> fit_square(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[0.0, 0.5], [1.0, 0.5]]
    """
    low, high = places.min(axis=0), places.max(axis=0)
    return np.where(high > low, (places - low) / np.where(high > low, high - low, 1.0), 0.5)


def kept_places(path: Path, n: int) -> np.ndarray | None:
    """Read the n points of a saved map; None if there is none, or it is damaged."""
    try:
        places = np.array(read_json(path)["places"], np.float64)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return places if places.shape == (n, 2) and np.isfinite(places).all() else None


def keep_places(path: Path, places: np.ndarray) -> None:
    """Save the points of a map beside the catalogue, where that can be written to."""
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"places": places.tolist()})
    except OSError as error:
        logger.warning("the map cannot be kept beside the catalogue and is drawn at each start (%s)", error)
