"""Make one self-contained HTML page of a run, or of a comparison table: ``disentangled html_report run=DIR``.

The page shows the setup, the numbers, the figures, and the nearest neighbours of a few test tracks in every subspace, with their
sound where there is some. What a run lacks is listed on the page.
"""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from datamodules.audio.decoding import UnusableAudio, decode, decode_flac, encode_mp3
from datamodules.audio.spectrogram import resample
from datamodules.corpora.manifest import read_manifest
from datamodules.corpora.records import collect
from datamodules.shards.index import ShardIndex
from datamodules.shards.tar import decode_info, read_infos, read_samples, share_slices
from disentangled_ml.config import ConfigError
from disentangled_ml.files import writable, write_text
from disentangled_ml.progress import show_progress
from disentangled_ml.reporting.neighbours import EmbeddedTracks, choose_queries, neighbours_by_space, view_queries
from disentangled_ml.reporting.page_tables import show
from disentangled_ml.reporting.report_page import TABLE, Page, data_uri, render, run_page, table_page
from disentangled_ml.structures import TEMPO, TrackRecord
from disentangled_ml.systems import NetworkSystem, list_conditions, load_network_system

logger = logging.getLogger("html_report")
# Any of them makes a folder a run.
RUN_PARTS = ("config.yaml", "metrics.json", "evaluation.json", "checkpoints")
CLIP_SECONDS, CLIP_RATE = 10.0, 22_050
# Of all clips; as data URIs they take a third more, so that the page stays below 15 MB.
CLIPS_BYTES = 8_000_000
Recordings = dict[str, TrackRecord]


def main(config: DictConfig) -> None:
    run = Path(config.run)
    out = Path(config.out) if config.out is not None else run / "report.html"
    is_table = (run / TABLE).is_file()
    if not is_table and not any((run / name).exists() for name in RUN_PARTS):
        raise ConfigError(
            f"run={run} is no run and no comparison: give the folder of one, such as runs/NAME (with "
            f"{RUN_PARTS[0]}), or one with a {TABLE}"
        )
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder: give out=FILE.html")
    writable(str(out), "html")
    recordings = None if config.manifest is None else read_recordings(Path(config.manifest))
    page = table_page(run) if is_table else run_page(run)
    if config.queries and not is_table:
        try:
            add_neighbours(page, run, config, recordings)
        # What checkpoints and shards raise; the rest of the page stands.
        except (ValueError, OSError) as error:
            page.missing.append(f"nearest neighbours: {error}")
    write_text(out, render(page))
    for item in page.missing:
        logger.warning("not on the page: %s", item)
    sys.stdout.write(f"{out} ({out.stat().st_size / 1e6:.1f} MB)\n")


def add_neighbours(page: Page, run: Path, config: DictConfig, recordings: Recordings | None) -> None:
    """Add the nearest neighbours of some test tracks to the page, with their sound."""
    if not page.shards:
        raise ConfigError(f"{run / 'config.yaml'} does not name the shards of the run (data.shards)")
    index = ShardIndex.read(str(page.shards))
    system, tracks = embed_test_tracks(run / "checkpoints" / "best.ckpt", index)
    page.settings.append(("embedding", f"{tracks.embedding.shape[1]} dimensions"))
    page.settings.append(("parameters", show(system.n_parameters)))
    queries = choose_queries(tracks.infos, config.queries)
    found = neighbours_by_space(tracks, queries, config.neighbours)
    rows = dict.fromkeys([*queries, *(n.row for lists in found.values() for near in lists for n in near)])
    clips = add_clips(page, index, [tracks.infos[row].track_id for row in rows], recordings)
    page.queries = view_queries(tracks, queries, found, clips)


def embed_test_tracks(checkpoint: Path, index: ShardIndex) -> tuple[NetworkSystem, EmbeddedTracks]:
    """Embed every track of the test split. Raises ValueError if the checkpoint is missing, or does not fit the shards."""
    system, model = load_network_system(checkpoint, index)
    conditions = list_conditions(index, system.condition_names, model.tempo)
    ids, embedding = system.embed("test", set()).tracks()
    if not ids:
        raise ConfigError(f"{index.root} has no test tracks: check the manifest's split column")
    infos = {info.track_id: info for info in read_infos(index, "test")}
    masks = dict(zip(system.condition_names, system.masks(embedding.shape[1]), strict=True))
    return system, EmbeddedTracks([infos[track_id] for track_id in ids], embedding, masks, conditions)


def add_clips(page: Page, index: ShardIndex, track_ids: list[str], recordings: Recordings | None) -> dict[str, int]:
    """Add the sound of tracks to the page, as far as it is there and fits; return the number of each one's clip."""
    if recordings is not None:
        sounds = recorded_sounds(recordings, track_ids)
    elif index.has_waveform:
        sounds = shard_sounds(index, set(track_ids))
    else:
        page.missing.append("sound: the shards hold no waveforms; give manifest=FILE.csv, that they were prepared from")
        return {}
    clips: dict[str, int] = {}
    size = 0
    for track_id, waveform, sample_rate in sounds:
        clip = encode_mp3(resample(waveform, sample_rate, CLIP_RATE), CLIP_RATE)
        size += len(clip)
        if size > CLIPS_BYTES:
            break
        clips[track_id] = len(page.clips)
        page.clips.append(data_uri("audio/mpeg", clip))
    if len(clips) < len(track_ids):
        page.missing.append(
            f"sound of {len(track_ids) - len(clips)} of {len(track_ids)} tracks: not found, not decodable, or beyond "
            f"{CLIPS_BYTES / 1e6:.0f} MB"
        )
    return clips


def read_recordings(manifest: Path) -> Recordings:
    """Read the recordings of a manifest, by track id; splits and labels are taken from the shards."""
    catalogue = read_manifest(manifest, split_shares=[1.0, 0.0, 0.0], conditions=[TEMPO])
    return {record.track_id: record for record in collect(catalogue)[0]}


def recorded_sounds(recordings: Recordings, track_ids: list[str]) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield the middle of each recording that can be decoded, with its sample rate."""
    known = [track_id for track_id in track_ids if track_id in recordings]
    for track_id in show_progress(known, desc="decode", unit="track"):
        try:
            waveform, sample_rate = decode(Path(recordings[track_id].path), *recordings[track_id].section)
        except UnusableAudio as error:
            logger.warning("%s: %s", recordings[track_id].path, error)
            continue
        yield track_id, waveform[middle(len(waveform), sample_rate)], sample_rate


def shard_sounds(index: ShardIndex, track_ids: set[str]) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield the middle of each of these test tracks from the waveforms of the shards, with its sample rate."""
    sample_rate = index.audio.sample_rate
    slices = share_slices(index.splits["test"], consumer=0, n_consumers=1)
    for sample in read_samples(index.root, slices, ("json", "flac")):
        info = decode_info(sample["json"])
        if info.track_id not in track_ids:
            continue
        clip = middle(index.audio.chunk_samples(info.frames), sample_rate)
        try:
            yield info.track_id, decode_flac(sample["flac"], clip.start, clip.stop), sample_rate
        # The decoder raises it for damaged bytes.
        except RuntimeError as error:
            logger.warning("%s, track %s: %s", index.root, info.track_id, error)


def middle(samples: int, sample_rate: int) -> slice:
    """Return where the clip of a recording lies.

    >>> middle(30 * 100, 100), middle(5 * 100, 100)
    (slice(1000, 2000, None), slice(0, 500, None))
    """
    start = max(0, (samples - round(CLIP_SECONDS * sample_rate)) // 2)
    return slice(start, min(samples, start + round(CLIP_SECONDS * sample_rate)))
