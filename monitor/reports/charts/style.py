"""Colours, patterns, axes and legends shared by all charts.

Colours are those of Okabe and Ito (2008), distinguishable with any common colour blindness. Each also has its own pattern, so nothing
depends on colour. Time without recording is always white and hatched. Every chart carries a description for screen readers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi
from types import MappingProxyType
from typing import Any

from model.emotions import Emotion
from monitor.storage.records import Coverage

TEXT_COLOUR = "#222222"
FAINT_COLOUR = "#5c5c5c"
LINE_COLOUR = "#b8b8b8"
ESTIMATE_COLOUR = "#0b4f7d"
USUAL_RANGE_COLOUR = "#cfe3f1"
CHECKIN_COLOUR = "#a8480b"

_ON_COLOUR = "rgba(0,0,0,0.28)"
_ON_WHITE = "#8a8a8a"


@dataclass(frozen=True, slots=True)
class FillStyle:
    """How something is filled. colour: CSS; decal: the pattern, as ECharts describes one.

    on: the colour of text upon it. edge: a colour that shows on white even where it is a thin line.
    """

    colour: str
    on: str
    edge: str
    decal: Mapping[str, Any]

    @property
    def item_style(self) -> dict[str, Any]:
        """The fill as ECharts takes it."""
        return {"color": self.colour, "decal": dict(self.decal), "borderColor": self.edge, "borderWidth": 0.5}


_SOLID: Mapping[str, Any] = {"symbol": "none"}


def _stripes(width: float, gap: float, angle: float, colour: str = _ON_COLOUR) -> Mapping[str, Any]:
    return {"symbol": "rect", "color": colour, "dashArrayX": [1, 0], "dashArrayY": [width, gap], "rotation": angle * pi / 180}


def _dots(gap: float, size: float, colour: str = _ON_COLOUR) -> Mapping[str, Any]:
    grid = [[gap, gap], [0, gap, gap, 0]]
    return {"symbol": "circle", "color": colour, "symbolSize": size, "dashArrayX": grid, "dashArrayY": [gap, 0]}


EMOTION_FILLS: Mapping[Emotion, FillStyle] = MappingProxyType(
    {
        Emotion.HAPPY: FillStyle("#f0e442", "#222222", "#a39600", _stripes(1, 5, 45)),
        Emotion.SURPRISE: FillStyle("#e69f00", "#222222", "#b87f00", _dots(5, 0.5)),
        Emotion.NEUTRAL: FillStyle("#cccccc", "#222222", "#7a7a7a", _SOLID),
        Emotion.SAD: FillStyle("#0072b2", "#ffffff", "#0072b2", _stripes(1, 5, -45)),
        Emotion.FEAR: FillStyle("#cc79a7", "#222222", "#a8527f", _stripes(1, 4, 90)),
        Emotion.DISGUST: FillStyle("#009e73", "#222222", "#00795a", _stripes(1, 4, 0)),
        Emotion.ANGRY: FillStyle("#d55e00", "#000000", "#b34a00", _stripes(2, 3, 45)),
        Emotion.CONTEMPT: FillStyle("#7a5230", "#ffffff", "#7a5230", _stripes(2, 3, -45)),
        Emotion.OTHER: FillStyle("#56b4e9", "#222222", "#2a86bd", _dots(3, 0.6)),
    }
)
"""In the order of stacks and rows: from what is felt as pleasant to what is not."""

UNSURE_FILL = FillStyle("#ffffff", "#222222", "#9a9a9a", _dots(4, 0.5, _ON_WHITE))
UNJUDGED_FILL = FillStyle("#ffffff", "#222222", "#9a9a9a", _stripes(1, 3, 0, _ON_WHITE))
NOT_RECORDED_FILL = FillStyle("#ffffff", FAINT_COLOUR, LINE_COLOUR, _stripes(1, 6, 45, "#c4c4c4"))

COVERAGE_FILLS: Mapping[Coverage, FillStyle] = MappingProxyType(
    {
        Coverage.HEARD: FillStyle("#4d4d4d", "#ffffff", "#8a8a8a", _SOLID),
        Coverage.ENGINE_DOWN: FillStyle("#a6a6a6", "#222222", "#8a8a8a", _stripes(2, 3, 90)),
        Coverage.PAUSED: FillStyle("#ffffff", "#222222", "#8a8a8a", _stripes(1.5, 4, 45, _ON_WHITE)),
        Coverage.MUTED: FillStyle("#ffffff", "#222222", "#8a8a8a", _dots(4, 0.6, _ON_WHITE)),
        Coverage.DEVICE_LOST: FillStyle("#ffffff", "#222222", "#8a8a8a", _stripes(1.5, 4, -45, _ON_WHITE)),
        Coverage.OVERFLOW: FillStyle("#ffffff", "#222222", "#8a8a8a", _stripes(1.5, 2, 90, _ON_WHITE)),
        Coverage.NOT_RUNNING: FillStyle("#ffffff", "#222222", "#8a8a8a", _stripes(1, 5, 0, "#c4c4c4")),
    }
)

ChartOption = dict[str, Any]
"""What ECharts draws, as plain data that JSON can hold."""

FONT_PX = 11
_FONT = {"fontSize": FONT_PX, "color": TEXT_COLOUR, "fontFamily": "inherit"}


def make_chart(
    description: str,
    *,
    grid: ChartOption,
    x: ChartOption | list[ChartOption],
    y: ChartOption | list[ChartOption],
    series: list[ChartOption],
) -> ChartOption:
    """A chart. description: what it shows, in a sentence or two, for screen readers."""
    named = [one for one in series if "name" in one]
    return {
        "animation": False,
        "aria": {"enabled": True, "label": {"description": description}, "decal": {"show": True}},
        "textStyle": _FONT,
        "grid": {"left": 76, "right": 12, "top": 26 if named else 8, "bottom": 22, **grid},
        "legend": {
            "show": bool(named),
            "data": [{"name": one["name"], **({"icon": one["legendIcon"]} if "legendIcon" in one else {})} for one in named],
            "top": 0,
            "left": 0,
            "itemWidth": 18,
            "itemHeight": 11,
            "itemGap": 20,
            "selectedMode": False,
            "itemStyle": {"borderWidth": 0.5},
            "textStyle": {"fontSize": FONT_PX, "color": TEXT_COLOUR},
        },
        "tooltip": {"trigger": "item", "formatter": "{b}", "renderMode": "richText"},
        "xAxis": x,
        "yAxis": y,
        "series": series,
    }


def category_axis(names: Sequence[str], *, shown: Sequence[str] | None = None, **more: Any) -> ChartOption:
    """An axis of names. shown: the label of each, empty for none; by default the names, as many as fit."""
    return {
        "type": "category",
        "data": list(names if shown is None else shown),
        "axisLabel": {"fontSize": FONT_PX, "color": TEXT_COLOUR, "interval": "auto" if shown is None else 0, "hideOverlap": True},
        "axisLine": {"lineStyle": {"color": LINE_COLOUR}, "onZero": False},
        "axisTick": {"show": False},
        "splitLine": {"show": False},
        **more,
    }


def value_axis(name: str, *, low: float | None = None, high: float | None = None, **more: Any) -> ChartOption:
    """An axis of numbers, with what they are written beside it."""
    return {
        "type": "value",
        "min": low,
        "max": high,
        "name": name,
        "nameLocation": "middle",
        "nameGap": 44,
        "nameTextStyle": {"color": TEXT_COLOUR, "fontSize": FONT_PX},
        "axisLabel": {"fontSize": FONT_PX, "color": TEXT_COLOUR},
        "splitLine": {"lineStyle": {"color": "#e6e6e6"}},
        **more,
    }


def hidden_axis(kind: str = "value", **more: Any) -> ChartOption:
    """An axis that places things and is not drawn."""
    return {"type": kind, "show": False, **more}


def hatched_background(name: str, present: Sequence[bool], *, ink: FillStyle = NOT_RECORDED_FILL, label: str = "") -> ChartOption:
    """Hatched columns as high as the chart, where `present`, on a second, hidden axis from 0 to 1; label: written upon them."""
    text = {"show": bool(label), "formatter": label, "color": FAINT_COLOUR, "fontSize": 9, "position": "inside", "rotate": 90}
    return {
        "type": "bar",
        "name": name,
        "data": [1 if one else None for one in present],
        "yAxisIndex": 1,
        "barWidth": "99%",
        "barGap": "-100%",
        "itemStyle": ink.item_style,
        "label": text,
        # Above the usual range and below what was measured.
        "z": 2,
        "silent": True,
    }
