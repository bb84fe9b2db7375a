"""Where the recording of a track is, if browsers play it and it may be played."""

import os
from pathlib import Path

from disentangled_ml.files import existing_form
from disentangled_ml.search.catalogue import CatalogueTrack

# Of formats that browsers play.
EXTENSIONS = (".flac", ".wav", ".ogg", ".mp3", ".m4a", ".aac", ".opus", ".oga", ".webm")


def recording_of(track: CatalogueTrack, root: Path | None) -> Path | None:
    """Return the file of a track's recording, if browsers play its format.

    Nothing outside of the root is given, and a track without a path is looked for there under its id; without a root (None) the
    file is wherever the catalogue says.
    """
    if track.path:
        named = [existing_form(Path(track.path))]
    else:
        named = [] if root is None else [root / f"{track.track_id}{extension}" for extension in EXTENSIONS]
    return next((path for path in named if is_playable(path, root)), None)


def is_playable(path: Path, root: Path | None) -> bool:
    """Return whether a file can be read, lies inside of the root and browsers play its format."""
    try:
        inside = root is None or path.resolve().is_relative_to(root)
        return inside and path.suffix.lower() in EXTENSIONS and path.is_file() and os.access(path, os.R_OK)
    except (OSError, ValueError):  # of names that no file can have
        return False
