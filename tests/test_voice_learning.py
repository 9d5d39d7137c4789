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

from model.types import Emotion, Prediction
from model.voice_reference import VoiceSums
from monitor.config import Config
from monitor.day.stretches import Stretch
from monitor.exchange.incoming import bring_back
from monitor.exchange.outgoing import export
from monitor.exchange.tables import Form
from monitor.forgetting import forget, forget_all
from monitor.retraining.reference import current_reference_sums
from monitor.store import voice_learning
from monitor.store.backup import Backups
from monitor.store.erasure import look
from monitor.store.reader import TimelineReader
from monitor.store.records import Judgement, TimelineEntry
from monitor.store.tables import SegmentRow
from monitor.store.timeline import Timeline
from monitor.store.voice_learning import let_go
from monitor.store.voice_reference import ENOUGH_SEGMENTS, HeardAgainst, VoiceReference
from tests.stores import keys, of_version, raw

ROOT = Path(__file__).parents[1]
PARIS = ZoneInfo("Europe/Paris")
FIRST = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LAST = FIRST + timedelta(days=400)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WIDTH = 8


class Spoken:
    """A timeline in this test's home, and somebody who speaks: what was heard, from how many seconds of speech each."""

    def __init__(self, zone: ZoneInfo = PARIS) -> None:
        self.config = Config()
        self.path = self.config.timeline.database_path()
        self.timeline = Timeline.open(self.path, zone, keys())
        self._sample, self._zone = 0, str(zone)
        self._random = np.random.default_rng(0)

    def say(
        self,
        at: datetime,
        count: int = 1,
        *,
        seconds: float = 6.0,
        mood: float = 0.0,
        microphone: str | None = "desk",
        space: str | None = "space",
        version: str | None = None,
    ) -> list[int]:
        """So many segments, one after the other, judged together; a mood moves every state."""
        judgements = {}
        for segment in self._waiting(at, count, seconds, microphone):
            sums = VoiceSums(1.0, seconds, (self._random.normal(size=WIDTH) + mood).astype(np.float32))
            heard = None if space is None else HeardAgainst(space, sums, version)
            judgements[segment] = Judgement(Prediction({Emotion.SAD: 1.0}, False, "tiny-1"), None, None, heard)
        return self.timeline.judge(judgements)

    def _waiting(self, at: datetime, count: int, seconds: float, microphone: str | None) -> list[int]:
        """In one transaction, which is quicker than as the monitor does it."""
        begins = [at + timedelta(seconds=number * (seconds + 1)) for number in range(count)]
        samples = [self._sample + 10**6 * number for number in range(1, count + 1)]
        self._sample = samples[-1]
        rows = [
            SegmentRow(
                stream=self.timeline.stream,
                start_sample=sample,
                end_sample=sample + 1,
                start_at=begin,
                end_at=begin + timedelta(seconds=seconds),
                zone=self._zone,
                state="waiting",
                microphone=microphone,
            )
            for sample, begin in zip(samples, begins, strict=True)
        ]
        with self.timeline._writing() as session:
            session.add_all(rows)
            session.flush()
            return [row.id for row in rows if row.id is not None]

    def days(self, count: int, each: int = 45, **more: object) -> None:
        """Some days from the first on."""
        for number in range(count):
            self.say(FIRST + number * DAY, each, **more)  # type: ignore[arg-type]

    def references(self) -> list[VoiceReference]:
        with TimelineReader.open(self.path, keys()) as reader:
            return reader.voice_references()

    def reference(self) -> VoiceReference:
        (only,) = self.references()
        return only

    def sums(self, microphone: str = "desk", space: str = "space") -> bytes:
        """Of a reference, as a judging process is told them."""
        known = self.timeline.voice_reference(microphone, space)
        assert known is not None
        held = self.timeline.held_reference(known.version)
        assert held is not None
        return held.sums

    def segments(self) -> list[TimelineEntry]:
        with TimelineReader.open(self.path, keys()) as reader:
            return reader.segments_between(FIRST - 2 * DAY, LAST)

    def hours(self) -> list[tuple[str, str, float]]:
        with closing(raw(self.path)) as connection:
            return connection.execute("SELECT on_date, hour_at, segments FROM voice_hour ORDER BY 1, 2").fetchall()


@pytest.fixture
def spoken(home: Path) -> Iterator[Spoken]:
    made = Spoken()
    yield made
    made.timeline.close()


# learning --------------------------------------------------------------------------------------------------------


def test_every_judged_segment_is_added_to_its_hour_and_marked_with_the_reference(spoken: Spoken) -> None:
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


def test_what_cannot_be_compared_does_not_mix(spoken: Spoken) -> None:
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


