"""The door of the dashboard: every request passes it before anything is read, and every answer gets its headers here.

A page of another origin, another name for this machine (DNS rebinding), a page that another program serves on this machine and
another user of it all get the same 403 without data. Knows no page and no timeline; plain ASGI, because it must not buffer the
stream of events.
"""

import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monitor.dashboard.peers import is_own
from monitor.dashboard.sessions import Sessions

HOST = "127.0.0.1"
COOKIE = "emosllm"
SESSION = "emosllm.session"
"""Where a request's scope holds the secret of its session."""

HEADERS = {
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
_REFUSAL = "Not allowed. Open the link that `emosllm-monitor dashboard` shows in the terminal; each works once.\n"
_READING = ("GET", "HEAD")
_OWN_SITE = ("same-origin", "none")


class Door:
    """Lets requests of a session through to `app`, whose addresses begin with `place`.

    place: a path that nobody can guess. Browsers send a cookie to every port of a machine, but only below its path: so no other
    program here gets to see it, and a form that knows where to post to is one of ours.
    """

    def __init__(self, app: ASGIApp, port: int, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions
        self._hosts = (f"{HOST}:{port}", f"localhost:{port}")
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
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await answer(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> ASGIApp:
        if not (is_own(request.scope["client"], request.scope["server"]) and self._is_ours(request)):
            return _refused()
        path = request.scope["path"]
        if path == "/enter" and request.method == "GET":
            return self._enter(request.query_params.get("link", ""))
        session = request.cookies.get(COOKIE, "")
        used = request.method == "POST" or request.headers.get("sec-fetch-mode") == "navigate"
        if not path.startswith(f"{self.place}/") or not self._sessions.lasts(session, used):
            return _refused()
        request.scope["root_path"], request.scope[SESSION] = self.place, session
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
        answer.set_cookie(COOKIE, session, path=self.place, httponly=True, samesite="strict")
        return answer


def _refused() -> Response:
    return PlainTextResponse(_REFUSAL, status_code=403)
