"""What every chart has in common: quiet axes, a legend that names all it draws, and words for those who cannot see it."""

from collections.abc import Sequence
from typing import Any

from monitor.charts.palette import FAINT, LINE, NOT_HEARD, TEXT, Ink

Option = dict[str, Any]
"""What ECharts draws, as plain data that JSON can hold."""

FONT_PX = 11
_FONT = {"fontSize": FONT_PX, "color": TEXT, "fontFamily": "inherit"}


def chart(description: str, *, grid: Option, x: Option | list[Option], y: Option | list[Option], series: list[Option]) -> Option:
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
            "textStyle": {"fontSize": FONT_PX, "color": TEXT},
        },
        "tooltip": {"trigger": "item", "formatter": "{b}", "renderMode": "richText"},
        "xAxis": x,
        "yAxis": y,
        "series": series,
    }


def categories(names: Sequence[str], *, shown: Sequence[str] | None = None, **more: Any) -> Option:
    """An axis of names. shown: the label of each, empty for none; by default the names, as many as fit."""
    return {
        "type": "category",
        "data": list(names if shown is None else shown),
        "axisLabel": {"fontSize": FONT_PX, "color": TEXT, "interval": "auto" if shown is None else 0, "hideOverlap": True},
        "axisLine": {"lineStyle": {"color": LINE}, "onZero": False},
        "axisTick": {"show": False},
        "splitLine": {"show": False},
        **more,
    }


def values(name: str, *, low: float | None = None, high: float | None = None, **more: Any) -> Option:
    """An axis of numbers, with what they are written beside it."""
    return {
        "type": "value",
        "min": low,
        "max": high,
        "name": name,
        "nameLocation": "middle",
        "nameGap": 44,
        "nameTextStyle": {"color": TEXT, "fontSize": FONT_PX},
        "axisLabel": {"fontSize": FONT_PX, "color": TEXT},
        "splitLine": {"lineStyle": {"color": "#e6e6e6"}},
        **more,
    }


def hidden(kind: str = "value", **more: Any) -> Option:
    """An axis that places things and is not drawn."""
    return {"type": kind, "show": False, **more}


def backdrop(name: str, present: Sequence[bool], *, ink: Ink = NOT_HEARD, label: str = "") -> Option:
    """Hatched columns as high as the chart, where `present`, on a second, hidden axis from 0 to 1; label: written upon them."""
    text = {"show": bool(label), "formatter": label, "color": FAINT, "fontSize": 9, "position": "inside", "rotate": 90}
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
