"""Commands with which the person takes away what is theirs, brings it back, and has it forgotten."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import DayError, ExchangeError
from monitor.commands.settings import settings_of
from monitor.exchange.tables import Form

if TYPE_CHECKING:
    from monitor.config import Config
    from monitor.day.stretches import Stretch

_MOMENT = "HH:MM for today, 2026-07-14 or 2026-07-14T12:00; a day is meant whole."


def export(
    context: typer.Context,
    out: Annotated[str, typer.Option(metavar="PLACE", help="A new file, or folder for csv and parquet; - for standard output.")],
    form: Annotated[
        Form, typer.Option("--format", help="csv for spreadsheets, jsonl and parquet for programs, fhir for clinics: days only.")
    ] = Form.JSONL,
    day: Annotated[str | None, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD; without a range, everything.")] = None,
    begin: Annotated[str | None, typer.Option("--from", metavar="MOMENT", help=_MOMENT)] = None,
    finish: Annotated[str | None, typer.Option("--to", metavar="MOMENT", help="Likewise.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Write everything that is yours, but sound, to files that other programs read. They are not encrypted."""
    from monitor.day.stretches import parse_stretch
    from monitor.exchange.outgoing import export as write

    config, now = settings_of(context), datetime.now(UTC)
    stretch = parse_stretch(day, begin, finish, config.timeline.zone_info(), now)
    counts = write(config, form, stretch, out, force, now)
    print(f"exported {_listed((number, name) for name, number in counts.items()) or 'nothing: nothing is stored there'}", file=sys.stderr)
    print("not encrypted: whoever has this can read it. Sound is not part of it", file=sys.stderr)


def import_(
    context: typer.Context, source: Annotated[str, typer.Argument(metavar="PLACE", help="What `export` wrote; - for standard input.")]
) -> None:
    """Bring back what was exported as jsonl, csv or parquet: all of it or nothing, and nothing twice."""
    from monitor.exchange.incoming import bring_back

    taken = bring_back(settings_of(context).timeline, source)
    print(f"imported {_listed((one.new, name) for name, one in taken.items()) or 'nothing new'}")
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
    from monitor.forgetting import finish as finish_interrupted
    from monitor.forgetting import forget_all
    from monitor.forgetting_text import EVERYTHING, receipt_of

    config = settings_of(context)
    remote = config.engine.kind == "server"
    if (receipt := finish_interrupted(config)) is not None:
        print("\n".join(receipt_of(receipt, "what had been interrupted", remote)))
    if everything:
        if day or begin or finish:
            raise DayError("give either --all, or --day, or --from and --to")
        _confirm(EVERYTHING, yes)
        print("\n".join(receipt_of(forget_all(config), "everything", remote)))
    elif day or begin or finish:
        _forget_stretch(config, _past(config, day, begin, finish), yes, remote)
    elif receipt is None:
        raise DayError("say what to forget: --day DAY, --from MOMENT --to MOMENT, or --all")


def _past(config: "Config", day: str | None, begin: str | None, finish: str | None) -> "Stretch":
    """What is named, as far as it is over."""
    from monitor.day.stretches import Stretch, parse_stretch

    if finish and not begin:
        raise DayError("--to needs --from: what lies before everything is --from 1970-01-01")
    now = datetime.now(UTC)
    named = parse_stretch(day, begin, finish, config.timeline.zone_info(), now)
    return Stretch(named.start, min(named.end, now))


def _forget_stretch(config: "Config", stretch: "Stretch", yes: bool, remote: bool) -> None:
    from monitor.forgetting import forget as erase
    from monitor.forgetting import survey
    from monitor.forgetting_text import preview, receipt_of, span

    zone = config.timeline.zone_info()
    seen = survey(config, stretch)
    # Also where nothing is stored yet: a running monitor may still hold something of it.
    _confirm(preview(seen, stretch, zone) if seen else [f"Nothing is stored {span(stretch, zone)}."], yes)
    print("\n".join(receipt_of(erase(config, stretch), span(stretch, zone), remote)))


def _confirm(lines: Sequence[str], yes: bool) -> None:
    """Show what will go, and ask, unless that was answered beforehand."""
    if yes:
        return
    print("\n".join(lines))
    if not sys.stdin.isatty():
        raise ExchangeError("nobody is there to be asked: say --yes to forget it")
    if not typer.confirm("It cannot be undone. Forget it?"):
        raise typer.Exit(1)


def _listed(counts: Iterable[tuple[int, str]]) -> str:
    named = (f"{number} {name.removesuffix('s') if number == 1 else name}" for number, name in counts if number)
    return ", ".join(named)
