"""Reports as one self-contained HTML page: no scripts, no requests, charts inlined. The same page is printed as the PDF.

A day fits one sheet of A4. Each chart comes with its data as a table, for people who cannot see it or want the numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from monitor.analysis.formatting import COVERAGE_TEXTS, DISCLAIMER, format_duration, format_percent, format_segments, short_date
from monitor.analysis.summary import DayState, DaySummary, SpeechSummary
from monitor.analysis.trend import Trend
from monitor.reports import sentences, view_model
from monitor.reports.charts import day_charts, period_charts
from monitor.reports.charts.render import ChartRenderer
from monitor.reports.charts.style import ChartOption
from monitor.reports.data import RenderOptions, ReportData
from monitor.reports.sentences import format_measure

FIGURE_WIDTH = 760
# A longer calendar would not fit a sheet of paper; the table of days says the same.
_CALENDAR_WEEKS = 14


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under names; the first cell of a row names it. numbers: which columns are set to the right."""

    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()
    caption: str = ""
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn chart. svg: safe to put into a page."""

    title: str
    svg: Markup
    caption: str = ""
    table: Table | None = field(default=None)


def day_figures(material: ReportData, drawing: ChartRenderer) -> list[Figure]:
    """The day: what was heard when, emotions hour by hour, self-report beside the estimate."""
    day, checkins = material.day, material.checkins
    zone = day.day.zone
    coverage = [
        [f"{part.start_at.astimezone(zone):%H:%M} to {part.end_at.astimezone(zone):%H:%M}", *COVERAGE_TEXTS[part.kind]]
        for part in day.coverage
    ]
    said = [[f"{one.at.astimezone(zone):%H:%M}", f"{one.valence:+.2f}", one.emotion.word] for one in checkins]
    estimated = [[f"{hour.label}, estimated", f"{hour.speech.affect.valence.mean:+.2f}", ""] for hour in day.hours if hour.speech.affect]
    return [
        _figure(
            drawing, "The day", day_charts.timeline_chart(day, material.entries), 196, Table(coverage, ("time", "microphone", "meaning"))
        ),
        _figure(drawing, "Hour by hour", day_charts.speech_by_hour_chart(day), 150, _hours_table(day)),
        _figure(
            drawing,
            "Your check-ins and the estimates",
            day_charts.valence_by_hour_chart(day, checkins),
            128,
            Table([*said, *estimated], ("time", "pleasantness, -1 to 1", "your word")),
        ),
    ]


def period_figures(material: ReportData, drawing: ChartRenderer) -> list[Figure]:
    """The period: pleasantness against the usual range beside self-report, shares, how much was heard, a calendar."""
    days = material.days
    drawn = [
        valence_figure(material, drawing, 176),
        _figure(drawing, "Emotions day by day", period_charts.shares_chart(days), 160, _shares_table(days)),
        _figure(
            drawing,
            "Speech",
            period_charts.trend_chart(material.trends["speech_per_hour"]),
            120,
            trend_table(material.trends["speech_per_hour"]),
        ),
        coverage_figure(material, drawing, 120),
    ]
    if _weeks(days) <= _CALENDAR_WEEKS:
        drawn.append(_figure(drawing, "Calendar", period_charts.calendar_chart(days), 30 + 34 * _weeks(days), None))
    return drawn


def valence_figure(material: ReportData, drawing: ChartRenderer, height: int) -> Figure:
    """Pleasantness day by day against the usual range, with what the person said on the same axis."""
    said: dict[date, list[float]] = {}
    for one in material.checkins:
        said.setdefault(one.at.astimezone(material.period.zone).date(), []).append(one.valence)
    trend = material.trends["valence"]
    title = "How pleasant the voice sounded, and your check-ins"
    return _figure(drawing, title, period_charts.trend_chart(trend, said), height, trend_table(trend))


def coverage_figure(material: ReportData, drawing: ChartRenderer, height: int) -> Figure:
    """Hours of each day by what became of them."""
    return _figure(drawing, "Recorded time", period_charts.coverage_chart(material.days), height, _coverage_table(material.days))


def trend_table(trend: Trend) -> Table:
    """A measure day by day with the usual range."""
    rows = []
    for point in trend.points:
        usual = f"{format_measure(trend.measure, point.band.low)} to {format_measure(trend.measure, point.band.high)}" if point.band else ""
        outside = {0: "", 1: "above", -1: "below"}[point.outside]
        value = point.state.value if point.value is None else format_measure(trend.measure, point.value)
        rows.append([short_date(point.on), value, usual, outside])
    return Table(rows, ("day", "estimate", "your usual range", "outside it"))


def _figure(drawing: ChartRenderer, title: str, option: ChartOption, height: int, table: Table | None) -> Figure:
    return Figure(title, Markup(drawing.svg(option, FIGURE_WIDTH, height)), table=table)


def _hours_table(day: DaySummary) -> Table:
    found = [emotion for emotion, amount in day.speech.emotions.items() if amount.segments]
    rows = []
    for hour in day.hours:
        emotions = [format_duration(hour.speech.emotions[emotion].seconds) if emotion in hour.speech.emotions else "" for emotion in found]
        rest = (hour.speech.unsure.seconds, (hour.speech.waiting + hour.speech.given_up).seconds)
        heard = format_duration(hour.heard_s) if hour.heard_s else "not recorded"
        rows.append(
            [
                hour.label,
                heard,
                *(emotions if hour.heard_s else [""] * len(found)),
                *(format_duration(part) if part else "" for part in rest),
            ]
        )
    return Table(rows, ("hour", "recorded", *(emotion.word for emotion in found), "unsure", "not analysed"))


def _shares_table(days: Sequence[DaySummary]) -> Table:
    found = sorted({emotion for day in days for emotion in day.speech.emotions}, key=lambda emotion: emotion.word)
    rows = []
    for day in days:
        shares = day.speech.shares
        state = day.state.value if not shares else format_duration(day.speech.basis.seconds)
        rows.append([short_date(day.day.on), state, *(format_percent(shares[emotion]) if emotion in shares else "" for emotion in found)])
    return Table(rows, ("day", "of speech", *(emotion.word for emotion in found)))


def _coverage_table(days: Sequence[DaySummary]) -> Table:
    kinds = [kind for kind in COVERAGE_TEXTS if any(kind in day.coverage_s for day in days)]
    rows = [
        [
            short_date(day.day.on),
            day.state.value,
            *(format_duration(day.coverage_s[kind]) if kind in day.coverage_s else "" for kind in kinds),
        ]
        for day in days
    ]
    return Table(rows, ("day", "state", *(kind.value.replace("-", " ") for kind in kinds)))


def _weeks(days: Sequence[DaySummary]) -> int:
    return (days[0].day.on.weekday() + len(days) + 6) // 7


_TEMPLATES = Path(__file__).parent / "templates"


def render(report: ReportData, options: RenderOptions) -> bytes:
    """For files; a sheet for a clinician is a page of its own."""
    if options.sheet:
        from monitor.reports.clinician_sheet import to_clinician_sheet

        return to_clinician_sheet(report, options.bundle).encode()
    return to_html(report).encode()


def to_html(material: ReportData) -> str:
    """The report of a day or a period."""
    return render_page("page.html", material, **(_day(material) if material.period.is_day else _period(material)))


def render_page(template: str, material: ReportData, **values: Any) -> str:
    """A template with what every page has: style, notice, contacts, when it was made."""
    zone = material.period.zone
    made = f"Created {material.now.astimezone(zone):%Y-%m-%d %H:%M}, time zone {zone}."
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    values = {"under": made, **values}
    return _environment().get_template(template).render(style=style, notice=DISCLAIMER, contacts=material.contacts, **values)


def _day(material: ReportData) -> dict[str, Any]:
    day = material.day
    with ChartRenderer() as drawing:
        drawn = day_figures(material, drawing) if day.state is not DayState.NO_DATA or material.checkins else []
    tables = [
        ("Recorded time", Table([[row.name, row.amount, row.remark] for row in view_model.coverage_rows(day)], numbers=frozenset({1})))
    ]
    if day.speech.total.segments:
        tables.append(("How the voice sounded", emotions_table(day.speech)))
    return {
        "title": view_model.day_title(day),
        "state": view_model.state_text(day),
        "said": sentences.day_sentences(material),
        "tables": tables,
        "all_figures": drawn,
        "days": None,
        "gaps": {},
        "models": view_model.models_text(material.bundles),
    }


def _period(material: ReportData) -> dict[str, Any]:
    with ChartRenderer() as drawing:
        drawn = period_figures(material, drawing)
    return {
        "title": view_model.period_title(material.period),
        "state": "" if material.known else "NO DATA: nothing was recorded, so nothing is known about these days.",
        "said": sentences.period_sentences(material),
        "tables": [],
        "all_figures": drawn if material.known or material.checkins else [],
        "days": Table([view_model.day_cells(day) for day in material.days], view_model.DAY_COLUMNS, numbers=frozenset({2, 3, 4, 6})),
        "gaps": view_model.gap_counts(material.days),
        "models": view_model.models_text(material.bundles, "days"),
    }


def emotions_table(speech: SpeechSummary) -> Table:
    """The emotions of a day, the largest share first."""
    if not view_model.emotion_rows(speech):
        return Table([], caption="No segment was above the confidence threshold.")
    absent = view_model.absent_emotions(speech)
    caption = f"{view_model.shares_basis(speech)}{f'; not found: {absent}' if absent else ''}"
    listed = [
        [
            found.emotion.word,
            "" if found.share is None else format_percent(found.share),
            view_model.format_interval(found.interval),
            _amount(found),
        ]
        for found in view_model.emotion_rows(speech)
    ]
    if not speech.intervals:
        listed = [[name, share, amount] for name, share, _, amount in listed]
    return Table(listed, caption=caption, numbers=frozenset({1, 2, 3}))


def _amount(found: view_model.EmotionRow) -> str:
    return (
        f"{view_model.format_sure_time(found)} in {format_segments(found.amount.segments)}"
        if found.amount.segments
        else view_model.format_sure_time(found)
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
