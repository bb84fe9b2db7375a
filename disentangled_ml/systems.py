"""What can be evaluated on shards: a network, a set of specialised networks, a baseline, musicnn's tags; and the reports on them."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.audio import musicnn
from datamodules.batches.streams import ChunkOutside, EvaluationStream, Source, check_starts
from datamodules.shards.conditions import build_conditions
from datamodules.shards.index import ShardIndex, ShardsError
from datamodules.shards.tar import (
    FEATURES_MEMBER,
    check_split,
    decode_features,
    decode_info,
    decode_mel,
    known_tracks,
    read_infos,
    read_samples,
    sample_context,
    share_slices,
)
from datamodules.triplet_lists.lists import ListSettings, kept_triplets, read_triplets
from disentangled_ml.baselines import BASELINES
from disentangled_ml.baselines.base import Baseline
from disentangled_ml.baselines.controls import bandwidth
from disentangled_ml.chunks import FEATURE_SIZE
from disentangled_ml.config.errors import ConfigError
from disentangled_ml.evaluation.collapse import collapse_remarks
from disentangled_ml.evaluation.listed_triplets import (
    EmbeddingTable,
    end_chunks,
    evaluation_report,
    listed_chunks,
    split_report,
)
from disentangled_ml.evaluation.matching import MEAN
from disentangled_ml.files import error_context
from disentangled_ml.network.checkpoint import (
    TAGS_ALONE,
    TrainedModel,
    choose_device,
    load_model,
    make_tags_network,
)
from disentangled_ml.network.masks import disjoint_blocks
from disentangled_ml.network.model import ConditionalSimilarityNetwork, embed_in_passes
from disentangled_ml.objective.conditions import Condition, TempoCondition
from disentangled_ml.progress import show_progress
from disentangled_ml.structures import SPLITS, TRACK, AudioSettings, Member, requested_starts

# Systems of which nothing is trained, and which have no checkpoint.
UNTRAINED = (*BASELINES, TAGS_ALONE)
MIN_DEVIATION = 1e-6  # of a logit that varies
logger = logging.getLogger("evaluate")


class System(Protocol):
    """Anything that embeds tracks and has condition masks."""

    index: ShardIndex
    condition_names: list[str]
    chunk_frames: int
    n_parameters: int | None  # None: nothing is trained
    # Whether the conditions look at different parts.
    has_subspaces: bool

    def embed(self, split: str, wanted: set[Member], only: frozenset[str] | None = None) -> EmbeddingTable:
        """Embed the tracks of a split, or those named, with the wanted chunks."""

    def masks(self, embedding_dim: int) -> Tensor:
        """Return the condition masks (C, D)."""


class NetworkSystem:
    """A network.

    Args:
        network: In evaluation mode, on its device.
        index: Of the shards.
        chunk_frames: Length of its chunks.
        tracks_per_batch: Whole tracks embedded at a time.
        keep_sequences: Whether tables keep the chunks of whole tracks too, not only their means.
    """

    def __init__(
        self,
        network: ConditionalSimilarityNetwork,
        index: ShardIndex,
        chunk_frames: int,
        tracks_per_batch: int = 8,
        keep_sequences: bool = False,
    ):
        self.network, self.tracks_per_batch, self.keep_sequences = network, tracks_per_batch, keep_sequences
        self.index, self.condition_names, self.chunk_frames = index, network.condition_names, chunk_frames
        self.n_parameters = sum(parameter.numel() for parameter in network.parameters()) or None
        masks = network.masks()
        self.has_subspaces = not bool((masks == masks[0]).all())
        self.source = Source(index, [], network.source, chunk_frames)

    @torch.inference_mode()
    def embed(self, split: str, wanted: set[Member], only: frozenset[str] | None = None) -> EmbeddingTable:
        network = self.network
        table = EmbeddingTable(wanted, keep_sequences=self.keep_sequences, normalised=network.normalised)
        stream = EvaluationStream(self.source, split, self.tracks_per_batch, requested_starts(wanted), only)
        for chunks in show_progress(stream, desc=f"embed {split}", unit="batch"):
            table.add(chunks, embed_in_passes(network, chunks.audio))
        check_finite(table.rows, str(self.index.root))
        return table

    def masks(self, embedding_dim: int) -> Tensor:
        return self.network.masks().detach().float().cpu()


class SpecialisedSystem:
    """One network per condition, side by side: their embeddings are concatenated, each is the subspace of its condition.

    Raises ConfigError if one has more conditions, two have the same, or they differ in size.
    """

    has_subspaces = True

    def __init__(self, systems: Sequence[NetworkSystem]):
        names = [name for system in systems for name in system.condition_names]
        if len(set(names)) < len(systems) or len(names) > len(systems):
            raise ConfigError(f"specialised networks need a condition each, given are {names}")
        sizes = [system.masks(0).shape[1] for system in systems]
        if len(set(sizes)) > 1:
            raise ConfigError(f"specialised networks need as many dimensions each, given are {sizes}")
        self.systems, self.condition_names = systems, names
        self.index, self.chunk_frames = systems[0].index, systems[0].chunk_frames
        self.n_parameters = sum(system.n_parameters for system in systems)

    def embed(self, split: str, wanted: set[Member], only: frozenset[str] | None = None) -> EmbeddingTable:
        tables = [system.embed(split, wanted, only) for system in self.systems]
        rows = {member: torch.cat([table.rows[member] for table in tables]) for member in tables[0].rows}
        return EmbeddingTable(wanted, rows)

    def masks(self, embedding_dim: int) -> Tensor:
        return disjoint_blocks(len(self.systems), embedding_dim)


class BaselineSystem:
    """A baseline, fitted on the training tracks; all its dimensions serve every condition.

    A whole track is embedded as one excerpt, not as the mean of its chunks, and nothing is normalised: a baseline's distances
    are its own.

    Args:
        baseline: Not yet fitted.
        index: Of the shards.
        condition_names: To report on.
        chunk_frames: Length of the chunks of track triplets.
    """

    n_parameters = None
    has_subspaces = False

    def __init__(self, baseline: Baseline, index: ShardIndex, condition_names: list[str], chunk_frames: int):
        self.baseline, self.index, self.chunk_frames = baseline, index, chunk_frames
        self.condition_names = condition_names
        with baseline_context(index):
            baseline.fit(mel for _, mel in read_mels(index, "train"))

    def embed(self, split: str, wanted: set[Member], only: frozenset[str] | None = None) -> EmbeddingTable:
        """Embed each track as a whole, and its wanted chunks. Raises ChunkOutside if one of these lies outside of its track."""
        starts, table, embed = requested_starts(wanted), EmbeddingTable(wanted), self.baseline.embed
        with baseline_context(self.index):
            for track_id, mel in read_mels(self.index, split):
                if only is not None and track_id not in only:
                    continue
                table.rows[Member(track_id)] = embed(mel)
                wanted_starts = sorted(starts.get(track_id, ()))
                check_starts(track_id, wanted_starts, mel.shape[1] - self.chunk_frames, self.index.audio)
                for start in wanted_starts:
                    table.rows[Member(track_id, start)] = embed(mel[:, start : start + self.chunk_frames])
        return table

    def masks(self, embedding_dim: int) -> Tensor:
        return torch.ones(len(self.condition_names), embedding_dim)


def baseline_context(index: ShardIndex) -> AbstractContextManager[None]:
    """Name the shards in the errors of a baseline, which sees spectrograms alone."""

    def message(error: Exception) -> str | None:
        if isinstance(error, ShardsError):
            return None
        return f"the baseline cannot be used on {index.root} ({error}): give other shards or baseline"

    return error_context(ValueError, message)


def check_finite(rows: Mapping[Member, Tensor], source: str) -> None:
    """Check embeddings: distances of those that are not finite would count as wrong. Raises ValueError, naming the track."""
    finite = torch.stack(list(rows.values())).isfinite().all(1).tolist() if rows else []
    for member, is_finite in zip(rows, finite, strict=True):
        if not is_finite:
            raise ValueError(
                f"the embedding of track {member.track_id!r} of {source} is not finite: its recording or the checkpoint "
                "is damaged"
            )


def warn_of_collapse(system: System, table: EmbeddingTable) -> None:
    """Warn of what a trained system can tell nothing apart by."""
    if system.n_parameters is not None:
        embedding = table.tracks()[1]
        for remark in collapse_remarks(embedding, system.masks(embedding.shape[1]), system.condition_names):
            logger.warning("%s", remark)


def read_mels(index: ShardIndex, split: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the ids and spectrograms (n_mels, frames) of a split.

    Raises ShardsError, naming the sample, for another shape than the index and its labels say.
    """
    known = known_tracks(index, split)
    for sample in read_samples(index.root, share_slices(index.splits[split], 0, 1), ("json", "mel.npy")):
        with sample_context(sample):
            info, mel = decode_info(sample["json"]), torch.from_numpy(decode_mel(sample["mel.npy"]).astype("float32"))
            check_split(info, split, known)
            if mel.shape != (index.audio.n_mels, info.frames):
                raise ShardsError(
                    f"its spectrogram has shape {tuple(mel.shape)}, expected {(index.audio.n_mels, info.frames)}"
                )
        yield info.track_id, mel


