"""A training batch and a small network, as configured by default, for what is measured of a step."""

from collections.abc import Callable

import torch
from torch.nn.functional import one_hot

from disentangled_ml.network.backbones import BACKBONES
from disentangled_ml.network.frontends import MelFrontend
from disentangled_ml.network.masks import FixedMasks
from disentangled_ml.network.model import ConditionalSimilarityNetwork
from disentangled_ml.objective.conditions import Condition, TagCondition, TempoCondition
from disentangled_ml.structures import AudioSettings, BatchTracks

TRACKS, CHUNKS, MIN_GAP, DIM = 16, 4, 65, 256
BACKBONE, WIDTH = "conv", 0.25


def timed(task: Callable[[], object], device: str) -> Callable[[], None]:
    """Return a task that ends when the device has done its work."""

    def run() -> None:
        task()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def step_conditions() -> list[Condition]:
    """Return conditions like those of the demo corpus."""
    tags = {"genre": 5, "mood": 4, "instrument": 5}
    return [*(TagCondition(name, tuple(map(str, range(n)))) for name, n in tags.items()), TempoCondition()]


def step_tracks(conditions: list[Condition], device: str) -> BatchTracks:
    """Return the tracks of a batch, each with one tag per condition."""
    generator = torch.Generator().manual_seed(0)
    sizes = [len(condition.vocabulary) for condition in conditions if isinstance(condition, TagCondition)]
    tags = [one_hot(torch.randint(n, (TRACKS,), generator=generator), n).bool().to(device) for n in sizes]
    tempo = (60 + 120 * torch.rand(TRACKS, 1, generator=generator)).to(device)
    start = (MIN_GAP * torch.arange(CHUNKS)).repeat(TRACKS, 1)
    return BatchTracks([*tags, tempo], torch.full((TRACKS,), -1, device=device), start.to(device))


def small_network(names: list[str], device: str) -> ConditionalSimilarityNetwork:
    """Return a network in training mode."""
    masks = FixedMasks(len(names), DIM)
    network = ConditionalSimilarityNetwork(MelFrontend(AudioSettings()), BACKBONES[BACKBONE](DIM, WIDTH), masks, names)
    return network.to(device, memory_format=torch.channels_last).train()
