"""The audio files below a folder: which are there, and which places cannot be looked into.

Links are followed, each folder once: real folders first, then those that only a link leads to, so that loops end and the paths of
files do not depend on links where they need not.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# What the decoder takes (datamodules/audio/ffmpeg.py), as its files are called.
DECODED = (
    *(".mp3", ".mp2", ".aac", ".m4a", ".m4b", ".mp4", ".ogg", ".oga", ".opus", ".flac", ".wav", ".wave", ".w64"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".wma", ".asf", ".mka", ".webm", ".wv"),
)
# Other names of recordings: they are listed as failures, not passed over.
NOT_DECODED = (".ape", ".mpc", ".tta", ".tak", ".shn", ".ofr", ".dsf", ".dff", ".ra", ".m4p", ".aax", ".spx")


class FoundFile(NamedTuple):
    """An audio file.

    Attributes:
        path: Relative to the folder that is scanned; bytes that are no UTF-8 as ``os.fsdecode`` returns them.
        size: In bytes.
        mtime_ns: Time of its last change.
        problem: Why it cannot be read; empty where nothing speaks against it.
    """

    path: str
    size: int
    mtime_ns: int
    problem: str = ""


class FolderListing(NamedTuple):
    """What is below a folder.

    Attributes:
        files: Audio files, sorted by path.
        unreadable: Folders that cannot be listed, relative paths, and why.
        hidden: Number of audio files and folders left out because their names begin with a dot.
    """

    files: list[FoundFile]
    unreadable: dict[str, str]
    hidden: int

    def is_unseen(self, path: str) -> bool:
        """Return whether a file may still be there, below a folder that cannot be listed."""
        return any(path.startswith(f"{folder}/") for folder in self.unreadable)


def list_audio(music: Path) -> FolderListing:
    """Find every audio file below a folder, by its extension in any case.

    Raises: OSError: if the folder itself cannot be listed.
    """
    os.listdir(music)
    listing = FolderListing([], {}, 0)
    real, linked, seen = deque([""]), deque(), set()
    hidden = 0
    while real or linked:
        folder = (real or linked).popleft()
        try:
            identity = os.stat(music / folder)
            if (identity.st_dev, identity.st_ino) in seen:
                continue
            seen.add((identity.st_dev, identity.st_ino))
            entries = sorted(os.scandir(music / folder), key=lambda entry: entry.name)
        except OSError as error:
            listing.unreadable[folder] = f"cannot be listed: {error.strerror}"
            continue
        for entry in entries:
            if entry.name.startswith("."):
                hidden += is_folder(entry) or extension_of(entry.name) in DECODED
            elif is_folder(entry):
                (linked if entry.is_symlink() else real).append(os.path.join(folder, entry.name))
            else:
                listing.files.extend(found_file(entry, os.path.join(folder, entry.name)))
    listing.files.sort()
    return listing._replace(hidden=hidden)


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # of a link in a circle
        return False


def found_file(entry: os.DirEntry, path: str) -> Iterator[FoundFile]:
    """Yield the file of an entry if its name is that of a recording."""
    extension = extension_of(entry.name)
    if extension not in (*DECODED, *NOT_DECODED):
        return
    try:
        found = entry.stat()
    except OSError as error:
        yield FoundFile(path, 0, 0, f"cannot be read: {error.strerror}")
        return
    problem = "" if stat.S_ISREG(found.st_mode) else "not a file"
    if extension in NOT_DECODED:
        problem = f"{extension} is a format that is not decoded"
    yield FoundFile(path, found.st_size, found.st_mtime_ns, problem)


def extension_of(name: str) -> str:
    """Return the extension of a name in lower case, also where nothing stands before it.

    >>> extension_of("A.MP3"), extension_of("._a.Mp3"), extension_of(".mp3"), extension_of("a")
    ('.mp3', '.mp3', '.mp3', '')
    """
    return os.path.splitext(f"_{name}")[1].lower()
