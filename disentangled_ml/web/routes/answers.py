"""How requests are answered: with JSON, or with an error that is one sentence for whoever asked."""

import json
import logging
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from disentangled_ml.search.catalogue import CatalogueError
from disentangled_ml.web.view import CatalogueView, UnknownQuery

logger = logging.getLogger("serve")


class PlainJSON(JSONResponse):
    """JSON in ASCII, so that every name of a catalogue can be sent."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


async def view_of(request: Request) -> CatalogueView:
    """Return the view that answers a request, asked for once, so that the answer is of one state of the catalogue."""
    return await run_in_threadpool(request.app.state.current)


async def result_of(ask: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns; its errors say what is wrong with the question."""
    try:
        return await run_in_threadpool(ask, *arguments)
    except CatalogueError:
        raise
    except UnknownQuery as error:
        raise HTTPException(404, str(error)) from error
    except ValueError as error:
        raise HTTPException(400, str(error)) from error


async def answered(ask: Callable[..., Any], *arguments: Any) -> Response:
    return PlainJSON(await result_of(ask, *arguments))


async def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reasons = {404: "there is no such page", 405: f"{request.method} is not possible here"}
    default = error.detail in ("Not Found", "Method Not Allowed")
    detail = reasons.get(error.status_code, error.detail) if default else error.detail
    return PlainJSON({"error": detail}, error.status_code, headers=error.headers)


async def on_disconnect(request: Request, error: Exception) -> Response:
    """Answer a request whose browser has disconnected; nobody reads it."""
    return Response(status_code=400)


async def on_damaged_catalogue(request: Request, error: Exception) -> Response:
    """Answer where a file of the catalogue is damaged or gone; which one is for the log, not for whoever asks."""
    logger.error("%s", error)
    return PlainJSON(
        {"error": "the catalogue is damaged on the server, whose log says how: it must be embedded anew"}, 503
    )


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer after a fault of the program; the log has the traceback."""
    return PlainJSON({"error": "the server failed on this; its log says why"}, 500)


HANDLERS: dict[Any, Any] = {
    HTTPException: on_http_error,
    ClientDisconnect: on_disconnect,
    CatalogueError: on_damaged_catalogue,
    Exception: on_failure,
}
