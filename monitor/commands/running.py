"""Commands that start a monitor and reach a running one."""

import json
import signal
import sys
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from model.errors import EmosllmError, NotRunning
from monitor.commands.settings import settings_of
from monitor.config import state_dir


class Speed(StrEnum):
    """How fast a file is played."""

    REAL_TIME = "1"
    MAX = "max"


def start(
    context: typer.Context,
    source: Annotated[str, typer.Option(help="mic, an audio file, or - for raw 16 kHz mono int16 on standard input.")] = "mic",
    speed: Annotated[Speed, typer.Option(help="How fast a file is played: 1 is real time.")] = Speed.REAL_TIME,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When the recording began: HH:MM today, or YYYY-MM-DDTHH:MM.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Listen in the background; see status, pause, resume and stop.")] = False,
    unattended: Annotated[
        bool, typer.Option("--unattended", help="For services: print no emotions, and wait for a microphone that is missing.")
    ] = False,
) -> None:
    """Listen, judge and store until the sound ends or Ctrl-C is pressed."""
    if detach:
        _detach(context)
        return
    # Until the daemon takes the signals over, there is nothing to finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    from monitor.start import start as run

    run(settings_of(context), source, None if speed is Speed.MAX else 1.0, at, unattended)


def _detach(context: typer.Context) -> None:
    from monitor.background import start_detached

    config = settings_of(context)
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    status = start_detached(config.timeline.database_path(), [*arguments, "--unattended"], state_dir() / "start.log")
    print(f"running in the background, {status['state']}: {status['source']} (process {status['pid']})")
    for problem in status["problems"]:
        print(problem, file=sys.stderr)
    print("see `emosllm-monitor status`; `pause`, `resume` and `stop` reach it")


def status(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """What the running monitor is doing. Exit status 3 when there is none."""
    from monitor.control import ask

    settings = settings_of(context).timeline
    try:
        answer = ask(settings.database_path(), "status")
    except NotRunning as error:
        print(json.dumps({"state": "not running"}) if as_json else error)
        raise typer.Exit(3) from None
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        from monitor.status_text import status_text

        print(status_text(answer, settings.zone_info()))


def pause(
    context: typer.Context,
    span: Annotated[str | None, typer.Option("--for", metavar="TIME", help="90s, 30m, 2h or 1d; without it, until `resume`.")] = None,
) -> None:
    """Close the microphone of the running monitor. It stays closed across restarts."""
    from monitor.control import ask
    from monitor.pausing import parse_span

    if span is not None:
        parse_span(span)
    settings = settings_of(context).timeline
    until = ask(settings.database_path(), "pause", **({"for": span} if span else {}))["until"]
    ends = f"until {datetime.fromisoformat(until).astimezone(settings.zone_info()):%Y-%m-%d %H:%M}" if until else "until `resume`"
    print(f"paused {ends}; the microphone is closed")


def resume(context: typer.Context) -> None:
    """End a pause."""
    from monitor.control import ask

    ask(settings_of(context).timeline.database_path(), "resume")
    print("listening again")


def stop(context: typer.Context) -> None:
    """End the running monitor in good order."""
    from monitor.background import stop as end

    config = settings_of(context)
    patience_s = config.engine.stop_timeout_s + 30.0
    if end(config.timeline.database_path(), patience_s):
        print("stopped")
    else:
        raise EmosllmError(f"the monitor has not ended after {patience_s:.0f} s; look at it with `emosllm-monitor status`")
