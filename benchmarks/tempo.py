"""madmom's networks in torch beside madmom: ``python -m benchmarks.tempo [manifest=FILE.csv] [clips=8]``.

Compares, group by group of recordings in turn and on one thread, the processor time from samples to beat activations, the
activations themselves and the tempi that madmom's comb filters read from them. Without a manifest the clips are generated.

On some music the networks amplify rounding: a few frames of a few recordings differ by up to some 1e-4, which is how far madmom's
own float32 is from the same networks in float64. So the target is for the share of frames that agree.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import process_time
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.catalogue import clip
from benchmarks.measurement import Measurement, compared
from benchmarks.table import as_text
from datamodules.audio.beat_networks import SLOTS
from datamodules.audio.decoding import decode
from datamodules.audio.tempo import SAMPLE_RATE, excerpt_of, networks, reference, tempo_of
from datamodules.corpora.manifest import read_manifest
from datamodules.corpora.records import collect

LEAST_SPEEDUP = 5.0
MOST_DIFFERENCE = 1e-4  # of activations, which are probabilities
# Least share of frames whose activations are that close.
LEAST_CLOSE = 0.999
LEAST_SAME = 0.99  # share of recordings with the same tempo
PEER = "madmom's RNNBeatProcessor"
CLIPS = 8


class Comparison(NamedTuple):
    """Seconds of each group of recordings, differences of all frames, and whether the tempi are the same."""

    times: dict[str, list[float]]
    differences: list[np.ndarray]
    same: list[bool]


def excerpts(manifest: Path | None, n_clips: int) -> Iterator[np.ndarray]:
    """Yield the excerpts of the first recordings of a manifest, or of generated ones."""
    if manifest is None:
        for number in range(n_clips):
            yield excerpt_of(clip(number, 30, SAMPLE_RATE).mean(axis=1), SAMPLE_RATE)
    else:
        for record in collect(read_manifest(manifest, (1.0, 0.0, 0.0)))[0][:n_clips]:
            yield excerpt_of(*decode(Path(record.path)))


def by_madmom(group: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compute the activations of each recording with madmom."""
    return [reference()(samples) for samples in group]


def compare(recordings: Iterator[np.ndarray]) -> Comparison:
    """Run both implementations on each group of recordings."""
    found = Comparison({"ours": [], PEER: []}, [], [])
    while group := list(islice(recordings, SLOTS)):
        activations = []
        for name, run in (("ours", networks()), (PEER, by_madmom)):
            start = process_time()
            activations.append(run(group))
            found.times[name].append(process_time() - start)
        for ours, peer in zip(*activations, strict=True):
            found.differences.append(np.abs(ours - peer))
            found.same.append(tempo_of(ours) == tempo_of(peer))
    return found


def measure(manifest: Path | None = None, n_clips: int = CLIPS) -> list[Measurement]:
    """Measure the speed, once the activations are found to be the same.

    Raises:
        RuntimeError: If they are not, so that their speed means nothing.
    """
    torch.set_num_threads(1)
    compare(iter([excerpt_of(clip(0, 4, SAMPLE_RATE)[:, 0], SAMPLE_RATE)]))  # pays for imports and models
    found = compare(excerpts(manifest, n_clips))
    difference, same = np.concatenate(found.differences), np.mean(found.same)
    close = np.mean(difference <= MOST_DIFFERENCE)
    agreement = (
        f"{len(found.same)} recordings: {same:.1%} have the same tempo, {close:.2%} of all frames the same activation to "
        f"{MOST_DIFFERENCE:g}, all to {difference.max():.0e}"
    )
    if close < LEAST_CLOSE or same < LEAST_SAME:
        raise RuntimeError(f"{agreement}: not what madmom computes")
    stage = f"beat activations of {SLOTS} {'recordings' if manifest else 'clips of 30 s'}"
    return [compared(stage, found.times, peer=PEER, least_speedup=LEAST_SPEEDUP, note=agreement)]


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if given.keys() - {"manifest", "clips"}:
        raise SystemExit(__doc__)
    manifest = Path(given["manifest"]) if "manifest" in given else None
    sys.stdout.write(as_text(measure(manifest, int(given.get("clips", CLIPS)))))
