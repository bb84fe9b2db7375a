"""Labels where there are none: tags that a trained network holds for probable.

A sample keeps the probability of every tag, as it was estimated from its recording alone. How probable a tag must be for a track to
have it depends on the catalogue: a network that learned from other music may hold a tag for improbable everywhere. So the
thresholds, in the index, are such that each tag is had by the same share of the tracks, and readers make labels of both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from disentangled_ml.structures import TrackInfo


def threshold(probabilities: Sequence[float] | np.ndarray, share: float) -> float:
    """Return the least probability of the share of tracks for which a tag is most probable, of one track at least.

    >>> threshold([0.1, 0.4, 0.2, 0.3], 0.5), threshold([0.1, 0.4], 0.01)
    (0.3, 0.4)
    """
    count = min(max(1, round(share * len(probabilities))), len(probabilities))
    return float(np.sort(probabilities)[-count])


def estimated_entry(
    name: str, source: str, share: float, probabilities: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return the entry in the index of a condition whose tags are estimated.

    Args:
        name: Of the condition.
        source: What estimates them.
        share: Of the tracks that have a tag, each.
        probabilities: Of each tag, those of all tracks.

    >>> estimated_entry("mood", "musicnn", 0.5, {"sad": [0.1, 0.2]})["thresholds"]
    {'sad': 0.2}
    """
    thresholds = {tag: threshold(found, share) for tag, found in sorted(probabilities.items())}
    vocabulary = list(thresholds)
    return {
        "name": name,
        "kind": "tags",
        "vocabulary": vocabulary,
        "estimated": source,
        "share": share,
        "thresholds": thresholds,
    }


def labelled(info: TrackInfo, thresholds: Mapping[str, Mapping[str, float]]) -> TrackInfo:
    """Add the labels that a track's estimates make; one that is given stays, and one without any tag is absent.

    Args:
        info: As it is stored.
        thresholds: Of the tags of each condition that is estimated.

    >>> info = TrackInfo("a", None, 9, {}, estimates={"mood": {"sad": 0.3, "calm": 0.1}})
    >>> labelled(info, {"mood": {"calm": 0.2, "sad": 0.3}}).labels
    {'mood': ['sad']}
    """
    if not info.estimates:
        return info
    labels = dict(info.labels)
    for name, least in thresholds.items():
        found = info.estimates.get(name, {})
        tags = [tag for tag, bound in least.items() if found.get(tag, -1.0) >= bound]
        if tags and name not in labels:
            labels[name] = tags
    return info._replace(labels=labels)


def estimated_of(info: TrackInfo, names: Sequence[str], thresholds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the conditions whose label of a track is estimated.

    Args:
        info: As ``labelled`` returns it.
        names: Conditions of which labels are estimated. Shards do not say of which tracks a tempo is, so all of them count.
        thresholds: Of the tags of each condition that is estimated.

    >>> info = TrackInfo("a", None, 9, {"genre": ["own"], "tempo": 90.0}, estimates={"mood": {"sad": 0.3}, "genre": {"pop": 0.3}})
    >>> bounds = {"mood": {"sad": 0.3}, "genre": {"pop": 0.3}}
    >>> estimated_of(labelled(info, bounds), ["genre", "mood", "tempo"], bounds)
    ['tempo', 'mood']
    """
    made = labelled(info._replace(labels={}), thresholds).labels
    return [
        name
        for name, label in info.labels.items()
        if name in names and (name not in thresholds or made.get(name) == label)
    ]
