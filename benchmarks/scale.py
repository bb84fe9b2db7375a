"""Memory and start-up on a simulated catalogue: ``python -m benchmarks.scale out=DIR [tracks=1000000]``.

A catalogue is simulated by an index of as many shards as a real one would have, most of which are hard links to a few small tars.
Measured are, each in a process of its own, for the whole catalogue and for one of a tenth of the tracks:

* start-up: from the start of the process to the first training batch (configuration, index, labels and lists of validation and
  test, network, loader), when the lists are first made and when they are kept;
* the resident memory of a loading process after a tenth of the streamed tracks and after all of them.

The results are also written to ``bench/scale.json``.
"""

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from time import perf_counter

from benchmarks.catalogue import AUDIO, TRACKS_PER_SHARD, condition_entries, samples_of
from datamodules.shards.index import Shard, ShardIndex, labels_name
from datamodules.shards.tar import read_infos, write_shard
from disentangled_ml import builders
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.files import as_json

DISTINCT = 16  # training tars that differ
# Shards of validation and of test: 10,048 tracks each, as many as a catalogue of any size needs.
HELD_OUT = 157
# Of a track: hardly more than 6 s, two chunks.
FRAMES, SPREAD = 258, 32
STREAMED = 100_000  # tracks


def simulate(root: Path, n_tracks: int) -> ShardIndex:
    """Make a catalogue; what exists already stays."""
    root.mkdir(parents=True, exist_ok=True)
    if (root / "index.json").is_file():
        return ShardIndex.read(root)
    splits: dict[str, list[Shard]] = {"train": [], "val": [], "test": []}
    n_train = n_tracks // TRACKS_PER_SHARD - 2 * HELD_OUT
    first = 0
    for split, n_shards in (("train", n_train), ("val", HELD_OUT), ("test", HELD_OUT)):
        for number in range(n_shards):
            path = root / f"{split}-{number:06d}.tar"
            if split == "train" and number >= DISTINCT:
                os.link(root / f"train-{number % DISTINCT:06d}.tar", path)
            else:
                write_shard(path, samples_of(first, TRACKS_PER_SHARD, FRAMES, SPREAD))
                first += TRACKS_PER_SHARD
            splits[split].append(Shard(path.name, TRACKS_PER_SHARD))
    index = ShardIndex(root, AUDIO, False, condition_entries(), splits)
    for split in ("val", "test"):
        lines = [as_json(info._asdict()) + "\n" for info in read_infos(index, split)]
        (root / labels_name(split)).write_text("".join(lines), encoding="utf-8")
    index.write()
    return index


def resident_mb(pid: int | str) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def probe(root: str, workers: str, n_tracks: str) -> None:
    """Start as training does, stream a number of tracks, and print what was measured as JSON."""
    arguments = ["data=shards", f"data.shards={root}", f"data.workers={workers}", "backbone=conv", "trainer=cpu"]
    config = load_config(TrainConfig, arguments)
    data = builders.build_data(config)
    builders.build_module(config, data.conditions, data.index.audio)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = (batch for _ in count() for batch in loader)  # epoch after epoch
    next(batches)
    sys.stdout.write(json.dumps({"event": "first batch"}) + "\n")
    sys.stdout.flush()
    loading = loader._iterator._workers[0].pid if int(workers) else "self"
    n_batches = int(n_tracks) // data.plan.fresh_tracks
    marks = {n_batches // 10: "tenth", n_batches: "all"}
    for number in range(2, n_batches + 1):
        next(batches)
        if number in marks:
            sys.stdout.write(json.dumps({"event": marks[number], "resident_mb": resident_mb(loading)}) + "\n")
            sys.stdout.flush()


def measure(root: Path, workers: int, n_tracks: int) -> dict[str, float]:
    """Run a probe in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "probe", str(root), str(workers), str(n_tracks)]
    start, found = perf_counter(), {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            content = json.loads(line)
            found[f"{content['event']}_s"] = perf_counter() - start
            if "resident_mb" in content:
                found[f"{content['event']}_mb"] = content["resident_mb"]
    if process.returncode:
        raise SystemExit(f"the probe of {root} failed")
    return found


def main(out: Path, n_tracks: int) -> None:
    """Measure, print and save the results."""
    results = {}
    for n in (n_tracks // 10, n_tracks):
        root = out / f"catalogue-{n}"
        index = simulate(root, n)
        n_shards = sum(len(shards) for shards in index.splits.values())
        for path in root.glob("triplets/*.csv"):
            path.unlink()
        made, kept = (measure(root, 0, 0)["first batch_s"] for _ in range(2))
        streamed = measure(root, 1, STREAMED)
        results[n] = {"shards": n_shards, "startup_made_s": made, "startup_kept_s": kept, **streamed}
        growth = streamed["all_mb"] / streamed["tenth_mb"] - 1
        sys.stdout.write(
            f"{n:,} tracks in {n_shards:,} shards: start-up {made:.1f} s, {kept:.1f} s with kept lists; loading process "
            f"{streamed['tenth_mb']:.0f} MB after {STREAMED // 10:,} tracks, {streamed['all_mb']:.0f} MB after {STREAMED:,} "
            f"({growth:+.1%})\n"
        )
    few, many = results.values()
    sys.stdout.write(f"ten times the tracks in the catalogue: {many['all_mb'] / few['all_mb'] - 1:+.1%} memory\n")
    path = Path("bench") / "scale.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["probe"]:
        probe(*sys.argv[2:])
    else:
        given = dict(argument.split("=", 1) for argument in sys.argv[1:])
        if "out" not in given or given.keys() - {"out", "tracks"}:
            raise SystemExit(__doc__)
        main(Path(given["out"]), int(given.get("tracks", 1_000_000)))