def load_network_system(
    checkpoint: str | Path,
    index: ShardIndex | None = None,
    accelerator: str = "auto",
    tracks_per_batch: int = 8,
    keep_sequences: bool = False,
) -> tuple[NetworkSystem, TrainedModel]:
    """Load a checkpoint to evaluate it on shards, those that it was trained on by default.

    Raises:
        ValueError: if it is no checkpoint of this project.
        ConfigError: if the shards were prepared otherwise than those it was trained on, or are not known.
    """
    model = load_model(checkpoint, choose_device(accelerator))
    if index is None and not model.shards:
        raise ConfigError(
            f"{checkpoint} is an exported model, which does not tell what it was trained on: give shards=DIR"
        )
    index = index or ShardIndex.read(model.shards)
    if index.audio != model.audio:
        raise ConfigError(f"{index.root} was prepared with {index.audio}, the checkpoint with {model.audio}")
    return NetworkSystem(model.network, index, model.chunk_frames, tracks_per_batch, keep_sequences), model


def fit_tags(index: ShardIndex) -> tuple[ConditionalSimilarityNetwork, dict[str, list[str]]]:
    """Make the network of musicnn's tags of some shards: standardised over the windows of the training tracks, nothing trained.

    Its conditions are those that the shards' features have tags for, whatever the shards have labels of, and tempo.

    Returns: The network, in evaluation mode, and the tags of each condition but tempo, in order.

    Raises:
        ConfigError: if the shards hold no features.
        MissingPackage: if musicnn's package is not installed.
        ShardsError: if they have no training tracks, or those are damaged.
    """
    if not index.features:
        raise ConfigError(
            f"{index.root} holds no features, of which musicnn makes its tags: prepare with features=musicnn"
        )
    if not index.count("train"):
        raise ShardsError(f"{index.root} has no train tracks: check the manifest's split column")
    musicnn.require(index.features)
    if others := without_tags(index, index.features):
        logger.warning(
            "musicnn has no tags for %s of %s: the model has no such conditions", ", ".join(others), index.root
        )
    return fit_tag_network(read_features(index, "train"), index.audio, index.features)


