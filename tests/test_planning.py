"""When a job is due: on every date once, whatever the clock and the machine do."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.day.days import Day
from monitor.jobs.daily import Daily
from monitor.jobs.job import Outcome
from monitor.jobs.planning import AGAIN, GIVEN_UP, RETRIES, RETRY_AFTER, day_of, failing, next_time, plan
from monitor.store.records import JobRun

PARIS = ZoneInfo("Europe/Paris")
THREE = time(3)
NOON = datetime(2026, 7, 14, 10, tzinfo=UTC)
TODAY = date(2026, 7, 14)
ZONES = ("Europe/Paris", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia", "Asia/Beirut", "UTC")
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)


def ran(outcome: Outcome | None, on: date = TODAY, at: datetime = NOON, number: int = 1, **details: object) -> JobRun:
    return JobRun(number, "retrain", on, at, at if outcome else None, outcome, "why", details)


# which date ------------------------------------------------------------------------------------------------------


def test_a_date_is_due_from_its_time_on_and_of_missed_ones_the_last_alone() -> None:
    assert plan(Day(TODAY, PARIS).at(THREE), THREE, PARIS, []).due == TODAY
    assert plan(Day(TODAY, PARIS).at(time(2, 59)), THREE, PARIS, []).due == TODAY - timedelta(days=1)
    long_ago = [ran(Outcome.DONE, TODAY - timedelta(days=40))]
    assert plan(NOON, THREE, PARIS, long_ago).due == TODAY
    assert plan(NOON, THREE, PARIS, [ran(Outcome.DONE), *long_ago]).due is None


@pytest.mark.parametrize(("on", "at", "utc"), [(SPRING, "02:30", "01:30"), (AUTUMN, "02:30", "00:30"), (SPRING, "03:30", "01:30")])
def test_a_time_that_the_clock_jumps_over_or_shows_twice_comes_once(on: date, at: str, utc: str) -> None:
    before, clock = Day(on, PARIS).start - timedelta(minutes=1), time.fromisoformat(at)
    moments, moment = [], before
    for _ in range(3):
        moment = next_time(moment, clock, PARIS)
        moments.append(moment)
    assert moments[0] == datetime.combine(on, time.fromisoformat(utc), UTC)
    assert [one.astimezone(PARIS).date() for one in moments] == [on + timedelta(days=number) for number in range(3)]
    done = [ran(Outcome.DONE, on, moments[0])]
    end = Day(on, PARIS).end
    looked_at = [moments[0] + number * timedelta(minutes=10) for number in range(200)]
    assert {plan(now, clock, PARIS, done).due for now in looked_at if now < end} == {None}


clocks = st.times().map(lambda clock: clock.replace(second=0, microsecond=0))
moments = st.integers(0, 25 * 365 * 24 * 60).map(lambda minutes: datetime(2005, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))


@given(moments, clocks, st.sampled_from(ZONES))
def test_scheduler_and_plan_agree_on_days(now: datetime, at: time, zone_name: str) -> None:
    zone = ZoneInfo(zone_name)
    coming = next_time(now, at, zone)
    assert now < coming <= now + timedelta(hours=50)
    assert Daily(at, zone).get_next_fire_time(None, now) == coming
    assert Daily(at, zone).get_next_fire_time(coming, now) > coming
    on = day_of(now, at, zone)
    assert Day(on, zone).at(at) <= now or now.astimezone(zone).date() - on == timedelta(days=1)
    assert plan(now, at, zone, []).look_at == coming


def test_the_trigger_comes_back_from_the_file_as_it_was() -> None:
    import pickle

    one = pickle.loads(pickle.dumps(Daily(time(2, 30), PARIS)))
    assert (one.at, str(one.zone), str(one)) == (time(2, 30), "Europe/Paris", "daily at 02:30 in Europe/Paris")


@given(st.lists(st.tuples(st.integers(-40, 90), st.sampled_from([*Outcome])), max_size=60), st.sampled_from(ZONES), clocks)
def test_no_date_is_done_twice_however_the_clock_moves(steps: list[tuple[int, Outcome]], zone_name: str, at: time) -> None:
    """A life in steps of hours, also back: whenever a job is due it is done, with any outcome."""
    zone, now = ZoneInfo(zone_name), datetime(2026, 3, 27, tzinfo=UTC)
    runs: list[JobRun] = []
    for hours, outcome in steps:
        now += timedelta(hours=hours)
        due = plan(now, at, zone, runs).due
        if due is not None:
            assert not [run for run in runs if run.day == due and run.outcome in (Outcome.DONE, Outcome.NOTHING, Outcome.REFUSED)]
            assert sum(run.day == due and run.outcome == Outcome.FAILED for run in runs) <= RETRIES
            assert Day(due, zone).at(at) <= now
            runs.insert(0, ran(outcome, due, now, len(runs)))
        else:
            assert [run for run in runs if run.day == day_of(now, at, zone)], "nothing was done for it, and it is not due"


# failures --------------------------------------------------------------------------------------------------------


def test_what_failed_is_tried_again_hourly_three_times_and_then_waits_for_the_next_night() -> None:
    runs: list[JobRun] = []
    now = NOON
    for number in range(RETRIES + 1):
        assert plan(now, THREE, PARIS, runs).due == TODAY
        runs.insert(0, ran(Outcome.FAILED, TODAY, now, number))
        if number < RETRIES:
            assert plan(now + timedelta(minutes=59), THREE, PARIS, runs).due is None
            assert plan(now, THREE, PARIS, runs).look_at == now + RETRY_AFTER
            now += RETRY_AFTER
    tomorrow = Day(TODAY + timedelta(days=1), PARIS).at(THREE)
    for hours in range(10):
        planned = plan(now + hours * RETRY_AFTER, THREE, PARIS, runs)
        assert (planned.due, planned.look_at) == (None, tomorrow)
    assert plan(tomorrow, THREE, PARIS, runs).due == TODAY + timedelta(days=1)


def test_a_failure_in_the_future_of_a_clock_that_was_set_back_holds_it_up_for_an_hour_at_most() -> None:
    runs = [ran(Outcome.FAILED, TODAY, NOON + timedelta(hours=9))]
    assert plan(NOON, THREE, PARIS, runs).look_at == NOON + RETRY_AFTER


@pytest.mark.parametrize(
    ("run", "due"),
    [
        (ran(Outcome.DONE), False),
        (ran(Outcome.NOTHING), False),
        (ran(Outcome.REFUSED), False),
        (ran(Outcome.STOPPED), False),
        (ran(Outcome.STOPPED, **{AGAIN: True}), True),
        (ran(Outcome.FAILED, at=NOON - timedelta(hours=2)), True),
        (ran(Outcome.FAILED, at=NOON - timedelta(hours=2), **{GIVEN_UP: True}), False),
        (ran(None), True),
    ],
)
def test_what_settles_a_date(run: JobRun, due: bool) -> None:
    assert (plan(NOON, THREE, PARIS, [run]).due is not None) == due


def test_a_failure_is_known_until_something_works() -> None:
    failed, fine, stopped = ran(Outcome.FAILED, number=2), ran(Outcome.NOTHING, number=3), ran(Outcome.STOPPED, number=4)
    assert failing([]) is failing([fine, failed]) is failing([ran(None), fine, failed]) is None
    assert failing([failed, fine]) == failing([stopped, failed]) == failing([ran(None), failed]) == failed
