"""How well tempo triplets can be ordered without learning: ``python -m benchmarks.tempo_ceiling data=shards data.shards=DIR``.

Where a network's tempo accuracy is poor, this shows whether the labels or the length of the chunks are the reason: each chunk is
described by the autocorrelation of its onset strength, sampled at 64 tempi, and a track by the mean over its chunks. The
triplets are those of the shards' validation and test lists.
"""

import sys

import numpy as np
import torch
from omegaconf import DictConfig

from datamodules.datamodule import SimilarityDataModule
from disentangled_ml import builders
from disentangled_ml.config import TrainConfig
from disentangled_ml.console import run_command
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable, evaluation_report
from disentangled_ml.reporting.cells import accuracy_text
from disentangled_ml.structures import AudioSettings, Member
from disentangled_ml.systems import read_mels

TEMPI = np.geomspace(45, 220, 64)  # BPM
CHUNK_FRAMES = (129, 258, 516)  # 3, 6 and 12 s


def onset_autocorrelation(mel: np.ndarray, audio: AudioSettings) -> np.ndarray:
    """Return the autocorrelation of the rising energy of a spectrogram: (n_mels, frames) to (64,)."""
    onset = np.maximum(np.diff(mel, axis=1), 0).sum(0)
    onset -= onset.mean()
    power = np.abs(np.fft.rfft(onset, 2 * len(onset))) ** 2
    correlation = np.fft.irfft(power)[: len(onset)]
    lag = 60 * audio.sample_rate / (audio.hop_length * TEMPI)
    return np.interp(lag, np.arange(len(onset)), correlation / max(correlation[0], 1e-9))


def describe_split(data: SimilarityDataModule, split: str, frames: int) -> EmbeddingTable:
    """Return the mean of every track over its chunks of some length (the whole, if it is shorter)."""
    table = EmbeddingTable()
    for track_id, spect in read_mels(data.index, split):
        mel = spect.numpy()
        starts = range(0, max(1, mel.shape[1] - frames + 1), frames)
        chunks = [onset_autocorrelation(mel[:, start : start + frames], data.index.audio) for start in starts]
        row = torch.tensor(np.mean(chunks, axis=0), dtype=torch.float32)
        table.rows[Member(track_id)] = torch.nn.functional.normalize(row, dim=0)
    return table


def main(config: DictConfig) -> None:
    """Print the accuracies."""
    data = builders.build_data(config)
    data.setup("test")
    for split in ("val", "test"):
        triplets = [triplet for triplet in data.triplets[split] if triplet.condition == "tempo"]
        for frames in CHUNK_FRAMES:
            table = describe_split(data, split, frames)
            report = evaluation_report(table, triplets, torch.ones(1, len(TEMPI)), ["tempo"])
            seconds = data.index.audio.seconds(frames)
            sys.stdout.write(f"{split}, chunks of {seconds:.0f} s: {accuracy_text(report['all']['tempo'])}\n")


if __name__ == "__main__":
    run_command("benchmarks.tempo_ceiling", TrainConfig, sys.argv[1:])
