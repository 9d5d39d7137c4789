"""Authentication: one-time links, sessions, and middleware that checks every request and sets every response's headers.

Pages of other origins, DNS rebinding, other programs' pages on this machine and other users of this machine all get the same 403
without data. A loopback port can be reached by every user of a machine, and all of them can see the link a browser was started with; so
the kernel is asked which user is at the other end. Only digests of secrets are kept, in memory. Plain ASGI, because the stream of
events must not be buffered.
"""

import hashlib
import os
import secrets
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINK_LIFETIME_S = 15 * 60.0
"""A link that nobody followed for so long has ended."""

SESSION_IDLE_S = 60 * 60.0
"""A session ends when the person has done nothing for so long, also while a page of it is open."""

_SECRET_BYTES = 32


class Sessions:
    """Links and sessions of one dashboard. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._links: dict[str, float] = {}
        self._used: dict[str, float] = {}

    def invite(self) -> str:
        """A new secret for a link; it lets one session in, within LINK_S."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        self._links[_digest(secret)] = self._clock()
        return secret

    def enter(self, secret: str) -> str | None:
        """A new session's secret for a link's, which is used up by that; None where there is no such link any more."""
        made_at = self._links.pop(_digest(secret), None)
        if made_at is None or self._clock() - made_at > LINK_LIFETIME_S:
            return None
        session = secrets.token_urlsafe(_SECRET_BYTES)
        self._used[_digest(session)] = self._clock()
        return session

    def lasts(self, session: str, used: bool = False) -> bool:
        """Whether there is such a session. used: the person does something now, so that it lasts longer."""
        name = _digest(session)
        if self._clock() - self._used.get(name, float("-inf")) > SESSION_IDLE_S:
            self._used.pop(name, None)
            return False
        if used:
            self._used[name] = self._clock()
        return True

    def leave(self, session: str) -> None:
        """End a session."""
        self._used.pop(_digest(session), None)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


_CONNECTIONS = Path("/proc/net/tcp")
_LOCAL, _STATE, _USER = 1, 3, 7
# Of a socket that was closed the kernel forgets whose it was, and says root's.
_ESTABLISHED = "01"
_ROOT = 0

SocketAddress = tuple[str, int]


def is_own_process(peer: SocketAddress, here: SocketAddress) -> bool:
    """Whether the connection from `peer` to `here`, both IPv4, comes from a program of this user, or of root, who may read all anyway.

    False where it cannot be found out.
    """
    wanted = [_as_listed(peer), _as_listed(here), _ESTABLISHED]
    with _CONNECTIONS.open(encoding="ascii") as listed:
        for line in listed:
            columns = line.split()
            if columns[_LOCAL : _STATE + 1] == wanted:
                return int(columns[_USER]) in (os.getuid(), _ROOT)
    return False


def _as_listed(address: SocketAddress) -> str:
    """The kernel writes an address as one number of the machine's byte order."""
    host, port = address
    return f"{int.from_bytes(IPv4Address(host).packed, sys.byteorder):08X}:{port:04X}"


LOOPBACK_HOST = "127.0.0.1"
SESSION_COOKIE = "emosllm"
SESSION_SCOPE_KEY = "emosllm.session"
"""Where a request's scope holds the secret of its session."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    # Not no-referrer: with that, browsers hide the origin of the page's own forms. Other origins are told nothing by this either.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_REFUSAL = "Access denied. Open the link that `emosllm-monitor dashboard` prints in the terminal; each link works once.\n"
_READING = ("GET", "HEAD")
_OWN_SITE = ("same-origin", "none")


class AuthMiddleware:
    """Lets requests of a session through to `app`, whose addresses begin with `place`.

    place: a path that nobody can guess. Browsers send a cookie to every port of a machine, but only below its path: so no other
    program here gets to see it, and a form that knows where to post to is one of ours.
    """

    def __init__(self, app: ASGIApp, port: int, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions
        self._hosts = (f"{LOOPBACK_HOST}:{port}", f"localhost:{port}")
        self.place = f"/{secrets.token_urlsafe(16)}"

    def link(self) -> str:
        """A new address that lets one browser in."""
        return f"http://{self._hosts[0]}/enter?link={self._sessions.invite()}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        answer = self._answer(Request(scope))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await answer(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> ASGIApp:
        if not (is_own_process(request.scope["client"], request.scope["server"]) and self._is_ours(request)):
            return _refused()
        path = request.scope["path"]
        if path == "/enter" and request.method == "GET":
            return self._enter(request.query_params.get("link", ""))
        session = request.cookies.get(SESSION_COOKIE, "")
        used = request.method == "POST" or request.headers.get("sec-fetch-mode") == "navigate"
        if not path.startswith(f"{self.place}/") or not self._sessions.lasts(session, used):
            return _refused()
        request.scope["root_path"], request.scope[SESSION_SCOPE_KEY] = self.place, session
        return self._app

    def _is_ours(self, request: Request) -> bool:
        """Whether it is for this address, and neither sent nor caused by a page of another; changes must say where they come from."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        return (
            host in self._hosts
            and request.headers.get("sec-fetch-site", "none") in _OWN_SITE
            and (origin == f"http://{host}" or (origin is None and request.method in _READING))
        )

    def _enter(self, secret: str) -> Response:
        session = self._sessions.enter(secret)
        if session is None:
            return _refused()
        answer = RedirectResponse(f"{self.place}/", status_code=303)
        answer.set_cookie(SESSION_COOKIE, session, path=self.place, httponly=True, samesite="strict")
        return answer


def _refused() -> Response:
    return PlainTextResponse(_REFUSAL, status_code=403)
