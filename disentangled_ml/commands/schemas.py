"""The keys of every command but ``train``, a class each.

A field says its type and limits. Its default, unit and meaning stand in ``conf/NAME.yaml``.
"""

import re
from dataclasses import dataclass, field

from omegaconf import DictConfig, OmegaConf

from datamodules.shards.parts import Part
from disentangled_ml.config.errors import ConfigError
from disentangled_ml.config.fields import OPEN_KEYS, at_least, between, one_of
from disentangled_ml.config.loading import Arguments, check_key, group_choices, load_group, merge
from disentangled_ml.config.schema import ACCELERATORS, MOST_FRAMES, MOST_SEED, MOST_TRACKS, MOST_WORKERS
from disentangled_ml.limits import AUDIO_LIMITS

MATCHES = ("mean", "best", "dtw")
ESTIMATORS = ("torch", "madmom")
# Value of features: networks of musicnn
FEATURE_CHOICES = {"none": (), "musicnn": ("msd",), "musicnn_mtt": ("mtt",), "musicnn_both": ("msd", "mtt")}
TAGS_OF_MUSICNN = "musicnn"  # value of tags
OF_MANIFESTS = ("manifest", "split_shares", "unknown_values")  # keys of prepare that data sets have no use for


def parse_part(text: str | None) -> Part | None:
    """Parse ``3/40``. Raises ConfigError if it is no number from 1 to the number of parts.

    >>> parse_part("3/40")
    Part(number=3, count=40)
    """
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"part={text} is not legal: give part=1/40 to part=40/40")
    return Part(int(number), int(count))


def check_steps(part: str | None, merge: bool) -> None:
    """Check that a command makes a part or merges all. Raises ConfigError if it is to do both."""
    if parse_part(part) and merge:
        raise ConfigError(f"part={part} and merge=true are two steps: make all parts first, then merge")


@dataclass
class ScanConfig:
    """The keys of ``disentangled scan``."""

    music: str
    out: str


@dataclass
class DemoConfig:
    """The keys of ``disentangled demo``."""

    out: str
    pieces: int = between(12, 1_000_000)
    seconds: float = between(3.0, 3_600.0)
    changing_pieces: int = between(0, 1_000_000)
    changing_seconds: float = between(24.0, 3_600.0)
    seed: int = between(0, MOST_SEED)
    workers: int | None = between(1, MOST_WORKERS)


@dataclass
class AudioConfig:
    """How a recording becomes a log-mel spectrogram."""

    sample_rate: int = between(*AUDIO_LIMITS["sample_rate"])
    n_fft: int = between(*AUDIO_LIMITS["n_fft"])
    hop_length: int = between(*AUDIO_LIMITS["hop_length"])
    n_mels: int = between(*AUDIO_LIMITS["n_mels"])

    def check(self) -> None:
        if self.n_fft % 2:
            raise ConfigError(f"audio.n_fft={self.n_fft} is odd: it must be even, as the mel filters take it to be")


@dataclass
class CorpusConfig:
    """Where the data set lies that is prepared."""

    metadata: str
    audio: str


@dataclass
class MsdConfig(CorpusConfig):
    """The Million Song Dataset: where its tags are from, sorted into conditions."""

    reader = "datamodules.corpora.msd:read_msd"

    tag_database: str | None = None
    tag_threshold: float | None = None
    tags: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class MtgJamendoConfig(CorpusConfig):
    """MTG-Jamendo: its lists and recordings, and its tags sorted into conditions."""

    reader = "datamodules.corpora.mtg_jamendo:read_mtg_jamendo"

    subset: str
    edition: str
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class MagnaTagATuneConfig(CorpusConfig):
    """MagnaTagATune: its tags, sorted into conditions and merged."""

    reader = "datamodules.corpora.magnatagatune:read_magnatagatune"

    tags: dict[str, list[str]] = field(default_factory=dict)
    synonyms: dict[str, list[str]] = field(default_factory=dict)


CORPORA = {  # what a file of conf/data/ may name as corpus.reader: the keys, which are the arguments of the reader they name
    "msd": MsdConfig,
    "mtg_jamendo": MtgJamendoConfig,
    "magnatagatune": MagnaTagATuneConfig,
}


