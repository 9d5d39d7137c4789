"""Shows a day's summary to the person it is about: as text for a terminal or a file, and as JSON for programs.

Words are plain and few, and nothing depends on colour. What is missing stands before what was found, and every report
says what it is not. Knows no database; computes nothing but rounding.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from model.types import Emotion
from monitor.day.summary import Amount, DayState, DaySummary, Gap, HourSummary, Speech
from monitor.store.records import Coverage

NOTICE = (
    "A computer estimated this from the sound of a voice. It is often wrong, and it is not a diagnosis. "
    "Nobody is watching: nobody sees this page unless you show it to them. "
    "If you or someone near you is in danger, call your local emergency number."
)

ENOUGH_FOR_SHARES_S = 60.0
"""With less sure speech than this, segments are counted instead of given as per cent."""

# What else became of the day: a name and what it means. Speech that was heard and not judged has rows of its own.
_COVERAGE_WORDS = {
    Coverage.PAUSED: ("Paused", "you had closed the microphone"),
    Coverage.MUTED: ("Muted", "the microphone was open but switched to silence"),
    Coverage.DEVICE_LOST: ("Lost", "the microphone was away"),
    Coverage.OVERFLOW: ("Lost", "sound came faster than it could be taken"),
    Coverage.NOT_RUNNING: ("Off", "the monitor was not running, or the machine slept"),
}
_LONGEST_BAR = 30
_LEFT = 2


@dataclass(frozen=True, slots=True)
class _Glyphs:
    """The characters that draw; levels go from nothing to a whole hour."""

    bar: str
    levels: str
    silent: str


_UNICODE = _Glyphs(bar="█", levels=" ▁▂▃▄▅▆▇█", silent="·")
_ASCII = _Glyphs(bar="#", levels=" .:-=+*%#", silent=".")
_UNCLEAR = "?"


@dataclass(frozen=True, slots=True)
class DayReport:
    """A rich renderable; falls back to ASCII where the output cannot show more."""

    summary: DaySummary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        glyphs = _ASCII if options.ascii_only else _UNICODE
        parts = [_title(self.summary), _coverage(self.summary)]
        if self.summary.speech.total.segments:
            parts.append(_emotions(self.summary.speech, glyphs))
        if self.summary.state is not DayState.NO_DATA:
            parts.append(_strip(self.summary, glyphs))
        if self.summary.bundles:
            parts.append(_models(self.summary))
        parts.append(Text(NOTICE, style="italic"))
        for part in parts:
            yield Padding(part, (0, _LEFT, 1, _LEFT))


def render_text(summary: DaySummary) -> DayReport:
    """The report as a rich renderable, for `rich.print` or a Console; fits 80 columns."""
    return DayReport(summary)


def to_json(summary: DaySummary) -> str:
    """The report for programs: seconds, counts and shares (0 to 1) by name, moments in ISO 8601 UTC."""
    report = {
        "day": summary.day.on.isoformat(),
        "zone": str(summary.day.zone),
        "start": summary.day.start.isoformat(),
        "end": summary.day.end.isoformat(),
        "as_of": summary.now.isoformat(),
        "state": summary.state.value,
        "gaps": [gap.value for gap in summary.gaps],
        "passed_s": round(summary.passed_s, 3),
        "heard_s": round(summary.heard_s, 3),
        "coverage_s": {kind.value: round(seconds, 3) for kind, seconds in summary.coverage_s.items()},
        "coverage": [
            {"kind": part.kind.value, "start": part.start_at.isoformat(), "end": part.end_at.isoformat(), "reason": part.reason}
            for part in summary.coverage
        ],
        "speech": _speech_json(summary.speech),
        "bundles": dict(summary.bundles),
        "hours": [
            {
                "label": hour.label,
                "start": hour.start.isoformat(),
                "end": hour.end.isoformat(),
                "heard_s": round(hour.heard_s, 3),
                "speech": _speech_json(hour.speech),
            }
            for hour in summary.hours
        ],
        "notice": NOTICE,
    }
    return json.dumps(report, indent=2)


def _speech_json(speech: Speech) -> dict[str, Any]:
    shares, unsure_share = speech.shares, speech.unsure_share
    return {
        **_amount_json(speech.total),
        "emotions": {
            emotion.word: {
                "letter": emotion.value,
                **_amount_json(amount),
                "share": round(shares[emotion], 6) if shares else None,
            }
            for emotion, amount in speech.emotions.items()
        },
        "unsure": _amount_json(speech.unsure),
        "unsure_share": None if unsure_share is None else round(unsure_share, 6),
        "waiting": _amount_json(speech.waiting),
        "unjudged": {reason: _amount_json(amount) for reason, amount in speech.unjudged.items()},
    }


def _amount_json(amount: Amount) -> dict[str, Any]:
    return {"segments": amount.segments, "seconds": round(amount.seconds, 3)}


def _title(summary: DaySummary) -> RenderableType:
    day = f"{summary.day.on:%A} {summary.day.on.day} {summary.day.on:%B %Y}"
    until = f", until {summary.now.astimezone(summary.day.zone):%H:%M}" if Gap.NOT_OVER in summary.gaps else ""
    title = Table.grid(expand=True)
    title.add_column()
    title.add_column(justify="right")
    title.add_row(Text(day + until, style="bold"), Text(str(summary.day.zone), style="dim"))
    if summary.state is DayState.NO_DATA:
        return Group(title, Text("NO DATA: nothing was heard, so nothing can be said about this day."))
    if summary.gaps:
        return Group(title, Text(f"{summary.state}: {', '.join(summary.gaps)}."))
    return title


def _coverage(summary: DaySummary) -> RenderableType:
    speech = summary.speech
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim")

    def add(name: str, seconds: float, remark: str) -> None:
        # Text, not str: rich would take the brackets of "[Errno 28] ..." for its own markup.
        grid.add_row(name, _span(seconds), Text(remark))

    add("Heard", summary.heard_s, f"of {_span(summary.passed_s)}")
    for kind, (name, meaning) in _COVERAGE_WORDS.items():
        if kind in summary.coverage_s:
            add(name, summary.coverage_s[kind], meaning)
    if summary.state is not DayState.NO_DATA:
        add("Speech", speech.total.seconds, _pieces(speech.total.segments))
    if speech.unsure_share is not None:
        meaning = f"{_percent(speech.unsure_share)} of judged speech: nothing was likely enough"
        add("Unsure", speech.unsure.seconds, meaning)
    for reason, amount in speech.unjudged.items():
        add("Not judged", amount.seconds, f"{_pieces(amount.segments)}: {reason}")
    if speech.waiting.segments:
        add("Waiting", speech.waiting.seconds, f"{_pieces(speech.waiting.segments)}, yet to be judged")
    return grid


def _emotions(speech: Speech, glyphs: _Glyphs) -> RenderableType:
    heading, sure = Text("How the voice sounded", style="bold"), _span(speech.sure.seconds)
    if not speech.sure.segments:
        return Group(heading, Text("Nothing was sure enough to be given a name."))
    if speech.sure.seconds < ENOUGH_FOR_SHARES_S:
        basis, grid = f"only {sure} of speech was sure: too little for per cent", _counts(speech)
    else:
        basis, grid = f"of the {sure} of speech the model was sure about", _shares(speech, glyphs)
    absent = ", ".join(emotion.word for emotion, amount in speech.emotions.items() if not amount.segments)
    footing = [Text(f"not found: {absent}", style="dim")] if absent else []
    return Group(heading, Text(basis, style="dim"), grid, *footing)


def _shares(speech: Speech, glyphs: _Glyphs) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="cyan")
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True, justify="right", style="dim")
    for emotion, amount in _ranked(speech):
        share = speech.shares[emotion]
        bar = glyphs.bar * max(1, round(share * _LONGEST_BAR))
        grid.add_row(emotion.word, bar, _percent(share), _span(amount.seconds))
    return grid


def _counts(speech: Speech) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    for emotion, amount in _ranked(speech):
        grid.add_row(emotion.word, _pieces(amount.segments), Text(_span(amount.seconds), style="dim"))
    return grid


def _ranked(speech: Speech) -> list[tuple[Emotion, Amount]]:
    """The emotions that were found, most time first."""
    found = [(emotion, amount) for emotion, amount in speech.emotions.items() if amount.segments]
    return sorted(found, key=lambda item: -item[1].seconds)


def _strip(summary: DaySummary, glyphs: _Glyphs) -> RenderableType:
    """Two characters an hour: how much of it was heard, and the emotion with the most sure time."""
    clock = ""
    for index, hour in enumerate(summary.hours):
        if hour.label.endswith(":00") and int(hour.label[:2]) % 3 == 0:
            clock = clock.ljust(2 * index) + hour.label[:2]
    levels = "".join(_level(hour, glyphs) * 2 for hour in summary.hours)
    letters = [_letter(hour, glyphs) for hour in summary.hours]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", min_width=5)
    grid.add_column(no_wrap=True)
    grid.add_row("hour", Text(clock, style="dim"))
    grid.add_row("heard", Text(levels, style="cyan"))
    grid.add_row("voice", Text("".join(f"{letter:<2}" for letter in letters), style="bold"))
    notes = [Text(_legend(summary, letters, glyphs), style="dim")]
    if len(summary.hours) != 24:
        notes.append(Text(f"The clocks were changed: this day has {_span(summary.length_s)}.", style="dim"))
    heading = Text("Hour by hour", style="bold")
    return Group(heading, Text("how much was heard, and what most of the sure speech was", style="dim"), grid, *notes)


def _level(hour: HourSummary, glyphs: _Glyphs) -> str:
    """However little was heard, it shows."""
    return glyphs.levels[ceil(hour.heard_s / hour.length_s * (len(glyphs.levels) - 1))]


def _letter(hour: HourSummary, glyphs: _Glyphs) -> str:
    if hour.speech.leading is not None:
        return hour.speech.leading.value
    if hour.speech.total.segments:
        return _UNCLEAR
    return glyphs.silent if hour.heard_s else " "


def _legend(summary: DaySummary, letters: list[str], glyphs: _Glyphs) -> str:
    meanings = {emotion.value: emotion.word for emotion in summary.speech.emotions}
    meanings |= {_UNCLEAR: "unsure or not judged", glyphs.silent: "no speech", " ": "not heard"}
    return "   ".join(f"{mark if mark.strip() else 'blank'} {meanings[mark]}" for mark in meanings if mark in letters)


def _models(summary: DaySummary) -> RenderableType:
    if len(summary.bundles) == 1:
        return Text(f"Judged by model {next(iter(summary.bundles))}.", style="dim")
    models = " and ".join(f"{version} ({_pieces(count)})" for version, count in summary.bundles.items())
    return Text(f"Judged by models {models}: a difference between their hours may be theirs, not yours.", style="dim")


def _span(seconds: float) -> str:
    """Seconds in the words of a clock: "34 s", "18 min", "9 h 05 min", "24 h"; less than a second still shows."""
    if 0 < seconds < 1:
        return "under 1 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes % 60 else f"{minutes // 60} h"


def _percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"


def _pieces(segments: int) -> str:
    return "1 piece" if segments == 1 else f"{segments} pieces"
