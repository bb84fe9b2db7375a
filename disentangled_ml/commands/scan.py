"""List a folder of music: ``disentangled scan music=DIR out=FILE.csv`` makes a manifest of its files and their tags.

Edit the manifest as you like, and repeat the command when files have come, gone, moved or changed: it reads what is new, and keeps
what you have edited. FILE.csv.scan/failed.csv lists what cannot be used, with the reasons. Then:
``disentangled embed manifest=FILE.csv``.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from datamodules.corpora.folder.scan import ScanReport, scan_folder
from disentangled_ml.config import ConfigError
from disentangled_ml.files import writable


def main(config: DictConfig) -> None:
    music, out = music_folder(config.music), writable(config.out, "csv")
    sys.stdout.write(f"{out}: {summary(scan_folder(music, out))}\n")


def music_folder(music: str) -> Path:
    """Return the folder that ``music`` names. Raises ConfigError if it is none."""
    folder = Path(music).expanduser()
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"music={music} {found}: give music=DIR, the folder that the music lies in")
    return folder


def summary(report: ScanReport) -> str:
    """Return what a scan has found and done: a line for the tracks, and one for what needs a look, if anything does."""
    lines = [f"{report.tracks:,} tracks of {report.found:,} audio files, {report.read:,} of them read"]
    done = ("new", "changed", "moved", "returned", "removed")
    lines.append(", ".join(f"{getattr(report, name):,} {name}" for name in done))
    notes = {
        f"failed, see {report.failures}": report.failed,
        "copies of other files": report.copies,
        f"left out, as their rows were deleted, see {report.deletions}": report.deleted,
        "of these deleted since the last scan: if you did not mean it, put the rows back from that list": report.lost,
        "rows of no file of the folder": report.own_rows,
        "tempi left out, no legal BPM": report.bad_tempi,
        "with tags that cannot be read": report.broken_tags,
        "hidden": report.hidden,
    }
    lines += [f"{count:,} {note}" for note, count in notes.items() if count]
    return "\n  ".join(lines)
