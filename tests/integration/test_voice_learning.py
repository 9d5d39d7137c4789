"""What is learned of a person's voice: in one transaction with the prediction, until it is enough, then never again; on real timelines."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from model.emotions import Emotion, Prediction
from model.voice_reference import VoiceSums
from monitor.analysis.days import TimeRange
from monitor.config import Config
from monitor.deletion import delete_everything, delete_range
from monitor.storage import voice_reference
from monitor.storage.backup import Backups
from monitor.storage.erasure import find_in_range
from monitor.storage.records import MIN_REFERENCE_SEGMENTS, InferenceResult, VoiceContribution
from monitor.storage.voice_reference import current_reference_sums, erase_voice_references
from monitor.storage.writer import TimelineWriter
from monitor.transfer.export import export_data
from monitor.transfer.import_ import import_data
from monitor.transfer.schema import ExportFormat
from tests.support.paths import ROOT
from tests.support.spoken_timeline import DAY, FIRST, HOUR, LAST, PARIS, WIDTH, SpokenTimeline
from tests.support.storage import keys, of_version, raw


@pytest.fixture
def spoken(home: Path) -> Iterator[SpokenTimeline]:
    made = SpokenTimeline()
    yield made
    made.timeline.close()


# learning --------------------------------------------------------------------------------------------------------


def test_every_judged_segment_is_added_to_its_hour_and_marked_with_the_reference(spoken: SpokenTimeline) -> None:
    spoken.say(FIRST, 3)
    spoken.say(FIRST + HOUR, 2, version="0badcafe")
    known = spoken.reference()
    assert (known.segments, known.speech_s, known.days, known.frozen) == (5, 30.0, 0, False)
    assert (known.begun_at, known.last_at) == (FIRST, FIRST + HOUR + timedelta(seconds=13))
    assert [segments for _, _, segments in spoken.hours()] == [3.0, 2.0]
    assert [entry.voice_version for entry in spoken.segments()] == [known.version] * 3 + ["0badcafe"] * 2, "as it was heard"
    total = VoiceSums.from_bytes(spoken.sums())
    assert (total.segments, total.speech_s) == (5.0, 30.0)
    wanted = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32).sum(axis=0)
    assert total.sums == pytest.approx(wanted, abs=1e-5)


def test_what_cannot_be_compared_does_not_mix(spoken: SpokenTimeline) -> None:
    spoken.say(FIRST, 2)
    spoken.say(FIRST + timedelta(minutes=5), 3, microphone="headset")
    spoken.say(FIRST + timedelta(minutes=10), 4, space="another encoder")
    spoken.say(FIRST + timedelta(minutes=15), 5, space=None)
    spoken.say(FIRST + timedelta(minutes=20), 6, microphone=None)
    found = {(one.microphone, one.voice_space): one.segments for one in spoken.references()}
    assert found == {("desk", "space"): 2, ("headset", "space"): 3, ("desk", "another encoder"): 4}
    versions = [entry.voice_version for entry in spoken.segments()]
    assert len(set(versions[:9])) == 3
    assert versions[9:] == [None] * 11, "a bundle without a use for it, and a recording of nobody knows whom"


def test_nothing_is_added_twice_or_for_what_was_settled(spoken: SpokenTimeline) -> None:
    (segment,) = spoken.say(FIRST)
    before = spoken.sums()
    heard = VoiceContribution("space", VoiceSums(1.0, 6.0, np.ones(WIDTH, np.float32)), None)
    assert spoken.timeline.judge({segment: InferenceResult(Prediction({Emotion.SAD: 1.0}, False, "late"), None, None, heard)}) == []
    assert spoken.sums() == before


def test_a_prediction_and_what_it_adds_are_stored_together_or_not_at_all(spoken: SpokenTimeline, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken.say(FIRST, 2)
    before, hours = spoken.sums(), spoken.hours()
    monkeypatch.setattr(voice_reference, "_freeze_if_enough", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        spoken.say(FIRST + HOUR)
    assert (spoken.sums(), spoken.hours()) == (before, hours)
    assert [entry.prediction is not None for entry in spoken.segments()] == [True, True, False]


_SPEAK = """
import sys
from datetime import timedelta
from tests.support.spoken_timeline import FIRST, SpokenTimeline
spoken = SpokenTimeline()
spoken._sample = int(sys.argv[1]) * 10**9
for number in range(10_000):
    spoken.say(FIRST + timedelta(minutes=5 * number), 2, seconds=0.5)
    print(flush=True)
