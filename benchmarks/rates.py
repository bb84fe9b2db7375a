"""What a catalogue costs, per track of 30 s and core: ``python -m benchmarks.rates [clips=6]``.

Measures the processor time (not the clock, so that other work on the machine matters little) of each stage of preparation on
generated stereo mp3s of 44,100 Hz, of reading the shards, and the bytes that a track takes. The hours, disks and shards of a large
catalogue follow from these: docs/scale.md. The results are also written to ``bench/rates.json``.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import soundfile
import torch

from benchmarks.catalogue import AUDIO, clip
from datamodules.audio.beat_networks import SLOTS
from datamodules.audio.decoding import decode, encode_flac
from datamodules.audio.spectrogram import log_mel, resample
from datamodules.audio.tempo import estimate_tempi, excerpt_of
from datamodules.shards.index import Shard
from datamodules.shards.tar import decode_mel, read_samples, share_slices, write_shard
from disentangled_ml.structures import TrackInfo

SECONDS, SAMPLE_RATE = 30, 44_100
READ = 256  # tracks whose shard is read


def timed(task: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the processor seconds of a task, and its result."""
    start = process_time()
    result = task(*arguments)
    return process_time() - start, result


def measure(n_clips: int, folder: Path) -> dict[str, float]:
    """Measure all stages, by the median over the clips."""
    torch.set_num_threads(1)
    stages = ("decode", "resample", "mel", "tempo", "madmom", "flac", "flac_bytes")  # madmom: the tempo by itself
    found: dict[str, list[float]] = {name: [] for name in stages}
    for number in range(n_clips + 1):
        path = folder / f"{number}.mp3"
        soundfile.write(path, clip(number, SECONDS, SAMPLE_RATE), SAMPLE_RATE, format="MP3")
        decoding, decoded = timed(decode, path)
        resampling, waveform = timed(resample, *decoded, AUDIO.sample_rate)
        mel_time, mel = timed(log_mel, waveform, AUDIO)
        cutting, excerpt = timed(excerpt_of, waveform, AUDIO.sample_rate)
        networks, _ = timed(estimate_tempi, [excerpt] * SLOTS)
        madmom, _ = timed(estimate_tempi, [excerpt], "madmom")
        flac_time, flac = timed(encode_flac, waveform, AUDIO.sample_rate)
        # The first one pays for imports and tables.
        if number:
            tempo, madmom = cutting + networks / SLOTS, cutting + madmom
            values = (decoding, resampling, mel_time, tempo, madmom, flac_time, float(len(flac)))
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
    samples = ({"info": TrackInfo(f"{i}", None, mel.shape[1], {}), "mel": mel} for i in range(READ))
    write_shard(folder / "a.tar", samples)
    slices = share_slices([Shard("a.tar", READ)], 0, 1)

    def read() -> None:
        for sample in read_samples(folder, slices, ("json", "mel.npy")):
            decode_mel(sample["mel.npy"])

    reading = min(timed(read)[0] for _ in range(3)) / READ
    return {
        **{name: median(values) for name, values in found.items()},
        "read": reading,
        "mel_bytes": (folder / "a.tar").stat().st_size / READ,
    }


def main(n_clips: int) -> None:
    """Measure, print and save the results."""
    with tempfile.TemporaryDirectory() as folder:
        results = measure(n_clips, Path(folder))
    for name, value in results.items():
        shown = f"{value / 1000:.0f} kB" if name.endswith("bytes") else f"{value * 1000:.2f} ms"
        sys.stdout.write(f"{name:>10}  {shown} per track of {SECONDS} s\n")
    path = Path("bench") / "rates.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if given.keys() - {"clips"}:
        raise SystemExit(__doc__)
    main(int(given.get("clips", 6)))