def merge_corpus(tree: DictConfig, arguments: Arguments) -> tuple[DictConfig, Arguments]:
    """Merge the data set that ``data=NAME`` chooses; return the tree and the other arguments."""
    choice = dict(arguments).get("data")
    arguments = [(key, value) for key, value in arguments if key != "data"]
    given = {key for key, _ in arguments}
    if choice in (None, "", "None", "null"):
        for key in sorted(given):
            if key.partition(".")[0] == "corpus":
                raise ConfigError(f"{key} is of a data set: choose one as data=NAME, {', '.join(corpus_choices())}")
        return tree, arguments
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
    return merge(tree, {"corpus": part.corpus}), arguments


def corpus_choices() -> list[str]:
    """List the files of conf/data/ that say how a data set is prepared."""
    return [name for name in group_choices("data") if "corpus" in load_group("data", name)]


@dataclass
class PrepareConfig:
    """The keys of ``disentangled prepare``."""

    choose = staticmethod(merge_corpus)

    data: str | None
    corpus: CorpusConfig | None
    manifest: str | None
    out: str
    conditions: list[str] | None
    unknown_values: list[str]
    audio: AudioConfig
    chunk_frames: int = between(16, MOST_FRAMES)
    store_waveform: bool
    tempo: str = one_of(*ESTIMATORS, "manifest")
    features: str = one_of(*FEATURE_CHOICES)
    tags: str = one_of("manifest", TAGS_OF_MUSICNN)
    tag_share: float = between(0.001, 1.0)
    split_shares: list[float]
    max_lost: float = between(0.0, 1.0)
    tracks_per_shard: int = between(1, 1_000_000)
    workers: int | None = between(1, MOST_WORKERS)
    part: str | None
    merge: bool

    def check(self) -> None:
        check_steps(self.part, self.merge)
        shares = self.split_shares
        if not (len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
            raise ConfigError(f"split_shares={list(shares)} must be three shares (train, val, test) that sum to 1")
        if self.tags == TAGS_OF_MUSICNN and not FEATURE_CHOICES[self.features]:
            raise ConfigError(
                "tags=musicnn estimates them from features: give features=musicnn (for genre and mood), musicnn_mtt "
                "(for instrument) or musicnn_both"
            )


@dataclass
class EvaluateConfig:
    """The keys of ``disentangled evaluate``."""

    checkpoint: str | None
    baseline: str | None
    shards: str | None
    triplets: str | None
    out: str | None
    probe: bool
    seed: int = between(0, MOST_SEED)
    triplets_per_condition: int = between(1, 100_000_000)
    match_bandwidth: bool
    match: str = one_of(*MATCHES)
    tracks_per_batch: int = between(1, MOST_TRACKS)
    accelerator: str = one_of(*ACCELERATORS)


@dataclass
class TableConfig:
    """The keys of ``disentangled table``."""

    shards: str
    out: str | None
    systems: list[str]
    base: str
    train: list[str]
    seeds: list[int]
    triplets_per_condition: int = between(1, 100_000_000)
    match_bandwidth: bool
    jobs: int | None = at_least(1)


@dataclass
class LearningCurveConfig:
    """The keys of ``disentangled learning_curve``."""

    shards: str
    out: str | None
    sizes: list[int]
    systems: list[str]
    base: str
    train: list[str]
    seeds: list[int]
    triplets_per_condition: int = between(1, 100_000_000)
    jobs: int | None = at_least(1)


@dataclass
class TagsModelConfig:
    """The keys of ``disentangled tags_model``."""

    shards: str
    out: str
    chunk_frames: int = between(16, MOST_FRAMES)


@dataclass
class HtmlReportConfig:
    """The keys of ``disentangled html_report``."""

    run: str
    out: str | None
    manifest: str | None
    queries: int = between(0, 100)
    neighbours: int = between(1, 100)


@dataclass
class EmbedConfig:
    """The keys of ``disentangled embed``."""

    checkpoint: str
    manifest: str | None
    shards: str | None
    unknown_values: list[str]
    split: str | None = one_of("train", "val", "test")
    out: str
    approximate: bool | None
    npz: str | None
    parquet: str | None
    workers: int | None = between(1, MOST_WORKERS)
    accelerator: str = one_of(*ACCELERATORS)
    part: str | None
    merge: bool

    def check(self) -> None:
        check_steps(self.part, self.merge)
        files = [f"{key}={self[key]}" for key in ("npz", "parquet") if self[key] is not None]
        if parse_part(self.part) and files:
            raise ConfigError(
                f"part={self.part} makes no {' nor '.join(files)}, which is of the whole catalogue: give it to the run with merge=true"
            )


@dataclass
class SearchConfig:
    """The keys of ``disentangled search``."""

    index: str
    source: str | None
    like: str | None
    seeds: dict[str, str] = field(metadata=OPEN_KEYS)
    labels: dict[str, str] = field(metadata=OPEN_KEYS)
    avoid: str | None
    path_to: str | None
    steps: int = between(1, 100)
    precision: bool
    checkpoint: str | None
    weights: dict[str, float] = field(metadata=OPEN_KEYS)
    weights_file: str | None
    k: int = between(1, 1_000_000)
    same_artist: bool
    tempo: list[float] | None
    tempo_change: list[float] | None
    dissimilar: bool
    per_artist: int | None = between(1, 1_000_000)
    per_album: int | None = between(1, 1_000_000)
    fold: bool
    method: str = one_of("auto", "exact", "approximate")
    match: str = one_of(*MATCHES)
    rerank: int = between(1, 10_000)
    out: str | None
    absolute_paths: bool
    accelerator: str = one_of(*ACCELERATORS)


@dataclass
class ServeConfig:
    """The keys of ``disentangled serve``."""

    checkpoint: str | None
    index: str
    source: str | None
    weights_file: str | None
    host: str
    port: int = between(0, 65_535)
    token: str | None
    audio: str | None
    listening_test: str | None
    listening_questions: int = between(1, 1_000)
    seed: int = between(0, MOST_SEED)
    max_upload_mb: int = between(1, 2_000)
    max_upload_minutes: int = between(1, 60)
    uploads_at_a_time: int = between(1, 64)
    decode_seconds: int = between(1, 3_600)
    accelerator: str = one_of(*ACCELERATORS)


@dataclass
class MusicConfig:
    """The keys of ``disentangled music``."""

    music: str | None
    out: str | None
    model: str
    analysed_seconds: float | None = between(3.0, 36_000.0)
    tempo: str = one_of(*ESTIMATORS, "manifest")
    tag_share: float = between(0.001, 1.0)
    workers: int | None = between(1, MOST_WORKERS)
    accelerator: str = one_of(*ACCELERATORS)
    page: bool
    host: str
    port: int = between(0, 65_535)

    def check(self) -> None:
        if self.music is None:
            raise ConfigError("no value for music: give the folder of your music, music=DIR (make music MUSIC=DIR)")


@dataclass
class ExportConfig:
    """The keys of ``disentangled export``."""

    checkpoint: str
    out: str
    license: str
    program: bool

    def check(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise ConfigError(
                f"license={self.license} is no name as Hugging Face has them: give one as cc-by-4.0, or other"
            )


@dataclass
class ListeningResultsConfig:
    """The keys of ``disentangled listening_results``."""

    listening_test: str
    out: str | None


@dataclass
class FitWeightsConfig:
    """The keys of ``disentangled fit_weights``."""

    listening_test: str
    index: str
    asked: str
    out: str | None
    seed: int = between(0, MOST_SEED)


@dataclass
class HumanTripletsConfig:
    """The keys of ``disentangled human_triplets``."""

    checkpoint: str
    triplets: str
    shards: str | None
    audio: str | None
    out: str | None
    least_votes: int | None = at_least(1)
    weights: str | None
    high_agreement: float = between(0.5, 1.0)
    accelerator: str = one_of(*ACCELERATORS)


@dataclass
class TrajectoryConfig:
    """The keys of ``disentangled trajectory``."""

    checkpoint: str
    path: str
    out: str | None
    hop_seconds: float = between(0.02, 600.0)
    context_seconds: float = between(0.1, 3_600.0)
    min_gap_seconds: float = between(0.0, 36_000.0)
    threshold: float = between(0.0, 2.0)
    thresholds: str | None
    accelerator: str = one_of(*ACCELERATORS)


@dataclass
class ChangesConfig:
    """The keys of ``disentangled changes``."""

    checkpoint: str
    changes: str
    out: str | None
    hop_seconds: float = between(0.02, 600.0)
    context_seconds: float = between(0.1, 3_600.0)
    min_gap_seconds: float = between(0.0, 36_000.0)
    accelerator: str = one_of(*ACCELERATORS)


@dataclass
class TempoCheckConfig:
    """The keys of ``disentangled tempo_check``."""

    manifest: str
    column: str
    estimator: str = one_of(*ESTIMATORS)
    out: str | None
    limit: int | None = at_least(1)
    workers: int | None = between(1, MOST_WORKERS)
