"""Reports and exports as a FHIR R4 bundle: one observation per day of estimates, and one per check-in.

Check-ins follow the State of Mind profile of HL7's Personal Health Records guide (1.0.0-ballot2), as momentary emotions. Estimates of
days use the same code and components, as daily mood, but do not claim the profile: it makes every observation a survey, and nobody
answered these. Their method says that software inferred them, and the device names the model. Single segments are left out: thousands
of uncertain guesses about seconds are no finding. A day without data, or with too little speech, has a data-absent reason and no value.
Nobody is named unless the settings do, and no transcripts or notes are included. A bundle holds no probabilities, so it cannot be
imported again.

Codes that the guide does not have are this project's own, under urn:emosllm-monitor. Validated by fhir.resources before it is written;
its R4B stands in for R4, and the two do not differ in the resources used here.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import IO, Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from fhir.resources.R4B.bundle import Bundle

from model.emotions import Emotion
from monitor.analysis.days import TimeRange
from monitor.analysis.formatting import DISCLAIMER
from monitor.analysis.summary import DayState, DaySummary, Gap
from monitor.analysis.timeline_query import TimelineQuery
from monitor.analysis.trend import MEASURES
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config
from monitor.reports import view_model
from monitor.reports.data import RenderOptions, ReportData, ReportPeriod, load_report_data
from monitor.storage.reader import TimelineReader
from monitor.storage.records import CheckIn

Resource = dict[str, Any]

_PHR = "http://hl7.org/fhir/uv/phr"
_STATE_OF_MIND = f"{_PHR}/StructureDefinition/pghd-observation-state-of-mind"
_OWN = "urn:emosllm-monitor"
_UCUM = "http://unitsofmeasure.org"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_SYSTEMS = {
    "part": f"{_PHR}/CodeSystem/state-of-mind-codes",
    "kind": f"{_PHR}/CodeSystem/state-of-mind-kind-codes",
    "valence": f"{_PHR}/CodeSystem/state-of-mind-valence-codes",
    "label": f"{_PHR}/CodeSystem/state-of-mind-label-codes",
}
# Neutral, contempt and other have no label in the guide.
_LABELS = {
    Emotion.ANGRY: "angry",
    Emotion.SAD: "sad",
    Emotion.HAPPY: "happy",
    Emotion.SURPRISE: "surprised",
    Emotion.FEAR: "scared",
    Emotion.DISGUST: "disgusted",
}
# The guide names seven classes and no bounds; these are seven equal parts of the scale.
_CLASSES = ("veryUnpleasant", "unpleasant", "slightlyUnpleasant", "neutral", "slightlyPleasant", "pleasant", "veryPleasant")
_MEASURES = {measure.key: measure for measure in MEASURES}


def render(report: ReportData, options: RenderOptions) -> bytes:
    """For files."""
    return f"{to_fhir(report)}\n".encode()


def to_fhir(material: ReportData) -> str:
    """The bundle as JSON."""
    return Bundle.model_validate(fhir_bundle(material)).model_dump_json(indent=2)


def fhir_bundle(material: ReportData) -> Resource:
    """A collection: whom it is about, the software with each model that judged, days in order, check-ins in order."""
    patient = _entry({"resourceType": "Patient", **({"name": [{"text": material.patient}]} if material.patient else {})})
    devices = {bundle_version: _entry(_device(bundle_version)) for bundle_version in material.bundles or [""]}
    subject = {"reference": patient["fullUrl"]}
    observations = [
        *(_day(day, subject, _device_of(day, devices)) for day in material.days),
        *(_checkin(one, subject, material.period.zone) for one in material.checkins),
    ]
    issued = material.now.astimezone(material.period.zone).isoformat(timespec="seconds")
    entries = [patient, *devices.values(), *(_entry({**one, "issued": issued}) for one in observations)]
    return {"resourceType": "Bundle", "type": "collection", "timestamp": issued, "entry": entries}


def _entry(resource: Resource) -> Resource:
    # A new name each time: two people, or two exports, must never be taken for one.
    return {"fullUrl": f"urn:uuid:{uuid4()}", "resource": resource}


def _device(bundle_version: str) -> Resource:
    versions = [{"type": {"text": "software"}, "value": version("emosllm-monitor")}]
    if bundle_version:
        versions.append({"type": {"text": "model"}, "value": bundle_version})
    return {
        "resourceType": "Device",
        "meta": {"profile": [f"{_PHR}/StructureDefinition/pghd-device"]},
        "deviceName": [{"name": "emosllm-monitor", "type": "model-name"}],
        "type": {"text": "software that estimates emotions from the sound of a voice"},
        "version": versions,
    }


def _device_of(day: DaySummary, devices: dict[str, Resource]) -> Resource:
    """The one that judged most of the day; a note names the others."""
    judged_by = max(day.bundles, key=lambda name: day.bundles[name], default=next(reversed(devices)))
    return {"reference": devices[judged_by]["fullUrl"]}


def _day(day: DaySummary, subject: Resource, device: Resource) -> Resource:
    value = None if day.state is DayState.NO_DATA else _MEASURES["valence"].get(day)
    found: Resource = {
        "resourceType": "Observation",
        "status": "preliminary" if Gap.NOT_OVER in day.gaps else "final",
        "category": [_own("category", "inferred", "inferred by software; neither a survey nor an examination")],
        "code": _coded(f"{_PHR}/CodeSystem/observation-pghd-codes", "stateOfMind", "State of Mind"),
        "subject": subject,
        "effectivePeriod": {name: _local(moment, day.day.zone) for name, moment in (("start", day.day.start), ("end", day.day.end))},
        "device": device,
        "method": _own("method", "speech-emotion-recognition", "estimated by a model from the sound of the voice; not self-report"),
        "note": [{"text": text} for text in (view_model.state_text(day), view_model.models_text(day.bundles), DISCLAIMER) if text],
    }
    if day.state is DayState.NO_DATA:
        return {**found, "dataAbsentReason": _absent("not-performed", "NO DATA: nothing was recorded")}
    if value is None:
        found["dataAbsentReason"] = _absent("unknown", "too little speech was recorded and analysed")
        return {**found, "component": list(_amounts(day))}
    leading = day.speech.leading if view_model.has_enough_speech(day.speech) else None
    parts = [*_state_of_mind("dailyMood", value, leading, "unsupported"), *_figures(day), *_amounts(day)]
    return {**found, "component": parts}


def _checkin(one: CheckIn, subject: Resource, zone: ZoneInfo) -> Resource:
    return {
        "resourceType": "Observation",
        "meta": {"profile": [_STATE_OF_MIND]},
        "status": "final",
        "category": [_coded(_CATEGORY, "survey", "Survey")],
        "code": _coded(f"{_PHR}/CodeSystem/observation-pghd-codes", "stateOfMind", "State of Mind"),
        "subject": subject,
        "performer": [subject],
        "effectiveDateTime": _local(one.at, zone),
        "method": _own("method", "self-report", "reported by the person"),
        "component": list(_state_of_mind("momentaryEmotion", one.valence, one.emotion, "not-asked")),
    }


def _state_of_mind(kind: str, valence: float, emotion: Emotion | None, no_associations: str) -> Iterator[Resource]:
    """The five parts that the profile asks for, and the emotion by this project's own name, as the guide has no label for some."""
    yield _part("kind", "Kind", valueCodeableConcept=_coded(_SYSTEMS["kind"], kind, None))
    yield _part("valence", "Valence", valueQuantity={"value": round(valence, 4)})
    classified = _CLASSES[min(len(_CLASSES) - 1, int((valence + 1) / 2 * len(_CLASSES)))]
    yield _part("valenceClassification", "Valence Classification", valueCodeableConcept=_coded(_SYSTEMS["valence"], classified, None))
    if emotion in _LABELS:
        yield _part("labels", "Labels", valueCodeableConcept=_coded(_SYSTEMS["label"], _LABELS[emotion], None))
    else:
        reason = "the guide has no label for it" if emotion else "too little speech to name an emotion"
        yield _part("labels", "Labels", dataAbsentReason=_absent("unsupported" if emotion else "unknown", reason))
    yield _part("associations", "Associations", dataAbsentReason=_absent(no_associations, None))
    if emotion is not None:
        yield _own_part("emotion", "emotion", valueCodeableConcept=_own("emotion", emotion.word, emotion.word))


