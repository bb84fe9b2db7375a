"""The application: the pages, the API and the listening test of a catalogue, behind the guard.

Every error is ``{"error": "one sentence for whoever asked"}`` with a status that fits.
"""

import asyncio
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from starlette.applications import Starlette

from disentangled_ml.web.guard import Guard
from disentangled_ml.web.listening.session import ListeningTest
from disentangled_ml.web.routes import api, listening, pages
from disentangled_ml.web.routes.answers import HANDLERS
from disentangled_ml.web.token import Token
from disentangled_ml.web.view import CatalogueView


def build_app(
    current: Callable[[], CatalogueView],
    listening_test: ListeningTest | None,
    loopback_only: bool,
    token: Token | None = None,
) -> Guard:
    """Return the application.

    Args:
        current: Returns the view of the catalogue as it is now.
        listening_test: That is served too; None: there is none.
        loopback_only: Whether the server listens on loopback.
        token: That requests must hold; None: none.
    """
    routes = [*pages.ROUTES, *api.ROUTES]
    if listening_test is not None:
        routes += [pages.LISTEN, *listening.ROUTES]
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    state = app.state
    state.current, state.listening, state.token = current, listening_test, token
    state.loopback_only, state.version = loopback_only, own_version()
    # More at a time take as long in all, and hold up what is answered at once.
    state.searching = asyncio.Semaphore(len(os.sched_getaffinity(0)))
    state.free_uploads = asyncio.Semaphore(current().limits.uploads_at_a_time)
    return Guard(app, loopback_only, token)


def own_version() -> str:
    try:
        return version("disentangled-ml")
    except PackageNotFoundError:  # run from its sources alone
        return "0"
