"""Sample arithmetic and the reading of sound."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from model.audio import (
    SAMPLE_RATE,
    audio_length_s,
    float_to_pcm16,
    ms_to_samples,
    pcm16_to_float,
    read_audio,
    s_to_samples,
    samples_to_s,
)
from model.errors import FormatError


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