def _figures(day: DaySummary) -> Iterator[Resource]:
    arousal = _MEASURES["arousal"].get(day)
    if arousal is not None:
        yield _own_part("arousal", "arousal, -1 (calm) to 1 (excited)", valueQuantity={"value": round(arousal, 4)})
    if view_model.has_enough_speech(day.speech):
        for emotion, share in day.speech.shares.items():
            what = f"of speech that sounded {emotion.word}"
            told = f"estimated share {what}" if day.speech.estimated else f"share of sure speech that sounded {emotion.word}"
            yield _own_part(f"share-{emotion.word}", told, valueQuantity=_quantity(100 * share, "%"))
            if emotion in day.speech.intervals:
                low, high = (_quantity(100 * bound, "%") for bound in day.speech.intervals[emotion])
                yield _own_part(f"share-{emotion.word}-95", f"95 % interval of the share {what}", valueRange={"low": low, "high": high})


def _amounts(day: DaySummary) -> Iterator[Resource]:
    """How much the rest stands on."""
    yield _own_part("heard", "recorded time", valueQuantity=_quantity(day.heard_s / 3600, "h"))
    yield _own_part("speech", "time of speech", valueQuantity=_quantity(day.speech.total.seconds / 60, "min"))
    if day.speech.unsure_share is not None:
        yield _own_part(
            "unsure", "share of analysed speech below the confidence threshold", valueQuantity=_quantity(100 * day.speech.unsure_share, "%")
        )


