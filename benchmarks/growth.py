"""Growth: every stage at 1, 4 and 16 times the work; cost per item and memory should stay where they are.

``python -m benchmarks.growth [out=bench/growth.png]`` runs each stage at each size in a process of its own, on one thread, and takes
its processor time per item (which other work on the machine disturbs least) and its peak of resident memory. The start of the
process, and a first item that pays for tables and kernels, do not count in the time.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from statistics import median
from time import process_time

import torch
from matplotlib.figure import Figure

from benchmarks.batch import small_network
from benchmarks.catalogue import AUDIO, clip, condition_entries, write_catalogue, write_clips
from datamodules.audio.tempo import estimate_tempi, excerpt_of
from datamodules.corpora.manifest import read_manifest
from datamodules.datamodule import SimilarityDataModule
from datamodules.shards.conditions import build_conditions
from datamodules.shards.index import Shard, ShardIndex
from datamodules.shards.plan import plan_shards
from datamodules.shards.preparation import PreparationSettings, ShardStore, prepare_tracks
from datamodules.shards.resumable import Batch
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable, evaluation_report
from disentangled_ml.objective.losses import DisentangledTripletLoss
from disentangled_ml.processes import keep_freed_memory
from disentangled_ml.structures import ListedTriplet, Member, TrackRecord

TIMES = (1, 4, 16)
ROUNDS = 3
MOST_GROWTH = 0.10
PLAIN = PreparationSettings(AUDIO, tempo="manifest")
SHARE = (0.7, 0.1, 0.2)


def stream(folder: Path, times: int) -> tuple[Callable[[], object], int]:
    """Stream an epoch of 2,048 tracks and more, four pools of them, of shards that are 8 tars again and again."""
    few = write_catalogue(folder / "shards", train=512)
    shards, times = few.splits["train"], 4 * times
    for copy in range(1, times):
        for shard in shards:
            (few.root / f"{copy}-{shard.file}").hardlink_to(few.root / shard.file)
    names = [shard.file if copy == 0 else f"{copy}-{shard.file}" for copy in range(times) for shard in shards]
    splits = {"train": [Shard(name, 64) for name in names], "val": [], "test": []}
    index = ShardIndex(few.root, AUDIO, False, condition_entries(), splits)
    loader = SimilarityDataModule(index, build_conditions(index)).train_dataloader()
    next(iter(loader))
    return lambda: [len(batch.audio) for batch in loader], 512 * times


def train(folder: Path, times: int) -> tuple[Callable[[], object], int]:
    """Train a small network for 4 steps and more."""
    index = write_catalogue(folder / "shards", frames=258, train=1024)
    conditions = build_conditions(index)
    network = small_network([condition.name for condition in conditions], "cpu")
    loss, optimizer = DisentangledTripletLoss(), torch.optim.Adam(network.parameters())
    batches = iter(SimilarityDataModule(index, conditions).train_dataloader())

    def steps(n: int) -> None:
        for batch in islice(batches, n):
            optimizer.zero_grad()
            loss(network.raw_embedding(batch.audio), network.masks(), batch.triplets).total.backward()
            optimizer.step()

    steps(2)
    return lambda: steps(4 * times), 4 * times


def prepare(folder: Path, times: int) -> tuple[Callable[[], object], int]:
    """Decode, transform and write 16 recordings and more into a shard."""
    paths = write_clips(folder, 4)

    def make(n: int) -> None:
        records = (TrackRecord(str(i), str(paths[i % len(paths)]), None, "train", {}) for i in range(n))
        samples = chain.from_iterable(prepare_tracks([record], PLAIN) for record in records)
        store.write(Batch("train-000000", n), samples)

    store = ShardStore(folder, "growth")
    store.claim()
    make(2)
    return lambda: make(16 * times), 16 * times


def plan(folder: Path, times: int) -> tuple[Callable[[], object], int]:
    """Plan the shards of a manifest of 10,000 rows and more."""
    manifest = folder / "manifest.csv"
    with manifest.open("w") as file:
        file.write("track_id,path,artist,genre\n")
        file.writelines(f"t{i},{i}.mp3,artist {i // 8},rock\n" for i in range(10_000 * times))
    return lambda: plan_shards(read_manifest(manifest, SHARE), PLAIN, 64), 10_000 * times


def estimate(folder: Path, times: int) -> tuple[Callable[[], object], int]:
    """Estimate the tempi of 4 clips of 10 s and more."""
    clips = [excerpt_of(clip(i, 10, 44_100).mean(1), 44_100) for i in range(4)]
    estimate_tempi(clips)
    return lambda: [estimate_tempi(clips) for _ in range(times)], 4 * times


def evaluate(folder: Path, times: int) -> tuple[Callable[[], object], int]:
    """Report on 40,000 triplets and more, of 2,000 tracks; resampling the tracks takes a while for any number of triplets."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(2000, 256, generator=generator), dim=1)
    table = EmbeddingTable(rows={Member(str(i)): vector for i, vector in enumerate(vectors)})
    tracks = list(table.rows)
    members = [tracks[i] for i in torch.randint(2000, (120_000 * times,), generator=generator).tolist()]
    triplets = [ListedTriplet("genre", *members[i : i + 3]) for i in range(0, len(members), 3)]
    masks = torch.zeros(1, 256).index_fill_(1, torch.arange(64), 1)
    evaluation_report(table, triplets[:10_000], masks, ["genre"])
    return lambda: evaluation_report(table, triplets, masks, ["genre"]), 40_000 * times


