"""From a folder of music to the search page: ``disentangled music music=DIR``.

It finds the audio files below DIR and reads their tags (a manifest, as ``scan`` writes it), analyses what is new, embeds it and
serves the page. Nothing in DIR is changed. Repeat the command when files were added, moved or removed: what is known costs nothing
again; an interrupted run goes on where it was. The model needs neither labels nor training (``model=tags``); with ``model=trained``
it learns from the genres and moods that the files name, where there are enough. See docs/music.md.
"""

import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from omegaconf import DictConfig

from datamodules.audio import musicnn
from datamodules.batches.analysis import Analysis, AnalysisSettings, AnalysisStore
from datamodules.corpora.folder.scan import STATE, scan_folder
from datamodules.corpora.folder.state import read_state
from datamodules.corpora.manifest import ALL_TRAIN, read_manifest
from disentangled_ml.commands import serve
from disentangled_ml.commands.embed import show_summary
from disentangled_ml.commands.scan import music_folder, summary
from disentangled_ml.commands.schemas import ServeConfig
from disentangled_ml.commands.tags_model import save_checkpoint, tags_checkpoint
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.files import UNFINISHED, atomic_write, error_context, locked, output_context
from disentangled_ml.network.checkpoint import choose_device, load_checkpoint
from disentangled_ml.search.analysed import (
    AnalysedCatalogue,
    AnalysedTrack,
    analyse_rows,
    embed_contents,
    read_windows,
)
from disentangled_ml.search.assembly import assemble
from disentangled_ml.search.build import EmbeddedStore
from disentangled_ml.search.catalogue import read_catalogue
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.structures import TEMPO, AudioSettings, Corpus, Rejected
from disentangled_ml.systems import fit_tag_network

MANIFEST, ANALYSES, SHARDS = "manifest.csv", "analyses", "shards"
RUNS = Path("runs")
# Values of ``model``, and the names of their checkpoints.
TAGS, TRAINED = "tags", "trained"
NETWORKS, CHUNK_FRAMES = ("msd", "mtt"), 129  # of the model of tags
# From so many tracks on that share a tag with others training is better than the tags of musicnn (docs/small_catalogues.md).
LEAST_LABELLED, LEAST_OF_A_TAG = 80, 5
# In a model of the tags: the number of recordings that it is of; from so many on it stays as it is.
RECORDINGS, ENOUGH_FITTED = "recordings", 500
logger = logging.getLogger("music")


def main(config: DictConfig) -> None:
    music = music_folder(config.music)
    out = Path(config.out or Path("indexes") / music.resolve().name)
    with output_context(out):
        out.mkdir(parents=True, exist_ok=True)
    if (out / EmbeddedStore.FOLDER).exists():
        raise ConfigError(f"{out} holds a catalogue that embed made, which would be lost: give another out=DIR")
    with output_context(out), locked(out):
        make_catalogue(config, music, out)
    if config.page:
        arguments = [f"index={out}", f"host={config.host}", f"port={config.port}"]
        serve.main(load_config(ServeConfig, [*arguments, f"accelerator={config.accelerator}"]))


def make_catalogue(config: DictConfig, music: Path, out: Path) -> None:
    """Bring the catalogue of a folder up to date."""
    logger.info("%s: %s", music, summary(scan_folder(music, out / MANIFEST)))
    digests = {name: track.digest for name, track in read_state(out / f"{MANIFEST}.scan" / STATE).tracks.items()}
    corpus = read_manifest(out / MANIFEST, ALL_TRAIN)
    checkpoint = out / f"{config.model}.ckpt" if config.model in (TAGS, TRAINED) else Path(config.model)
    if config.model == TRAINED and not checkpoint.is_file():
        train(corpus, out, checkpoint)
    embedder = None
    if checkpoint.exists() or config.model != TAGS:
        is_ours = config.model in (TAGS, TRAINED)
        with error_context(
            ValueError, lambda error: f"{error}; or delete it to have it made anew" if is_ours else None
        ):
            embedder = Embedder(checkpoint, choose_device(config.accelerator))
    store = AnalysisStore(out / ANALYSES, analysis_settings(config, embedder))
    tracks, rejected = analyse_rows(corpus, digests, store, config.workers or os.cpu_count() or 1)
    if embedder is None:
        check_usable(music, tracks, rejected, store)
    if embedder is None or (config.model == TAGS and is_outgrown(checkpoint, len({each.digest for each in tracks}))):
        made = checkpoint.with_name(f"{checkpoint.name}{UNFINISHED}")
        write_tags_model(made, tracks, store)
        embedder = Embedder(made, choose_device(config.accelerator))
    embeddings = embed_contents(embedder, tracks, store, out)
    catalogue = AnalysedCatalogue(str(out / MANIFEST), tracks, embeddings, store, rejected, config.tag_share)
    if embedder.checkpoint != checkpoint:
        # Only now: until then the catalogue of before needs the model of before.
        embedder.checkpoint = embedder.checkpoint.replace(checkpoint)
    assemble(out, embedder, catalogue, catalogue.batches(), None, catalogue.estimated)
    show_summary(read_catalogue(out), corpus.notes)
    for name, number in sorted(catalogue.estimated.items()):
        logger.info("%s is estimated, for %s of %s tracks", name, f"{number:,}", f"{len(catalogue.tracks):,}")


