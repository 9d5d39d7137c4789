"""Charts of many days: a measure against the usual range, coverage, emotion shares, and a calendar.

A day without data is hatched and named in each of them, and no line or bar is drawn through it. Pure functions from summaries and
trends to ECharts options.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from model.emotions import Emotion
from monitor.analysis.formatting import COVERAGE_TEXTS, format_duration, format_percent, short_date
from monitor.analysis.summary import DayState, DaySummary
from monitor.analysis.trend import MIN_SHARE_SPEECH_S, Trend, TrendPoint, UsualRange
from monitor.reports.charts.style import (
    CHECKIN_COLOUR,
    COVERAGE_FILLS,
    EMOTION_FILLS,
    ESTIMATE_COLOUR,
    FAINT_COLOUR,
    FONT_PX,
    NOT_RECORDED_FILL,
    UNJUDGED_FILL,
    USUAL_RANGE_COLOUR,
    ChartOption,
    category_axis,
    hatched_background,
    hidden_axis,
    make_chart,
    value_axis,
)

NO_DATA = DayState.NO_DATA.value
_NAMED_UP_TO = 40
_WEEK = 7
_ROOM_FOR_A_LETTER = 0.06
_AXES = {"valence": "pleasantness", "arousal": "excitement", "speech_per_hour": "min per hour"}
_MAY_BE_NEGATIVE = ("-1 to 1", "dB re full scale")


def trend_chart(of: Trend, said: Mapping[date, Sequence[float]] | None = None) -> ChartOption:
    """A measure day by day with the usual range behind it; days outside it are triangles, days heard in part are hollow.

    said: valences of the person's check-ins by day, drawn on the same axis; only for the measure "valence".
    """
    days = [point.on for point in of.points]
    low, high = (-1, 1) if said else (None, None)
    return make_chart(
        _trend_words(of, said or {}),
        grid={"left": 58},
        x=_days_axis(days),
        y=[value_axis(_AXES.get(of.measure.key, of.measure.unit), low=low, high=high, scale=True, nameGap=40), hidden_axis(min=0, max=1)],
        series=[*_band(of), _line(of), *_said(days, said or {}), _without_data([point.state for point in of.points])],
    )


def coverage_chart(days: Sequence[DaySummary]) -> ChartOption:
    """Hours of each day by what became of them: heard, paused, lost, off."""
    kinds = [kind for kind in COVERAGE_FILLS if any(kind in day.coverage_s for day in days)]
    series = [
        {
            "type": "bar",
            "stack": "coverage",
            "name": COVERAGE_TEXTS[kind][0].lower(),
            "barWidth": "82%",
            "itemStyle": COVERAGE_FILLS[kind].item_style,
            "data": [round(day.coverage_s.get(kind, 0.0) / 3600, 3) or None for day in days],
        }
        for kind in kinds
    ]
    heard = sum(day.heard_s for day in days)
    return make_chart(
        f"Hours of each day by coverage. {format_duration(heard)} were recorded in total; {_without_words(days)}.",
        grid={"left": 58},
        x=_days_axis([day.day.on for day in days]),
        y=value_axis("hours", low=0, high=24, interval=6, nameGap=40),
        series=series,
    )


def shares_chart(days: Sequence[DaySummary]) -> ChartOption:
    """The shares of each day's speech, estimated or counted; days with too little of it are hatched and have no bar."""
    told = [day.speech.shares if day.speech.basis.seconds >= MIN_SHARE_SPEECH_S else {} for day in days]
    what = "speech, estimated" if any(day.speech.estimated for day in days) else "sure speech"
    found = [emotion for emotion in EMOTION_FILLS if any(share.get(emotion) for share in told)]
    wide = len(days) <= _NAMED_UP_TO
    series: list[ChartOption] = [
        {
            "type": "bar",
            "stack": "shares",
            "name": emotion.word,
            "barWidth": "82%",
            "itemStyle": EMOTION_FILLS[emotion].item_style,
            "label": {"formatter": emotion.value, "color": EMOTION_FILLS[emotion].on, "fontSize": 9, "textBorderWidth": 0},
            "data": [
                {
                    "value": round(100 * share.get(emotion, 0.0), 2) or None,
                    "label": {"show": wide and share.get(emotion, 0.0) > _ROOM_FOR_A_LETTER},
                }
                for share in told
            ],
        }
        for emotion in found
    ]
    little = [day.state is not DayState.NO_DATA and not share for day, share in zip(days, told, strict=True)]
    if any(little):
        series.append(hatched_background("too little speech", little, ink=UNJUDGED_FILL))
    words = "; ".join(f"{short_date(day.day.on)} {_share_words(share)}" for day, share in zip(days, told, strict=True) if share)
    return make_chart(
        f"Shares of each day's {what}, by emotion. {words or 'No day has enough speech'}. {_without_words(days)}.",
        grid={"left": 58},
        x=_days_axis([day.day.on for day in days]),
        y=[value_axis(f"% of {what}", low=0, high=100, interval=25, nameGap=40), hidden_axis(min=0, max=1)],
        series=[*series, _without_data([day.state for day in days])],
    )


