"""Samples, stream positions, clocks and muting: arithmetic of a stream, on simulated devices."""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from model.audio import (
    SAMPLE_RATE,
    Int16,
    audio_length_s,
    float_to_pcm16,
    ms_to_samples,
    pcm16_to_float,
    read_audio,
    s_to_samples,
    samples_to_s,
)
from model.errors import FormatError
from monitor.audio.clock import Backoff, ClockReading, ClockStepped, ClockWatch, DriftTracker, StreamWatchdog, Suspended, read_clocks
from monitor.audio.mute import MUTED_AFTER_S, MuteDetector, SampleRange
from monitor.audio.stream import AudioChunk


@given(st.integers(0, 10**9))
def test_whole_milliseconds_are_exact(ms: int) -> None:
    assert ms_to_samples(ms) == ms * 16
    assert samples_to_s(ms_to_samples(ms)) * 1000 == pytest.approx(ms)


def test_half_a_sample_is_rounded_up_not_to_even() -> None:
    assert [s_to_samples(n / 2 / SAMPLE_RATE) for n in (1, 3, 5, 7)] == [1, 2, 3, 4]


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_pcm_survives_the_way_to_float_and_back(values: list[int]) -> None:
    pcm = np.array(values, np.int16)
    assert (float_to_pcm16(pcm16_to_float(pcm)) == pcm).all()


def test_what_is_too_loud_is_clipped_not_wrapped() -> None:
    assert float_to_pcm16(np.array([1.5, -1.5], np.float32)).tolist() == [32767, -32768]


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1), (48000, 3)])
def test_any_rate_and_channel_count_becomes_mono_at_16_khz(tmp_path: Path, rate: int, channels: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate * 2) / rate)
    soundfile.write(tmp_path / "tone.wav", np.repeat(tone[:, None], channels, axis=1), rate)
    audio = read_audio(tmp_path / "tone.wav")
    assert abs(len(audio) - 2 * SAMPLE_RATE) <= 1
    spectrum = np.abs(np.fft.rfft(audio))
    assert spectrum.argmax() == pytest.approx(880, abs=1)  # 2 s: half a hertz a bin
    assert np.sqrt(np.mean(audio**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    assert audio_length_s(tmp_path / "tone.wav") == 2.0


def test_what_is_no_audio_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "letter.wav").write_text("Dear Sir or Madam")
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16000)
    for name, reason in {
        "missing.wav": "does not exist",
        "empty.wav": "0 bytes",
        "letter.wav": "not audio",
        "nothing.wav": "0 samples",
        ".": "folder",
    }.items():
        with pytest.raises(FormatError, match=reason):
            read_audio(tmp_path / name)


LONG = s_to_samples(MUTED_AFTER_S)


def sound(*parts: int) -> Int16:
    """Loud and silent stretches of so many samples, in turn, loud first."""
    return np.concatenate([np.full(length, 1 - number % 2, np.int16) for number, length in enumerate(parts)])


def watch_all(pcm: Int16, cuts: list[int], start: int = 0, settled: bool = False) -> list[SampleRange]:
    """Stretches of a sound delivered in pieces; with `settled`, asked after each."""
    watch, time_ranges = MuteDetector(), list[SampleRange]()
    for begin, end in itertools.pairwise([0, *cuts, len(pcm)]):
        time_ranges += watch.push(AudioChunk(start + begin, pcm[begin:end]))
        time_ranges += watch.settled() if settled else []
    return time_ranges + watch.flush()


def joined(time_ranges: list[SampleRange]) -> list[SampleRange]:
    """Neighbours of one kind as one."""
    result: list[SampleRange] = []
    for time_range in time_ranges:
        if result and result[-1].muted == time_range.muted and result[-1].end == time_range.start:
            result[-1] = SampleRange(result[-1].start, time_range.end, time_range.muted)
        else:
            result.append(time_range)
    return result


def expected(pcm: Int16) -> list[SampleRange]:
    """The same by the slowest and plainest way: every run of equal samples on its own."""
    time_ranges, at = list[SampleRange](), 0
    for loud, run in itertools.groupby(pcm.tolist(), bool):
        length = len(list(run))
        time_ranges.append(SampleRange(at, at + length, not loud and length >= LONG))
        at += length
    return joined(time_ranges)


lengths = st.one_of(st.integers(1, 600), st.integers(LONG - 2, LONG + 2), st.integers(LONG, 2 * LONG))


@given(st.lists(lengths, min_size=1, max_size=7), st.lists(st.floats(0, 1), max_size=12), st.booleans(), st.booleans())
def test_stretches_tile_the_stream_whatever_the_chunks(parts: list[int], cuts: list[float], zeros_first: bool, settled: bool) -> None:
    pcm = sound(*([0] if zeros_first else []), *parts)
    time_ranges = watch_all(pcm, sorted(int(cut * len(pcm)) for cut in cuts), settled=settled)
    assert all(one.end == other.start for one, other in itertools.pairwise(time_ranges))
    assert joined(time_ranges) == expected(pcm)
    if not settled:
        assert joined(time_ranges) == time_ranges


@pytest.mark.parametrize("chunk", [1, 480, 4_096, 10 * LONG])
def test_zeros_are_muted_from_the_first_once_they_last(chunk: int) -> None:
    pcm = sound(5_000, LONG, 300, LONG - 1, 300)
    time_ranges = watch_all(pcm, list(range(chunk, len(pcm), chunk)))
    assert time_ranges == [SampleRange(0, 5_000, False), SampleRange(5_000, 5_000 + LONG, True), SampleRange(5_000 + LONG, len(pcm), False)]


