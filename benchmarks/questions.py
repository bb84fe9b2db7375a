"""How well questions are answered, by the labels of a catalogue: ``python -m benchmarks.questions index=DIR [queries=300]``.

Tables in Markdown, k = 10, nothing folded. Queries are drawn at random, always the same; a seed is not found itself.

* One weight: a track is the seed, one condition has a weight; right shares a label of that condition with the seed.
* A seed per condition: condition X of track A and Y of track B, of which no label of X or Y is shared; right has both.
* A label as seed: each label that at least ``LEAST`` tracks have, without those that have no label of the condition.
* A seed to avoid: a track is the seed, and one to avoid is drawn from the 20 nearest to it, of those that share no label with it.
  Beside the rule that is kept, which moves the target away, stands a penalty: of a track that is nearer to the avoided one than to the
  seed the squared distance grows by the difference of the two.
* Chance is the share of right tracks among all.
* Paths: 8 steps, all conditions. Mean and largest step in all, against nine tracks at random and against the straight list, which is
  the nearest track to each point of the line that is not taken yet.

A row that a small catalogue has no query for says so; a catalogue of fewer than ``LEAST_TRACKS`` is refused.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np

from disentangled_ml.search.answering import KnownSeed
from disentangled_ml.search.path import near_the_line, path_between
from disentangled_ml.search.question import Question
from disentangled_ml.search.similarity_search import SimilaritySearch, open_search
from disentangled_ml.search.weighted_distance import condition_distances
from disentangled_ml.structures import TEMPO

K, LEAST, STEPS, PATHS, NEAR = 10, 20, 8, 100, 20
LEAST_TRACKS = K + 2  # two seeds, and the results
NOT_MEASURED = "not measured: no such query in this catalogue"
TRIES = 100  # pairs that are drawn for one that can be asked with


class Labelled:
    """A search and the labels of its tracks: per condition a set for each row."""

    def __init__(self, index: str, n_queries: int):
        self.search, self.n_queries = open_search(index), n_queries
        self.tracks = list(self.search.catalogue.every_track())
        if len(self.tracks) < LEAST_TRACKS:
            raise SystemExit(
                f"{index} has {len(self.tracks)} tracks: {K} results beside two seeds need {LEAST_TRACKS}, give a larger index=DIR"
            )
        names = [name for name in self.search.catalogue.condition_names if name != TEMPO]
        labels = {name: [frozenset(track.labels.get(name, ())) for track in self.tracks] for name in names}
        self.labels = {name: own for name, own in labels.items() if any(own)}

    def hits(self, question: Question, wanted: dict[str, frozenset[str]], seeds: Sequence[int]) -> tuple[float, float]:
        """Return the share of results that have a wanted label of each condition, and the share among all but the seeds."""
        found = [result.row for result in self.search.ask(question).results]
        right = np.array(
            [all(self.labels[name][row] & own for name, own in wanted.items()) for row in range(len(self.tracks))]
        )
        return float(right[found].mean()), float(np.delete(right, seeds).mean())

    def drawn(self, rows: Sequence[int]) -> list[int]:
        rng = np.random.default_rng(0)
        return rng.choice(rows, min(self.n_queries, len(rows)), replace=False).tolist()

    def id_of(self, row: int) -> str:
        return self.tracks[row].track_id


def ask(**asked) -> Question:
    return Question(**asked, k=K, fold_duplicates=False)


def one_weight(data: Labelled) -> Iterator[tuple[str, np.ndarray]]:
    for name, labels in data.labels.items():
        rows = data.drawn([row for row, own in enumerate(labels) if own])
        scores = [
            data.hits(ask(seeds=[data.id_of(row)], weights={name: 1.0}), {name: labels[row]}, [row]) for row in rows
        ]
        yield f"weight of {name}", np.array(scores)


def seed_per_condition(data: Labelled) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    for one, other in combinations(data.labels, 2):
        scores = []
        for _ in range(TRIES * data.n_queries):
            if len(scores) == data.n_queries:
                break
            a, b = rng.choice(len(data.tracks), 2, replace=False).tolist()
            wanted = {one: data.labels[one][a], other: data.labels[other][b]}
            is_shared = any(data.labels[name][a] & data.labels[name][b] for name in wanted)
            if all(wanted.values()) and not is_shared:
                question = ask(seeds_of={one: [data.id_of(a)], other: [data.id_of(b)]})
                scores.append(data.hits(question, wanted, [a, b]))
        yield f"{one} of A, {other} of B", np.array(scores)


def label_as_seed(data: Labelled) -> Iterator[tuple[str, np.ndarray]]:
    for name, labels in data.labels.items():
        counts = {label: sum(label in own for own in labels) for label in sorted(frozenset().union(*labels))}
        often = [label for label, count in counts.items() if count >= LEAST]
        scores = [data.hits(ask(labels={name: label}), {name: frozenset([label])}, []) for label in often]
        yield f"label of {name} ({len(often)} labels)", np.array(scores)


def avoided(data: Labelled) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the shares of results with a label of the seed and of the avoided one, by each rule."""
    catalogue, rng = data.search.catalogue, np.random.default_rng(2)
    for name, labels in data.labels.items():
        scores: dict[str, list[tuple[float, float]]] = {"nothing avoided": [], "moved away": [], "penalty": []}
        mask = catalogue.model.masks[[catalogue.condition_names.index(name)]]
        for row in data.drawn([row for row, own in enumerate(labels) if own]):
            near = [found.row for found in data.search.search_like(row, {name: 1.0}, NEAR)]
            others = [other for other in near if labels[other] and not labels[other] & labels[row]]
            if not others:
                continue
            other = int(rng.choice(others))
            question = ask(seeds=[data.id_of(row)], avoid=[data.id_of(other)], weights={name: 1.0})
            to_seed, to_avoided = (
                condition_distances(catalogue.embedding, catalogue.embedding[each], mask)[:, 0] for each in (row, other)
            )
            penalised = to_seed + np.maximum(0.0, to_seed - to_avoided)
            found = {
                "nothing avoided": first_of(to_seed, row, other),
                "moved away": [result.row for result in data.search.ask(question).results],
                "penalty": first_of(penalised, row, other),
            }
            for rule, rows in found.items():
                shares = [np.mean([bool(labels[f] & labels[each]) for f in rows]) for each in (row, other)]
                scores[rule].append((float(shares[0]), float(shares[1])))
        for rule, own in scores.items():
            yield f"{name}, {rule} ({len(own)} pairs)", np.array(own)


