"""MTG-Jamendo (D. Bogdanov et al., "The MTG-Jamendo Dataset for Automatic Music Tagging", ICML 2019 workshop).

The lists of a split are ``SUBSET-train.tsv``, ``SUBSET-validation.tsv`` and ``SUBSET-test.tsv`` in ``data/splits/split-N`` of
github.com/MTG/mtg-jamendo-dataset: tab-separated, ``TRACK_ID ARTIST_ID ALBUM_ID PATH DURATION TAGS``, the tags spread over the
rest of the row as ``genre---rock``, ``instrument---guitar`` or ``mood/theme---happy``. Tags are sorted by what stands before the
dashes. The recordings lie at ``PATH``, those of the low edition at ``PATH`` with ``.low.mp3``.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from datamodules.corpora.tags import check_names
from datamodules.corpora.text_files import CorpusError, find_splits, opened
from disentangled_ml.structures import Corpus, Rejected, TrackRecord, quoted

SPLIT_OF = {"train": "train", "validation": "val", "test": "test"}  # by the publisher's name
COLUMNS = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
PREFIXES = ("genre", "instrument", "mood/theme")
DASHES = "---"
EDITIONS = {"full": ".mp3", "low": ".low.mp3"}


def read_mtg_jamendo(metadata: str, audio: str, subset: str, edition: str, tags: Mapping[str, str]) -> Corpus:
    """Read the lists of one of the publisher's splits.

    Args:
        metadata: Folder of the lists.
        audio: Folder of the recordings.
        subset: What the names of the lists begin with.
        edition: ``full`` or ``low``.
        tags: Prefix of the tags of each condition.

    Raises: CorpusError: naming the file or key that is wrong.
    """
    folder = Path(metadata)
    if edition not in EDITIONS:
        raise CorpusError(f"corpus.edition={edition} is unknown: choose one of {', '.join(EDITIONS)}")
    check_names(tags)
    for condition, prefix in tags.items():
        if prefix not in PREFIXES:
            raise CorpusError(f"corpus.tags.{condition}={prefix} is no prefix: choose one of {', '.join(PREFIXES)}")
    files = {name: [folder / f"{subset}-{name}.tsv"] for name in SPLIT_OF}
    found = sorted({path.stem.rpartition("-")[0] for path in folder.glob("*-*.tsv")})
    way_out = f"give data/splits/split-0 as corpus.metadata; corpus.subset can be {', '.join(found) or 'nothing here'}"
    splits = find_splits(files, way_out)
    for (path,) in splits.values():
        check_header(path)
    return Corpus(list(tags), partial(read_rows, splits, Path(audio), EDITIONS[edition], tags))


def check_header(path: Path) -> None:
    with opened(path) as file:
        header = file.readline().split()
    if tuple(header[: len(COLUMNS)]) != COLUMNS:
        raise CorpusError(f"{path}, line 1: the columns are {', '.join(header) or 'none'}, not {', '.join(COLUMNS)}")


def read_rows(
    splits: Mapping[str, list[Path]], audio: Path, extension: str, conditions: Mapping[str, str]
) -> Iterator[TrackRecord | Rejected]:
    for name, (path,) in splits.items():
        with opened(path) as file:
            next(file)
            for line in file:
                cells = [cell.strip() for cell in line.split("\t")]
                try:
                    yield parse_row(cells, SPLIT_OF[name], audio, extension, conditions)
                except ValueError as error:
                    yield Rejected(cells[0], cells[3] if len(cells) > 3 else "", str(error))


def parse_row(cells: list[str], split: str, audio: Path, extension: str, conditions: Mapping[str, str]) -> TrackRecord:
    """Parse one row.

    Raises: ValueError: with the reason for which it is rejected.
    """
    if len(cells) < len(COLUMNS):
        raise ValueError(f"the row is too short: {len(cells)} cells of {', '.join(COLUMNS)}")
    track_id, artist, _, path, _, *tags = cells
    if not track_id:
        raise ValueError("no track_id")
    if not path:
        raise ValueError("no path")
    if not path.endswith(EDITIONS["full"]):
        raise ValueError(f"path {quoted(path)} does not end in {EDITIONS['full']}")
    labels = sort_prefixed(tags, conditions)
    file = audio / (path.removesuffix(EDITIONS["full"]) + extension)
    return TrackRecord(track_id, str(file), artist or None, split, labels)


def sort_prefixed(tags: list[str], conditions: Mapping[str, str]) -> dict[str, list[str] | float]:
    """Sort tags into conditions by their prefix; empty cells are none.

    >>> sort_prefixed(["genre---rock", "mood/theme---happy", ""], {"genre": "genre", "mood": "mood/theme"})
    {'genre': ['rock'], 'mood': ['happy']}
    """
    found: dict[str, set[str]] = {prefix: set() for prefix in PREFIXES}
    for tag in filter(None, tags):
        prefix, _, name = tag.partition(DASHES)
        if prefix not in found or not name:
            raise ValueError(f"tag {quoted(tag)} is not one of {', '.join(PREFIXES)} with {DASHES} and a name")
        found[prefix].add(name)
    return {condition: sorted(found[prefix]) for condition, prefix in conditions.items() if found[prefix]}
