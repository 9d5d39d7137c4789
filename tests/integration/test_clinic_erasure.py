"""Erased data is erased at the clinic too, also after outages and restored backups."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from monitor.analysis.days import TimeRange
from monitor.clinic.pending_erasures import PendingErasures
from monitor.clinic.sharing import start_sharing
from monitor.config import Config, StoreConfig
from monitor.deletion import delete_everything, delete_range, receipt_lines
from monitor.storage.backup import Backups
from monitor.storage.outbox import SHARED
from monitor.storage.records import Coverage
from tests.support.clinic import NOON, Clinic, Postgres, SharingPerson
from tests.support.storage import raw

HOUR = timedelta(hours=1)


@pytest.fixture
def person(home: Path, clinic: Clinic) -> Iterator[SharingPerson]:
    person = SharingPerson(Config().timeline.database_path(), clinic)
    yield person
    person.close()


def config_of(person: SharingPerson) -> Config:
    return Config(store=StoreConfig(url=person.url))


def receipt(person: SharingPerson, time_range: TimeRange | None) -> str:
    config = config_of(person)
    made = delete_everything(config) if time_range is None else delete_range(config, time_range)
    return "\n".join(receipt_lines(made, "all of it", False))


def test_what_is_forgotten_is_gone_at_the_clinic_at_once_and_the_rest_stays(person: SharingPerson) -> None:
    person.share()
    for number in range(-3, 4):
        person.live(NOON + number * HOUR)
    person.send()
    text = receipt(person, TimeRange(NOON + timedelta(minutes=1), NOON + HOUR + timedelta(minutes=1)))
    assert f"removed at the clinic, with what other machines of yours sent of it: {person.address}" in text
    person.send()
    assert person.there() == person.here()


def test_what_is_forgotten_while_the_clinic_is_away_goes_when_it_is_back_and_leaves_no_trace_here(
    person: SharingPerson, postgres_server: Postgres
) -> None:
    person.share()
    person.live()
    person.send()
    postgres_server.stop()
    try:
        person.live(NOON + HOUR)
        text = receipt(person, TimeRange(NOON - HOUR, NOON + HOUR + timedelta(minutes=15)))
        assert "as soon as the monitor runs and the clinic responds" in text
        with closing(raw(person.path)) as connection:
            # Nothing tells of rows that are gone; and what is left of the second hour still waits.
            assert connection.execute("SELECT count(*) FROM outbox WHERE row_id IS NULL").fetchone() == (0,)
        assert person.waiting() > 0
    finally:
        postgres_server.start()
    person.send()
    assert person.there() == person.here()
    assert len(person.there()["segment"]) == 1
    assert not list(PendingErasures(person.path).read())


def test_forgetting_reaches_what_this_timeline_does_not_hold(person: SharingPerson, tmp_path: Path, clinic: Clinic) -> None:
    second = SharingPerson(tmp_path / "second.db", clinic, person.subject, person.url)
    second.share()
    second.live()
    second.send()
    person.share()
    assert any(person.there().values())
    receipt(person, TimeRange(NOON - HOUR, NOON + HOUR))
    assert not any(person.there().values())
    second.close()


def test_to_forget_everything_is_to_forget_it_there_too_and_what_comes_then_is_shared(
    person: SharingPerson, postgres_server: Postgres
) -> None:
    person.share()
    person.live()
    person.send()
    person.close()
    postgres_server.stop()
    try:
        assert "as soon as the monitor runs and the clinic responds" in receipt(person, None)
    finally:
        postgres_server.start()
    anew = SharingPerson(person.path, person.clinic, person.subject, person.url)
    anew.share(past=False)
    anew.live(NOON + HOUR)
    anew.send()
    assert anew.there() == anew.here()
    assert len(anew.there()["segment"]) == 3
    anew.close()


def test_who_does_not_share_any_more_is_told_that_the_clinic_was_not_reached(person: SharingPerson) -> None:
    person.share()
    person.live()
    person.send()
    with start_sharing(Config(), NOON, lambda *_: None):
        pass
    made = delete_range(Config(), TimeRange(NOON - HOUR, NOON + HOUR))
    assert "data sent to a clinic" in "\n".join(receipt_lines(made, "that hour", False))


def test_a_backup_that_is_put_back_loses_nothing_there_and_is_sent_once_more(person: SharingPerson, postgres_server: Postgres) -> None:
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
        delete_range(config_of(person), TimeRange(NOON + timedelta(minutes=50), NOON + timedelta(minutes=85)))
        backups.restore(backup, NOON)
    finally:
        postgres_server.start()
    restored = SharingPerson(person.path, person.clinic, person.subject, person.url)
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


def test_after_the_clinics_own_backup_was_put_back_everything_is_sent_again(person: SharingPerson) -> None:
    from monitor.clinic.admin import send_again

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
