"""Charts of one day: coverage and segments, emotions by hour, and valence beside check-ins.

The horizontal axis is the local clock, hour by hour, so days of 23 and 25 hours are drawn as they were. Pure functions from summaries to
ECharts options.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from model.emotions import Emotion
from monitor.analysis.formatting import COVERAGE_TEXTS, format_duration
from monitor.analysis.summary import DaySummary, SpeechSummary
from monitor.reports.charts.style import (
    CHECKIN_COLOUR,
    COVERAGE_FILLS,
    EMOTION_FILLS,
    ESTIMATE_COLOUR,
    UNJUDGED_FILL,
    UNSURE_FILL,
    ChartOption,
    FillStyle,
    category_axis,
    hatched_background,
    hidden_axis,
    make_chart,
    value_axis,
)
from monitor.storage.records import CheckIn, SegmentRecord

_JOINED_HOURS = 60 / 3600
_ROOM_FOR_A_LETTER = 0.09


def timeline_chart(summary: DaySummary, entries: Iterable[SegmentRecord]) -> ChartOption:
    """When the microphone heard and why it did not, and below it every stretch of speech in the row of its emotion."""
    rows = ["microphone", *(emotion.word for emotion in EMOTION_FILLS if emotion in summary.speech.emotions)]
    time_ranges = _by_row(summary, entries)
    rows += [name for name in ("unsure", "not analysed") if name in time_ranges]
    series = [_coverage(summary)] + [_row(time_ranges[name], rows.index(name), _ink(name)) for name in rows if name in time_ranges]
    found = ", ".join(f"{name} {len(time_ranges[name])}" for name in rows if name in time_ranges) or "none"
    heard = ", ".join(f"{COVERAGE_TEXTS[kind][0].lower()} {format_duration(seconds)}" for kind, seconds in summary.coverage_s.items())
    return make_chart(
        f"The day from left to right. Microphone: {heard or 'no data'}. Speech segments by emotion: {found}.",
        grid={"bottom": 20},
        x=[hidden_axis(min=0, max=len(summary.hours)), clock_axis(summary)],
        y=category_axis(rows, shown=rows, inverse=True, splitLine={"show": True, "interval": 0, "lineStyle": {"color": "#eeeeee"}}),
        series=[*series, *_coverage_legend(summary), _holds_axis()],
    )


def speech_by_hour_chart(summary: DaySummary) -> ChartOption:
    """Minutes of speech in every hour, stacked by emotion; hatched where nothing was heard."""
    parts = _parts(summary)
    highest = max((sum(filter(None, minutes)) for minutes in zip(*parts.values(), strict=True)), default=0.0)
    series = [_stack(name, minutes, highest) for name, minutes in parts.items() if any(minutes)]
    return make_chart(
        f"Minutes of speech in each hour of the day by emotion. {_spoken(summary, parts)}",
        grid={"bottom": 20},
        x=clock_axis(summary),
        y=[value_axis("minutes of speech", low=0, minInterval=1), hidden_axis(min=0, max=1)],
        series=[*series, hatched_background("not recorded", _unheard(summary))],
    )


def valence_by_hour_chart(summary: DaySummary, checkins: Sequence[CheckIn]) -> ChartOption:
    """How pleasant the voice sounded in each hour, and how the person said they felt, on one scale from -1 to 1."""
    estimated = [hour.speech.affect.valence.mean if hour.speech.affect else None for hour in summary.hours]
    said = [[_place(summary, one.at), one.valence] for one in checkins]
    return make_chart(
        f"Estimated pleasantness of the voice in each hour, from -1 (unpleasant) to 1 (pleasant): {_listed(summary, estimated)}. "
        f"Check-ins: {_said_words(summary, checkins)}.",
        grid={"bottom": 20},
        x=[clock_axis(summary), hidden_axis(min=0, max=len(summary.hours))],
        y=[value_axis("pleasantness", low=-1, high=1, interval=0.5), hidden_axis(min=0, max=1)],
        series=[
            {
                "type": "line",
                "name": "estimate",
                "data": estimated,
                "symbol": "circle",
                "symbolSize": 6,
                "color": ESTIMATE_COLOUR,
                "lineStyle": {"width": 1.5},
            },
            {
                "type": "scatter",
                "name": "check-ins",
                "xAxisIndex": 1,
                "data": said,
                "symbol": "diamond",
                "symbolSize": 12,
                "color": CHECKIN_COLOUR,
            },
            hatched_background("not recorded", _unheard(summary)),
        ],
    )


def clock_axis(summary: DaySummary) -> ChartOption:
    """The axis of the day's hours, labelled every third."""
    labels = [hour.label for hour in summary.hours]
    return category_axis(
        labels, shown=[label[:2] if label.endswith(":00") and int(label[:2]) % 3 == 0 else "" for label in labels], position="bottom"
    )


def _unheard(summary: DaySummary) -> list[bool]:
    """The hours of which nothing was heard; those still to come are none of them."""
    return [not hour.heard_s and hour.start < summary.now for hour in summary.hours]


def _place(summary: DaySummary, moment: datetime) -> float:
    """Where a moment lies on the clock axis: hours before it, and the part of its own hour."""
    starts = [hour.start for hour in summary.hours]
    index = bisect_right(starts, moment) - 1
    if index < 0:
        return 0.0
    hour = summary.hours[index]
    return index + min(1.0, (moment - hour.start).total_seconds() / hour.length_s)


