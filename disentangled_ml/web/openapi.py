"""The description of the API by OpenAPI 3.1. What the objects in it look like is in schemas.py."""

from typing import Any

from disentangled_ml.web.asking import MAX_RESULTS
from disentangled_ml.web.schemas import EXAMPLES, SCHEMAS, reference

PREFIX = "/api/v1"
MAX_PAGE = 100  # tracks of a listing
REASONS = {
    400: "The question is not legal, or has a parameter that is not known; the error says what is.",
    401: "The server has a token, and the request has not.",
    404: "A track or an upload that is asked about is not there.",
    408: "The body was not sent in time.",
    413: "The body is too large.",
    415: "The body is of another type.",
    422: "The recording cannot be used; the error says why.",
    503: "The catalogue is damaged, or, with Retry-After, the server is busy with other uploads.",
}
IN_JSON = (404, 408, 413, 415)  # how a question in JSON may fail


def json_of(name: str) -> dict[str, Any]:
    """Return the media type of an object, with its example if there is one."""
    example = {"example": EXAMPLES[name]} if name in EXAMPLES else {}
    return {"application/json": {"schema": reference(name), **example}}


def operation(summary: str, content: dict[str, Any], *errors: int, **more: Any) -> dict[str, Any]:
    """Return the description of one operation: what it answers, and how it may fail."""
    failures = {
        str(code): {"description": REASONS[code], "content": json_of("Error")} for code in (*errors, 400, 401, 503)
    }
    return {
        "summary": summary,
        "operationId": more.pop("id"),
        "responses": {"200": {"description": "The answer.", "content": content}, **dict(sorted(failures.items()))},
        **more,
    }


def parameter(name: str, description: str, schema: dict[str, Any], place: str = "query") -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "description": description, "schema": schema}


def body(name: str) -> dict[str, Any]:
    return {"required": True, "content": json_of(name)}


def number(least: int, most: int | None, default: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, **({} if most is None else {"maximum": most}), "default": default}


TEXT = {"type": "string"}
BYTES = {"schema": {}}
SEARCHED = parameter(
    "q", "Words of title, name of the file, id, artist, album or labels; without it, all tracks are listed.", TEXT
)
PAGES = [
    parameter("limit", "Tracks of a page.", number(1, MAX_PAGE, 20)),
    parameter("offset", "Tracks before the page.", number(0, None, 0)),
]
LISTED = {"audio/mpegurl": {"schema": TEXT}, "text/csv": {"schema": TEXT}, **json_of("SavedResults")}
PATHS: dict[str, dict[str, Any]] = {
    "/openapi.json": {"get": operation("This description.", json_of("Description"), id="openapi")},
    "/health": {"get": operation("Whether the server answers, and from what.", json_of("Health"), id="health")},
    "/catalogue": {"get": operation("What the catalogue has.", json_of("Catalogue"), id="catalogue")},
    "/labels": {
        "get": operation("The labels of each condition, the most frequent first.", json_of("Labels"), id="labels")
    },
    "/tracks": {
        "get": operation(
            "Find tracks by text, or list them.", json_of("Tracks"), id="tracks", parameters=[SEARCHED, *PAGES]
        )
    },
    "/tracks/{track_id}": {
        "get": operation(
            "What is known about a track.",
            json_of("Track"),
            404,
            id="track",
            parameters=[parameter("track_id", "Id of the track, percent-encoded.", TEXT, "path")],
        )
    },
    "/map": {
        "get": operation(
            "The tracks in two dimensions, by which near ones are similar.",
            json_of("Map"),
            id="map",
            parameters=[parameter("space", "A condition; without it, all together.", TEXT)],
        )
    },
    "/places": {
        "post": operation(
            "Where tracks or uploads lie on the map, each at the nearest track that is drawn.",
            json_of("Places"),
            *IN_JSON,
            id="places",
            requestBody=body("MapQuestion"),
        )
    },
    "/similar": {
        "post": operation(
            "The tracks similar to a track or an upload.",
            json_of("Answer"),
            *IN_JSON,
            id="similar",
            requestBody=body("PlainQuestion"),
        )
    },
    "/compose": {
        "post": operation(
            "The tracks that a question of several seeds and labels asks for.",
            json_of("Answer"),
            *IN_JSON,
            id="compose",
            requestBody=body("Question"),
        )
    },
    "/path": {
        "post": operation(
            "A path between two tracks, or uploads, in small steps.",
            json_of("PathAnswer"),
            *IN_JSON,
            id="path",
            requestBody=body("Path"),
        )
    },
    "/playlist": {
        "post": operation(
            "Tracks as a file: a playlist, a table, or JSON.",
            LISTED,
            *IN_JSON,
            id="playlist",
            requestBody=body("Playlist"),
        )
    },
    "/upload": {
        "post": operation(
            "Embed a recording, to search with it; it is not kept.",
            json_of("Upload"),
            408,
            413,
            415,
            422,
            id="upload",
            requestBody={"required": True, "content": {"application/octet-stream": BYTES, "audio/*": BYTES}},
        )
    },
}


def header(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": TEXT, "example": example}


SOUND = {"audio/*": BYTES}
SPAN = header("Which bytes these are, and of how many.", "bytes 0-1023/4096")
LENGTH = header("Of how many bytes.", "bytes */4096")
RANGES = {"Accept-Ranges": header("The unit of ranges.", "bytes")}
IN_WORDS = {"text/plain": {"schema": TEXT}}
# Players know only an address, so the key may be in it, and they ask for the part that is played.
RECORDING = operation(
    "The recording of a track, or the part of it that a Range header asks for.",
    SOUND,
    404,
    id="audio",
    parameters=[
        {**parameter("track", "Id of the track.", TEXT), "required": True},
        parameter("range", "Which bytes, as bytes=0-1023; without it, all.", TEXT, "header"),
    ],
    security=[{}, {"audioKey": []}, {"token": []}],
)
RECORDING["responses"]["200"]["headers"] = RANGES
RECORDING["responses"] |= {
    "206": {
        "description": "The part; of several ranges, each with its own Content-Range.",
        "headers": {**RANGES, "Content-Range": SPAN},
        "content": {**SOUND, "multipart/byteranges": BYTES},
    },
    "400": {"description": "The Range header is none.", "content": IN_WORDS},
    "416": {"description": "The recording ends before the range begins.", "headers": {"Content-Range": LENGTH}},
}


def document(version: str) -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Music by similarity",
            "version": version,
            "summary": "Search a catalogue of music by what it sounds like, condition by condition.",
            "description": "Conditions are notions of similarity such as genre, mood and tempo; `catalogue` names those there are. "
            f"A question has at most {MAX_RESULTS} results. Every error is one sentence in `error`.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": {**{PREFIX + path: operations for path, operations in PATHS.items()}, "/audio": {"get": RECORDING}},
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where the server was started with `token=`.",
                },
                "audioKey": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "key",
                    "description": "`audio_key` of `catalogue`, which opens recordings alone.",
                },
            },
        },
    }
