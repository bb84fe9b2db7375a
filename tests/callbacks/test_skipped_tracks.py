import pytest
from tiny_runs import Recorder, TinyData, tiny_module, tiny_trainer

from callbacks.skipped_tracks import SkippedTracks


class DamagedData(TinyData):
    """Say that every epoch loses two tracks more."""

    epochs = 0

    def __init__(self) -> None:
        super().__init__()
        self.judged: list[int] = []

    def skipped_tracks(self) -> dict[str, int]:
        self.epochs += 1
        return {"a.tar": self.epochs, "b.tar": self.epochs}

    def check_skipped(self, n_skipped: int) -> None:
        self.judged.append(n_skipped)
        if n_skipped > 50:
            raise ValueError("too many")


def test_each_epoch_logs_its_number(tmp_path):
    recorder, data = Recorder(), DamagedData()
    trainer = tiny_trainer(tmp_path, SkippedTracks(), recorder, epochs=3)
    trainer.fit(tiny_module(), data)
    assert [epoch["train/skipped_tracks"] for epoch in recorder.epochs] == [2.0, 4.0, 6.0]
    assert data.judged == [2, 4, 6]


@pytest.mark.parametrize("of_others", [41, 60])
def test_the_sum_of_the_ranks_is_judged(tmp_path, monkeypatch, of_others):
    recorder, data = Recorder(), DamagedData()
    trainer = tiny_trainer(tmp_path, SkippedTracks(), recorder)

    def reduce(tensor, reduce_op):
        assert reduce_op == "sum"
        return tensor + of_others

    monkeypatch.setattr(trainer.strategy, "reduce", reduce)
    if of_others == 60:
        with pytest.raises(ValueError, match="too many"):
            trainer.fit(tiny_module(), data)
    else:
        trainer.fit(tiny_module(), data)
        assert recorder.epochs[0]["train/skipped_tracks"] == 43.0
    assert data.judged == [2 + of_others]
