"""What the paper reports (J. Lee et al., ICASSP 2020, Tables 1 and 2), to be shown beside this project's own figures.

Triplet accuracies on the Million Song Dataset, 40,000 test triplets per condition. ``track`` is the accuracy on its track
triplets, the same in both tables.
"""

from collections.abc import Collection

COLUMNS = ("genre", "mood", "instrument", "tempo", "mean")
# Space, system of conf/table.yaml -> in the order of COLUMNS.
ACCURACIES = {
    ("all", "vq"): (0.563, 0.481, 0.495, 0.516, 0.514),
    ("all", "track_only"): (0.611, 0.595, 0.531, 0.534, 0.568),
    ("all", "category"): (0.647, 0.633, 0.562, 0.875, 0.679),
    ("all", "category_track"): (0.647, 0.627, 0.561, 0.891, 0.681),
    ("all", "disentangled"): (0.708, 0.717, 0.657, 0.783, 0.716),
    ("all", "disentangled_track"): (0.693, 0.704, 0.626, 0.836, 0.715),
    ("sub", "specialised"): (0.708, 0.619, 0.603, 0.942, 0.718),
    ("sub", "disentangled"): (0.785, 0.790, 0.798, 0.955, 0.832),
    ("sub", "disentangled_track"): (0.765, 0.743, 0.700, 0.953, 0.790),
}
TRACK = {
    "vq": 0.833,
    "track_only": 0.950,
    "category": 0.975,
    "category_track": 0.980,
    "disentangled": 0.985,
    "disentangled_track": 0.988,
}


def published(space: str, system: str, names: Collection[str]) -> dict[str, float]:
    """Return the paper's accuracies of a system in a space, ``all`` or ``sub``; empty where it has none.

    The mean is over its four conditions, so it is left out where the names are others.

    >>> published("sub", "disentangled", ["genre", "tempo"])["tempo"], published("sub", "vq", ["genre"])
    (0.955, {})
    >>> published("all", "vq", ["genre", "tempo"])
    {'genre': 0.563, 'tempo': 0.516, 'track': 0.833}
    """
    if (space, system) not in ACCURACIES:
        return {}
    own = dict(zip(COLUMNS, ACCURACIES[space, system], strict=True))
    own = {name: own[name] for name in (*names, *(["mean"] if set(names) == set(COLUMNS[:-1]) else [])) if name in own}
    return {**own, "track": TRACK[system]} if space == "all" else own
