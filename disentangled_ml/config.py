"""Configuration: dataclass schemas, YAML files and ``key=value`` arguments to one read-only tree.

Order, later wins: schema -> ``conf/config.yaml`` -> the chosen file of each group (``backbone=resnet`` takes
``conf/backbone/resnet.yaml``) -> ``conf/experiment/NAME.yaml`` (which may choose groups too, under ``choices``; several, as
``experiment=icassp2020,category``, one after the other) ->
``key=value`` arguments -> resolve -> fail on what is still ``???`` -> checks across fields -> read-only.

Arguments are ``key=value`` or ``--key=value`` (what a W&B agent passes); everything behind the first ``=`` is the value;
``None``, ``True`` and lists may be written as in Python. An unknown key or choice is an error that names the legal ones.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("backbone", "frontend", "augmentation", "mask", "loss", "data", "trainer", "experiment")
CHOICES = tuple(f"choices.{group}" for group in GROUPS)  # what the tree calls them


class ConfigError(ValueError):
    """Tell what is wrong with the configuration, and what would be right."""


@dataclass
class BackboneConfig:
    """Choose and size the network."""

    name: str = MISSING
    width: float = MISSING


@dataclass
class FrontendConfig:
    """Choose how audio becomes a spectrogram."""

    name: str = MISSING
    trainable_stft: bool = False
    trainable_mel: bool = False
    learning_rate_scale: float = MISSING


@dataclass
class AugmentationConfig:
    """Say how training chunks are changed."""

    gain_db: float = MISSING
    snr_db: list[float] | None = None
    mask_bands: int = MISSING
    mask_frames: int = MISSING


@dataclass
class MaskConfig:
    """Choose the condition masks."""

    name: str = MISSING
    start: str = MISSING
    embedding_penalty: float = MISSING
    mask_penalty: float = MISSING


@dataclass
class TempoConfig:
    """Say when two tempi are similar."""

    relation: str = MISSING
    tolerance_bpm: float = MISSING
    tolerance: float = MISSING
    margin: float = MISSING


@dataclass
class DataConfig:
    """Say which shards are streamed and how batches are composed."""

    shards: str = MISSING
    conditions: list[str] | None = None
    tempo: TempoConfig = field(default_factory=TempoConfig)
    chunk_frames: int = MISSING
    chunks_per_track: int = MISSING
    tracks_per_batch: int = MISSING
    pool_tracks: int = MISSING
    triplets_per_condition: int = MISSING
    track_triplets: int = MISSING
    workers: int | None = None
    max_damaged: float = MISSING


@dataclass
class TrainerConfig:
    """Say on what hardware training runs."""

    accelerator: str = MISSING
    devices: Any = MISSING
    num_nodes: int = MISSING
    strategy: str = MISSING
    sync_batchnorm: bool = MISSING
    precision: str = MISSING
    channels_last: bool = MISSING


@dataclass
class LossConfig:
    """Choose the loss and weigh its parts."""

    name: str = MISSING
    margin: float = MISSING
    track_weight: float = MISSING
    condition_weight: float = MISSING
    temperature: float = MISSING
    triplets: str = MISSING
    mean: str = MISSING
    gather: bool = MISSING


@dataclass
class TrainingConfig:
    """Say how long and how fast to train."""

    max_epochs: int = MISSING
    learning_rate: float = MISSING
    weight_decay: float = MISSING
    lr_factor: float = MISSING
    lr_patience: int = MISSING
    lr_reductions: int = MISSING
    early_stopping_patience: int | None = None
    gradient_clip: float | None = None


@dataclass
class EvaluationConfig:
    """Size the fixed triplet lists of validation and test."""

    triplets_per_condition: int = MISSING
    tracks_per_batch: int = MISSING


@dataclass
class WandbConfig:
    """Say where the run is logged."""

    mode: str = MISSING
    project: str = MISSING
    entity: str | None = None


@dataclass
class TrainConfig:
    """The keys of ``disentangled train``."""

    choices: dict[str, str] = field(default_factory=dict)
    seed: int = MISSING
    runs: str = MISSING
    run_name: str | None = None
    resume: bool = MISSING
    embedding_dim: int | None = None
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass
class AudioConfig:
    """Say how a recording becomes a log-mel spectrogram."""

    sample_rate: int = MISSING
    n_fft: int = MISSING
    hop_length: int = MISSING
    n_mels: int = MISSING


@dataclass
class CorpusConfig:
    """Say where the data set lies that is prepared."""

    metadata: str = MISSING
    audio: str = MISSING


@dataclass
class MsdConfig(CorpusConfig):
    """Say where the Million Song Dataset has its tags from, and sort them."""

    tag_database: str | None = None
    tag_threshold: float | None = None
    tags: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class MtgJamendoConfig(CorpusConfig):
    """Choose lists and recordings of MTG-Jamendo, and sort its tags."""

    subset: str = MISSING
    edition: str = MISSING
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class MagnaTagATuneConfig(CorpusConfig):
    """Sort and merge the tags of MagnaTagATune."""

    tags: dict[str, list[str]] = field(default_factory=dict)
    synonyms: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class PrepareConfig:
    """The keys of ``disentangled prepare``."""

    data: str | None = None
    corpus: CorpusConfig | None = None
    manifest: str | None = MISSING
    out: str = MISSING
    conditions: list[str] | None = None
    audio: AudioConfig = field(default_factory=AudioConfig)
    chunk_frames: int = MISSING
    store_waveform: bool = MISSING
    tempo: str = MISSING
    split_shares: list[float] = MISSING
    tracks_per_shard: int = MISSING
    workers: int | None = None
    part: str | None = None
    merge: bool = MISSING


@dataclass
class EvaluateConfig:
    """The keys of ``disentangled evaluate``."""

    checkpoint: str | None = None
    baseline: str | None = None
    shards: str | None = None
    triplets: str | None = None
    out: str | None = None
    probe: bool = MISSING
    seed: int = MISSING
    triplets_per_condition: int = MISSING
    match_bandwidth: bool = MISSING
    match: str = MISSING
    tracks_per_batch: int = MISSING
    accelerator: str = MISSING


@dataclass
class HtmlReportConfig:
    """The keys of ``disentangled html_report``."""

    run: str = MISSING
    out: str | None = None
    manifest: str | None = None
    queries: int = MISSING
    neighbours: int = MISSING


@dataclass
class ServeConfig:
    """The keys of ``disentangled serve``."""

    checkpoint: str = MISSING
    index: str = MISSING
    host: str = MISSING
    port: int = MISSING
    audio: str | None = None
    listening_test: str | None = None
    listening_questions: int = MISSING
    seed: int = MISSING
    max_upload_mb: int = MISSING
    max_upload_minutes: int = MISSING
    uploads_at_a_time: int = MISSING
    decode_seconds: int = MISSING
    accelerator: str = MISSING


@dataclass
class ListeningResultsConfig:
    """The keys of ``disentangled listening_results``."""

    listening_test: str = MISSING
    out: str | None = None


@dataclass
class TableConfig:
    """The keys of ``disentangled table``."""

    shards: str = MISSING
    out: str | None = None
    systems: list[str] = MISSING
    base: str = MISSING
    train: list[str] = MISSING
    seeds: list[int] = MISSING
    triplets_per_condition: int = MISSING
    match_bandwidth: bool = MISSING
    jobs: int | None = None


@dataclass
class DemoConfig:
    """The keys of ``disentangled demo``."""

    out: str = MISSING
    pieces: int = MISSING
    seconds: float = MISSING
    changing_pieces: int = MISSING
    changing_seconds: float = MISSING
    seed: int = MISSING
    workers: int | None = None


@dataclass
class HumanTripletsConfig:
    """The keys of ``disentangled human_triplets``."""

    checkpoint: str = MISSING
    triplets: str = MISSING
    shards: str | None = None
    audio: str | None = None
    out: str | None = None
    least_votes: int | None = None
    weights: str | None = None
    high_agreement: float = MISSING
    accelerator: str = MISSING


@dataclass
class TempoCheckConfig:
    """The keys of ``disentangled tempo_check``."""

    manifest: str = MISSING
    column: str = MISSING
    estimator: str = MISSING
    out: str | None = None
    limit: int | None = None
    workers: int | None = None


@dataclass
class TrajectoryConfig:
    """The keys of ``disentangled trajectory``."""

    checkpoint: str = MISSING
    path: str = MISSING
    out: str | None = None
    hop_seconds: float = MISSING
    context_seconds: float = MISSING
    min_gap_seconds: float = MISSING
    threshold: float = MISSING
    thresholds: str | None = None
    accelerator: str = MISSING


@dataclass
class ChangesConfig:
    """The keys of ``disentangled changes``."""

    checkpoint: str = MISSING
    changes: str = MISSING
    out: str | None = None
    hop_seconds: float = MISSING
    context_seconds: float = MISSING
    min_gap_seconds: float = MISSING
    accelerator: str = MISSING


@dataclass
class EmbedConfig:
    """The keys of ``disentangled embed``."""

    checkpoint: str = MISSING
    manifest: str | None = None
    shards: str | None = None
    split: str | None = None
    out: str = MISSING
    approximate: bool | None = None
    npz: str | None = None
    workers: int | None = None
    accelerator: str = MISSING


@dataclass
class SearchConfig:
    """The keys of ``disentangled search``."""

    index: str = MISSING
    like: str | None = None
    precision: bool = MISSING
    checkpoint: str | None = None
    weights: dict[str, float] = field(default_factory=dict)
    k: int = MISSING
    same_artist: bool = MISSING
    tempo: list[float] | None = None
    method: str = MISSING
    match: str = MISSING
    rerank: int = MISSING
    out: str | None = None
    accelerator: str = MISSING


CORPORA = {  # keys of a data set, by the reader that its file names
    "msd": MsdConfig,
    "mtg_jamendo": MtgJamendoConfig,
    "magnatagatune": MagnaTagATuneConfig,
}
OPEN_KEYS = ("weights",)  # whose parts are named by the data: its conditions
OF_MANIFESTS = ("manifest", "split_shares")  # keys of prepare that data sets have no use for


def conf_name(schema: type) -> str:
    """Return the name of a command's file in ``conf/``, that of its schema.

    >>> conf_name(HtmlReportConfig), conf_name(TrainConfig)
    ('html_report', 'config')
    """
    words = re.sub("(?<=[a-z])(?=[A-Z])", "_", schema.__name__.removesuffix("Config")).lower()
    return "config" if schema is TrainConfig else words


def load_config(schema: type, argv: list[str]) -> DictConfig:
    """Build the read-only configuration of a command from its schema, its file in ``conf/`` and arguments.

    Raises:
        ConfigError: for an unknown or ill-typed key, an unknown choice or a value that is still missing.
    """
    overrides = [split_argument(argument) for argument in argv]
    base = OmegaConf.load(CONF / f"{conf_name(schema)}.yaml")
    tree = OmegaConf.merge(OmegaConf.structured(schema), base)
    given = ""  # the argument that is merged
    try:
        if schema is TrainConfig:
            tree, overrides = merge_groups(tree, overrides)
        if schema is PrepareConfig:
            tree, overrides = merge_corpus(tree, overrides)
        for key, value in overrides:
            check_key(tree, key)
            given = f"{key}={value}"
            tree = OmegaConf.merge(tree, parse_override(tree, key, value))
        given = ""
        OmegaConf.resolve(tree)
    except (OmegaConfBaseException, YAMLError) as error:
        key = getattr(error, "full_key", None) or given
        hint = legal_keys(tree, key) if isinstance(error, ConfigKeyError) else ""
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}{hint}".removeprefix(": ")) from error
    missing = sorted(OmegaConf.missing_keys(tree))
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}: give it as {missing[0]}=VALUE")
    check_fields(tree)
    OmegaConf.set_readonly(tree, True)
    return tree


def split_argument(argument: str) -> tuple[str, str]:
    """Split an argument at its first ``=``.

    >>> split_argument("--resume=epoch=3.ckpt")
    ('resume', 'epoch=3.ckpt')
    """
    key, equals, value = argument.removeprefix("--").partition("=")
    if not equals or not key:
        raise ConfigError(f"argument {argument!r} is not of the form key=value")
    return key, value


def parse_override(tree: DictConfig, key: str, value: str) -> DictConfig:
    """Parse one override into a tree; a Python ``None`` becomes null.

    The value of a key that holds text is taken as it is: ``run_name=007`` is no number, ``shards=@home`` no YAML error.
    """
    parent, _, last = key.rpartition(".")
    schema = OmegaConf.get_type(OmegaConf.select(tree, parent) if parent else tree)
    if value not in ("", "None", "null") and get_type_hints(schema).get(last) in (str, str | None):
        literal: Any = value
        for part in reversed(key.split(".")):
            literal = {part: literal}
        return OmegaConf.create(literal)
    return OmegaConf.from_dotlist([f"{key}={'null' if value == 'None' else value}"])


def group_choices(group: str) -> list[str]:
    """List the files of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def merge_groups(tree: DictConfig, overrides: list[tuple[str, str]]) -> tuple[DictConfig, list[tuple[str, str]]]:
    """Merge the chosen file of each group and the experiment; give the tree and the arguments that choose none."""
    overrides = [(key.removeprefix("choices.") if key in CHOICES else key, value) for key, value in overrides]
    chosen = {key: value for key, value in overrides if key in GROUPS}
    names = chosen.get("experiment", tree.choices.experiment).split(",")
    experiment = OmegaConf.merge(*(load_group("experiment", name) for name in names))
    choices = {**tree.choices, **experiment.get("choices", {}), **chosen}
    for group in choices:
        if group not in GROUPS:
            raise ConfigError(f"choices.{group} is unknown: the groups are {', '.join(GROUPS)}")
        if group != "experiment":
            chosen_file = load_group(group, choices[group])
            chosen_file.pop("corpus", None)  # of a data set: for prepare alone
            tree = OmegaConf.merge(tree, {group: chosen_file})
    tree = OmegaConf.merge(tree, experiment, {"choices": choices})
    return tree, [(key, value) for key, value in overrides if key not in GROUPS]


