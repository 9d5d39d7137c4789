"""Daily use: start, status, pause, resume, stop, report and dashboard."""

import json
import os
import signal
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model.errors import EmosllmError, NotRunning
from monitor.cli.settings import settings_of
from monitor.paths import start_log
from monitor.reports.formats import ReportFormat


class Speed(StrEnum):
    """How fast a file is played."""

    REAL_TIME = "1"
    MAX = "max"


def start(
    context: typer.Context,
    source: Annotated[
        str, typer.Option(help="Microphone (mic), an audio file, or - for raw 16 kHz mono int16 audio on standard input.")
    ] = "mic",
    speed: Annotated[Speed, typer.Option(help="Playback speed of a file; 1 is real time.")] = Speed.REAL_TIME,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Start time of the recording: HH:MM today, or YYYY-MM-DDTHH:MM.")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run in the background; control it with status, pause, resume and stop.")
    ] = False,
    unattended: Annotated[
        bool, typer.Option("--unattended", help="For services: print no emotions, and wait for a missing microphone.")
    ] = False,
) -> None:
    """Start monitoring; runs until the source ends or Ctrl-C is pressed."""
    if detach:
        _detach(context)
        return
    # Until the daemon takes the signals over, there is nothing to finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    from monitor.daemon.app import run_daemon as run

    run(settings_of(context), source, None if speed is Speed.MAX else 1.0, at, unattended)


def _detach(context: typer.Context) -> None:
    from monitor.daemon.client import start_in_background

    config = settings_of(context)
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    status = start_in_background(config.timeline.database_path(), [*arguments, "--unattended"], start_log())
    print(f"running in the background, {status['state']}: {status['source']} (process {status['pid']})")
    for problem in status["problems"]:
        print(problem, file=sys.stderr)
    print("control it with `emosllm-monitor status`, `pause`, `resume` and `stop`")


def status(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what the running monitor is doing. Exits with 3 if none is running."""
    from monitor.control import send_command

    settings = settings_of(context).timeline
    try:
        answer = send_command(settings.database_path(), "status")
    except NotRunning as error:
        print(json.dumps({"state": "not running"}) if as_json else error)
        raise typer.Exit(3) from None
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        from monitor.daemon.client import format_status

        print(format_status(answer, settings.zone_info()))


def pause(
    context: typer.Context,
    span: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Duration, such as 90s, 30m, 2h or 1d (default: until `resume`).")
    ] = None,
) -> None:
    """Close the microphone. It stays closed across restarts until the pause ends."""
    from monitor.control import send_command
    from monitor.daemon.pause import parse_duration

    if span is not None:
        parse_duration(span)
    settings = settings_of(context).timeline
    until = send_command(settings.database_path(), "pause", **({"for": span} if span else {}))["until"]
    ends = f"until {datetime.fromisoformat(until).astimezone(settings.zone_info()):%Y-%m-%d %H:%M}" if until else "until `resume`"
    print(f"paused {ends}; the microphone is closed")


def resume(context: typer.Context) -> None:
    """End a pause and open the microphone."""
    from monitor.control import send_command

    send_command(settings_of(context).timeline.database_path(), "resume")
    print("resumed; the microphone is open")


def stop(context: typer.Context) -> None:
    """Stop the running monitor."""
    from monitor.daemon.client import stop_daemon as end

    config = settings_of(context)
    patience_s = config.engine.stop_timeout_s + 30.0
    if end(config.timeline.database_path(), patience_s):
        print("stopped")
    else:
        raise EmosllmError(f"the monitor did not stop within {patience_s:.0f} s; check `emosllm-monitor status`")


def report(
    context: typer.Context,
    day: Annotated[str | None, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD (default: today).")] = None,
    week: Annotated[bool, typer.Option("--week", help="The seven days ending with DAY.")] = False,
    month: Annotated[bool, typer.Option("--month", help="The thirty days ending with DAY.")] = False,
    first: Annotated[str | None, typer.Option("--from", metavar="DAY", help="First day of a period.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day of the period (default: today).")] = None,
    form: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format",
            help="text; html or pdf (a page with charts); json; csv (one row per day; column names include units, unknown is empty);"
            " fhir (an R4 bundle of observations). Default: from the suffix of FILE, otherwise text.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to a file that only you can read.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Plain sentences, for screen readers.")] = False,
    sheet: Annotated[bool, typer.Option("--sheet", help="One page for a clinician (default: the 28 days ending with DAY).")] = False,
    subject: Annotated[
        str | None, typer.Option(metavar="NAME", help="For clinicians: report on a subject who shares with the clinic.")
    ] = None,
) -> None:
    """Show a report of a day or a period: recorded time, speech and estimated emotions."""
    from monitor.bundles.registry import BundleRegistry
    from monitor.reports.data import SHEET_DAYS, PeriodOptions, RenderOptions
    from monitor.reports.formats import (
        check_output_path,
        choose_format,
        collect_report,
        collect_shared_report,
        render_report,
        write_private,
    )

    chosen = choose_format(form, out, plain, sheet)
    if out is not None:
        check_output_path(out, force)
    settings = settings_of(context)
    asked, now, usual = PeriodOptions(day, week, month, first, last), datetime.now(UTC), SHEET_DAYS if sheet else 1
    material = collect_shared_report(settings, subject, asked, now, usual) if subject else collect_report(settings, asked, now, usual)
    options = RenderOptions(BundleRegistry.of(settings).active(), plain, sheet)
    if out is not None:
        write_private(out, render_report(material, chosen, options))
        print(f"wrote {out} (readable only by you)", file=sys.stderr)
    elif chosen is ReportFormat.TEXT and not plain:
        from monitor.reports.text_report import TextReport

        Console(soft_wrap=False).print(TextReport(material), end="")
    else:
        sys.stdout.write(render_report(material, chosen, options).decode())


def dashboard(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine (0: any free port).")] = 0,
    open_browser: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open the page in a browser (default: if there is a display).")
    ] = None,
) -> None:
    """Open the dashboard in a browser: see your days, check in and correct estimates.

    Runs until Ctrl-C. Only you on this machine can reach it, with a link that works once; it loads nothing from the network.
    """
    from monitor.dashboard.app import run_dashboard

    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    run_dashboard(settings_of(context), port, has_screen if open_browser is None else open_browser)
