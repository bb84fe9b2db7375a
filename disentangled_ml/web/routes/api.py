"""The routes of the API, which the page uses too. openapi.py describes them, and a test holds the two together."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from disentangled_ml.web.openapi import MAX_PAGE, PATHS, PREFIX, document
from disentangled_ml.web.routes.answers import PlainJSON, answered, result_of, view_of
from disentangled_ml.web.routes.bodies import json_object, media_type, receive
from disentangled_ml.web.saving import MEDIA_TYPES, listed_text
from disentangled_ml.web.view import CatalogueView


async def health(request: Request) -> Response:
    view = await view_of(request)
    return PlainJSON({**view.health(), "version": request.app.state.version})


async def catalogue(request: Request) -> Response:
    state, view = request.app.state, await view_of(request)
    key = None if state.token is None else state.token.audio_key
    return PlainJSON({**view.summary(), "listening_test": state.listening is not None, "audio_key": key})


async def openapi(request: Request) -> Response:
    return PlainJSON(document(request.app.state.version))


async def labels(request: Request) -> Response:
    view = await view_of(request)
    return await answered(lambda: {"labels": view.labels()})


async def tracks(request: Request) -> Response:
    view, asked = await view_of(request), request.query_params
    limit = number_in(asked.get("limit"), "limit", 20, 1, MAX_PAGE)
    offset = number_in(asked.get("offset"), "offset", 0, 0, len(view.catalogue))
    return await answered(view.tracks, asked.get("q", ""), limit, offset)


def number_in(text: str | None, name: str, default: int, least: int, most: int) -> int:
    """Return the number in a query. Raises HTTPException 400 for another text.

    >>> number_in("7", "limit", 20, 1, 100), number_in(None, "limit", 20, 1, 100)
    (7, 20)
    """
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 15 or not least <= int(text) <= most:
        raise HTTPException(400, f"{name} is a number from {least} to {most}")
    return int(text)


async def track(request: Request) -> Response:
    return await answered((await view_of(request)).track, request.path_params["track_id"])


async def tracks_map(request: Request) -> Response:
    return await answered((await view_of(request)).map, request.query_params.get("space") or None)


def asking(method: Callable[[CatalogueView, dict[str, Any]], dict[str, Any]]) -> Callable:
    """Return the route that answers a question in JSON by a method of the view."""

    async def answer_question(request: Request) -> Response:
        content = await json_object(request)
        async with request.app.state.searching:
            return await answered(method, await view_of(request), content)

    return answer_question


async def playlist(request: Request) -> Response:
    """Answer with a list of tracks as a file. Paths are told to this machine alone."""
    content, state = await json_object(request), request.app.state
    view = await view_of(request)
    key = None if state.token is None else state.token.audio_key
    address = f"{request.url.scheme}://{request.headers['host']}"
    async with state.searching:
        form, text = await result_of(listed_text, view, content, state.loopback_only, address, key)
    headers = {"content-disposition": f'attachment; filename="playlist.{form}"'}
    return Response(text, media_type=MEDIA_TYPES[form], headers=headers)


async def upload(request: Request) -> Response:
    """Embed the recording in the body of the request, to search with; only its embedding is kept.

    It is in a file without a name, which is gone when it is closed, whatever becomes of the server.
    """
    view, free = await view_of(request), request.app.state.free_uploads
    kind = media_type(request)
    if kind != "application/octet-stream" and not kind.startswith("audio/"):
        raise HTTPException(415, "send the recording itself as application/octet-stream or audio/*, not as a form")
    if free.locked():
        raise HTTPException(503, "the server is busy with other uploads: try again in a moment", {"retry-after": "5"})
    async with free:
        with tempfile.TemporaryFile() as file:
            await receive(request, file, view.limits.max_bytes, view.limits.receive_seconds)
            if not file.tell():
                raise HTTPException(422, "this file is empty")
            try:
                return PlainJSON(await run_in_threadpool(view.add_upload, file))
            except ValueError as error:
                raise HTTPException(422, f"this recording cannot be used: {error}") from error


def api_route(path: str, endpoint: Callable, method: str = "GET") -> Route:
    """Return the route of an endpoint, which refuses parameters that its description does not have."""
    described = PATHS[path.replace(":path}", "}")][method.lower()].get("parameters", ())
    known = [parameter["name"] for parameter in described if parameter["in"] == "query"]

    async def answer_checked(request: Request) -> Response:
        check_parameters(request.query_params, known)
        return await endpoint(request)

    return Route(PREFIX + path, answer_checked, methods=[method])


def check_parameters(given: Iterable[str], known: Sequence[str]) -> None:
    """Check the names of the parameters in an address. Raises HTTPException 400, naming the first that is not known."""
    told = f"which takes {', '.join(known) or 'none'}"
    for name in given:
        if name not in known:
            raise HTTPException(400, f"{name[:40]} is not a parameter of this address, {told}")


ROUTES = [
    api_route("/openapi.json", openapi),
    api_route("/health", health),
    api_route("/catalogue", catalogue),
    api_route("/labels", labels),
    api_route("/tracks", tracks),
    api_route("/tracks/{track_id:path}", track),
    api_route("/map", tracks_map),
    api_route("/places", asking(CatalogueView.places), "POST"),
    api_route("/similar", asking(CatalogueView.similar), "POST"),
    api_route("/compose", asking(CatalogueView.compose), "POST"),
    api_route("/path", asking(CatalogueView.path), "POST"),
    api_route("/playlist", playlist, "POST"),
    api_route("/upload", upload, "POST"),
]
