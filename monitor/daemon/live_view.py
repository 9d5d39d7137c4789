"""What `start` shows: a live panel on a terminal, plain lines elsewhere. Reads a Status; decides nothing.

Everything shown goes to standard error or the terminal only; emotions are never logged.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from zoneinfo import ZoneInfo

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from monitor.daemon.status import MIN_DBFS, RECENT_SEGMENTS, DaemonStatus, RecentSegment
from monitor.inference.protocol import EngineState

_REFRESH_HZ = 8
_METER_CELLS = 24


class PlainView:
    """One line an event, for pipes and screen readers.

    answers: whether emotions are shown too; not where the output is kept, as in the journal of a service.
    """

    def __init__(self, console: Console, zone: ZoneInfo, answers: bool = True) -> None:
        self._console = console
        self._zone = zone
        self._answers = answers
        self._lock = threading.Lock()

    @contextmanager
    def showing(self, status: DaemonStatus) -> Iterator[None]:
        """Nothing to keep up: everything comes by `tell` and `judged`."""
        yield

    def tell(self, text: str) -> None:
        """One line of news."""
        with self._lock:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def judged(self, item: RecentSegment) -> None:
        """One segment."""
        if self._answers:
            self.tell(f"{item.start_at.astimezone(self._zone):%H:%M:%S}  {item.duration_s:4.1f} s  {format_recent_segment(item)}")


class LiveView:
    """A panel that is drawn anew several times a second."""

    def __init__(self, console: Console, zone: ZoneInfo) -> None:
        self._console = console
        self._zone = zone

    @contextmanager
    def showing(self, status: DaemonStatus) -> Iterator[None]:
        """Draw until the block ends; the last state stays on the screen."""
        with Live(
            get_renderable=lambda: self.render(status),
            console=self._console,
            refresh_per_second=_REFRESH_HZ,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield

    def tell(self, text: str) -> None:
        """Drawn from the status."""

    def judged(self, item: RecentSegment) -> None:
        """Drawn from the status."""

    def render(self, status: DaemonStatus) -> RenderableType:
        """The whole panel."""
        parts: list[RenderableType] = [self._head(status), self._segments(status), self._foot(status)]
        titles = {
            "listening": "● microphone open" if status.live else "● hearing a recording",
            "muted": "● microphone open, but muted: it delivers nothing but zeros",
            "paused": "○ paused" + (f" until {status.paused_until.astimezone(self._zone):%H:%M}" if status.paused_until else ""),
        }
        title = titles.get(status.state, f"○ {status.state}")
        return Panel(
            Group(*parts),
            title=Text(title, style="bold red" if status.listening else "dim"),
            subtitle="estimates by a machine, not a diagnosis · Ctrl-C ends",
            width=min(self._console.width, 92),
        )

    def _head(self, status: DaemonStatus) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        source = Text(status.source, overflow="ellipsis", no_wrap=True)
        if not status.listening:
            # No level and no time: the last ones would look as if something were heard.
            grid.add_row(Text("nothing is heard", style="dim"), source)
            return grid
        moment = f"{status.position.astimezone(self._zone):%H:%M:%S}" if status.position else "--:--:--"
        voice = Text("speech", style="bold green") if status.speaking else Text("quiet ", style="dim")
        grid.add_row(Text(moment, style="bold"), level_meter(status.level_dbfs), voice, source)
        return grid

    def _segments(self, status: DaemonStatus) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
        for heading, justify in (("time", "left"), ("length", "right"), ("emotion", "left"), ("confidence", "right")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for item in list(status.recent):
            table.add_row(f"{item.start_at.astimezone(self._zone):%H:%M:%S}", f"{item.duration_s:.1f} s", *_prediction_cells(item))
        for _ in range(RECENT_SEGMENTS - len(status.recent)):
            table.add_row("", "", "", "")
        return table

    def _foot(self, status: DaemonStatus) -> RenderableType:
        counts = f"{status.segments} segments, {status.judged} analysed, {status.waiting} waiting"
        if status.unjudged:
            counts += f", {status.unjudged} not analysed"
        style = {EngineState.READY: "green", EngineState.FAILED: "red"}.get(status.engine, "yellow")
        engine = Text.assemble("engine: ", (status.engine.value, style), f", {status.engine_detail}" if status.engine_detail else "")
        lines = [Text(counts), engine]
        lines += [Text(text, style="bold yellow") for text in (*status.problems, status.ending) if text]
        return Group(*lines)


View = PlainView | LiveView


def level_meter(level_dbfs: float) -> Text:
    """A level from -60 to 0 dB full scale as a bar with its number."""
    share = min(1.0, max(0.0, 1 - level_dbfs / MIN_DBFS))
    cells = round(share * _METER_CELLS)
    return Text.assemble(("█" * cells, "green"), ("░" * (_METER_CELLS - cells), "dim"), f" {max(level_dbfs, MIN_DBFS):4.0f} dB")


def format_recent_segment(item: RecentSegment) -> str:
    """The answer in words: `sad 71 %`, `unsure (sad 34 %)` or why there is none."""
    return " ".join(cell.plain for cell in _prediction_cells(item) if cell.plain)


def _prediction_cells(item: RecentSegment) -> tuple[Text, Text]:
    if item.prediction is None:
        return Text(f"not analysed: {item.reason}", style="dim"), Text("")
    percent = f"{item.prediction.confidence * 100:.0f} %"
    if item.prediction.unsure:
        return Text(f"unsure ({item.prediction.emotion.word} {percent})", style="dim"), Text("")
    return Text(item.prediction.emotion.word, style="bold"), Text(percent)
