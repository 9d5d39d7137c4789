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


_MOMENT = "HH:MM today, 2026-07-14 (the whole day) or 2026-07-14T12:00."


def export(
    context: typer.Context,
    out: Annotated[str, typer.Option(metavar="PLACE", help="A new file (csv and parquet: a new folder), or - for standard output.")],
    form: Annotated[
        ExportFormat, typer.Option("--format", help="csv for spreadsheets, jsonl and parquet for programs, fhir for clinics (days only).")
    ] = ExportFormat.JSONL,
    day: Annotated[str | None, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD (default: everything).")] = None,
    begin: Annotated[str | None, typer.Option("--from", metavar="MOMENT", help=_MOMENT)] = None,
    finish: Annotated[str | None, typer.Option("--to", metavar="MOMENT", help="End of the range, same forms.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file or folder.")] = False,
) -> None:
    """Export your data, without audio, to files that other programs can read. The files are not encrypted."""
    from monitor.analysis.days import parse_time_range
    from monitor.transfer.export import export_data as write

    config, now = settings_of(context), datetime.now(UTC)
    time_range = parse_time_range(day, begin, finish, config.timeline.zone_info(), now)
    counts = write(config, form, time_range, out, force, now)
    print(
        f"exported {_format_counts((number, name) for name, number in counts.items()) or 'nothing: no data in this range'}",
        file=sys.stderr,
    )
    print("the export is not encrypted: anyone who has it can read it. It contains no audio", file=sys.stderr)


def import_(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="PLACE", help="A file or folder written by `export`, or - for standard input.")],
) -> None:
    """Import a jsonl, csv or parquet export: all of it or nothing, and nothing twice."""
    from monitor.transfer.import_ import import_data

    taken = import_data(settings_of(context).timeline, source)
    print(f"imported {_format_counts((one.new, name) for name, one in taken.items()) or 'nothing new'}")
    if known := sum(one.known for one in taken.values()):
        different = sum(one.different for one in taken.values())
        print(f"{known} rows already existed" + (f"; {different} of them differ and were left unchanged" if different else ""))


