"""A tiny folder of music for tests: recordings of a moment in any format, and their tags."""

import csv
import os
from pathlib import Path

import mutagen
import numpy as np
from mutagen.id3 import TALB, TBPM, TCON, TIT2, TPE1

from datamodules.corpora.folder.scan import ScanReport, scan_folder
from tests.datamodules.audio.sounds import RATE, encode, tone, write

BEAT = 1_700_000_000_000_000_000  # a time of change; each change of a test adds to it, so that no clock decides
SECONDS = 0.05


def sound(number: int) -> np.ndarray:
    """Return sound that no other number has."""
    return tone(SECONDS, 200.0 + 10 * number)


def make(path: Path, number: int, mtime: int = 0, **tags: str | list[str]) -> Path:
    """Make a recording of the format of its name, with tags of ID3 (mp3, wav, aiff) or Vorbis (flac, ogg)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lower().lstrip(".")
    path.write_bytes(write(sound(number), kind.upper(), subtype="VORBIS" if kind == "ogg" else None))
    if tags:
        tag(path, **tags)
    os.utime(path, ns=(BEAT, BEAT + mtime))
    return path


def tag(path: Path, mtime: int = 0, **tags: str | list[str]) -> None:
    """Write tags of the columns ``artist``, ``title``, ``album``, ``genre`` and ``tempo`` into a recording."""
    frames = {"artist": TPE1, "title": TIT2, "album": TALB, "genre": TCON, "tempo": TBPM}
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    for name, value in tags.items():
        texts = [value] if isinstance(value, str) else value
        if isinstance(file.tags, mutagen.id3.ID3):
            file.tags.add(frames[name](encoding=3, text=texts))
        else:
            file.tags["bpm" if name == "tempo" else name] = texts
    file.save()
    os.utime(path, ns=(BEAT, BEAT + mtime))


def encoded(codec: str, container: str, rate: int = RATE) -> bytes:
    return encode(sound(0), codec, container, rate)


def rows_of(manifest: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a manifest by track_id, each of which stands once."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {row["track_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def failures_of(manifest: Path) -> dict[str, str]:
    with open(manifest.with_name(f"{manifest.name}.scan") / "failed.csv", newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def counts(report: ScanReport, *names: str) -> dict[str, int]:
    """Return the counts that are not zero, but for some that are mostly known."""
    left_out = {"found", "tracks", "failures", "deletions"} - {*names}
    return {name: value for name, value in report._asdict().items() if value and name not in left_out}


def scan(folder: Path) -> ScanReport:
    return scan_folder(folder / "music", folder / "all.csv")
