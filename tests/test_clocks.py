"""What clocks tell: sleeps and set clocks are seen, and nothing else is taken for them."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from monitor.sound.clocks import ClockSet, ClockWatch, Reading, Slept, read_clocks
from monitor.sound.watchdog import Watchdog

# Ten minutes before the clocks of Europe go forward.
START = datetime(2026, 3, 29, 0, 50, tzinfo=UTC)
DAY_S = 86_400


@dataclass
class Machine:
    """A machine whose clocks go as told."""

    now: Reading = field(default_factory=lambda: Reading(START.timestamp(), 1_000.0, 900.0))

    def read(self) -> Reading:
        return self.now

    def run(self, seconds: float, slew: float = 0.0) -> None:
        """Time passes; the wall clock runs wrong by `slew` seconds per second."""
        self.now = Reading(self.now.real_s + seconds * (1 + slew), self.now.boot_s + seconds, self.now.mono_s + seconds)

    def sleep(self, seconds: float) -> None:
        self.now = replace(self.now, real_s=self.now.real_s + seconds, boot_s=self.now.boot_s + seconds)

    def set_clock(self, by_s: float) -> None:
        self.now = replace(self.now, real_s=self.now.real_s + by_s)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def in_paris(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("slew", [0.0, 5e-4, -5e-4])
def test_months_with_summer_time_and_a_wall_clock_that_ntp_slews_are_without_event(machine: Machine, slew: float, in_paris: None) -> None:
    watch, late = ClockWatch(machine.read), random.Random(1)
    for step in range(40_000):
        # Mostly a second apart, at times much later than asked for.
        machine.run(3_600.0 if step % 20 == 0 else late.choice([1.0, 1.0, 1.2, 3.0]), slew)
        assert watch.look() == []
    assert machine.now.boot_s > 80 * DAY_S


def test_a_sleep_is_seen_once_with_the_moments_around_it(machine: Machine) -> None:
    watch = ClockWatch(machine.read)
    machine.run(0.4)
    machine.sleep(3_600)
    machine.run(0.6)
    assert watch.look() == [Slept(START, START + timedelta(seconds=3_601), pytest.approx(3_600))]
    machine.run(1)
    assert watch.look() == []


@pytest.mark.parametrize("by_s", [3_600.0, -3_600.0, 1.2, -86_400.0])
def test_a_set_clock_is_seen_once_with_what_it_would_have_shown(machine: Machine, by_s: float) -> None:
    watch = ClockWatch(machine.read)
    machine.run(1)
    machine.set_clock(by_s)
    expected = START + timedelta(seconds=1)
    assert watch.look() == [ClockSet(expected, expected + timedelta(seconds=by_s), pytest.approx(by_s))]
    machine.run(1)
    assert watch.look() == []


def test_a_clock_that_is_set_during_a_sleep_is_both_and_the_sleep_keeps_to_the_clock_before(machine: Machine) -> None:
    watch = ClockWatch(machine.read)
    machine.sleep(7_200)
    machine.set_clock(-36_000)
    woken = START + timedelta(seconds=7_200)
    slept, clock_set = watch.look()
    assert slept == Slept(START, woken, 7_200)
    assert clock_set == ClockSet(woken, woken - timedelta(hours=10), -36_000)


def test_the_real_clocks_are_read_together_and_awake() -> None:
    first, watch = read_clocks(), ClockWatch()
    time.sleep(0.05)
    second = read_clocks()
    assert second.mono_s - first.mono_s >= 0.05
    assert second.slept_since(first) == 0.0
    assert abs((second.real_at - datetime.now(UTC)).total_seconds()) < 5
    assert watch.look() == []


def test_a_watchdog_counts_waking_seconds_and_refuses_what_comes_after_a_hole(machine: Machine) -> None:
    dog = Watchdog(machine.read)
    machine.run(50)
    dog.start()
    machine.run(2.9)
    assert dog.delivered() == machine.now
    machine.run(2)
    assert dog.silent_s == pytest.approx(2)
    machine.run(1.5)
    assert dog.delivered() is None
    assert dog.silent_s == pytest.approx(3.5), "what came too late does not make it well again"
    assert dog.slept_s == 0


def test_a_watchdog_tells_a_sleep_from_a_stall_even_when_the_device_is_slow_to_wake_up(machine: Machine) -> None:
    dog = Watchdog(machine.read)
    dog.start()
    machine.sleep(100)
    assert (dog.slept_s, dog.silent_s) == (100, 0)
    assert dog.delivered() is None
    machine.run(10)
    assert (dog.slept_s, dog.silent_s) == (100, 10)
