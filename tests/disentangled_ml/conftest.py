"""What several tests share: a server that plays W&B, commands that run as a user's, and runs in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not make wandb_server importable

from wandb_server import WandbServer

from tests import warm
from tests.conftest import train_here


@pytest.fixture
def wandb_server() -> Iterator[Callable[..., WandbServer]]:
    """Start servers that play W&B: ``wandb_server()``; they end with the test."""
    servers = []

    def start(**settings: int) -> WandbServer:
        servers.append(WandbServer(**settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def user_environment(tmp_path) -> dict[str, str]:
    """Give the environment of a user without an API key, for whom ``python`` is that of the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return warm.environment(HOME=str(tmp_path / "home"), PATH=path)


@pytest.fixture
def sync(tmp_path, user_environment) -> Callable[..., WandbServer]:
    """Upload what lies in folders with ``wandb sync``: ``sync(server, "runs/a/wandb")``."""

    def upload(server: WandbServer, *arguments: str | Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", *map(str, arguments)],
            cwd=tmp_path,  # where it leaves a log
            env={**user_environment, **server.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return upload


@pytest.fixture
def run(tmp_path, tiny_arguments) -> Callable[..., Path]:
    """Train in this process: ``run("name", "key=value", ...)`` gives the run folder."""

    def train_run(name: str, *arguments: str) -> Path:
        train_here(*tiny_arguments, f"runs={tmp_path}", f"run_name={name}", *arguments)
        return tmp_path / name

    return train_run
