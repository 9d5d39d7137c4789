"""FHIR: every bundle is valid, moments carry their offset, what is not known has a reason and no value, and nobody is named unasked."""

import json
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle

from model.types import Emotion
from monitor.day.days import Day
from monitor.day.summarizing import summarize
from monitor.report.fhir import to_fhir
from monitor.report.material import Material
from tests.some_days import DAY, PARIS, checkins, coverage, empty_day, entries, full_day, of_days, of_one_day, story

MATERIALS = {
    "full day": of_one_day(said=checkins()),
    "no data": of_one_day(empty_day()),
    "one segment": of_one_day(summarize(DAY, entries(count=1), [], DAY.end)),
    "silent": of_one_day(summarize(DAY, [], coverage(), DAY.end)),
    "not over": of_one_day(summarize(DAY, entries(), coverage(), DAY.start + timedelta(hours=10))),
    "23 hours": of_one_day(full_day(Day(date(2026, 3, 29), PARIS))),
    "25 hours": of_one_day(full_day(Day(date(2026, 10, 25), PARIS))),
    "weeks": of_days(story(14)),
}
PHR = "http://hl7.org/fhir/uv/phr"
PROFILE = f"{PHR}/StructureDefinition/pghd-observation-state-of-mind"
every_material = pytest.mark.parametrize("material", MATERIALS.values(), ids=MATERIALS.keys())


def observations(material: Material) -> list[dict[str, Any]]:
    return _observations(to_fhir(material))


def _observations(text: str) -> list[dict[str, Any]]:
    resources = [entry["resource"] for entry in json.loads(text)["entry"]]
    return [resource for resource in resources if resource["resourceType"] == "Observation"]


def parts(observation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["code"]["coding"][0]["code"]: part for part in observation.get("component", [])}


@every_material
def test_every_bundle_is_valid_and_every_reference_leads_to_an_entry(material: Material) -> None:
    text = to_fhir(material)
    Bundle.model_validate_json(text)
    names = [entry["fullUrl"] for entry in json.loads(text)["entry"]]
    assert len(set(names)) == len(names)
    for observation in _observations(text):
        assert observation["subject"]["reference"] in names
        assert observation.get("device", observation["subject"])["reference"] in names


@every_material
def test_every_moment_carries_the_offset_of_its_zone(material: Material) -> None:
    for observation in observations(material):
        moments = [*observation.get("effectivePeriod", {}).values(), observation.get("effectiveDateTime"), observation["issued"]]
        for text in filter(None, moments):
            moment = datetime.fromisoformat(text)
            assert moment.utcoffset() == moment.astimezone(PARIS).utcoffset()


def test_a_day_of_25_hours_ends_with_another_offset_than_it_began() -> None:
    (day,) = observations(MATERIALS["25 hours"])
    assert day["effectivePeriod"] == {"start": "2026-10-25T00:00:00+02:00", "end": "2026-10-26T00:00:00+01:00"}


@every_material
def test_an_observation_has_a_valence_or_a_reason_why_not(material: Material) -> None:
    for observation in observations(material):
        assert ("dataAbsentReason" in observation) != ("valence" in parts(observation))
        for part in observation.get("component", []):
            assert sum(key.startswith("value") or key == "dataAbsentReason" for key in part) == 1


def test_a_day_without_data_has_a_reason_and_no_value_at_all() -> None:
    (day,) = observations(MATERIALS["no data"])
    assert day["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "component" not in day
    assert not [key for key in day if key.startswith("value")]
    (silent,) = observations(MATERIALS["silent"])
    assert silent["dataAbsentReason"]["coding"][0]["code"] == "unknown"
    assert set(parts(silent)) == {"heard", "speech"}


def test_only_what_the_person_said_claims_the_profile_with_all_its_parts() -> None:
    day, *said = observations(MATERIALS["full day"])
    assert "meta" not in day
    assert day["method"]["coding"][0]["code"] == "speech-emotion-recognition"
    assert parts(day)["kind"]["valueCodeableConcept"]["coding"][0]["code"] == "dailyMood"
    assert len(said) == 3
    for one in said:
        assert one["meta"]["profile"] == [PROFILE]
        assert one["category"][0]["coding"][0]["code"] == "survey"
        assert parts(one)["kind"]["valueCodeableConcept"]["coding"][0]["code"] == "momentaryEmotion"
        assert {"kind", "valence", "valenceClassification", "labels", "associations"} <= set(parts(one))
        assert "device" not in one
    labels = [parts(one)["labels"] for one in said]
    assert [label.get("valueCodeableConcept", {}).get("coding", [{}])[0].get("code") for label in labels] == ["happy", "sad", None]
    assert labels[2]["dataAbsentReason"]["coding"][0]["code"] == "unsupported"


@pytest.mark.parametrize(
    ("valence", "name"),
    [(-1, "veryUnpleasant"), (-0.5, "unpleasant"), (-0.2, "slightlyUnpleasant"), (0, "neutral"), (0.43, "pleasant"), (1, "veryPleasant")],
)
def test_valences_are_classified_in_seven_equal_parts(valence: float, name: str) -> None:
    said = replace(checkins()[0], valence=valence)
    found = parts(observations(of_one_day(said=[said]))[1])
    assert found["valenceClassification"]["valueCodeableConcept"]["coding"][0]["code"] == name


@pytest.mark.parametrize("emotion", list(Emotion))
def test_every_emotion_can_be_said(emotion: Emotion) -> None:
    one = observations(of_one_day(said=[replace(checkins()[0], emotion=emotion)]))[1]
    assert parts(one)["emotion"]["valueCodeableConcept"]["text"] == emotion.word


def test_nobody_is_named_and_no_note_is_told_unless_the_settings_name_somebody() -> None:
    text = to_fhir(MATERIALS["full day"])
    assert "private note" not in text
    assert json.loads(text)["entry"][0]["resource"] == {"resourceType": "Patient"}
    named = json.loads(to_fhir(of_days(story(7), patient="A. N. Other")))["entry"][0]["resource"]
    assert named["name"] == [{"text": "A. N. Other"}]


def test_the_device_is_the_model_that_judged() -> None:
    resources = [entry["resource"] for entry in json.loads(to_fhir(of_days()))["entry"]]
    versions = [device["version"][1]["value"] for device in resources if device["resourceType"] == "Device"]
    assert versions == ["compact-5c1ad689", "compact-77aa10bc"]