def _by_row(summary: DaySummary, entries: Iterable[SegmentRecord]) -> Mapping[str, list[tuple[float, float]]]:
    """Where the segments lie on the clock axis, by the name of their row; what nearly touches is one, as nobody could see the gap."""
    found: dict[str, list[tuple[float, float]]] = {}
    for entry in sorted(entries, key=lambda entry: entry.start_at):
        row = found.setdefault(_row_of(entry), [])
        start, end = _place(summary, entry.start_at), _place(summary, entry.end_at)
        if row and start - row[-1][1] < _JOINED_HOURS:
            row[-1] = (row[-1][0], max(end, row[-1][1]))
        else:
            row.append((start, end))
    return found


def _row_of(entry: SegmentRecord) -> str:
    if entry.correction is not None:
        return entry.correction.emotion.word
    if entry.prediction is None:
        return "not analysed"
    return "unsure" if entry.prediction.unsure else entry.prediction.emotion.word


def _ink(row: str) -> FillStyle:
    return {"unsure": UNSURE_FILL, "not analysed": UNJUDGED_FILL}.get(row) or EMOTION_FILLS[Emotion[row.upper()]]


def _row(time_ranges: Sequence[tuple[float, float]], row: int, ink: FillStyle) -> ChartOption:
    style = {"color": ink.edge, "decal": {"symbol": "none"}}
    data = [[round(start, 4), round(end, 4), row] for start, end in time_ranges]
    return {"type": "custom", "renderItem": "timeRange", "itemStyle": style, "data": data, "silent": True}


def _coverage(summary: DaySummary) -> ChartOption:
    data = []
    for part in summary.coverage:
        word, meaning = COVERAGE_TEXTS[part.kind]
        times = " to ".join(f"{moment.astimezone(summary.day.zone):%H:%M}" for moment in (part.start_at, part.end_at))
        place = [_place(summary, part.start_at), _place(summary, part.end_at), 0]
        data.append({"value": place, "name": f"{times} {word}: {meaning}", "itemStyle": COVERAGE_FILLS[part.kind].item_style})
    return {"type": "custom", "renderItem": "timeRange", "data": data}


def _coverage_legend(summary: DaySummary) -> list[ChartOption]:
    """Series without data, so that the legend names each kind of coverage that the strip shows."""
    return [
        {"type": "bar", "name": COVERAGE_TEXTS[kind][0].lower(), "data": [], "itemStyle": COVERAGE_FILLS[kind].item_style}
        for kind in summary.coverage_s
    ]


def _holds_axis() -> ChartOption:
    """An axis without a series would not be drawn."""
    return {"type": "bar", "xAxisIndex": 1, "data": []}


def _parts(summary: DaySummary) -> dict[str, list[float]]:
    """Minutes of each hour by what became of the speech, in the order of the stack."""
    found = [emotion for emotion in EMOTION_FILLS if emotion in summary.speech.emotions]
    minutes = {emotion.word: [_minutes(hour.speech, emotion) for hour in summary.hours] for emotion in found}
    minutes["unsure"] = [hour.speech.unsure.seconds / 60 for hour in summary.hours]
    minutes["not analysed"] = [(hour.speech.waiting + hour.speech.given_up).seconds / 60 for hour in summary.hours]
    return minutes


def _minutes(speech: SpeechSummary, emotion: Emotion) -> float:
    return speech.emotions[emotion].seconds / 60 if emotion in speech.emotions else 0.0


def _stack(name: str, minutes: Sequence[float], highest: float) -> ChartOption:
    ink = _ink(name)
    data = [
        {
            "value": round(one, 3) or None,
            "label": {"show": one > _ROOM_FOR_A_LETTER * highest},
            "name": f"{name}: {format_duration(one * 60)}",
        }
        for one in minutes
    ]
    letter = Emotion[name.upper()].value if name.upper() in Emotion.__members__ else "?"
    return {
        "type": "bar",
        "stack": "speech",
        "name": name,
        "data": data,
        "barWidth": "82%",
        "itemStyle": ink.item_style,
        "label": {"formatter": letter, "color": ink.on, "fontSize": 9, "textBorderWidth": 0},
    }


def _spoken(summary: DaySummary, parts: Mapping[str, Sequence[float]]) -> str:
    unheard = sum(_unheard(summary))
    totals = ", ".join(f"{name} {format_duration(sum(minutes) * 60)}" for name, minutes in parts.items() if any(minutes))
    return f"In total: {totals or 'no speech'}. {unheard} of {len(summary.hours)} hours were not recorded at all."


def _listed(summary: DaySummary, amounts: Sequence[float | None]) -> str:
    known = [f"{hour.label} {value:+.2f}" for hour, value in zip(summary.hours, amounts, strict=True) if value is not None]
    return ", ".join(known) or "unknown for every hour"


def _said_words(summary: DaySummary, checkins: Sequence[CheckIn]) -> str:
    said = [f"{one.at.astimezone(summary.day.zone):%H:%M} {one.valence:+.2f}, {one.emotion.word}" for one in checkins]
    return "; ".join(said) or "none"
