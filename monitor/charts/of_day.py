"""Charts of one day: what was heard when, the emotions hour by hour, and how the person said they felt beside the estimate.

The horizontal axis is the clock on the wall, hour by hour, so that days of 23 and 25 hours are drawn as they were. Pure functions
from summaries to ECharts options.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from model.types import Emotion
from monitor.charts.frame import Option, backdrop, categories, chart, hidden, values
from monitor.charts.palette import COVERAGE, EMOTIONS, ESTIMATE, SAID, UNJUDGED, UNSURE, Ink
from monitor.day.summary import DaySummary, Speech
from monitor.day.wording import COVERAGE_WORDS, span
from monitor.store.records import CheckIn, TimelineEntry

_JOINED_HOURS = 60 / 3600
_ROOM_FOR_A_LETTER = 0.09


def strip(summary: DaySummary, entries: Iterable[TimelineEntry]) -> Option:
    """When the microphone heard and why it did not, and below it every stretch of speech in the row of its emotion."""
    rows = ["microphone", *(emotion.word for emotion in EMOTIONS if emotion in summary.speech.emotions)]
    stretches = _by_row(summary, entries)
    rows += [name for name in ("unsure", "not judged") if name in stretches]
    series = [_coverage(summary)] + [_row(stretches[name], rows.index(name), _ink(name)) for name in rows if name in stretches]
    found = ", ".join(f"{name} {len(stretches[name])}" for name in rows if name in stretches) or "none"
    heard = ", ".join(f"{COVERAGE_WORDS[kind][0].lower()} {span(seconds)}" for kind, seconds in summary.coverage_s.items())
    return chart(
        f"The day from left to right. Microphone: {heard or 'nothing is known'}. Stretches of speech by emotion: {found}.",
        grid={"bottom": 20},
        x=[hidden(min=0, max=len(summary.hours)), clock(summary)],
        y=categories(rows, shown=rows, inverse=True, splitLine={"show": True, "interval": 0, "lineStyle": {"color": "#eeeeee"}}),
        series=[*series, *_coverage_legend(summary), _holds_axis()],
    )


def hours(summary: DaySummary) -> Option:
    """Minutes of speech in every hour, stacked by emotion; hatched where nothing was heard."""
    parts = _parts(summary)
    highest = max((sum(filter(None, minutes)) for minutes in zip(*parts.values(), strict=True)), default=0.0)
    series = [_stack(name, minutes, highest) for name, minutes in parts.items() if any(minutes)]
    return chart(
        f"Minutes of speech in each hour of the day by emotion. {_spoken(summary, parts)}",
        grid={"bottom": 20},
        x=clock(summary),
        y=[values("minutes of speech", low=0, minInterval=1), hidden(min=0, max=1)],
        series=[*series, backdrop("nothing heard", _unheard(summary))],
    )


def valence(summary: DaySummary, checkins: Sequence[CheckIn]) -> Option:
    """How pleasant the voice sounded in each hour, and how the person said they felt, on one scale from -1 to 1."""
    estimated = [hour.speech.affect.valence.mean if hour.speech.affect else None for hour in summary.hours]
    said = [[_place(summary, one.at), one.valence] for one in checkins]
    return chart(
        f"Estimated pleasantness of the voice in each hour, -1 unpleasant to 1 pleasant: {_listed(summary, estimated)}. "
        f"How you said you felt: {_said_words(summary, checkins)}.",
        grid={"bottom": 20},
        x=[clock(summary), hidden(min=0, max=len(summary.hours))],
        y=[values("pleasantness", low=-1, high=1, interval=0.5), hidden(min=0, max=1)],
        series=[
            {
                "type": "line",
                "name": "estimate",
                "data": estimated,
                "symbol": "circle",
                "symbolSize": 6,
                "color": ESTIMATE,
                "lineStyle": {"width": 1.5},
            },
            {
                "type": "scatter",
                "name": "how you said you felt",
                "xAxisIndex": 1,
                "data": said,
                "symbol": "diamond",
                "symbolSize": 12,
                "color": SAID,
            },
            backdrop("nothing heard", _unheard(summary)),
        ],
    )


def clock(summary: DaySummary) -> Option:
    """The axis of the day's hours, labelled every third."""
    labels = [hour.label for hour in summary.hours]
    return categories(
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


def _by_row(summary: DaySummary, entries: Iterable[TimelineEntry]) -> Mapping[str, list[tuple[float, float]]]:
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


def _row_of(entry: TimelineEntry) -> str:
    if entry.correction is not None:
        return entry.correction.emotion.word
    if entry.prediction is None:
        return "not judged"
    return "unsure" if entry.prediction.unsure else entry.prediction.emotion.word


def _ink(row: str) -> Ink:
    return {"unsure": UNSURE, "not judged": UNJUDGED}.get(row) or EMOTIONS[Emotion[row.upper()]]


def _row(stretches: Sequence[tuple[float, float]], row: int, ink: Ink) -> Option:
    style = {"color": ink.edge, "decal": {"symbol": "none"}}
    data = [[round(start, 4), round(end, 4), row] for start, end in stretches]
    return {"type": "custom", "renderItem": "stretch", "itemStyle": style, "data": data, "silent": True}


def _coverage(summary: DaySummary) -> Option:
    data = []
    for part in summary.coverage:
        word, meaning = COVERAGE_WORDS[part.kind]
        times = " to ".join(f"{moment.astimezone(summary.day.zone):%H:%M}" for moment in (part.start_at, part.end_at))
        place = [_place(summary, part.start_at), _place(summary, part.end_at), 0]
        data.append({"value": place, "name": f"{times} {word}: {meaning}", "itemStyle": COVERAGE[part.kind].item_style})
    return {"type": "custom", "renderItem": "stretch", "data": data}


def _coverage_legend(summary: DaySummary) -> list[Option]:
    """Series without data, so that the legend names each kind of coverage that the strip shows."""
    return [
        {"type": "bar", "name": kind.value.replace("-", " "), "data": [], "itemStyle": COVERAGE[kind].item_style}
        for kind in summary.coverage_s
    ]


def _holds_axis() -> Option:
    """An axis without a series would not be drawn."""
    return {"type": "bar", "xAxisIndex": 1, "data": []}


def _parts(summary: DaySummary) -> dict[str, list[float]]:
    """Minutes of each hour by what became of the speech, in the order of the stack."""
    found = [emotion for emotion in EMOTIONS if emotion in summary.speech.emotions]
    minutes = {emotion.word: [_minutes(hour.speech, emotion) for hour in summary.hours] for emotion in found}
    minutes["unsure"] = [hour.speech.unsure.seconds / 60 for hour in summary.hours]
    minutes["not judged"] = [(hour.speech.waiting + hour.speech.given_up).seconds / 60 for hour in summary.hours]
    return minutes


def _minutes(speech: Speech, emotion: Emotion) -> float:
    return speech.emotions[emotion].seconds / 60 if emotion in speech.emotions else 0.0


def _stack(name: str, minutes: Sequence[float], highest: float) -> Option:
    ink = _ink(name)
    data = [
        {"value": round(one, 3) or None, "label": {"show": one > _ROOM_FOR_A_LETTER * highest}, "name": f"{name}: {span(one * 60)}"}
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
    totals = ", ".join(f"{name} {span(sum(minutes) * 60)}" for name, minutes in parts.items() if any(minutes))
    return f"In all: {totals or 'no speech'}. {unheard} of {len(summary.hours)} hours were not heard at all."


def _listed(summary: DaySummary, amounts: Sequence[float | None]) -> str:
    known = [f"{hour.label} {value:+.2f}" for hour, value in zip(summary.hours, amounts, strict=True) if value is not None]
    return ", ".join(known) or "not known for any hour"


def _said_words(summary: DaySummary, checkins: Sequence[CheckIn]) -> str:
    said = [f"{one.at.astimezone(summary.day.zone):%H:%M} {one.valence:+.2f}, {one.emotion.word}" for one in checkins]
    return "; ".join(said) or "you said nothing"