STAGES = {
    "streaming (track)": stream,
    "training (step)": train,
    "preparation (track)": prepare,
    "planning (row)": plan,
    "tempo (clip)": estimate,
    "evaluation (triplet)": evaluate,
}


def probe(stage: str, times: int) -> dict[str, float]:
    """Run a stage in this process; return its processor time per item and its peak memory."""
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        task, items = STAGES[stage](Path(folder), times)
        start = process_time()
        task()
        spent = process_time() - start
    return {"seconds": spent / items, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measure() -> dict[str, dict[str, list[float]]]:
    """Run all stages at all sizes, round by round; return the medians of time and memory, a list over the sizes."""
    found: dict[str, dict[str, list[float]]] = {}
    for stage in STAGES:
        rounds: list[list[dict[str, float]]] = []
        for _ in range(ROUNDS):
            rounds.append([])
            for times in TIMES:
                command = [sys.executable, "-m", "benchmarks.growth", "probe", stage, str(times)]
                rounds[-1].append(
                    json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                )
        found[stage] = {
            key: [median(done[size][key] for done in rounds) for size in range(len(TIMES))]
            for key in ("seconds", "peak_mb")
        }
    return found


def as_text(found: dict[str, dict[str, list[float]]]) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| stage (item) | cost of an item | at 4 times | at 16 times | peak memory | at 4 times | at 16 times |"]
    lines.append("|---" * 7 + "|")
    for stage, values in found.items():
        (second, *more), (peak, *peaks) = values["seconds"], values["peak_mb"]
        grown = [f"{value / second - 1:+.0%}" for value in more] + [f"{peak:.0f} MB"]
        grown += [f"{value / peak - 1:+.0%}" for value in peaks]
        lines.append(f"| {stage} | {second * 1000:.3g} ms | " + " | ".join(grown) + " |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw cost and memory over the size, each relative to the smallest size."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, title in zip(
        figure.subplots(1, 2),
        ("seconds", "peak_mb"),
        ("processor time per item", "peak memory of the process"),
        strict=True,
    ):
        axes.axhspan(1 - MOST_GROWTH, 1 + MOST_GROWTH, color="0.92")
        for stage, values in found.items():
            axes.plot(TIMES, [value / values[key][0] for value in values[key]], marker="o", label=stage)
        axes.set_xscale("log", base=2)
        axes.set_xticks(TIMES, [f"{times}x" for times in TIMES])
        axes.set_ylim(0, 2)
        axes.set_xlabel("work")
        axes.set_title(f"{title}, relative to 1x", fontsize=10)
    axes.legend(fontsize=7)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def main(out: str = "bench/growth.png") -> None:
    """Measure, print, draw and save the results."""
    found = measure()
    sys.stdout.write(as_text(found))
    draw(found, Path(out))
    Path(out).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["probe"]:
        sys.stdout.write(json.dumps(probe(sys.argv[2], int(sys.argv[3]))))
    else:
        main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
