"""The findings of a report in plain sentences that stand alone: for a person, a screen reader or a clinician.

Every word for a size has its number beside it. Sentences say what is unusual for this person, never what it may be a sign of.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from monitor.analysis.affect import MIN_SUCCESSIVE_PAIRS
from monitor.analysis.formatting import format_duration, format_percent, format_segments, long_date
from monitor.analysis.summary import Affect, AffectDynamics, DaySummary, VoiceStatistics
from monitor.analysis.trend import FALSE_ALARMS, MIN_AFFECT_SEGMENTS, Measure, Trend
from monitor.personalization.voice import format_voice, voice_json
from monitor.reports.data import SELF_REPORT_DAYS, ReportData
from monitor.scheduler.jobs import JobOutcome

# Of the seven equal parts of the scale from -1 to 1, the middle one is neither, then slightly, plainly, very.
_STEPS = ((1 / 7, ""), (3 / 7, "slightly "), (5 / 7, ""), (1.0, "very "))
# Standard deviations on the same scale; no study fixes where little ends, so the number stands beside the word.
_LITTLE, _SOME = 0.15, 0.35
# Of all measures together one would lie outside on most days by chance alone, so a single day is told of these only.
_TOLD_OF_A_DAY = ("valence", "arousal", "speech_per_hour")
_MOST_MICROPHONES = 3
_BY_CHANCE = round(1 / FALSE_ALARMS)


def day_sentences(material: ReportData) -> list[str]:
    """What there is to say of one day."""
    day = material.day
    return [
        *_affect(day.speech.affect),
        *_run(day),
        *_transitions(day),
        *_voice(day.speech.voice),
        *_corrections(material.days),
        *_checkins(material),
        *_unusual(material.trends),
        *change_sentences(material.trends.values()),
        *_new_model(material.trends.values(), "this day"),
        *_voice_changes(material.trends.values(), "this day"),
        *_known_voice(material),
        *_retraining(material),
        *_own_word(material),
    ]


def period_sentences(material: ReportData) -> list[str]:
    """What there is to say of a period."""
    return [
        coverage_sentence(material),
        *_corrections(material.days),
        *_checkins(material),
        *change_sentences(material.trends.values()),
        *_new_model(material.trends.values(), "the dates named"),
        *_voice_changes(material.trends.values(), "the dates named"),
        *_known_voice(material),
        *_retraining(material),
        *_own_word(material),
    ]


def coverage_sentence(material: ReportData) -> str:
    """How much of the period is known at all."""
    total, known = len(material.days), len(material.known)
    without = f"{_days(total - known)} with NO DATA {'is' if total - known == 1 else 'are'} left out of everything below"
    heard = f"{format_duration(sum(day.heard_s for day in material.days))} in total"
    return f"Recorded on {known} of {_days(total)}; {heard}." + (f" {without[0].upper()}{without[1:]}." if known < total else "")


def change_sentences(trends: Iterable[Trend]) -> list[str]:
    """Measures that stayed outside the person's usual range."""
    return [trend.change.sentence for trend in trends if trend.change]


def format_level(value: float, low: str, high: str) -> str:
    """A place between -1 and 1 in words, such as "slightly unpleasant"; in the middle "neither unpleasant nor pleasant"."""
    if abs(value) < _STEPS[0][0]:
        return f"neither {low} nor {high}"
    step = next((word for limit, word in _STEPS[1:] if abs(value) <= limit), _STEPS[-1][1])
    return f"{step}{high if value > 0 else low}"


def format_measure(measure: Measure, value: float) -> str:
    """A value of a measure with its unit, as it is said."""
    if measure.key.startswith("share_"):
        return format_percent(max(0.0, value))
    if measure.key == "speech_per_hour":
        return f"{max(0.0, value):.1f} min per hour"
    if measure.key in ("loudness_db", "pitch_hz"):
        return f"{value:.0f} {'Hz' if measure.key == 'pitch_hz' else 'dB'}"
    return f"{value:+.2f}"


def _affect(affect: Affect | None) -> list[str]:
    if affect is None or affect.segments < MIN_AFFECT_SEGMENTS:
        return []
    pleasant = format_level(affect.valence.mean, "unpleasant", "pleasant")
    excited = format_level(affect.arousal.mean, "calm", "excited")
    means = f"({affect.valence.mean:+.2f} and {affect.arousal.mean:+.2f} on scales of -1 to 1)"
    said = f"On average the voice sounded {pleasant} and {excited} {means}."
    return [said, *_spread(affect.valence)]


def _spread(spread: AffectDynamics) -> list[str]:
    if spread.sd is None:
        return []
    amount = "little" if spread.sd < _LITTLE else "somewhat" if spread.sd < _SOME else "a lot"
    sentence = f"How pleasant it sounded varied {amount} (standard deviation {spread.sd:.2f})"
    if spread.mssd is not None and spread.inertia is not None:
        sentence += f"; between segments the mean squared change was {spread.mssd:.3f} and the autocorrelation {spread.inertia:+.2f}"
    return [f"{sentence}."]


def _run(day: DaySummary) -> list[str]:
    run = day.longest_run
    if run is None or run.segments < 3:
        return []
    start, end = (moment.astimezone(day.day.zone) for moment in (run.start_at, run.end_at))
    return [
        f"The longest run was {run.emotion.word}: {format_segments(run.segments)} from {start:%H:%M} to {end:%H:%M},"
        f" {format_duration(run.seconds)} of speech."
    ]


