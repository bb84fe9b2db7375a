"""``index.json``: what a folder of shards holds, so that nothing has to be opened to know it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from datamodules.shards.storage import Root, locate, opened, parse_root
from disentangled_ml.chunks import FEATURE_NETWORKS
from disentangled_ml.files import write_text
from disentangled_ml.structures import RESERVED_NAMES, SPLITS, AudioSettings

FORMAT_VERSION = 1
INDEX_NAME = "index.json"
KINDS = ("tags", "tempo")
MEMBERS = {"mel": "mel.npy", "waveform": "flac"}  # of a frontend's source
FEATURES_MEMBER = "musicnn.npy"


def labels_name(split: str) -> str:
    """Return the name of the file that repeats the labels of all tracks of a split, a line of JSON each, for quick reading."""
    return f"labels-{split}.jsonl"


class ShardsError(ValueError):
    """Which shard, index or key cannot be used, and the way out."""


@dataclass(frozen=True)
class Shard:
    """A tar, its number of samples, and the digest of its content; an empty one where that is not known, as of old indexes."""

    file: str
    samples: int
    digest: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the index.

        >>> Shard("train-000000.tar", 64).as_json()
        {'file': 'train-000000.tar', 'samples': 64}
        """
        return {key: value for key, value in vars(self).items() if value != ""}


@dataclass(frozen=True)
class ShardIndex:
    """The index of a folder of shards.

    Attributes:
        root: The folder, or the address.
        audio: Settings of the spectrograms.
        has_waveform: Whether the samples have a ``flac`` member.
        conditions: One mapping per condition: name, kind (``tags`` or ``tempo``) and, for tags, the vocabulary. Where labels are
            estimated, ``estimated`` says by what: tags of all tracks, by ``thresholds`` of their probabilities (estimates.py), or
            the tempo of ``estimated_tracks``.
        splits: Shards of train, val and test, in order.
        features: Networks of musicnn whose features the samples hold (``musicnn.npy``), side by side in this order.
    """

    root: Root
    audio: AudioSettings
    has_waveform: bool
    conditions: list[dict[str, Any]]
    splits: dict[str, list[Shard]]
    features: tuple[str, ...] = ()

    def count(self, split: str) -> int:
        return sum(shard.samples for shard in self.splits[split])

    def members(self) -> tuple[str, ...]:
        """Return the members of each sample."""
        features, flac = [FEATURES_MEMBER] if self.features else [], [MEMBERS["waveform"]] if self.has_waveform else []
        return ("json", MEMBERS["mel"], *features, *flac)

    def estimated(self) -> list[str]:
        """Return the conditions of which labels are estimated, in order."""
        return [entry["name"] for entry in self.conditions if "estimated" in entry]

    def thresholds(self) -> dict[str, dict[str, float]]:
        """Return how probable the tags of each condition must be that is estimated."""
        return {entry["name"]: entry["thresholds"] for entry in self.conditions if "thresholds" in entry}

    def fingerprint(self) -> str:
        """Return a digest of all content, labels and sound too, which changes when the folder is prepared again from other data.

        Where labels come from is no part of it: indexes from before that was noted have the same.
        """
        marks = ("estimated", "estimated_tracks")
        entries = [{key: value for key, value in entry.items() if key not in marks} for entry in self.conditions]
        content = json.dumps({**self.as_json(), "conditions": entries}, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def check_unchanged(self) -> None:
        """Check that the folder is still as it was when this was read; an address that cannot be reached is taken to be.

        Raises: ShardsError: if it is being prepared anew, or was.
        """
        try:
            is_same = ShardIndex.read(self.root).fingerprint() == self.fingerprint()
        except ShardsError as error:
            is_same = isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)
        if not is_same:
            raise ShardsError(
                f"{self.root} was prepared anew, or is being, while it was read: wait until prepare has ended, then begin again, "
                "a training with another run_name"
            )

    def as_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "audio": asdict(self.audio),
            "has_waveform": self.has_waveform,
            **({"features": list(self.features)} if self.features else {}),
            "conditions": self.conditions,
            "splits": {
                split: {"samples": self.count(split), "shards": [shard.as_json() for shard in self.splits[split]]}
                for split in SPLITS
            },
        }

    def write(self) -> Path:
        """Write the file into the folder, atomically."""
        path = Path(self.root) / INDEX_NAME
        content = {**self.as_json(), "digest": self.fingerprint()}
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, root: Root) -> Self:
        """Read the index of a folder, or of an address.

        Raises:
            ShardsError: if there is none, or it is not one of this format.
            ValueError: for an address of a kind that cannot be read.
        """
        root = parse_root(root)
        path = locate(root, INDEX_NAME)
        try:
            with opened(root, INDEX_NAME) as file:
                data = file.read()
        except FileNotFoundError as error:
            way_out = f"make the shards first, with prepare manifest=FILE out={root}"
            raise ShardsError(f"{path} does not exist: {way_out}") from error
        except OSError as error:
            raise ShardsError(f"{path} cannot be read ({error}): give another folder or address of shards") from error
        try:
            content = json.loads(data.decode("utf-8"))
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise ShardsError(f"{path} has format version {version}, expected {FORMAT_VERSION}: prepare it anew")
            splits = {split: [Shard(**s) for s in content["splits"][split]["shards"]] for split in SPLITS}
            audio = AudioSettings(**content["audio"])
            check_index(splits, audio, content["conditions"])
            features = tuple(content.get("features", ()))
            if not set(features) <= set(FEATURE_NETWORKS):
                raise ValueError(f"features are of {features}, known are {FEATURE_NETWORKS}")
            return cls(root, audio, bool(content["has_waveform"]), content["conditions"], splits, features)
        except ShardsError:
            raise
        except UnicodeDecodeError as error:
            raise ShardsError(f"{path} is not a shard index (no UTF-8 text): prepare it anew") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ShardsError(f"{path} is not a shard index ({error!r}): prepare it anew") from error


