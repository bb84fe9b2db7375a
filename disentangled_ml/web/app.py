"""The routes of the page (the only file that imports starlette). They answer JSON, except for the page's files and the recordings.

Every error is ``{"error": "one sentence for the person in front of the page"}`` with a status that fits.
"""

import asyncio
import json
import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from typing import IO, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from disentangled_ml.search.catalogue import CatalogueError
from disentangled_ml.web.guard import Guard
from disentangled_ml.web.listening.questions import (
    CANNOT_TELL,
    FIRST,
    SECOND,
    check_rater,
    first_is_left,
    what_is_asked,
)
from disentangled_ml.web.listening.session import ListeningTest, Turn
from disentangled_ml.web.view import CatalogueView, UnknownQuery

logger = logging.getLogger("serve")
STATIC = {
    "style.css": "text/css",
    "search.js": "text/javascript",
    "map.js": "text/javascript",
    "common.js": "text/javascript",
    "listen.js": "text/javascript",
}
MEDIA_TYPES = {
    ".flac": "audio/flac",
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".webm": "audio/webm",
}
MAX_JSON = 65_536  # bytes of a question in JSON
# How long the rest of a body that is too large is still read and discarded.
LINGER_SECONDS = 3.0
SIDES = ("left", "right")


class PlainJSON(JSONResponse):
    """JSON in ASCII, so that every name of a catalogue can be sent."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


def build_app(current: Callable[[], CatalogueView], listening: ListeningTest | None, loopback_only: bool) -> Guard:
    """Return the application: the page of a catalogue as it is now, and the listening test where there is one."""
    routes = [
        Route("/", static("search.html", "text/html")),
        Route("/static/{name}", static_file),
        Route("/audio", audio),
        Route("/api/catalogue", catalogue),
        Route("/api/tracks", tracks),
        Route("/api/map", tracks_map),
        Route("/api/search", search, methods=["POST"]),
        Route("/api/upload", upload, methods=["POST"]),
    ]
    if listening is not None:
        routes += [
            Route("/listen", static("listen.html", "text/html")),
            Route("/api/listen/turn", turn),
            Route("/api/listen/answer", answer, methods=["POST"]),
            Route("/api/listen/figures", figures),
            Route("/api/listen/triplets.csv", judged_triplets),
        ]
    handlers = {
        HTTPException: on_http_error,
        ClientDisconnect: on_disconnect,
        CatalogueError: on_damaged_catalogue,
        Exception: on_failure,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.current, app.state.listening = current, listening
    app.state.free_uploads = asyncio.Semaphore(current().limits.uploads_at_a_time)
    return Guard(app, loopback_only)


async def page_of(request: Request) -> CatalogueView:
    """Return the view that answers a request, asked for once, so that the answer is of one state of the catalogue."""
    return await run_in_threadpool(request.app.state.current)


def static(name: str, media_type: str) -> Callable:
    content = files("disentangled_ml.web").joinpath("static", name).read_bytes()

    async def answer_file(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return answer_file


async def static_file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404, "there is no such file")
    return await static(name, STATIC[name])(request)


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


async def catalogue(request: Request) -> Response:
    listening = request.app.state.listening is not None
    return PlainJSON({**(await page_of(request)).summary(), "listening_test": listening})


async def tracks(request: Request) -> Response:
    page, text = await page_of(request), request.query_params.get("q", "")
    return await answered(lambda: {"tracks": page.find(text)})


async def tracks_map(request: Request) -> Response:
    return await answered((await page_of(request)).map, request.query_params.get("space") or None)


async def search(request: Request) -> Response:
    question = await json_object(request)
    return await answered((await page_of(request)).search, question)


async def answered(ask: Callable[..., Any], *arguments: Any) -> Response:
    """Answer with what a function returns; its errors say what is wrong with the question."""
    try:
        return PlainJSON(await run_in_threadpool(ask, *arguments))
    except CatalogueError:
        raise
    except UnknownQuery as error:
        raise HTTPException(404, str(error)) from error
    except ValueError as error:
        raise HTTPException(400, str(error)) from error


async def json_object(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send application/json")
    with tempfile.SpooledTemporaryFile(MAX_JSON) as body:
        await receive(request, body, MAX_JSON, 10.0)
        body.seek(0)
        try:
            content = json.loads(body.read())
        except (ValueError, RecursionError):
            content = None
    if not isinstance(content, dict):
        raise HTTPException(400, "this is no JSON object")
    return content


async def receive(request: Request, file: IO[bytes], most: int, seconds: float) -> None:
    """Write the body of a request to a file, within limits of size and time."""
    too_large = HTTPException(413, f"this is too large: the most is {most:,} bytes", {"connection": "close"})
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        await drain(request)
        raise too_large
    try:
        async with asyncio.timeout(seconds):
            async for block in request.stream():
                if file.tell() + len(block) > most:
                    break
                file.write(block)
            else:
                return
    except TimeoutError:
        raise HTTPException(408, f"this was not sent within {seconds:g} seconds", {"connection": "close"}) from None
    await drain(request)
    raise too_large


async def drain(request: Request) -> None:
    """Read and discard the rest of a body for a moment: a sender that is cut off does not see the answer."""
    if "expect" in request.headers:  # it asks first
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            async for _ in request.stream():
                pass


async def upload(request: Request) -> Response:
    """Embed the recording in the body of the request, to search with; only its embedding is kept.

    It is in a file without a name, which is gone when it is closed, whatever becomes of the server.
    """
    page, free = await page_of(request), request.app.state.free_uploads
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/octet-stream" and not kind.startswith("audio/"):
        raise HTTPException(415, "send the recording itself as application/octet-stream or audio/*, not as a form")
    if free.locked():
        raise HTTPException(503, "the server is busy with other uploads: try again in a moment", {"retry-after": "5"})
    async with free:
        with tempfile.TemporaryFile() as file:
            await receive(request, file, page.limits.max_bytes, page.limits.receive_seconds)
            if not file.tell():
                raise HTTPException(422, "this file is empty")
            try:
                return PlainJSON(await run_in_threadpool(page.add_upload, file))
            except ValueError as error:
                raise HTTPException(422, f"this recording cannot be used: {error}") from error


async def audio(request: Request) -> Response:
    """Return the recording of a track, or the part of it that a Range header asks for."""
    path = (await page_of(request)).recording(request.query_params.get("track", ""))
    media_type = MEDIA_TYPES.get(path.suffix.lower()) if path is not None else None
    if path is None or media_type is None or not path.is_file():
        raise HTTPException(404, "there is no recording of this track to play")
    return FileResponse(path, media_type=media_type)


def shown_turn(turn: Turn, chunk_seconds: float) -> dict[str, Any]:
    """Return what a rater sees of a turn: neither names nor which candidate the list calls positive."""
    shown: dict[str, Any] = {"number": turn.number, "done": turn.done, "total": turn.total}
    if turn.question is None:
        return shown
    candidates = (turn.question.first, turn.question.second)[:: 1 if turn.first_is_left else -1]
    excerpts = zip(("reference", *SIDES), (turn.question.reference, *candidates), strict=True)
    chosen = side_of(turn.chosen, turn.first_is_left) if turn.chosen else None
    shown |= {role: {"track": track_id, "start": start} for role, (track_id, start) in excerpts}
    return {**shown, "asked": what_is_asked(turn.question.condition), "chunk_seconds": chunk_seconds, "chosen": chosen}


def side_of(chosen: str, first_left: bool) -> str:
    """Return the side on which a choice is shown, the inverse of ``choice_of``.

    >>> side_of("first", True), side_of("first", False), side_of("cannot tell", True)
    ('left', 'right', 'cannot tell')
    """
    return chosen if chosen == CANNOT_TELL else SIDES[(chosen == FIRST) != first_left]


def choice_of(side: Any, first_left: bool) -> str:
    """Return the choice of a side. Raises ValueError if it is none.

    >>> choice_of("left", True), choice_of("right", False), choice_of("right", True)
    ('first', 'first', 'second')
    """
    if side not in (*SIDES, CANNOT_TELL):
        raise ValueError(f"an answer is one of {', '.join((*SIDES, CANNOT_TELL))}")
    return side if side == CANNOT_TELL else (FIRST if (side == SIDES[0]) == first_left else SECOND)


async def turn(request: Request) -> Response:
    """Return the next question of a rater, or the one of a number."""
    page, listening, asked = await page_of(request), request.app.state.listening, request.query_params
    number = asked.get("number", "")

    def next_turn() -> dict[str, Any]:
        given = listening.turn(asked.get("rater"), int(number) if number else None)
        return shown_turn(given, page.chunk_seconds)

    return await answered(next_turn)


async def answer(request: Request) -> Response:
    """Save the answer of a rater; the browser is told so once it is on the disk."""
    content, listening = await json_object(request), request.app.state.listening

    def keep() -> dict[str, bool]:
        rater, number = check_rater(content.get("rater")), content.get("number")
        first_left = first_is_left(listening.question(number), rater)
        listening.answer(rater, number, choice_of(content.get("chosen"), first_left))
        return {"saved": True}

    try:
        return await answered(keep)
    except OSError as error:
        logger.error("an answer cannot be saved: %s", error)
        raise HTTPException(507, "your answer could not be saved: tell the organiser, and try again") from error


async def figures(request: Request) -> Response:
    return await answered(request.app.state.listening.figures)


async def judged_triplets(request: Request) -> Response:
    text = await run_in_threadpool(request.app.state.listening.judged)
    headers = {"content-disposition": 'attachment; filename="triplets.csv"'}
    return Response(text, media_type="text/csv", headers=headers)