def _transitions(day: DaySummary) -> list[str]:
    pairs = sum(day.transitions.values())
    changed = {pair: count for pair, count in day.transitions.items() if pair[0] is not pair[1]}
    if pairs < MIN_SUCCESSIVE_PAIRS:
        return []
    told = f"From one sure segment to the next the emotion changed {sum(changed.values())} of {pairs} times"
    if changed:
        (before, after), count = max(changed.items(), key=lambda one: one[1])
        told += f", most often from {before.word} to {after.word} ({count})"
    return [f"{told}."]


def _voice(voice: VoiceStatistics | None) -> list[str]:
    if voice is None or voice.segments < MIN_AFFECT_SEGMENTS or voice.loudness_db is None:
        return []
    loudness, pitch = voice.loudness_db, voice.pitch_hz
    told = f"Half of the segments had a loudness of {loudness.low:.0f} to {loudness.high:.0f} dB re full scale"
    if pitch is not None:
        told += f" and a pitch of {pitch.low:.0f} to {pitch.high:.0f} Hz"
    return [f"{told}; compare loudness only between days with the same microphone."]


def _corrections(days: Sequence[DaySummary]) -> list[str]:
    corrected = sum(day.speech.corrected for day in days)
    return [f"You labelled {format_segments(corrected)}; your labels replace the estimates."] if corrected else []


def _checkins(material: ReportData) -> list[str]:
    said = material.checkins
    if not said:
        return []
    mean = fmean(one.valence for one in said)
    times = "once" if len(said) == 1 else f"{len(said)} times"
    words = ", ".join(dict.fromkeys(one.emotion.word for one in said))
    return [f"You checked in {times} and on average felt {format_level(mean, 'unpleasant', 'pleasant')} ({mean:+.2f}): {words}."]


def _unusual(trends: Mapping[str, Trend]) -> list[str]:
    """Measures of which the day lies outside the usual range."""
    told = []
    for trend in (trends[key] for key in _TOLD_OF_A_DAY if key in trends):
        point = trend.points[-1] if trend.points else None
        if point and point.outside and point.value is not None and point.band is not None:
            side = "above" if point.outside > 0 else "below"
            usual = f"usually {format_measure(trend.measure, point.band.low)} to {format_measure(trend.measure, point.band.high)}"
            told.append(f"{trend.measure.words}, {side} ({format_measure(trend.measure, point.value)}, {usual})")
    if not told:
        return []
    chance = f"For each measure, this happens by chance on at most about one day in {_BY_CHANCE}."
    return [f"Outside your usual range on this day: {'; '.join(told)}. {chance}"]


def _new_model(trends: Iterable[Trend], when: str) -> list[str]:
    changed = sorted({point.on for trend in trends for point in trend.points if point.model_changed})
    if not changed:
        return []
    since = when if len(changed) == 1 and when == "this day" else ", ".join(long_date(on) for on in changed)
    return [f"A different model was used from {since}: differences before and after may come from the model, not from you."]


def _voice_changes(trends: Iterable[Trend], when: str) -> list[str]:
    """Where another model began on the same day, that is told already."""
    changed = sorted({point.on for trend in trends for point in trend.points if point.voice_changed and not point.model_changed})
    if not changed:
        return []
    since = when if len(changed) == 1 and when == "this day" else ", ".join(long_date(on) for on in changed)
    return [f"The reference of your voice changed on {since}: differences before and after may come from that, not from you."]


def _known_voice(material: ReportData) -> list[str]:
    """Since when the voice is known, or how far it is learned; by microphone, where there are several."""
    if material.voices is None:
        return []
    told = []
    for voice in material.voices[:_MOST_MICROPHONES] or (None,):
        words = format_voice(voice_json(voice), material.period.zone)
        through = f", through {voice.microphone}" if voice and len(material.voices) > 1 else ""
        told.append(f"The monitor {'is ' if not voice or not voice.frozen else ''}{words}{through}.")
    return told


def _retraining(material: ReportData) -> list[str]:
    """Models that went live, made of what the person said; and that the last retraining of these days failed."""
    told = []
    for run in material.retrainings:
        if run.ended_at and run.outcome == JobOutcome.DONE and (version := _version(run.details)):
            at = run.ended_at.astimezone(material.period.zone)
            told.append(f"A new model, {version}, trained on your labels, has been in use since {long_date(at.date())}, {at:%H:%M}.")
    ended = [run for run in material.retrainings if run.outcome is not None]
    if ended and ended[-1].outcome == JobOutcome.FAILED:
        reason = ended[-1].reason.rstrip(".")
        told.append(f"The last retraining, for {long_date(ended[-1].day)}, failed: {reason}. The model in use is unchanged.")
    return told


def _version(details: Mapping[str, Any]) -> str:
    """Of the model that a retraining made; its decision is the details, or a part of them."""
    decision = details.get("decision", details)
    return str(decision.get("version") or "") if isinstance(decision, Mapping) else ""


def _own_word(material: ReportData) -> list[str]:
    """Of more days than the report, where it has few: see Material."""
    return [f"Over at least {SELF_REPORT_DAYS} days: {material.self_report[0]}", *material.self_report[1:]] if material.self_report else []


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"
