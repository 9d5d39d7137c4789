"""One page for a clinician, which the patient brings along and has read. No transcripts, no notes, no single moments.

Says what the method can and cannot do, with the model's own figures and limits, and how much is known; then the course of the days
against the patient's usual range, beside what the patient reported.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from model.bundle_format import BundleManifest, Score, find_bundle, read_bundle_manifest
from model.emotions import Emotion
from model.errors import BundleError
from monitor.analysis.formatting import format_duration, format_percent
from monitor.analysis.summary import Amount, DayState, DaySummary, SpeechSummary
from monitor.analysis.trend import FALSE_ALARMS
from monitor.reports import html_report, sentences, view_model
from monitor.reports.charts.render import ChartRenderer
from monitor.reports.data import ReportData
from monitor.reports.html_report import Table, render_page

SHEET_INTRODUCTION = (
    "A program on the patient's own computer recorded speech from their microphone and estimated from the sound of each segment which"
    " emotion it resembles. This page contains no words and needed no stored audio. Other voices in the room may be included."
    ' The patient decides who sees this page; "you" means the patient.'
)


def to_clinician_sheet(material: ReportData, bundle: str) -> str:
    """The sheet as a page. bundle: name or folder of the model in use; figures of other models that judged are not known."""
    manifest = _manifest(bundle)
    period = material.period
    with ChartRenderer() as drawing:
        drawn = [html_report.valence_figure(material, drawing, 165), html_report.coverage_figure(material, drawing, 96)]
    return render_page(
        "sheet.html",
        material,
        title=f"Voice and mood, {view_model.period_title(period)}",
        patient=material.patient,
        what=SHEET_INTRODUCTION,
        coverage=_known(material),
        emotions=_emotions(material, manifest),
        all_figures=drawn,
        # How the monitor is kept is nothing to a clinician; that another model judges is told by the trends.
        said=sentences.period_sentences(replace(material, retrainings=()))[1:] or ["No lasting changes, no labels and no check-ins."],
        can=_can(material, manifest),
        cannot=_cannot(manifest),
    )


def _said(material: ReportData) -> Sequence[str]:
    """How the monitor is kept is nothing to a clinician; that another model judges is told by the trends."""
    told = sentences.period_sentences(replace(material, retrainings=()))[1:]
    return told or ["No lasting changes, no labels and no check-ins."]


def _manifest(bundle: str) -> BundleManifest | None:
    try:
        return read_bundle_manifest(find_bundle(bundle))
    except BundleError:
        # A sheet of days gone by must not fail because their model was moved; it says that the figures are not known.
        return None


def _known(material: ReportData) -> Table:
    days = material.days
    states = {state: sum(day.state is state for day in days) for state in DayState}
    heard = [day.heard_s for day in material.known]
    speech = sum((day.speech.total for day in days), Amount())
    unsure, judged = (sum(getattr(day.speech, part).seconds for day in days) for part in ("unsure", "judged"))
    unjudged = sum((day.speech.waiting + day.speech.given_up).seconds for day in days)
    lines = [
        ["Days", f"{len(days)}: {', '.join(f'{count} {state}' for state, count in states.items())}"],
        [
            "Recorded",
            f"{format_duration(sum(heard))} in total" + (f"; median {format_duration(median(heard))} per day with data" if heard else ""),
        ],
        ["Speech", f"{format_duration(speech.seconds)} in {speech.segments} segments"],
        ["Unsure", f"{format_percent(unsure / judged)} of analysed speech{_left_out(days)}" if judged else "nothing was analysed"],
        ["Not analysed", format_duration(unjudged)],
        ["Labelled", f"{sum(day.speech.corrected for day in days)} segments, by the patient"],
    ]
    return Table(lines)


def _left_out(days: Sequence[DaySummary]) -> str:
    """What becomes of unsure speech where shares are counted."""
    return ", excluded from the shares" if not any(day.speech.estimated for day in days) else ""


def _emotions(material: ReportData, manifest: BundleManifest | None) -> Table:
    days = [day.speech for day in material.days if day.speech.shares]
    basis_s = sum(speech.basis.seconds for speech in days)
    if not basis_s:
        return Table([], caption="No segment was above the confidence threshold.")
    estimated = any(speech.estimated for speech in days)
    letters = [emotion for emotion in Emotion if any(emotion in speech.emotions for speech in days)]
    shares = {letter: _mean([(speech.shares.get(letter, 0.0), speech) for speech in days]) for letter in letters}
    recalls = _score(manifest).recalls if manifest and manifest.scores else {}
    lines = [
        [
            letter.word,
            format_percent(shares[letter]),
            view_model.format_interval(_interval(letter, days)) if estimated else "",
            format_percent(recalls[letter]) if letter in recalls else "",
        ]
        for letter in sorted(letters, key=lambda letter: -shares[letter])
    ]
    if estimated:
        caption = (
            f"of {format_duration(basis_s)} of analysed speech; all days share the same error, so more days do not narrow the interval"
        )
        return Table(
            lines,
            ("emotion", "share of speech, estimated", "95 % interval", "recall on acted speech"),
            caption=caption,
            numbers=frozenset({1, 2, 3}),
        )
    return Table(
        [[name, share, recall] for name, share, _, recall in lines],
        ("emotion", "share of sure speech", "recall on acted speech"),
        caption=f"of {format_duration(basis_s)} of speech the model was sure about",
        numbers=frozenset({1, 2}),
    )


def _mean(values: Sequence[tuple[float, SpeechSummary]]) -> float:
    """The mean over days, each counting as long as the speech that its shares are of."""
    return sum(value * speech.basis.seconds for value, speech in values) / sum(speech.basis.seconds for _, speech in values)


def _interval(letter: Emotion, days: Sequence[SpeechSummary]) -> tuple[float, float] | None:
    """The mean bounds of days; None where one of them has none."""
    if not all(letter in speech.intervals for speech in days):
        return None
    low, high = (_mean([(speech.intervals[letter][end], speech) for speech in days]) for end in (0, 1))
    return low, high


def _can(material: ReportData, manifest: BundleManifest | None) -> Sequence[str]:
    false_alarms = format_percent(FALSE_ALARMS)
    return [
        *_accuracy(material, manifest),
        f"Show the course over time: the band is the patient's own usual range, from up to 28 covered days before; {false_alarms} of"
        " ordinary days lie outside it, drawn as triangles. Hollow points are partial days.",
        "Start a conversation about days that stand out, together with the patient's check-ins.",
    ]


def _accuracy(material: ReportData, manifest: BundleManifest | None) -> Sequence[str]:
    if manifest is None or not manifest.scores:
        return [f"{view_model.models_text(material.bundles, 'days') or 'Nothing was analysed.'} Its accuracy has not been measured."]
    score = _score(manifest)
    low, high = score.interval_95
    measured = (
        f"Model {manifest.version}: on {score.clips} clips of acted emotions by {score.speakers} unseen speakers, its balanced accuracy is"
        f" {format_percent(score.unweighted_accuracy)} (95 % interval {view_model.format_interval((low, high))};"
        f" chance {format_percent(score.chance)})."
    )
    if score.sure_unweighted_accuracy is not None:
        measured += f" On clips it was sure about: {format_percent(score.sure_unweighted_accuracy)}."
    others = [version for version in material.bundles if version != manifest.version]
    return [measured, *([f"Also analysed by {', '.join(others)}, whose accuracy is not known here."] if others else [])]


def _cannot(manifest: BundleManifest | None) -> Sequence[str]:
    return [
        "Diagnose, measure severity or risk, or replace asking the patient: it is not validated for any of these.",
        "Show feelings that were not audible, tell whose voice it was, or say anything about days without data.",
        *(manifest.limits if manifest else ["Its limits are not known here: the model in use could not be read."]),
    ]


def _score(manifest: BundleManifest) -> Score:
    """The first is the one that the bundle was released with."""
    return manifest.scores[0]
