"""Search among a million embeddings, exact against approximate: ``python -m benchmarks.search [tracks=1000000] [queries=200]``.

The embeddings are simulated after those of the trained demo network: four conditions of 64 dimensions, drawn independently. Genre,
mood and instrument have 100, 20 and 10 centres of length 0.5 in random directions, the i-th of which is drawn 1/i as often as the
first (Zipf); tempo is a closed curve of length 0.5 in six dimensions, along which tempi are normally distributed (115, 25 BPM).
Around its centre, or its point of the curve, a track lies normally distributed along random axes, each of which has 3/4 of the
variance of the one before, 0.15 in all (tempo: 0.1). The whole is normalised. So neighbours are many and close, as in a real
catalogue, and differ in the four conditions.

Recall at 10 is the share of the exact ten nearest among the ten that are found. One search at a time, in turn, as a page asks; the
queries are tracks of the catalogue. The exact search is itself checked against a loop in float64.
"""

import json
import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.measurement import Measurement, compared
from benchmarks.table import as_text, write_json
from disentangled_ml.network.checkpoint import ModelDescription
from disentangled_ml.processes import keep_freed_memory
from disentangled_ml.search.approximate import build_index
from disentangled_ml.search.catalogue import (
    COLUMNS,
    COLUMNS_FILE,
    EMBEDDING,
    FORMAT_VERSION,
    HEADER,
    TRACKS,
    CatalogueTrack,
    column_values,
    describe_model,
    read_catalogue,
)
from disentangled_ml.search.similarity_search import SearchFilters, SimilaritySearch
from disentangled_ml.structures import AudioSettings

NAMES, SUBSPACE_DIM, LENGTH = ("genre", "mood", "instrument", "tempo"), 64, 0.5
CENTRES = {"genre": 100, "mood": 20, "instrument": 10}
SPREAD, TEMPO_SPREAD, DECAY = 0.15, 0.1, 0.75
TEMPI = (115.0, 25.0)
BLOCK = 50_000
K = 10
SEARCHES: dict[str, tuple[dict[str, float], SearchFilters]] = {
    "genre": ({"genre": 1.0}, SearchFilters()),
    "tempo": ({"tempo": 1.0}, SearchFilters()),
    "genre 1, mood 0.5": ({"genre": 1.0, "mood": 0.5}, SearchFilters()),
    "genre, instrument, tempo": ({"genre": 1.0, "instrument": 1.0, "tempo": 1.0}, SearchFilters()),
    "all four": (dict.fromkeys(NAMES, 1.0), SearchFilters()),
    "genre 1, mood 0.5, tempo=[90,120]": ({"genre": 1.0, "mood": 0.5}, SearchFilters(tempo=(90.0, 120.0))),
}
LEAST_SPEEDUP = 5.0


def spread(rng: np.random.Generator, deviation: float) -> np.ndarray:
    """Return a factor (64, 64) for standard normal numbers: axes of decaying variance in random directions."""
    variance = DECAY ** np.arange(SUBSPACE_DIM)
    axes = np.linalg.qr(rng.standard_normal((SUBSPACE_DIM, SUBSPACE_DIM)))[0]
    return (np.sqrt(variance / variance.sum()) * deviation)[:, None] * axes


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors (..., D) to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def simulate(path: Path, n_tracks: int, seed: int = 0) -> np.ndarray:
    """Write embeddings (N, 256) as the module says; return the tempi (N,)."""
    rng = np.random.default_rng(seed)
    centres = {
        name: LENGTH * unit(rng.standard_normal((count, SUBSPACE_DIM))).astype(np.float32)
        for name, count in CENTRES.items()
    }
    spreads = {name: spread(rng, TEMPO_SPREAD if name == "tempo" else SPREAD).astype(np.float32) for name in NAMES}
    waves = rng.standard_normal((6, SUBSPACE_DIM))
    tempi = rng.normal(*TEMPI, n_tracks).astype(np.float32)
    shape = (n_tracks, len(NAMES) * SUBSPACE_DIM)
    embedding = np.lib.format.open_memmap(path, mode="w+", dtype="<f4", shape=shape)
    for first in range(0, n_tracks, BLOCK):
        bpm = tempi[first : first + BLOCK]
        angles = bpm[:, None] / 40 * np.arange(1, 4)
        middles = {"tempo": LENGTH * unit(np.concatenate([np.cos(angles), np.sin(angles)], 1) @ waves)}
        for name, of_tags in centres.items():
            share = 1 / np.arange(1, len(of_tags) + 1)
            middles[name] = of_tags[rng.choice(len(of_tags), len(bpm), p=share / share.sum())]
        noise = {name: rng.standard_normal((len(bpm), SUBSPACE_DIM), np.float32) @ spreads[name] for name in NAMES}
        embedding[first : first + len(bpm)] = unit(np.concatenate([middles[name] + noise[name] for name in NAMES], 1))
    embedding.flush()
    return tempi