def test_nothing_is_added_twice_or_for_what_was_settled(spoken: Spoken) -> None:
    (segment,) = spoken.say(FIRST)
    before = spoken.sums()
    heard = HeardAgainst("space", VoiceSums(1.0, 6.0, np.ones(WIDTH, np.float32)), None)
    assert spoken.timeline.judge({segment: Judgement(Prediction({Emotion.SAD: 1.0}, False, "late"), None, None, heard)}) == []
    assert spoken.sums() == before


def test_a_prediction_and_what_it_adds_are_stored_together_or_not_at_all(spoken: Spoken, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken.say(FIRST, 2)
    before, hours = spoken.sums(), spoken.hours()
    monkeypatch.setattr(voice_learning, "_freeze_if_enough", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        spoken.say(FIRST + HOUR)
    assert (spoken.sums(), spoken.hours()) == (before, hours)
    assert [entry.prediction is not None for entry in spoken.segments()] == [True, True, False]


_SPEAK = """
import sys
from datetime import timedelta
from tests.test_voice_learning import FIRST, Spoken
spoken = Spoken()
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
        spoken = Spoken()
        judged = sum(entry.prediction is not None for entry in spoken.segments())
        assert sum(segments for *_, segments in spoken.hours()) == judged
        spoken.timeline.close()
    assert judged >= 4 * 6
    assert judged % 2 == 0, "each pair in one transaction"


def test_an_hour_that_belongs_to_two_local_days_counts_for_both(home: Path) -> None:
    spoken = Spoken(ZoneInfo("Asia/Kathmandu"))
    midnight = datetime(2026, 3, 2, 18, 15, tzinfo=UTC)
    spoken.say(midnight - timedelta(minutes=10), 12)
    spoken.say(midnight + timedelta(minutes=10), 12)
    assert spoken.hours() == [("2026-03-02", "2026-03-02 18:00:00.000000", 12.0), ("2026-03-03", "2026-03-02 18:00:00.000000", 12.0)]
    assert spoken.reference().days == 2
    spoken.timeline.close()


# freezing --------------------------------------------------------------------------------------------------------


def test_it_is_frozen_by_the_segment_that_makes_it_enough_and_is_another_reference_then(spoken: Spoken) -> None:
    spoken.days(4, 48)
    spoken.say(FIRST + 4 * DAY, ENOUGH_SEGMENTS - 4 * 48 - 1, seconds=10.0)
    learning = spoken.reference()
    assert (learning.frozen, learning.segments, learning.days) == (False, ENOUGH_SEGMENTS - 1, 5)
    spoken.say(FIRST + 4 * DAY + HOUR, 3, version=learning.version)
    known = spoken.reference()
    assert (known.frozen, known.segments) == (True, ENOUGH_SEGMENTS), "the two after it are not added"
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
def test_days_segments_and_speech_are_all_needed(spoken: Spoken, days: int, each: int, seconds: float, frozen: bool) -> None:
    spoken.days(days, each, seconds=seconds)
    assert spoken.reference().frozen is frozen


def test_a_day_with_hardly_any_speech_is_none_of_the_five(spoken: Spoken) -> None:
    spoken.days(4, 60)
    spoken.say(FIRST + 4 * DAY, 9)
    assert (spoken.reference().days, spoken.reference().frozen) == (4, False)
    spoken.say(FIRST + 4 * DAY + HOUR)
    assert spoken.reference().frozen


def test_who_is_sad_for_a_month_afterwards_does_not_change_it_by_a_bit(spoken: Spoken) -> None:
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


def _spoken_on(days: Iterable[int], home: Path, monkeypatch: pytest.MonkeyPatch) -> Spoken:
    """Somebody else's timeline, with the same speech on some of the days only."""
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "other"))
    other = Spoken()
    for day in range(5):
        if day in days:
            other.say(FIRST + day * DAY, 40)
        else:
            other._random.normal(size=(40, WIDTH))
    return other


