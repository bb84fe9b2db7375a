"""The view of a catalogue as it is now: ``embed`` may put a new state in the place of the one that is open.

An answer is of one state, since a request takes one view and asks nothing else. Uploads are known to every view of the same model; one
of another model would have to embed them anew.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from disentangled_ml.search.catalogue import HEADER
from disentangled_ml.web.view import CatalogueView

logger = logging.getLogger("serve")
Stamp = tuple[int, int, int] | None


class CurrentView:
    """Opens the view of a catalogue, and opens it again when its header was replaced; call it for the view.

    Args:
        folder: Of the catalogue.
        open_view: Opens what is in the folder now, or raises a ValueError.
    """

    def __init__(self, folder: Path, open_view: Callable[[], CatalogueView]):
        self.header, self.open_view, self.opening = folder / HEADER, open_view, threading.Lock()
        self.stamp = self.look()
        self.view = open_view()

    def __call__(self) -> CatalogueView:
        """Return the view of the state that is whole; while one is being opened, others have the last one."""
        if self.look() not in (self.stamp, None) and self.opening.acquire(blocking=False):
            try:
                self.reopen()
            finally:
                self.opening.release()
        return self.view

    def look(self) -> Stamp:
        """Return what tells one header from another; None while there is none."""
        try:
            found = self.header.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def reopen(self) -> None:
        # Before it is read: a header that is replaced meanwhile has another stamp, and is opened next time.
        self.stamp = self.look()
        try:
            view = self.open_view()
            # Its arrays are whole by now; this reads its tracks, which are wanted anyway.
            view.read_texts()
        except ValueError as error:
            logger.warning("the new catalogue cannot be used, the old one is served on: %s", error)
            return
        if view.catalogue.model.fingerprint == self.view.catalogue.model.fingerprint:
            view.uploads = self.view.uploads
        self.view = view
        logger.info("%d tracks are served now", len(view.catalogue))
