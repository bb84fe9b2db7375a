"""A server of 100,000 tracks: how long it takes to start, and how it answers a hundred at a time: ``python -m benchmarks.serving``.

``tracks=100000 at_a_time=100 requests=1000`` are the defaults. The catalogue is simulated: random unit vectors, with titles, artists,
albums and labels; the network is an untrained one, for uploads. From the start of the process on it is measured when the page, the
first search and the first suggestion by text are there. Then so many clients ask without a break, each request being drawn from
``MIX``, and the server is killed in the midst of it and started again. An upload that is told to come again does so.
"""

import hashlib
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from http.client import HTTPConnection, HTTPException
from io import BytesIO
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.measurement import Measurement
from benchmarks.table import as_text, write_json
from datamodules.audio.fingerprint import SIZE
from disentangled_ml.builders import build_network, model_settings
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.network.checkpoint import load_model
from disentangled_ml.search.catalogue import (
    AUDIO_FINGERPRINTS,
    COLUMNS,
    COLUMNS_FILE,
    EMBEDDING,
    FORMAT_VERSION,
    HEADER,
    TRACKS,
    CatalogueTrack,
    column_values,
    describe_model,
)
from disentangled_ml.structures import AudioSettings

NAMES = ["genre", "mood", "instrument", "tempo"]
SIZES = {"genre": 40, "mood": 12, "instrument": 10}
MIX = {"similar": 6, "compose": 4, "tracks": 6, "path": 2, "upload": 1, "page": 2}
PATIENCE = 60.0  # seconds for a start


def write_catalogue(folder: Path, n_tracks: int) -> Path:
    """Write a checkpoint and a simulated catalogue that it might have embedded; return the checkpoint."""
    config = load_config(TrainConfig, ["data=shards", "data.shards=none", "backbone=conv", "trainer=cpu"])
    audio = AudioSettings()
    network = build_network(config, NAMES, audio)
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": weights, **model_settings(config, NAMES, audio)}, folder / "x.ckpt")
    model = load_model(folder / "x.ckpt", "cpu")
    rng, index = np.random.default_rng(0), folder / "index"
    index.mkdir()
    embedding = rng.standard_normal((n_tracks, model.masks.shape[1]), np.float32)
    np.save(index / EMBEDDING, embedding / np.linalg.norm(embedding, axis=1, keepdims=True))
    np.save(index / AUDIO_FINGERPRINTS, rng.integers(-127, 128, (n_tracks, SIZE), np.int8))
    columns = np.empty(n_tracks, COLUMNS)
    with open(index / TRACKS, "wb") as file:
        for row in range(n_tracks):
            track = simulated_track(row, rng)
            columns[row] = column_values(track, file.tell())
            file.write(json.dumps(track.as_plain()).encode() + b"\n")
    np.save(index / COLUMNS_FILE, columns)
    header = {"format_version": FORMAT_VERSION, "tracks": n_tracks, **describe_model(model)}
    (index / HEADER).write_text(json.dumps(header))
    return folder / "x.ckpt"


def simulated_track(row: int, rng: np.random.Generator) -> CatalogueTrack:
    labels: dict[str, Any] = {name: [f"{name} {rng.integers(size)}"] for name, size in SIZES.items()}
    labels["tempo"] = round(float(rng.normal(115, 25)), 1)
    metadata = {"title": f"Song number {row}", "album": f"Album {row // 12}"}
    return CatalogueTrack(f"track-{row}", f"Artist {row // 40}", None, labels, metadata=metadata)


