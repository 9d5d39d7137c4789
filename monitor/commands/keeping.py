"""Commands about the timeline's file: its backups and its key."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from monitor.commands.settings import settings_of

key = typer.Typer(no_args_is_help=True)


def backup(context: typer.Context) -> None:
    """Make an encrypted backup of the timeline now; the daemon makes one a day and may go on running."""
    from monitor.store.backup import Backups

    print(Backups.of(settings_of(context).timeline).make(datetime.now(UTC)))


def restore(
    context: typer.Context, file: Annotated[str | None, typer.Argument(help="The backup; without it, those there are are listed.")] = None
) -> None:
    """List the backups, or put one in the timeline's place; the file that was there is kept under another name."""
    from monitor.store.backup import Backups
    from monitor.store.lock import DatabaseLock

    backups = Backups.of(settings_of(context).timeline)
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


@key.command()
def show_place(context: typer.Context) -> None:
    """Say where the key is; never shows it."""
    settings = settings_of(context).timeline
    place, _ = settings.keys().place_of(settings.database_path())
    print(place)
    if len(place.read()) > 1:
        print("changing it was interrupted; `emosllm-monitor key rotate` finishes that", file=sys.stderr)


@key.command()
def rotate(context: typer.Context) -> None:
    """Encrypt the timeline and its backups with a new key. Not while the daemon runs."""
    from monitor.store.backup import Backups
    from monitor.store.lock import DatabaseLock
    from monitor.store.rotation import rotate as run

    settings = settings_of(context).timeline
    with DatabaseLock(settings.database_path(), "nothing, to change the key"):
        place = run(settings.database_path(), settings.keys(), Backups.of(settings))
    print(f"the timeline and its backups have a new key, in {place}")


@key.command("export")
def export_key(context: typer.Context, file: Annotated[Path, typer.Argument(help="A new file; hide it well.")]) -> None:
    """Write the key to a file, against the day when the keyring is lost."""
    settings = settings_of(context).timeline
    settings.keys().export(settings.database_path(), file)
    print(f"whoever has {file} can read the timeline", file=sys.stderr)


@key.command("import")
def import_key(context: typer.Context, file: Annotated[Path, typer.Argument(help="What `key export` wrote.")]) -> None:
    """Bring back a key that was exported."""
    settings = settings_of(context).timeline
    print(settings.keys().bring_back(settings.database_path(), file))
