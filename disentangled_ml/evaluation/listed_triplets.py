"""Evaluation on a fixed list of triplets: every chunk is embedded once, then each triplet is three rows of a table.

A whole track's embedding is the mean of the unit embeddings of its non-overlapping chunks, normalised again, so that the
masked distance is that of the loss (J. Lee et al., ICASSP 2020, section 3.3). Tracks that change can be compared chunk by chunk
instead (``match``, see matching.py).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from disentangled_ml.evaluation.matching import MEAN, match_distances
from disentangled_ml.evaluation.metrics import mean_accuracy, mean_intervals, triplet_accuracies
from disentangled_ml.evaluation.retrieval import retrieval_report, track_recall
from disentangled_ml.objective.conditions import Condition, TempoCondition, is_octave
from disentangled_ml.objective.losses import masked_mean, triplet_violation, with_track
from disentangled_ml.structures import TRACK, ListedTriplet, Member, TrackChunks, TrackInfo

# Their differences stay in the cache while they are masked for one space after the other.
TRIPLETS_PER_BLOCK = 1024
# The subspace of a triplet's own condition, all dimensions.
SPACES = ("sub", "all")


@dataclass
class EmbeddingTable:
    """Embeddings of whole tracks and of single chunks, on the CPU.

    Attributes:
        wanted: Chunks to keep by themselves.
        rows: Embedding (D,) per member; that of a whole track is normalised.
        keep_sequences: Whether to keep the chunks of whole tracks too.
        sequences: Non-overlapping chunks (n, D) of whole tracks, in order, if they are kept.
        normalised: Scales the means (N, D) of chunks as the system scales its embeddings.
    """

    wanted: set[Member] = field(default_factory=set)
    rows: dict[Member, Tensor] = field(default_factory=dict)
    keep_sequences: bool = False
    sequences: dict[str, Tensor] = field(default_factory=dict)
    normalised: Callable[[Tensor], Tensor] = normalize

    def add(self, batch: TrackChunks, embedding: Tensor) -> None:
        """Add the embeddings (B, D) of a batch; a track that comes again replaces itself."""
        embedding = embedding.detach().float().cpu()
        track, start, in_mean = batch.track.cpu(), batch.start.cpu(), batch.in_mean.cpu()
        means = track_means(embedding[in_mean], track[in_mean], len(batch.track_ids), self.normalised)
        for track_id, row in zip(batch.track_ids, means, strict=True):
            self.rows[Member(track_id)] = row
        if self.keep_sequences:
            for row, track_id in enumerate(batch.track_ids):
                self.sequences[track_id] = embedding[(track == row) & in_mean]
        for row, frame, chunk in zip(track.tolist(), start.tolist(), embedding, strict=True):
            member = Member(batch.track_ids[row], frame)
            if member in self.wanted:
                self.rows[member] = chunk.clone()

    def tracks(self) -> tuple[list[str], Tensor]:
        """Return the ids and embeddings (N, D) of the whole tracks, sorted by id."""
        ids = sorted(member.track_id for member in self.rows if member.start is None)
        return ids, torch.stack([self.rows[Member(track_id)] for track_id in ids]) if ids else torch.empty(0, 0)

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings (N, D) of the first and of the last kept chunk of each track that has two, sorted by id."""
        starts: dict[str, list[int]] = {}
        for member in self.rows:
            if member.start is not None:
                starts.setdefault(member.track_id, []).append(member.start)
        pairs = [(track_id, min(found), max(found)) for track_id, found in sorted(starts.items()) if len(found) > 1]
        if not pairs:
            return torch.empty(0, 0), torch.empty(0, 0)
        first = torch.stack([self.rows[Member(track_id, start)] for track_id, start, _ in pairs])
        return first, torch.stack([self.rows[Member(track_id, start)] for track_id, _, start in pairs])


def track_means(embedding: Tensor, track: Tensor, n_tracks: int, normalised: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the embeddings (n_tracks, D) of whole tracks: the normalised mean of their chunks' unit embeddings (B, D).

    ``track`` (B,) is the number of each chunk's track; ``normalised`` scales the means as the system scales its embeddings.

    >>> track_means(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 0]), 2, normalize).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return normalised(torch.zeros(n_tracks, embedding.shape[1]).index_add_(0, track, embedding))


def listed_chunks(triplets: Iterable[ListedTriplet]) -> set[Member]:
    """Collect the chunks that triplets name."""
    return {member for _, *members in triplets for member in members if member.start is not None}


