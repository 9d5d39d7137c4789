"""Reports as JSON for programs: seconds, counts and shares (0 to 1) by name, times in ISO 8601 UTC, null where unknown. Keys are stable.

`share` is estimated from all judged speech where `shares_are` is "estimated"; otherwise it is the share of sure speech, like
`counted_share`. Hours are always counted. A day has coverage and hours; a period has its days without them, and trends. Transcripts and
notes are never included.
"""

import json
from typing import Any

from monitor.analysis.formatting import DISCLAIMER
from monitor.analysis.summary import Affect, AffectDynamics, Amount, DaySummary, EmotionRun, Quartiles, SpeechSummary, VoiceStatistics
from monitor.analysis.trend import LastingChange, Trend, TrendPoint, UsualRange
from monitor.personalization.voice import voice_json
from monitor.reports import sentences
from monitor.reports.data import RenderOptions, ReportData
from monitor.storage.records import CheckIn, JobRun

Json = dict[str, Any]


def render(report: ReportData, options: RenderOptions) -> bytes:
    """For files."""
    return f"{to_json(report)}\n".encode()


def to_json(material: ReportData) -> str:
    """The report as one JSON object."""
    report = _day_report(material) if material.period.is_day else _period_report(material)
    report |= {
        "checkins": [_checkin(one) for one in material.checkins],
        "sentences": sentences.day_sentences(material) if material.period.is_day else sentences.period_sentences(material),
        "retrainings": [_retraining(run) for run in material.retrainings],
        "voice_references": None if material.voices is None else [voice_json(voice) for voice in material.voices],
        "contacts": list(material.contacts),
        "notice": DISCLAIMER,
    }
    return json.dumps(report, indent=2)


def _day_report(material: ReportData) -> Json:
    summary = material.day
    return {
        **day_json(summary),
        "coverage": [
            {"kind": part.kind.value, "start": part.start_at.isoformat(), "end": part.end_at.isoformat(), "reason": part.reason}
            for part in summary.coverage
        ],
        "hours": [
            {
                "label": hour.label,
                "start": hour.start.isoformat(),
                "end": hour.end.isoformat(),
                "heard_s": round(hour.heard_s, 3),
                "speech": _speech(hour.speech),
            }
            for hour in summary.hours
        ],
        "trends": {key: _trend(trend) for key, trend in material.trends.items()},
    }


def _period_report(material: ReportData) -> Json:
    return {
        "first": material.period.first.isoformat(),
        "last": material.period.last.isoformat(),
        "zone": str(material.period.zone),
        "as_of": material.now.isoformat(),
        "days": [day_json(day) for day in material.days],
        "trends": {key: _trend(trend) for key, trend in material.trends.items()},
        "bundles": material.bundles,
    }


def day_json(summary: DaySummary) -> Json:
    """One day, without its hours."""
    return {
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
        "speech": _speech(summary.speech),
        "longest_run": _run(summary.longest_run),
        "transitions": [{"from": first.word, "to": second.word, "count": count} for (first, second), count in summary.transitions.items()],
        "bundles": dict(summary.bundles),
        "voice_references": dict(summary.references),
    }


def _speech(speech: SpeechSummary) -> Json:
    shares, counted, unsure_share = speech.shares, speech.counted, speech.unsure_share
    return {
        **_amount(speech.total),
        "emotions": {
            emotion.word: {
                "letter": emotion.value,
                **_amount(amount),
                "share": round(shares[emotion], 6) if shares else None,
                "counted_share": round(counted[emotion], 6) if counted else None,
                "share_95": [round(bound, 6) for bound in speech.intervals[emotion]] if emotion in speech.intervals else None,
            }
            for emotion, amount in speech.emotions.items()
        },
        "shares_are": ("estimated" if speech.estimated else "counted") if shares else None,
        "unsure": _amount(speech.unsure),
        "unsure_share": None if unsure_share is None else round(unsure_share, 6),
        "waiting": _amount(speech.waiting),
        "unjudged": {reason: _amount(amount) for reason, amount in speech.unjudged.items()},
        "corrected_segments": speech.corrected,
        "affect": _affect(speech.affect),
        "voice": _voice(speech.voice),
    }


def _amount(amount: Amount) -> Json:
    return {"segments": amount.segments, "seconds": round(amount.seconds, 3)}


def _affect(affect: Affect | None) -> Json | None:
    if affect is None:
        return None
    return {
        "segments": affect.segments,
        "seconds": round(affect.seconds, 3),
        "valence": _spread(affect.valence),
        "arousal": _spread(affect.arousal),
    }


def _spread(spread: AffectDynamics) -> Json:
    return {name: _rounded(getattr(spread, name)) for name in ("mean", "sd", "mssd", "inertia")}


def _voice(voice: VoiceStatistics | None) -> Json | None:
    if voice is None:
        return None
    return {"segments": voice.segments, "loudness_db": _quartiles(voice.loudness_db), "pitch_hz": _quartiles(voice.pitch_hz)}


def _quartiles(quartiles: Quartiles | None) -> Json | None:
    return None if quartiles is None else {name: _rounded(getattr(quartiles, name)) for name in ("low", "median", "high")}


def _run(run: EmotionRun | None) -> Json | None:
    if run is None:
        return None
    moments = {"start": run.start_at.isoformat(), "end": run.end_at.isoformat()}
    return {"emotion": run.emotion.word, "segments": run.segments, "seconds": round(run.seconds, 3), **moments}


def _trend(trend: Trend) -> Json:
    return {
        "words": trend.measure.words,
        "unit": trend.measure.unit,
        "points": [_point(point) for point in trend.points],
        "change": _change(trend.change),
    }


def _change(change: LastingChange | None) -> Json | None:
    if change is None:
        return None
    return {
        "direction": change.direction,
        "days_outside": change.days_outside,
        "of_days": change.of_days,
        "usual_before": _band(change.band),
        "sentence": change.sentence,
    }


def _point(point: TrendPoint) -> Json:
    return {
        "day": point.on.isoformat(),
        "value": _rounded(point.value),
        "usual": None if point.band is None else _band(point.band),
        "outside": point.outside,
        "model_changed": point.model_changed,
        "voice_changed": point.voice_changed,
    }


def _band(band: UsualRange) -> Json:
    return {"low": _rounded(band.low), "middle": _rounded(band.middle), "high": _rounded(band.high), "of_days": band.days}


def _checkin(one: CheckIn) -> Json:
    return {"at": one.at.isoformat(), "zone": one.zone, "valence": one.valence, "emotion": one.emotion.word}


def _retraining(run: JobRun) -> Json:
    return {
        "day": run.day.isoformat(),
        "started_at": run.started_at.isoformat(),
        "seconds": _rounded(run.seconds),
        "outcome": run.outcome,
        "reason": run.reason,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
