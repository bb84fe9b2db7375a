"""Questions of the API as plain JSON: what is legal, within which limits, and the ``Question`` that they mean.

Every function raises ValueError, in words for whoever asked, for what is not legal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from disentangled_ml.search.question import Question, Seed

MAX_RESULTS, MAX_SEEDS, MAX_STEPS, MAX_CAP = 100, 20, 100, 1_000
MAX_BPM = 1_000.0
MAX_CHANGE = 10.0  # of a tempo, as a share
FLAGS = {"other_artists": False, "most_dissimilar": False, "fold_duplicates": True}
# What a question may say beside its seeds, and what else one of several seeds may.
FILTERS = ("weights", "k", "tempo", "tempo_change", "per_artist", "per_album", *FLAGS)
SEEDS = ("seeds", "avoid", "seeds_of", "avoid_of", "labels")
SEED = 'the id of a track, or {"upload": its name}'
PATH = ("a", "b", "steps", "weights", "per_artist", "per_album")
PLACES = ("seeds", "space")


def composed_question(content: Mapping[str, Any], find_seed: Callable[[Any], Seed]) -> Question:
    """Return the question of a JSON object with the attributes of ``Question``, whose seeds a function finds.

    >>> question = composed_question({"seeds": ["a"], "labels": {"mood": "calm"}, "tempo": [90, None]}, str)
    >>> question.seeds, question.labels, question.tempo, question.k
    (['a'], {'mood': 'calm'}, (90.0, 1000.0), 10)
    """
    check_keys(content, (*SEEDS, *FILTERS))
    seeds = {key: seed_list(key, content.get(key)) for key in ("seeds", "avoid")}
    seeds_of = {key: seed_lists(key, content.get(key)) for key in ("seeds_of", "avoid_of")}
    count = sum(map(len, seeds.values())) + sum(len(own) for lists in seeds_of.values() for own in lists.values())
    if count > MAX_SEEDS:
        raise ValueError(f"a question has at most {MAX_SEEDS} seeds, these are {count}")
    labels = object_of("labels", content.get("labels"), "a label")
    if not all(isinstance(label, str) for label in labels.values()):
        raise ValueError("each of the labels is a text")
    return Question(
        **{key: [find_seed(seed) for seed in own] for key, own in seeds.items()},
        **{
            key: {name: [find_seed(seed) for seed in own] for name, own in lists.items()}
            for key, lists in seeds_of.items()
        },
        labels=labels,
        **filters_of(content),
    )


def plain_question(content: Mapping[str, Any], find_seed: Callable[[Any], Seed]) -> Question:
    """Return the question of ``{"track": id}`` or ``{"upload": token}`` with what else a question may say.

    >>> plain_question({"track": "a", "k": 5}, str).k
    5
    """
    check_keys(content, ("track", "upload", *FILTERS))
    track, upload = content.get("track"), content.get("upload")
    if isinstance(track, str) and upload is None:
        seed: Any = track
    elif isinstance(upload, str) and track is None:
        seed = {"upload": upload}
    else:
        raise ValueError("name either a track or an upload to search with")
    return Question(seeds=[find_seed(seed)], **filters_of(content))


def filters_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a question says beside its seeds, as attributes of ``Question``."""
    return {
        "weights": weights_of(content),
        "k": whole_number(content, "k", MAX_RESULTS) or Question.k,
        "tempo": tempo_range(content.get("tempo")),
        "tempo_change": tempo_change(content.get("tempo_change")),
        "per_artist": whole_number(content, "per_artist", MAX_CAP),
        "per_album": whole_number(content, "per_album", MAX_CAP),
        **{name: flag(content, name, default) for name, default in FLAGS.items()},
    }


def path_question(content: Mapping[str, Any], find_seed: Callable[[Any], Seed]) -> dict[str, Any]:
    """Return the arguments of a path, whose ends a function finds.

    >>> path_question({"a": "x", "b": "y", "steps": 3}, str)["n"]
    3
    """
    check_keys(content, PATH)
    if not all(is_seed(content.get(key)) for key in ("a", "b")):
        raise ValueError(f"a and b are where the path begins and ends: each {SEED}")
    steps = whole_number(content, "steps", MAX_STEPS)
    if steps is None:
        raise ValueError(f"steps is a number from 1 to {MAX_STEPS}")
    caps = {key: whole_number(content, key, MAX_CAP) for key in ("per_artist", "per_album")}
    ends = {key: find_seed(content[key]) for key in ("a", "b")}
    return {**ends, "n": steps, "weights": weights_of(content), **caps}