class Server:
    """``disentangled serve`` as a process of its own, on a free port."""

    def __init__(self, folder: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        given = [f"checkpoint={folder}/x.ckpt", f"index={folder}/index", f"port={self.port}", "accelerator=cpu"]
        self.began = perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "disentangled_ml", "serve", *given], stdout=subprocess.DEVNULL
        )

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Return the status and the content of an answer."""
        line = HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            line.request(method, path, body, {} if body is None else {"Content-Type": kind})
            answer = line.getresponse()
            return answer.status, answer.read()
        finally:
            line.close()

    def first(self, *request: Any) -> float:
        """Return the seconds from the start of the process to the first answer to a request."""
        until = monotonic() + PATIENCE
        while monotonic() < until and self.process.poll() is None:
            try:
                if self.ask(*request)[0] == 200:
                    return perf_counter() - self.began
            except (OSError, HTTPException):
                sleep(0.01)
        raise RuntimeError("the server does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def drawn_request(kind: str, lots: random.Random, n_tracks: int, sound: bytes) -> tuple[Any, ...]:
    """Return a request of a kind about tracks that are drawn by lot."""
    some = [f"track-{lots.randrange(n_tracks)}" for _ in range(3)]
    if kind == "page":
        return "GET", "/"
    if kind == "tracks":
        return "GET", f"/api/v1/tracks?q=number+{lots.randrange(n_tracks)}"
    if kind == "upload":
        return "POST", "/api/v1/upload", sound, "audio/wav"
    question = {
        "similar": {"track": some[0], "weights": {"genre": 1, "mood": lots.random() + 0.01}},
        "compose": {"seeds": some[:1], "seeds_of": {"mood": some[1:2]}, "avoid": some[2:], "per_artist": 2},
        "path": {"a": some[0], "b": some[1], "steps": 6},
    }[kind]
    return "POST", f"/api/v1/{kind}", json.dumps(question).encode()


def recording() -> bytes:
    """Return a recording of five seconds."""
    buffer = BytesIO()
    soundfile.write(buffer, 0.1 * np.random.default_rng(0).standard_normal(5 * 22_050), 22_050, format="WAV")
    return buffer.getvalue()


class Load:
    """Clients that ask at the same time.

    Attributes:
        seconds: That answers took, per kind.
        failures: What was answered instead.
        repeated: How often an upload was told to come again.
    """

    def __init__(self, server: Server, n_tracks: int, at_a_time: int, n_requests: int):
        self.server, self.n_tracks, self.left = server, n_tracks, n_requests
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []
        self.repeated, self.sound, self.lock = 0, recording(), threading.Lock()
        self.clients = [threading.Thread(target=self.ask_on, args=(random.Random(i),)) for i in range(at_a_time)]
        for client in self.clients:
            client.start()

    def wait(self) -> None:
        for client in self.clients:
            client.join()

    def ask_on(self, lots: random.Random) -> None:
        while True:
            with self.lock:
                if self.left == 0:
                    return
                self.left -= 1
            (kind,) = lots.choices([*MIX], [*MIX.values()])
            request, began = drawn_request(kind, lots, self.n_tracks, self.sound), perf_counter()
            try:
                while (answer := self.server.ask(*request))[0] == 503 and kind == "upload":
                    self.repeated += 1
                    sleep(0.2)
                status = answer[0]
            except (OSError, HTTPException) as error:
                status = repr(error)
            self.seconds[kind].append(perf_counter() - began)
            if status != 200:
                self.failures.append(f"{kind}: {status}")


def files_of(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def starts(server: Server) -> list[Measurement]:
    """Measure when a server that was just started gives its first answers."""
    search = json.dumps({"track": "track-5"}).encode()
    requests = {
        "first page": ("GET", "/"),
        "first search": ("POST", "/api/v1/similar", search),
        "first suggestion": ("GET", "/api/v1/tracks?q=number+777"),
    }
    return [Measurement(f"start to {name}", server.first(*request)) for name, request in requests.items()]


def measure(n_tracks: int = 100_000, at_a_time: int = 100, n_requests: int = 1_000) -> list[Measurement]:
    """Measure the start, the answers under load, and a start after a kill under load.

    Raises:
        RuntimeError: if a request fails, or a file of the catalogue is another one after the kill.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_catalogue(folder, n_tracks)
        before, server = files_of(folder), Server(folder)
        try:
            lines = starts(server)
            load, began = Load(server, n_tracks, at_a_time, n_requests), perf_counter()
            load.wait()
            rate = n_requests / (perf_counter() - began)
            if load.failures:
                raise RuntimeError(f"{len(load.failures)} of {n_requests} failed: {load.failures[:5]}")
            for kind, seconds in sorted(load.seconds.items()):
                note = f"median {median(seconds):.2f} s of {len(seconds)}"
                lines.append(Measurement(f"{kind}, slowest of {at_a_time} at a time", max(seconds), note=note))
            lines.append(
                Measurement("all", max(map(max, load.seconds.values())), note=f"{rate:.0f} a second, none failed")
            )
            killed = Load(server, n_tracks, at_a_time, 10 * n_requests)
            sleep(2)
            server.kill()
            killed.left = 0
            killed.wait()
            if files_of(folder) != before:
                raise RuntimeError("the catalogue is another one after the server was killed")
            server = Server(folder)
            search = json.dumps({"track": "track-5"}).encode()
            again = server.first("POST", "/api/v1/similar", search)
            lines.append(Measurement("start to first search after a kill under load", again, note="no file changed"))
        finally:
            server.kill()
        return lines


def main(tracks: str = "100000", at_a_time: str = "100", requests: str = "1000") -> None:
    """Measure, print and save the results."""
    lines = measure(int(tracks), int(at_a_time), int(requests))
    write_json(Path("bench/serving.json"), lines)
    sys.stdout.write(as_text(lines) + "\n")


if __name__ == "__main__":
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
