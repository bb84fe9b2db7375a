"""Make one self-contained HTML page of a run, or of a comparison table: ``python -m disentangled_ml.commands.html_report run=DIR``.

The page shows the setup, the numbers, the figures, and what a few test tracks have near them in every subspace, to hear where
there is sound. What a run lacks, or has lost since, is named on the page.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from tqdm import tqdm
from yaml import YAMLError

from datamodules.audio.decoding import UnusableAudio, decode, decode_flac, encode_mp3
from datamodules.audio.spectrogram import resample
from datamodules.corpora.manifest import read_manifest
from datamodules.corpora.records import TEMPO, TrackRecord, collect
from datamodules.shards.index import ShardIndex
from datamodules.shards.tar import decode_info, read_infos, read_samples, share_slices
from disentangled_ml.config import ConfigError
from disentangled_ml.console import one_line, run_command
from disentangled_ml.objective.conditions import Condition
from disentangled_ml.reporting.neighbours import choose_queries, nearest
from disentangled_ml.reporting.report_page import (
    NeighbourView,
    Page,
    QueryView,
    SpaceView,
    TrackView,
    comparison_tables,
    data_uri,
    evaluation_tables,
    metrics_table,
    part,
    read_figures,
    render,
    run_summary,
    settings_of,
    show,
)
from disentangled_ml.structures import TrackInfo
from disentangled_ml.systems import NetworkSystem, list_conditions, load_network_system
from disentangled_ml.training.run_folder import writable

logger = logging.getLogger("html_report")
RUN_PARTS = ("config.yaml", "metrics.json", "evaluation.json", "checkpoints")  # any of them makes a folder a run
TABLE = "table.json"
CLIP_SECONDS, CLIP_RATE = 10.0, 22_050
CLIPS_BYTES = 8_000_000  # of all clips; as data URIs a third more, so that the page stays below 15 MB


@dataclass(frozen=True)
class SplitTracks:
    """Hold the embedded tracks of the test split.

    Shape:
        embedding: (N, D); masks: (C, D).
    """

    index: ShardIndex
    conditions: list[Condition]
    infos: list[TrackInfo]
    embedding: Tensor
    masks: dict[str, Tensor]


def main(config: DictConfig) -> None:
    """Make the page of a configuration."""
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
    page = table_page(run) if is_table else run_page(run, config, recordings)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(render(page), encoding="utf-8")
    temporary.replace(out)
    for item in page.missing:
        logger.warning("not on the page: %s", item)
    sys.stdout.write(f"{out} ({out.stat().st_size / 1e6:.1f} MB)\n")


def table_page(folder: Path) -> Page:
    """Make the page of a comparison."""
    page = Page(f"Comparison {folder.resolve().name}", figures=read_figures(folder))
    content = read_mapping(folder / TABLE, page.missing)
    page.tables = comparison_tables(content)
    if page.tables:
        page.summary = f"{len({names[0] for names, _ in page.tables[0].rows})} systems on the same test triplets"
    elif content:
        page.missing.append(f"the table: {folder / TABLE} has no rows")
    settings = content.get("settings")
    if isinstance(settings, dict):
        page.settings = [(name, show(value)) for name, value in settings.items()]
    return page


def run_page(run: Path, config: DictConfig, recordings: dict[str, Path] | None = None) -> Page:
    """Make the page of a run, finished or not; its tracks sound from the recordings, or else from the shards."""
    page = Page(f"Run {run.resolve().name}", figures=read_figures(run / "figures"))
    setup = read_setup(run / "config.yaml", page)
    evaluation = read_mapping(run / "evaluation.json", page.missing)
    metrics = read_mapping(run / "metrics.json", page.missing)
    page.summary, page.settings = run_summary(setup, evaluation), settings_of(setup)
    page.tables = evaluation_tables(evaluation) + ([metrics_table(metrics)] if metrics else [])
    if not page.figures:
        page.missing.append(f"figures: {run / 'figures'} has none, training draws them at its end")
    if config.queries:
        try:
            add_neighbours(page, run, part(setup, "data").get("shards"), config, recordings)
        except (ValueError, OSError) as error:  # what checkpoints and shards raise; the rest of the page stands
            page.missing.append(f"nearest neighbours: {error}")
    return page


def read_mapping(path: Path, missing: list[str]) -> dict[str, Any]:
    """Read a JSON object; if there is none, say so and give an empty one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing.append(f"{path.name}: not there, a run writes it when it is finished")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        missing.append(f"{path.name}: cannot be read ({error})")
        return {}
    if not isinstance(content, dict):
        missing.append(f"{path.name}: holds no JSON object")
        return {}
    return content


