"""Puts the dashboard together: routes, files, and what a person is told when something does not work. Serves nothing by itself."""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from model.errors import DayError, EditConflict, EmosllmError, TimelineError, UnknownSegment, WordError
from monitor.config import Config
from monitor.dashboard import changing, reading
from monitor.dashboard.live import Live
from monitor.dashboard.rendering import rendering_of
from monitor.dashboard.sessions import Sessions

_STATIC = Path(__file__).parent / "static"
_CHARTS = Path(__file__).parents[1] / "charts"
_STATUS = {DayError: 404, UnknownSegment: 404, EditConflict: 409, WordError: 422, TimelineError: 503}
_AS_THINGS_ARE = 409
_MISUNDERSTOOD = "Something in the form was missing or is not among the answers. Go back, and choose one of each."


def app_of(settings: Config, sessions: Sessions, live: Live) -> FastAPI:
    """All pages, for whoever the door lets in. Nothing describes the routes to machines, and no address is guessed at."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.rendering, app.state.sessions, app.state.live = rendering_of(settings), sessions, live
    app.include_router(reading.router)
    app.include_router(changing.router)
    for name, path in {"echarts.min.js": _CHARTS / "vendor" / "echarts.min.js", "stretch.js": _CHARTS / "stretch.js"}.items():
        app.add_api_route(f"/charts/{name}", lambda path=path: FileResponse(path), name=name)
    app.mount("/static", StaticFiles(directory=_STATIC))
    app.add_exception_handler(EmosllmError, _told)
    app.add_exception_handler(RequestValidationError, _misunderstood)
    app.add_exception_handler(HTTPException, _no_such_page)
    return app


def _told(request: Request, error: Exception) -> Response:
    """An error that a person can act on is a page with its message."""
    return _problem(
        request, f"{error}.".replace("..", "."), next((code for kind, code in _STATUS.items() if isinstance(error, kind)), _AS_THINGS_ARE)
    )


def _misunderstood(request: Request, _error: Exception) -> Response:
    return _problem(request, _MISUNDERSTOOD, 422)


def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(request, "There is no such page.", error.status_code)


def _problem(request: Request, problem: str, status: int) -> Response:
    page: Response = request.app.state.rendering.problem(request, problem[:1].upper() + problem[1:], status)
    return page
