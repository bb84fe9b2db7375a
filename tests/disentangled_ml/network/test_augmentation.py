"""Augmentation: what is drawn, what it follows, and that only training sees it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from disentangled_ml import builders
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.config.loading import group_choices
from disentangled_ml.network.augmentation import Augmentation, add_noise, change_gain

MASKS = ("augmentation.mask_bands=4", "augmentation.mask_frames=4")
EVERYTHING = Augmentation(6.0, (10.0, 30.0), 8, 8, seed=3)


def waveforms(n: int = 6) -> torch.Tensor:
    return torch.rand(n, 4000, generator=torch.Generator().manual_seed(0)) - 0.5


def spects(n: int = 6) -> torch.Tensor:
    return 1 + torch.rand(n, 1, 20, 30, generator=torch.Generator().manual_seed(0))


def runs_of(blank: torch.Tensor) -> int:
    """Count the runs of True in a row."""
    return int(blank[0]) + sum(bool(b and not a) for a, b in pairwise(blank))


def test_gain_is_within_its_limits_and_of_each_chunk():
    audio = waveforms(200)
    ratio = change_gain(audio, 6.0) / audio
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4)  # of a whole chunk
    level = 20 * ratio[:, 0].log10()
    assert level.abs().max() <= 6.0 + 1e-4
    assert level.min() < -5.0 < 5.0 < level.max()
    assert len(set(level.tolist())) > 100


def test_noise_has_its_ratio():
    audio = waveforms(200)
    noise = add_noise(audio, 10.0, 30.0) - audio
    ratio = 10 * (audio.square().mean(1) / noise.square().mean(1)).log10()
    assert (ratio > 9.5).all()
    assert (ratio < 30.5).all()
    assert ratio.min() < 12.0 < 28.0 < ratio.max()


def test_silence_gets_no_noise():
    assert torch.equal(add_noise(torch.zeros(2, 100), 0.0, 0.0), torch.zeros(2, 100))


def test_masks_blank_one_run_of_bands_and_one_of_frames_at_most():
    spect = spects(200)
    masked = Augmentation(mask_bands=8, mask_frames=5).at(0, 0).change_spect(spect)
    blank = masked[:, 0] == 0
    assert torch.equal(masked[:, 0][~blank], spect[:, 0][~blank])
    bands, frames = blank.all(dim=2), blank.all(dim=1)
    assert torch.equal(blank, bands[:, :, None] | frames[:, None, :])
    for rows, most in ((bands, 8), (frames, 5)):
        count = rows.sum(dim=1)
        assert count.max() <= most
        assert count.float().mean() > 0.3 * most
        assert all(runs_of(row) <= 1 for row in rows)
        assert rows.any(dim=0)[:-1].all()  # the last one is hardly ever reached by torchaudio


def test_draws_follow_seed_step_and_rank_alone():
    def changed(augmentation):
        return augmentation.change_audio(waveforms()), augmentation.change_spect(spects())

    first = changed(EVERYTHING.at(5, 0))
    torch.rand(7)  # what else is drawn does not matter
    assert all(torch.equal(a, b) for a, b in zip(first, changed(EVERYTHING.at(5, 0)), strict=True))
    others = [EVERYTHING.at(6, 0), EVERYTHING.at(5, 1), Augmentation(6.0, (10.0, 30.0), 8, 8, seed=4).at(5, 0)]
    for other in others:
        assert all(not torch.equal(a, b) for a, b in zip(first, changed(other), strict=True))


def test_other_draws_go_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    EVERYTHING.at(0, 0).change_audio(waveforms())
    EVERYTHING.at(0, 0).change_spect(spects())
    assert torch.equal(torch.rand(3), expected)


def test_gradients_reach_the_filters_through_masks():
    spect = spects().requires_grad_()
    EVERYTHING.at(0, 0).change_spect(spect).sum().backward()
    assert 0 < (spect.grad == 0).float().mean() < 0.7


def test_nothing_is_changed_by_default():
    audio, spect, nothing = waveforms(), spects(), Augmentation().at(0, 0)
    assert torch.equal(nothing.change_audio(audio), audio)
    assert torch.equal(nothing.change_spect(spect), spect)


def test_gain_of_a_spectrogram_is_refused():
    with pytest.raises(ValueError, match=r"waveforms \(B, samples\), got the shape \(6, 1, 20, 30\)"):
        EVERYTHING.at(0, 0).change_audio(spects())


def metrics_of(run_dir: Path) -> dict[str, float]:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics.pop("train/seconds") > 0
    return metrics


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted(run):
    changes = (*MASKS, "augmentation.stretch=0.2")
    whole = run("whole", "training.max_epochs=2", *changes)
    run("parts", "training.max_epochs=1", *changes)
    parts = run("parts", "training.max_epochs=2", "resume=true", *changes)
    plain = run("plain", "training.max_epochs=2", *MASKS)
    assert metrics_of(whole) == metrics_of(parts)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(whole).values(), weights_of(parts).values(), strict=True))
    assert any(
        not torch.equal(a, b) for a, b in zip(weights_of(whole).values(), weights_of(plain).values(), strict=True)
    )
    with pytest.raises(ConfigError, match=r"trained with augmentation\.mask_bands=4, not 5"):
        run("parts", "resume=true", "augmentation.mask_bands=5", *changes[1:])


@pytest.mark.slow
def test_only_training_is_changed(run, tiny_arguments):
    """Validation and test are the same every time, and the same as without augmentation."""
    run_dir = run("changed", "training.max_epochs=1", *MASKS)
    kept = json.loads((run_dir / "metrics.json").read_text())
    found = []
    for masks in (MASKS, MASKS, ()):
        config = load_config(TrainConfig, [*tiny_arguments, *masks])
        data = builders.build_data(config)
        module = builders.build_module(config, data.conditions, data.index.audio)
        assert (module.augmentation is None) == (not masks)
        trainer = builders.build_trainer(config, run_dir)
        trainer.validate(module, data, run_dir / "checkpoints" / "best.ckpt", verbose=False, weights_only=True)
        found.append({key: float(value) for key, value in trainer.callback_metrics.items()})
    assert found[0] == found[1] == found[2]
    assert found[0]["val/triplet_accuracy/mean"] == pytest.approx(kept["val/triplet_accuracy/mean"], abs=1e-6)


@pytest.mark.parametrize("choice", group_choices("augmentation"))
@pytest.mark.parametrize("frontend", group_choices("frontend"))
def test_every_choice_is_built_or_refused(tiny_shards, choice, frontend):
    config = load_config(
        TrainConfig, ["data=shards", f"data.shards={tiny_shards}", f"frontend={frontend}", f"augmentation={choice}"]
    )
    audio = builders.AudioSettings()
    if choice == "waveform" and frontend == "mel":
        with pytest.raises(ConfigError, match=r"augmentation\.gain_db=6.0 changes waveforms, but frontend=mel reads"):
            builders.build_augmentation(config, audio)
        return
    if choice == "stretch" and frontend != "mel":
        with pytest.raises(
            ConfigError, match=rf"stretch=0\.2 .* frontend={frontend} reads waveforms, .*: use frontend=mel"
        ):
            builders.build_augmentation(config, audio)
        return
    assert builders.build_plan(config).stretch == (0.2 if choice == "stretch" else 0.0)
    augmentation = builders.build_augmentation(config, audio)
    assert (augmentation is None) == (choice in ("none", "stretch"))
    if augmentation is not None:
        assert (augmentation.mask_bands, augmentation.mask_frames, augmentation.seed) == (16, 16, config.seed)
        assert augmentation.snr_db == ((10.0, 40.0) if choice == "waveform" else None)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["augmentation.gain_db=3"], "gain_db=3.0 changes waveforms"),
        (["augmentation.snr_db=[10,20]"], r"snr_db=\[10.0, 20.0\] changes waveforms"),
        (["augmentation.mask_bands=16"], "mask_bands=16 may blank all 16"),
        (["augmentation.mask_frames=20"], "mask_frames=20 may blank all 16"),
        (
            ["augmentation.stretch=0.05"],
            r"stretch=0\.05 is less than a frame .*chunk_frames=16\): give at least 0\.0667",
        ),
    ],
    ids=["gain", "noise", "bands", "frames", "stretch"],
)
def test_what_cannot_be_is_refused_before_training(run, arguments, match):
    with pytest.raises(ConfigError, match=match):
        run("refused", *arguments)


@pytest.mark.parametrize("value", ["[10]", "[20,10]", "[10,1000]", "[1,2,3]"])
def test_noise_needs_two_levels_in_order(value):
    with pytest.raises(ConfigError, match=r"augmentation\.snr_db=.* must be null or two numbers"):
        load_config(TrainConfig, [f"augmentation.snr_db={value}"])


def test_a_stretch_of_more_than_twice_is_refused():
    with pytest.raises(ConfigError, match=r"augmentation\.stretch=1\.1 is too large: it must be at most 1"):
        load_config(TrainConfig, ["augmentation.stretch=1.1"])


def test_negative_values_are_refused():
    for key in ("gain_db", "mask_bands", "mask_frames", "stretch"):
        with pytest.raises(ConfigError, match=rf"augmentation\.{key}=-1"):
            load_config(TrainConfig, [f"augmentation.{key}=-1"])
