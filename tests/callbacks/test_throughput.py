from time import sleep

import pytest
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
        world_size, is_last_batch = 1, False

        class strategy:
            reduce = staticmethod(lambda tensor, reduce_op: tensor)

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


class SlowData(TinyData):
    """Take a while to give a batch."""

    def train_dataloader(self):
        return DataLoader(SlowBatches(self.train), batch_size=None)


class SlowBatches(list):
    def __getitem__(self, index):
        sleep(0.2)
        return super().__getitem__(index)


def test_real_run_notices_slow_data(tmp_path):
    shares = []
    for data in (TinyData(), SlowData()):
        recorder = Recorder()
        tiny_trainer(tmp_path, Throughput(), recorder, epochs=2).fit(tiny_module(), datamodule=data)
        last = recorder.epochs[-1]
        assert 0 < last["train/chunks_per_second"] < float("inf")
        shares.append(last["train/data_wait_share"])
    assert 0 <= shares[0] < shares[1] <= 1
