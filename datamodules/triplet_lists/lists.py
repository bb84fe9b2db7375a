"""Fixed lists of triplets for validation and test, and their CSV form.

Columns: ``condition, anchor_id, anchor_start, positive_id, positive_start, negative_id, negative_start``; starts are in
seconds, empty for the whole track; the condition may be ``track``. Lists that are made compare whole tracks for every
condition and chunks for ``track``. They are made once per split, seed and settings, and kept beside the shards.

Random triplets can be solved in part by what codecs leave: an excerpt of the same file has the same bandwidth. In a matched list
the negative is the allowed track whose bandwidth is nearest to the positive's.
"""

import csv
import hashlib
import logging
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.shards.index import ShardIndex
from datamodules.shards.tar import decode_mel, read_samples, sample_context, share_slices
from datamodules.triplet_lists.rows import TripletListError, parse_start, read_rows
from disentangled_ml.files import atomic_write
from disentangled_ml.objective.conditions import Condition
from disentangled_ml.objective.triplets import draw_columns, draw_from_split, nearest_columns
from disentangled_ml.structures import (
    ROLES,
    TRACK,
    TRIPLET_COLUMNS,
    AudioSettings,
    ListedTriplet,
    Member,
    TrackInfo,
    chunk_grid,
    name_code,
    seeded_generator,
)

logger = logging.getLogger(__name__)


class ListSettings(NamedTuple):
    """What a list is made of: how many triplets per condition, from which seed, with which length of chunks.

    Attributes:
        match_bandwidth: Whether negatives are those nearest to the positives in bandwidth, instead of random ones.
    """

    triplets_per_condition: int = 1000
    seed: int = 0
    chunk_frames: int = 129
    match_bandwidth: bool = False

    def content(self) -> str:
        """Return the text that identifies the settings in a kept list's name; lists older than a setting keep theirs.

        >>> ListSettings(seed=3).content()
        'ListSettings(triplets_per_condition=1000, seed=3, chunk_frames=129)'
        """
        return repr(self) if self.match_bandwidth else repr(self).replace(", match_bandwidth=False", "")


def read_levels(index: ShardIndex, split: str, level: Callable[[Tensor], float]) -> Tensor:
    """Measure ``level`` of each spectrogram (n_mels, frames) of a split, in the order of ``read_infos``: (N,) float32."""
    levels = []
    for sample in read_samples(index.root, share_slices(index.splits[split], 0, 1), ("mel.npy",)):
        with sample_context(sample):
            levels.append(level(torch.from_numpy(decode_mel(sample["mel.npy"]).astype("float32"))))
    return torch.tensor(levels)


def make_triplets(
    infos: list[TrackInfo], conditions: list[Condition], settings: ListSettings, levels: Tensor | None = None
) -> list[ListedTriplet]:
    """Draw the triplets of every condition between whole tracks, and the track triplets between their chunks.

    The chunks of a track triplet are non-overlapping ones, which the whole tracks' embeddings need anyway. A condition without
    any valid triplet adds none and is named in the log.

    Args:
        infos: Of the tracks.
        conditions: In order.
        settings: Of the list.
        levels: Bandwidth per track (N,), finite, for a matched list; else none.
    """
    check_levels(levels, len(infos), settings.match_bandwidth)
    triplets, tracks = [], [Member(info.track_id) for info in infos]
    artist = torch.tensor([name_code(info.artist) for info in infos])
    for c, condition in enumerate(conditions):
        labels = condition.encode([info.labels.get(condition.name) for info in infos])
        generator = seeded_generator(settings.seed, c)
        rows = draw_from_split(condition, labels, artist, settings.triplets_per_condition, generator, levels).tolist()
        if not rows:
            logger.warning("no triplet of condition %s is possible among %d tracks", condition.name, len(infos))
        triplets += [ListedTriplet(condition.name, *(tracks[number] for number in row)) for row in rows]
    return triplets + make_track_triplets(infos, len(conditions), settings, levels)


def check_levels(levels: Tensor | None, n_tracks: int, matched: bool) -> None:
    """Check that there is a bandwidth per track for a matched list, and none for another."""
    if matched != (levels is not None):
        raise ValueError(f"match_bandwidth={matched} needs {'the bandwidth of each track' if matched else 'no levels'}")
    if levels is not None and (levels.shape != (n_tracks,) or not levels.isfinite().all()):
        raise ValueError(f"levels of shape {tuple(levels.shape)}, expected ({n_tracks},) finite ones: {levels}")