def calendar_chart(days: Sequence[DaySummary]) -> ChartOption:
    """A row a week, Monday first: each day with the emotion of most of its speech, or why none is named."""
    first = days[0].day.on - timedelta(days=days[0].day.on.weekday())
    weeks = [first + timedelta(weeks=number) for number in range((days[-1].day.on - first).days // _WEEK + 1)]
    names = [short_date(week)[4:] for week in weeks]
    cells = [_cell(day, (day.day.on - first).days) for day in days]
    told = "; ".join(f"{short_date(day.day.on)} {_cell_word(day)}" for day in days)
    return make_chart(
        f"Calendar: the emotion with the largest share of each day's speech. {told}.",
        grid={"left": 58, "top": 22, "bottom": 4, "right": 4},
        x=category_axis(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], position="top", axisLine={"show": False}),
        y=category_axis(names, inverse=True, axisLine={"show": False}),
        series=[{"type": "heatmap", "data": cells, "silent": False}],
    ) | {"visualMap": {"show": False, "min": 0, "max": 1, "seriesIndex": []}}


def _days_axis(days: Sequence[date]) -> ChartOption:
    return category_axis([short_date(day) if len(days) <= _WEEK else short_date(day)[4:] for day in days])


def _without_data(states: Sequence[DayState]) -> ChartOption:
    label = NO_DATA if len(states) <= _NAMED_UP_TO else ""
    return hatched_background(NO_DATA, [state is DayState.NO_DATA for state in states], label=label)


def _band(of: Trend) -> list[ChartOption]:
    """Two lines, one upon the other: the lower edge, unseen, and the range above it, filled."""
    bands = [point.band for point in of.points]
    if not any(bands):
        return []
    lower = [round(_lowest(band, of.measure.unit), 5) if band else None for band in bands]
    height = [round(band.high - low, 5) if band and low is not None else None for band, low in zip(bands, lower, strict=True)]
    common = {
        "type": "line",
        "stack": "usual",
        "stackStrategy": "all",
        "symbol": "none",
        "silent": True,
        "z": 1,
        "lineStyle": {"opacity": 0},
    }
    plain = {"color": USUAL_RANGE_COLOUR, "decal": {"symbol": "none"}}
    return [
        {**common, "data": lower, "itemStyle": plain},
        {
            **common,
            "name": "your usual range",
            "data": height,
            "areaStyle": {**plain, "opacity": 1},
            "itemStyle": plain,
            "legendIcon": "rect",
        },
    ]


def _lowest(band: UsualRange, unit: str) -> float:
    """The lower edge, but not below what can be."""
    return band.low if unit in _MAY_BE_NEGATIVE else max(0.0, band.low)


def _line(of: Trend) -> ChartOption:
    name = "estimate" if of.measure.key == "valence" else of.measure.words
    changed: list[ChartOption] = [{"xAxis": index} for index, point in enumerate(of.points) if point.model_changed]
    learned = [index for index, point in enumerate(of.points) if point.voice_changed and not point.model_changed]
    changed += [{"xAxis": index, "label": {"formatter": "new voice reference"}} for index in learned]
    marks = {
        "symbol": "none",
        "silent": True,
        "data": changed,
        "lineStyle": {"color": FAINT_COLOUR, "type": "dashed"},
        "label": {"formatter": "new model", "fontSize": FONT_PX - 1, "color": FAINT_COLOUR, "position": "insideEndTop"},
    }
    return {
        "type": "line",
        "name": name,
        "data": [_point(point) for point in of.points],
        "itemStyle": {"color": ESTIMATE_COLOUR, "decal": {"symbol": "none"}},
        "lineStyle": {"width": 1.5, "color": ESTIMATE_COLOUR},
        "symbol": "circle",
        "symbolSize": 5,
        "z": 3,
        "markLine": marks,
    }


def _point(point: TrendPoint) -> ChartOption:
    if point.value is None:
        return {"value": None}
    data: ChartOption = {"value": round(point.value, 4), "name": short_date(point.on)}
    if point.outside:
        return data | {"symbol": "triangle", "symbolSize": 11, "symbolRotate": 0 if point.outside > 0 else 180}
    if point.state is DayState.PARTIAL:
        return data | {"symbol": "emptyCircle", "symbolSize": 6}
    return data


def _said(days: Sequence[date], said: Mapping[date, Sequence[float]]) -> list[ChartOption]:
    data = [[days.index(day), valence] for day, valences in said.items() if day in days for valence in valences]
    if not data:
        return []
    return [
        {
            "type": "scatter",
            "name": "check-ins",
            "data": data,
            "symbol": "diamond",
            "symbolSize": 9,
            "color": CHECKIN_COLOUR,
            "z": 4,
        },
    ]


def _cell(day: DaySummary, place: int) -> ChartOption:
    leading = _leading(day)
    ink = NOT_RECORDED_FILL if day.state is DayState.NO_DATA else UNJUDGED_FILL if leading is None else EMOTION_FILLS[leading]
    label = {
        "show": True,
        "formatter": f"{day.day.on.day}\n{_cell_word(day)}",
        "color": "#222222" if leading is None else ink.on,
        "fontSize": FONT_PX - 1,
        "lineHeight": FONT_PX + 2,
        "textBorderWidth": 0,
        "backgroundColor": "rgba(255,255,255,0.75)" if leading is None else "transparent",
    }
    return {
        "value": [place % _WEEK, place // _WEEK, 1],
        "itemStyle": {**ink.item_style, "borderColor": "#ffffff", "borderWidth": 2},
        "label": label,
    }


def _leading(day: DaySummary) -> Emotion | None:
    """The emotion of most speech, where there is enough of it to colour a day."""
    return day.speech.leading if day.speech.basis.seconds >= MIN_SHARE_SPEECH_S else None


def _cell_word(day: DaySummary) -> str:
    if day.state is DayState.NO_DATA:
        return NO_DATA
    leading = _leading(day)
    if leading is not None:
        word = leading.word
    elif day.speech.sure.segments:
        word = "too little"
    else:
        word = "unsure" if day.speech.total.segments else "no speech"
    return f"{word} (part)" if day.state is DayState.PARTIAL else word


def _trend_words(of: Trend, said: Mapping[date, Sequence[float]]) -> str:
    known = [point for point in of.points if point.value is not None]
    outside = [point for point in known if point.outside]
    missing = sum(point.state is DayState.NO_DATA for point in of.points)
    values_told = ", ".join(f"{short_date(point.on)} {point.value:.2f}" for point in known) or "unknown for every day"
    parts = [
        f"{of.measure.words.capitalize()} day by day ({of.measure.unit}): {values_told}",
        f"outside your usual range on {len(outside)} of {len(known)} days",
        f"{missing} of {len(of.points)} days have {NO_DATA}",
    ]
    if said:
        told = ", ".join(f"{short_date(day)} {valence:+.1f}" for day, valences in sorted(said.items()) for valence in valences)
        parts.append(f"check-ins: {told}")
    return ". ".join(parts) + "."


def _share_words(shares: Mapping[Emotion, float]) -> str:
    return ", ".join(f"{emotion.word} {format_percent(share)}" for emotion, share in shares.items() if share)


def _without_words(days: Sequence[DaySummary]) -> str:
    missing = [short_date(day.day.on) for day in days if day.state is DayState.NO_DATA]
    return f"{len(missing)} of {len(days)} days have {NO_DATA}" + (f": {', '.join(missing)}" if missing else "")
