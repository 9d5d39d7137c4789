"""Reports as text: laid out for a terminal of 80 columns, or as plain sentences for a screen reader or braille display.

Nothing depends on colour. Missing time comes first, and every report says what it is not. Falls back to ASCII where the output cannot
show more. The plain form draws, aligns and boxes nothing.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from monitor.analysis.formatting import DISCLAIMER, format_duration, format_percent, format_segments, short_date
from monitor.analysis.summary import DayState, DaySummary, HourSummary, SpeechSummary
from monitor.reports import sentences, view_model
from monitor.reports.data import RenderOptions, ReportData

_LONGEST_BAR = 24
_LEFT = 2


_FILE_COLUMNS = 80


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

    material: ReportData

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        glyphs = _ASCII if options.ascii_only else _UNICODE
        parts = _day(self.material, glyphs) if self.material.period.is_day else _period(self.material)
        for part in [*parts, *_footing(self.material)]:
            yield Padding(part, (0, _LEFT, 1, _LEFT))


def _day(material: ReportData, glyphs: _Glyphs) -> Iterator[RenderableType]:
    summary = material.day
    yield _title(view_model.day_title(summary), str(summary.day.zone), view_model.state_text(summary))
    yield _coverage(summary)
    if summary.speech.total.segments:
        yield _emotions(summary.speech, glyphs)
    if summary.state is not DayState.NO_DATA:
        yield _strip(summary, glyphs)
    yield from _sentences(sentences.day_sentences(material))


def _period(material: ReportData) -> Iterator[RenderableType]:
    yield _title(view_model.period_title(material.period), str(material.period.zone), "")
    yield _days(material)
    yield from _sentences(sentences.period_sentences(material))


def _title(name: str, zone: str, state: str) -> RenderableType:
    title = Table.grid(expand=True)
    title.add_column()
    title.add_column(justify="right")
    title.add_row(Text(name, style="bold"), Text(zone, style="dim"))
    return Group(title, Text(state)) if state else title


def _sentences(said: list[str]) -> Iterator[RenderableType]:
    if said:
        yield Group(Text("Summary", style="bold"), *(Text(sentence) for sentence in said))


def _footing(material: ReportData) -> Iterator[RenderableType]:
    models = view_model.models_text(material.bundles, "hours" if material.period.is_day else "days")
    if models:
        yield Text(models, style="dim")
    yield Text(DISCLAIMER, style="italic")
    if material.contacts:
        yield Group(Text("Who you can call", style="bold"), *(Text(contact) for contact in material.contacts))


def _coverage(summary: DaySummary) -> RenderableType:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim")
    for row in view_model.coverage_rows(summary):
        # Text, not str: rich would take the brackets of "[Errno 28] ..." for its own markup.
        grid.add_row(row.name, row.amount, Text(row.remark))
    return grid


def _emotions(speech: SpeechSummary, glyphs: _Glyphs) -> RenderableType:
    heading = Text("How the voice sounded", style="bold")
    if not view_model.emotion_rows(speech):
        return Group(heading, Text("No segment was above the confidence threshold."))
    absent = view_model.absent_emotions(speech)
    footing = [Text(f"not found: {absent}", style="dim")] if absent else []
    grid = _shares(speech, glyphs) if view_model.has_enough_speech(speech) else _counts(speech)
    return Group(heading, Text(view_model.shares_basis(speech), style="dim"), grid, *footing)


def _shares(speech: SpeechSummary, glyphs: _Glyphs) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="cyan")
    grid.add_column(no_wrap=True, justify="right")
    if speech.intervals:
        grid.add_column(no_wrap=True, justify="right", style="dim")
    grid.add_column(no_wrap=True, justify="right", style="dim")
    for found in view_model.emotion_rows(speech):
        share = found.share or 0.0
        interval = [view_model.format_interval(found.interval)] if speech.intervals else []
        grid.add_row(
            found.emotion.word,
            glyphs.bar * max(1, round(share * _LONGEST_BAR)),
            format_percent(share),
            *interval,
            view_model.format_sure_time(found),
        )
    return grid


def _counts(speech: SpeechSummary) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    for found in view_model.emotion_rows(speech):
        grid.add_row(found.emotion.word, format_segments(found.amount.segments), Text(format_duration(found.amount.seconds), style="dim"))
    return grid


def _days(material: ReportData) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for place in range(len(view_model.DAY_COLUMNS)):
        grid.add_column(no_wrap=True, justify="left" if place in (0, 1, 5) else "right")
    grid.add_row(*(Text(name, style="dim") for name in view_model.DAY_COLUMNS))
    for day in material.days:
        cells = view_model.day_cells(day)
        grid.add_row(*(Text(cell, style="" if day.state is DayState.COVERED else "dim") for cell in cells))
    partial = [Text(f"PARTIAL, {count}: {gap}", style="dim") for gap, count in view_model.gap_counts(material.days).items()]
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
    grid.add_row("recorded", Text(levels, style="cyan"))
    grid.add_row("emotion", Text("".join(f"{letter:<2}" for letter in letters), style="bold"))
    notes = [Text(_legend(summary, letters, glyphs), style="dim")]
    if len(summary.hours) != 24:
        notes.append(Text(f"The clocks changed: this day has {format_duration(summary.length_s)}.", style="dim"))
    heading = Text("Hour by hour", style="bold")
    return Group(heading, Text("recorded time, and the emotion with the largest share", style="dim"), grid, *notes)


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
    meanings |= {_UNCLEAR: "unsure or not analysed", glyphs.silent: "no speech", " ": "not recorded"}
    return "   ".join(f"{mark if mark.strip() else 'blank'} {meanings[mark]}" for mark in meanings if mark in letters)


def render(report: ReportData, options: RenderOptions) -> bytes:
    """For files, as wide as the columns of a terminal usually are."""
    if options.plain:
        return f"{to_plain(report)}\n".encode()
    file = io.StringIO()
    Console(file=file, width=_FILE_COLUMNS).print(TextReport(report), end="")
    return file.getvalue().encode()


def to_plain(material: ReportData) -> str:
    """The report, a statement a line."""
    lines = _plain_day(material) if material.period.is_day else _plain_period(material)
    return "\n".join([*lines, *_plain_footing(material)])


def _plain_day(material: ReportData) -> Iterator[str]:
    summary = material.day
    yield f"{view_model.day_title(summary)}. Time zone {summary.day.zone}."
    if view_model.state_text(summary):
        yield view_model.state_text(summary)
    for row in view_model.coverage_rows(summary):
        yield f"{row.name}: {row.amount}, {row.remark}."
    yield from _plain_emotions(summary)
    heard = [hour for hour in summary.hours if hour.heard_s]
    if heard:
        yield f"Hour by hour; {len(heard)} of {len(summary.hours)} hours were recorded at least in part:"
        yield from (_plain_hour(hour) for hour in heard)
    yield from sentences.day_sentences(material)


def _plain_emotions(summary: DaySummary) -> Iterator[str]:
    speech = summary.speech
    if not speech.total.segments:
        return
    if not view_model.emotion_rows(speech):
        yield "How the voice sounded: no segment was above the confidence threshold."
        return
    yield f"How the voice sounded, {view_model.shares_basis(speech)}:"
    for found in view_model.emotion_rows(speech):
        share = "" if found.share is None else f"{format_percent(found.share)}, "
        interval = f"95 % interval {view_model.format_interval(found.interval)}, " if found.interval else ""
        heard = f"{format_segments(found.amount.segments)}, " if found.amount.segments else ""
        yield f"{found.emotion.word}: {share}{interval}{heard}{view_model.format_sure_time(found)}."
    if view_model.absent_emotions(speech):
        yield f"Not found: {view_model.absent_emotions(speech)}."


def _plain_hour(hour: HourSummary) -> str:
    speech = hour.speech
    if not speech.total.segments:
        said = "no speech"
    elif speech.leading is None:
        said = f"{format_duration(speech.total.seconds)} of speech, unsure or not analysed"
    else:
        said = f"{format_duration(speech.total.seconds)} of speech, mostly {speech.leading.word}"
    return f"{hour.label}: recorded {format_duration(hour.heard_s)}; {said}."


def _plain_period(material: ReportData) -> Iterator[str]:
    yield f"{view_model.period_title(material.period)}. Time zone {material.period.zone}."
    yield from sentences.period_sentences(material)
    yield "Day by day:"
    yield from (_plain_day_line(day) for day in material.days)
    yield from (f"PARTIAL, {count}: {gap}." for gap, count in view_model.gap_counts(material.days).items())


def _plain_day_line(day: DaySummary) -> str:
    if day.state is DayState.NO_DATA:
        return f"{short_date(day.day.on)}: {day.state}."
    _, state, heard, speech, unsure, mostly, pleasant = view_model.day_cells(day)
    more = [f"unsure {unsure}" if unsure else "", f"mostly {mostly}" if mostly != view_model.TOO_LITTLE else "too little speech for shares"]
    more.append(f"pleasantness {pleasant}" if pleasant else "")
    return f"{short_date(day.day.on)}: {state}; recorded {heard}; speech {speech}; {'; '.join(part for part in more if part)}."


def _plain_footing(material: ReportData) -> Iterator[str]:
    models = view_model.models_text(material.bundles, "hours" if material.period.is_day else "days")
    if models:
        yield models
    yield DISCLAIMER
    if material.contacts:
        yield "Who you can call:"
        yield from material.contacts
