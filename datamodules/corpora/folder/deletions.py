"""Rows that have gone out of a manifest while their files are there: a person has deleted them, or an editor has lost them.

Such files stay out. Their rows, with all that a person had written into them, are kept in ``deleted.csv`` beside the state, so that
they can be put back. They come from ``last.csv``, the manifest as the last scan has left it.
"""

from collections.abc import Collection
from pathlib import Path

from datamodules.corpora.folder.manifest_writer import (
    TAG_COLUMNS,
    ManifestFile,
    manifest_text,
    new_manifest,
    read_manifest_file,
    write_manifest,
)
from datamodules.corpora.folder.merging import row_id
from datamodules.corpora.manifest_table import ManifestError

LAST, DELETED = "last.csv", "deleted.csv"


def keep_deleted(beside: Path, track_ids: Collection[str]) -> set[str]:
    """Keep the rows of tracks that a person has deleted, as they were; return the tracks whose rows are kept.

    Without such tracks the list stays as it is.
    """
    if not track_ids:
        return set()
    last, listed = (read_kept(beside / name) for name in (LAST, DELETED))
    newest = [row for row in last.rows if row_id(row) in track_ids]
    names = set(map(row_id, newest))
    rows = [row for row in listed.rows if row_id(row) in track_ids and row_id(row) not in names] + newest
    others = {
        column: name for column, name in zip(listed.columns, listed.header, strict=True) if column not in last.columns
    }
    header = dict(zip(last.columns, last.header, strict=True)) | others
    file = ManifestFile([*header], [*header.values()], [], last.separator, last.mark)
    write_manifest(beside / DELETED, manifest_text(file, rows))
    return set(map(row_id, rows))


def read_kept(path: Path) -> ManifestFile:
    """Read a manifest of ours; an empty one if there is none, or if it is damaged."""
    try:
        return read_manifest_file(path, TAG_COLUMNS)
    except ManifestError:
        return new_manifest()