def read_setup(path: Path, page: Page) -> dict[str, Any]:
    """Read the configuration of a run onto the page, and give it."""
    try:
        page.config = path.read_text(encoding="utf-8")
        setup = OmegaConf.to_container(OmegaConf.create(page.config))
    except (OSError, ValueError, RecursionError, AssertionError, YAMLError, OmegaConfBaseException) as error:
        page.missing.append(f"{path.name}: cannot be read ({one_line(error)})")
        return {}
    return setup if isinstance(setup, dict) else {}


def add_neighbours(
    page: Page, run: Path, shards: str | None, config: DictConfig, recordings: dict[str, Path] | None
) -> None:
    """Put the nearest neighbours of some test tracks onto the page, with their sound.

    Raises:
        ValueError: if the checkpoint or its shards are gone, or do not fit together.
    """
    if not shards:
        raise ConfigError(f"{run / 'config.yaml'} does not name the shards of the run (data.shards)")
    system, tracks = embed_test_tracks(run / "checkpoints" / "best.ckpt", str(shards))
    page.settings.append(("embedding", f"{tracks.embedding.shape[1]} dimensions"))
    page.settings.append(("parameters", show(system.n_parameters)))
    queries = choose_queries(tracks.infos, config.queries)
    found = neighbours_by_space(tracks, queries, config.neighbours)
    shown = list(dict.fromkeys([*queries, *(n.row for lists in found.values() for near in lists for n in near)]))
    number = add_clips(page, tracks, [tracks.infos[row].track_id for row in shown], recordings)
    views = {row: track_view(tracks.infos[row], number) for row in shown}
    similar = {condition.name: similar_tracks(condition, tracks.infos, queries) for condition in tracks.conditions}
    for i, query in enumerate(queries):
        spaces = []
        for space, lists in found.items():
            marks = similar[space][i] if space in similar else {}
            near = [NeighbourView(views[n.row], n.distance, marks.get(n.row)) for n in lists[i]]
            spaces.append(SpaceView(space or "all dimensions", space, near))
        page.queries.append(QueryView(views[query], spaces))


def embed_test_tracks(checkpoint: Path, shards: str) -> tuple[NetworkSystem, SplitTracks]:
    """Embed every track of the test split.

    Raises:
        ValueError: if the checkpoint or the shards are gone, or do not fit together.
    """
    index = ShardIndex.read(shards)
    system, model = load_network_system(checkpoint, index)
    conditions = list_conditions(index, system.condition_names, model.tempo)
    ids, embedding = system.embed("test", set()).tracks()
    if not ids:
        raise ConfigError(f"{index.root} has no test tracks: check the manifest's split column")
    infos = {info.track_id: info for info in read_infos(index, "test")}
    masks = dict(zip(system.condition_names, system.masks(embedding.shape[1]), strict=True))
    return system, SplitTracks(index, conditions, [infos[track_id] for track_id in ids], embedding, masks)


def neighbours_by_space(tracks: SplitTracks, queries: list[int], k: int) -> dict[str | None, list[list]]:
    """Find the neighbours of the queries in every subspace, and in all dimensions under None."""
    masks: dict[str | None, Tensor] = {**tracks.masks, None: torch.ones(tracks.embedding.shape[1])}
    artists = [info.artist for info in tracks.infos]
    return {space: nearest(tracks.embedding, mask, queries, k, artists) for space, mask in masks.items()}


def similar_tracks(condition: Condition, infos: list[TrackInfo], queries: list[int]) -> list[dict[int, bool]]:
    """Tell for each query which tracks are similar by label (True) and which are not; those undecided are absent."""
    labels = condition.encode([info.labels.get(condition.name) for info in infos])
    positive, negative = condition.relate(labels[queries], labels)
    return [
        {row: bool(is_similar) for row, (is_similar, decided) in enumerate(pairs) if decided}
        for pairs in torch.stack([positive, positive | negative], dim=2).tolist()
    ]


