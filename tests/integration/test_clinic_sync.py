"""Shared data arrives at the clinic once, whatever happens on the way."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from model.emotions import Emotion
from model.errors import ClinicError, EmosllmError
from monitor.analysis.days import TimeRange
from monitor.clinic.address import SharingState
from monitor.clinic.pending_erasures import PendingErasures
from monitor.clinic.sharing import start_sharing
from monitor.clinic.sync import SyncThread, erase_at_clinic
from monitor.config import Config, StoreConfig
from monitor.daemon.client import format_status
from monitor.daemon.status import DaemonStatus
from monitor.deletion import delete_range
from monitor.storage.outbox import EPOCH, NEVER_SHARED, SHARED
from monitor.storage.records import Coverage
from monitor.storage.schema import CheckInRow, CorrectionRow, CoverageRow, PromptRow, SegmentRow
from monitor.transfer.export import export_data
from monitor.transfer.import_ import import_data
from monitor.transfer.schema import ExportFormat
from tests.support.clinic import NOON, PARIS, Clinic, Postgres, SharingPerson, name
from tests.support.storage import raw

HOUR = timedelta(hours=1)
NUMBERS = itertools.count()


@pytest.fixture
def person(home: Path, clinic: Clinic) -> Iterator[SharingPerson]:
    person = SharingPerson(Config().timeline.database_path(), clinic)
    yield person
    person.close()


def config_of(person: SharingPerson) -> Config:
    return Config(store=StoreConfig(url=person.url))


# what is shared ---------------------------------------------------------------------------------------------------


def test_both_databases_have_the_same_columns_but_for_what_is_never_shared(clinic: Clinic) -> None:
    here = {"segment": SegmentRow, "coverage": CoverageRow, "correction": CorrectionRow, "checkin": CheckInRow, "prompt": PromptRow}
    more = {"correction": ["stream", "start_sample", "start_at"]}  # of the segment it is about
    for table, model in here.items():
        columns = [column.name for column in model.__table__.columns]  # type: ignore[attr-defined]
        shared = [column for column in columns if column not in NEVER_SHARED.get(table, ())]
        assert sorted(SHARED[table]) == sorted(shared), table
        at_clinic = clinic.rows(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'emosllm' AND table_name = %s", table
        )
        assert sorted(column for (column,) in at_clinic) == sorted(["subject", *shared, *more.get(table, [])]), table


def test_everything_arrives_as_it_is_here_without_words_and_notes(person: SharingPerson) -> None:
    person.share()
    person.live()
    assert person.send() > 0
    assert person.there() == person.here()
    assert all(person.there().values())
    assert person.send() == person.waiting() == 0
    everything = str([person.clinic.rows(f"SELECT * FROM emosllm.{table} WHERE subject = %s", person.subject) for table in SHARED])
    assert "secret" not in everything


def test_nothing_is_noted_until_sharing_is_on_and_what_began_before_is_not_shared(person: SharingPerson) -> None:
    old = person.live(NOON - HOUR)
    assert person.waiting() == 0
    person.share(past=False)
    assert person.waiting() == 0
    person.words.correct(old, Emotion.ANGRY)
    person.timeline.cover(Coverage.HEARD, NOON - timedelta(minutes=35), NOON + HOUR)
    person.live(NOON + 2 * HOUR)
    person.send()
    assert person.there() == person.here(since="2026-07-14 12:00")
    assert len(person.there()["segment"]) == 3
    person.share(past=True)
    person.send()
    assert person.there() == person.here()


def test_switched_off_nothing_waits_or_is_sent_and_the_next_time_begins_anew(person: SharingPerson) -> None:
    person.share()
    person.live()
    with start_sharing(Config(), NOON, lambda *_: None):
        pass
    person.live(NOON + HOUR)
    assert person.waiting() == 0
    person.share(past=False, now=NOON + 3 * HOUR)
    person.live(NOON + 4 * HOUR)
    person.send()
    assert len(person.there()["segment"]) == 3
    assert person.there() == person.here(since="2026-07-14 15:00")


def test_another_clinic_gets_nothing_of_what_was_meant_for_the_first(person: SharingPerson, postgres_server: Postgres) -> None:
    person.share()
    person.live()
    person.send()
    person.timeline.cover(Coverage.PAUSED, NOON + 5 * HOUR, NOON + 6 * HOUR)
    other = postgres_server.clinic(f"other{next(NUMBERS)}")
    stranger = SharingPerson(person.path, other)
    with pytest.raises(ClinicError, match="not the clinic"):
        stranger.send()
    assert not any(stranger.there().values())
    assert person.send() == 1
    stranger.close()


# once -------------------------------------------------------------------------------------------------------------


def test_killed_between_arriving_and_taking_out_it_is_sent_again_and_changes_nothing(
    person: SharingPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.share()
    person.live()
    with person.delivery() as way, monkeypatch.context() as patch:
        patch.setattr("monitor.storage.outbox.Outbox.take_out", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            way.deliver()
    waiting = person.waiting()
    arrived = person.there()
    assert waiting > 0
    assert arrived == person.here()
    assert person.send() == waiting
    assert person.there() == arrived


def test_what_changes_while_it_is_sent_is_sent_again(person: SharingPerson) -> None:
    person.share()
    person.timeline.cover(Coverage.HEARD, NOON, NOON + HOUR)
    with person.outbox() as outbox:
        batch = outbox.batch(10)
        person.timeline.cover(Coverage.HEARD, NOON + HOUR, NOON + 2 * HOUR)
        outbox.take_out(batch)
    assert person.waiting() == 1
    person.send()
    assert person.there() == person.here()


def test_a_row_that_changes_often_waits_once(person: SharingPerson) -> None:
    person.share()
    for number in range(50):
        person.timeline.cover(Coverage.HEARD, NOON + number * HOUR, NOON + (number + 1) * HOUR)
    assert person.waiting() == 1


def test_two_senders_of_one_timeline_and_a_second_machine_do_not_get_into_each_others_way(
    person: SharingPerson, tmp_path: Path, clinic: Clinic
) -> None:
    second = SharingPerson(tmp_path / "second.db", clinic, person.subject, person.url)
    person.share()
    second.share()
    errors: list[Exception] = []

    def sending(who: SharingPerson) -> None:
        with who.delivery() as way:
            until = time.monotonic() + 4
            while time.monotonic() < until:
                try:
                    way.deliver()
                except EmosllmError as error:
                    errors.append(error)

    threads = [threading.Thread(target=sending, args=(who,)) for who in (person, person, second)]
    for thread in threads:
        thread.start()
    for number in range(5):
        person.live(NOON + number * HOUR)
        second.live(NOON + number * HOUR + timedelta(minutes=40))
    for thread in threads:
        thread.join()
    person.send()
    second.send()
    assert not errors
    here = {table: sorted(map(str, rows + second.here()[table])) for table, rows in person.here().items()}
    assert {table: sorted(map(str, rows)) for table, rows in person.there().items()} == here
    second.close()


def test_what_was_exported_and_brought_to_a_new_machine_is_not_there_twice(person: SharingPerson, tmp_path: Path, clinic: Clinic) -> None:
    person.share()
    person.live()
    person.send()
    before = person.there()
    export_data(Config(), ExportFormat.JSONL, TimeRange(NOON - HOUR, NOON + HOUR), str(tmp_path / "all.jsonl"), False, NOON)
    new = SharingPerson(tmp_path / "new.db", clinic, person.subject, person.url)
    new.share()
    import_data(Config(timeline=Config().timeline.model_copy(update={"database": str(new.path)})).timeline, str(tmp_path / "all.jsonl"))
    assert new.waiting() > 0
    new.send()
    assert {table: len(rows) for table, rows in new.there().items()} == {table: len(rows) for table, rows in before.items()}
    new.close()


# partitions -------------------------------------------------------------------------------------------------------


def test_months_get_partitions_of_their_own_ahead_of_time_and_none_is_refused(person: SharingPerson) -> None:
    person.share()
    now = datetime.now(UTC)
    for at in (datetime(1999, 5, 1, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC), now):
        person.timeline.cover(Coverage.PAUSED, at, at + timedelta(seconds=5))
        person.speak(at)
    person.send()
    assert person.there() == person.here()
    where = person.clinic.rows("SELECT DISTINCT tableoid::regclass::text FROM emosllm.segment WHERE subject = %s", person.subject)
    names = {f"emosllm.segment_{month}" for month in ("other", "2024_02", "2024_03", f"{now:%Y_%m}")}
    assert {table for (table,) in where} == names
    ahead = (now.replace(day=1) + timedelta(days=32)).strftime("%Y_%m")
    made = {table for (table,) in person.clinic.rows("SELECT relname FROM pg_class WHERE relname ~ '^(segment|coverage)_[0-9]'")}
    assert {f"segment_{ahead}", f"coverage_{ahead}"} <= made


# outages ----------------------------------------------------------------------------------------------------------


def test_the_clinic_is_away_for_a_while_and_then_all_arrives_once(person: SharingPerson, postgres_server: Postgres) -> None:
    told: list[tuple[SharingState | None, str]] = []
    person.share()
    person.live()
    sender = SyncThread(person.address, person.outbox(), person.path, lambda state, problem: told.append((state, problem)))
    sender.turn()
    assert told[-1][1] == ""
    postgres_server.stop()
    try:
        person.live(NOON + 3 * HOUR)
        pauses = [sender.turn() for _ in range(4)]
        assert pauses == sorted(set(pauses))
        state, problem = told[-1]
        assert state is not None
        assert state.waiting == person.waiting() > 0
        assert "data is waiting to be sent to the clinic" in problem
        assert person.address.password
        assert person.address.password not in problem + str(state) + repr(person.address)
        status = DaemonStatus("mic", True)
        status.report_sharing(state, problem)
        text = format_status({"pid": 1, **status.as_json()}, PARIS)
        assert f"Clinic      {person.address}: changes that wait to be sent: {state.waiting}, since" in text
        assert problem in text
    finally:
        postgres_server.start()
    sender.turn()
    assert told[-1][1] == ""
    assert person.there() == person.here()
    assert person.waiting() == 0
    sender._outbox.close()
    sender._delivery.close()


# forgetting -------------------------------------------------------------------------------------------------------


# backups ----------------------------------------------------------------------------------------------------------


# any history ------------------------------------------------------------------------------------------------------

_MINUTES = st.integers(0, 300)
_STEP = st.one_of(
    st.tuples(st.just("speak"), _MINUTES, st.booleans()),
    st.tuples(st.just("cover"), _MINUTES, st.integers(1, 90)),
    st.tuples(st.just("give up"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("correct"), st.integers(0, 5), st.sampled_from(["S", "H", "A"])),
    st.tuples(st.just("undo"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("ask"), _MINUTES, st.just(0)),
    st.tuples(st.just("check in"), _MINUTES, st.floats(-1, 1)),
    st.tuples(st.just("take back"), st.integers(1, 6), st.just(0)),
    st.tuples(st.just("forget"), _MINUTES, st.integers(1, 120)),
    st.tuples(st.just("send"), st.just(0), st.booleans()),
)


def _take(person: SharingPerson, step: tuple[str, int, Any]) -> None:
    what, number, more = step
    at = NOON + timedelta(minutes=number)
    with closing(raw(person.path)) as connection:
        segments = [row[0] for row in connection.execute("SELECT id FROM segment ORDER BY id")]
        waiting = [row[0] for row in connection.execute("SELECT id FROM segment WHERE state = 'waiting' ORDER BY id")]
    match what:
        case "speak":
            person.speak(at, more)
        case "cover":
            person.timeline.cover(Coverage.HEARD if more % 3 else Coverage.PAUSED, at, at + timedelta(minutes=more))
        case "give up" if waiting:
            person.timeline.give_up([waiting[number % len(waiting)]], "a reason")
        case "correct" if segments:
            person.words.correct(segments[number % len(segments)], Emotion(more))
        case "undo" if segments:
            person.words.undo(segments[number % len(segments)])
        case "ask":
            person.words.asked(at)
        case "check in":
            person.words.check_in(at, more, Emotion.SAD)
        case "take back":
            person.words.retract(number)
        case "forget":
            away = StoreConfig(url="postgresql://nobody@127.0.0.1:1/none")
            delete_range(Config(store=away, timeline=_timeline(person)), TimeRange(at, at + timedelta(minutes=more)))
        case "send":
            with person.delivery() as way:
                way.deliver()


def _timeline(person: SharingPerson) -> Any:
    return Config().timeline.model_copy(update={"database": str(person.path)})


@pytest.fixture(scope="module")
def everyone(clinic: Clinic) -> tuple[str, str]:
    """A subject with a history for each example, and their URL."""
    subject = name()
    return subject, clinic.add("subject", subject)


# Shrinking would take many minutes: each step of each history is written to the disk.
@settings(
    max_examples=12, phases=[Phase.explicit, Phase.generate], deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(past=st.booleans(), steps=st.lists(_STEP, min_size=3, max_size=25))
def test_after_any_history_the_clinic_has_what_is_to_be_shared(
    past: bool, steps: list[tuple[str, int, Any]], tmp_path: Path, clinic: Clinic, everyone: tuple[str, str]
) -> None:
    person = SharingPerson(tmp_path / f"{next(NUMBERS)}.db", clinic, *everyone)
    erase_at_clinic(person.address, _everything(person))
    since = EPOCH if past else NOON + timedelta(minutes=100)
    person.share(past, since)
    for step in steps:
        with contextlib.suppress(EmosllmError):  # there may be nothing to undo
            _take(person, step)
    person.send()
    here = person.here(since.strftime("%Y-%m-%d %H:%M:%S.%f"))
    assert _once(person.there()) == _once(here)
    person.close()


def _everything(person: SharingPerson) -> PendingErasures:
    notes = PendingErasures(person.path)
    notes.add(None)
    return notes


def _once(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    """Coverage that lies in another of the same start says nothing; check-ins and questions of one moment are one."""
    coverage: dict[tuple[Any, ...], Any] = {}
    for _, stream, kind, start, end, zone, reason in rows["coverage"]:
        key = (stream, kind, start, zone, reason)
        coverage[key] = max(end, coverage.get(key, end))
    asked = {(at, zone): answered is not None for _, at, zone, answered in rows["prompt"]}
    return {
        "segment": rows["segment"],
        "correction": rows["correction"],
        "coverage": coverage,
        "checkin": {row[1:] for row in rows["checkin"]},
        "prompt": asked.keys(),
    }
