"""Assemble a catalogue from finished batches: a new state beside the old one, which it replaces at once (see catalogue.py)."""

import csv
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datamodules.audio.fingerprint import SIZE
from datamodules.shards.resumable import Batch
from disentangled_ml.files import UNFINISHED, as_json, atomic_write, read_object, remove_unfinished, write_json
from disentangled_ml.progress import show_progress
from disentangled_ml.search.build import EmbeddedStore
from disentangled_ml.search.catalogue import (
    AUDIO_FINGERPRINTS,
    BESIDE,
    COLUMNS,
    COLUMNS_FILE,
    EMBEDDING,
    FILES,
    FORMAT_VERSION,
    HEADER,
    INDEX,
    STATE,
    TRACKS,
    CatalogueError,
    column_values,
    describe_model,
    read_catalogue,
)
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.similarity_search import MOST_EXACT
from disentangled_ml.structures import Rejected


def assemble(
    folder: Path,
    embedder: Embedder,
    store: EmbeddedStore,
    batches: Sequence[Batch],
    has_index: bool | None,
    estimated: Iterable[str] = (),
) -> None:
    """Make a new state of a catalogue of finished batches, list what was rejected, and put the state in the place of the old one.

    Raises CatalogueError if no track is usable; then the old one stays.

    Args:
        folder: Of the catalogue.
        embedder: That made the batches.
        store: Of the batches.
        batches: In order.
        has_index: Whether to build the index for approximate search; None: for many tracks.
        estimated: Conditions of which labels are estimated.
    """
    n_tracks = count_usable(folder, store, batches)
    has_index = n_tracks > MOST_EXACT if has_index is None else has_index
    files = folder / f"state{UNFINISHED}"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    try:
        digest = write_arrays(files, (n_tracks, embedder.model.masks.shape[1]), store, batches)
        if has_index:
            write_index(files, embedder.model.masks)
        state = f"{STATE}{digest}{'-index' if has_index else ''}"
        put_in_place(files, folder / state)
    finally:
        shutil.rmtree(files, ignore_errors=True)
    header = {"format_version": FORMAT_VERSION, "tracks": n_tracks, "state": state, "source": store.job["source"]}
    header["checkpoint"] = checkpoint_path(embedder.checkpoint, folder)
    header["estimated"] = [name for name in embedder.condition_names if name in set(estimated)]
    previous = str(read_object(folder / HEADER).get("state", BESIDE))
    write_json(folder / HEADER, {**header, **describe_model(embedder.model)}, indent=None)
    remove_old(folder, {state, previous})


def checkpoint_path(checkpoint: Path, folder: Path) -> str:
    """Return the path of a checkpoint as a catalogue keeps it: within its folder from there, so that both can be moved together.

    >>> checkpoint_path(Path("/index/tags.ckpt"), Path("/index")), checkpoint_path(Path("/runs/x.ckpt"), Path("/index"))
    ('tags.ckpt', '/runs/x.ckpt')
    """
    checkpoint, folder = Path(os.path.abspath(checkpoint)), Path(os.path.abspath(folder))
    return str(checkpoint.relative_to(folder) if checkpoint.is_relative_to(folder) else checkpoint)


def put_in_place(files: Path, state: Path) -> None:
    """Move the files of a state into its folder; what is there already has the same content, unless it was damaged since."""
    if state.is_dir():
        for file in files.iterdir():
            file.replace(state / file.name)
    else:
        files.rename(state)


def remove_old(folder: Path, kept: set[str]) -> None:
    """Remove the states that nobody reads any more, and what killed processes left.

    Where ``kept`` is one state, the catalogue has not changed: whoever still reads the one before it goes on.
    """
    if len(kept) > 1:
        for path in folder.glob(f"{STATE}*"):
            if path.name not in kept:
                shutil.rmtree(path)
        if BESIDE not in kept:
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
    for part in (folder, folder / EmbeddedStore.FOLDER):
        remove_unfinished(part)


def count_usable(folder: Path, store: EmbeddedStore, batches: Sequence[Batch]) -> int:
    """List what was rejected; return the number of usable tracks. Raises CatalogueError if there are none."""
    n_tracks = 0
    with atomic_write(folder / "rejected.csv") as file:
        rejected = csv.writer(file)
        rejected.writerow(Rejected._fields)
        for batch in batches:
            embedded = store.read_finished(batch)
            n_tracks += len(embedded.tracks)
            rejected.writerows(embedded.rejected)
    if not n_tracks:
        raise CatalogueError(f"no track is usable, see the reasons in {folder / 'rejected.csv'}")
    return n_tracks


def write_arrays(folder: Path, shape: tuple[int, int], store: EmbeddedStore, batches: Sequence[Batch]) -> str:
    """Write embeddings (N, D), fingerprints, lines and columns of all tracks, a batch at a time; return the digest of them."""
    content = hashlib.blake2b(digest_size=8)
    with (
        open(folder / EMBEDDING, "wb") as embeddings,
        open(folder / AUDIO_FINGERPRINTS, "wb") as fingerprints,
        open(folder / TRACKS, "wb") as lines,
        open(folder / COLUMNS_FILE, "wb") as columns,
    ):
        write_header(embeddings, np.dtype("<f4"), shape)
        write_header(fingerprints, np.dtype("|i1"), (shape[0], SIZE))
        write_header(columns, COLUMNS, shape[:1])
        for batch in show_progress(batches, unit="batch", desc="assemble"):
            embedded = store.read_finished(batch)
            rows = (embedded.embedding.astype("<f4").tobytes(), embedded.audio_fingerprint.tobytes())
            for file, part in zip((embeddings, fingerprints), rows, strict=True):
                file.write(part)
                content.update(part)
            values = []
            for track in embedded.tracks:
                line = as_json(track.as_plain()).encode() + b"\n"
                values.append(column_values(track, lines.tell()))
                lines.write(line)
                content.update(line)
            columns.write(np.array(values, COLUMNS).tobytes())
    return content.hexdigest()


def write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Write what a ``.npy`` file begins with, whose rows follow."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def write_index(folder: Path, masks: np.ndarray) -> None:
    """Build and write the index of a state. Raises ValueError if it has too few tracks for one."""
    from disentangled_ml.search.approximate import build_index  # faiss, where it is needed

    index = build_index(np.load(folder / EMBEDDING, mmap_mode="r", allow_pickle=False), masks)
    (folder / INDEX).write_bytes(index.as_bytes())


def write_npz(path: Path, out: Path) -> None:
    """Write ids, embeddings, conditions and the model's fingerprint of a catalogue into one file for other programs; no pickles.

    Shape:
        in the file: track_id (N,) text, embedding (N, D) float32, condition (C,) text, mask (C, D), fingerprint () text.
    """
    catalogue = read_catalogue(out)
    content = {
        "track_id": np.array([track.track_id for track in catalogue.tracks(range(len(catalogue)))]),
        "embedding": catalogue.embedding,
        "condition": np.array(catalogue.condition_names),
        "mask": catalogue.model.masks,
        "fingerprint": np.array(catalogue.model.fingerprint),
    }
    with atomic_write(path, "wb") as file:
        np.savez(file, **content)
