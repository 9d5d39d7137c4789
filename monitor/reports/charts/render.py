"""Renders charts as SVG without a browser: ECharts in an embedded JavaScript engine that reaches neither network nor files.

The SVG holds no script and loads nothing.
"""

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from py_mini_racer import MiniRacer

LIBRARY = Path(__file__).parent / "vendor" / "echarts.min.js"
SERIES = Path(__file__).parent / "time_range_series.js"

_DRAW = """
const draw = (option, width, height) => {
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width: width, height: height });
  chart.setOption(option);
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
};
"""
# What only a pointer would notice: a style sheet for hovering, and marks by which a script would find its data.
_FOR_POINTERS = re.compile(r"<style.*?</style>\n?| class=\"zr[^\"]*\"| ecmeta_\w+=\"[^\"]*\"| pointer-events=\"\w+\"", re.DOTALL)
_PATTERN = re.compile(r'<pattern [^>]*id="([\w-]+)">(.*?)</pattern>', re.DOTALL)
_ROOT = re.compile(r"^<svg width=\"\d+\" height=\"\d+\"")


class ChartRenderer:
    """An engine that has loaded ECharts (0.3 s); draws any number of charts for one page, in one thread, and is closed."""

    def __init__(self) -> None:
        self._engine = MiniRacer()
        self._engine.eval("\n".join([LIBRARY.read_text(encoding="utf-8"), SERIES.read_text(encoding="utf-8"), _DRAW, "0"]))

    def svg(self, option: Mapping[str, Any], width: int, height: int) -> str:
        """The chart as an <svg> element that scales with its page; described to screen readers by the option's own words.

        width, height: in CSS pixels at which text has its natural size.
        """
        drawn = self._engine.eval(f"draw({json.dumps(option)}, {width}, {height})")
        if not isinstance(drawn, str):
            raise TypeError(f"ECharts drew {type(drawn).__name__} instead of SVG")
        description = escape(option["aria"]["label"]["description"], quote=True)
        return _ROOT.sub(f'<svg role="img" aria-label="{description}"', _lean(drawn), count=1)

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _lean(drawn: str) -> str:
    """The SVG without what nobody can see: helps for pointers, and patterns without a mark, which take long to print."""
    svg = _FOR_POINTERS.sub("", drawn)
    for name, marks in _PATTERN.findall(svg):
        if ' d="M' not in marks:
            svg = re.sub(rf'<path [^>]*fill="url\(#{name}\)"[^>]*></path>\n?', "", svg)
    return svg