def forget(
    context: typer.Context,
    day: Annotated[str | None, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD.")] = None,
    begin: Annotated[str | None, typer.Option("--from", metavar="MOMENT", help=_MOMENT)] = None,
    finish: Annotated[str | None, typer.Option("--to", metavar="MOMENT", help="End of the range, same forms (default: now).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Erase the whole timeline, its backups and its key.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Permanently erase a time range everywhere: timeline, backups, trained models and clinic. Prints a receipt.

    A running monitor continues and stores nothing from that range. Without a range, finishes an interrupted erasure.
    """
    from monitor.deletion import DELETE_EVERYTHING_TEXT, delete_everything, receipt_lines
    from monitor.deletion import finish_deletion as finish_interrupted

    config = settings_of(context)
    remote = config.engine.kind == "server"
    if (receipt := finish_interrupted(config)) is not None:
        print("\n".join(receipt_lines(receipt, "the interrupted erasure", remote)))
    if everything:
        if day or begin or finish:
            raise DayError("--all, --day and --from with --to exclude each other; pass one of them")
        _confirm(DELETE_EVERYTHING_TEXT, yes)
        print("\n".join(receipt_lines(delete_everything(config), "everything", remote)))
    elif day or begin or finish:
        _forget_range(config, _past_range(config, day, begin, finish), yes, remote)
    elif receipt is None:
        raise DayError("nothing to forget; pass --day DAY, --from MOMENT --to MOMENT, or --all")


def _past_range(config: "Config", day: str | None, begin: str | None, finish: str | None) -> "TimeRange":
    """What is named, as far as it is over."""
    from monitor.analysis.days import TimeRange, parse_time_range

    if finish and not begin:
        raise DayError("--to needs --from; for everything up to then, use --from 1970-01-01")
    now = datetime.now(UTC)
    named = parse_time_range(day, begin, finish, config.timeline.zone_info(), now)
    return TimeRange(named.start, min(named.end, now))


def _forget_range(config: "Config", time_range: "TimeRange", yes: bool, remote: bool) -> None:
    from monitor.deletion import delete_range as erase
    from monitor.deletion import format_range, preview_deletion, preview_lines, receipt_lines

    zone = config.timeline.zone_info()
    seen = preview_deletion(config, time_range)
    # Also where nothing is stored yet: a running monitor may still hold something of it.
    _confirm(preview_lines(seen, time_range, zone) if seen else [f"No data is stored {format_range(time_range, zone)}."], yes)
    print("\n".join(receipt_lines(erase(config, time_range), format_range(time_range, zone), remote)))


def _confirm(lines: Sequence[str], yes: bool) -> None:
    """Show what will go, and ask, unless that was answered beforehand."""
    if yes:
        return
    print("\n".join(lines))
    if not sys.stdin.isatty():
        raise ExchangeError("not a terminal; pass --yes to confirm")
    if not typer.confirm("This cannot be undone. Erase it?"):
        raise typer.Exit(1)


def _format_counts(counts: Iterable[tuple[int, str]]) -> str:
    named = (f"{number} {name.removesuffix('s') if number == 1 else name}" for number, name in counts if number)
    return ", ".join(named)


key = typer.Typer(no_args_is_help=True)


def backup(context: typer.Context) -> None:
    """Make an encrypted backup of the timeline now. A running monitor can continue and makes one every day."""
    from monitor.storage.backup import Backups

    print(Backups.of(settings_of(context).timeline).make(datetime.now(UTC)))


def restore(
    context: typer.Context, file: Annotated[str | None, typer.Argument(help="Backup to restore (default: list all backups).")] = None
) -> None:
    """List backups, or replace the timeline with one. The current timeline is kept under another name."""
    from monitor.fileio import DatabaseLock
    from monitor.storage.backup import Backups

    backups = Backups.of(settings_of(context).timeline)
    if file is None:
        found = backups.found()
        for known in found:
            print(f"{known.path.name}  {known.made_at.astimezone():%Y-%m-%d %H:%M:%S}  {known.path.stat().st_size // 1024} KiB")
        print("restore one with: emosllm-monitor restore FILE" if found else f"no backups in {backups.folder}", file=sys.stderr)
        return
    chosen = backups.named(file)
    with DatabaseLock(backups.database, "nothing, to restore a backup"):
        aside = backups.restore(chosen, datetime.now(UTC))
    print(f"restored {backups.database} from {chosen.name}" + (f"; the previous timeline is now {aside}" if aside else ""))


@key.command()
def show_place(context: typer.Context) -> None:
    """Show where the key is stored, never the key itself."""
    settings = settings_of(context).timeline
    place, _ = settings.keys().place_of(settings.database_path())
    print(place)
    if len(place.read()) > 1:
        print("a key change was interrupted; finish it with `emosllm-monitor key rotate`", file=sys.stderr)


@key.command()
def rotate(context: typer.Context) -> None:
    """Encrypt the timeline and its backups with a new key. The monitor must not be running."""
    from monitor.fileio import DatabaseLock
    from monitor.storage.backup import Backups
    from monitor.storage.backup import rotate_key as run

    settings = settings_of(context).timeline
    with DatabaseLock(settings.database_path(), "nothing, to change the key"):
        place = run(settings.database_path(), settings.keys(), Backups.of(settings))
    print(f"the timeline and its backups are encrypted with a new key, stored in {place}")


@key.command("export")
def export_key(context: typer.Context, file: Annotated[Path, typer.Argument(help="A new file; keep it somewhere safe.")]) -> None:
    """Write the key to a file. Without the key your data cannot be recovered; keep a copy."""
    settings = settings_of(context).timeline
    settings.keys().export(settings.database_path(), file)
    print(f"anyone who has {file} can read the timeline", file=sys.stderr)


@key.command("import")
def import_key(context: typer.Context, file: Annotated[Path, typer.Argument(help="A file written by `key export`.")]) -> None:
    """Import an exported key."""
    settings = settings_of(context).timeline
    print(settings.keys().bring_back(settings.database_path(), file))
