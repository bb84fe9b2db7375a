"""Find music: ``disentangled search index=DIR like=TRACK_ID weights.genre=1 weights.mood=0.5``.

``index`` is a folder that ``embed`` made. ``like`` is the id of one of its tracks, or a recording (wav, flac, ogg, mp3), which the
checkpoint that the folder names embeds, or ``checkpoint=FILE``; or several, ``like=[A,B]``. Conditions without a weight have none;
without weights each has one. More can be asked, together:

    seeds.genre=A seeds.mood=B                the genre of A, the mood of B
    like=A labels.mood=calm avoid=[C,D]       like A, but calm, and not like C or D
    like=A tempo_change=[-15,-5]              5 to 15 % slower than A
    like=A per_artist=2 per_album=1           at most two results by one artist, and one of an album
    like=A dissimilar=true                    the farthest first
    like=A path_to=B steps=8                  a path in eight small steps

``match=best`` or ``dtw`` sorts the ``rerank`` tracks that are nearest by their means again, by their matching stretches (see
matching.py); their recordings are decoded anew for that, so it takes seconds.
``precision=true`` instead of all that measures how many of the k results have the query's labels, against chance.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.audio import musicnn
from disentangled_ml.commands.schemas import SearchConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.evaluation.matching import MEAN
from disentangled_ml.files import writable, write_json
from disentangled_ml.network.checkpoint import choose_device, fingerprint
from disentangled_ml.reporting.cells import aligned, number_text
from disentangled_ml.search.catalogue import TEMPO, CatalogueTrack, check_source
from disentangled_ml.search.embedder import Embedder, check_fingerprint, embedder_of
from disentangled_ml.search.filters import SearchFilters, check_change
from disentangled_ml.search.path import path_between
from disentangled_ml.search.playlists import check_suffix, is_result, write_results
from disentangled_ml.search.precision import catalogue_precision
from disentangled_ml.search.question import Question, Seed, check_question
from disentangled_ml.search.recording import EmbeddedRecording
from disentangled_ml.search.rematch import rematch
from disentangled_ml.search.results import Answer, Result
from disentangled_ml.search.similarity_search import SimilaritySearch, open_search
from disentangled_ml.search.weighted_distance import check_weights
from disentangled_ml.search.weights_file import read_weights

logger = logging.getLogger("search")
# The ways of asking and the keys that each takes, besides what all take.
COMMON = {"index", "source", "checkpoint", "out", "absolute_paths", "accelerator"}
RANKING = {"like", "weights", "weights_file", "method"}
TAKES = {
    "question": RANKING
    | {"seeds", "labels", "avoid", "k", "same_artist", "tempo", "tempo_change"}
    | {"dissimilar", "per_artist", "per_album", "fold"},
    "path_to": RANKING | {"path_to", "steps", "per_artist", "per_album"},
    "match": RANKING | {"match", "rerank", "k", "same_artist", "tempo"},
    "precision": {"precision", "k"},
}


def main(config: DictConfig) -> None:
    is_asked = bool(config.like or config.seeds or config.labels)
    if is_asked == config.precision:
        raise ConfigError("give like=TRACK_ID or like=FILE, seeds.CONDITION or labels.CONDITION, or precision=true")
    way = way_of(config)
    check_keys(config, way)
    out = None if config.out is None else writable(config.out, Path(config.out).suffix.removeprefix(".") or "json")
    if out is not None:
        check_suffix(out)
        check_replaceable(out)
    if config.source is not None:
        check_source(Path(config.index), config.source)
    search = open_search(config.index)
    if config.checkpoint is not None:
        checkpoint = Path(config.checkpoint)
        check_fingerprint(search.catalogue, fingerprint(checkpoint), checkpoint)
    found: Sequence[Result] = ()
    if way == "precision":
        report = catalogue_precision(search.catalogue, config.k)
        shown = precision_table(report)
    elif way == "path_to":
        found = find_path(config, search)
        report = {"like": config.like, "path_to": config.path_to}
        shown = results_table(found, search.catalogue.condition_names, "step")
    elif way == "match":
        found = find_matching(config, search)
        report = {"like": config.like}
        shown = results_table(found, search.catalogue.condition_names)
    else:
        answer = search.ask(question_of(config, search))
        report, found = about_answer(config, answer), answer.results
        shown = "\n".join([results_table(answer.results, search.catalogue.condition_names), *notes(answer)])
    sys.stdout.write(shown + "\n")
    if out is not None and way == "precision" and out.suffix == ".json":
        write_json(out, report)
    elif out is not None:
        write_list(out, found, report, config.absolute_paths)


def way_of(config: DictConfig) -> str:
    """Return which of ``TAKES`` is asked for."""
    if config.precision:
        return "precision"
    if config.path_to is not None:
        return "path_to"
    return "question" if config.match == MEAN else "match"


def check_keys(config: DictConfig, way: str) -> None:
    """Check that nothing is given which a way of asking would ignore. Raises ConfigError, naming it."""
    default = load_config(SearchConfig, ["index=."])
    unused = [key for key in config if key not in COMMON | TAKES[way] and config[key] != default[key]]
    if unused:
        asked = {"question": "a question", "precision": "precision=true"}.get(way, f"{way}={config.get(way)}")
        raise ConfigError(
            f"{asked} has no use for {', '.join(unused)}: leave {'it' if len(unused) == 1 else 'them'} out"
        )


def check_replaceable(out: Path) -> None:
    """Check that what is overwritten is an earlier result. Raises ConfigError for a manifest, a catalogue, a playlist of a player."""
    if out.exists() and not is_result(out):
        raise ConfigError(f"out={out} is there, and no result of a search: it would be lost, give another name")


def write_list(out: Path, found: Sequence[Result], about: Mapping[str, Any], absolute: bool) -> None:
    """Write results, and tell what a playlist cannot hold. Raises ConfigError if a playlist or table would hold none."""
    if not found and out.suffix != ".json":
        raise ConfigError(f"out={out} would hold no track: give out=FILE.json, or ask for others")
    left_out = write_results(out, found, about, absolute)
    if left_out:
        logger.warning("%s lacks %d tracks, whose recordings are not known or have no name for it", out, left_out)


def weights_of(config: DictConfig, search: SimilaritySearch) -> dict[str, float] | None:
    """Return the weights of a configuration: those given, else those of its file; None where there are neither."""
    given = OmegaConf.to_container(config.weights)
    if given or config.weights_file is None:
        return given or None
    return read_weights(Path(config.weights_file), search.catalogue.condition_names)


def question_of(config: DictConfig, search: SimilaritySearch) -> Question:
    """Return the question of a configuration, its files embedded."""
    seeds_of = {name: names_of(text, search) for name, text in config.seeds.items()}
    question = Question(
        seeds=names_of(config.like, search),
        seeds_of=seeds_of,
        labels=OmegaConf.to_container(config.labels),
        avoid=names_of(config.avoid, search),
        weights=weights_of(config, search),
        k=config.k,
        tempo=None if config.tempo is None else tuple(config.tempo),
        tempo_change=change_of(config.tempo_change),
        other_artists=not config.same_artist,
        most_dissimilar=config.dissimilar,
        per_artist=config.per_artist,
        per_album=config.per_album,
        fold_duplicates=config.fold,
        method=config.method,
    )
    check_question(question, search.catalogue.condition_names, "seeds")
    named = {"like": question.seeds, "avoid": question.avoid}
    files = embed_files(config, search, named | {f"seeds.{name}": names for name, names in seeds_of.items()})

    def embedded(names: Sequence[str]) -> list[Seed]:
        return [files.get(name, name) for name in names]

    seeds_of = {name: embedded(names) for name, names in seeds_of.items()}
    return replace(question, seeds=embedded(question.seeds), seeds_of=seeds_of, avoid=embedded(question.avoid))


def change_of(percent: Sequence[float] | None) -> tuple[float, float] | None:
    """Return a relative tempo as shares. Raises ConfigError, in percent, if it is no range."""
    try:
        return check_change(None if percent is None else [each / 100 for each in percent])
    except ValueError as error:
        shown, way_out = list(percent), "give the least and the most in percent, as [-15,-5] for 5 to 15 % slower"
        raise ConfigError(f"tempo_change={shown} is no range: {way_out}") from error


def names_of(text: str | None, search: SimilaritySearch) -> list[str]:
    """Return the names that a key gives: one, or several as ``[A,B]``; an id or a file may itself look like that."""
    if text is None:
        return []
    is_list = text.startswith("[") and text.endswith("]")
    if not is_list or search.catalogue.find(text) is not None or Path(text).is_file():
        return [text]
    return [name for name in map(str.strip, text[1:-1].split(",")) if name]


def embed_files(
    config: DictConfig, search: SimilaritySearch, named: Mapping[str, Sequence[str]]
) -> dict[str, EmbeddedRecording]:
    """Embed what is no track but a file, ``{key: names}``. Raises ConfigError, naming the key, for what is neither."""
    files: dict[str, EmbeddedRecording] = {}
    embedder = None
    for key, names in named.items():
        for name in names:
            if name in files or search.catalogue.find(name) is not None:
                continue
            if not Path(name).is_file():
                raise ConfigError(f"{key}={name} is neither a track of {config.index} nor a file")
            embedder = embedder or own_embedder(config, search)
            files[name] = embedder.embed_recording(name)
    return files


def own_embedder(config: DictConfig, search: SimilaritySearch) -> Embedder:
    """Return the model of the catalogue, to embed what is a file."""
    embedder = embedder_of(search.catalogue, config.checkpoint, choose_device(config.accelerator))
    musicnn.require(embedder.network.features)
    return embedder


def the_one(config: DictConfig, key: str, search: SimilaritySearch) -> str:
    """Return the one name that ``like`` gives. Raises ConfigError for several."""
    names = names_of(config.like, search)
    if len(names) != 1:
        raise ConfigError(f"{key} needs one track: give like=TRACK_ID, or like=FILE")
    return names[0]


def find_path(config: DictConfig, search: SimilaritySearch) -> list[Result]:
    """Find the path between two tracks or files; a file is told by its name."""
    like = the_one(config, f"path_to={config.path_to}", search)
    names = {0: like, -1: config.path_to}
    files = embed_files(config, search, {"like": [like], "path_to": [config.path_to]})
    ends = [files.get(name, name) for name in names.values()]
    caps = config.per_artist, config.per_album
    found = path_between(search, *ends, config.steps, weights_of(config, search), *caps, method=config.method)
    for place, name in names.items():
        if name in files:
            found[place] = found[place]._replace(track=CatalogueTrack(name, None, name, {}))
    return found


def find_matching(config: DictConfig, search: SimilaritySearch) -> list[Result]:
    """Find the tracks whose stretches match the query's."""
    key = f"match={config.match}"
    like = the_one(config, key, search)
    row = search.catalogue.find(like)
    if row is None and not Path(like).is_file():
        raise ConfigError(f"like={like} is neither a track of {config.index} nor a file")
    weights, k = weights_of(config, search), max(config.k, config.rerank)
    tempo = None if config.tempo is None else tuple(config.tempo)
    embedder = own_embedder(config, search)
    if row is not None:
        query = search.catalogue.track(row)
        found = search.search_like(row, weights, k, config.same_artist, tempo, config.method)
    else:
        query = CatalogueTrack("", None, like, {})
        found = search.search(embedder.embed(like), weights, k, SearchFilters(tempo=tempo), config.method)
    if any(track.path is None for track in (query, *(result.track for result in found))):
        raise ConfigError(
            f"match={config.match} needs the recordings, but {config.index} was embedded from shards: embed it from "
            f"manifest=CSV, or use match={MEAN}"
        )
    checked = check_weights(weights, search.catalogue.condition_names)
    return rematch(embedder, query, found, checked, config.match)[: config.k]