"""


def test_a_kill_at_any_moment_leaves_as_many_segments_in_the_reference_as_were_judged(home: Path) -> None:
    for number in range(1, 5):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen([sys.executable, "-c", _SPEAK, str(number)], env=environment, stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in range(3):
            child.stdout.readline()
        time.sleep(Random(number).uniform(0, 0.1))
        child.kill()
        child.communicate()
        spoken = SpokenTimeline()
        judged = sum(entry.prediction is not None for entry in spoken.segments())
        assert sum(segments for *_, segments in spoken.hours()) == judged
        spoken.timeline.close()
    assert judged >= 4 * 6
    assert judged % 2 == 0, "each pair in one transaction"


def test_an_hour_that_belongs_to_two_local_days_counts_for_both(home: Path) -> None:
    spoken = SpokenTimeline(ZoneInfo("Asia/Kathmandu"))
    midnight = datetime(2026, 3, 2, 18, 15, tzinfo=UTC)
    spoken.say(midnight - timedelta(minutes=10), 12)
    spoken.say(midnight + timedelta(minutes=10), 12)
    assert spoken.hours() == [("2026-03-02", "2026-03-02 18:00:00.000000", 12.0), ("2026-03-03", "2026-03-02 18:00:00.000000", 12.0)]
    assert spoken.reference().days == 2
    spoken.timeline.close()


# freezing --------------------------------------------------------------------------------------------------------


def test_it_is_frozen_by_the_segment_that_makes_it_enough_and_is_another_reference_then(spoken: SpokenTimeline) -> None:
    spoken.days(4, 48)
    spoken.say(FIRST + 4 * DAY, MIN_REFERENCE_SEGMENTS - 4 * 48 - 1, seconds=10.0)
    learning = spoken.reference()
    assert (learning.frozen, learning.segments, learning.days) == (False, MIN_REFERENCE_SEGMENTS - 1, 5)
    spoken.say(FIRST + 4 * DAY + HOUR, 3, version=learning.version)
    known = spoken.reference()
    assert (known.frozen, known.segments) == (True, MIN_REFERENCE_SEGMENTS), "the two after it are not added"
    assert known.version != learning.version
    assert {entry.voice_version for entry in spoken.segments()} == {learning.version}, "nothing was heard against the new one yet"


@pytest.mark.parametrize(
    ("days", "each", "seconds", "frozen"),
    [
        (4, 60, 6.0, False),  # a day is missing
        (5, 39, 10.0, False),  # five segments are
        (5, 45, 5.0, False),  # a minute of speech is
        (5, 45, 6.0, True),
    ],
)
def test_days_segments_and_speech_are_all_needed(spoken: SpokenTimeline, days: int, each: int, seconds: float, frozen: bool) -> None:
    spoken.days(days, each, seconds=seconds)
    assert spoken.reference().frozen is frozen


def test_a_day_with_hardly_any_speech_is_none_of_the_five(spoken: SpokenTimeline) -> None:
    spoken.days(4, 60)
    spoken.say(FIRST + 4 * DAY, 9)
    assert (spoken.reference().days, spoken.reference().frozen) == (4, False)
    spoken.say(FIRST + 4 * DAY + HOUR)
    assert spoken.reference().frozen


def test_who_is_sad_for_a_month_afterwards_does_not_change_it_by_a_bit(spoken: SpokenTimeline) -> None:
    spoken.days(5)
    known, sums, hours = spoken.reference(), spoken.sums(), spoken.hours()
    assert known.frozen
    for day in range(5, 35):
        spoken.say(FIRST + day * DAY, 8, mood=3.0, version=known.version)
    assert (spoken.reference(), spoken.sums(), spoken.hours()) == (known, sums, hours)
    assert {entry.voice_version for entry in spoken.segments()[-240:]} == {known.version}
    spoken.say(FIRST + 35 * DAY, 2, microphone="new")
    assert {one.microphone: one.frozen for one in spoken.references()} == {"desk": True, "new": False}, "a new one starts anew"
    assert spoken.sums() == sums


# forgetting, renewing, restoring ---------------------------------------------------------------------------------


def _spoken_on(days: Iterable[int], home: Path, monkeypatch: pytest.MonkeyPatch) -> SpokenTimeline:
    """Somebody else's timeline, with the same speech on some of the days only."""
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "other"))
    other = SpokenTimeline()
    for day in range(5):
        if day in days:
            other.say(FIRST + day * DAY, 40)
        else:
            other._random.normal(size=(40, WIDTH))
    return other


