from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from tiny_runs import Recorder, TinyData, tiny_module, tiny_trainer

from callbacks.learning_rate import CosineLearningRate, ReduceLearningRate
from callbacks.triplet_accuracy import TripletAccuracy

# Patience 1, 2 reductions: the second bad value in a row lowers the rate; when that is due for the third time, training stops.
VALUES = [1.0, 0.9, 0.9, 0.95, 0.8, 0.8, 0.8, 0.7, 0.7, 0.9, 0.6, 0.5]
RATES = [1.0, 1.0, 1.0, 1.0, 0.2, 0.2, 0.2, 0.04, 0.04, 0.04]  # of each epoch that is trained; the tenth stops
SETTINGS = {"factor": 0.2, "patience": 1, "reductions": 2, "monitor": "val/scripted"}


class Scripted(pl.Callback):
    """Log a hand-written validation value per epoch."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/scripted", VALUES[trainer.current_epoch])


class Rates(pl.Callback):
    """Keep the rate of every epoch."""

    def __init__(self):
        self.rates = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(folder, epochs=None, checkpoint=None, **settings):
    schedule, rates, recorder = ReduceLearningRate(**{**SETTINGS, **settings}), Rates(), Recorder()
    trainer = tiny_trainer(
        folder,
        Scripted(),
        schedule,
        rates,
        recorder,
        epochs=epochs or len(VALUES),
        limit_train_batches=1,
        limit_val_batches=1,
    )
    trainer.fit(tiny_module(learning_rate=1.0), datamodule=TinyData(), ckpt_path=checkpoint, weights_only=True)
    return trainer, schedule, rates.rates, recorder.epochs


def test_follows_the_schedule_logs_it_and_stops(tmp_path):
    trainer, schedule, rates, epochs = fit(tmp_path)
    assert rates == pytest.approx(RATES)
    assert [epoch["train/learning_rate"] for epoch in epochs] == pytest.approx(RATES)
    assert trainer.should_stop
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.04)
    assert schedule.state_dict() == {"plateaus": 3, "best": pytest.approx(0.7), "bad_epochs": 0}


@pytest.mark.parametrize("epochs", [1, 4, 8])
def test_resumed_run_goes_on_exactly(tmp_path, epochs):
    _, whole, _, _ = fit(tmp_path)
    trainer, first, before, _ = fit(tmp_path, epochs)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["ReduceLearningRate"]
    assert state == first.state_dict()
    _, resumed, after, _ = fit(tmp_path, checkpoint=tmp_path / "last.ckpt")
    assert before + after == pytest.approx(RATES)
    assert resumed.state_dict() == whole.state_dict()


def test_run_that_has_stopped_stays_so_unless_more_reductions_are_allowed(tmp_path):
    trainer, *_ = fit(tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    _, _, rates, _ = fit(tmp_path, checkpoint=tmp_path / "last.ckpt")
    assert rates == []
    _, _, rates, _ = fit(tmp_path, checkpoint=tmp_path / "last.ckpt", reductions=3)
    assert len(rates) == len(VALUES) - len(RATES)


def test_monitors_the_validation_loss_by_default(tmp_path):
    schedule = ReduceLearningRate()
    trainer = tiny_trainer(tmp_path, TripletAccuracy(), schedule)
    trainer.fit(tiny_module(), datamodule=TinyData())
    assert schedule.best == pytest.approx(float(trainer.callback_metrics["val/loss"]))


@pytest.mark.parametrize(("fn", "sanity"), [(TrainerFn.VALIDATING, False), (TrainerFn.FITTING, True)])
def test_validation_outside_of_training_does_not_count(fn, sanity):
    trainer = SimpleNamespace(state=SimpleNamespace(fn=fn), sanity_checking=sanity)
    schedule = ReduceLearningRate()
    schedule.on_validation_end(trainer, None)
    assert schedule.state_dict() == ReduceLearningRate().state_dict()


def test_rates_below_the_default_smallest_change_of_torch_are_lowered():
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=1e-9)
    trainer = SimpleNamespace(
        optimizers=[optimizer],
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        sanity_checking=False,
        callback_metrics={"val/loss": torch.tensor(1.0)},
    )
    schedule = ReduceLearningRate(patience=0)
    schedule.on_train_start(trainer, None)
    schedule.on_validation_end(trainer, None)
    schedule.on_validation_end(trainer, None)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-10)


def fit_cosine(folder, epochs, checkpoint=None, stop_after=None):
    rates, recorder = Rates(), Recorder()
    trainer = tiny_trainer(
        folder, CosineLearningRate(), rates, recorder, epochs=epochs, limit_train_batches=1, limit_val_batches=1
    )
    if stop_after is not None:
        rates.on_train_epoch_end = lambda trainer, _: setattr(
            trainer, "should_stop", trainer.current_epoch + 1 == stop_after
        )
    trainer.fit(tiny_module(learning_rate=0.5), datamodule=TinyData(), ckpt_path=checkpoint, weights_only=True)
    return trainer, rates.rates, recorder.epochs


def test_half_a_cosine_is_followed_and_logged(tmp_path):
    _, rates, epochs = fit_cosine(tmp_path, 4)
    expected = [0.5, 0.5 * (1 + 0.5**0.5) / 2, 0.25, 0.5 * (1 - 0.5**0.5) / 2]
    assert rates == pytest.approx(expected)
    assert [epoch["train/learning_rate"] for epoch in epochs] == pytest.approx(expected)


def test_a_resumed_run_goes_on_along_the_cosine(tmp_path):
    _, whole, _ = fit_cosine(tmp_path, 4)
    trainer, before, _ = fit_cosine(tmp_path, 4, stop_after=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    _, after, _ = fit_cosine(tmp_path, 4, tmp_path / "last.ckpt")
    assert before + after == pytest.approx(whole)
