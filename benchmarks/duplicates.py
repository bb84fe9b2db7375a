"""Which copies of recordings are found: ``python -m benchmarks.duplicates index=DIR copies=DIR[,DIR]``.

``index`` is a catalogue, ``copies`` are some of re-encoded recordings of it, by the same checkpoint, whose ids are ``ID~FORMAT``. Found
is a copy that is nearer to its original than the threshold of the index (duplicates.py). The copies of every other recording, in the
order of the ids, are the half that the threshold was chosen on. Pairs of the index itself that would be folded are listed.
"""

import sys
from collections.abc import Sequence

import numpy as np

from disentangled_ml.search.catalogue import read_catalogue
from disentangled_ml.search.duplicates import duplicate_threshold


def main(argv: Sequence[str]) -> None:
    given = dict(argument.split("=", 1) for argument in argv)
    index, copies = read_catalogue(given["index"]), [read_catalogue(folder) for folder in given["copies"].split(",")]
    if any(each.model.fingerprint != index.model.fingerprint for each in copies):
        raise SystemExit("the catalogues are of different checkpoints")
    threshold = duplicate_threshold(index.embedding)
    rows, originals = index.embedding.astype(np.float64), {t.track_id: n for n, t in enumerate(index.every_track())}
    names, kinds = [], []
    for each in copies:
        for track in each.every_track():
            name, _, kind = track.track_id.rpartition("~")
            names.append(name)
            kinds.append(f"{kind}, {each.folder.name}")
    own, kinds = np.array([originals[name] for name in names]), np.array(kinds)
    embedding = np.concatenate([each.embedding for each in copies]).astype(np.float64)
    distance = np.linalg.norm(embedding[:, None] - rows, axis=2)
    is_found = distance[np.arange(len(own)), own] < threshold
    distance[np.arange(len(own)), own] = np.inf
    place = {name: number for number, name in enumerate(sorted(set(names)))}
    is_held_out = np.array([place[name] % 2 == 1 for name in names])
    lines = [f"threshold {threshold:.3f}", "", "| copies | found, chosen on | found, held out |", "|---|---|---|"]
    for kind in (*sorted(set(kinds.tolist())), None):
        chosen = np.ones(len(kinds), bool) if kind is None else kinds == kind
        cells = [f"{is_found[part].sum()} of {part.sum()}" for part in (chosen & ~is_held_out, chosen & is_held_out)]
        lines.append(f"| {kind or 'all'} | {cells[0]} | {cells[1]} |")
    lines += [
        "",
        f"copies that would be folded with another track: {(distance.min(1) < threshold).sum()} of {len(own)}",
    ]
    ids = list(originals)
    pairs = np.argwhere(np.triu(np.linalg.norm(rows[:, None] - rows, axis=2) < threshold, 1)).tolist()
    lines += [f"pairs of the index that would be folded: {len(pairs)}", *(f"  {ids[a]}, {ids[b]}" for a, b in pairs)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
