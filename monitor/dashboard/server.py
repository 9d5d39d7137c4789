"""Runs the dashboard until Ctrl-C: a socket that only this machine reaches, uvicorn on it, and no line about who looked at what."""

import contextlib
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from errno import EADDRINUSE

import uvicorn

from model.errors import EmosllmError
from monitor.config import Config
from monitor.dashboard.app import app_of
from monitor.dashboard.door import HOST, Door
from monitor.dashboard.live import Live
from monitor.dashboard.sessions import LINK_S, Sessions

# Answers that are under way when the dashboard ends are waited for so long.
_PATIENCE_S = 2


def run(settings: Config, port: int, open_browser: bool) -> None:
    """Serve the dashboard; says on standard output where it is. port: 0 takes a free one. Raises EmosllmError when there is none."""
    sessions, live = Sessions(), Live(settings.timeline.database_path(), settings.timeline.zone_info())
    with _bound(port) as listening:
        door = Door(app_of(settings, sessions, live), listening.getsockname()[1], sessions)
        print("The dashboard is open, on this machine and for you alone, until you press Ctrl-C here.")
        _invite(door)
        if open_browser:
            webbrowser.open(door.link())
        if sys.stdin is not None and sys.stdin.isatty():
            threading.Thread(target=_invite_again, args=(door,), name="links", daemon=True).start()
        # uvicorn ends in good order, and then raises the signal again.
        with contextlib.suppress(KeyboardInterrupt):
            _Server(door, live.end).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Logs no access, as addresses hold secrets and days, and lets go of open pages at its end."""

    def __init__(self, door: Door, at_end: Callable[[], None]) -> None:
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
                timeout_graceful_shutdown=_PATIENCE_S,
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
            listening.bind((HOST, port))
        except OSError as error:
            advice = "another program uses it; leave --port out for a free one" if error.errno == EADDRINUSE else error.strerror
            raise EmosllmError(f"cannot listen on port {port} of {HOST}: {advice}") from error
        # A browser that follows the link before uvicorn is there waits instead of failing.
        listening.listen()
        yield listening


def _invite(door: Door) -> None:
    print(f"\n  {door.link()}\n\nThe link works once, within {LINK_S / 60:.0f} minutes; press Enter for another.", flush=True)


def _invite_again(door: Door) -> None:
    for _ in sys.stdin:
        _invite(door)
