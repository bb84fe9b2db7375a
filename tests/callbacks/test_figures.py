"""The callbacks that draw, and where their figures go."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import WandbLogger
from tiny_runs import NAMES, TinyData, tiny_module, tiny_trainer

from callbacks.accuracy_curves import AccuracyCurves, spread
from callbacks.embedding_map import EmbeddingMap
from callbacks.filters import FilterPlot
from callbacks.learning_rate import ReduceLearningRate
from callbacks.mask_heatmap import MaskHeatmap
from callbacks.projection import plane
from callbacks.throughput import Throughput
from callbacks.triplet_accuracy import TripletAccuracy
from disentangled_ml.network.frontends import FRONTENDS, NnAudioFrontend, WaveformFrontend
from disentangled_ml.network.masks import MASKS
from disentangled_ml.structures import TRACK, AudioSettings

FIGURES = ("triplet_accuracy", "masks", "embedding_map")


def all_callbacks():
    return [Throughput(), TripletAccuracy(), ReduceLearningRate(), AccuracyCurves(), MaskHeatmap(), EmbeddingMap()]


def assert_drawn(path: Path, width: int = 600, height: int = 150) -> None:
    image = Image.open(path).convert("RGB")
    assert image.width >= width
    assert image.height >= height
    assert len(image.getcolors(1 << 20)) > 20


@pytest.mark.slow
def test_figures_and_keys_reach_the_run_folder_and_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    trainer = tiny_trainer(tmp_path, *all_callbacks(), epochs=2, logger=logger)
    module, data = tiny_module(), TinyData()
    try:
        trainer.fit(module, datamodule=data)
        trainer.test(module, datamodule=data, verbose=False)
        summary = set(logger.experiment.summary.keys())
        media = Path(logger.experiment.dir) / "media" / "images" / "figures"
    finally:
        logger.experiment.finish()
    names = [*NAMES, TRACK, "mean"]
    expected = {f"{split}/triplet_accuracy/{name}" for split in ("train", "val", "test") for name in names}
    expected |= {"val/loss", "test/loss", "train/learning_rate", "train/chunks_per_second", "train/data_wait_share"}
    assert expected <= summary
    for name in FIGURES:
        assert_drawn(tmp_path / "figures" / f"{name}.png")
        assert list(media.glob(f"{name}*.png")), f"W&B has no figure {name}"


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("n_conditions", [1, 3, 5])
def test_any_masks_and_number_of_conditions(tmp_path, kind, n_conditions):
    names = ["genre", "mood", "tempo", "key", "era"][:n_conditions]
    trainer = tiny_trainer(tmp_path, *all_callbacks())
    module, data = tiny_module(names=names, masks=MASKS[kind]), TinyData(names, n_tracks=6)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    for name in FIGURES:
        assert_drawn(tmp_path / "figures" / f"{name}.png", width=400)


class FittedTrainer:
    """Stand in for a trainer: it has a folder and no logger."""

    is_global_zero, logger = True, None

    def __init__(self, folder: Path):
        self.default_root_dir = str(folder)


def network_with(frontend: torch.nn.Module) -> SimpleNamespace:
    return SimpleNamespace(network=SimpleNamespace(frontend=frontend))


SMALL = AudioSettings(sample_rate=8000, n_fft=256, hop_length=128, n_mels=24)
TRAINED = {
    "bank": lambda: WaveformFrontend(SMALL),
    "mel": lambda: NnAudioFrontend(SMALL, trainable_mel=True),
    "stft": lambda: NnAudioFrontend(SMALL, trainable_stft=True),
}


@pytest.mark.parametrize("build", TRAINED.values(), ids=TRAINED)
def test_filters_are_drawn_as_they_are(tmp_path, build):
    torch.manual_seed(0)
    frontend = build()
    with torch.no_grad():
        for parameter in frontend.parameters():
            parameter.add_(0.2 * parameter.abs().mean() * torch.randn_like(parameter))
    FilterPlot().on_test_end(FittedTrainer(tmp_path), network_with(frontend))
    assert_drawn(tmp_path / "figures" / "filters.png")


@pytest.mark.parametrize("name", ["mel", "nnaudio"])
def test_filters_that_are_fixed_are_not_drawn(tmp_path, name):
    FilterPlot().on_test_end(FittedTrainer(tmp_path), network_with(FRONTENDS[name](SMALL)))
    assert not (tmp_path / "figures").exists()


def test_history_survives_a_resume(tmp_path):
    first = AccuracyCurves()
    trainer = tiny_trainer(tmp_path, TripletAccuracy(), first, epochs=2)
    trainer.fit(tiny_module(), datamodule=TinyData())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = AccuracyCurves()
    trainer = tiny_trainer(tmp_path, TripletAccuracy(), resumed, epochs=4)
    trainer.fit(tiny_module(), datamodule=TinyData(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert set(resumed.history) == {
        f"{s}/triplet_accuracy/{n}" for s in ("train", "val") for n in [*NAMES, TRACK, "mean"]
    }
    for key, points in resumed.history.items():
        assert [epoch for epoch, _ in points] == [1, 2, 3, 4]
        assert points[:2] == first.history[key]
    trainer.validate(tiny_module(), datamodule=TinyData(), verbose=False)
    assert len(resumed.history["val/triplet_accuracy/mean"]) == 4


def test_epoch_done_again_replaces_what_it_gave_before():
    class Trainer:
        current_epoch = 1
        callback_metrics = {"val/triplet_accuracy/mean": torch.tensor(0.75), "val/loss": torch.tensor(1.0)}  # noqa: RUF012

    curves = AccuracyCurves()
    curves.history = {"val/triplet_accuracy/mean": [[1, 0.5], [2, 0.6], [3, 0.7]]}
    curves.keep(Trainer(), "val")
    assert curves.history == {"val/triplet_accuracy/mean": [[1, 0.5], [2, 0.75]]}


def test_spread_keeps_order_and_distance():
    positions = [0.7, 0.71, 0.7, 0.3, 0.705]
    moved = spread(positions, 0.05)
    assert np.diff(sorted(moved)).min() > 0.049
    assert moved[3] == 0.3
    assert moved[0] < moved[2] < moved[4] < moved[1]


def test_plane_keeps_groups_apart_and_is_the_same_each_time():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(40, 6)).astype(np.float32) * 0.05
    points[20:] += 1.0
    places = plane(points)
    assert places.shape == (40, 2)
    assert np.array_equal(places, plane(points))
    centres = places[:20].mean(0), places[20:].mean(0)
    assert np.linalg.norm(centres[0] - centres[1]) > places[:20].std() + places[20:].std()


@pytest.mark.parametrize("shape", [(1, 4), (2, 1), (5, 3), (12, 1), (30, 8)], ids=str)
def test_plane_takes_any_number_of_tracks_and_dimensions(shape):
    points = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for given in (points, np.pad(points, ((0, 0), (0, 3))), points * 0, np.ones_like(points)):
        places = plane(given)
        assert places.shape == (shape[0], 2)
        assert np.isfinite(places).all()


def test_map_draws_at_most_max_tracks(tmp_path, monkeypatch):
    import callbacks.embedding_map as embedding_map

    sizes = []
    monkeypatch.setattr(embedding_map, "plane", lambda points: sizes.append(len(points)) or points[:, :2])
    trainer = tiny_trainer(tmp_path, TripletAccuracy(), EmbeddingMap(max_tracks=7))
    trainer.test(tiny_module(), datamodule=TinyData(), verbose=False)
    assert sizes == [7] * len(NAMES)
