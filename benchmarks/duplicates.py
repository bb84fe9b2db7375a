"""Which copies of recordings are found: ``python -m benchmarks.duplicates index=DIR copies=DIR[,DIR]``.

``index`` is a catalogue, ``copies`` are some of re-encoded recordings of it, by the same checkpoint, whose ids are ``ID~FORMAT``. A
copy is found by its audio fingerprint, or by its embedding, as in duplicates.py. The copies of every other recording, in the order of
the index, are the half that the bounds were chosen on. Pairs of the index itself that would be folded are listed.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datamodules.audio.fingerprint import unit_fingerprints
from disentangled_ml.search.answering import LOOKED_AT
from disentangled_ml.search.catalogue import EmbeddedCatalogue, read_catalogue
from disentangled_ml.search.duplicates import CORRELATION, duplicate_threshold

K = 10  # results of the question that a copy should be folded in


class Nearness(NamedTuple):
    """How near n tracks are to those of an index, N: correlation of fingerprints and distance of embeddings, (n, N)."""

    correlation: np.ndarray
    distance: np.ndarray


def nearness(tracks: EmbeddedCatalogue, index: EmbeddedCatalogue) -> Nearness:
    if tracks.audio_fingerprint is None or index.audio_fingerprint is None:
        raise SystemExit("a catalogue has no fingerprints, for an earlier version made it: embed it anew")
    correlation = unit_fingerprints(tracks.audio_fingerprint) @ unit_fingerprints(index.audio_fingerprint).T
    rows = index.embedding.astype(np.float64)
    distance = np.stack([np.linalg.norm(rows - track, axis=1) for track in tracks.embedding])
    return Nearness(correlation, distance)


def main(argv: Sequence[str]) -> None:
    given = dict(argument.split("=", 1) for argument in argv)
    index, copies = read_catalogue(given["index"]), [read_catalogue(folder) for folder in given["copies"].split(",")]
    if any(each.model.fingerprint != index.model.fingerprint for each in copies):
        raise SystemExit("the catalogues are of different checkpoints")
    threshold = duplicate_threshold(index.embedding, index.audio_fingerprint)
    ids = [track.track_id for track in index.every_track()]
    names = [track.track_id.rpartition("~") for each in copies for track in each.every_track()]
    own = np.array([ids.index(name) for name, _, _ in names])
    parts = [nearness(each, index) for each in copies]
    found = Nearness(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    lines = [f"correlation from {CORRELATION} on, or distance below {threshold:.3f}", ""]
    lines += [*table_of_copies(np.array([kind for _, _, kind in names]), own, found, threshold), ""]
    is_alike = (found.correlation >= CORRELATION) | (found.distance < threshold)
    between = nearness(index, index)
    # What is the same as the original is the same as its copies.
    is_alike &= ~((between.correlation >= CORRELATION) | (between.distance < threshold))[own]
    lines += [f"copies that would be folded with another track: {is_alike.any(1).sum()} of {len(own)}"]
    lines += pairs_of_index(ids, between, threshold)
    sys.stdout.write("\n".join(lines) + "\n")


def table_of_copies(kinds: np.ndarray, own: np.ndarray, found: Nearness, threshold: float) -> list[str]:
    """Return a row per kind of copy: how many are found in which half, by what, and are among the nearest of their originals.

    Args:
        kinds: Of the copies, (n,) text.
        own: Row of the original of each, (n,).
        found: Nearness to all originals.
        threshold: Of distances.
    """
    each = np.arange(len(own))
    correlation, distance = found.correlation[each, own], found.distance[each, own]
    by_fingerprint, by_embedding = correlation >= CORRELATION, distance < threshold
    is_near = (found.distance < distance[:, None]).sum(1) < K + LOOKED_AT
    is_held_out = np.unique(own, return_inverse=True)[1] % 2 == 1
    columns = {
        "found, chosen on": (~is_held_out, by_fingerprint | by_embedding),
        "found, held out": (is_held_out, by_fingerprint | by_embedding),
        "by fingerprint": (np.ones(len(own), bool), by_fingerprint),
        "by embedding": (np.ones(len(own), bool), by_embedding),
        f"among the {K + LOOKED_AT} nearest": (np.ones(len(own), bool), is_near),
    }
    lines = [f"| copies | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for kind in (*sorted(set(kinds.tolist())), "all"):
        chosen = (kinds == kind) | (kind == "all")
        cells = [f"{is_found[part & chosen].sum()} of {(part & chosen).sum()}" for part, is_found in columns.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def pairs_of_index(ids: Sequence[str], found: Nearness, threshold: float) -> list[str]:
    """Return the pairs of an index that would be folded, and how near the others come at most."""
    is_pair = np.triu((found.correlation >= CORRELATION) | (found.distance < threshold), 1)
    is_other = np.triu(found.correlation < CORRELATION, 1)
    lines = [f"pairs of the index that would be folded: {is_pair.sum()} (correlation, distance)"]
    lines += [
        f"  {ids[a]}, {ids[b]} ({found.correlation[a, b]:.2f}, {found.distance[a, b]:.2f})"
        for a, b in np.argwhere(is_pair).tolist()
    ]
    return [*lines, f"largest correlation of the others: {found.correlation[is_other].max():.2f}"]


if __name__ == "__main__":
    main(sys.argv[1:])
