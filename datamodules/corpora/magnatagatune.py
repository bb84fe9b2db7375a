"""MagnaTagATune (E. Law et al., "Evaluation of Algorithms Using Games: The Case of Music Tagging", ISMIR 2009).

``annotations_final.csv`` is tab-separated in spite of its name: ``clip_id``, a column of 0 and 1 for each of 188 tags, and
``mp3_path``, whose folder is the customary split: 0 to b train, c validation, d to f test. ``clip_info_final.csv``, if it lies
beside it, has the artists. A clip is 29 s of a song; songs have several. Synonyms are merged by the configuration; a
column may serve several names.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from datamodules.corpora.tags import check_tags, sort_tags
from datamodules.corpora.text_files import CorpusError, opened_table
from disentangled_ml.structures import Corpus, Rejected, TrackRecord, quoted

ANNOTATIONS, ARTISTS = "annotations_final.csv", "clip_info_final.csv"
KEYS = ("clip_id", "mp3_path")
SPLIT_OF = {**dict.fromkeys("0123456789ab", "train"), "c": "val", **dict.fromkeys("def", "test")}  # by folder
logger = logging.getLogger(__name__)


def read_magnatagatune(
    metadata: str, audio: str, tags: Mapping[str, Sequence[str]], synonyms: Mapping[str, Sequence[str]]
) -> Corpus:
    """Read the annotations.

    Args:
        metadata: Folder of ``annotations_final.csv``, and perhaps of ``clip_info_final.csv``.
        audio: Folder of the folders 0 to f.
        tags: Of each condition.
        synonyms: Columns that count as a tag, besides the one of its name.

    Raises: CorpusError: naming the file, column or tag that is wrong.
    """
    folder = Path(metadata)
    if not (folder / ANNOTATIONS).is_file():
        raise CorpusError(f"{folder} has no {ANNOTATIONS}: give the folder of it as corpus.metadata")
    with opened_table(folder / ANNOTATIONS, KEYS) as table:
        columns = set(table.fieldnames) - {*KEYS, ""}
    where = str(folder / ANNOTATIONS)
    check_tags({"synonyms": [column for names in synonyms.values() for column in names]}, columns, where)
    check_tags(tags, columns | {tag for tag, names in synonyms.items() if names}, where)
    if not (folder / ARTISTS).is_file():
        logger.warning("%s has no %s, so the artists are unknown", folder, ARTISTS)
    wanted = {tag for names in tags.values() for tag in names}
    columns_of = {tag: [name for name in (tag, *synonyms.get(tag, ())) if name in columns] for tag in wanted}
    return Corpus(list(tags), partial(read_rows, folder, Path(audio), tags, columns_of))


def read_artists(path: Path) -> dict[str, str]:
    """Read the artist of each clip; none if there is no such file."""
    if not path.is_file():
        return {}
    with opened_table(path, ("clip_id", "artist")) as table:
        return {row["clip_id"]: sys.intern(row["artist"].strip()) for row in table if (row["artist"] or "").strip()}


def read_rows(
    folder: Path, audio: Path, conditions: Mapping[str, Sequence[str]], columns_of: Mapping[str, Sequence[str]]
) -> Iterator[TrackRecord | Rejected]:
    artists = read_artists(folder / ARTISTS)
    columns = sorted({column for names in columns_of.values() for column in names})
    with opened_table(folder / ANNOTATIONS, KEYS) as table:
        for row in table:
            clip_id, path = ((row[key] or "").strip() for key in KEYS)
            try:
                split, given = parse_row(row, clip_id, path, columns)
            except ValueError as error:
                yield Rejected(clip_id, path, str(error))
                continue
            tags = {tag for tag, names in columns_of.items() if not given.isdisjoint(names)}
            yield TrackRecord(clip_id, str(audio / path), artists.get(clip_id), split, sort_tags(tags, conditions))


def parse_row(row: Mapping[str, str], clip_id: str, path: str, columns: Sequence[str]) -> tuple[str, set[str]]:
    """Parse one row to its split, and those columns that are given.

    Raises: ValueError: with the reason for which it is rejected.
    """
    if not clip_id:
        raise ValueError("no track_id")
    if not path:
        raise ValueError("no path")
    strange = [column for column in columns if row[column] not in ("0", "1")]
    if strange:
        raise ValueError(f"tag {strange[0]!r} is {quoted(row[strange[0]])}, not 0 or 1")
    split = SPLIT_OF.get(path.partition("/")[0])
    if split is None:
        raise ValueError(f"path {quoted(path)} is in none of the folders 0 to f, which tell the split")
    return split, {column for column in columns if row[column] == "1"}
