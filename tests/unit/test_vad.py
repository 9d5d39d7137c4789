"""Voice detectors on real speech and on noise: Silero tells them apart, wakes in time, sleeps in quiet, and takes any frame size."""

import subprocess
import sys

import numpy as np
import pytest

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, ms_to_samples, pcm16_to_float, read_audio, s_to_samples
from monitor.audio.segmenter import Segmenter
from monitor.audio.stream import AudioChunk
from monitor.audio.vad import GatedSileroVad, SileroVad, VoiceActivityDetector, create_vad
from monitor.config import SegmenterConfig
from tests.support.paths import ROOT

DEMO = float_to_pcm16(read_audio(ROOT / "examples" / "demo.opus"))


def speech() -> Int16:
    """The demo's first sentence, its silence cut off: the loudest second and a half of the first ten seconds."""
    size, energy = s_to_samples(1.5), np.cumsum(np.square(pcm16_to_float(DEMO[: 10 * SAMPLE_RATE]), dtype=np.float64))
    start = int((energy[size:] - energy[:-size]).argmax())
    return DEMO[start : start + size]


def pink_noise(seconds: float, rms: float) -> Int16:
    rng = np.random.default_rng(0)
    size = s_to_samples(seconds)
    spectrum = np.fft.rfft(rng.normal(size=size)) / np.sqrt(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20))
    noise = np.fft.irfft(spectrum, size)
    return float_to_pcm16((noise * rms / noise.std()).astype(np.float32))


def heard(detector: VoiceActivityDetector, sound: Int16, frame_ms: int = 30) -> list[bool]:
    size = ms_to_samples(frame_ms)
    return [detector.is_speech(sound[start : start + size].tobytes()) for start in range(0, len(sound) - size + 1, size)]


def test_noise_that_webrtcvad_takes_for_speech_is_none_for_silero() -> None:
    said, noise = speech(), pink_noise(12, rms=0.05)
    noise[2 * SAMPLE_RATE : 2 * SAMPLE_RATE + len(said)] += said // 2
    after = (2 * SAMPLE_RATE + len(said) + SAMPLE_RATE // 2) // ms_to_samples(30)
    alone, gated = (heard(create_vad(kind, 3, 30), noise)[after:] for kind in ("webrtcvad", "silero"))
    assert np.mean(alone) > 0.5
    assert np.mean(gated) < 0.01


@pytest.mark.parametrize("frame_ms", [10, 20, 30])
@pytest.mark.parametrize("noise_rms", [0.0, 0.01])
def test_speech_after_quiet_or_noise_is_heard_within_a_fifth_of_a_second_and_ends(frame_ms: int, noise_rms: float) -> None:
    said = speech()
    sound = np.concatenate([np.zeros(2 * SAMPLE_RATE, np.int16), said, np.zeros(2 * SAMPLE_RATE, np.int16)])
    if noise_rms:
        sound = sound + pink_noise(len(sound) / SAMPLE_RATE, noise_rms)[: len(sound)]
    found = np.array(heard(GatedSileroVad(3, frame_ms), sound, frame_ms))
    first, last = int(found.argmax()) * frame_ms / 1000, (len(found) - int(found[::-1].argmax())) * frame_ms / 1000
    assert not found[: int(1900 / frame_ms)].any()
    assert first < 2 + 0.3
    assert 2 + len(said) / SAMPLE_RATE - 0.5 < last < 2 + len(said) / SAMPLE_RATE + 0.6


def test_silero_sleeps_while_nothing_is_heard_and_wakes_for_each_voice() -> None:
    detector, quiet = GatedSileroVad(3, 30), np.zeros(3 * SAMPLE_RATE, np.int16)
    for _ in range(3):
        assert not any(heard(detector, quiet)[20:]), "0.6 s after a voice there is none"
        assert not detector._awake
        assert np.mean(heard(detector, speech())) > 0.5
        assert detector._awake


def test_silero_sleeps_through_steady_noise_that_webrtcvad_takes_for_speech() -> None:
    detector, noise = GatedSileroVad(2, 30), pink_noise(12, rms=0.05)
    assert np.mean(heard(create_vad("webrtcvad", 2, 30), noise)) > 0.5
    size = ms_to_samples(30)
    awake = []
    for start in range(0, len(noise) - size + 1, size):
        detector.is_speech(noise[start : start + size].tobytes())
        awake.append(detector._awake)
    assert np.mean(awake[s_to_samples(2) // size :]) < 0.5
    assert np.mean(heard(detector, noise[: SAMPLE_RATE // 2] + speech()[: SAMPLE_RATE // 2])) > 0.3, "a voice still wakes it"


@pytest.mark.parametrize("slower", [1.0, 1.25])
def test_what_silero_makes_of_a_sound_does_not_depend_on_its_pieces(slower: float) -> None:
    sound = speech()[: s_to_samples(1.2)]
    whole = SileroVad(slower)
    whole.hear(sound.tobytes())
    for frame_ms in (10, 20, 30):
        pieces, size = SileroVad(slower), ms_to_samples(frame_ms)
        for start in range(0, len(sound), size):
            pieces.hear(sound[start : start + size].tobytes())
        assert pieces.probability == pytest.approx(whole.probability, abs=1e-6)


def test_silero_is_one_thread_and_limits_nobody_elses() -> None:
    program = """
import os
from pathlib import Path
from monitor.audio.vad import SileroVad
silero = SileroVad()
silero.hear(bytes(32000))
own = len(list(Path("/proc/self/task").iterdir()))
import torch
torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
print(own, os.environ.get("OMP_THREAD_LIMIT"), len(list(Path("/proc/self/task").iterdir())) > own)
"""
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True).stdout
    assert said.split() == ["1", "None", "True"]


def test_a_day_in_noise_makes_no_segments_and_speech_in_it_makes_its_own() -> None:
    said, noise = speech(), pink_noise(12, rms=0.004)
    sound = noise.copy()
    sound[5 * SAMPLE_RATE : 5 * SAMPLE_RATE + len(said)] += said
    assert _segments(noise) == []
    ((start, end),) = _segments(sound)
    assert start / SAMPLE_RATE == pytest.approx(5, abs=0.5)
    assert end / SAMPLE_RATE == pytest.approx(5 + len(said) / SAMPLE_RATE, abs=0.8)


def _segments(sound: Int16) -> list[tuple[int, int]]:
    segmenter = Segmenter(SegmenterConfig())
    return [(one.start, one.end) for one in [*segmenter.push(AudioChunk(0, sound)), *segmenter.flush()]]