def check_index(splits: dict[str, list[Shard]], audio: AudioSettings, conditions: Any) -> None:
    """Check what was read: an index may come with shards from elsewhere."""
    shards = [shard for split in SPLITS for shard in splits[split]]
    for shard in shards:
        if not isinstance(shard.file, str) or shard.file in ("", "..") or Path(shard.file).name != shard.file:
            raise ValueError(f"shard {shard.file!r} is not the name of a file in this folder")
        if type(shard.samples) is not int or shard.samples < 1:
            raise ValueError(f"shard {shard.file!r} has {shard.samples!r} samples")
        if not isinstance(shard.digest, str):
            raise ValueError(f"the digest of shard {shard.file!r} is {shard.digest!r}, no text")
    if len({shard.file for shard in shards}) < len(shards):
        raise ValueError("a shard is named twice")
    for key, value in asdict(audio).items():
        if type(value) is not int or value < 1:
            raise ValueError(f"audio setting {key} is {value!r}, not a number from 1 on")
    names = [entry["name"] for entry in conditions]
    for name, entry in zip(names, conditions, strict=True):
        if not isinstance(name, str) or name in ("", *RESERVED_NAMES) or names.count(name) > 1:
            raise ValueError(f"a condition cannot be called {name!r}, or only one")
        if entry["kind"] not in KINDS:
            raise ValueError(f"condition {name!r} is of kind {entry['kind']!r}, legal: {', '.join(KINDS)}")
        if entry["kind"] == "tags":
            tags = entry["vocabulary"]
            are_tags = isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
            if not are_tags or len(set(tags)) < len(tags):
                raise ValueError(f"the vocabulary of condition {name!r} is not a list of distinct tags")
        if not isinstance(entry.get("estimated", ""), str):
            raise ValueError(f"what estimated condition {name!r} is {entry['estimated']!r}, no text")
        least = entry.get("thresholds", {})
        are_numbers = isinstance(least, dict) and all(type(bound) in (int, float) for bound in least.values())
        if not are_numbers or (least and [*least] != entry.get("vocabulary")):
            raise ValueError(f"the thresholds of condition {name!r} are not a number for each tag of its vocabulary")
