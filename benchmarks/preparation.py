"""Preparation, in this process on one thread, except for the last row: ``python -m benchmarks.preparation``.

* The log-mel spectrogram of a decoded track, against librosa's melspectrogram of the same magnitude, and against its Fourier
  transforms alone, by the fastest library at hand.
* A track without tempo, decoded, resampled, transformed, against its decoding alone: what no preparation can go below.
* A catalogue by two processes, against one, in the time of each further track.
"""

import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import librosa
import numpy as np
import torch

from benchmarks.catalogue import AUDIO, write_clips
from benchmarks.measurement import Measurement, compared, interleaved, median_ratio
from benchmarks.table import as_text
from datamodules.audio.decoding import decode
from datamodules.audio.spectrogram import BLOCK_FRAMES, log_mel, resample
from datamodules.corpora.manifest import read_manifest
from datamodules.shards.preparation import PreparationSettings, prepare_shards, prepare_tracks
from disentangled_ml.structures import TrackRecord

CLIPS = 8
# Rows of the catalogue per recording; the difference between the two runs is time without the start.
FEW, MANY = 2, 16
PLAIN = PreparationSettings(AUDIO, tempo="manifest", tracks_per_shard=16)


def librosa_mel(waveform: np.ndarray) -> np.ndarray:
    """Compute with librosa what ``log_mel`` computes, without the logarithm."""
    return librosa.feature.melspectrogram(
        y=waveform, sr=AUDIO.sample_rate, n_fft=AUDIO.n_fft, hop_length=AUDIO.hop_length, n_mels=AUDIO.n_mels, power=1.0,
        pad_mode="reflect",
    )  # fmt: skip


def measure_mel(paths: list[Path]) -> Measurement:
    """Compare the speed of the spectrogram with librosa's, after checking that they are equal."""
    waveform = resample(*decode(paths[0]), AUDIO.sample_rate)
    np.testing.assert_allclose(log_mel(waveform, AUDIO), np.log10(1 + 10 * librosa_mel(waveform)), atol=2e-3)
    frames = torch.from_numpy(waveform).unfold(0, AUDIO.n_fft, AUDIO.hop_length)
    blocks = [block.contiguous() for block in frames.split(BLOCK_FRAMES)]
    tasks = {
        "ours": lambda: log_mel(waveform, AUDIO),
        "librosa": lambda: librosa_mel(waveform),
        "FFT alone": lambda: [torch.fft.rfft(block) for block in blocks],
    }
    times = interleaved(tasks, 31)
    most = f"FFT alone is {median_ratio(times['librosa'], times['FFT alone']):.1f} times librosa"
    return compared("log-mel of 30 s", times, "librosa", "FFT alone", least_speedup=3.0, note=most)


def measure_pipeline(paths: list[Path]) -> Measurement:
    """Compare the preparation of a track with its decoding."""
    records = [TrackRecord(str(number), str(path), None, "train", {}) for number, path in enumerate(paths)]
    tasks = {"ours": lambda: prepare_tracks(records, PLAIN), "decoding": lambda: [decode(path) for path in paths]}
    times = interleaved(tasks)
    line = compared(f"preparation without tempo, {len(paths)} mp3s of 30 s", times, limit="decoding")
    share = f"decoding is {1 / line.overhead:.0%} of it"
    return compared(line.stage, times, limit="decoding", note=share)


def measure_processes(paths: list[Path], folder: Path) -> Measurement:
    """Compare two processes with one by the time of further tracks, without the start, which takes some seconds for any catalogue."""
    catalogues, numbers = {}, count()
    for copies in (FEW, MANY):
        rows = "".join(f"{copy}-{path.stem},{path.name}\n" for copy in range(copies) for path in paths)
        catalogues[copies] = folder / f"manifest-{copies}.csv"
        catalogues[copies].write_text("track_id,path\n" + rows)

    def prepare(workers: int, copies: int) -> None:
        records = read_manifest(catalogues[copies], (0.7, 0.1, 0.2))
        prepare_shards(records, folder / f"out-{next(numbers)}", PLAIN, workers)

    whole = interleaved({(n, copies): partial(prepare, n, copies) for n in (1, 2) for copies in (FEW, MANY)})
    further = {n: [many - few for few, many in zip(whole[n, FEW], whole[n, MANY], strict=True)] for n in (1, 2)}
    stage = f"preparation by two processes, {(MANY - FEW) * len(paths)} tracks more"
    note = f"start {median(whole[2, FEW]) - FEW / (MANY - FEW) * median(further[2]):.1f} s"
    times = {"ours": further[2], "one process": further[1]}
    return compared(stage, times, peer="one process", least_speedup=1.8, note=note)


def measure() -> list[Measurement]:
    """Measure all."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_clips(Path(folder), CLIPS)
        return [measure_mel(paths), measure_pipeline(paths), measure_processes(paths, Path(folder))]


if __name__ == "__main__":
    sys.stdout.write(as_text(measure()))