@pytest.mark.parametrize("gone", [0, 2, 4])
def test_what_is_left_of_it_is_as_if_the_erased_day_had_never_been(
    spoken: Spoken, gone: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken.days(5, 40)
    backup = Backups.of(spoken.config.timeline).make(LAST)
    before, begin = spoken.reference(), FIRST + gone * DAY
    receipt = forget(spoken.config, Stretch(begin + timedelta(minutes=1), begin + timedelta(minutes=2)))
    assert receipt.found.voice_hours == 1
    assert receipt.rewritten == [backup.name]
    after, sums = spoken.reference(), spoken.sums()
    in_backup = look(backup, keys().find(spoken.path, copy=backup), FIRST - DAY, LAST).found
    assert in_backup.voice_hours == 4
    other = _spoken_on(set(range(5)) - {gone}, home, monkeypatch)
    assert (after.segments, after.begun_at, after.last_at) == (160, other.reference().begun_at, other.reference().last_at)
    assert other.sums() == sums
    assert after.version != before.version
    assert after.frozen
    other.timeline.close()


def test_a_frozen_one_of_which_something_is_erased_stays_frozen_and_says_nothing_of_the_erased_time(spoken: Spoken) -> None:
    spoken.days(5)
    spoken.days(6)
    last_day = FIRST + 4 * DAY
    forget(spoken.config, Stretch(last_day, last_day + DAY))
    left = spoken.reference()
    assert (left.frozen, left.days, left.is_enough) == (True, 4, False)
    assert left.last_at < last_day
    sums = spoken.sums()
    spoken.say(FIRST + 40 * DAY, 50, mood=3.0)
    assert spoken.sums() == sums, "it does not begin to follow"


def test_an_hour_in_which_nothing_was_said_in_the_erased_time_stays(spoken: Spoken) -> None:
    spoken.say(FIRST, 3)
    before = spoken.reference()
    assert not forget(spoken.config, Stretch(FIRST + HOUR / 2, FIRST + HOUR)).found.voice_hours
    assert spoken.reference() == before


def test_forgetting_all_of_its_time_or_everything_leaves_no_row(spoken: Spoken) -> None:
    spoken.days(5)
    forget(spoken.config, Stretch(FIRST - DAY, FIRST + 10 * DAY))
    assert spoken.references() == []
    with closing(raw(spoken.path)) as connection:
        assert connection.execute("SELECT count(*) FROM voice_reference").fetchone() == (0,)
    spoken.say(FIRST + 20 * DAY, 2)
    assert not spoken.reference().frozen
    spoken.timeline.close()
    forget_all(spoken.config)
    assert not spoken.path.exists()


def test_it_is_learned_anew_when_the_person_asks_and_only_then(spoken: Spoken) -> None:
    spoken.days(5)
    spoken.days(5, microphone="headset")
    known = {one.microphone: one.version for one in spoken.references()}
    assert let_go(spoken.path, keys(), "another", None) == []
    assert let_go(spoken.path, keys(), "space", "desk") == ["desk"]
    assert [one.version for one in spoken.references()] == [known["headset"]]
    spoken.say(FIRST + 40 * DAY, 1, version=known["desk"])
    desk, headset = spoken.references()
    assert (desk.segments, desk.frozen, headset.version) == (1, False, known["headset"])
    assert desk.version not in known.values()
    assert let_go(spoken.path, keys(), "space", None) == ["desk", "headset"]
    assert spoken.references() == []


def test_a_backup_holds_it_and_brings_it_back_as_it_was(spoken: Spoken) -> None:
    spoken.days(5)
    before, sums, backups = spoken.reference(), spoken.sums(), Backups.of(spoken.config.timeline)
    backup = backups.make(LAST)
    let_go(spoken.path, keys(), "space", None)
    spoken.say(FIRST + 9 * DAY)
    spoken.timeline.close()
    backups.restore(backup, LAST)
    spoken.timeline = Timeline.open(spoken.path, PARIS, keys())
    assert (spoken.reference(), spoken.sums()) == (before, sums)


def test_an_export_holds_nothing_of_it_and_an_import_adds_nothing(spoken: Spoken, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken.say(FIRST, 3)
    out = home / "everything.jsonl"
    export(spoken.config, Form.JSONL, Stretch(FIRST - DAY, LAST), str(out), False, LAST)
    text = out.read_text()
    assert '"type": "segment"' in text
    assert not [word for word in ("voice_", "desk", "sums", spoken.reference().version) if word in text]
    spoken.timeline.close()
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "other"))
    bring_back(Config().timeline, str(out))
    other = Spoken()
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
    spoken = Spoken()
    assert spoken.references() == []
    spoken.say(FIRST, 2)
    old, *new = spoken.segments()
    assert [entry.voice_version for entry in new] == [spoken.reference().version] * 2
    assert (old.voice_version, old.prediction and old.prediction.bundle_version) == (None, "old-1")
    spoken.timeline.close()


def test_a_training_gets_the_sums_of_the_microphone_that_heard_most(spoken: Spoken) -> None:
    assert current_reference_sums(spoken.config.timeline, "space") is None
    spoken.say(FIRST, 4)
    spoken.say(FIRST + HOUR, 9, microphone="headset")
    assert current_reference_sums(spoken.config.timeline, "space") == spoken.sums("headset")
    assert current_reference_sums(spoken.config.timeline, "another") is None
    assert current_reference_sums(spoken.config.timeline, None) is None
