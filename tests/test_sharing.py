"""What is shared arrives at the clinic once, whatever happens on the way, and what is forgotten goes there too."""

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

from model.errors import ClinicError, EmosllmError
from model.types import Emotion
from monitor.config import Config, StoreConfig
from monitor.day.stretches import Stretch
from monitor.exchange.incoming import bring_back
from monitor.exchange.outgoing import export
from monitor.exchange.tables import Form
from monitor.forgetting import forget, forget_all
from monitor.forgetting_text import receipt_of
from monitor.sharing.delivering import forget_now
from monitor.sharing.making import sharing_of
from monitor.sharing.notes import Notes
from monitor.sharing.sender import Sender
from monitor.status import SharingState, Status
from monitor.status_text import status_text
from monitor.store.backup import Backups
from monitor.store.outbox import EVER, NEVER_SHARED, SHARED
from monitor.store.records import Coverage
from monitor.store.tables import CheckInRow, CorrectionRow, CoverageRow, PromptRow, SegmentRow
from tests.postgres import Clinic, Postgres
from tests.sharing import NOON, PARIS, Person, name
from tests.stores import raw

HOUR = timedelta(hours=1)
NUMBERS = itertools.count()


@pytest.fixture
def person(home: Path, clinic: Clinic) -> Iterator[Person]:
    person = Person(Config().timeline.database_path(), clinic)
    yield person
    person.close()


def config_of(person: Person) -> Config:
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


def test_everything_arrives_as_it_is_here_without_words_and_notes(person: Person) -> None:
    person.share()
    person.live()
    assert person.send() > 0
    assert person.there() == person.here()
    assert all(person.there().values())
    assert person.send() == person.waiting() == 0
    everything = str([person.clinic.rows(f"SELECT * FROM emosllm.{table} WHERE subject = %s", person.subject) for table in SHARED])
    assert "secret" not in everything


def test_nothing_is_noted_until_sharing_is_on_and_what_began_before_is_not_shared(person: Person) -> None:
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


def test_switched_off_nothing_waits_or_is_sent_and_the_next_time_begins_anew(person: Person) -> None:
    person.share()
    person.live()
    with sharing_of(Config(), NOON, lambda *_: None):
        pass
    person.live(NOON + HOUR)
    assert person.waiting() == 0
    person.share(past=False, now=NOON + 3 * HOUR)
    person.live(NOON + 4 * HOUR)
    person.send()
    assert len(person.there()["segment"]) == 3
    assert person.there() == person.here(since="2026-07-14 15:00")


def test_another_clinic_gets_nothing_of_what_was_meant_for_the_first(person: Person, postgres_server: Postgres) -> None:
    person.share()
    person.live()
    person.send()
    person.timeline.cover(Coverage.PAUSED, NOON + 5 * HOUR, NOON + 6 * HOUR)
    other = postgres_server.clinic(f"other{next(NUMBERS)}")
    stranger = Person(person.path, other)
    with pytest.raises(ClinicError, match="another clinic"):
        stranger.send()
    assert not any(stranger.there().values())
    assert person.send() == 1
    stranger.close()


# once -------------------------------------------------------------------------------------------------------------


