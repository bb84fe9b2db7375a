"""Open a page to search a catalogue in a browser: ``disentangled serve index=DIR``.

The page finds the tracks most similar to a track of the catalogue or to an uploaded recording, with a slider per condition, and shows a
map of the catalogue. With ``listening_test=DIR`` it also asks people which of two recordings is more similar to a reference. Only this
machine can reach it unless ``host`` says otherwise. With ``token=`` it answers only those who have it. See docs/serve.md, docs/api.md.
"""

import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import uvicorn
from omegaconf import DictConfig
from threadpoolctl import threadpool_limits

from datamodules.audio import musicnn
from datamodules.audio.bounded_decoding import Bounds, decode_bounded
from disentangled_ml.config import ConfigError
from disentangled_ml.network.checkpoint import choose_device
from disentangled_ml.search.catalogue import check_source, read_catalogue
from disentangled_ml.search.embedder import Embedder, embedder_of
from disentangled_ml.search.weights_file import read_weights
from disentangled_ml.web.app import build_app
from disentangled_ml.web.current import CurrentView
from disentangled_ml.web.guard import is_loopback
from disentangled_ml.web.listening.draw import open_listening_test
from disentangled_ml.web.token import Token
from disentangled_ml.web.uploads import EmbeddedUpload, UploadLimits
from disentangled_ml.web.view import CatalogueView

logger = logging.getLogger("serve")


def main(config: DictConfig) -> None:
    root = None if config.audio is None else Path(config.audio)
    if root is not None and not root.is_dir():
        raise ConfigError(f"audio={config.audio} is not a folder: give the one that the recordings lie in")
    token = None if config.token is None else token_of(config.token)
    if config.source is not None:
        check_source(Path(config.index), config.source)
    limits = UploadLimits(
        max_bytes=config.max_upload_mb * 1_000_000,
        max_seconds=config.max_upload_minutes * 60.0,
        uploads_at_a_time=config.uploads_at_a_time,
    )
    current = CurrentView(Path(config.index), ViewOpener(config, limits, root))
    view = current.view
    listening = None
    if config.listening_test is not None:
        listening = open_listening_test(Path(config.listening_test), view, config.listening_questions, config.seed)
    listening_socket = bind_socket(config.host, config.port)
    if not is_loopback(config.host) and token is None:
        logger.warning(
            "host=%s: whoever reaches this machine reaches the page: give token= to ask for one", config.host
        )
    settings = uvicorn.Config(
        build_app(current, listening, is_loopback(config.host), token),
        log_level="warning",
        server_header=False,
        limit_concurrency=200,
        timeout_graceful_shutdown=3,
    )
    # Questions are answered one per core; a product that takes all cores would wait for theirs.
    threadpool_limits(1, user_api="blas")
    threading.Thread(target=warm_up_index, args=(view,), daemon=True).start()
    sys.stdout.write(f"serving {len(view.catalogue):,} tracks on {address_of(listening_socket)} (end it with Ctrl-C)\n")
    sys.stdout.flush()
    # Ctrl-C is how it is ended.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listening_socket])


class ViewOpener:
    """Opens the index as it is now, with the model that it is of: ``music`` may have made another one.

    Args:
        config: Of the command.
        limits: Of uploads.
        root: Folder of the recordings; None: where the catalogue says.
    """

    def __init__(self, config: DictConfig, limits: UploadLimits, root: Path | None):
        self.config, self.limits, self.root = config, limits, root
        self.embedder = self.open_embedder()

    def open_embedder(self) -> Embedder:
        catalogue, device = read_catalogue(self.config.index), choose_device(self.config.accelerator)
        embedder = embedder_of(catalogue, self.config.checkpoint, device)
        musicnn.require(embedder.network.features)  # else the first upload would fail
        return embedder

    def __call__(self) -> CatalogueView:
        """Return the view. Raises ValueError if the index is damaged, or its model is not there."""
        if read_catalogue(self.config.index).model.fingerprint != self.embedder.model.fingerprint:
            self.embedder = self.open_embedder()
        search = self.embedder.open(self.config.index).search_of()
        bounds = Bounds(self.limits.max_seconds, self.config.decode_seconds)
        embed_upload = upload_embedder(self.embedder, bounds)
        file, names = self.config.weights_file, self.embedder.condition_names
        weights = None if file is None else read_weights(file, names)
        return CatalogueView(search, embed_upload, plane, self.limits, self.root, weights)


def plane(points: np.ndarray) -> np.ndarray:
    """Project points (N, D) to two dimensions, as the figures of a run do."""
    from callbacks.projection import plane as project  # scikit-learn, for the first map alone

    return project(points)


def upload_embedder(embedder: Embedder, bounds: Bounds) -> Callable[[IO[bytes]], EmbeddedUpload]:
    """Return the function that embeds an uploaded recording."""

    def embed_upload(file: IO[bytes]) -> EmbeddedUpload:
        waveform, sample_rate, warnings = decode_bounded(file, bounds)
        seconds = len(waveform) / sample_rate
        try:
            recording = embedder.embed_recording(waveform, sample_rate)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("the waveform: ")) from error
        return EmbeddedUpload(recording, seconds, seconds >= bounds.max_seconds, warnings)

    return embed_upload


def token_of(text: str) -> Token:
    try:
        return Token(text)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def warm_up_index(view: CatalogueView) -> None:
    """Read what tracks are found by before anybody asks; errors are reported to whoever asks first."""
    with suppress(ValueError, OSError):
        view.search_tracks.squared_lengths  # noqa: B018  it is read from the whole catalogue, once
        view.read_texts()


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. Raises ConfigError if that is not possible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"host={host} port={port} cannot be listened on ({error.strerror}): give another port, or port=0 for a free one"
        ) from error


def address_of(listening_socket: socket.socket) -> str:
    host, port = listening_socket.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