@pytest.mark.parametrize("gone", [0, 2, 4])
def test_what_is_left_of_it_is_as_if_the_erased_day_had_never_been(
    spoken: SpokenTimeline, gone: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken.days(5, 40)
    backup = Backups.of(spoken.config.timeline).make(LAST)
    before, begin = spoken.reference(), FIRST + gone * DAY
    receipt = delete_range(spoken.config, TimeRange(begin + timedelta(minutes=1), begin + timedelta(minutes=2)))
    assert receipt.found.voice_hours == 1
    assert receipt.rewritten == [backup.name]
    after, sums = spoken.reference(), spoken.sums()
    in_backup = find_in_range(backup, keys().find(spoken.path, copy=backup), FIRST - DAY, LAST).found
    assert in_backup.voice_hours == 4
    other = _spoken_on(set(range(5)) - {gone}, home, monkeypatch)
    assert (after.segments, after.begun_at, after.last_at) == (160, other.reference().begun_at, other.reference().last_at)
    assert other.sums() == sums
    assert after.version != before.version
    assert after.frozen
    other.timeline.close()


def test_a_frozen_one_of_which_something_is_erased_stays_frozen_and_says_nothing_of_the_erased_time(spoken: SpokenTimeline) -> None:
    spoken.days(5)
    spoken.days(6)
    last_day = FIRST + 4 * DAY
    delete_range(spoken.config, TimeRange(last_day, last_day + DAY))
    left = spoken.reference()
    assert (left.frozen, left.days, left.is_enough) == (True, 4, False)
    assert left.last_at < last_day
    sums = spoken.sums()
    spoken.say(FIRST + 40 * DAY, 50, mood=3.0)
    assert spoken.sums() == sums, "it does not begin to follow"


def test_an_hour_in_which_nothing_was_said_in_the_erased_time_stays(spoken: SpokenTimeline) -> None:
    spoken.say(FIRST, 3)
    before = spoken.reference()
    assert not delete_range(spoken.config, TimeRange(FIRST + HOUR / 2, FIRST + HOUR)).found.voice_hours
    assert spoken.reference() == before


def test_forgetting_all_of_its_time_or_everything_leaves_no_row(spoken: SpokenTimeline) -> None:
    spoken.days(5)
    delete_range(spoken.config, TimeRange(FIRST - DAY, FIRST + 10 * DAY))
    assert spoken.references() == []
    with closing(raw(spoken.path)) as connection:
        assert connection.execute("SELECT count(*) FROM voice_reference").fetchone() == (0,)
    spoken.say(FIRST + 20 * DAY, 2)
    assert not spoken.reference().frozen
    spoken.timeline.close()
    delete_everything(spoken.config)
    assert not spoken.path.exists()


def test_it_is_learned_anew_when_the_person_asks_and_only_then(spoken: SpokenTimeline) -> None:
    spoken.days(5)
    spoken.days(5, microphone="headset")
    known = {one.microphone: one.version for one in spoken.references()}
    assert erase_voice_references(spoken.path, keys(), "another", None) == []
    assert erase_voice_references(spoken.path, keys(), "space", "desk") == ["desk"]
    assert [one.version for one in spoken.references()] == [known["headset"]]
    spoken.say(FIRST + 40 * DAY, 1, version=known["desk"])
    desk, headset = spoken.references()
    assert (desk.segments, desk.frozen, headset.version) == (1, False, known["headset"])
    assert desk.version not in known.values()
    assert erase_voice_references(spoken.path, keys(), "space", None) == ["desk", "headset"]
    assert spoken.references() == []


def test_a_backup_holds_it_and_brings_it_back_as_it_was(spoken: SpokenTimeline) -> None:
    spoken.days(5)
    before, sums, backups = spoken.reference(), spoken.sums(), Backups.of(spoken.config.timeline)
    backup = backups.make(LAST)
    erase_voice_references(spoken.path, keys(), "space", None)
    spoken.say(FIRST + 9 * DAY)
    spoken.timeline.close()
    backups.restore(backup, LAST)
    spoken.timeline = TimelineWriter.open(spoken.path, PARIS, keys())
    assert (spoken.reference(), spoken.sums()) == (before, sums)


def test_an_export_holds_nothing_of_it_and_an_import_adds_nothing(
    spoken: SpokenTimeline, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken.say(FIRST, 3)
    out = home / "everything.jsonl"
    export_data(spoken.config, ExportFormat.JSONL, TimeRange(FIRST - DAY, LAST), str(out), False, LAST)
    text = out.read_text()
    assert '"type": "segment"' in text
    assert not [word for word in ("voice_", "desk", "sums", spoken.reference().version) if word in text]
    spoken.timeline.close()
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "other"))
    import_data(Config().timeline, str(out))
    other = SpokenTimeline()
    assert len(other.segments()) == 3
    assert other.references() == []
    other.timeline.close()


