"""Local days: they tile time in every zone, whatever its clock does."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DayError
from monitor.analysis.days import Day, parse_day, parse_moment

HOUR = timedelta(hours=1)
ZONES = sorted(available_timezones())
# St John's used to change its clock at one minute past midnight, so that a date came back for an hour.
CLOCK_CHANGES = [
    ("Europe/Paris", date(2026, 3, 29), 23, 23 * HOUR),
    ("Europe/Paris", date(2026, 10, 25), 25, 25 * HOUR),
    ("America/Sao_Paulo", date(2018, 11, 4), 23, 23 * HOUR),
    ("America/Sao_Paulo", date(2018, 2, 17), 25, 25 * HOUR),
    ("Asia/Beirut", date(2024, 3, 31), 23, 23 * HOUR),
    ("Asia/Beirut", date(2024, 10, 26), 25, 25 * HOUR),
    ("America/Havana", date(2024, 11, 3), 25, 25 * HOUR),
    ("Australia/Lord_Howe", date(2026, 10, 4), 24, 23.5 * HOUR),
    ("Australia/Lord_Howe", date(2026, 4, 5), 25, 24.5 * HOUR),
    ("Asia/Kolkata", date(2026, 7, 14), 24, 24 * HOUR),
    ("Asia/Kathmandu", date(2026, 7, 14), 24, 24 * HOUR),
    ("America/St_Johns", date(2008, 11, 2), 26, 25 * HOUR),
    ("Pacific/Apia", date(2011, 12, 30), 0, 0 * HOUR),
]


@pytest.mark.parametrize(("zone", "on", "count", "length"), CLOCK_CHANGES)
def test_days_with_a_clock_change(zone: str, on: date, count: int, length: timedelta) -> None:
    day = Day(on, ZoneInfo(zone))
    assert (len(day.hours()), day.end - day.start) == (count, length)


@given(st.sampled_from(ZONES), st.dates(date(1970, 1, 1), date(2037, 12, 30)))
def test_hours_tile_the_day_and_days_tile_time(zone: str, on: date) -> None:
    check_tiling(zone, on)


@pytest.mark.parametrize(("zone", "on"), [(zone, on) for zone, on, _, _ in CLOCK_CHANGES if zone != "Pacific/Apia"])
def test_hours_tile_the_day_around_clock_changes(zone: str, on: date) -> None:
    check_tiling(zone, on)


def check_tiling(zone: str, on: date) -> None:
    day = Day(on, ZoneInfo(zone))
    hours = day.hours()
    if not hours:
        assert day.start == day.end
        return
    assert day.end == Day(on + timedelta(days=1), day.zone).start
    assert (hours[0].start, hours[-1].end) == (day.start, day.end)
    assert all(before.end == after.start for before, after in pairwise(hours))
    assert day.start.astimezone(day.zone).date() == on
    assert (day.start - timedelta(microseconds=1)).astimezone(day.zone).date() < on
    labels = [hour.label for hour in hours]
    assert len(set(labels)) == len(labels)
    for hour in hours:
        assert timedelta(0) < hour.end - hour.start <= HOUR
        first, last = (moment.astimezone(day.zone) for moment in (hour.start, hour.end - timedelta(microseconds=1)))
        assert (first.hour, first.utcoffset()) == (last.hour, last.utcoffset())
        assert hour.label.removesuffix(" again") == f"{first:%H:%M}"


@pytest.mark.parametrize(
    ("zone", "on", "expected"),
    [
        ("Europe/Paris", date(2026, 3, 29), ["01:00", "03:00"]),
        ("Europe/Paris", date(2026, 10, 25), ["01:00", "02:00", "02:00 again", "03:00"]),
        ("Australia/Lord_Howe", date(2026, 10, 4), ["01:00", "02:30", "03:00"]),
        ("Australia/Lord_Howe", date(2026, 4, 5), ["01:00", "01:30 again", "02:00"]),
    ],
)
def test_labels_around_a_clock_change(zone: str, on: date, expected: list[str]) -> None:
    labels = [hour.label for hour in Day(on, ZoneInfo(zone)).hours()]
    assert labels[1 : 1 + len(expected)] == expected


def test_a_day_whose_midnight_was_skipped_begins_at_one() -> None:
    day = Day(date(2018, 11, 4), ZoneInfo("America/Sao_Paulo"))
    assert day.hours()[0].label == "01:00"
    assert day.start == datetime(2018, 11, 4, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("today", "Europe/Paris", date(2026, 7, 15)),
        ("yesterday", "Europe/Paris", date(2026, 7, 14)),
        ("today", "America/New_York", date(2026, 7, 14)),
        (" Today ", "Asia/Tokyo", date(2026, 7, 15)),
        ("2026-07-14", "Europe/Paris", date(2026, 7, 14)),
        ("2026-07-15", "Europe/Paris", date(2026, 7, 15)),
        ("2024-02-29", "Europe/Paris", date(2024, 2, 29)),
    ],
)
def test_parse_day(text: str, zone: str, expected: date) -> None:
    now = datetime(2026, 7, 14, 22, 30, tzinfo=UTC)
    assert parse_day(text, ZoneInfo(zone), now) == Day(expected, ZoneInfo(zone))


@pytest.mark.parametrize(
    ("text", "zone", "words"),
    [
        ("tomorrow", "Europe/Paris", ["'tomorrow'", "today", "yesterday", "2026-07-14"]),
        ("2026-13-01", "Europe/Paris", ["'2026-13-01'", "yesterday"]),
        ("2025-02-29", "Europe/Paris", ["'2025-02-29'", "yesterday"]),
        ("20260714", "Europe/Paris", ["'20260714'", "yesterday"]),
        ("2026-W29-2", "Europe/Paris", ["'2026-W29-2'", "yesterday"]),
        ("", "Europe/Paris", ["''", "yesterday"]),
        ("٢٠٢٦-٠٧-١٤", "Europe/Paris", ["yesterday"]),
        ("2026-07-15", "America/New_York", ["2026-07-15 is in the future", "2026-07-14 in America/New_York"]),
        ("9999-12-31", "Europe/Paris", ["9999-12-31 is in the future"]),
        ("0001-01-01", "Asia/Tokyo", ["is out of range", "1970-01-01"]),
        ("2011-12-30", "Pacific/Apia", ["2011-12-30 does not exist in Pacific/Apia"]),
    ],
)
def test_a_wrong_day_says_what_is_allowed(text: str, zone: str, words: list[str]) -> None:
    with pytest.raises(DayError) as raised:
        parse_day(text, ZoneInfo(zone), datetime(2026, 7, 14, 22, 30, tzinfo=UTC))
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize(
    ("on", "clock", "hour_utc"),
    [
        (date(2026, 7, 14), time(9, 30), 7.5),
        (date(2026, 3, 29), time(2, 30), 1.5),  # skipped: half an hour after the jump, 03:30
        (date(2026, 10, 25), time(2, 30), 0.5),  # twice: the first
        (date(2026, 10, 25), time(21), 20),
    ],
)
def test_a_time_of_day_is_one_moment_whatever_the_clock_does(on: date, clock: time, hour_utc: float) -> None:
    assert Day(on, ZoneInfo("Europe/Paris")).at(clock) == datetime(on.year, on.month, on.day, tzinfo=UTC) + timedelta(hours=hour_utc)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("09:30", datetime(2026, 7, 15, 7, 30, tzinfo=UTC)),
        ("00:30:15", datetime(2026, 7, 14, 22, 30, 15, tzinfo=UTC)),
        ("2026-07-14T09:30", datetime(2026, 7, 14, 7, 30, tzinfo=UTC)),
        ("2026-07-14 09:30", datetime(2026, 7, 14, 7, 30, tzinfo=UTC)),
        ("2025-10-26T02:30", datetime(2025, 10, 26, 0, 30, tzinfo=UTC)),
        ("2025-10-26T02:30+01:00", datetime(2025, 10, 26, 1, 30, tzinfo=UTC)),
    ],
)
def test_parse_moment(text: str, expected: datetime) -> None:
    moment = parse_moment(text, ZoneInfo("Europe/Paris"), datetime(2026, 7, 15, 8, tzinfo=UTC))
    assert (moment, moment.tzinfo) == (expected, UTC)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("noon", "--at 'noon' is not a time; use HH:MM"),
        ("25:00", "--at '25:00' is not a time"),
        ("", "--at '' is not a time"),
        ("10:01", "is in the future: it is now 2026-07-15 10:00 in Europe/Paris"),
        ("2026-07-16T09:00", "is in the future"),
        ("9999-12-31T23:59", "after 1970"),
        ("0001-01-01T00:00", "after 1970"),
    ],
)
def test_a_wrong_moment_says_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(DayError) as raised:
        parse_moment(text, ZoneInfo("Europe/Paris"), datetime(2026, 7, 15, 8, tzinfo=UTC))
    assert words in str(raised.value)