def fit_tag_network(
    windows: Iterable[Tensor], audio: AudioSettings, networks: Sequence[str]
) -> tuple[ConditionalSimilarityNetwork, dict[str, list[str]]]:
    """Make the network of musicnn's tags, whose logits are standardised over some windows; nothing is trained.

    Args:
        windows: Features (n, F) of tracks, in float32; one at least.
        audio: Of the spectrograms that it will read.
        networks: Of musicnn, whose features these are.

    Returns: The network, in evaluation mode, and the tags of each condition but tempo, in order.

    Raises: MissingPackage: if musicnn's package is not installed.
    """
    found = {name: musicnn.tag_model(name, networks) for name in musicnn.CONDITION_TAGS}
    models = {name: model for name, model in found.items() if model is not None}
    rows = {name: musicnn.tag_rows(name, model) for name, model in models.items()}
    tags = {name: [musicnn.TAGS[models[name]][row] for row in rows[name]] for name in models}
    network = make_tags_network(tags, audio, networks)
    columns = torch.arange(len(network.head.bias)).split([len(own) for own in tags.values()])
    for (name, model), own in zip(models.items(), columns, strict=True):
        trained, place = musicnn.network(model), list(networks).index(model) * FEATURE_SIZE
        network.head.weight[place : place + FEATURE_SIZE, own] = trained.tag_weight[:, rows[name]]
        network.head.bias[own] = trained.tag_bias[rows[name]]
    n_windows, moments = 0, torch.zeros(2, len(network.head.bias), dtype=torch.float64)
    for features in windows:
        logits = network.head.logits(features).double()
        n_windows += len(logits)
        moments += torch.stack([logits.sum(0), logits.square().sum(0)])
    mean, mean_square = moments / n_windows
    deviation = (mean_square - mean.square()).clamp(min=0).sqrt()
    network.head.mean.copy_(mean)
    network.head.deviation.copy_(torch.where(deviation > MIN_DEVIATION, deviation, 1.0))
    return network.eval(), tags


def without_tags(index: ShardIndex, features: Sequence[str]) -> list[str]:
    """Return the conditions of some shards that musicnn has no tags for, with the features of some networks."""
    names = [entry["name"] for entry in index.conditions if entry["kind"] == "tags"]
    return [name for name in names if musicnn.tag_model(name, features) is None]


def read_features(index: ShardIndex, split: str) -> Iterator[Tensor]:
    """Yield the features (windows, F) of the tracks of a split, in float32. Raises ShardsError, naming the sample, for damaged ones."""
    width = FEATURE_SIZE * len(index.features)
    for sample in read_samples(index.root, share_slices(index.splits[split], 0, 1), (FEATURES_MEMBER,)):
        with sample_context(sample):
            features = decode_features(sample[FEATURES_MEMBER], width)
        yield torch.from_numpy(features.astype("float32"))