def test_killed_between_arriving_and_taking_out_it_is_sent_again_and_changes_nothing(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.share()
    person.live()
    with person.delivery() as way, monkeypatch.context() as patch:
        patch.setattr("monitor.store.outbox.Outbox.take_out", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            way.deliver()
    waiting = person.waiting()
    arrived = person.there()
    assert waiting > 0
    assert arrived == person.here()
    assert person.send() == waiting
    assert person.there() == arrived


def test_what_changes_while_it_is_sent_is_sent_again(person: Person) -> None:
    person.share()
    person.timeline.cover(Coverage.HEARD, NOON, NOON + HOUR)
    with person.outbox() as outbox:
        batch = outbox.batch(10)
        person.timeline.cover(Coverage.HEARD, NOON + HOUR, NOON + 2 * HOUR)
        outbox.take_out(batch)
    assert person.waiting() == 1
    person.send()
    assert person.there() == person.here()


def test_a_row_that_changes_often_waits_once(person: Person) -> None:
    person.share()
    for number in range(50):
        person.timeline.cover(Coverage.HEARD, NOON + number * HOUR, NOON + (number + 1) * HOUR)
    assert person.waiting() == 1


def test_two_senders_of_one_timeline_and_a_second_machine_do_not_get_into_each_others_way(
    person: Person, tmp_path: Path, clinic: Clinic
) -> None:
    second = Person(tmp_path / "second.db", clinic, person.subject, person.url)
    person.share()
    second.share()
    errors: list[Exception] = []

    def sending(who: Person) -> None:
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


def test_what_was_exported_and_brought_to_a_new_machine_is_not_there_twice(person: Person, tmp_path: Path, clinic: Clinic) -> None:
    person.share()
    person.live()
    person.send()
    before = person.there()
    export(Config(), Form.JSONL, Stretch(NOON - HOUR, NOON + HOUR), str(tmp_path / "all.jsonl"), False, NOON)
    new = Person(tmp_path / "new.db", clinic, person.subject, person.url)
    new.share()
    bring_back(Config(timeline=Config().timeline.model_copy(update={"database": str(new.path)})).timeline, str(tmp_path / "all.jsonl"))
    assert new.waiting() > 0
    new.send()
    assert {table: len(rows) for table, rows in new.there().items()} == {table: len(rows) for table, rows in before.items()}
    new.close()


# partitions -------------------------------------------------------------------------------------------------------


def test_months_get_partitions_of_their_own_ahead_of_time_and_none_is_refused(person: Person) -> None:
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


def test_the_clinic_is_away_for_a_while_and_then_all_arrives_once(person: Person, postgres_server: Postgres) -> None:
    told: list[tuple[SharingState | None, str]] = []
    person.share()
    person.live()
    sender = Sender(person.address, person.outbox(), person.path, lambda state, problem: told.append((state, problem)))
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
        assert "not everything has reached the clinic" in problem
        assert person.address.password
        assert person.address.password not in problem + str(state) + repr(person.address)
        status = Status("mic", True)
        status.tell_sharing(state, problem)
        text = status_text({"pid": 1, **status.as_json()}, PARIS)
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


def receipt(person: Person, stretch: Stretch | None) -> str:
    config = config_of(person)
    made = forget_all(config) if stretch is None else forget(config, stretch)
    return "\n".join(receipt_of(made, "all of it", False))


def test_what_is_forgotten_is_gone_at_the_clinic_at_once_and_the_rest_stays(person: Person) -> None:
    person.share()
    for number in range(-3, 4):
        person.live(NOON + number * HOUR)
    person.send()
    text = receipt(person, Stretch(NOON + timedelta(minutes=1), NOON + HOUR + timedelta(minutes=1)))
    assert f"removed at the clinic, with what other machines of yours sent of it: {person.address}" in text
    person.send()
    assert person.there() == person.here()


def test_what_is_forgotten_while_the_clinic_is_away_goes_when_it_is_back_and_leaves_no_trace_here(
    person: Person, postgres_server: Postgres
) -> None:
    person.share()
    person.live()
    person.send()
    postgres_server.stop()
    try:
        person.live(NOON + HOUR)
        text = receipt(person, Stretch(NOON - HOUR, NOON + HOUR + timedelta(minutes=15)))
        assert "as soon as the clinic answers" in text
        with closing(raw(person.path)) as connection:
            # Nothing tells of rows that are gone; and what is left of the second hour still waits.
            assert connection.execute("SELECT count(*) FROM outbox WHERE row_id IS NULL").fetchone() == (0,)
        assert person.waiting() > 0
    finally:
        postgres_server.start()
    person.send()
    assert person.there() == person.here()
    assert len(person.there()["segment"]) == 1
    assert not list(Notes(person.path).read())


def test_forgetting_reaches_what_this_timeline_does_not_hold(person: Person, tmp_path: Path, clinic: Clinic) -> None:
    second = Person(tmp_path / "second.db", clinic, person.subject, person.url)
    second.share()
    second.live()
    second.send()
    person.share()
    assert any(person.there().values())
    receipt(person, Stretch(NOON - HOUR, NOON + HOUR))
    assert not any(person.there().values())
    second.close()


def test_to_forget_everything_is_to_forget_it_there_too_and_what_comes_then_is_shared(person: Person, postgres_server: Postgres) -> None:
    person.share()
    person.live()
    person.send()
    person.close()
    postgres_server.stop()
    try:
        assert "as soon as the clinic answers" in receipt(person, None)
    finally:
        postgres_server.start()
    anew = Person(person.path, person.clinic, person.subject, person.url)
    anew.share(past=False)
    anew.live(NOON + HOUR)
    anew.send()
    assert anew.there() == anew.here()
    assert len(anew.there()["segment"]) == 3
    anew.close()


def test_who_does_not_share_any_more_is_told_that_the_clinic_was_not_reached(person: Person) -> None:
    person.share()
    person.live()
    person.send()
    with sharing_of(Config(), NOON, lambda *_: None):
        pass
    made = forget(Config(), Stretch(NOON - HOUR, NOON + HOUR))
    assert "what a clinic was sent" in "\n".join(receipt_of(made, "that hour", False))


# backups ----------------------------------------------------------------------------------------------------------


def test_a_backup_that_is_put_back_loses_nothing_there_and_is_sent_once_more(person: Person, postgres_server: Postgres) -> None:
    backups = Backups.of(Config().timeline)
    person.share()
    person.live()
    person.send()
    person.live(NOON + HOUR)  # noted, and not sent when the backup is made
    backup = backups.make(NOON)
    person.timeline.cover(Coverage.HEARD, NOON + timedelta(minutes=90), NOON + timedelta(minutes=95))
    person.live(NOON + 2 * HOUR)
    person.send()
    last = person.there()
    person.close()
    postgres_server.stop()
    try:
        # Forgotten while the clinic is away, and then the timeline that was told so is put aside.
        forget(config_of(person), Stretch(NOON + timedelta(minutes=50), NOON + timedelta(minutes=85)))
        backups.restore(backup, NOON)
    finally:
        postgres_server.start()
    restored = Person(person.path, person.clinic, person.subject, person.url)
    assert restored.waiting() > 0
    restored.send()
    left = {row[1:3] for row in restored.there()["segment"]}
    assert left == {row[1:3] for row in last["segment"] if row[4] < NOON + HOUR or row[4] >= NOON + 2 * HOUR}
    # The backup knows of five minutes less than the clinic.
    rest = [row[4] for row in restored.there()["coverage"] if row[3] == NOON + timedelta(minutes=85)]
    assert rest == [NOON + timedelta(minutes=95)]
    restored.live(NOON + 5 * HOUR)
    restored.send()
    assert len(restored.there()["segment"]) == len(left) + 3
    restored.close()


def test_after_the_clinics_own_backup_was_put_back_everything_is_sent_again(person: Person) -> None:
    from monitor.clinic.logins import send_again

    person.share()
    person.live()
    person.send()
    with person.clinic.server.superuser(person.clinic.database) as connection:
        for table in SHARED:
            connection.execute(f"DELETE FROM emosllm.{table} WHERE subject = %s", (person.subject,))
    send_again(person.clinic.administrator)
    person.timeline.cover(Coverage.PAUSED, NOON + 5 * HOUR, NOON + 6 * HOUR)
    person.send()
    assert person.there() == person.here()


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


def _take(person: Person, step: tuple[str, int, Any]) -> None:
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
            person.words.take_back(number)
        case "forget":
            away = StoreConfig(url="postgresql://nobody@127.0.0.1:1/none")
            forget(Config(store=away, timeline=_timeline(person)), Stretch(at, at + timedelta(minutes=more)))
        case "send":
            with person.delivery() as way:
                way.deliver()


def _timeline(person: Person) -> Any:
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
    person = Person(tmp_path / f"{next(NUMBERS)}.db", clinic, *everyone)
    forget_now(person.address, _everything(person))
    since = EVER if past else NOON + timedelta(minutes=100)
    person.share(past, since)
    for step in steps:
        with contextlib.suppress(EmosllmError):  # there may be nothing to undo
            _take(person, step)
    person.send()
    here = person.here(since.strftime("%Y-%m-%d %H:%M:%S.%f"))
    assert _once(person.there()) == _once(here)
    person.close()


def _everything(person: Person) -> Notes:
    notes = Notes(person.path)
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
