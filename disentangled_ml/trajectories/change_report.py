"""How well novelty finds the true change points of recordings, in the subspaces and in the spectrogram."""

from collections.abc import Sequence
from typing import Any

from disentangled_ml.trajectories.change_metrics import choose_threshold, found_in, mean_f, pooled_f
from disentangled_ml.trajectories.changing_tracks import ANY, MEL, SPLITS, WHOLE, ChangingTrack

# Key of the recordings in which nothing changes.
NONE = "none"


class Detector:
    """Detector of the changes of one condition, or of any, in one source; its threshold is chosen on validation recordings.

    Args:
        tracks: Recordings of both splits.
        condition: Whose changes are looked for; ``ANY``: those of all.
        source: Whose novelty is searched.
        min_gap: Seconds between change points.
    """

    def __init__(self, tracks: Sequence[ChangingTrack], condition: str, source: str, min_gap: float):
        self.tests = [track for track in tracks if track.split == "test"]
        validation = [track for track in tracks if track.split == "val"]
        self.condition = condition
        true = [track.times(condition) for track in validation]
        self.threshold = choose_threshold([track.curves[source] for track in validation], true, min_gap)
        self.found = found_in([track.curves[source] for track in self.tests], self.threshold, min_gap)

    def on_changing(self, condition: str) -> dict[str, Any]:
        """Return the mean F-measure of the test recordings in which a condition changes."""
        rows = [
            (track.times(condition), points, track.seconds)
            for track, points in zip(self.tests, self.found, strict=True)
            if track.times(condition)
        ]
        return mean_f(*zip(*rows, strict=True))

    def on_all(self) -> float:
        """Return the F-measure at 3 s of all test recordings together."""
        return pooled_f([track.times(self.condition) for track in self.tests], self.found)

    def firing(self, condition: str) -> float | None:
        """Return the share of the recordings in which a condition, or ``NONE``, changes that have a change point here."""
        chosen = [
            points
            for track, points in zip(self.tests, self.found, strict=True)
            if (track.times(condition) if condition != NONE else not track.changes)
        ]
        return sum(map(bool, chosen)) / len(chosen) if chosen else None


def change_report(tracks: Sequence[ChangingTrack], names: Sequence[str], min_gap: float) -> dict[str, Any]:
    """Score the change points of the test recordings, with thresholds chosen on the validation recordings.

    Returns:
        ``{"thresholds": {source: number}, "conditions": {condition or "any": {"embedding": {"f_3", "ci95", "f_0.5", "n",
        "all_pieces"}, "mel": {...}, "wrong": share}}, "firing": {condition or "none": {source: share}}}``. ``wrong`` is the share of
        the other subspaces that report a change, anywhere in a recording in which only this condition changes.

    Raises ValueError if no condition changes in both splits.
    """
    by_split = [[track for track in tracks if track.split == split] for split in SPLITS]
    names = [name for name in names if all(any(track.times(name) for track in part) for part in by_split)]
    if not names:
        raise ValueError("no condition changes in recordings of both splits: there is nothing to score")
    own = {name: Detector(tracks, name, name, min_gap) for name in names} | {ANY: Detector(tracks, ANY, WHOLE, min_gap)}
    mel = {name: Detector(tracks, name, MEL, min_gap) for name in (*names, ANY)}
    firing = {
        changed: {name: own[name].firing(changed) for name in names} | {MEL: mel[ANY].firing(changed)}
        for changed in (*names, NONE)
    }
    conditions = {}
    for name in own:
        others = [firing[name][other] for other in names if other != name] if name != ANY else []
        conditions[name] = {
            # Mel cannot tell conditions apart: where any of them changes, it may look for any change.
            "embedding": {**own[name].on_changing(name), "all_pieces": own[name].on_all()},
            "mel": {**mel[ANY].on_changing(name), "all_pieces": mel[name].on_all()},
            "wrong": sum(others) / len(others) if others else None,
        }
    thresholds = {(WHOLE if name == ANY else name): found.threshold for name, found in own.items()}
    return {"thresholds": thresholds | {MEL: mel[ANY].threshold}, "conditions": conditions, "firing": firing}
