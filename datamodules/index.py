"""``index.json``: what a folder of shards holds, so that nothing has to be opened to know it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from disentangled_ml.structures import SPLITS, AudioSettings

FORMAT_VERSION = 1
INDEX_NAME = "index.json"


class ShardsError(ValueError):
    """Tell which shard, index or key cannot be used, and the way out."""


@dataclass(frozen=True)
class Shard:
    """Name one tar and its number of samples."""

    file: str
    samples: int


@dataclass(frozen=True)
class ShardIndex:
    """Hold the index of a folder of shards.

    Attributes:
        root: The folder.
        audio: Settings of the spectrograms.
        has_waveform: Whether the samples have a ``flac`` member.
        conditions: One mapping per condition: name, kind (``tags`` or ``tempo``) and, for tags, the vocabulary.
        splits: Shards of train, val and test, in order.
    """

    root: Path
    audio: AudioSettings
    has_waveform: bool
    conditions: list[dict[str, Any]]
    splits: dict[str, list[Shard]]

    def count(self, split: str) -> int:
        """Count the samples of a split."""
        return sum(shard.samples for shard in self.splits[split])

    def fingerprint(self) -> str:
        """Identify the content; changes when the folder is prepared anew from other data."""
        content = json.dumps(self.as_json(), sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Give the content of the file."""
        return {
            "format_version": FORMAT_VERSION,
            "audio": asdict(self.audio),
            "has_waveform": self.has_waveform,
            "conditions": self.conditions,
            "splits": {
                split: {"samples": self.count(split), "shards": [asdict(shard) for shard in self.splits[split]]}
                for split in SPLITS
            },
        }

    def write(self) -> Path:
        """Write the file, whole or not at all."""
        path = self.root / INDEX_NAME
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(path)
        return path

    @classmethod
    def read(cls, root: Path) -> ShardIndex:
        """Read the index of a folder.

        Raises:
            ShardsError: if there is none, or it is not one of this format.
        """
        path = Path(root) / INDEX_NAME
        if not path.is_file():
            raise ShardsError(f"{path} does not exist: make the shards first, with prepare manifest=FILE out={root}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise ShardsError(f"{path} has format version {version}, expected {FORMAT_VERSION}: prepare it anew")
            splits = {split: [Shard(**s) for s in content["splits"][split]["shards"]] for split in SPLITS}
            audio = AudioSettings(**content["audio"])
            return cls(Path(root), audio, bool(content["has_waveform"]), content["conditions"], splits)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ShardsError(f"{path} is not a shard index ({error!r}): prepare it anew") from error
