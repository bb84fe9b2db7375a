"""The checks that every request passes before the page answers it, as plain ASGI.

Every program of the machine reaches a server on loopback, and so does, through the browser, every page that its user visits. Therefore

* a request must name this machine as its host (a page elsewhere whose name was made to point to 127.0.0.1 names its own),
* a request that changes something must come from this page itself,
* where there is a token, what is asked of the API and every recording must come with it,
* headers forbid browsers to load anything from elsewhere, and to show the page within another.
"""

import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from disentangled_ml.web.token import Token

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
SAFE_METHODS = ("GET", "HEAD")


def is_loopback(host: str) -> bool:
    """Return whether a host name is that of this machine only.

    >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.0.1", "0.0.0.0", "example.org", "")]
    [True, True, True, True, False, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str | None:
    """Return the host that a Host header names, without its port; None if it is malformed.

    >>> host_name("127.0.0.1:8000"), host_name("[::1]:8000"), host_name("LOCALHOST"), host_name("a@b"), host_name("a:b")
    ('127.0.0.1', '::1', 'localhost', None, None)
    """
    try:
        parts = urlsplit(f"//{header}")
        is_whole = parts.netloc == header and "@" not in header and parts.port != 0
    except ValueError:  # of a port that is none
        return None
    return parts.hostname if is_whole else None


def refusal(method: str, headers: Mapping[str, str], loopback_only: bool) -> tuple[int, str] | None:
    """Return the status and the reason with which a request is refused; None if it is not.

    Args:
        method: Of the request.
        headers: Of the request, names in lower case.
        loopback_only: Whether the server listens on loopback.

    >>> refusal("GET", {"host": "127.0.0.1:8000"}, True) is None
    True
    >>> refusal("GET", {"host": "evil.example"}, True)
    (421, 'this server answers as 127.0.0.1 or localhost only')
    >>> refusal("POST", {"host": "localhost", "origin": "http://evil.example"}, True)
    (403, 'this request comes from another page')
    """
    host = host_name(headers.get("host", ""))
    if not host:
        return 400, "the Host header is missing or malformed"
    if loopback_only and not is_loopback(host):
        return 421, "this server answers as 127.0.0.1 or localhost only"
    if method not in SAFE_METHODS:
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != headers["host"].lower()
        if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "this request comes from another page"
    return None


def is_known(token: Token, path: str, query: str, headers: Mapping[str, str]) -> bool:
    """Return whether a request may have what it asks for: the files of the page are for everybody.

    >>> token = Token("correct-horse-battery")
    >>> is_known(token, "/", "", {}), is_known(token, "/api/v1/health", "", {}), is_known(token, "/audio", "track=a", {})
    (True, False, False)
    >>> is_known(token, "/audio", f"track=a&key={token.audio_key}", {})
    True
    """
    if not path.startswith(("/api", "/audio")) or token.is_in(headers.get("authorization", "")):
        return True
    return path == "/audio" and token.opens_audio(parse_qs(query).get("key", [""])[0])


class Guard:
    """Middleware that refuses requests which are not for this server, and adds headers to every answer.

    Args:
        app: That answers the others.
        loopback_only: Whether the server listens on loopback.
        token: That requests must hold; None: none.
    """

    def __init__(self, app: App, loopback_only: bool, token: Token | None = None):
        self.app, self.loopback_only, self.token = app, loopback_only, token

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused, own = refusal(scope["method"], headers, self.loopback_only), []
        if refused is None and self.token is not None:
            query = scope["query_string"].decode("latin-1")
            if not is_known(self.token, scope["path"], query, headers):
                refused, own = (401, "this server wants its token"), [(b"www-authenticate", b"Bearer")]
        if refused is None:
            return await self.app(scope, receive, send_guarded)
        body = json.dumps({"error": refused[1]}).encode()
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *own]
        await send_guarded({"type": "http.response.start", "status": refused[0], "headers": fields})
        return await send_guarded({"type": "http.response.body", "body": body})
