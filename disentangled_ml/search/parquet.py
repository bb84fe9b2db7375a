"""A catalogue as one Parquet file, for databases and data frames (the only file that imports pyarrow, which is optional).

A row per track, in the order of the catalogue: ``track_id``, ``artist``, ``path``, the metadata (``title``, ``album``, ...), per
condition with labels ``label_NAME`` (a list of tags, or the tempo in BPM), ``embedding`` (D float32, unit length), and per condition of
the model ``sqnorm_NAME`` = ||x * m_c||^2. With these an engine that ranks by inner products ranks by the weighted distance, for any
weights: docs/vector_databases.md. The file's key ``disentangled`` holds the conditions, masks and fingerprint of the model, as JSON.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from disentangled_ml.files import as_json, atomic_write
from disentangled_ml.search.catalogue import CatalogueTrack, EmbeddedCatalogue
from disentangled_ml.search.weighted_distance import condition_distances, scales
from disentangled_ml.structures import METADATA, TEMPO

ROWS_PER_GROUP = 16_384  # 16 MB of embeddings of 256 dimensions
ABOUT = b"disentangled"  # key of what the file says of the model


def require_pyarrow() -> ModuleType:
    """Import pyarrow. Raises ValueError, saying how to get it, if it is not there."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError(
            "parquet=FILE needs the package pyarrow: pip install pyarrow, or the extra 'parquet' of this project"
        ) from error
    return pyarrow


def write_parquet(path: Path, catalogue: EmbeddedCatalogue) -> None:
    """Write a catalogue atomically, some thousand rows at a time.

    Raises:
        ValueError: if pyarrow is missing, or a label is of another kind than those before.
        OSError: if the file cannot be written; what was there before stays.
    """
    pyarrow = require_pyarrow()
    schema = make_schema(pyarrow, catalogue)
    tracks = catalogue.every_track()
    with atomic_write(path, "wb") as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for first in range(0, len(catalogue), ROWS_PER_GROUP):
            embedding = np.asarray(catalogue.embedding[first : first + ROWS_PER_GROUP])
            columns = track_columns(list(islice(tracks, len(embedding))), schema.names)
            values = pyarrow.array(embedding.reshape(-1))
            columns["embedding"] = pyarrow.FixedSizeListArray.from_arrays(values, embedding.shape[1])
            norms = squared_norms(embedding, catalogue.model.masks)
            columns |= {f"sqnorm_{name}": norms[:, c] for c, name in enumerate(catalogue.condition_names)}
            try:
                table = pyarrow.table(columns, schema=schema)
            except pyarrow.ArrowException as error:
                rows = f"rows {first} to {first + len(embedding) - 1}"
                raise ValueError(f"{catalogue.folder}, {rows}, cannot be written as Parquet ({error})") from error
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)


def make_schema(pyarrow: ModuleType, catalogue: EmbeddedCatalogue) -> Any:
    """Return the columns of a catalogue and their types; of the labels those that some track has."""
    text, model = pyarrow.string(), catalogue.model
    labelled = list(dict.fromkeys(name for track in catalogue.every_track() for name in track.labels))
    kinds = {name: pyarrow.float64() if name == TEMPO else pyarrow.list_(text) for name in labelled}
    columns = [(name, text) for name in ("track_id", "artist", "path", *METADATA)]
    columns += [(f"label_{name}", kind) for name, kind in kinds.items()]
    columns += [("embedding", pyarrow.list_(pyarrow.float32(), model.masks.shape[1]))]
    columns += [(f"sqnorm_{name}", pyarrow.float32()) for name in model.condition_names]
    about = {"conditions": model.condition_names, "masks": model.masks.tolist(), "model": model.fingerprint}
    return pyarrow.schema(columns, {ABOUT: as_json(about)})


def track_columns(tracks: Sequence[CatalogueTrack], names: Sequence[str]) -> dict[str, Any]:
    """Return what is known about tracks, column by column; None where it is not known.

    >>> track_columns([CatalogueTrack("a", None, None, {"mood": ["calm"]})], ["track_id", "label_mood", "title", "embedding"])
    {'track_id': ['a'], 'label_mood': [['calm']], 'title': [None]}
    """
    rows = list(map(known_of, tracks))
    wanted = [name for name in names if name != "embedding" and not name.startswith("sqnorm_")]
    return {name: [row.get(name) for row in rows] for name in wanted}


def known_of(track: CatalogueTrack) -> dict[str, Any]:
    labels = {f"label_{name}": label for name, label in track.labels.items()}
    return {"track_id": track.track_id, "artist": track.artist, "path": track.path, **(track.metadata or {}), **labels}


def squared_norms(embedding: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return ||x * m_c||^2 of each track and condition: (N, D) and (C, D) to (N, C) float32.

    >>> squared_norms(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0], [0.5, 1.0]])).tolist()
    [[9.0, 18.25]]
    """
    return condition_distances(embedding, np.zeros(embedding.shape[1]), masks).astype(np.float32)


def inner_product_query(query: np.ndarray, weights: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return what to ask an engine for that holds (x, ||x * m_1||^2, ..., ||x * m_C||^2) of each track: (D + C,) float32.

    D^2(x, q) = sum_c w_c ||(x - q) * m_c||^2 = const - 2 (s * q)'x + sum_c w_c ||x * m_c||^2 with s = sum_c w_c m_c^2. So with
    (2 s * q, -w) the largest inner product is the smallest weighted distance, for any weights and any masks.

    Shape:
        query: (D,); weights: (C,); masks: (C, D).

    >>> inner_product_query(np.array([0.5, 2.0]), np.array([1.0, 3.0]), np.eye(2)).tolist()
    [1.0, 12.0, -1.0, -3.0]
    """
    return np.concatenate([2 * scales(weights, masks) * query, -weights]).astype(np.float32)