def test_a_timeline_of_the_version_before_is_brought_up_to_date_and_learns(home: Path) -> None:
    path = Config().timeline.database_path()
    path.parent.mkdir(parents=True)
    of_version(path, "0005")
    with closing(raw(path)) as connection, connection:
        connection.execute(
            "INSERT INTO segment (stream, start_sample, end_sample, start_at, end_at, zone, state, emotion, confidence, unsure, posterior,"
            " bundle_version, judged_at) VALUES ('s', 0, 1, '2026-03-01 09:00:00.000000', '2026-03-01 09:00:02.000000', 'UTC', 'judged',"
            " 'S', 1.0, 0, '{\"S\": 1.0}', 'old-1', '2026-03-01 09:00:03.000000')"
        )
    spoken = SpokenTimeline()
    assert spoken.references() == []
    spoken.say(FIRST, 2)
    old, *new = spoken.segments()
    assert [entry.voice_version for entry in new] == [spoken.reference().version] * 2
    assert (old.voice_version, old.prediction and old.prediction.bundle_version) == (None, "old-1")
    spoken.timeline.close()


def test_a_training_gets_the_sums_of_the_microphone_that_heard_most(spoken: SpokenTimeline) -> None:
    assert current_reference_sums(spoken.config.timeline, "space") is None
    spoken.say(FIRST, 4)
    spoken.say(FIRST + HOUR, 9, microphone="headset")
    assert current_reference_sums(spoken.config.timeline, "space") == spoken.sums("headset")
    assert current_reference_sums(spoken.config.timeline, "another") is None
    assert current_reference_sums(spoken.config.timeline, None) is None