def track_view(info: TrackInfo, number: dict[str, int]) -> TrackView:
    """Show a track with its labels; a tempo is in BPM."""
    labels = {
        name: f"{label:.0f} BPM" if isinstance(label, int | float) else show(label)
        for name, label in info.labels.items()
    }
    return TrackView(info.track_id, info.artist or "", labels, number.get(info.track_id))


def add_clips(
    page: Page, tracks: SplitTracks, track_ids: list[str], recordings: dict[str, Path] | None
) -> dict[str, int]:
    """Put the sound of tracks onto the page, as far as it is there and fits; give the number of each one's clip."""
    if recordings is not None:
        sounds = recorded_sounds(recordings, track_ids)
    elif tracks.index.has_waveform:
        sounds = shard_sounds(tracks.index, set(track_ids))
    else:
        page.missing.append(
            "sound: the shards hold no waveforms; give manifest=FILE.csv, which they were prepared from"
        )
        return {}
    number: dict[str, int] = {}
    size = 0
    for track_id, waveform, sample_rate in sounds:
        clip = encode_mp3(resample(waveform, sample_rate, CLIP_RATE), CLIP_RATE)
        size += len(clip)
        if size > CLIPS_BYTES:
            break
        number[track_id] = len(page.clips)
        page.clips.append(data_uri("audio/mpeg", clip))
    if len(number) < len(track_ids):
        page.missing.append(
            f"sound of {len(track_ids) - len(number)} of {len(track_ids)} tracks: not found, not decodable, or beyond "
            f"{CLIPS_BYTES / 1e6:.0f} MB"
        )
    return number


def read_recordings(manifest: Path) -> dict[str, TrackRecord]:
    """Read which recordings a manifest has, by track id.

    Raises:
        ManifestError: if it is no manifest.
    """
    catalogue = read_manifest(
        manifest, split_shares=[1.0, 0.0, 0.0], conditions=[TEMPO]
    )  # splits and labels: the shards'
    return {record.track_id: record for record in collect(catalogue)[0]}


def recorded_sounds(recordings: dict[str, TrackRecord], track_ids: list[str]) -> Iterator[tuple[str, np.ndarray, int]]:
    """Give the middle of each of these recordings that can be decoded, with its sample rate."""
    known = [track_id for track_id in track_ids if track_id in recordings]
    for track_id in tqdm(known, desc="decode", unit="track"):
        try:
            waveform, sample_rate = decode(Path(recordings[track_id].path), *recordings[track_id].section)
        except UnusableAudio as error:
            logger.warning("%s: %s", recordings[track_id].path, error)
            continue
        start, stop = middle(len(waveform), sample_rate)
        yield track_id, waveform[start:stop], sample_rate


def shard_sounds(index: ShardIndex, track_ids: set[str]) -> Iterator[tuple[str, np.ndarray, int]]:
    """Give the middle of each of these test tracks from the waveforms of the shards, with its sample rate."""
    sample_rate = index.audio.sample_rate
    slices = share_slices(index.splits["test"], consumer=0, n_consumers=1)
    for sample in read_samples(index.root, slices, ("json", "flac")):
        info = decode_info(sample["json"])
        if info.track_id not in track_ids:
            continue
        start, stop = middle(index.audio.chunk_samples(info.frames), sample_rate)
        try:
            yield info.track_id, decode_flac(sample["flac"], start, stop), sample_rate
        except RuntimeError as error:  # of the decoder, for damaged bytes
            logger.warning("%s, track %s: %s", index.root, info.track_id, error)


def middle(samples: int, sample_rate: int) -> tuple[int, int]:
    """Choose the clip of a recording.

    >>> middle(30 * 100, 100), middle(5 * 100, 100)
    ((1000, 2000), (0, 500))
    """
    start = max(0, (samples - round(CLIP_SECONDS * sample_rate)) // 2)
    return start, min(samples, start + round(CLIP_SECONDS * sample_rate))


if __name__ == "__main__":
    run_command(main, "html_report", "html_report", __doc__)
