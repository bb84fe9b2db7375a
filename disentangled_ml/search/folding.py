"""Read a ranking: fold duplicates into one row, and skip what an artist or an album has too much of."""

from collections import Counter

import numpy as np

from disentangled_ml.search.audio_fingerprint import SIZE, EmbeddedRecording, unit_fingerprints
from disentangled_ml.search.catalogue import CatalogueTrack, EmbeddedCatalogue
from disentangled_ml.search.duplicates import CORRELATION, DUPLICATE, identities
from disentangled_ml.search.results import Duplicate
from disentangled_ml.structures import name_code


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
        # What a track may be the duplicate of: embeddings and fingerprints, with room for more, and for each where its duplicates
        # are listed.
        self.embeddings = np.empty((16, catalogue.embedding.shape[1]), np.float32)
        self.fingerprints = np.empty((16, SIZE), np.float32)
        self.lists: list[list[Duplicate]] = []
        self.by_identity: dict[tuple[str, ...], list[Duplicate]] = {}

    def add_seed(self, recording: EmbeddedRecording, track: CatalogueTrack | None) -> None:
        """Fold away the duplicates of a seed."""
        self.add(recording, track, self.of_seeds)

    def add(self, recording: EmbeddedRecording, track: CatalogueTrack | None, duplicates: list[Duplicate]) -> None:
        """Collect the duplicates of a recording, which may be no track of the catalogue, in a list."""
        place = len(self.lists)
        if place == len(self.embeddings):
            self.embeddings = np.concatenate([self.embeddings, np.empty_like(self.embeddings)])
            self.fingerprints = np.concatenate([self.fingerprints, np.empty_like(self.fingerprints)])
        self.embeddings[place] = recording.embedding
        self.fingerprints[place] = unit_fingerprints(recording.audio_fingerprint[None])[0]
        self.lists.append(duplicates)
        for identity in identities(track) if track is not None else ():
            self.by_identity.setdefault(identity, duplicates)

    def read(self, rows: np.ndarray, k: int) -> list[int]:
        """Read a ranking of rows (R,) to its end, for duplicates of those that are kept; return their places, k at most."""
        kept: list[int] = []
        for place, (row, track) in enumerate(zip(rows.tolist(), self.catalogue.tracks(rows.tolist()), strict=True)):
            if not self.is_folded(row, track) and len(kept) < k and not self.is_beyond(track):
                kept.append(place)
                self.keep(row, track)
        return kept

    def keep(self, row: int, track: CatalogueTrack) -> None:
        """Keep a track: it counts for its artist and album, and its duplicates are folded into it."""
        self.counts.update([("artist", artist_key(track)), ("album", album_key(track))])
        self.folded[row] = []
        self.add(self.catalogue.recording(row), track, self.folded[row])

    def is_folded(self, row: int, track: CatalogueTrack) -> bool:
        """Fold a track into the one of which it is most surely a duplicate, or else into one that it is a version of."""
        if self.threshold is None or not self.lists:
            return False
        own = self.duplicates_of(self.catalogue.recording(row))
        if own is not None:
            own.append(Duplicate(row, track, DUPLICATE))
            return True
        for identity, kind in identities(track).items():
            if identity in self.by_identity:
                self.by_identity[identity].append(Duplicate(row, track, kind))
                return True
        return False

    def duplicates_of(self, recording: EmbeddedRecording) -> list[Duplicate] | None:
        """Return where the duplicates of what sounds the same as a recording are listed; None if nothing does."""
        n = len(self.lists)
        correlation = self.fingerprints[:n] @ unit_fingerprints(recording.audio_fingerprint[None])[0]
        alike = int(correlation.argmax())
        if correlation[alike] >= CORRELATION:
            return self.lists[alike]
        apart = np.linalg.norm(self.embeddings[:n] - recording.embedding, axis=1)
        nearest = int(apart.argmin())
        return self.lists[nearest] if apart[nearest] < self.threshold else None

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
