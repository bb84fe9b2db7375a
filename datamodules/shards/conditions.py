"""The conditions that some shards are labelled for."""

from dataclasses import replace

from datamodules.shards.index import ShardIndex, ShardsError
from disentangled_ml.objective.conditions import Condition, TagCondition, TempoCondition


def build_conditions(
    index: ShardIndex, names: list[str] | None = None, tempo: TempoCondition | None = None
) -> list[Condition]:
    """Build the conditions of some shards.

    Args:
        index: Of the shards.
        names: Which, in which order; all of the shards by default.
        tempo: How tempi are related.

    Raises: ShardsError: for a name that the shards do not have, or none at all.
    """
    known = {entry["name"]: entry for entry in index.conditions}
    names = list(known) if names is None else names
    for name in names:
        if name not in known:
            raise ShardsError(f"condition {name!r} is not in {index.root}: choose from {', '.join(known)}")
    if not known:
        raise ShardsError(f"{index.root} has no conditions: no track had a tag or a tempo, see the manifest's columns")
    if not names or len(set(names)) < len(names):
        raise ShardsError(f"conditions {names} are none or not distinct; {index.root} has {', '.join(known)}")
    return [
        replace(tempo or TempoCondition(), name=name)
        if known[name]["kind"] == "tempo"
        else TagCondition(name, tuple(known[name]["vocabulary"]))
        for name in names
    ]
