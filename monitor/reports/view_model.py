"""What every written report says about a day, in the same words: state, coverage, emotions and models.

Plain data without layout. What is missing comes before what was found.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from model.emotions import Emotion
from monitor.analysis.formatting import COVERAGE_TEXTS, format_duration, format_percent, format_segments, long_date, short_date
from monitor.analysis.summary import Amount, DayState, DaySummary, Gap, SpeechSummary
from monitor.analysis.trend import MEASURES, MIN_SHARE_SPEECH_S
from monitor.reports.data import ReportPeriod
from monitor.storage.records import Coverage

TOO_LITTLE = "too little"
DAY_COLUMNS = ("day", "state", "recorded", "speech", "unsure", "mostly", "pleasant")
"""What a line of a period says of its day; `day_cells` fills them."""

# Speech that was heard and not judged has rows of its own.
_VALENCE = next(measure for measure in MEASURES if measure.key == "valence")
_OWN_ROWS = (Coverage.HEARD, Coverage.ENGINE_DOWN)


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """A name, an amount, and what it means."""

    name: str
    amount: str
    remark: str


@dataclass(frozen=True, slots=True)
class EmotionRow:
    """An emotion and its share. amount: what was sure, or named by the person. share: None where there is too little to tell.

    interval: of the share, 95 %, where it is known. estimated: the share is one of all judged speech; otherwise it is counted.
    """

    emotion: Emotion
    amount: Amount
    share: float | None
    interval: tuple[float, float] | None
    estimated: bool = False


def day_title(summary: DaySummary) -> str:
    """The day, and until when where it is not over."""
    until = f", until {summary.now.astimezone(summary.day.zone):%H:%M}" if Gap.NOT_OVER in summary.gaps else ""
    return long_date(summary.day.on) + until


def state_text(summary: DaySummary) -> str:
    """What is to be known before anything else is read; empty for a covered day."""
    if summary.state is DayState.NO_DATA:
        return f"{summary.state}: nothing was recorded, so nothing is known about this day."
    return f"{summary.state}: {', '.join(summary.gaps)}." if summary.gaps else ""


def coverage_rows(summary: DaySummary) -> list[CoverageRow]:
    """What became of the day, and of the speech in it."""
    speech = summary.speech
    rows = [CoverageRow("Recorded", format_duration(summary.heard_s), f"of {format_duration(summary.passed_s)}")]
    for kind, (name, meaning) in COVERAGE_TEXTS.items():
        if kind in summary.coverage_s and kind not in _OWN_ROWS:
            rows.append(CoverageRow(name, format_duration(summary.coverage_s[kind]), meaning))
    if summary.state is not DayState.NO_DATA:
        rows.append(CoverageRow("Speech", format_duration(speech.total.seconds), format_segments(speech.total.segments)))
    if speech.unsure_share is not None:
        meaning = f"{format_percent(speech.unsure_share)} of analysed speech: low confidence"
        rows.append(CoverageRow("Unsure", format_duration(speech.unsure.seconds), meaning))
    for reason, amount in speech.unjudged.items():
        rows.append(CoverageRow("Not analysed", format_duration(amount.seconds), f"{format_segments(amount.segments)}: {reason}"))
    if speech.waiting.segments:
        rows.append(
            CoverageRow(
                "Waiting", format_duration(speech.waiting.seconds), f"{format_segments(speech.waiting.segments)}, waiting for analysis"
            )
        )
    return rows


def emotion_rows(speech: SpeechSummary) -> list[EmotionRow]:
    """The emotions with the largest shares first: all whose share was estimated, otherwise those that were found."""
    shares = speech.shares if has_enough_speech(speech) else {}
    estimated = bool(shares and speech.estimated)
    shown = {emotion: amount for emotion, amount in speech.emotions.items() if amount.segments or estimated}
    ranked = sorted(shown, key=lambda emotion: (-shares.get(emotion, 0.0), -shown[emotion].seconds))
    return [
        EmotionRow(emotion, shown[emotion], shares.get(emotion), speech.intervals.get(emotion) if emotion in shares else None, estimated)
        for emotion in ranked
    ]


def has_enough_speech(speech: SpeechSummary) -> bool:
    """Whether there is enough speech for shares; with less, segments are counted."""
    return speech.basis.seconds >= MIN_SHARE_SPEECH_S


def shares_basis(speech: SpeechSummary) -> str:
    """What the shares or counts are of."""
    basis, sure = format_duration(speech.basis.seconds), format_duration(speech.sure.seconds)
    if not has_enough_speech(speech):
        return f"only {basis} of speech was {'analysed' if speech.estimated else 'sure'}: too little for percentages"
    if speech.estimated:
        return f"estimated from {basis} of analysed speech, with the 95 % interval and the time the model was sure about"
    more = ", with 95 % intervals that allow for the model's usual mistakes" if speech.intervals else ""
    return f"of {sure} of speech the model was sure about{more}"


def format_sure_time(of: EmotionRow) -> str:
    """Time in words; beside an estimated share it is what the model was sure about, or the person named."""
    if not of.estimated:
        return format_duration(of.amount.seconds)
    return f"sure: {format_duration(of.amount.seconds)}" if of.amount.segments else "sure: none"


def absent_emotions(speech: SpeechSummary) -> str:
    """The emotions that could have been found and were not, as a list; empty where there are none."""
    listed = {one.emotion for one in emotion_rows(speech)}
    return ", ".join(emotion.word for emotion in speech.emotions if emotion not in listed)


def format_interval(of: tuple[float, float] | None) -> str:
    """Such as "52 to 80 %"; empty where it is not known."""
    return "" if of is None else f"{of[0] * 100:.0f} to {of[1] * 100:.0f} %"


def models_text(bundles: Mapping[str, int], parts: str = "hours") -> str:
    """Which models judged; where there are several, that a difference may be theirs. Empty where nothing was judged."""
    if not bundles:
        return ""
    if len(bundles) == 1:
        return f"Analysed by model {next(iter(bundles))}."
    named = " and ".join(f"{version} ({format_segments(count)})" for version, count in bundles.items())
    return f"Analysed by models {named}: differences between their {parts} may come from the models, not from you."


def period_title(period: ReportPeriod) -> str:
    """The first and the last day, such as "17 June to 14 July 2026"."""
    first, last = period.first, period.last
    year = f" {first.year}" if first.year != last.year else ""
    return f"{first.day} {first:%B}{year} to {last.day} {last:%B} {last.year}"


def day_cells(day: DaySummary) -> tuple[str, ...]:
    """A day in the cells of DAY_COLUMNS; all but the first two empty where nothing is known."""
    if day.state is DayState.NO_DATA:
        return short_date(day.day.on), day.state.value, "", "", "", "", ""
    speech = day.speech
    mostly = (
        f"{speech.leading.word} {format_percent(speech.shares[speech.leading])}"
        if speech.leading and has_enough_speech(speech)
        else TOO_LITTLE
    )
    pleasant = _VALENCE.get(day)
    return (
        short_date(day.day.on),
        day.state.value,
        format_duration(day.heard_s),
        format_duration(speech.total.seconds),
        "" if speech.unsure_share is None else format_percent(speech.unsure_share),
        mostly,
        "" if pleasant is None else f"{pleasant:+.2f}",
    )


def gap_counts(days: Iterable[DaySummary]) -> dict[str, int]:
    """Why days are PARTIAL, and how many are for each reason."""
    counted: dict[str, int] = {}
    for day in days:
        for gap in day.gaps:
            counted[gap.value] = counted.get(gap.value, 0) + 1
    return counted