def merge_corpus(tree: DictConfig, overrides: list[tuple[str, str]]) -> tuple[DictConfig, list[tuple[str, str]]]:
    """Merge the data set that ``data=NAME`` chooses for ``prepare``; give the tree and the other arguments.

    Raises:
        ConfigError: if there is no such data set, a key of one is given without it, or one of manifests with it.
    """
    choice = dict(overrides).get("data")
    overrides = [(key, value) for key, value in overrides if key != "data"]
    given = {key for key, _ in overrides}
    if choice in (None, "", "None", "null"):
        for key in sorted(given):
            if key.partition(".")[0] == "corpus":
                raise ConfigError(f"{key} is of a data set: choose one as data=NAME, {', '.join(corpus_choices())}")
        return tree, overrides
    if choice not in corpus_choices():
        raise ConfigError(f"data={choice} is no data set: choose one of {', '.join(corpus_choices())}")
    for key in OF_MANIFESTS:
        if key in given:
            raise ConfigError(
                f"{key} is of manifests, data={choice} has its own rows and splits: leave out one of them"
            )
    if "corpus" in given:
        raise ConfigError("corpus is no key by itself: give its keys, as corpus.metadata=DIR")
    part = load_group("data", choice)
    reader = part.corpus.pop("reader", None)
    if reader not in CORPORA:
        raise ConfigError(f"data={choice}: corpus.reader={reader} is unknown: choose one of {', '.join(CORPORA)}")
    own = {"data": choice, "manifest": None, "out": part.shards, "corpus": OmegaConf.structured(CORPORA[reader])}
    tree = OmegaConf.merge(tree, own)
    for key in part.corpus:
        check_key(tree, f"corpus.{key}")
    return OmegaConf.merge(tree, {"corpus": part.corpus}), overrides


