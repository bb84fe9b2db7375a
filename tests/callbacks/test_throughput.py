from time import perf_counter, sleep

import pytest
import torch
from tiny_runs import BATCH_SHAPES, Recorder, TinyData, tiny_module, tiny_trainer
from torch.utils.data import DataLoader

import callbacks.throughput as throughput
from callbacks.throughput import Throughput


def test_counts_chunks_and_waiting_by_the_clock(monkeypatch):
    """A clock of our own: fetching 3 s, training 1 s per batch, validation 100 s."""
    now = [0.0]
    monkeypatch.setattr(throughput, "perf_counter", lambda: now[0])
    logged = {}

    class Module:
        device = throughput.torch.device("cpu")

        def log_dict(self, values, **_):
            logged.update(values)

    class Trainer:
        world_size, is_last_batch, is_global_zero = 1, False, True

        class strategy:
            reduce = staticmethod(lambda tensor, reduce_op: tensor)

    def kept(callback: Throughput) -> dict:
        checkpoint = {"callbacks": {}}
        callback.on_save_checkpoint(trainer, module, checkpoint)
        return checkpoint["callbacks"]["Throughput"]

    trainer, module, callback = Trainer(), Module(), Throughput()
    callback.on_train_start(trainer, module)
    for epoch in range(2):
        now[0] += 50.0
        callback.on_train_epoch_start(trainer, module)
        for batch in TinyData().train:
            now[0] += 3.0
            callback.on_train_batch_start(trainer, module, batch, 0)
            now[0] += 1.0
            callback.on_train_batch_end(trainer, module, None, batch, 0)
            now[0] += 100.0
            callback.on_validation_end(trainer, module)
        callback.on_train_epoch_end(trainer, module)
        chunks = sum(size for size, _ in BATCH_SHAPES)
        expected = {"train/chunks_per_second": chunks / 16.0, "train/data_wait_share": 0.75}
        assert logged == pytest.approx(expected), f"epoch {epoch}"
        seconds = 50.0 + 4 * 104.0  # of a whole epoch, validation included
        assert kept(callback) == {"seconds": (epoch + 1) * seconds, "measured": [0, 0, 0]}
    first, *rest = TinyData().train
    for part in ([first], rest):  # the third epoch in two processes
        interrupted, callback = callback, Throughput()
        callback.on_load_checkpoint(trainer, module, {"callbacks": {"Throughput": kept(interrupted)}})
        now[0] += 1000.0  # between two processes
        callback.on_train_start(trainer, module)
        for batch in part:
            now[0] += 3.0
            callback.on_train_batch_start(trainer, module, batch, 0)
            now[0] += 1.0
            callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert kept(callback) == {"seconds": 2 * seconds + 16.0, "measured": [chunks, 12.0, 4.0]}
    logged.clear()
    callback.on_train_epoch_end(trainer, module)
    assert logged == pytest.approx(expected)
    assert kept(callback) == {"seconds": 2 * seconds + 16.0, "measured": [0, 0, 0]}


class SlowData(TinyData):
    """Take a while to give a batch."""

    def train_dataloader(self):
        return DataLoader(SlowBatches(self.train), batch_size=None)


class SlowBatches(list):
    def __getitem__(self, index):
        sleep(0.2)
        return super().__getitem__(index)


def test_checkpoints_carry_the_time_over_resumed_runs(tmp_path):
    seconds = []
    for epochs in (1, 3):
        callback = Throughput()
        trainer = tiny_trainer(tmp_path, callback, epochs=epochs)
        last = tmp_path / "last.ckpt" if seconds else None
        began = perf_counter()
        trainer.fit(tiny_module(), datamodule=TinyData(), ckpt_path=last, weights_only=True)
        took = perf_counter() - began
        before = seconds[-1] if seconds else 0.0
        assert before < callback.seconds < before + took
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["Throughput"]
        assert kept == {"seconds": callback.seconds, "measured": [0, 0, 0]}
        seconds.append(callback.seconds)


@pytest.mark.slow
def test_real_run_notices_slow_data(tmp_path):
    shares = []
    for data in (TinyData(), SlowData()):
        recorder = Recorder()
        tiny_trainer(tmp_path, Throughput(), recorder, epochs=2).fit(tiny_module(), datamodule=data)
        last = recorder.epochs[-1]
        assert 0 < last["train/chunks_per_second"] < float("inf")
        shares.append(last["train/data_wait_share"])
    assert 0 <= shares[0] < shares[1] <= 1
