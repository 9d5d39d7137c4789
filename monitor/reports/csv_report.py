"""Reports as CSV for spreadsheets and statistics: one row per day, in order. Column names are stable and name their unit.

_s: seconds. share_X, share_X_low, share_X_high: 0 to 1, with the 95 % interval; of all judged speech where `shares_are` says "estimated",
of sure speech where it says "counted". valence, arousal: -1 to 1. Empty means unknown, never 0; a day with the state NO DATA has nothing
but its seconds. Text that a spreadsheet could take for a formula is quoted.
"""

import csv
import io
from collections.abc import Iterator
from statistics import fmean

from model.emotions import Emotion
from monitor.analysis.summary import DayState, DaySummary, SpeechSummary
from monitor.reports.data import RenderOptions, ReportData
from monitor.storage.records import Coverage

Cell = str | int | float | None

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render(report: ReportData, options: RenderOptions) -> bytes:
    """For files."""
    return to_csv(report).encode()


def to_csv(material: ReportData) -> str:
    """The days of the report, CRLF at the end of a line as RFC 4180 has it."""
    said: dict[str, list[float]] = {}
    for one in material.checkins:
        said.setdefault(one.at.astimezone(material.period.zone).date().isoformat(), []).append(one.valence)
    file = io.StringIO()
    writer = csv.writer(file)
    for number, day in enumerate(material.days):
        cells = dict(_cells(day, said.get(day.day.on.isoformat(), [])))
        if not number:
            writer.writerow(cells)
        writer.writerow([_safe(cell) for cell in cells.values()])
    return file.getvalue()


def _cells(day: DaySummary, said: list[float]) -> Iterator[tuple[str, Cell]]:
    speech = day.speech
    yield "day", day.day.on.isoformat()
    yield "zone", str(day.day.zone)
    yield "state", day.state.value
    yield "why_partial", "; ".join(gap.value for gap in day.gaps)
    yield "passed_s", day.passed_s
    for kind in Coverage:
        yield f"{kind.value.replace('-', '_')}_s", day.coverage_s.get(kind, 0.0)
    known = day.state is not DayState.NO_DATA
    yield from ((name, cell if known else None) for name, cell in _amounts(speech))
    yield from _affect(speech)
    yield from _emotions(speech)
    voice = speech.voice
    yield "loudness_median_db", voice.loudness_db.median if voice and voice.loudness_db else None
    yield "pitch_median_hz", voice.pitch_hz.median if voice and voice.pitch_hz else None
    yield "longest_run", day.longest_run.emotion.word if day.longest_run else None
    yield "longest_run_s", day.longest_run.seconds if day.longest_run else None
    yield "checkins", len(said)
    yield "checkin_valence_mean", fmean(said) if said else None
    yield "models", "; ".join(day.bundles)


def _amounts(speech: SpeechSummary) -> Iterator[tuple[str, Cell]]:
    yield "speech_segments", speech.total.segments
    yield "speech_s", speech.total.seconds
    yield "sure_s", speech.sure.seconds
    yield "unsure_s", speech.unsure.seconds
    yield "waiting_s", speech.waiting.seconds
    yield "not_judged_s", speech.given_up.seconds
    yield "corrected_segments", speech.corrected


def _affect(speech: SpeechSummary) -> Iterator[tuple[str, Cell]]:
    for dimension in ("valence", "arousal"):
        spread = getattr(speech.affect, dimension) if speech.affect else None
        for figure in ("mean", "sd", "mssd", "inertia"):
            yield f"{dimension}_{figure}", getattr(spread, figure) if spread else None


def _emotions(speech: SpeechSummary) -> Iterator[tuple[str, Cell]]:
    shares = speech.shares
    yield "shares_are", ("estimated" if speech.estimated else "counted") if shares else None
    for emotion in Emotion:
        low, high = speech.intervals.get(emotion, (None, None))
        yield f"share_{emotion.word}", shares.get(emotion)
        yield f"share_{emotion.word}_low", low
        yield f"share_{emotion.word}_high", high


def _safe(cell: Cell) -> Cell:
    if isinstance(cell, float):
        return round(cell, 6)
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
