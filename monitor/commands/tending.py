"""Commands that look after the set-up: microphones, the examination, the service."""

import shutil
import sys
from typing import Annotated

import typer

_WIDEST = 110

service = typer.Typer(no_args_is_help=True)


def devices() -> None:
    """List the microphones that can be named in [audio] device."""
    from monitor.sound.capture import list_devices

    found = list_devices()
    for device in found:
        print(f"{'*' if device.is_default else ' '} {device.index:3d}  {device.name}  ({device.channels} ch, {device.rate_hz} Hz)")
    print("* is the default" if found else "no microphone found", file=sys.stderr)


def doctor(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out starting the engine, which takes a minute or less.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects with the keys verdict, what and detail.")] = False,
) -> None:
    """Check the set-up, and that nothing leaves this machine.

    Microphone, engine, timeline, permissions, disk, backups, clinic, clock, service and network. Exit status 1 when something will not
    work or is not private.
    """
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
