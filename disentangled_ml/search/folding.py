"""Read a ranking: fold duplicates into one row, and skip what an artist or an album has too much of."""

from collections import Counter

import numpy as np

from disentangled_ml.search.catalogue import CatalogueTrack, EmbeddedCatalogue
from disentangled_ml.search.duplicates import DUPLICATE, NONE, KnownRecordings, identities
from disentangled_ml.search.recording import EmbeddedRecording
from disentangled_ml.search.results import Duplicate
from disentangled_ml.structures import name_code

ROWS_AT_A_TIME = 256  # that are compared with what is known in one product


class Folding:
    """What is left of a ranking, and where the rest went.

    Args:
        catalogue: That is ranked.
        per_artist: Most of an artist that are kept; None: any number.
        per_album: The same of an album.
        threshold: Distance of embeddings below which tracks are duplicates, see duplicates.py; None: nothing is folded.

    Attributes:
        folded: Per row that was kept the duplicates of it.
        of_seeds: The duplicates of seeds.
        beyond: Number of tracks that were skipped before the last one that was kept, ``artist`` and ``album``.
    """

    def __init__(
        self,
        catalogue: EmbeddedCatalogue,
        per_artist: int | None = None,
        per_album: int | None = None,
        threshold: float | None = None,
    ):
        self.catalogue, self.threshold = catalogue, threshold
        self.caps = {"artist": per_artist, "album": per_album}
        self.counts: Counter[tuple[str, object]] = Counter()
        self.beyond = {"artist": 0, "album": 0}
        self.folded: dict[int, list[Duplicate]] = {}
        self.of_seeds: list[Duplicate] = []
        # What a track may be the duplicate of, and for each where its duplicates are listed.
        self.known, self.lists = KnownRecordings(catalogue.embedding.shape[1]), list[list[Duplicate]]()
        self.by_identity: dict[tuple[str, ...], list[Duplicate]] = {}

    def add_seed(self, recording: EmbeddedRecording, track: CatalogueTrack | None) -> None:
        """Fold away the duplicates of a seed."""
        self.add(recording, track, self.of_seeds)

    def add(self, recording: EmbeddedRecording, track: CatalogueTrack | None, duplicates: list[Duplicate]) -> None:
        """Collect the duplicates of a recording, which may be no track of the catalogue, in a list."""
        self.known.add(recording)
        self.lists.append(duplicates)
        for identity in identities(track) if track is not None else ():
            self.by_identity.setdefault(identity, duplicates)

    def read(self, rows: np.ndarray, k: int) -> list[int]:
        """Read a ranking of rows (R,) to its end, for duplicates of those that are kept; return their places, k at most."""
        kept: list[int] = []
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            block = rows[first : first + ROWS_AT_A_TIME].tolist()
            n_before, alike = len(self.lists), self.first_alike(block)
            for place, (row, track) in enumerate(zip(block, self.catalogue.tracks(block), strict=True)):
                if alike[place] == NONE and len(self.lists) > n_before:
                    alike[place] = self.first_alike([row], n_before)[0]
                if not self.fold(row, track, alike[place]) and len(kept) < k and not self.is_beyond(track):
                    kept.append(first + place)
                    self.keep(row, track)
        return kept

    def keep(self, row: int, track: CatalogueTrack) -> None:
        """Keep a track: it counts for its artist and album, and its duplicates are folded into it."""
        self.counts.update([("artist", artist_key(track)), ("album", album_key(track))])
        self.folded[row] = []
        self.add(self.catalogue.recording(row), track, self.folded[row])

    def first_alike(self, rows: list[int], since: int = 0) -> np.ndarray:
        """Return which of the known recordings, those before ``since`` aside, rows (R,) sound the same as: the first, or ``NONE``."""
        if self.threshold is None:
            return np.full(len(rows), NONE)
        return self.known.first_alike(*self.catalogue.recordings(rows), self.threshold, since)

    def fold(self, row: int, track: CatalogueTrack, alike: int) -> bool:
        """Fold a track into one of the known recordings; return whether it is folded.

        Args:
            row: Of the track.
            track: What is known about it.
            alike: The recording that it sounds the same as, see ``first_alike``; if ``NONE``, it may be the same by its metadata.
        """
        if alike != NONE:
            self.lists[alike].append(Duplicate(row, track, DUPLICATE))
            return True
        for identity, kind in identities(track).items() if self.threshold is not None else ():
            if identity in self.by_identity:
                self.by_identity[identity].append(Duplicate(row, track, kind))
                return True
        return False

    def is_beyond(self, track: CatalogueTrack) -> bool:
        """Return whether a track is skipped, for its artist or its album has enough, and count it if so."""
        for kind, key in (("artist", artist_key(track)), ("album", album_key(track))):
            cap = self.caps[kind]
            if cap is not None and key is not None and self.counts[kind, key] >= cap:
                self.beyond[kind] += 1
                return True
        return False


def artist_key(track: CatalogueTrack) -> int | None:
    return name_code(track.artist) if track.artist else None


def album_key(track: CatalogueTrack) -> tuple[str, str] | None:
    """Return what tells albums apart; None where the album is not known.

    >>> album_key(CatalogueTrack("a", "Abba", None, {}, metadata={"album": "Gold"}))
    ('abba', 'gold')
    """
    metadata = track.metadata or {}
    if not metadata.get("album"):
        return None
    artist = metadata.get("album_artist") or track.artist or ""
    return artist.casefold().strip(), metadata["album"].casefold().strip()