def about_answer(config: DictConfig, answer: Answer) -> dict[str, Any]:
    """Return what was asked, and what is told of an answer beside its results."""
    asked = ("like", "seeds", "labels", "avoid")
    given = {key: value for key, value in OmegaConf.to_container(config).items() if key in asked and value}
    return {
        **given,
        "weights": answer.weights,
        "seed_duplicates": [duplicate.as_plain() for duplicate in answer.seed_duplicates],
        "skipped": {"per_artist": answer.beyond_artist, "per_album": answer.beyond_album},
        "without_tempo": answer.without_tempo,
    }


def results_table(found: list[Result], names: list[str], distance: str = "distance") -> str:
    """Return results as a table: a line per track, with its distance in all and per condition, and its labels."""
    if not found:
        return "no track is left by the filters"
    is_asked = found[0].percentile is not None
    head = ("closer than", "matches") if is_asked else ()
    rows = [("", "track", distance, *head[:1], *names, "artist", *head[1:], "labels")]
    for rank, result in enumerate(found, start=1):
        track, apart = result.track, result.distances
        parts = [f"{apart[name]:.3f}" if name in apart else "-" for name in names]
        closer, matches = ([f"{result.percentile:.0f} %"], [result.matches or "-"]) if is_asked else ([], [])
        cells = [f"{result.distance:.3f}", *closer, *parts, track.artist or "-", *matches, show_labels(track)]
        rows.append((str(rank), track.track_id, *cells))
    return "\n".join(aligned(rows))


