"""Million Song Dataset: the tagging split of K. Choi (github.com/keunwoochoi/MSD_split_for_tagging), 7digital previews, Last.fm tags.

The lists of a split are parallel, one value per line: ``SPLIT_x_msd_id.txt`` (the track id), ``SPLIT_x_filename.txt``, where
``6/0/6010476.npy`` stands for the preview ``6/0/6010476.clip.mp3``, and ``SPLIT_y.npy`` (bool, one of the top-50 Last.fm tags per
column); ``SPLIT_x_7d_id.txt`` repeats the file names. With a database the tags come from ``lastfm_tags.db``
instead. The data set's ``unique_tracks.txt``, if it lies beside the lists, has the artists.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tokenize import TokenError

import numpy as np

from datamodules.corpora.lastfm import database_tags, known_tags
from datamodules.corpora.tags import check_tags, sort_tags
from datamodules.corpora.text_files import CorpusError, find_splits, opened
from disentangled_ml.structures import Corpus, Rejected, TrackRecord, quoted

SPLIT_OF = {"train": "train", "valid": "val", "test": "test"}  # by the publisher's name
COLUMNS = (  # of SPLIT_y.npy
    *("rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock"),
    *("jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "Mellow"),
    *("electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock", "ambient"),
    *("acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country", "easy listening"),
    *("sexy", "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb", "indie pop", "sad"),
    *("House", "happy"),
)
LISTED, PREVIEW = ".npy", ".clip.mp3"
ARTISTS = "unique_tracks.txt"
logger = logging.getLogger(__name__)


def read_msd(
    metadata: str,
    audio: str,
    tags: Mapping[str, Sequence[str]],
    tag_database: str | None = None,
    tag_threshold: float | None = None,
) -> Corpus:
    """Read the tagging split.

    Args:
        metadata: Folder of the lists, and perhaps of ``unique_tracks.txt``.
        audio: Folder of the previews.
        tags: Of each condition.
        tag_database: ``lastfm_tags.db``, to take the tags from; None: from the lists.
        tag_threshold: Value (0 to 100) above which a tag of the database counts.

    Raises:
        CorpusError: naming the file, if one is missing, or does not belong to the others; or the tag that is unknown.
    """
    if (tag_database is None) != (tag_threshold is None):
        raise CorpusError("corpus.tag_database and corpus.tag_threshold go together: give both, or none of them")
    if tag_threshold is not None and not 0 <= tag_threshold <= 100:
        raise CorpusError(f"corpus.tag_threshold={tag_threshold} is no value of a tag: give one from 0 to 100")
    folder, database = Path(metadata), None if tag_database is None else Path(tag_database)
    kinds = ("x_msd_id.txt", "x_filename.txt", *(["y.npy"] if database is None else []))
    files = {name: [folder / f"{name}_{kind}" for kind in kinds] for name in SPLIT_OF}
    splits = find_splits(files, "give the folder of the tagging split as corpus.metadata")
    if not (folder / ARTISTS).is_file():
        logger.warning("%s has no %s, so the artists are unknown", folder, ARTISTS)
    for paths in splits.values():
        check_parallel(paths)
    if database is None:
        check_tags(tags, COLUMNS, "SPLIT_y.npy")
    else:
        check_tags(tags, known_tags(database, [tag for names in tags.values() for tag in names]), str(database))
    return Corpus(list(tags), partial(read_rows, folder, splits, Path(audio), tags, database, tag_threshold))


def check_parallel(paths: Sequence[Path]) -> None:
    """Check that the files of a split have equally many rows."""
    ids, names, *targets = paths
    counts = {path: sum(1 for _ in lines(path)) for path in (ids, names)}
    counts |= {path: len(load_targets(path)) for path in targets}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{path} has {count}" for path, count in counts.items())
        raise CorpusError(f"these lists are not of equal length: {told}; take all of them from one copy of the split")


def load_targets(path: Path) -> np.ndarray:
    """Map ``SPLIT_y.npy``, (N, 50) bool, into memory."""
    try:
        targets = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:  # the latter of a damaged header
        raise CorpusError(f"{path} cannot be read as an array ({error}): take it from the tagging split") from error
    if not isinstance(targets, np.ndarray) or targets.dtype != bool or targets.shape[1:] != (len(COLUMNS),):
        found = f"{targets.dtype} {targets.shape}" if isinstance(targets, np.ndarray) else "several arrays"
        raise CorpusError(f"{path} holds {found}, expected bool (N, {len(COLUMNS)})")
    return targets


def lines(path: Path) -> Iterator[str]:
    """Stream the values of a list."""
    with opened(path) as file:
        for line in file:
            yield line.strip()


def read_artists(path: Path, wanted: set[str]) -> dict[str, str]:
    """Read the artists of wanted tracks; none if there is no such file."""
    artists: dict[str, str] = {}
    if path.is_file():
        for number, line in enumerate(lines(path), 1):
            cells = line.split("<SEP>")
            if len(cells) < 4:
                raise CorpusError(f"{path}, line {number} is not of the form track id<SEP>song id<SEP>artist<SEP>title")
            if cells[0] in wanted and cells[2]:
                artists[cells[0]] = sys.intern(cells[2])
    return artists


def read_rows(
    folder: Path,
    splits: Mapping[str, Sequence[Path]],
    audio: Path,
    conditions: Mapping[str, Sequence[str]],
    database: Path | None,
    threshold: float,
) -> Iterator[TrackRecord | Rejected]:
    artists = read_artists(folder / ARTISTS, {track_id for ids, *_ in splits.values() for track_id in lines(ids)})
    wanted = [tag for tags in conditions.values() for tag in tags]
    with nullcontext() if database is None else database_tags(database, wanted, threshold) as tags_of:
        for name, (ids, files, *targets) in splits.items():
            tag_sets = map(named_columns, load_targets(*targets)) if targets else map(tags_of, lines(ids))
            for track_id, file, tags in zip(lines(ids), lines(files), tag_sets, strict=True):
                reason = unusable(track_id, file)
                if reason is not None:
                    yield Rejected(track_id, file, reason)
                    continue
                path = audio / (file.removesuffix(LISTED) + PREVIEW)
                labels = sort_tags(tags, conditions)
                yield TrackRecord(track_id, str(path), artists.get(track_id), SPLIT_OF[name], labels)


def named_columns(target: np.ndarray) -> set[str]:
    """Return the tags of a row (50,) of ``SPLIT_y.npy``.

    >>> sorted(named_columns(np.arange(50) % 48 == 1))
    ['happy', 'pop']
    """
    return {COLUMNS[column] for column in np.flatnonzero(target)}


def unusable(track_id: str, file: str) -> str | None:
    """Return why a row is rejected; None if it is not.

    >>> unusable("TRA", "6/0/6010476.npy") is None, unusable("TRA", "")
    (True, 'no path')
    """
    if not track_id:
        return "no track_id"
    if not file:
        return "no path"
    return None if file.endswith(LISTED) else f"file name {quoted(file)} does not end in {LISTED}"
