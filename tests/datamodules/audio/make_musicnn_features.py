"""Write musicnn_features.npz: what the networks in torch make of synthetic chords, after a check against the original.

    python -m tests.datamodules.audio.make_musicnn_features REFERENCE.npz

REFERENCE.npz holds what musicnn 0.1.0's own graphs, run by TensorFlow, give for any log-mel windows: ``log_mel`` (N, 187, 96) and the
probabilities of the tags, ``MSD_musicnn`` and ``MTT_musicnn`` (N, 50). Nothing is written where a probability differs by more than
``SAME``. The file that is here was written with a reference of TensorFlow 2.21 for 12 windows of real music (four clips of
Emotify from seconds 0, 9 and 21): the probabilities differed by 4.2e-7 (MSD_musicnn) and 3.0e-7 (MTT_musicnn) at most. From the
waveforms of these clips, resampled by librosa, log-mel differed by 3.9e-5 and the probabilities by 1.4e-6 and 7.8e-7; with the
project's own resampling these differed by 1.0e-2 and 6.3e-3.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from datamodules.audio.musicnn import MODELS, SAMPLE_RATE, network, tag_logits, window_features
from tests.datamodules.audio.sounds import chords

FILE = Path(__file__).with_name("musicnn_features.npz")
SECONDS = 5.5  # three windows
SAME = 2e-6


def main(reference: str) -> None:
    expected = np.load(reference, allow_pickle=False)
    arrays = {}
    for model, name in MODELS.items():
        with torch.inference_mode():
            features = network(model)(torch.from_numpy(expected["log_mel"])).numpy()
        probabilities = 1 / (1 + np.exp(-tag_logits(features, model)))
        difference = np.abs(probabilities - expected[name]).max()
        print(f"{name}: probabilities differ by {difference:.1e} at most")
        if difference > SAME:
            raise SystemExit("that is too much: nothing is written")
        arrays[model] = window_features(chords(SECONDS, SAMPLE_RATE), SAMPLE_RATE, (model,))
        arrays[f"{model}_logits"] = tag_logits(arrays[model], model)
    np.savez(FILE, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
