"""Which charts a page shows, of which height, under which title. What they draw is told by `monitor/charts`."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from monitor.charts import of_day as day_charts
from monitor.charts import of_days as days_charts
from monitor.charts.frame import Option
from monitor.day.summary import DayState, DaySummary
from monitor.report.material import Material
from monitor.store.records import CheckIn, TimelineEntry

_MORE_THAN_A_WEEK = 8


@dataclass(frozen=True, slots=True)
class Chart:
    """size: middle, high or calendar, as the style sheet knows them. option: for ECharts."""

    title: str
    size: str
    option: Option
    note: str = ""


def of_day(summary: DaySummary, entries: Sequence[TimelineEntry], checkins: Sequence[CheckIn]) -> list[Chart]:
    """The charts of one day; none of a day of which nothing is known."""
    charts = []
    if summary.state is not DayState.NO_DATA:
        charts.append(Chart("The day as it went", "high", day_charts.strip(summary, entries)))
    if summary.speech.total.segments:
        charts.append(Chart("Speech in each hour", "middle", day_charts.hours(summary)))
    if summary.speech.affect or checkins:
        charts.append(Chart("How pleasant it sounded, and how you said you felt", "middle", day_charts.valence(summary, checkins)))
    return charts


def of_days(material: Material) -> list[Chart]:
    """The charts of a week or a month."""
    days = material.days
    said: defaultdict[date, list[float]] = defaultdict(list)
    for one in material.checkins:
        said[one.at.astimezone(material.period.zone).date()].append(one.valence)
    calendar = [Chart("Most of each day", "calendar", days_charts.calendar(days))] if len(days) >= _MORE_THAN_A_WEEK else []
    return [
        *calendar,
        Chart(
            "How pleasant it sounded, and how you said you felt",
            "middle",
            days_charts.trend(material.trends["valence"], said),
            "Triangles lie outside your usual range, hollow points are of days heard in part.",
        ),
        Chart("What was found on each day", "middle", days_charts.shares(days)),
        Chart("What was heard of each day", "middle", days_charts.coverage(days)),
    ]
