"""The command line: declares options, calls one function each, prints what it returns. This file owns typer.

Nothing heavy is imported until a command needs it, so that --help and report answer at once.
"""

import json
import signal
import sys
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model.errors import EmosllmError, NotRunning
from monitor.config import Config, load_config, state_dir

_WIDEST = 110

app = typer.Typer(
    name="emosllm-monitor",
    help="Listens to one person's microphone, estimates the emotion of each stretch of speech, and keeps a private timeline with a"
    " report of each day. Estimates by a machine, not a diagnosis; nobody is watching.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


key_app = typer.Typer(help="The key that opens the timeline.", no_args_is_help=True)
app.add_typer(key_app, name="key")


class Speed(StrEnum):
    """How fast a file is played."""

    REAL_TIME = "1"
    MAX = "max"


class Format(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"


def main() -> None:
    """Run the command line; an error a person can act on is one message on stderr and exit status 1."""
    try:
        app()
    except EmosllmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"emosllm-monitor {version('emosllm-monitor')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings file instead of ~/.config/emosllm-monitor/config.toml.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    context.obj = config


def _config(context: typer.Context) -> Config:
    return load_config(context.obj)


@app.command()
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

    run(_config(context), source, None if speed is Speed.MAX else 1.0, at, unattended)


def _detach(context: typer.Context) -> None:
    from monitor.background import start_detached

    config = _config(context)
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    status = start_detached(config.timeline.database_path(), [*arguments, "--unattended"], state_dir() / "start.log")
    print(f"{status['state']} in the background: {status['source']} (process {status['pid']})")
    print("see `emosllm-monitor status`; `pause`, `resume` and `stop` reach it")


@app.command()
def status(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """What the running monitor is doing. Exit status 3 when there is none."""
    from monitor.control import ask

    settings = _config(context).timeline
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


@app.command()
def pause(
    context: typer.Context,
    span: Annotated[str | None, typer.Option("--for", metavar="TIME", help="90s, 30m, 2h or 1d; without it, until `resume`.")] = None,
) -> None:
    """Close the microphone of the running monitor. It stays closed across restarts."""
    from monitor.control import ask
    from monitor.pausing import parse_span

    if span is not None:
        parse_span(span)
    settings = _config(context).timeline
    until = ask(settings.database_path(), "pause", **({"for": span} if span else {}))["until"]
    ends = f"until {datetime.fromisoformat(until).astimezone(settings.zone_info()):%Y-%m-%d %H:%M}" if until else "until `resume`"
    print(f"paused {ends}; the microphone is closed")


@app.command()
def resume(context: typer.Context) -> None:
    """End a pause."""
    from monitor.control import ask

    ask(_config(context).timeline.database_path(), "resume")
    print("listening again")


@app.command()
def stop(context: typer.Context) -> None:
    """End the running monitor in good order."""
    from monitor.background import stop as end

    config = _config(context)
    patience_s = config.engine.stop_timeout_s + 30.0
    if end(config.timeline.database_path(), patience_s):
        print("stopped")
    else:
        raise EmosllmError(f"the monitor has not ended after {patience_s:.0f} s; look at it with `emosllm-monitor status`")


@app.command()
def report(
    context: typer.Context,
    day: Annotated[str, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD.")] = "today",
    form: Annotated[Format, typer.Option("--format", help="text to read, or json.")] = Format.TEXT,
) -> None:
    """Show one day: what was heard, how much of it was speech, and which emotions were estimated."""
    from monitor.day.days import parse_day
    from monitor.day.report import render_text, to_json
    from monitor.day.summary import summarize
    from monitor.store.reader import TimelineReader

    settings, now = _config(context).timeline, datetime.now(UTC)
    asked = parse_day(day, settings.zone_info(), now)
    with TimelineReader.open(settings.database_path(), settings.keys()) as timeline:
        entries = timeline.segments_between(asked.start, asked.end)
        summary = summarize(asked, entries, timeline.coverage_between(asked.start, asked.end), now)
    if form is Format.JSON:
        print(to_json(summary))
    else:
        Console(soft_wrap=False).print(render_text(summary))


@app.command()
def backup(context: typer.Context) -> None:
    """Make an encrypted backup of the timeline now; the daemon makes one a day and may go on running."""
    from monitor.store.backup import Backups

    print(Backups.of(_config(context).timeline).make(datetime.now(UTC)))


@app.command()
def restore(
    context: typer.Context, file: Annotated[str | None, typer.Argument(help="The backup; without it, those there are are listed.")] = None
) -> None:
    """List the backups, or put one in the timeline's place; the file that was there is kept under another name."""
    from monitor.store.backup import Backups
    from monitor.store.lock import DatabaseLock

    backups = Backups.of(_config(context).timeline)
    if file is None:
        found = backups.found()
        for known in found:
            print(f"{known.path.name}  {known.made_at.astimezone():%Y-%m-%d %H:%M:%S}  {known.path.stat().st_size // 1024} KiB")
        print("put one back with: emosllm-monitor restore FILE" if found else f"no backups in {backups.folder}", file=sys.stderr)
        return
    chosen = backups.named(file)
    with DatabaseLock(backups.database, "nothing, to restore a backup"):
        aside = backups.restore(chosen, datetime.now(UTC))
    print(f"{backups.database} is {chosen.name} again" + (f"; what was there is now {aside}" if aside else ""))


@key_app.command()
def show_place(context: typer.Context) -> None:
    """Say where the key is; never shows it."""
    settings = _config(context).timeline
    place, _ = settings.keys().place_of(settings.database_path())
    print(place)
    if len(place.read()) > 1:
        print("changing it was interrupted; `emosllm-monitor key rotate` finishes that", file=sys.stderr)


@key_app.command()
def rotate(context: typer.Context) -> None:
    """Encrypt the timeline and its backups with a new key. Not while the daemon runs."""
    from monitor.store.backup import Backups
    from monitor.store.lock import DatabaseLock
    from monitor.store.rotation import rotate as run

    settings = _config(context).timeline
    with DatabaseLock(settings.database_path(), "nothing, to change the key"):
        place = run(settings.database_path(), settings.keys(), Backups.of(settings))
    print(f"the timeline and its backups have a new key, in {place}")


@key_app.command("export")
def export_key(context: typer.Context, file: Annotated[Path, typer.Argument(help="A new file; hide it well.")]) -> None:
    """Write the key to a file, against the day when the keyring is lost."""
    settings = _config(context).timeline
    settings.keys().export(settings.database_path(), file)
    print(f"whoever has {file} can read the timeline", file=sys.stderr)


@key_app.command("import")
def import_key(context: typer.Context, file: Annotated[Path, typer.Argument(help="What `key export` wrote.")]) -> None:
    """Bring back a key that was exported."""
    settings = _config(context).timeline
    print(settings.keys().bring_back(settings.database_path(), file))


@app.command()
def devices() -> None:
    """List the microphones that can be named in [audio] device."""
    from monitor.sound.capture import list_devices

    found = list_devices()
    for device in found:
        print(f"{'*' if device.is_default else ' '} {device.index:3d}  {device.name}  ({device.channels} ch, {device.rate_hz} Hz)")
    print("* is the default" if found else "no microphone found", file=sys.stderr)


@app.command()
def doctor(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out starting the engine, which takes a minute or less.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects with the keys verdict, what and detail.")] = False,
) -> None:
    """Check the set-up, and that nothing leaves this machine.

    Microphone, engine, timeline, permissions, disk, backups, clock, service and network. Exit status 1 when something will not work or
    is not private.
    """
    import shutil

    from monitor.doctor.examine import examine
    from monitor.doctor.findings import Verdict, counted, to_json, worst

    findings = []
    columns = min(shutil.get_terminal_size().columns, _WIDEST)
    for finding in examine(context.obj, quick):
        findings.append(finding)
        if not as_json:
            print(finding.text(columns), flush=True)
    print(to_json(findings) if as_json else f"\n{counted(findings)}")
    if worst(findings) is Verdict.FAIL:
        raise typer.Exit(1)


service = typer.Typer(no_args_is_help=True)
app.add_typer(service, name="service", help="Let systemd start the monitor with your login, and watch over it.")


@service.command("install")
def service_install(
    context: typer.Context,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Begin to listen now, or with the next login.")] = True,
) -> None:
    """Write, enable and start the unit.

    It holds the path of this program and of the settings file in use; an older unit is replaced.
    """
    from monitor.service import install

    print("\n".join(install(context.obj, start)))


@service.command("uninstall")
def service_uninstall() -> None:
    """Stop and remove it; the timeline stays."""
    from monitor.service import uninstall

    print("\n".join(uninstall()))


@service.command("status")
def service_status() -> None:
    """Is it installed, enabled and active?

    Exit status 0 when it is active, 3 when not.
    """
    from monitor.service import state

    found = state()
    print("\n".join(found.lines()))
    if not found.active:
        raise typer.Exit(3)


_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASS_ON)
def corpus(context: typer.Context) -> None:
    """Make a manifest of a speech corpus (its options: emosllm-monitor corpus prepare --help)."""
    _run_train("corpus", context.args)


@app.command(context_settings=_PASS_ON)
def train(context: typer.Context) -> None:
    """Train a bundle from a recipe (its options: emosllm-monitor train --help)."""
    _run_train("train", context.args)


@app.command(context_settings=_PASS_ON)
def evaluate(context: typer.Context) -> None:
    """Score a bundle on test speakers (its options: emosllm-monitor evaluate --help)."""
    _run_train("evaluate", context.args)


@app.command(context_settings=_PASS_ON)
def compare(context: typer.Context) -> None:
    """Set evaluations of several systems side by side (its options: emosllm-monitor compare --help)."""
    _run_train("compare", context.args)


def _run_train(command: str, arguments: list[str]) -> None:
    # Training lives in a process of its own: the monitor never imports it. -P: a file named train.py here must not be taken for it.
    import subprocess

    raise typer.Exit(subprocess.run([sys.executable, "-P", "-m", "train", command, *arguments], check=False).returncode)


if __name__ == "__main__":
    main()
