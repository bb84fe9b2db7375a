"""The same recording again, in another encoding or cut otherwise, and other versions of it.

Two tracks are duplicates

* if they carry the same ISRC or MusicBrainz recording id,
* if their audio fingerprints correlate by ``CORRELATION`` at least, or
* if their embeddings are much nearer to each other, over all dimensions, than a track is to its nearest neighbour: less than
  ``SHARE`` of the median of that among ``SAMPLE`` tracks, their duplicates by fingerprint aside. A share, since how far apart
  tracks lie is different from model to model.

docs/search.md says how the bounds were chosen. Tracks are versions of each other if they have the same artist and title, but are no
duplicates: live, remixed, recorded again.
"""

import re

import numpy as np

from datamodules.audio.fingerprint import SIZE, unit_fingerprints
from disentangled_ml.search.catalogue import CatalogueTrack
from disentangled_ml.search.recording import EmbeddedRecording

DUPLICATE, VERSION = "duplicate", "version"
CORRELATION = 0.9
SHARE, SAMPLE, SEED = 0.45, 400, 0
NONE = -1  # in place of a number
IDS = ("isrc", "musicbrainz_recording")
# What a part of a title holds that tells versions apart, and not movements or parts of a work
OF_A_VERSION = re.compile(
    r"\b(live|vivo|directo|remaster(ed)?|re-?recorded|remix(ed)?|r?mix|edit|version|demo|acoustic|unplugged|mono|stereo|instrumental|"
    r"karaoke|cover|bonus|take|alternate|outtake|sessions?|original|extended|radio|single|explicit|clean|feat|ft|featuring|"
    r"(19|20)\d\d)\b",
    re.IGNORECASE,
)
BRACKETS = re.compile(r"[(\[].*?[)\]]")


def duplicate_threshold(embedding: np.ndarray, fingerprints: np.ndarray | None = None) -> float:
    """Return the distance of embeddings below which two tracks of a catalogue are duplicates, 0 for one that is too small to tell.

    Args:
        embedding: (N, D).
        fingerprints: Audio fingerprints (N, SIZE); None: there are none.

    >>> round(duplicate_threshold(np.array([[0.0], [1.0], [3.0], [9.0]])), 3)
    0.675
    """
    n_tracks = len(embedding)
    drawn = np.sort(np.random.default_rng(SEED).choice(n_tracks, min(SAMPLE, n_tracks), replace=False))
    sample = embedding[drawn].astype(np.float64)
    is_other = ~np.eye(len(drawn), dtype=bool)
    if fingerprints is not None:
        unit = unit_fingerprints(fingerprints[drawn])
        is_other &= unit @ unit.T < CORRELATION
    nearest = [
        np.linalg.norm(sample[others] - track, axis=1).min()
        for track, others in zip(sample, is_other, strict=True)
        if others.any()
    ]
    return SHARE * float(np.median(nearest)) if nearest else 0.0


class KnownRecordings:
    """Recordings, in their order, that others may be duplicates of.

    Args:
        dim: Of the embeddings.
    """

    def __init__(self, dim: int):
        # With room for more
        self.n, self.embeddings, self.fingerprints = 0, np.empty((16, dim)), np.empty((16, SIZE), np.float32)

    def add(self, recording: EmbeddedRecording) -> None:
        if self.n == len(self.embeddings):
            self.embeddings = np.concatenate([self.embeddings, np.empty_like(self.embeddings)])
            self.fingerprints = np.concatenate([self.fingerprints, np.empty_like(self.fingerprints)])
        self.embeddings[self.n] = recording.embedding
        self.fingerprints[self.n] = unit_fingerprints(recording.audio_fingerprint[None])[0]
        self.n += 1

    def first_alike(
        self, embeddings: np.ndarray, fingerprints: np.ndarray, threshold: float, since: int = 0
    ) -> np.ndarray:
        """Return which recording each of some others sounds the same as, (R,): the first from ``since`` on, or ``NONE``.

        Args:
            embeddings: (R, D).
            fingerprints: (R, SIZE) int8.
            threshold: Of the distance of embeddings.
            since: Number of the first recording that counts.
        """
        known, own = self.embeddings[since : self.n], embeddings.astype(np.float64)
        if not len(known):
            return np.full(len(own), NONE)
        squared = (own**2).sum(1)[:, None] + (known**2).sum(1) - 2 * own @ known.T
        is_alike = np.maximum(squared, 0.0) < threshold**2
        is_alike |= unit_fingerprints(fingerprints) @ self.fingerprints[since : self.n].T >= CORRELATION
        return np.where(is_alike.any(1), is_alike.argmax(1) + since, NONE)


def identities(track: CatalogueTrack) -> dict[tuple[str, ...], str]:
    """Return what tells that a track is another one, and which kind each of these makes, surer ones first.

    >>> identities(CatalogueTrack("a", "Abba", None, {}, metadata={"isrc": "X1", "title": "SOS (Live)"}))
    {('isrc', 'X1'): 'duplicate', ('title', 'abba', 'sos'): 'version'}
    """
    metadata = track.metadata or {}
    found = {(key, metadata[key]): DUPLICATE for key in IDS if metadata.get(key)}
    title = plain_title(metadata.get("title"))
    if title and track.artist:
        found["title", track.artist.casefold().strip(), title] = VERSION
    return found


def plain_title(title: str | None) -> str:
    """Return a title without what tells versions apart, in brackets or behind a dash.

    >>> plain_title("Song (Live) [2011 Remaster]"), plain_title("Song - Radio Edit"), plain_title(None)
    ('song', 'song', '')
    >>> plain_title("Sonata No. 1 - Adagio"), plain_title("Suite (Part 2)")
    ('sonata no. 1 - adagio', 'suite (part 2)')
    """
    text = BRACKETS.sub(lambda found: " " if OF_A_VERSION.search(found[0]) else found[0], title or "")
    name, _, rest = text.partition(" - ")
    return " ".join((name if OF_A_VERSION.search(rest) else text).casefold().split())
