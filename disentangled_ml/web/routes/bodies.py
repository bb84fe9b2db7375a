"""The bodies of requests, read within limits of size and time."""

import asyncio
import json
import tempfile
from contextlib import suppress
from typing import IO, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_JSON = 65_536  # bytes of a question in JSON
# How long the rest of a body that is too large is still read and discarded.
LINGER_SECONDS = 3.0


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_object(request: Request) -> dict[str, Any]:
    """Read the JSON object that is the body of a request."""
    if media_type(request) != "application/json":
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
