"""A run folder that is full, read-only, or has something else in the place of a file: a clear end, and the run goes on after."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from disentangled_ml.config import ConfigError
from tests import warm
from tests.conftest import train_here
from tests.disentangled_ml.real_runs import TWO, RealRun

LAST = 3
EPOCHS = (f"training.max_epochs={LAST + 1}", "training.lr_reductions=999")
FULL = r"cannot be written to \((No space left on device|the checkpoint cannot be written, is the disk full\?)"


def mount(*arguments: str) -> None:
    """Call mount, or skip where it is not allowed."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounts nothing here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of a few megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk))
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill a disk but for some bytes."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return ballast


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [("wandb.mode=disabled",), ("wandb.mode=offline",), pytest.param(TWO, marks=pytest.mark.ddp)],
    ids=["files", "wandb", "two-ranks"],
)
def test_a_disk_that_fills_up(small_disk, tiny_arguments, arguments):
    """The run ends, all of it, and says which folder; the checkpoint before is whole; with room again the run finishes."""
    elsewhere = small_disk.parent
    held = warm.hold_training(elsewhere, epoch=2, batch=0)
    with RealRun(small_disk, *tiny_arguments, *EPOCHS, *arguments, log=elsewhere / "log", before=held) as run:
        run.wait_until(lambda _: (elsewhere / "held").exists())
        ballast = fill(small_disk)
        (elsewhere / "go").touch()
        assert run.end() == 1
    assert re.search(f"error: the run folder {run.dir} {FULL}", run.said())
    assert "resume=true goes on" in run.said()
    assert "Traceback" not in run.said()
    assert "Logging error" not in run.said()
    for name in ("best", "last"):
        assert torch.load(run.dir / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] < LAST
    assert not list(run.dir.rglob("*.tmp"))
    ballast.unlink()
    again = [*tiny_arguments, *EPOCHS, *arguments, "resume=true"]
    with RealRun(small_disk, *again, log=elsewhere / "log") as run:
        assert run.end() == 0, run.said()
    assert torch.load(run.dir / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == LAST
    assert json.loads((run.dir / "metrics.json").read_text())["test/triplet_accuracy/track"] > 0


@pytest.fixture
def run_here(tmp_path, tiny_arguments):
    """Train in this process into ``folder/run``."""

    def run(folder: Path = tmp_path, *arguments: str) -> Path:
        train_here(*tiny_arguments, f"runs={folder}", "run_name=run", "training.max_epochs=1", *arguments)
        return folder / "run"

    return run


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [
        ("config.yaml", True),
        ("checkpoints", False),
        pytest.param("checkpoints/last.ckpt", True, marks=pytest.mark.slow),
        ("figures", False),
        pytest.param("figures/embedding_map.png", True, marks=pytest.mark.slow),
        pytest.param("metrics.json", True, marks=pytest.mark.slow),
        pytest.param("evaluation.json", True, marks=pytest.mark.slow),
    ],
)
def test_something_else_in_the_place_of_a_file(run_here, tmp_path, name, is_folder):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.mkdir() if is_folder else path.write_text("")
    with pytest.raises(
        OSError, match=rf"the run folder {tmp_path}/run cannot be written to \(.*{name}.*resume=true goes on"
    ):
        run_here(tmp_path, "resume=true")
    path.rmdir() if is_folder else path.unlink()
    assert (run_here(tmp_path, "resume=true") / "metrics.json").is_file()


def test_a_folder_that_cannot_be_made(run_here, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"the run folder .*file/run cannot be made \(Not a directory\): give another"
    ):
        run_here(tmp_path / "file")


@pytest.mark.slow
def test_a_disk_that_is_read_only(run_here, small_disk):
    run_here(small_disk)
    mount("-o", "remount,ro", str(small_disk))
    with pytest.raises(OSError, match=rf"the run folder {small_disk}/run cannot be written to \(Read-only file system"):
        run_here(small_disk, "training.max_epochs=2", "resume=true")
    mount("-o", "remount,rw", str(small_disk))
    run_here(small_disk, "training.max_epochs=2", "resume=true")


@pytest.mark.slow
@pytest.mark.parametrize("leave", [0, 8192], ids=["nothing", "two-blocks"])
def test_a_disk_that_is_full_from_the_start(run_here, small_disk, leave):
    ballast = fill(small_disk, leave)
    with pytest.raises(
        OSError, match=rf"the run folder {small_disk}/run {FULL}|{small_disk}/run cannot be made \(No space"
    ):
        run_here(small_disk)
    ballast.unlink()
    assert (run_here(small_disk, "resume=true") / "metrics.json").is_file()


@pytest.mark.slow
def test_nothing_that_was_there_is_lost_by_a_full_disk(run_here, small_disk):
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file() and path.name != "ballast"}

    run_here(small_disk)
    before = content()
    fill(small_disk)
    with pytest.raises(OSError, match=f"the run folder {small_disk}/run {FULL}"):
        run_here(small_disk, "training.max_epochs=2", "resume=true")
    assert content() == before


def test_an_error_about_another_file_stays_as_it_is(run_here, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied", "/elsewhere/file")

    monkeypatch.setattr("disentangled_ml.train.start", fail)
    with pytest.raises(PermissionError, match=r"Permission denied: '/elsewhere/file'"):
        run_here()
    assert os.listdir(tmp_path / "run") == []
