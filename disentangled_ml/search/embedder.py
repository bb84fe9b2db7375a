"""A trained model for use: embed recordings, search catalogues. Without Lightning.

import disentangled_ml

model = disentangled_ml.load("runs/demo-resnet-fixed/checkpoints/best.ckpt").open("indexes/demo")
for result in model.search("some.mp3", weights={"genre": 1.0, "mood": 0.5}, k=10, tempo=(90, 120)):
    print(result.track.track_id, result.distance, result.distances)
answer = model.ask(Question(seeds_of={"genre": ["A"], "mood": ["some.mp3"]}, per_artist=2))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.audio.decoding import UnusableAudio, decode
from datamodules.audio.fingerprint import audio_fingerprint
from datamodules.batches.cutting import cut_waveform
from disentangled_ml.network.checkpoint import load_model
from disentangled_ml.network.model import CHUNKS_PER_PASS, embed_in_passes
from disentangled_ml.search.catalogue import CatalogueError, EmbeddedCatalogue
from disentangled_ml.search.filters import SearchFilters
from disentangled_ml.search.path import path_between
from disentangled_ml.search.question import Question, Seed
from disentangled_ml.search.recording import EmbeddedRecording
from disentangled_ml.search.results import Answer, Result
from disentangled_ml.search.similarity_search import SimilaritySearch, open_search

Item = TypeVar("Item")


class Embedder:
    """Network of a checkpoint, to embed recordings and to search catalogues that it embedded.

    Raises ValueError if the file is no checkpoint of this project.

    Attributes:
        model: The content of the checkpoint.
        network: Of the model.
        source: What the arrays of its chunks hold, see ``disentangled_ml.chunks``.
    """

    def __init__(self, checkpoint: str | Path, device: str | torch.device = "cpu"):
        self.model = load_model(checkpoint, device)
        self.network = self.model.network
        self.source = self.network.source
        self.checkpoint = Path(checkpoint)
        self.searched: SimilaritySearch | None = None

    @property
    def condition_names(self) -> list[str]:
        """Names of the conditions, in the order of the masks."""
        return self.model.condition_names

    @property
    def catalogue(self) -> EmbeddedCatalogue:
        """Return the open catalogue. Raises ValueError if none is."""
        return self.search_of().catalogue

    @torch.inference_mode()
    def embed_tracks(self, tracks: Iterable[tuple[Item, np.ndarray]]) -> Iterator[tuple[Item, np.ndarray]]:
        """Embed the chunks of tracks, those of several in one pass; yield what came with each track, and its embedding.

        Shape:
            chunks of a track: (n, ...), n >= 1; embedding: (D,) float32, the normalised mean.
        """
        items: list[Item] = []
        waiting: list[np.ndarray] = []
        for item, chunks in tracks:
            items.append(item)
            waiting.append(chunks)
            if sum(map(len, waiting)) >= CHUNKS_PER_PASS:
                yield from zip(items, self.embed_together(waiting), strict=True)
                items, waiting = [], []
        if items:
            yield from zip(items, self.embed_together(waiting), strict=True)

    def embed_together(self, tracks: list[np.ndarray]) -> np.ndarray:
        """Embed the chunks of some tracks: T arrays (n, ...) to (T, D)."""
        rows = embed_in_passes(self.network, torch.from_numpy(np.concatenate(tracks))).cpu()
        sums = torch.stack([part.sum(0) for part in rows.split([len(track) for track in tracks])])
        return self.network.normalised(sums).numpy()

    @torch.inference_mode()
    def embed_chunks(self, chunks: Iterable[np.ndarray]) -> Tensor:
        """Embed chunks by themselves, n of (...) to (n, D) float32, on the CPU; they may be cut on the way."""
        return embed_in_passes(self.network, chunks).cpu()

    def embed(self, recording: str | Path | np.ndarray, sample_rate: int | None = None) -> np.ndarray:
        """Embed a recording, see ``embed_recording``: (D,) float32, of length 1."""
        return self.embed_recording(recording, sample_rate).embedding

    def embed_recording(self, recording: str | Path | np.ndarray, sample_rate: int | None = None) -> EmbeddedRecording:
        """Embed a recording, and take its fingerprint. Raises ValueError, with the reason, if it cannot be used.

        Args:
            recording: A file (mp3, m4a, ogg, flac, wav, ...), or a mono waveform (n,) of full scale 1.
            sample_rate: Of the waveform, in Hz; None: that of the model, 22,050 Hz as a rule.
        """
        if isinstance(recording, str | Path):
            name = str(recording)
            try:
                waveform, sample_rate = decode(Path(recording))
            except UnusableAudio as error:
                raise UnusableAudio(f"{name}: {error}") from error
        else:
            name, waveform = "the waveform", np.asarray(recording, np.float32)
            if waveform.ndim != 1:
                shape = waveform.shape
                raise ValueError(f"a waveform has one dimension, got shape {shape}: take the mean of its channels")
        audio = self.model.audio
        rate = sample_rate or audio.sample_rate
        try:
            chunks = cut_waveform(waveform, rate, audio, self.source, self.model.chunk_frames)
        except UnusableAudio as error:
            raise UnusableAudio(f"{name}: {error}") from error
        ((_, embedding),) = self.embed_tracks([(None, chunks)])
        if not np.isfinite(embedding).all():
            raise ValueError(f"the embedding of {name} is not finite: the recording or the checkpoint is damaged")
        return EmbeddedRecording(embedding, audio_fingerprint(chunks, audio))

    def open(self, folder: str | Path) -> Embedder:
        """Open a catalogue to be searched; return the model itself. Raises ValueError if it is missing, damaged or another model's."""
        search = open_search(folder)
        check_fingerprint(search.catalogue, self.model.fingerprint, self.checkpoint)
        self.searched = search
        return self

    def search_of(self) -> SimilaritySearch:
        """Return the search of the open catalogue. Raises ValueError if none is."""
        if self.searched is None:
            raise ValueError("no catalogue is open: open one first, with model.open(DIR)")
        return self.searched

    def search(
        self,
        query: str | Path | np.ndarray,
        weights: Mapping[str, float] | None = None,
        k: int = 10,
        same_artist: bool = True,
        tempo: tuple[float, float] | None = None,
        method: str = "auto",
    ) -> list[Result]:
        """Find the tracks of the open catalogue that are nearest to a query, nearest first.

        Raises ValueError if no catalogue is open, or something is not legal.

        Args:
            query: Id of a track of the catalogue, which is then not found itself; or a file; or an embedding (D,).
            weights: Per condition, numbers >= 0; those that are not given are zero. None: one for each.
            k: How many.
            same_artist: False: leave out tracks by the artist of the query, where that is known.
            tempo: Slowest and fastest in BPM; leaves out tracks of unknown tempo.
            method: ``auto``, ``exact`` or ``approximate``.
        """
        search = self.search_of()
        if isinstance(query, np.ndarray):
            return search.search(query, weights, k, SearchFilters(tempo=tempo), method)
        row = search.catalogue.find(query) if isinstance(query, str) else None
        if row is not None:
            return search.search_like(row, weights, k, same_artist, tempo, method)
        if not Path(query).is_file():
            raise ValueError(f"{query} is neither a track of {search.catalogue.folder} nor a file")
        return search.search(self.embed(query), weights, k, SearchFilters(tempo=tempo), method)

    def ask(self, question: Question) -> Answer:
        """Answer a question to the open catalogue, whose seeds may be files too.

        Raises ValueError if no catalogue is open, or something is not legal.
        """
        search = self.search_of()
        return search.ask(
            replace(
                question,
                seeds=self.seeds_from(question.seeds),
                avoid=self.seeds_from(question.avoid),
                seeds_of={name: self.seeds_from(seeds) for name, seeds in question.seeds_of.items()},
                avoid_of={name: self.seeds_from(seeds) for name, seeds in question.avoid_of.items()},
            )
        )

    def seeds_from(self, seeds: Sequence[Seed | Path]) -> Sequence[Seed]:
        """Return seeds with files embedded; a name that the catalogue has is that of its track."""
        if isinstance(seeds, str):
            return seeds  # refused by its name
        search = self.search_of()
        return [
            self.embed_recording(seed)
            if isinstance(seed, str | Path) and search.catalogue.find(str(seed)) is None and Path(seed).is_file()
            else seed
            for seed in seeds
        ]

    def path(
        self, a: Seed | Path, b: Seed | Path, steps: int, weights: Mapping[str, float] | None = None, **caps: int
    ) -> list[Result]:
        """Return a path through the open catalogue in small steps, see ``path_between``; its ends may be files too."""
        return path_between(self.search_of(), *self.seeds_from([a, b]), steps, weights, **caps)