def end_chunks(infos: Iterable[TrackInfo], chunk_frames: int) -> set[Member]:
    """Return the first and the last of the non-overlapping chunks of tracks that have two.

    >>> sorted(member.start for member in end_chunks([TrackInfo("a", None, 400, {}), TrackInfo("b", None, 200, {})], 129))
    [0, 258]
    """
    lasts = {info.track_id: (info.frames // chunk_frames - 1) * chunk_frames for info in infos}
    return {Member(track_id, start) for track_id, last in lasts.items() if last > 0 for start in (0, last)}


@dataclass(frozen=True)
class Distances:
    """Distances of the T listed triplets whose members are all present.

    Attributes:
        dist_ap, dist_an: (T,).
        condition: (T,) int64, C for track.
        anchors: Anchor track of each triplet.
        skipped: Number of triplets per condition with a missing member.
    """

    dist_ap: Tensor
    dist_an: Tensor
    condition: Tensor
    anchors: list[str]
    skipped: dict[str, int]


@dataclass(frozen=True)
class ListedRows:
    """Listed triplets whose members are all present, as rows of a matrix, looked up once for all spaces.

    Attributes:
        embedding: (N, D).
        indices: (T, 3) int64, rows of it.
        condition, anchors, skipped: As in ``Distances``.
    """

    embedding: Tensor
    indices: Tensor
    condition: Tensor
    anchors: list[str]
    skipped: dict[str, int]


def find_rows(table: EmbeddingTable, triplets: Iterable[ListedTriplet], condition_names: Sequence[str]) -> ListedRows:
    """Find the members of triplets in a table. Raises ValueError for a condition that the model does not have."""
    names = [*condition_names, TRACK]
    triplets = list(triplets)
    unknown = {triplet.condition for triplet in triplets} - set(names)
    if unknown:
        raise ValueError(f"the triplet list has conditions {sorted(unknown)}, the model knows {names}")
    row = {member: i for i, member in enumerate(table.rows)}
    members = chain.from_iterable(triplet[1:] for triplet in triplets)
    indices = np.fromiter(map(row.get, members, repeat(-1)), np.int64, 3 * len(triplets)).reshape(-1, 3)
    number = {name: c for c, name in enumerate(names)}
    condition = np.fromiter((number[triplet.condition] for triplet in triplets), np.int64, len(triplets))
    is_there = (indices >= 0).all(1)
    lost = np.bincount(condition[~is_there], minlength=len(names)).tolist()
    return ListedRows(
        torch.stack(list(table.rows.values())) if row else torch.empty(0, 0),
        torch.from_numpy(indices[is_there]),
        torch.from_numpy(condition[is_there]),
        [triplet.anchor.track_id for triplet in compress(triplets, is_there.tolist())],
        dict(zip(names, lost, strict=True)),
    )


def space_distances(rows: ListedRows, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the distances of all triplets in each of several spaces with masks (M, D): dist_ap, dist_an, both (M, T)."""
    dist_ap, dist_an = torch.empty(2, len(masks), len(rows.indices))
    spaces = [mask_support(mask) for mask in masks]
    for first in range(0, len(rows.indices), TRIPLETS_PER_BLOCK):
        block = slice(first, first + TRIPLETS_PER_BLOCK)
        anchor, positive, negative = (rows.embedding.index_select(0, member) for member in rows.indices[block].T)
        differences = positive.sub_(anchor), negative.sub_(anchor)  # once for all spaces
        for space, (dims, weight) in enumerate(spaces):
            for dist, difference in zip((dist_ap, dist_an), differences, strict=True):
                masked = difference[:, dims] if weight is None else difference[:, dims] * weight
                dist[space, block] = torch.linalg.vector_norm(masked, dim=1)
    return dist_ap, dist_an


def mask_support(mask: Tensor) -> tuple[slice, Tensor | None]:
    """Return the dimensions from the first to the last nonzero one of a mask (D,), and their weights; None if all are 1.

    >>> mask_support(torch.tensor([0.0, 0.5, 0.0, 1.0, 0.0]))
    (slice(1, 4, None), tensor([0.5000, 0.0000, 1.0000]))
    >>> mask_support(torch.tensor([0.0, 1.0, 1.0])), mask_support(torch.zeros(2))
    ((slice(1, 3, None), None), (slice(0, 0, None), None))
    """
    dims = mask.nonzero()[:, 0].tolist()
    stretch = slice(dims[0], dims[-1] + 1) if dims else slice(0, 0)
    return stretch, None if (mask[stretch] == 1).all() else mask[stretch]


def matched_distances(table: EmbeddingTable, rows: ListedRows, masks: Tensor, match: str) -> tuple[Tensor, Tensor]:
    """Compute what ``space_distances`` does, but whole tracks chunk by chunk.

    Args:
        table: That ``rows`` were found in, with sequences.
        rows: The triplets.
        masks: (M, D), one per space.
        match: ``best`` or ``dtw``, see matching.py.
    """
    sequences = [table.sequences[m.track_id] if m.start is None else row[None] for m, row in table.rows.items()]
    distances = torch.empty(2, len(masks), len(rows.indices))
    for space, mask in enumerate(masks):
        masked = [sequence * mask for sequence in sequences]
        anchors, *others = ([masked[i] for i in column] for column in rows.indices.T.tolist())
        for kind, members in enumerate(others):
            distances[kind, space] = match_distances(anchors, members, match)
    return distances[0], distances[1]


def listed_distances(
    table: EmbeddingTable, triplets: Iterable[ListedTriplet], masks: Tensor, condition_names: Sequence[str]
) -> Distances:
    """Compute the distances of listed triplets, each with the mask of its condition.

    Args:
        table: Of the embeddings.
        triplets: The list.
        masks: Condition masks (C, D); of ones to compare in all dimensions.
        condition_names: Of the masks, in order.

    Raises:
        ValueError: for a condition that the model does not have.
    """
    rows = find_rows(table, triplets, condition_names)
    spaces = with_track(masks.detach().float().cpu())
    dist_ap, dist_an = (distance.gather(0, rows.condition[None])[0] for distance in space_distances(rows, spaces))
    return Distances(dist_ap, dist_an, rows.condition, rows.anchors, rows.skipped)


def listed_loss(
    distances: Distances, n_conditions: int, margin: float, track_weight: float, condition_weight: float = 1.0
) -> float:
    """Compute the loss of listed triplets: condition_weight * conditions + track_weight * track, for every objective."""
    violation = triplet_violation(distances.dist_ap, distances.dist_an, margin)
    is_track = distances.condition == n_conditions
    conditions, track = masked_mean(violation, ~is_track), masked_mean(violation, is_track)
    return (condition_weight * conditions + track_weight * track).item()


def evaluation_report(
    table: EmbeddingTable,
    triplets: Sequence[ListedTriplet],
    masks: Tensor,
    condition_names: Sequence[str],
    match: str = MEAN,
) -> dict[str, Any]:
    """Report the accuracy in the subspaces, in all dimensions, and of track, with 95 % intervals.

    Args:
        table: Of the embeddings; with sequences, unless whole tracks are compared by their means.
        triplets: The list.
        masks: Condition masks (C, D).
        condition_names: Of the masks, in order.
        match: How whole tracks are compared: ``mean``, ``best`` or ``dtw``.

    Returns:
        ``{"sub": {condition: {"accuracy", "ci95", "n"}, ..., "mean"}, "all": {...}, "track": {...}, "skipped": {...},
        "mean_ci95": {"sub", "all"}, "matrix": {condition of the triplets: {subspace: accuracy}}, "disentanglement": number}``.
        Accuracies without a triplet are None.
    """
    rows = find_rows(table, triplets, condition_names)
    every_space = with_track(masks.detach().float().cpu())
    if match == MEAN:
        dist_ap, dist_an = space_distances(rows, every_space)
    else:
        dist_ap, dist_an = matched_distances(table, rows, every_space, match)
    correct = dist_ap < dist_an
    spaces = torch.stack([correct.gather(0, rows.condition[None])[0], correct[-1]])  # as SPACES

    def chosen(is_chosen: Tensor) -> tuple[Tensor, list[str]]:
        return spaces[:, is_chosen], [rows.anchors[i] for i in is_chosen.nonzero()[:, 0].tolist()]

    entries = [
        [found.entry() for found in triplet_accuracies(*chosen(rows.condition == c))]
        for c in range(len(condition_names) + 1)
    ]
    report: dict[str, Any] = {}
    for s, space in enumerate(SPACES):
        named = {name: pair[s] for name, pair in zip(condition_names, entries, strict=False)}
        report[space] = {**named, "mean": mean_accuracy([entry["accuracy"] for entry in named.values()])}
    report["track"] = entries[-1][SPACES.index("all")]
    report["skipped"] = rows.skipped
    is_condition = rows.condition < len(condition_names)
    intervals = mean_intervals(*chosen(is_condition), rows.condition[is_condition])
    report["mean_ci95"] = {space: list(ci95) for space, ci95 in zip(SPACES, intervals, strict=True)}
    report["matrix"] = matrix_of(correct[:-1], rows.condition, condition_names)
    report["disentanglement"] = disentanglement(report["matrix"])
    return without_nan(report)


def split_report(
    table: EmbeddingTable,
    triplets: Sequence[ListedTriplet],
    masks: Tensor,
    conditions: Sequence[Condition],
    infos: Sequence[TrackInfo],
    match: str = MEAN,
) -> dict[str, Any]:
    """Report on all tracks of a split: ``evaluation_report``, and what is retrieved.

    Args:
        table: With the whole tracks of the split and their ``end_chunks``.
        triplets, masks, match: As for ``evaluation_report``.
        conditions: Of the list, in order.
        infos: Of the tracks.

    Returns:
        That of ``evaluation_report``, with ``"octaves_folded"``: per tempo condition ``{"sub", "all"}``, the accuracy without the
        triplets that only octaves tell apart; with ``"recall"`` (see ``retrieval_report``) and ``"track_recall"``: track Recall@1.
        The latter two are of the tracks' means, and left out where tracks are compared otherwise.
    """
    names = [condition.name for condition in conditions]
    report = evaluation_report(table, triplets, masks, names, match)
    report["octaves_folded"] = {}
    for name in (condition.name for condition in conditions if isinstance(condition, TempoCondition)):
        folded = evaluation_report(table, beyond_octaves(triplets, name, infos), masks, names, match)
        report["octaves_folded"][name] = {space: folded[space][name] for space in SPACES}
    if match != MEAN:
        return {**report, "match": match}
    report["recall"] = retrieval_report(*table.tracks(), masks, conditions, infos)
    report["track_recall"] = track_recall(*table.ends()).entry()
    return without_nan(report)


def beyond_octaves(
    triplets: Iterable[ListedTriplet], condition: str, infos: Iterable[TrackInfo]
) -> list[ListedTriplet]:
    """Return a tempo condition's triplets but for those whose negative is an octave from the anchor, that is twice as fast, or half.

    People and programs disagree about octaves, so a triplet that only an octave decides may be decided either way.

    >>> infos = [TrackInfo(name, None, 1, {"tempo": bpm}) for name, bpm in [("a", 90.0), ("b", 92.0), ("c", 181.0), ("d", 120.0)]]
    >>> triplets = [ListedTriplet("tempo", Member("a"), Member("b"), Member(negative)) for negative in "cd"]
    >>> [triplet.negative.track_id for triplet in beyond_octaves(triplets, "tempo", infos)]
    ['d']
    """
    bpm = {info.track_id: info.labels[condition] for info in infos if condition in info.labels}
    return [
        triplet
        for triplet in triplets
        if triplet.condition == condition
        and not is_octave(bpm[triplet.anchor.track_id], bpm[triplet.negative.track_id])
    ]


def matrix_of(correct: Tensor, condition: Tensor, condition_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Average the outcomes (C, T) of triplets in every subspace, condition by condition.

    >>> matrix_of(torch.tensor([[True, False], [True, True]]), torch.tensor([0, 1]), ["genre", "mood"])
    {'genre': {'genre': 1.0, 'mood': 1.0}, 'mood': {'genre': 0.0, 'mood': 1.0}}
    """
    matrix = {}
    for c, name in enumerate(condition_names):
        shares = correct[:, condition == c].double().mean(1).tolist()
        matrix[name] = dict(zip(condition_names, shares, strict=True))
    return matrix


def disentanglement(matrix: dict[str, dict[str, float]]) -> float:
    """Summarise a condition matrix: its mean on the diagonal minus its mean off it, NaN cells left out.

    NaN for a single condition. Without masks all columns are equal and the difference is 0.

    >>> disentanglement({"genre": {"genre": 1.0, "mood": 0.5}, "mood": {"genre": 0.25, "mood": 0.75}})
    0.5
    """
    cells = [(row, column, value) for row, values in matrix.items() for column, value in values.items()]
    own = mean_accuracy([value for row, column, value in cells if row == column])
    return own - mean_accuracy([value for row, column, value in cells if row != column])


def without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