def first_of(score: np.ndarray, *without: int) -> list[int]:
    """Return the K rows of the least scores (N,), without some rows."""
    return [row for row in np.argsort(score, kind="stable").tolist() if row not in without][:K]


def steps_of(search: SimilaritySearch, way: Sequence[int]) -> tuple[float, float]:
    """Return the mean and the largest step of a way, all conditions together."""
    rows, masks = search.catalogue.embedding, search.catalogue.model.masks
    steps = [float(np.sqrt(condition_distances(rows[[b]], rows[a], masks).sum())) for a, b in pairwise(way)]
    return float(np.mean(steps)), float(np.max(steps))


def straight_list(search: SimilaritySearch, first: int, last: int) -> list[int]:
    """Return the nearest track to each point of the line that is not taken yet, the ends with them."""
    ends = [KnownSeed(search.catalogue.recording(row), row) for row in (first, last)]
    layers = near_the_line(search, ends, STEPS, np.ones(len(search.catalogue.condition_names)), "exact")
    way = [first]
    for rows in layers:
        way.append(next(row for row in rows.tolist() if row not in way))
    return [*way, last]


def paths(data: Labelled) -> Iterator[tuple[str, np.ndarray]]:
    rng, size = np.random.default_rng(3), len(data.tracks)
    ways: dict[str, list[Sequence[int]]] = {"path": [], "straight list": [], "random tracks": []}
    for _ in range(PATHS):
        first, last, *others = rng.choice(size, STEPS + 1, replace=False).tolist()
        try:
            found = path_between(data.search, data.id_of(first), data.id_of(last), STEPS)
        except ValueError:  # too few tracks are left beside duplicates
            continue
        ways["path"].append([result.row for result in found])
        ways["straight list"].append(straight_list(data.search, first, last))
        ways["random tracks"].append([first, *others, last])
    for name, own in ways.items():
        yield name, np.array([steps_of(data.search, way) for way in own])


def table(head: Sequence[str], rows: Iterator[tuple[str, np.ndarray]]) -> str:
    """Return a table in Markdown: a name, and the means of the columns (Q, 2), or that there are none.

    >>> print(table(("way", "mean", "most"), iter([("a", np.ones((3, 2))), ("b", np.empty(0))])))
    | way | mean | most |
    |---|---|---|
    | a | 1.000 | 1.000 |
    | b | not measured: no such query in this catalogue | - |
    """
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, scores in rows:
        means = [f"{value:.3f}" for value in scores.mean(0)] if len(scores) else [NOT_MEASURED, "-"]
        lines.append(f"| {name} | {' | '.join(means)} |")
    if len(lines) == 2:
        lines.append("| not measured: no track of this catalogue has tags | - | - |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    given = dict(argument.split("=", 1) for argument in argv)
    data = Labelled(given["index"], int(given.get("queries", 300)))
    precision = ("question", "precision at 10", "chance")
    tables = [
        table(precision, one_weight(data)),
        table(precision, seed_per_condition(data)),
        table(precision, label_as_seed(data)),
        table(("seed to avoid", "labels of the seed", "labels of the avoided"), avoided(data)),
        table(("way", "mean step", "largest step"), paths(data)),
    ]
    sys.stdout.write("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
