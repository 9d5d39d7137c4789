"""Level and pitch of a segment: tones whose level and pitch are known, and sounds that have none."""

import math

import numpy as np
import pytest

from model.audio import SAMPLE_RATE, Int16
from monitor.judging.voice import QUIETEST_DB, measure


def tone(hz: float, seconds: float = 1.0, peak: float = 0.25, harmonics: int = 1) -> Int16:
    """Harmonics fall off as in a voice."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    waves = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, harmonics + 1))
    return (32768 * peak * waves).round().astype(np.int16)


@pytest.mark.parametrize("hz", [70, 100, 147, 220, 311, 450])
@pytest.mark.parametrize("harmonics", [1, 3, 10])
def test_the_pitch_of_a_tone_is_its_pitch(hz: float, harmonics: int) -> None:
    assert measure(tone(hz, harmonics=harmonics)).pitch_hz == pytest.approx(hz, rel=0.01)


@pytest.mark.parametrize("peak", [0.9, 0.1, 0.01, 0.001])
def test_the_level_of_a_tone_is_three_db_under_its_peak_and_its_pitch_stays(peak: float) -> None:
    voice = measure(tone(200, peak=peak))
    assert voice.loudness_db == pytest.approx(20 * math.log10(peak) - 3.01, abs=0.1)
    assert voice.pitch_hz == pytest.approx(200, rel=0.02)


def test_a_constant_offset_of_a_microphone_is_no_loudness() -> None:
    assert measure(tone(200) + np.int16(3000)).loudness_db == pytest.approx(measure(tone(200)).loudness_db, abs=0.01)


def test_the_pitch_is_that_of_the_most_windows() -> None:
    assert measure(np.concatenate([tone(120, 1.5), tone(300, 0.5)])).pitch_hz == pytest.approx(120, rel=0.01)


def test_silence_around_a_voice_changes_only_its_level() -> None:
    alone, padded = measure(tone(180)), measure(np.concatenate([np.zeros(SAMPLE_RATE, np.int16), tone(180)]))
    assert padded.pitch_hz == pytest.approx(alone.pitch_hz, rel=0.01)
    assert padded.loudness_db == pytest.approx(alone.loudness_db - 3.01, abs=0.1)


def test_a_voice_in_noise_keeps_its_pitch() -> None:
    noise = np.random.default_rng(1).normal(0, 800, SAMPLE_RATE).astype(np.int16)
    assert measure(tone(160, harmonics=8) + noise).pitch_hz == pytest.approx(160, rel=0.02)


@pytest.mark.parametrize("seconds", [0, 0.0001, 0.1])
def test_what_is_too_short_has_no_pitch(seconds: float) -> None:
    assert measure(tone(200, seconds)).pitch_hz is None


def test_noise_has_a_level_and_no_pitch() -> None:
    voice = measure(np.random.default_rng(1).normal(0, 3276.8, 2 * SAMPLE_RATE).astype(np.int16))
    assert (voice.pitch_hz, voice.loudness_db) == (None, pytest.approx(-20, abs=0.1))


@pytest.mark.parametrize("samples", [0, 1, 32_000])
@pytest.mark.parametrize("value", [0, 5])
def test_silence_has_the_lowest_level(samples: int, value: int) -> None:
    voice = measure(np.full(samples, value, np.int16))
    assert (voice.loudness_db, voice.pitch_hz) == (QUIETEST_DB, None)
