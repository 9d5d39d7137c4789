"""Commands that show what was stored."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from monitor.commands.settings import settings_of
from monitor.report.asking import Format


def report(
    context: typer.Context,
    day: Annotated[str | None, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD; today unless said otherwise.")] = None,
    week: Annotated[bool, typer.Option("--week", help="The seven days up to DAY.")] = False,
    month: Annotated[bool, typer.Option("--month", help="The thirty days up to DAY.")] = False,
    first: Annotated[str | None, typer.Option("--from", metavar="DAY", help="The first day of a period.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Its last day; today unless said otherwise.")] = None,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="text; html or pdf: a page with charts; json; csv: one row a day, the first line names the columns, with their units, and"
            " what is not known is empty; fhir: an R4 bundle of observations. By default what FILE ends with, else text.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it to a file that only you can read.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Text as sentences, for a screen reader.")] = False,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="One page for a clinician, of the 28 days up to DAY unless said otherwise.")
    ] = False,
    subject: Annotated[str | None, typer.Option(metavar="NAME", help="For a clinician: of somebody who shares with the clinic.")] = None,
) -> None:
    """Show a day or a period: what was heard, how much of it was speech, and which emotions were estimated."""
    from monitor.look import in_use_of
    from monitor.report.asking import check_target, choose_format, write_private
    from monitor.report.making import collect, collect_shared, written
    from monitor.report.period import SHEET, Asked

    chosen = choose_format(form, out, plain, sheet)
    if out is not None:
        check_target(out, force)
    settings = settings_of(context)
    asked, now, usual = Asked(day, week, month, first, last), datetime.now(UTC), SHEET if sheet else 1
    material = collect_shared(settings, subject, asked, now, usual) if subject else collect(settings, asked, now, usual)
    if out is not None:
        write_private(out, written(material, chosen, in_use_of(settings), plain=plain, sheet=sheet))
        print(f"written to {out}, which only you can read", file=sys.stderr)
    elif chosen is Format.TEXT and not plain:
        from monitor.report.text import TextReport

        Console(soft_wrap=False).print(TextReport(material), end="")
    else:
        sys.stdout.write(written(material, chosen, in_use_of(settings), plain=plain, sheet=sheet).decode())
