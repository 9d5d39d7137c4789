"""The person's data: export, import, forget, backup, restore and key."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import DayError, ExchangeError
from monitor.cli.settings import settings_of
from monitor.transfer.schema import ExportFormat

if TYPE_CHECKING:
    from monitor.analysis.days import TimeRange
    from monitor.config import Config


_MOMENT = "HH:MM for today, 2026-07-14 or 2026-07-14T12:00; a day is meant whole."


def export(
    context: typer.Context,
    out: Annotated[str, typer.Option(metavar="PLACE", help="A new file, or folder for csv and parquet; - for standard output.")],
    form: Annotated[
        ExportFormat, typer.Option("--format", help="csv for spreadsheets, jsonl and parquet for programs, fhir for clinics: days only.")
    ] = ExportFormat.JSONL,
    day: Annotated[str | None, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD; without a range, everything.")] = None,
    begin: Annotated[str | None, typer.Option("--from", metavar="MOMENT", help=_MOMENT)] = None,
    finish: Annotated[str | None, typer.Option("--to", metavar="MOMENT", help="Likewise.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Write everything that is yours, but sound, to files that other programs read. They are not encrypted."""
    from monitor.analysis.days import parse_time_range
    from monitor.transfer.export import export_data as write

    config, now = settings_of(context), datetime.now(UTC)
    time_range = parse_time_range(day, begin, finish, config.timeline.zone_info(), now)
    counts = write(config, form, time_range, out, force, now)
    print(
        f"exported {_format_counts((number, name) for name, number in counts.items()) or 'nothing: nothing is stored there'}",
        file=sys.stderr,
    )
    print("not encrypted: whoever has this can read it. Sound is not part of it", file=sys.stderr)


def import_(
    context: typer.Context, source: Annotated[str, typer.Argument(metavar="PLACE", help="What `export` wrote; - for standard input.")]
) -> None:
    """Bring back what was exported as jsonl, csv or parquet: all of it or nothing, and nothing twice."""
    from monitor.transfer.import_ import import_data

    taken = import_data(settings_of(context).timeline, source)
    print(f"imported {_format_counts((one.new, name) for name, one in taken.items()) or 'nothing new'}")
    if known := sum(one.known for one in taken.values()):
        different = sum(one.different for one in taken.values())
        print(f"{known} rows were there already" + (f"; {different} of them differ, and stay as they are" if different else ""))


def forget(
    context: typer.Context,
    day: Annotated[str | None, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD.")] = None,
    begin: Annotated[str | None, typer.Option("--from", metavar="MOMENT", help=_MOMENT)] = None,
    finish: Annotated[str | None, typer.Option("--to", metavar="MOMENT", help="Likewise; without it, until now.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole timeline, its backups and its key.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase what was heard and said in a stretch of time, everywhere, for good; prints a receipt.

    A running monitor goes on, and writes nothing of it. Without a stretch, what was interrupted is finished.
    """
    from monitor.deletion import DELETE_EVERYTHING_TEXT, delete_everything, receipt_lines
    from monitor.deletion import finish_deletion as finish_interrupted

    config = settings_of(context)
    remote = config.engine.kind == "server"
    if (receipt := finish_interrupted(config)) is not None:
        print("\n".join(receipt_lines(receipt, "what had been interrupted", remote)))
    if everything:
        if day or begin or finish:
            raise DayError("give either --all, or --day, or --from and --to")
        _confirm(DELETE_EVERYTHING_TEXT, yes)
        print("\n".join(receipt_lines(delete_everything(config), "everything", remote)))
    elif day or begin or finish:
        _forget_range(config, _past_range(config, day, begin, finish), yes, remote)
    elif receipt is None:
        raise DayError("say what to forget: --day DAY, --from MOMENT --to MOMENT, or --all")


def _past_range(config: "Config", day: str | None, begin: str | None, finish: str | None) -> "TimeRange":
    """What is named, as far as it is over."""
    from monitor.analysis.days import TimeRange, parse_time_range

    if finish and not begin:
        raise DayError("--to needs --from: what lies before everything is --from 1970-01-01")
    now = datetime.now(UTC)
    named = parse_time_range(day, begin, finish, config.timeline.zone_info(), now)
    return TimeRange(named.start, min(named.end, now))


def _forget_range(config: "Config", time_range: "TimeRange", yes: bool, remote: bool) -> None:
    from monitor.deletion import delete_range as erase
    from monitor.deletion import format_range, preview_deletion, preview_lines, receipt_lines

    zone = config.timeline.zone_info()
    seen = preview_deletion(config, time_range)
    # Also where nothing is stored yet: a running monitor may still hold something of it.
    _confirm(preview_lines(seen, time_range, zone) if seen else [f"Nothing is stored {format_range(time_range, zone)}."], yes)
    print("\n".join(receipt_lines(erase(config, time_range), format_range(time_range, zone), remote)))


def _confirm(lines: Sequence[str], yes: bool) -> None:
    """Show what will go, and ask, unless that was answered beforehand."""
    if yes:
        return
    print("\n".join(lines))
    if not sys.stdin.isatty():
        raise ExchangeError("nobody is there to be asked: say --yes to forget it")
    if not typer.confirm("It cannot be undone. Forget it?"):
        raise typer.Exit(1)


def _format_counts(counts: Iterable[tuple[int, str]]) -> str:
    named = (f"{number} {name.removesuffix('s') if number == 1 else name}" for number, name in counts if number)
    return ", ".join(named)


key = typer.Typer(no_args_is_help=True)


def backup(context: typer.Context) -> None:
    """Make an encrypted backup of the timeline now; the daemon makes one a day and may go on running."""
    from monitor.storage.backup import Backups

    print(Backups.of(settings_of(context).timeline).make(datetime.now(UTC)))


def restore(
    context: typer.Context, file: Annotated[str | None, typer.Argument(help="The backup; without it, those there are are listed.")] = None
) -> None:
    """List the backups, or put one in the timeline's place; the file that was there is kept under another name."""
    from monitor.fileio import DatabaseLock
    from monitor.storage.backup import Backups

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
    from monitor.fileio import DatabaseLock
    from monitor.storage.backup import Backups
    from monitor.storage.backup import rotate_key as run

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
