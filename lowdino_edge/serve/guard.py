"""The gate before the app: who may ask, for what, and the headers of every answer.

Another web page open in the same browser is the adversary on loopback (by its own origin, or by a name of its own that
points here), everybody on the network with --lan.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lowdino_edge.serve.wire import Refused

COOKIE = "__Host-lowdino"  # this prefix: browsers take it over https alone, and for this host alone
# Nothing escaped, no `..`, no `//`, no dotfile. Each part begins with its slash, so there is only one way to match:
# with several, a long path that does not match would take for ever.
_PATH = re.compile(rb"/|(?:/[A-Za-z0-9_@+-][A-Za-z0-9_@+.-]*)+/?")
_METHODS = ("GET", "HEAD", "POST")

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; worker-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
_RAW = [(k.encode(), v.encode()) for k, v in HEADERS.items()]


class Door:
    """Who may come in on a network: a token opens it once and is swapped for a cookie.

    Args:
        on_paired: told after a device came in, when another token is ready.
    """

    def __init__(self, on_paired: Callable[[], None] = lambda: None) -> None:
        self.token = secrets.token_urlsafe(32)
        self.on_paired = on_paired
        self._sessions: list[bytes] = []

    def knows(self, request: Request) -> bool:
        given = request.cookies.get(COOKIE, "").encode()
        return any(hmac.compare_digest(given, s) for s in self._sessions)

    def swap(self, token: str) -> str | None:
        """A session for the token, which is dead from here on; None for a wrong one."""
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        session = secrets.token_urlsafe(32)
        self._sessions.append(session.encode())
        self.token = secrets.token_urlsafe(32)
        self.on_paired()
        return session


class Guard:
    """ASGI middleware.

    Args:
        hosts: what the Host header may be, with the port.
        door: None where whoever reaches the socket may come in.
        landing: where a paired device is sent.
    """

    def __init__(
        self, app: ASGIApp, scheme: str, hosts: Sequence[str], door: Door | None = None, landing: str = "/"
    ) -> None:
        self.app, self.scheme, self.hosts, self.door, self.landing = app, scheme, frozenset(hosts), door, landing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_RAW]
            await send(message)

        try:
            answer = self._answer(Request(scope))
        except Refused as e:
            answer = refusal(e)
        await (answer or self.app)(scope, receive, with_headers)

    def _answer(self, request: Request) -> Response | None:
        """None lets the request through."""
        host = request.headers.get("host", "")
        if host not in self.hosts:
            raise Refused(403, f"'{host[:100]}' is not the name of this server", "open the address that serve printed")
        if request.method not in _METHODS:
            raise Refused(405, f"{request.method[:20]} is not answered here", f"use {', '.join(_METHODS)}")
        if not _PATH.fullmatch(request.scope["raw_path"]):
            raise Refused(404, "no such file", "open / instead")
        self._same_origin(request, f"{self.scheme}://{host}")
        return None if self.door is None else self._through(self.door, request)

    def _same_origin(self, request: Request, own: str) -> None:
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        posted = request.method == "POST" and origin is None and site != "same-origin"
        loaded = site in ("cross-site", "same-site") and request.headers.get("sec-fetch-mode") != "navigate"
        if posted or loaded or (origin is not None and origin != own):
            raise Refused(403, "another site may not ask this server", "open the address that serve printed")

    def _through(self, door: Door, request: Request) -> Response | None:
        token = request.query_params.get("token") if request.scope["path"] == "/" and request.method == "GET" else None
        known = door.knows(request)
        if known and token is None:
            return None
        session = None if known or token is None else door.swap(token)
        if not known and session is None:
            what = "this device has not been let in" if token is None else "this token is used up or wrong"
            raise Refused(403, what, "scan the newest QR code that serve printed, or start serve again")
        answer = RedirectResponse(self.landing, 303, {"cache-control": "no-store"})
        if session is not None:
            answer.set_cookie(COOKIE, session, path="/", secure=True, httponly=True, samesite="strict")
        return answer


def refusal(e: Refused) -> Response:
    """{error, hint}; the connection ends, for a body may still be on its way."""
    headers = {"cache-control": "no-store", "connection": "close"}
    if e.status == 405:
        headers["allow"] = ", ".join(_METHODS)
    return JSONResponse({"error": e.error, "hint": e.hint}, e.status, headers)
