"""The dashboard's web application, and the loopback server that runs it until Ctrl-C.

Logs no requests: addresses hold secrets and dates.
"""

import contextlib
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from errno import EADDRINUSE
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from model.errors import DayError, EditConflict, EmosllmError, TimelineError, UnknownSegment, WordError
from monitor.config import Config
from monitor.dashboard import actions, pages
from monitor.dashboard.auth import LINK_LIFETIME_S, LOOPBACK_HOST, AuthMiddleware, Sessions
from monitor.dashboard.live import LiveUpdates
from monitor.dashboard.pages import create_renderer

_STATIC = Path(__file__).parent / "static"
_CHARTS = Path(__file__).parents[1] / "reports" / "charts"
_STATUS = {DayError: 404, UnknownSegment: 404, EditConflict: 409, WordError: 422, TimelineError: 503}
_AS_THINGS_ARE = 409
_MISUNDERSTOOD = "The form is incomplete or has an invalid answer. Go back and choose one answer per question."


def create_app(settings: Config, sessions: Sessions, live: LiveUpdates) -> FastAPI:
    """All pages, for whoever the door lets in. Nothing describes the routes to machines, and no address is guessed at."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.rendering, app.state.sessions, app.state.live = create_renderer(settings), sessions, live
    app.include_router(pages.router)
    app.include_router(actions.router)
    for name, path in {
        "echarts.min.js": _CHARTS / "vendor" / "echarts.min.js",
        "time_range_series.js": _CHARTS / "time_range_series.js",
    }.items():
        app.add_api_route(f"/charts/{name}", lambda path=path: FileResponse(path), name=name)
    app.mount("/static", StaticFiles(directory=_STATIC))
    app.add_exception_handler(EmosllmError, _error_page)
    app.add_exception_handler(RequestValidationError, _invalid_form)
    app.add_exception_handler(HTTPException, _no_such_page)
    return app


def _error_page(request: Request, error: Exception) -> Response:
    """An error that a person can act on is a page with its message."""
    return _problem(
        request, f"{error}.".replace("..", "."), next((code for kind, code in _STATUS.items() if isinstance(error, kind)), _AS_THINGS_ARE)
    )


def _invalid_form(request: Request, _error: Exception) -> Response:
    return _problem(request, _MISUNDERSTOOD, 422)


def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(request, "Page not found.", error.status_code)


def _problem(request: Request, problem: str, status: int) -> Response:
    page: Response = request.app.state.rendering.problem(request, problem[:1].upper() + problem[1:], status)
    return page


# Answers that are under way when the dashboard ends are waited for so long.
_SHUTDOWN_TIMEOUT_S = 2


def run_dashboard(settings: Config, port: int, open_browser: bool) -> None:
    """Serve the dashboard; says on standard output where it is. port: 0 takes a free one. Raises EmosllmError when there is none."""
    sessions, live = Sessions(), LiveUpdates(settings.timeline.database_path(), settings.timeline.zone_info())
    with _bound(port) as listening:
        door = AuthMiddleware(create_app(settings, sessions, live), listening.getsockname()[1], sessions)
        print("The dashboard is running, for you only and on this machine only. Press Ctrl-C here to stop it.")
        _print_link(door)
        if open_browser:
            webbrowser.open(door.link())
        if sys.stdin is not None and sys.stdin.isatty():
            threading.Thread(target=_print_links_on_enter, args=(door,), name="links", daemon=True).start()
        # uvicorn ends in good order, and then raises the signal again.
        with contextlib.suppress(KeyboardInterrupt):
            _Server(door, live.end).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Logs no access, as addresses hold secrets and days, and lets go of open pages at its end."""

    def __init__(self, door: AuthMiddleware, at_end: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                door,
                access_log=False,
                log_config=None,
                log_level="error",
                lifespan="off",
                ws="none",
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
            )
        )
        self._at_end = at_end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._at_end()
        await super().shutdown(sockets)


@contextlib.contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK_HOST, port))
        except OSError as error:
            advice = "it is in use; omit --port to use a free one" if error.errno == EADDRINUSE else error.strerror
            raise EmosllmError(f"cannot listen on port {port} of {LOOPBACK_HOST}: {advice}") from error
        # A browser that follows the link before uvicorn is there waits instead of failing.
        listening.listen()
        yield listening


def _print_link(door: AuthMiddleware) -> None:
    print(f"\n  {door.link()}\n\nThe link works once, within {LINK_LIFETIME_S / 60:.0f} minutes. Press Enter for another.", flush=True)


def _print_links_on_enter(door: AuthMiddleware) -> None:
    for _ in sys.stdin:
        _print_link(door)
