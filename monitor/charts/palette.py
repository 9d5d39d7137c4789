"""The one place for the colours and patterns of charts: emotions, kinds of coverage, and what is not known.

Colours are those of Okabe and Ito (2008), which people with any common colour blindness tell apart; each has a pattern of its own, so
that nothing depends on colour. What was not heard is always white and hatched. Knows no chart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from types import MappingProxyType
from typing import Any

from model.types import Emotion
from monitor.store.records import Coverage

TEXT = "#222222"
FAINT = "#5c5c5c"
LINE = "#b8b8b8"
ESTIMATE = "#0b4f7d"
BAND = "#cfe3f1"
SAID = "#a8480b"

_ON_COLOUR = "rgba(0,0,0,0.28)"
_ON_WHITE = "#8a8a8a"


@dataclass(frozen=True, slots=True)
class Ink:
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


EMOTIONS: Mapping[Emotion, Ink] = MappingProxyType(
    {
        Emotion.HAPPY: Ink("#f0e442", "#222222", "#a39600", _stripes(1, 5, 45)),
        Emotion.SURPRISE: Ink("#e69f00", "#222222", "#b87f00", _dots(5, 0.5)),
        Emotion.NEUTRAL: Ink("#cccccc", "#222222", "#7a7a7a", _SOLID),
        Emotion.SAD: Ink("#0072b2", "#ffffff", "#0072b2", _stripes(1, 5, -45)),
        Emotion.FEAR: Ink("#cc79a7", "#222222", "#a8527f", _stripes(1, 4, 90)),
        Emotion.DISGUST: Ink("#009e73", "#222222", "#00795a", _stripes(1, 4, 0)),
        Emotion.ANGRY: Ink("#d55e00", "#000000", "#b34a00", _stripes(2, 3, 45)),
        Emotion.CONTEMPT: Ink("#7a5230", "#ffffff", "#7a5230", _stripes(2, 3, -45)),
        Emotion.OTHER: Ink("#56b4e9", "#222222", "#2a86bd", _dots(3, 0.6)),
    }
)
"""In the order of stacks and rows: from what is felt as pleasant to what is not."""

UNSURE = Ink("#ffffff", "#222222", "#9a9a9a", _dots(4, 0.5, _ON_WHITE))
UNJUDGED = Ink("#ffffff", "#222222", "#9a9a9a", _stripes(1, 3, 0, _ON_WHITE))
NOT_HEARD = Ink("#ffffff", FAINT, LINE, _stripes(1, 6, 45, "#c4c4c4"))

COVERAGE: Mapping[Coverage, Ink] = MappingProxyType(
    {
        Coverage.HEARD: Ink("#4d4d4d", "#ffffff", "#8a8a8a", _SOLID),
        Coverage.ENGINE_DOWN: Ink("#a6a6a6", "#222222", "#8a8a8a", _stripes(2, 3, 90)),
        Coverage.PAUSED: Ink("#ffffff", "#222222", "#8a8a8a", _stripes(1.5, 4, 45, _ON_WHITE)),
        Coverage.MUTED: Ink("#ffffff", "#222222", "#8a8a8a", _dots(4, 0.6, _ON_WHITE)),
        Coverage.DEVICE_LOST: Ink("#ffffff", "#222222", "#8a8a8a", _stripes(1.5, 4, -45, _ON_WHITE)),
        Coverage.OVERFLOW: Ink("#ffffff", "#222222", "#8a8a8a", _stripes(1.5, 2, 90, _ON_WHITE)),
        Coverage.NOT_RUNNING: Ink("#ffffff", "#222222", "#8a8a8a", _stripes(1, 5, 0, "#c4c4c4")),
    }
)
