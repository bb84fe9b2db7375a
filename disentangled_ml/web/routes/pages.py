"""The files of the pages, and the recordings."""

from collections.abc import Callable
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from disentangled_ml.web.routes.answers import result_of, view_of

STATIC = files("disentangled_ml.web").joinpath("static")
STATIC_TYPES = {".css": "text/css", ".js": "text/javascript"}
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


def served(content: bytes, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})


def page(name: str) -> Callable:
    content = STATIC.joinpath(name).read_bytes()

    async def answer_page(request: Request) -> Response:
        return served(content, "text/html")

    return answer_page


def static_files() -> dict[str, tuple[bytes, str]]:
    """Return the content and the type of each file that the pages load."""
    found = [(file, STATIC_TYPES.get(f".{file.name.rpartition('.')[2]}")) for file in STATIC.iterdir()]
    return {file.name: (file.read_bytes(), media_type) for file, media_type in found if media_type is not None}


FILES = static_files()


async def static_file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404, "there is no such file")
    return served(*FILES[name])


async def audio(request: Request) -> Response:
    """Return the recording of a track, or the part of it that a Range header asks for."""
    view = await view_of(request)
    path = await result_of(view.recording, request.query_params.get("track", ""))
    media_type = MEDIA_TYPES.get(path.suffix.lower()) if path is not None else None
    if path is None or media_type is None or not path.is_file():
        raise HTTPException(404, "there is no recording of this track to play")
    return FileResponse(path, media_type=media_type)


ROUTES = [Route("/", page("search.html")), Route("/static/{name}", static_file), Route("/audio", audio)]
LISTEN = Route("/listen", page("listen.html"))