def untrained_system(
    name: str, index: ShardIndex, condition_names: list[str], chunk_frames: int, seed: int, tracks_per_batch: int = 8
) -> System:
    """Fit a system of ``UNTRAINED`` on the training tracks.

    Args:
        name: Of the system.
        index: Of the shards.
        condition_names: That a baseline reports on; musicnn's tags have their own.
        chunk_frames: Length of the chunks.
        seed: Of what a baseline draws.
        tracks_per_batch: Whole tracks embedded at a time.

    Raises: ValueError: if the shards do not have what it takes.
    """
    if name == TAGS_ALONE:
        return NetworkSystem(fit_tags(index)[0], index, chunk_frames, tracks_per_batch)
    return BaselineSystem(BASELINES[name](seed=seed), index, condition_names, chunk_frames)


def list_conditions(index: ShardIndex, names: list[str], tempo: Mapping[str, Any]) -> list[Condition]:
    """Build those of the named conditions that the shards have, with this tempo relation. Raises ConfigError if there are none."""
    known = {entry["name"] for entry in index.conditions}
    common = [name for name in names if name in known]
    if names and known and not common:
        raise ConfigError(f"{index.root} has labels of {', '.join(sorted(known))}, none of {', '.join(names)}")
    if len(common) < len(names):
        logger.warning("%s has no labels of: %s", index.root, ", ".join(sorted(set(names) - known)))
    return build_conditions(index, common, TempoCondition(**tempo))


def evaluate_split(
    system: System, conditions: list[Condition], settings: ListSettings, probe: bool, match: str = MEAN
) -> dict[str, Any]:
    """Evaluate on the stored list of the test split, optionally with probes, which are trained on the training tracks.

    Raises:
        ShardsError: if there are no such tracks.
    """
    index = system.index
    for split in ("train", "test") if probe else ("test",):
        if not index.count(split):
            raise ShardsError(f"{index.root} has no {split} tracks: check the manifest's split column")
    infos = read_infos(index, "test")
    triplets = kept_triplets(index, "test", infos, conditions, settings, bandwidth)
    table = system.embed("test", listed_chunks(triplets) | end_chunks(infos, settings.chunk_frames))
    warn_of_collapse(system, table)
    ids, embedding = table.tracks()
    names = [condition.name for condition in conditions]
    masks = system.masks(embedding.shape[1])[[system.condition_names.index(name) for name in names]]
    report = split_report(table, triplets, masks, conditions, infos, match)
    report["estimated"] = [name for name in names if name in index.estimated()]
    if probe:
        from disentangled_ml.evaluation.probe import probe_report  # scikit-learn takes a second to import

        train_ids, train = system.embed("train", set()).tracks()
        by_id = {info.track_id: info for info in (*infos, *read_infos(index, "train"))}
        train_infos, test_infos = ([by_id[track_id] for track_id in part] for part in (train_ids, ids))
        report["probe"] = probe_report(train, train_infos, embedding, test_infos, masks, conditions)
    return report


def evaluate_list(system: System, path: Path, match: str = MEAN) -> dict[str, Any]:
    """Evaluate on a given list, whose tracks may be of any split.

    Raises:
        ConfigError: for a condition that the system does not know, or if the tracks of no triplet are there.
    """
    index, names = system.index, system.condition_names
    triplets = read_triplets(path, index.audio)
    unknown = {triplet.condition for triplet in triplets} - {*names, TRACK}
    if unknown:
        raise ConfigError(f"triplets={path} has conditions {sorted(unknown)}, the checkpoint knows {[*names, TRACK]}")
    with error_context(ChunkOutside, lambda error: f"triplets={path}: {error}: correct or leave out what names it"):
        table = embed_named(system, [member for _, *members in triplets for member in members])
    if not any(all(member in table.rows for member in members) for _, *members in triplets):
        raise ConfigError(f"triplets={path}: {index.root} has the tracks of none of its {len(triplets)} triplets")
    warn_of_collapse(system, table)
    embedding_dim = table.tracks()[1].shape[1]
    return evaluation_report(table, triplets, system.masks(embedding_dim), names, match)


def embed_named(system: System, members: Iterable[Member]) -> EmbeddingTable:
    """Embed the tracks that are named, of any split, each chunk once."""
    members, table = set(members), EmbeddingTable()
    named, chunks = frozenset(m.track_id for m in members), {m for m in members if m.start is not None}
    for split in SPLITS:
        found = system.embed(split, chunks, named)
        table.rows.update(found.rows)
        table.sequences.update(found.sequences)
    return table