def _part(code: str, display: str, **value: Resource) -> Resource:
    return {"code": _coded(_SYSTEMS["part"], code, display), **value}


def _own_part(code: str, text: str, **value: Resource) -> Resource:
    return {"code": _own("component", code, text), **value}


def _own(system: str, code: str, text: str) -> Resource:
    return {"coding": [{"system": f"{_OWN}:{system}", "code": code}], "text": text}


def _coded(system: str, code: str, display: str | None) -> Resource:
    return {"coding": [{"system": system, "code": code, **({"display": display} if display else {})}]}


def _absent(code: str, text: str | None) -> Resource:
    return {**_coded(_ABSENT, code, None), **({"text": text} if text else {})}


def _quantity(value: float, unit: str) -> Resource:
    return {"value": round(value, 3), "unit": unit, "system": _UCUM, "code": unit}


def _local(moment: datetime, zone: ZoneInfo) -> str:
    """A moment with the offset of its zone."""
    return moment.astimezone(zone).isoformat(timespec="seconds")


def write_fhir_days(target: IO[str], config: Config, time_range: TimeRange, now: datetime) -> dict[str, int]:
    """Write the days that the stretch is a part of, as far as anything is known of them; returns how many days and check-ins."""
    first, last = _known_range(config, time_range, now)
    zone = config.timeline.zone_info()
    with TimelineQuery.open(config.timeline, now, BundleRegistry.of(config).active()) as look:
        material = load_report_data(look, ReportPeriod(first.astimezone(zone).date(), last.astimezone(zone).date(), zone), config.report)
    target.write(to_fhir(material) + "\n")
    return {"days": len(material.days), "checkins": len(material.checkins)}


def _known_range(config: Config, time_range: TimeRange, now: datetime) -> tuple[datetime, datetime]:
    """The stretch without what lies before the first thing that is known, and after now."""
    timeline = config.timeline
    with TimelineReader.open(timeline.database_path(), timeline.keys()) as reader:
        heard = reader.overlapping(time_range.start, time_range.end)
        said = reader.checkins_between(time_range.start, time_range.end)
    moments = [*(heard or ()), *(checkin.at for checkin in said)]
    last = min(time_range.end, now.astimezone(UTC)) - timedelta(microseconds=1)
    return min(last, max(time_range.start, min(moments, default=last))), last
