from math import isnan, nan

import pytest
import torch
from tiny_runs import NAMES, Recorder, TinyData, tiny_module, tiny_trainer, whole_tracks
from torch.nn.functional import normalize

from callbacks.triplet_accuracy import TripletAccuracy
from disentangled_ml.structures import TRACK, Member

FLOAT32 = 1e-6  # Lightning keeps logged values in float32


def distance(x, y, mask):
    return sum(((a - b) * m) ** 2 for a, b, m in zip(x.tolist(), y.tolist(), mask.tolist(), strict=True)) ** 0.5


def count(outcomes):
    """Turn [(condition name, correct)] into the expected log."""
    values = {}
    for name in [*NAMES, TRACK]:
        own = [correct for condition, correct in outcomes if condition == name]
        values[name] = sum(own) / len(own) if own else nan
    present = [values[name] for name in NAMES if not isnan(values[name])]
    return {**values, "mean": sum(present) / len(present)}


def masks_of(module):
    rows = dict(zip(NAMES, module.network.masks(), strict=True))
    return {**rows, TRACK: torch.ones(len(rows) * 8)}


def training_outcomes(module, batches):
    module.network.train()  # batch norm as in training; a learning rate of 0 has left the weights as they were
    masks, outcomes = masks_of(module), []
    with torch.no_grad():
        for batch in batches:
            embedding = module.network(batch.audio)
            for (a, p, n), c in zip(batch.triplets.indices.tolist(), batch.triplets.condition.tolist(), strict=True):
                name = [*NAMES, TRACK][c]
                near, far = (distance(embedding[a], embedding[other], masks[name]) for other in (p, n))
                outcomes.append((name, near < far))
    return outcomes


def listed_distances(module, data, split):
    module.network.eval()
    masks, rows = masks_of(module), {}
    with torch.no_grad():
        for batch in whole_tracks(data.infos[split]):
            embedding = module.network(batch.audio)
            for t, track_id in enumerate(batch.track_ids):
                own = [i for i in range(len(embedding)) if batch.track[i] == t]
                rows[Member(track_id)] = normalize(sum(embedding[i] for i in own if batch.in_mean[i]), dim=0)
                rows.update({Member(track_id, int(batch.start[i])): embedding[i] for i in own})
    return [
        (name, distance(rows[a], rows[p], masks[name]), distance(rows[a], rows[n], masks[name]))
        for name, a, p, n in data.triplets[split]
    ]


def assert_logged(metrics, split, expected):
    logged = {key.split("/")[-1]: float(v) for key, v in metrics.items() if key.startswith(f"{split}/triplet_acc")}
    assert logged == pytest.approx(expected, abs=FLOAT32, nan_ok=True)


def test_training_sums_over_batches_of_different_size(tmp_path):
    module, data, recorder = tiny_module(learning_rate=0.0), TinyData(), Recorder()
    tiny_trainer(tmp_path, TripletAccuracy(), recorder).fit(module, datamodule=data)
    expected = count(training_outcomes(module, data.train))
    per_batch = [count(training_outcomes(module, [batch]))["mean"] for batch in data.train]
    assert expected["mean"] != pytest.approx(sum(per_batch) / len(per_batch), abs=0.01)  # a mean of means would fail
    assert_logged(recorder.epochs[0], "train", expected)


class TwoHalves(TinyData):
    """Give half of the batches in each of two epochs."""

    def train_dataloader(self):
        return self.loader(self.train[2 * self.trainer.current_epoch :][:2])


def test_every_epoch_begins_at_zero(tmp_path):
    module, data, recorder = tiny_module(learning_rate=0.0), TwoHalves(), Recorder()
    trainer = tiny_trainer(tmp_path, TripletAccuracy(), recorder, epochs=2, reload_dataloaders_every_n_epochs=1)
    trainer.fit(module, datamodule=data)
    first, second = (count(training_outcomes(module, half)) for half in (data.train[:2], data.train[2:]))
    assert first != second
    assert_logged(recorder.epochs[0], "train", first)
    assert_logged(recorder.epochs[1], "train", second)


def test_a_condition_without_a_triplet_is_nan_and_not_in_the_mean(tmp_path):
    module, data, recorder = tiny_module(learning_rate=0.0), TinyData(), Recorder()
    for batch in data.train:
        batch.triplets.condition[batch.triplets.condition == 1] = 0
    data.triplets["val"] = [triplet for triplet in data.triplets["val"] if triplet.condition != "mood"]
    tiny_trainer(tmp_path, TripletAccuracy(), recorder).fit(module, datamodule=data)
    (epoch,) = recorder.epochs
    assert isnan(epoch["train/triplet_accuracy/mood"])
    assert isnan(epoch["val/triplet_accuracy/mood"])
    assert_logged(epoch, "train", count(training_outcomes(module, data.train)))


def test_validation_and_test_agree_with_a_loop(tmp_path):
    module, data, recorder = tiny_module(), TinyData(), Recorder()
    trainer = tiny_trainer(tmp_path, TripletAccuracy(), recorder)
    trainer.fit(module, datamodule=data)
    (metrics,) = recorder.epochs
    metrics.update(trainer.test(module, datamodule=data, verbose=False)[0])
    for split in ("val", "test"):
        distances = listed_distances(module, data, split)
        assert_logged(metrics, split, count([(name, near < far) for name, near, far in distances]))
        hinge = {True: [], False: []}
        for name, near, far in distances:
            hinge[name == TRACK].append(max(0.0, near - far + 0.1))
        loss = sum(hinge[False]) / len(hinge[False]) + 0.5 * sum(hinge[True]) / len(hinge[True])
        assert metrics[f"{split}/loss"] == pytest.approx(loss, rel=1e-5)


def test_sanity_check_evaluates_nothing(tmp_path, monkeypatch):
    module = tiny_module()
    monkeypatch.setattr(module, "evaluated", lambda: pytest.fail("evaluated in the sanity check"))
    trainer = tiny_trainer(tmp_path, TripletAccuracy(), num_sanity_val_steps=1, check_val_every_n_epoch=2)
    trainer.fit(module, datamodule=TinyData())
    assert "val/loss" not in trainer.callback_metrics


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_count_everything_once(tmp_path):
    module, data = tiny_module(learning_rate=0.0), TinyData()
    trainer = tiny_trainer(tmp_path, TripletAccuracy(), devices=2, strategy="ddp_spawn")
    trainer.fit(module, datamodule=data)
    outcomes = [(name, near < far) for name, near, far in listed_distances(module, data, "val")]
    assert_logged(trainer.callback_metrics, "val", count(outcomes))
    assert_logged(
        trainer.callback_metrics, "train", count(training_outcomes(module, data.train))
    )  # moves the statistics
