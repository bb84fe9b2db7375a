"""A catalogue as a Parquet file, and the recipe that ranks it by any weights in an engine of inner products."""

from __future__ import annotations

import builtins
import json

import faiss
import numpy as np
import pytest
from pyarrow import parquet as pq

from disentangled_ml.commands import embed
from disentangled_ml.commands.schemas import EmbedConfig
from disentangled_ml.config import load_config
from disentangled_ml.search import parquet
from disentangled_ml.search.catalogue import CatalogueTrack, read_catalogue
from disentangled_ml.search.parquet import ABOUT, inner_product_query, write_parquet
from disentangled_ml.search.similarity_search import SimilaritySearch
from disentangled_ml.search.weighted_distance import check_weights
from disentangled_ml.structures import METADATA
from tests.disentangled_ml.catalogues import (
    NAMES,
    save_checkpoint,
    track_of,
    unit_rows,
    write_catalogue,
    write_recordings,
)

N = 300
WEIGHTS = [
    None,
    {"genre": 1.0},
    {"genre": 1.0, "mood": 0.5, "tempo": 0.2},
    {"mood": 1e-6, "tempo": 1e-3},
    {"tempo": 1e6},
]


def overlapping_masks(dim: int) -> np.ndarray:
    """Draw masks as learned ones are: not 0 or 1, and shared."""
    return np.random.default_rng(5).gamma(0.5, 0.7, (len(NAMES), dim)).astype(np.float32)


@pytest.mark.parametrize("masks", ["fixed", "learned"])
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_inner_products_rank_like_the_weighted_distance(tmp_path, masks, weights):
    embedding = unit_rows(N)
    masks = None if masks == "fixed" else overlapping_masks(embedding.shape[1])
    catalogue = write_catalogue(tmp_path / "index", embedding, masks)
    write_parquet(tmp_path / "x.parquet", catalogue)
    table = pq.read_table(tmp_path / "x.parquet")
    stored = [np.stack(table["embedding"].to_numpy()), *(table[f"sqnorm_{name}"].to_numpy()[:, None] for name in NAMES)]
    about = json.loads(table.schema.metadata[ABOUT])
    engine = faiss.IndexFlatIP(embedding.shape[1] + len(NAMES))
    engine.add(np.hstack(stored))
    search = SimilaritySearch(catalogue)
    for row in range(5):
        weight = check_weights(weights, about["conditions"])
        query = inner_product_query(embedding[row], weight, np.array(about["masks"]))
        _, found = engine.search(query[None], N)
        expected = search.search(embedding[row], weights, k=N, method="exact")
        assert found[0].tolist() == [result.row for result in expected]


def test_every_row_with_what_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 7)
    tracks = [track_of(number) for number in range(19)]
    tracks[3] = CatalogueTrack("Zoë", None, "/m/a.flac", {"scale": ["minor"]}, None, {"title": "Blue", "date": "1999"})
    catalogue = write_catalogue(tmp_path / "index", unit_rows(19), tracks=tracks)
    write_parquet(tmp_path / "x.parquet", catalogue)
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3
    table = pq.read_table(tmp_path / "x.parquet")
    assert (
        str(table.schema.field("embedding").type) == f"fixed_size_list<element: float>[{catalogue.embedding.shape[1]}]"
    )
    rows = table.to_pylist()
    assert [row["track_id"] for row in rows] == [track.track_id for track in tracks]
    for row, track, vector in zip(rows, tracks, catalogue.embedding, strict=True):
        assert (row["artist"], row["path"]) == (track.artist, track.path)
        assert {name: row[name] for name in METADATA if row[name] is not None} == (track.metadata or {})
        labels = {name: row[f"label_{name}"] for name in ("genre", "mood", "tempo", "scale")}
        assert {name: label for name, label in labels.items() if label is not None} == track.labels
        assert row["embedding"] == vector.tolist()
        assert sum(row[f"sqnorm_{name}"] for name in NAMES) == pytest.approx(1, abs=1e-5)


def test_a_label_of_another_kind_is_named_and_leaves_the_old_file(tmp_path):
    tracks = [track_of(1), CatalogueTrack("b", None, None, {"tempo": ["fast"]})]
    catalogue = write_catalogue(tmp_path / "index", unit_rows(2), tracks=tracks)
    (tmp_path / "x.parquet").write_text("before")
    with pytest.raises(ValueError, match="index, rows 0 to 1, cannot be written as Parquet"):
        write_parquet(tmp_path / "x.parquet", catalogue)
    assert [path.name for path in tmp_path.glob("x*")] == ["x.parquet"]
    assert (tmp_path / "x.parquet").read_text() == "before"


def test_the_command_writes_it_and_says_what_is_missing(tmp_path, monkeypatch):
    checkpoint, manifest = save_checkpoint(tmp_path / "x.ckpt"), write_recordings(tmp_path / "recordings", 3)
    arguments = [f"checkpoint={checkpoint}", f"manifest={manifest}", f"out={tmp_path}/index", "workers=1"]
    arguments += [f"parquet={tmp_path}/new/x.parquet"]
    known = builtins.__import__

    def without_pyarrow(name, *others, **more):
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return known(name, *others, **more)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without_pyarrow)
        with pytest.raises(ValueError, match=r"parquet=FILE needs the package pyarrow: pip install pyarrow"):
            embed.main(load_config(EmbedConfig, arguments))
    assert not (tmp_path / "index").exists()
    embed.main(load_config(EmbedConfig, arguments))
    table, catalogue = pq.read_table(tmp_path / "new" / "x.parquet"), read_catalogue(tmp_path / "index")
    assert table["track_id"].to_pylist() == ["r0", "r1", "r2"]
    assert json.loads(table.schema.metadata[ABOUT])["model"] == catalogue.model.fingerprint