def places_question(content: Mapping[str, Any], find_seed: Callable[[Any], Seed]) -> tuple[list[Seed], str | None]:
    """Return the seeds whose places on a map are asked for, which a function finds, and the condition of the map.

    >>> places_question({"seeds": ["a"], "space": "mood"}, str)
    (['a'], 'mood')
    """
    check_keys(content, PLACES)
    seeds, space = seed_list("seeds", content.get("seeds")), content.get("space")
    if not 1 <= len(seeds) <= MAX_STEPS + 1:
        raise ValueError(f"seeds are 1 to {MAX_STEPS + 1}, these are {len(seeds)}")
    if space is not None and not isinstance(space, str):
        raise ValueError("space is the name of a condition, or null")
    return [find_seed(seed) for seed in seeds], space


def check_keys(content: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [key for key in content if key not in known]
    if unknown:
        raise ValueError(f"{unknown[0][:40]} is no part of this question, only {', '.join(known)}")


def seed_list(key: str, seeds: Any) -> list[Any]:
    if seeds is None:
        return []
    if not isinstance(seeds, list) or not all(is_seed(seed) for seed in seeds):
        raise ValueError(f"{key} is a list of seeds: each {SEED}")
    return seeds


def seed_lists(key: str, lists: Any) -> dict[str, list[Any]]:
    return {
        name: seed_list(f"{key}.{name[:40]}", own) for name, own in object_of(key, lists, "a list of seeds").items()
    }


def is_seed(seed: Any) -> bool:
    return isinstance(seed, str) or (
        isinstance(seed, dict) and [*seed] == ["upload"] and isinstance(seed["upload"], str)
    )


def object_of(key: str, value: Any, of_what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{key} are an object with {of_what} per condition")
    return value


def weights_of(content: Mapping[str, Any]) -> dict[str, Any] | None:
    weights = content.get("weights")
    if weights is not None and not isinstance(weights, dict):
        raise ValueError("weights are an object with a number for each condition")
    return weights


def whole_number(content: Mapping[str, Any], key: str, most: int) -> int | None:
    """Return a number from 1 on; None where it is not given.

    >>> whole_number({"k": 5}, "k", 100), whole_number({}, "k", 100)
    (5, None)
    """
    value = content.get(key)
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        raise ValueError(f"{key} is a number from 1 to {most}")
    return value


def flag(content: Mapping[str, Any], key: str, default: bool) -> bool:
    value = content.get(key, default)
    if type(value) is not bool:
        raise ValueError(f"{key} is true or false")
    return value


def tempo_range(tempo: Any) -> tuple[float, float] | None:
    """Return the range of tempi that a question asks for; None stands for no bound.

    >>> tempo_range([90, None]), tempo_range([None, None]), tempo_range(None)
    ((90.0, 1000.0), None, None)
    """
    if tempo is None or tempo == [None, None]:
        return None
    if not isinstance(tempo, list) or len(tempo) != 2:
        raise ValueError("tempo is a list of the slowest and the fastest in BPM")
    bounds = [default if bound is None else bound for bound, default in zip(tempo, (0.0, MAX_BPM), strict=True)]
    if any(type(bound) not in (int, float) for bound in bounds) or not 0 <= bounds[0] <= bounds[1] <= MAX_BPM:
        raise ValueError(f"the slowest tempo must not be above the fastest, both from 0 to {MAX_BPM:g} BPM")
    return float(bounds[0]), float(bounds[1])


def tempo_change(change: Any) -> tuple[float, float] | None:
    """Return the range of a relative tempo, as shares.

    >>> tempo_change([-0.15, -0.05])
    (-0.15, -0.05)
    """
    if change is None:
        return None
    legal = isinstance(change, list) and len(change) == 2 and all(type(bound) in (int, float) for bound in change)
    if not legal or not -1 < change[0] <= change[1] <= MAX_CHANGE:
        raise ValueError(
            f"tempo_change is a list of the least and the most change, as [-0.15, -0.05] for 5 to 15 % slower, at most {MAX_CHANGE:g}"
        )
    return float(change[0]), float(change[1])