def make_track_triplets(
    infos: list[TrackInfo], c: int, settings: ListSettings, levels: Tensor | None = None
) -> list[ListedTriplet]:
    """Draw triplets of chunks: two of one track, one of another, which with levels is one nearest in level."""
    long = [i for i, info in enumerate(infos) if info.frames >= settings.chunk_frames]  # in a stream it is an error
    infos, levels = [infos[i] for i in long], None if levels is None else levels[long]
    chunks = [chunk_grid(info.frames, settings.chunk_frames) for info in infos]
    with_two = [i for i, starts in enumerate(chunks) if len(starts) > 1]
    if not with_two or len(infos) < 2:
        logger.warning("no track triplet is possible among %d tracks: too few or too short", len(infos))
        return []
    generator = seeded_generator(settings.seed, c)

    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    def draw_negative(anchor: int) -> int:
        if levels is None:
            return (anchor + 1 + draw(len(infos) - 1)) % len(infos)
        others = (torch.arange(len(infos)) != anchor)[None]
        return int(draw_columns(nearest_columns(others, levels, levels[anchor, None]), generator))

    triplets = []
    for turn in range(settings.triplets_per_condition):
        anchor = with_two[turn % len(with_two)]
        negative = draw_negative(anchor)
        first, second = torch.randperm(len(chunks[anchor]), generator=generator)[:2].tolist()
        members = [(anchor, first), (anchor, second), (negative, draw(len(chunks[negative])))]
        triplets.append(ListedTriplet(TRACK, *(Member(infos[i].track_id, chunks[i][k]) for i, k in members)))
    return triplets


def kept_triplets(
    index: ShardIndex,
    split: str,
    infos: list[TrackInfo],
    conditions: list[Condition],
    settings: ListSettings,
    level: Callable[[Tensor], float] | None = None,
) -> list[ListedTriplet]:
    """Read the list of a split that is kept beside the shards; make it where there is none for these settings.

    Args:
        index: Of the shards.
        split: Of them.
        infos: Of its tracks, as ``read_infos`` returns them.
        conditions: In order.
        settings: Of the list.
        level: Bandwidth of a spectrogram (n_mels, frames), which a matched list is made with; asked only then.

    Raises: ValueError: if a matched list is to be made without ``level``.
    """
    path = kept_path(index, split, conditions, settings)
    if path is not None and path.is_file():
        try:
            return read_triplets(path, index.audio)
        except TripletListError as error:
            logger.warning("the kept triplet list is damaged and made anew (%s)", error)
    levels = read_levels(index, split, level) if settings.match_bandwidth and level is not None else None
    triplets = make_triplets(infos, conditions, settings, levels)
    # A list of damaged shards must not outlive the damage.
    if path is None or len(infos) < index.count(split):
        return triplets
    try:
        path.parent.mkdir(exist_ok=True)
        write_triplets(path, triplets, index.audio)
    except OSError as error:
        logger.warning("the triplet list cannot be kept beside the shards (%s)", error)
    return triplets


def kept_path(index: ShardIndex, split: str, conditions: list[Condition], settings: ListSettings) -> Path | None:
    """Return where a list is kept; None beside shards at an address, where the same list is made anew each time."""
    if not isinstance(index.root, Path):
        return None
    content = f"({index.fingerprint()!r}, {conditions!r}, {settings.content()})"
    digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
    return index.root / "triplets" / f"{split}-seed{settings.seed}-{digest}.csv"


def write_triplets(path: Path, triplets: list[ListedTriplet], audio: AudioSettings) -> None:
    """Write a list atomically."""
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow(TRIPLET_COLUMNS)
        for condition, *members in triplets:
            cells = ((m.track_id, "" if m.start is None else f"{audio.seconds(m.start):.6f}") for m in members)
            writer.writerow([condition, *chain.from_iterable(cells)])


def read_triplets(path: Path, audio: AudioSettings) -> list[ListedTriplet]:
    """Read a list.

    Raises: TripletListError: naming the file and line, if a column is missing or a cell has no legal value.
    """
    parser = TripletParser(audio)
    return [parser.parse(row, where) for where, row in read_rows(path, TRIPLET_COLUMNS)]


class TripletParser:
    """Parser of the rows of a list, which names the same tracks again and again: each becomes one object."""

    def __init__(self, audio: AudioSettings):
        self.audio = audio
        self.members: dict[tuple[str, str], Member] = {}

    def parse(self, row: dict[str, str], where: str) -> ListedTriplet:
        """Parse one row; errors (``TripletListError``) begin with ``where``."""
        members = [self.parse_member(row, role, where) for role in ROLES]
        if len(set(members)) < len(members):
            first, second = next(
                pair for pair in combinations(ROLES, 2) if len({members[ROLES.index(r)] for r in pair}) < 2
            )
            raise TripletListError(
                f"{where}: {first} and {second} are the same, which no answer tells apart: leave it out"
            )
        return ListedTriplet(row["condition"], *members)

    def parse_member(self, row: dict[str, str], role: str, where: str) -> Member:
        cells = track_id, start = row[f"{role}_id"], row[f"{role}_start"]
        if cells not in self.members:
            if not track_id:
                raise TripletListError(f"{where}: {role}_id is empty")
            frame = parse_start(start, f"{where}: {role}_start", self.audio) if start else None
            self.members[cells] = Member(track_id, frame)
        return self.members[cells]
