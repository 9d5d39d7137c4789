"""The command that opens the dashboard."""

import os
from typing import Annotated

import typer

from monitor.commands.settings import settings_of


def dashboard(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on this machine; by default a free one.")] = 0,
    open_browser: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open the page in a browser; by default where there is a screen.")
    ] = None,
) -> None:
    """Look at your days in a browser on this machine, say how you feel, and correct estimates.

    Until Ctrl-C. Only you on this machine can reach it, with a link that works once; nothing is asked from outside.
    """
    from monitor.dashboard.server import run

    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    run(settings_of(context), port, has_screen if open_browser is None else open_browser)
