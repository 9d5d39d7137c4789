"""The sample count against the wall clock: months of wrong sound cards, jittery deliveries and lost samples, simulated."""

import random
from collections.abc import Callable, Iterator

import pytest

from model.audio import SAMPLE_RATE
from monitor.sound.drift import DriftTracker

DAY_S = 86_400.0
LIMIT_S = 0.3


def on_time(at_s: float) -> float:
    return 0.0


def jittery(seed: int) -> Callable[[float], float]:
    """Delays as a busy machine has them: some ms always, up to 0.4 s often, and now and then nothing for 20 s, then all at once."""
    rng = random.Random(seed)

    def delay_s(at_s: float) -> float:
        if at_s % 3_600 < 20:
            return at_s % 3_600
        return 0.02 + (rng.random() * 0.4 if rng.random() < 0.7 else rng.random() * 0.01)

    return delay_s


def deliveries(days: float, ppm: float, delay_s: Callable[[float], float], every_s: float = 1.0) -> Iterator[tuple[int, float, float]]:
    """Stream position, the wall clock when it was delivered, and how far the stream truly was behind then."""
    at_s, position = 0.0, 0
    while at_s < days * DAY_S:
        at_s += every_s
        captured_s = max(0.0, at_s - delay_s(at_s))
        position = max(position, int(captured_s * SAMPLE_RATE * (1 + ppm / 1e6)))
        yield position, 1.8e9 + at_s, -at_s * ppm / 1e6


@pytest.mark.parametrize(("ppm", "days", "every_s"), [(80, 90, 10.0), (-80, 90, 10.0), (80, 2, 1.0), (-80, 2, 1.0), (0, 2, 1.0)])
def test_over_months_a_stream_that_is_re_anchored_stays_true(ppm: float, days: float, every_s: float) -> None:
    tracker, moved_s, moves = DriftTracker(), 0.0, 0
    for position, at_s, behind_s in deliveries(days, ppm, jittery(seed=1), every_s):
        tracker.push(position, at_s)
        if abs(tracker.drift_s) > LIMIT_S:
            moved_s += tracker.rebase()
            moves += 1
            assert tracker.drift_s == 0
        # A window with few prompt deliveries may look later than it was, by no more than they were.
        assert abs(behind_s - moved_s) < LIMIT_S + 0.1
    assert moves == pytest.approx(days * DAY_S * abs(ppm) / 1e6 / LIMIT_S, rel=0.2)


def test_a_minute_of_late_deliveries_is_no_drift() -> None:
    tracker = DriftTracker()
    for position, at_s, _ in deliveries(0.1, 0, lambda at_s: 1.5 if 4_000 < at_s < 4_055 else 0.03):
        tracker.push(position, at_s)
        assert abs(tracker.drift_s) < 0.001


def test_samples_that_were_lost_unseen_show_within_a_window() -> None:
    tracker = DriftTracker()
    for position, at_s, _ in deliveries(0.01, 0, on_time):
        tracker.push(max(0, position - (SAMPLE_RATE if at_s > 1.8e9 + 400 else 0)), at_s)
        assert tracker.drift_s == pytest.approx(1.0 if at_s > 1.8e9 + 465 else 0.0, abs=0.001) or 400 < at_s - 1.8e9 <= 465
    assert tracker.rebase() == pytest.approx(1.0, abs=0.001)
    assert tracker.drift_s == 0


@pytest.mark.parametrize("by_s", [0.6, -0.6])
def test_a_wall_clock_that_was_moved_a_little_shows_too(by_s: float) -> None:
    tracker = DriftTracker()
    for position, at_s, _ in deliveries(0.01, 0, on_time):
        tracker.push(position, at_s + (by_s if at_s > 1.8e9 + 400 else 0))
    assert tracker.drift_s == pytest.approx(by_s, abs=0.001)


def test_nothing_is_known_at_first() -> None:
    tracker = DriftTracker()
    assert tracker.drift_s == 0
    for second in range(59):
        tracker.push(second * SAMPLE_RATE, second * 1.01)
        assert tracker.drift_s == 0