def corpus_choices() -> list[str]:
    """List the files of conf/data/ that say how a data set is prepared."""
    return [name for name in group_choices("data") if "corpus" in load_group("data", name)]


def load_group(group: str, choice: str) -> DictConfig:
    """Load the file of a choice.

    Raises:
        ConfigError: if there is none, naming those there are; or if it is no YAML.
    """
    if choice not in group_choices(group):
        raise ConfigError(f"{group}={choice} is unknown: choose one of {', '.join(group_choices(group))}")
    path = CONF / group / f"{choice}.yaml"
    try:
        return OmegaConf.load(path)
    except YAMLError as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error


def check_key(tree: DictConfig, key: str) -> None:
    """Raise a ConfigError for a key that the schema does not know, with the legal ones."""
    node: Any = tree
    for depth, part in enumerate(key.split(".")):
        if depth and key.split(".")[0] in OPEN_KEYS:
            return
        if not isinstance(node, DictConfig) or part not in list(node.keys()):
            where = ".".join(key.split(".")[:depth])
            raise ConfigError(f"key {key!r} is unknown" + legal_keys(tree, f"{where}.{part}" if where else part))
        if depth < key.count("."):
            node = node[part]


def legal_keys(tree: DictConfig, key: str) -> str:
    """Name the keys beside ``key``, the likely one first."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if not isinstance(node, DictConfig):
        return f"; {parent} has no keys of its own"
    legal = [f"{parent}.{k}" if parent else str(k) for k in node]
    if not parent and "choices" in node:
        legal += [group for group in GROUPS if group not in legal]
    close = difflib.get_close_matches(last, [name.rpartition(".")[2] for name in legal], n=1)
    hint = f" (did you mean {close[0]}?)" if close and close[0] != last else ""
    return f"{hint}; legal here: {', '.join(legal)}"


def float_values(tree: DictConfig, parent: str = "") -> Iterator[tuple[str, float]]:
    """Give every key that holds a floating point number, with the number."""
    for key, value in tree.items():
        if isinstance(value, DictConfig):
            yield from float_values(value, f"{parent}{key}.")
        elif isinstance(value, float):
            yield f"{parent}{key}", value


def is_count(value: Any, least: int) -> bool:
    """Tell whether a value is a whole number from ``least`` on.

    >>> is_count(2, 1), is_count(0, 1), is_count(True, 1), is_count("2", 1)
    (True, False, False, False)
    """
    return type(value) is int and value >= least


def check_fields(tree: DictConfig) -> None:
    """Check numbers and choices that the types do not.

    Raises:
        ConfigError: naming the key, the value and what is legal.
    """
    for key, legal in LEGAL_VALUES.items():
        value = OmegaConf.select(tree, key)
        if isinstance(value, str) and value not in legal:  # a key may hold numbers elsewhere
            raise ConfigError(f"{key}={value} is not legal: choose one of {', '.join(map(str, legal))}")
    for key, least in LEAST_VALUES.items():
        value = OmegaConf.select(tree, key)
        if value is not None and not value >= least:
            raise ConfigError(f"{key}={value} is too small: it must be at least {least}")
    for key, value in float_values(tree):
        if not math.isfinite(value):
            raise ConfigError(f"{key}={value} is not a finite number")
    for key, most in MOST_VALUES.items():
        value = OmegaConf.select(tree, key)
        if value is not None and not value <= most:
            raise ConfigError(f"{key}={value} is too large: it must be at most {most}")
    devices = OmegaConf.select(tree, "trainer.devices", default="auto")
    listed = list(devices) if isinstance(devices, ListConfig) else []
    gpus = bool(listed) and len(set(listed)) == len(listed) and all(is_count(device, 0) for device in listed)
    if devices != "auto" and not is_count(devices, 1) and not gpus:
        raise ConfigError(f"trainer.devices={devices} is not legal: give auto, a number from 1 on, or GPUs as [0,1]")
    n_fft = OmegaConf.select(tree, "audio.n_fft")
    if n_fft is not None and n_fft % 2:
        raise ConfigError(f"audio.n_fft={n_fft} is odd: it must be even, as the mel filters take it to be")
    shares = OmegaConf.select(tree, "split_shares")
    if shares is not None and not (len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
        raise ConfigError(f"split_shares={list(shares)} must be three shares (train, val, test) that sum to 1")
    snr = OmegaConf.select(tree, "augmentation.snr_db")
    if snr is not None and not (len(snr) == 2 and -100 <= snr[0] <= snr[1] <= 100):
        raise ConfigError(
            f"augmentation.snr_db={list(snr)} must be null or two numbers of dB from -100 to 100, the lower first, as [10,40]"
        )
    precision, accelerator = OmegaConf.select(tree, "trainer.precision"), OmegaConf.select(tree, "trainer.accelerator")
    if precision == "16-mixed" and accelerator == "cpu":
        raise ConfigError("trainer.precision=16-mixed needs a GPU: use bf16-mixed or 32-true on the CPU")
    if OmegaConf.select(tree, "loss.gather") and tree.loss.name != "triplet":
        raise ConfigError(
            f"loss.gather=true is of loss=triplet: {tree.loss.name} compares chunks with points, not with other chunks"
        )
    batch, pool = OmegaConf.select(tree, "data.tracks_per_batch"), OmegaConf.select(tree, "data.pool_tracks")
    if batch is not None and batch > pool:
        raise ConfigError(f"data.pool_tracks={pool} must hold at least data.tracks_per_batch={batch} tracks")


SPLIT_NAMES = ("train", "val", "test")
LEGAL_VALUES: dict[str, tuple] = {
    "trainer.accelerator": ("auto", "cpu", "gpu"),
    "trainer.strategy": ("auto", "ddp"),
    "trainer.precision": ("32-true", "16-mixed", "bf16-mixed"),
    "mask.start": ("disjoint", "random"),
    "loss.triplets": ("sampled", "all"),
    "loss.mean": ("all", "violating"),
    "data.tempo.relation": ("absolute", "relative"),
    "wandb.mode": ("auto", "online", "offline", "disabled"),
    "tempo": ("torch", "madmom", "manifest"),
    "estimator": ("torch", "madmom"),
    "match": ("mean", "best", "dtw"),
    "accelerator": ("auto", "cpu", "gpu"),
    "split": SPLIT_NAMES,
    "method": ("auto", "exact", "approximate"),
}
LEAST_VALUES: dict[str, float] = {
    "seed": 0,
    "embedding_dim": 1,
    "backbone.width": 1e-6,
    "data.chunk_frames": 16,
    "data.chunks_per_track": 2,
    "data.tracks_per_batch": 2,
    "data.triplets_per_condition": 1,
    "data.track_triplets": 0,
    "data.tempo.tolerance_bpm": 0,
    "data.tempo.tolerance": 0,
    "data.tempo.margin": 0,
    "data.workers": 0,
    "data.max_damaged": 0,
    "loss.margin": 0,
    "loss.track_weight": 0,
    "loss.condition_weight": 0,
    "loss.temperature": 1e-6,
    "frontend.learning_rate_scale": 0,
    "augmentation.gain_db": 0,
    "augmentation.mask_bands": 0,
    "augmentation.mask_frames": 0,
    "mask.embedding_penalty": 0,
    "mask.mask_penalty": 0,
    "training.max_epochs": 1,
    "training.learning_rate": 1e-12,
    "training.weight_decay": 0,
    "training.lr_factor": 1e-6,
    "training.lr_patience": 0,
    "training.lr_reductions": 0,
    "training.early_stopping_patience": 1,
    "training.gradient_clip": 0,
    "evaluation.triplets_per_condition": 1,
    "evaluation.tracks_per_batch": 1,
    "trainer.num_nodes": 1,
    "audio.sample_rate": 1000,
    "audio.n_fft": 16,
    "audio.hop_length": 1,
    "audio.n_mels": 16,
    "chunk_frames": 16,
    "tracks_per_shard": 1,
    "tracks_per_batch": 1,
    "triplets_per_condition": 1,
    "workers": 1,
    "pieces": 12,
    "queries": 0,
    "neighbours": 1,
    "port": 0,
    "listening_questions": 1,
    "max_upload_mb": 1,
    "max_upload_minutes": 1,
    "uploads_at_a_time": 1,
    "decode_seconds": 1,
    "seconds": 3.0,
    "changing_pieces": 0,
    "changing_seconds": 24.0,
    "jobs": 1,
    "high_agreement": 0.5,
    "least_votes": 1,
    "limit": 1,
    "hop_seconds": 0.02,
    "context_seconds": 0.1,
    "min_gap_seconds": 0.0,
    "threshold": 0.0,
    "k": 1,
    "rerank": 1,
}
MOST_VALUES: dict[str, float] = {  # what no machine, or no library, can do; far beyond what makes sense
    "seed": 2**32 - 1,
    "embedding_dim": 65_536,
    "backbone.width": 64,
    "data.chunk_frames": 1_000_000,
    "data.chunks_per_track": 1_000,
    "data.tracks_per_batch": 1_000_000,
    "data.pool_tracks": 1_000_000_000,
    "data.triplets_per_condition": 10_000_000,
    "data.track_triplets": 10_000_000,
    "data.workers": 1_024,
    "data.max_damaged": 0.5,
    "frontend.learning_rate_scale": 1_000,
    "augmentation.gain_db": 100,
    "augmentation.mask_bands": 8_192,
    "augmentation.mask_frames": 1_000_000,
    "training.max_epochs": 1_000_000_000,
    "training.lr_factor": 0.999,
    "evaluation.triplets_per_condition": 100_000_000,
    "evaluation.tracks_per_batch": 1_000_000,
    "audio.sample_rate": 768_000,
    "audio.n_fft": 2**20,
    "audio.hop_length": 2**20,
    "audio.n_mels": 8_192,
    "chunk_frames": 1_000_000,
    "tracks_per_shard": 1_000_000,
    "tracks_per_batch": 1_000_000,
    "triplets_per_condition": 100_000_000,
    "workers": 1_024,
    "pieces": 1_000_000,
    "queries": 100,
    "neighbours": 100,
    "port": 65_535,
    "listening_questions": 1_000,
    "max_upload_mb": 2_000,
    "max_upload_minutes": 60,
    "uploads_at_a_time": 64,
    "decode_seconds": 3_600,
    "seconds": 3_600.0,
    "changing_pieces": 1_000_000,
    "changing_seconds": 3_600.0,
    "high_agreement": 1.0,
    "hop_seconds": 600.0,
    "context_seconds": 3_600.0,
    "min_gap_seconds": 36_000.0,
    "threshold": 2.0,
    "k": 1_000_000,
    "rerank": 10_000,
}