def test_a_mute_is_known_as_soon_as_it_has_lasted_and_as_over_with_the_first_sound() -> None:
    watch = MuteDetector()
    assert watch.push(AudioChunk(0, sound(100, LONG - 1))) == []
    assert not watch.muted
    assert watch.settled() == [SampleRange(0, 100, False)]
    assert watch.push(AudioChunk(99 + LONG, sound(0, 1))) == []
    assert watch.muted
    assert watch.settled() == [SampleRange(100, 100 + LONG, True)]
    assert watch.settled() == []
    assert watch.push(AudioChunk(100 + LONG, sound(0, 10, 1))) == [SampleRange(100 + LONG, 110 + LONG, True)]
    assert not watch.muted


def test_after_the_end_of_a_sound_zeros_count_from_anew() -> None:
    watch = MuteDetector()
    watch.push(AudioChunk(0, sound(0, LONG)))
    assert watch.flush() == [SampleRange(0, LONG, True)]
    assert not watch.muted
    watch.push(AudioChunk(LONG, sound(0, LONG - 1)))
    assert watch.flush() == [SampleRange(LONG, 2 * LONG - 1, False)]


def test_a_hole_in_the_stream_belongs_to_no_stretch_and_zeros_do_not_count_across_it() -> None:
    watch = MuteDetector()
    watch.push(AudioChunk(0, sound(50, LONG)))
    assert watch.push(AudioChunk(2 * LONG, sound(0, LONG - 1))) == [SampleRange(50, 50 + LONG, True)]
    assert watch.flush() == [SampleRange(2 * LONG, 3 * LONG - 1, False)]
    assert watch.flush() == []
    assert watch.push(AudioChunk(9 * LONG, sound(5))) == []
    assert watch.flush() == [SampleRange(9 * LONG, 9 * LONG + 5, False)]


# Ten minutes before the clocks of Europe go forward.
START = datetime(2026, 3, 29, 0, 50, tzinfo=UTC)
DAY_S = 86_400


@dataclass
class Machine:
    """A machine whose clocks go as told."""

    now: ClockReading = field(default_factory=lambda: ClockReading(START.timestamp(), 1_000.0, 900.0))

    def read(self) -> ClockReading:
        return self.now

    def run(self, seconds: float, slew: float = 0.0) -> None:
        """Time passes; the wall clock runs wrong by `slew` seconds per second."""
        self.now = ClockReading(self.now.real_s + seconds * (1 + slew), self.now.boot_s + seconds, self.now.mono_s + seconds)

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
    assert watch.look() == [Suspended(START, START + timedelta(seconds=3_601), pytest.approx(3_600))]
    machine.run(1)
    assert watch.look() == []


@pytest.mark.parametrize("by_s", [3_600.0, -3_600.0, 1.2, -86_400.0])
def test_a_set_clock_is_seen_once_with_what_it_would_have_shown(machine: Machine, by_s: float) -> None:
    watch = ClockWatch(machine.read)
    machine.run(1)
    machine.set_clock(by_s)
    expected = START + timedelta(seconds=1)
    assert watch.look() == [ClockStepped(expected, expected + timedelta(seconds=by_s), pytest.approx(by_s))]
    machine.run(1)
    assert watch.look() == []


def test_a_clock_that_is_set_during_a_sleep_is_both_and_the_sleep_keeps_to_the_clock_before(machine: Machine) -> None:
    watch = ClockWatch(machine.read)
    machine.sleep(7_200)
    machine.set_clock(-36_000)
    woken = START + timedelta(seconds=7_200)
    slept, clock_set = watch.look()
    assert slept == Suspended(START, woken, 7_200)
    assert clock_set == ClockStepped(woken, woken - timedelta(hours=10), -36_000)


def test_the_real_clocks_are_read_together_and_awake() -> None:
    first, watch = read_clocks(), ClockWatch()
    time.sleep(0.05)
    second = read_clocks()
    assert second.mono_s - first.mono_s >= 0.05
    assert second.suspended_since_s(first) == 0.0
    assert abs((second.real_at - datetime.now(UTC)).total_seconds()) < 5
    assert watch.look() == []


def test_a_watchdog_counts_waking_seconds_and_refuses_what_comes_after_a_hole(machine: Machine) -> None:
    dog = StreamWatchdog(machine.read)
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
    dog = StreamWatchdog(machine.read)
    dog.start()
    machine.sleep(100)
    assert (dog.slept_s, dog.silent_s) == (100, 0)
    assert dog.delivered() is None
    machine.run(10)
    assert (dog.slept_s, dog.silent_s) == (100, 10)


DAY_LENGTH_S = 86_400.0
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
    while at_s < days * DAY_LENGTH_S:
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
    assert moves == pytest.approx(days * DAY_LENGTH_S * abs(ppm) / 1e6 / LIMIT_S, rel=0.2)


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


def test_pauses_grow_to_ten_seconds_and_never_end() -> None:
    backoff = Backoff()
    assert [backoff.next_s() for _ in range(8)] == [0.5, 1, 2, 5, 10, 10, 10, 10]
    backoff.reset()
    assert backoff.next_s() == 0.5