def write_catalogue(folder: Path, n_tracks: int) -> None:
    """Write a simulated catalogue."""
    tempi = simulate(folder / EMBEDDING, n_tracks)
    columns = np.empty(n_tracks, COLUMNS)
    with open(folder / TRACKS, "wb") as file:
        for row, bpm in enumerate(tempi.tolist()):
            track = CatalogueTrack(f"track {row}", f"artist {row // 4}", None, {"tempo": bpm})
            columns[row] = column_values(track, file.tell())
            file.write(json.dumps(track._asdict()).encode() + b"\n")
    np.save(folder / COLUMNS_FILE, columns, allow_pickle=False)
    masks = np.repeat(np.eye(len(NAMES), dtype=np.float32), SUBSPACE_DIM, axis=1)
    model = ModelDescription("simulated", list(NAMES), masks, AudioSettings(), 129, {})
    header = {"format_version": FORMAT_VERSION, "tracks": n_tracks, **describe_model(model)}
    (folder / HEADER).write_text(json.dumps(header))


def check_exact(search: SimilaritySearch, row: int, weights: dict[str, float]) -> None:
    """Check the exact search against the sum over all differences in float64.

    Raises:
        ValueError: if another track is found.
    """
    embedding, total = search.catalogue.embedding, np.zeros(len(search.catalogue))
    for c, name in enumerate(NAMES):
        part = slice(c * SUBSPACE_DIM, (c + 1) * SUBSPACE_DIM)
        for first in range(0, len(total), BLOCK) if weights.get(name) else ():
            block = slice(first, first + BLOCK)
            difference = embedding[block, part].astype(np.float64) - embedding[row, part]
            total[block] += weights[name] * (difference**2).sum(1)
    total[row] = np.inf
    found = [result.row for result in search.search_like(row, weights, K, method="exact")]
    if found != np.argsort(total, kind="stable")[:K].tolist():
        raise ValueError(f"the exact search for track {row} by {weights} is not exact")


def measure(n_tracks: int = 1_000_000, n_queries: int = 200) -> list[Measurement]:
    """Measure the building of an index, and all kinds of searches."""
    with tempfile.TemporaryDirectory() as folder:
        write_catalogue(Path(folder), n_tracks)
        catalogue = read_catalogue(folder)
        start = perf_counter()
        index = build_index(catalogue.embedding, catalogue.model.masks)
        built = perf_counter() - start
        size, whole = len(index.as_bytes()) / 1e6, catalogue.embedding.nbytes / 1e6
        note = f"{size:.0f} MB beside {whole:,.0f} MB of embeddings"
        lines = [Measurement(f"making the index of {n_tracks:,}", built, note=note)]
        search = SimilaritySearch(catalogue, index)
        rows = np.random.default_rng(1).choice(n_tracks, n_queries, replace=False).tolist()
        for name, (weights, filters) in SEARCHES.items():
            check_exact(search, rows[0], weights)
            lines.append(compare(search, f"search of {n_tracks:,} by {name}", weights, filters, rows))
        return lines


def compare(
    search: SimilaritySearch, stage: str, weights: dict[str, float], filters: SearchFilters, rows: list[int]
) -> Measurement:
    """Search for some tracks by both methods; a round is all of them by one method, then by the other."""
    found: dict[str, list[set[int]]] = {}

    def by(method: str) -> list[float]:
        times, found[method] = [], []
        for row in rows:
            start = perf_counter()
            results = search.search_like(row, weights, K, tempo=filters.tempo, method=method)
            times.append(perf_counter() - start)
            found[method].append({result.row for result in results})
        return times

    search.search_like(rows[0], weights, K, tempo=filters.tempo, method="approximate")  # pays for what is made once
    times = {"exact": by("exact"), "ours": by("approximate")}
    hits = sum(len(a & b) for a, b in zip(found["exact"], found["approximate"], strict=True))
    recall = hits / sum(map(len, found["exact"]))
    ours, exact = (len(rows) / sum(times[name]) for name in ("ours", "exact"))
    note = f"recall at {K} {recall:.3f}; {ours:.0f} against {exact:.1f} searches a second"
    return compared(stage, times, "exact", least_speedup=LEAST_SPEEDUP, note=note)


def main(tracks: str = "1000000", queries: str = "200", out: str = "bench/search.json") -> None:
    """Measure, print and save the results."""
    keep_freed_memory()
    lines = measure(int(tracks), int(queries))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(as_text(lines) + f"\npeak memory {peak:,.0f} MB\n")
    write_json(Path(out), lines)


if __name__ == "__main__":
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
