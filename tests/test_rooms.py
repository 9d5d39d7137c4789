"""Rooms: noise lies where it should, echoes fade as told, a telephone lets its band through, and a clip's rooms can be drawn again."""

import numpy as np
import pytest

from model.audio import SAMPLE_RATE, Float32
from train.learning.rooms import Rooms, coloured_noise, excerpt, reverberated, telephone, with_noise


def tone(hz: float, seconds: float = 1.0, level: float = 0.1) -> Float32:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(SAMPLE_RATE * seconds)) / SAMPLE_RATE)).astype(np.float32)


def power(audio: Float32) -> float:
    return float(np.square(audio).mean())


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 20.0])
def test_noise_is_laid_under_a_clip_at_the_ratio_asked_for(snr_db: float) -> None:
    rng = np.random.default_rng(0)
    clip, noise = tone(300), coloured_noise(SAMPLE_RATE, 0.5, rng)
    noisy = with_noise(clip, noise, snr_db)
    assert 10 * np.log10(power(clip) / power(noisy - clip)) == pytest.approx(snr_db, abs=0.1)


def test_silent_noise_leaves_a_clip_as_it_was() -> None:
    assert np.array_equal(with_noise(tone(300), np.zeros(SAMPLE_RATE, np.float32), 10), tone(300))


@pytest.mark.parametrize("t60_s", [0.2, 0.6])
def test_echoes_have_faded_by_sixty_decibels_after_the_time_told(t60_s: float) -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[0] = 1
    heard = reverberated(click, t60_s, np.random.default_rng(1))
    begin, end = (heard[int(SAMPLE_RATE * (t60_s * share)) :][:400] for share in (0.1, 0.9))
    assert 10 * np.log10(power(begin) / power(end)) == pytest.approx(48, abs=4), "60 dB over t60 is 48 dB over 0.8 t60"
    assert np.abs(heard).max() == pytest.approx(1)


def test_a_telephone_lets_its_band_through_and_nothing_else() -> None:
    low, voice, high = (power(telephone(tone(hz))) / power(tone(hz)) for hz in (60, 1000, 6000))
    assert voice == pytest.approx(1, abs=0.05)
    assert low < 1e-4
    assert high < 1e-3


@pytest.mark.parametrize("size", [100, SAMPLE_RATE, 3 * SAMPLE_RATE])
def test_an_excerpt_has_the_length_asked_for_and_starts_again_where_a_recording_ends(size: int) -> None:
    recording = np.arange(SAMPLE_RATE, dtype=np.float32)
    found = excerpt(recording, size, np.random.default_rng(0))
    assert len(found) == size
    assert (np.diff(found) == 1).mean() > 0.98


def test_a_room_is_drawn_by_the_generator_alone_and_is_never_the_clip_itself() -> None:
    clip, rooms = np.concatenate([np.zeros(8000, np.float32), tone(200), np.zeros(8000, np.float32)]), Rooms([[tone(500, 0.5)]])
    drawn = [rooms.anywhere(clip, np.random.default_rng(seed)) for seed in range(40)]
    again = [rooms.anywhere(clip, np.random.default_rng(seed)) for seed in range(40)]
    for one, other in zip(drawn, again, strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        assert len(one) != len(clip) or not np.array_equal(one, clip)
    assert any(len(one) < len(clip) for one in drawn)


def test_rooms_without_noises_and_silent_clips_are_fine() -> None:
    for seed in range(20):
        assert np.isfinite(Rooms([[np.zeros(100, np.float32)], []]).anywhere(np.zeros(5000, np.float32), np.random.default_rng(seed))).all()


def test_a_kind_of_noise_is_heard_as_often_as_any_other_however_many_recordings_it_has() -> None:
    """One high tone of one kind, forty low ones of another, each told from the clip by its frequency."""
    rooms, clip = Rooms([[tone(3000)], [tone(400)] * 40]), tone(1000)
    hz = np.fft.rfftfreq(len(clip), 1 / SAMPLE_RATE)
    heard = {"high": 0, "low": 0}
    for seed in range(400):
        rng = np.random.default_rng(seed)
        spectrum = np.abs(np.fft.rfft(rooms.anywhere(clip, rng), len(clip)))
        clip_level = spectrum[np.abs(hz - 1000) < 30].max()
        levels = {name: spectrum[np.abs(hz - at) < 30].max() / clip_level for name, at in {"high": 3000, "low": 400}.items()}
        for name, level in levels.items():
            heard[name] += level > 0.05
    assert 0.6 < heard["high"] / heard["low"] < 1.6
