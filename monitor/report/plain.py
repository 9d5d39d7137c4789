"""Reports as sentences and lists: nothing is drawn, lined up or boxed, so that a screen reader or a braille display reads all of it."""

from collections.abc import Iterator

from monitor.day.summary import DayState, DaySummary, HourSummary
from monitor.day.wording import NOTICE, percent, pieces, short_date, span
from monitor.report import rows, sentences
from monitor.report.material import Material


def to_plain(material: Material) -> str:
    """The report, a statement a line."""
    lines = _day(material) if material.period.is_day else _period(material)
    return "\n".join([*lines, *_footing(material)])


def _day(material: Material) -> Iterator[str]:
    summary = material.day
    yield f"{rows.title(summary)}. Time zone {summary.day.zone}."
    if rows.state(summary):
        yield rows.state(summary)
    for row in rows.coverage(summary):
        yield f"{row.name}: {row.amount}, {row.remark}."
    yield from _emotions(summary)
    heard = [hour for hour in summary.hours if hour.heard_s]
    if heard:
        yield f"Hour by hour; {len(heard)} of {len(summary.hours)} hours were heard at least in part:"
        yield from (_hour(hour) for hour in heard)
    yield from sentences.of_day(material)


def _emotions(summary: DaySummary) -> Iterator[str]:
    speech = summary.speech
    if not speech.total.segments:
        return
    if not rows.found(speech):
        yield "How the voice sounded: nothing was sure enough to be given a name."
        return
    yield f"How the voice sounded, {rows.basis(speech)}:"
    for found in rows.found(speech):
        share = "" if found.share is None else f"{percent(found.share)}, "
        interval = f"in truth perhaps {rows.interval(found.interval)}, " if found.interval else ""
        heard = f"{pieces(found.amount.segments)}, " if found.amount.segments else ""
        yield f"{found.emotion.word}: {share}{interval}{heard}{rows.amount(found)}."
    if rows.absent(speech):
        yield f"Not found: {rows.absent(speech)}."


def _hour(hour: HourSummary) -> str:
    speech = hour.speech
    if not speech.total.segments:
        said = "no speech"
    elif speech.leading is None:
        said = f"{span(speech.total.seconds)} of speech, unsure or not judged"
    else:
        said = f"{span(speech.total.seconds)} of speech, mostly {speech.leading.word}"
    return f"{hour.label}: heard {span(hour.heard_s)}; {said}."


def _period(material: Material) -> Iterator[str]:
    yield f"{rows.period_title(material.period)}. Time zone {material.period.zone}."
    yield from sentences.of_days(material)
    yield "Day by day:"
    yield from (_line(day) for day in material.days)
    yield from (f"PARTIAL, {count}: {gap}." for gap, count in rows.gaps(material.days).items())


def _line(day: DaySummary) -> str:
    if day.state is DayState.NO_DATA:
        return f"{short_date(day.day.on)}: {day.state}."
    _, state, heard, speech, unsure, mostly, pleasant = rows.day_cells(day)
    more = [f"unsure {unsure}" if unsure else "", f"mostly {mostly}" if mostly != rows.TOO_LITTLE else "too little speech for shares"]
    more.append(f"pleasantness {pleasant}" if pleasant else "")
    return f"{short_date(day.day.on)}: {state}; heard {heard}; speech {speech}; {'; '.join(part for part in more if part)}."


def _footing(material: Material) -> Iterator[str]:
    models = rows.models(material.bundles, "hours" if material.period.is_day else "days")
    if models:
        yield models
    yield NOTICE
    if material.contacts:
        yield "Whom you can call:"
        yield from material.contacts