def analysis_settings(config: DictConfig, embedder: Embedder | None) -> AnalysisSettings:
    """Return how recordings are analysed: as a model reads them, or, where there is none yet, as that of the tags will."""
    if embedder is None:
        musicnn.require(NETWORKS)
        audio, source, frames = AudioSettings(), "+".join(["mel", *NETWORKS]), CHUNK_FRAMES
    else:
        musicnn.require(embedder.network.features)
        audio, source, frames = embedder.model.audio, embedder.source, embedder.model.chunk_frames
    return AnalysisSettings(audio, source, frames, config.analysed_seconds, config.tempo)


def check_usable(
    music: Path, tracks: Sequence[AnalysedTrack], rejected: Sequence[Rejected], store: AnalysisStore
) -> None:
    """Check that there is something to make a model of. Raises ConfigError, with a reason, if no recording can be used."""
    found = (store.read(track.digest, chunks=False) for track in tracks)
    if any(isinstance(each, Analysis) for each in found):
        return
    reasons = [str(store.read(track.digest, chunks=False)) for track in tracks[:1]] + [each.reason for each in rejected]
    raise ConfigError(f"no recording in {music} can be used, the first one for this reason: {reasons[0]}")


def write_tags_model(path: Path, tracks: Sequence[AnalysedTrack], store: AnalysisStore) -> None:
    """Write the model of musicnn's tags, standardised over the tracks; it notes how many recordings these are."""
    settings = store.settings
    network, tags = fit_tag_network(read_windows(tracks, store), settings.audio, NETWORKS)
    content = tags_checkpoint(network, tags, str(path.parent), settings.chunk_frames)
    save_checkpoint(path, {**content, RECORDINGS: len({track.digest for track in tracks})})


def is_outgrown(checkpoint: Path, n_recordings: int) -> bool:
    """Return whether a model of the tags is of so few recordings that those of today say better what is usual of a tag."""
    fitted = load_checkpoint(checkpoint).get(RECORDINGS, ENOUGH_FITTED)
    if outgrown := fitted < ENOUGH_FITTED and n_recordings >= 2 * fitted:
        logger.info("%s was made of %d recordings and is made anew of %d", checkpoint, fitted, n_recordings)
    return outgrown


def train(corpus: Corpus, out: Path, checkpoint: Path) -> None:
    """Train ``small_catalogue`` on the tags that the files name; the checkpoint is kept when the folder changes.

    Raises: ConfigError: if too few files name any.
    """
    rows = [row.labels for row in corpus.rows() if not isinstance(row, Rejected)]
    names = [name for name in corpus.conditions if name != TEMPO]
    counts = {name: count_trainable([labels.get(name, []) for labels in rows]) for name in names}
    if max(counts.values(), default=0) < LEAST_LABELLED:
        found = ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
        raise ConfigError(
            f"model={TRAINED} learns from tags of the files, and needs {LEAST_LABELLED} tracks with a tag of {LEAST_OF_A_TAG} "
            f"tracks at least (found: {found}): fill {out / MANIFEST}, or use model={TAGS}"
        )
    shards, name = out / SHARDS, unfinished_run(f"{out.name}-small_catalogue", RUNS)
    learned = ["tempo", *(name for name, count in counts.items() if count >= LEAST_LABELLED)]
    run(
        [
            "prepare",
            f"manifest={out / MANIFEST}",
            f"out={shards}",
            "features=musicnn_both",
            f"conditions=[{','.join(learned)}]",
        ]
    )
    chosen = ["experiment=small_catalogue", "data=shards", f"data.shards={shards}"]
    run(["train", *chosen, f"runs={RUNS}", f"run_name={name}", "resume=true"])
    with open(RUNS / name / "checkpoints" / "best.ckpt", "rb") as best, atomic_write(checkpoint, "wb") as file:
        shutil.copyfileobj(best, file)


def unfinished_run(name: str, runs: Path) -> str:
    """Return the name of a run that is not finished: one that was killed, else a new one."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(name for name in names if not (runs / name / "metrics.json").exists())


def run(arguments: list[str]) -> None:
    """Run another command in a process of its own, on the same screen. Raises ConfigError if it fails."""
    if subprocess.run([sys.executable, "-m", "disentangled_ml", *arguments], check=False).returncode:
        raise ConfigError(f"disentangled {' '.join(arguments)} failed, see above")


def count_trainable(tags: Sequence[Sequence[str]]) -> int:
    """Return the number of tracks that have a tag which enough tracks have.

    >>> count_trainable([["rock"]] * 5 + [["jazz"]] + [[]])
    5
    """
    counts = Counter(tag for own in tags for tag in own)
    return sum(any(counts[tag] >= LEAST_OF_A_TAG for tag in own) for own in tags)
