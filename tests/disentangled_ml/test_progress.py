"""Progress: a bar on a terminal, a line now and then elsewhere."""

import io
import sys

import pytest
from tqdm import tqdm

from disentangled_ml import progress as module
from disentangled_ml.progress import ProgressLines, show_progress


def test_a_file_gets_one_line_for_a_short_job(capsys):
    assert list(show_progress(range(2000), desc="embed", unit="track")) == list(range(2000))
    assert capsys.readouterr().err == "embed: 2,000 of 2,000, 0 s\n"


def test_a_long_job_has_a_line_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with show_progress(total=100, desc="prepare") as progress:
        now[0] = 500.0  # in which everything starts
        for _ in range(10):
            progress.update(10)
            now[0] += 0.4 * module.SECONDS
    assert capsys.readouterr().err.splitlines() == [
        "prepare: 10 of 100, 500 s",
        "prepare: 40 of 100, 536 s, about 72 s left",
        "prepare: 70 of 100, 572 s, about 36 s left",
        "prepare: 100 of 100, 608 s",
        "prepare: 100 of 100, 620 s",
    ]


def test_what_has_no_length_and_what_is_disabled(capsys):
    assert list(show_progress(iter("ab"), desc="read")) == ["a", "b"]
    assert list(show_progress("ab", desc="hidden", disable=True)) == ["a", "b"]
    assert capsys.readouterr().err == "read: 2, 0 s\n"


def test_a_job_that_fails_shows_how_far_it_came(capsys):
    def work():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(show_progress(work(), total=3, desc="train"))
    assert capsys.readouterr().err == "train: 1 of 3, 0 s\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    bar = show_progress(range(3), desc="embed", file=screen)
    assert isinstance(bar, tqdm)
    assert list(bar) == [0, 1, 2]
    assert not isinstance(bar, ProgressLines)
    assert "100%" in screen.getvalue()