def embedder_of(
    catalogue: EmbeddedCatalogue, checkpoint: str | Path | None = None, device: str | torch.device = "cpu"
) -> Embedder:
    """Return the model of a catalogue: that of a checkpoint, or else of the one that the catalogue was embedded by.

    Raises CatalogueError if it is another one, or not there.
    """
    if checkpoint is None and catalogue.checkpoint is None:
        raise CatalogueError(
            f"{catalogue.folder} does not say which checkpoint embedded it, for an earlier version made it: give checkpoint=FILE"
        )
    if checkpoint is None and not catalogue.checkpoint.exists():
        raise CatalogueError(
            f"{catalogue.checkpoint}, which embedded {catalogue.folder}, is gone: give checkpoint=FILE, where it is now"
        )
    embedder = Embedder(checkpoint or catalogue.checkpoint, device)
    check_fingerprint(catalogue, embedder.model.fingerprint, embedder.checkpoint)
    return embedder


def check_fingerprint(catalogue: EmbeddedCatalogue, own: str, checkpoint: Path) -> None:
    """Check that a catalogue was embedded by a checkpoint. Raises CatalogueError if it was by another."""
    if catalogue.model.fingerprint != own:
        raise CatalogueError(
            f"{catalogue.folder} was embedded by another checkpoint (sha256 {catalogue.model.fingerprint[:12]}...) than "
            f"{checkpoint} ({own[:12]}...): give that one, or embed the catalogue with this one"
        )
