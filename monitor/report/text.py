"""Reports as text for a terminal: a day hour by hour, a period a line a day. Fits 80 columns.

Words are plain and few, and nothing depends on colour. What is missing stands before what was found, and every report
says what it is not. Falls back to ASCII where the output cannot show more; `plain` is for who hears it read out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from monitor.day.summary import DayState, DaySummary, HourSummary, Speech
from monitor.day.wording import NOTICE, percent, pieces, span
from monitor.report import rows, sentences
from monitor.report.material import Material

_LONGEST_BAR = 24
_LEFT = 2


@dataclass(frozen=True, slots=True)
class _Glyphs:
    """The characters that draw; levels go from nothing to a whole hour."""

    bar: str
    levels: str
    silent: str


_UNICODE = _Glyphs(bar="█", levels=" ▁▂▃▄▅▆▇█", silent="·")
_ASCII = _Glyphs(bar="#", levels=" .:-=+*%#", silent=".")
_UNCLEAR = "?"


@dataclass(frozen=True, slots=True)
class TextReport:
    """A rich renderable of a day or a period."""

    material: Material

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        glyphs = _ASCII if options.ascii_only else _UNICODE
        parts = _day(self.material, glyphs) if self.material.period.is_day else _period(self.material)
        for part in [*parts, *_footing(self.material)]:
            yield Padding(part, (0, _LEFT, 1, _LEFT))


def _day(material: Material, glyphs: _Glyphs) -> Iterator[RenderableType]:
    summary = material.day
    yield _title(rows.title(summary), str(summary.day.zone), rows.state(summary))
    yield _coverage(summary)
    if summary.speech.total.segments:
        yield _emotions(summary.speech, glyphs)
    if summary.state is not DayState.NO_DATA:
        yield _strip(summary, glyphs)
    yield from _told(sentences.of_day(material))


def _period(material: Material) -> Iterator[RenderableType]:
    yield _title(rows.period_title(material.period), str(material.period.zone), "")
    yield _days(material)
    yield from _told(sentences.of_days(material))


def _title(name: str, zone: str, state: str) -> RenderableType:
    title = Table.grid(expand=True)
    title.add_column()
    title.add_column(justify="right")
    title.add_row(Text(name, style="bold"), Text(zone, style="dim"))
    return Group(title, Text(state)) if state else title


def _told(said: list[str]) -> Iterator[RenderableType]:
    if said:
        yield Group(Text("In plain words", style="bold"), *(Text(sentence) for sentence in said))


def _footing(material: Material) -> Iterator[RenderableType]:
    models = rows.models(material.bundles, "hours" if material.period.is_day else "days")
    if models:
        yield Text(models, style="dim")
    yield Text(NOTICE, style="italic")
    if material.contacts:
        yield Group(Text("Whom you can call", style="bold"), *(Text(contact) for contact in material.contacts))


def _coverage(summary: DaySummary) -> RenderableType:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim")
    for row in rows.coverage(summary):
        # Text, not str: rich would take the brackets of "[Errno 28] ..." for its own markup.
        grid.add_row(row.name, row.amount, Text(row.remark))
    return grid


def _emotions(speech: Speech, glyphs: _Glyphs) -> RenderableType:
    heading = Text("How the voice sounded", style="bold")
    if not rows.found(speech):
        return Group(heading, Text("Nothing was sure enough to be given a name."))
    absent = rows.absent(speech)
    footing = [Text(f"not found: {absent}", style="dim")] if absent else []
    grid = _shares(speech, glyphs) if rows.enough(speech) else _counts(speech)
    return Group(heading, Text(rows.basis(speech), style="dim"), grid, *footing)


def _shares(speech: Speech, glyphs: _Glyphs) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="cyan")
    grid.add_column(no_wrap=True, justify="right")
    if speech.intervals:
        grid.add_column(no_wrap=True, justify="right", style="dim")
    grid.add_column(no_wrap=True, justify="right", style="dim")
    for found in rows.found(speech):
        share = found.share or 0.0
        interval = [rows.interval(found.interval)] if speech.intervals else []
        grid.add_row(found.emotion.word, glyphs.bar * max(1, round(share * _LONGEST_BAR)), percent(share), *interval, rows.amount(found))
    return grid


def _counts(speech: Speech) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    for found in rows.found(speech):
        grid.add_row(found.emotion.word, pieces(found.amount.segments), Text(span(found.amount.seconds), style="dim"))
    return grid


def _days(material: Material) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for place in range(len(rows.DAY_COLUMNS)):
        grid.add_column(no_wrap=True, justify="left" if place in (0, 1, 5) else "right")
    grid.add_row(*(Text(name, style="dim") for name in rows.DAY_COLUMNS))
    for day in material.days:
        cells = rows.day_cells(day)
        grid.add_row(*(Text(cell, style="" if day.state is DayState.COVERED else "dim") for cell in cells))
    partial = [Text(f"PARTIAL, {count}: {gap}", style="dim") for gap, count in rows.gaps(material.days).items()]
    return Group(grid, *partial)


def _strip(summary: DaySummary, glyphs: _Glyphs) -> RenderableType:
    """Two characters an hour: how much of it was heard, and the emotion with the most sure time."""
    clock = ""
    for index, hour in enumerate(summary.hours):
        if hour.label.endswith(":00") and int(hour.label[:2]) % 3 == 0:
            clock = clock.ljust(2 * index) + hour.label[:2]
    levels = "".join(_level(hour, glyphs) * 2 for hour in summary.hours)
    letters = [_letter(hour, glyphs) for hour in summary.hours]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", min_width=5)
    grid.add_column(no_wrap=True)
    grid.add_row("hour", Text(clock, style="dim"))
    grid.add_row("heard", Text(levels, style="cyan"))
    grid.add_row("voice", Text("".join(f"{letter:<2}" for letter in letters), style="bold"))
    notes = [Text(_legend(summary, letters, glyphs), style="dim")]
    if len(summary.hours) != 24:
        notes.append(Text(f"The clocks were changed: this day has {span(summary.length_s)}.", style="dim"))
    heading = Text("Hour by hour", style="bold")
    return Group(heading, Text("how much was heard, and what most of the sure speech was", style="dim"), grid, *notes)


def _level(hour: HourSummary, glyphs: _Glyphs) -> str:
    """However little was heard, it shows."""
    return glyphs.levels[ceil(hour.heard_s / hour.length_s * (len(glyphs.levels) - 1))]


def _letter(hour: HourSummary, glyphs: _Glyphs) -> str:
    if hour.speech.leading is not None:
        return hour.speech.leading.value
    if hour.speech.total.segments:
        return _UNCLEAR
    return glyphs.silent if hour.heard_s else " "


def _legend(summary: DaySummary, letters: list[str], glyphs: _Glyphs) -> str:
    meanings = {emotion.value: emotion.word for emotion in summary.speech.emotions}
    meanings |= {_UNCLEAR: "unsure or not judged", glyphs.silent: "no speech", " ": "not heard"}
    return "   ".join(f"{mark if mark.strip() else 'blank'} {meanings[mark]}" for mark in meanings if mark in letters)
