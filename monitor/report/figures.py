"""The charts of a page, drawn, each with what it shows as a table for those who cannot see it or want the numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from markupsafe import Markup

from monitor.charts import of_day, of_days
from monitor.charts.frame import Option
from monitor.charts.render import Drawing
from monitor.day.summary import DaySummary
from monitor.day.trend import Trend
from monitor.day.wording import COVERAGE_WORDS, percent, short_date, span
from monitor.report.material import Material
from monitor.report.sentences import size

WIDTH = 760
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


def of_one_day(material: Material, drawing: Drawing) -> list[Figure]:
    """The day: what was heard when, emotions hour by hour, self-report beside the estimate."""
    day, checkins = material.day, material.checkins
    zone = day.day.zone
    coverage = [
        [f"{part.start_at.astimezone(zone):%H:%M} to {part.end_at.astimezone(zone):%H:%M}", *COVERAGE_WORDS[part.kind]]
        for part in day.coverage
    ]
    said = [[f"{one.at.astimezone(zone):%H:%M}", f"{one.valence:+.2f}", one.emotion.word] for one in checkins]
    estimated = [[f"{hour.label}, estimated", f"{hour.speech.affect.valence.mean:+.2f}", ""] for hour in day.hours if hour.speech.affect]
    return [
        _figure(drawing, "The day", of_day.strip(day, material.entries), 196, Table(coverage, ("time", "microphone", "meaning"))),
        _figure(drawing, "Hour by hour", of_day.hours(day), 150, _hours(day)),
        _figure(
            drawing,
            "How you said you felt, beside the estimate",
            of_day.valence(day, checkins),
            128,
            Table([*said, *estimated], ("time", "pleasantness, -1 to 1", "in your word")),
        ),
    ]


def of_period(material: Material, drawing: Drawing) -> list[Figure]:
    """The period: pleasantness against the usual range beside self-report, shares, how much was heard, a calendar."""
    days = material.days
    drawn = [
        valence(material, drawing, 176),
        _figure(drawing, "Emotions day by day", of_days.shares(days), 160, _shares(days)),
        _figure(drawing, "Speech", of_days.trend(material.trends["speech_per_hour"]), 120, trend_table(material.trends["speech_per_hour"])),
        heard(material, drawing, 120),
    ]
    if _weeks(days) <= _CALENDAR_WEEKS:
        drawn.append(_figure(drawing, "Calendar", of_days.calendar(days), 30 + 34 * _weeks(days), None))
    return drawn


def valence(material: Material, drawing: Drawing, height: int) -> Figure:
    """Pleasantness day by day against the usual range, with what the person said on the same axis."""
    said: dict[date, list[float]] = {}
    for one in material.checkins:
        said.setdefault(one.at.astimezone(material.period.zone).date(), []).append(one.valence)
    trend = material.trends["valence"]
    title = "How pleasant the voice sounded, and how you said you felt"
    return _figure(drawing, title, of_days.trend(trend, said), height, trend_table(trend))


def heard(material: Material, drawing: Drawing, height: int) -> Figure:
    """Hours of each day by what became of them."""
    return _figure(drawing, "How much was heard", of_days.coverage(material.days), height, _heard(material.days))


def trend_table(trend: Trend) -> Table:
    """A measure day by day with the usual range."""
    rows = []
    for point in trend.points:
        usual = f"{size(trend.measure, point.band.low)} to {size(trend.measure, point.band.high)}" if point.band else ""
        outside = {0: "", 1: "above", -1: "below"}[point.outside]
        value = point.state.value if point.value is None else size(trend.measure, point.value)
        rows.append([short_date(point.on), value, usual, outside])
    return Table(rows, ("day", "estimate", "your usual range", "outside it"))


def _figure(drawing: Drawing, title: str, option: Option, height: int, table: Table | None) -> Figure:
    return Figure(title, Markup(drawing.svg(option, WIDTH, height)), table=table)


def _hours(day: DaySummary) -> Table:
    found = [emotion for emotion, amount in day.speech.emotions.items() if amount.segments]
    rows = []
    for hour in day.hours:
        emotions = [span(hour.speech.emotions[emotion].seconds) if emotion in hour.speech.emotions else "" for emotion in found]
        rest = (hour.speech.unsure.seconds, (hour.speech.waiting + hour.speech.given_up).seconds)
        heard = span(hour.heard_s) if hour.heard_s else "not heard"
        rows.append([hour.label, heard, *(emotions if hour.heard_s else [""] * len(found)), *(span(part) if part else "" for part in rest)])
    return Table(rows, ("hour", "heard", *(emotion.word for emotion in found), "unsure", "not judged"))


def _shares(days: Sequence[DaySummary]) -> Table:
    found = sorted({emotion for day in days for emotion in day.speech.emotions}, key=lambda emotion: emotion.word)
    rows = []
    for day in days:
        shares = day.speech.shares
        state = day.state.value if not shares else span(day.speech.basis.seconds)
        rows.append([short_date(day.day.on), state, *(percent(shares[emotion]) if emotion in shares else "" for emotion in found)])
    return Table(rows, ("day", "of speech", *(emotion.word for emotion in found)))


def _heard(days: Sequence[DaySummary]) -> Table:
    kinds = [kind for kind in COVERAGE_WORDS if any(kind in day.coverage_s for day in days)]
    rows = [
        [short_date(day.day.on), day.state.value, *(span(day.coverage_s[kind]) if kind in day.coverage_s else "" for kind in kinds)]
        for day in days
    ]
    return Table(rows, ("day", "state", *(kind.value.replace("-", " ") for kind in kinds)))


def _weeks(days: Sequence[DaySummary]) -> int:
    return (days[0].day.on.weekday() + len(days) + 6) // 7
