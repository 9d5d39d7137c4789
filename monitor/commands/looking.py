"""Commands that show what was stored."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from monitor.commands.settings import settings_of


class Format(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"


def report(
    context: typer.Context,
    day: Annotated[str, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD.")] = "today",
    form: Annotated[Format, typer.Option("--format", help="text to read, or json.")] = Format.TEXT,
) -> None:
    """Show one day: what was heard, how much of it was speech, and which emotions were estimated."""
    from monitor.day.days import parse_day
    from monitor.day.report import render_text, to_json
    from monitor.look import Look

    settings, now = settings_of(context).timeline, datetime.now(UTC)
    with Look.open(settings, now) as look:
        summary = look.day(parse_day(day, look.zone, now))
    if form is Format.JSON:
        print(to_json(summary))
    else:
        Console(soft_wrap=False).print(render_text(summary))