def notes(answer: Answer) -> list[str]:
    """Return in words what the table does not show of an answer."""
    folded = [(duplicate, result.track.track_id) for result in answer.results for duplicate in result.duplicates]
    folded += [(duplicate, "what was asked for") for duplicate in answer.seed_duplicates]
    lines = [f"{duplicate.track.track_id} is a {duplicate.kind} of {of}" for duplicate, of in folded]
    counts = {
        "skipped by per_artist": answer.beyond_artist,
        "skipped by per_album": answer.beyond_album,
        "left out, for their tempo is not known": answer.without_tempo,
    }
    lines += [f"{n} {'track' if n == 1 else 'tracks'} {reason}" for reason, n in counts.items() if n]
    return ["", *lines] if lines else []


def precision_table(report: dict[str, Any]) -> str:
    rows = [("condition", "its weight alone", "equal weights", "chance", "at best", "queries")]
    for name, entry in report["conditions"].items():
        rows.append((name, *(number_text(entry[key]) for key in ("sub", "all", "chance", "best")), str(entry["n"])))
    return "\n".join([f"precision at {report['k']} by label, without the query and its artist", "", *aligned(rows)])


def show_labels(track: CatalogueTrack) -> str:
    """Return the labels of a track as text.

    >>> show_labels(CatalogueTrack("a", None, None, {"genre": ["jazz", "swing"], "tempo": 119.6}))
    'jazz;swing, 120 BPM'
    """
    shown = [f"{label:.0f} BPM" if name == TEMPO else ";".join(label) for name, label in track.labels.items()]
    return ", ".join(shown)
