"""The microphone through the real PyAudio: what is played is what is captured, and every way it can go away is noticed."""

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from model.audio import SAMPLE_RATE, Int16, pcm16_to_float, s_to_samples, samples_to_s
from model.errors import DeviceError, DeviceFault
from monitor.audio.clock import ClockReading
from monitor.audio.microphone import InputDevice, MicrophoneSource, choose_device, list_devices
from monitor.audio.mute import MuteDetector, SampleRange
from monitor.audio.stream import AudioChunk, Resampler
from tests.support.paths import ROOT
from tests.support.virtual_microphone import VirtualMicrophone, synthetic_voice

VOICE = synthetic_voice(1.5)
needs_pulseaudio = pytest.mark.skipif(bool(VirtualMicrophone.missing()), reason=VirtualMicrophone.missing())


@pytest.fixture
def plugged_in(microphone: VirtualMicrophone, monkeypatch: pytest.MonkeyPatch) -> VirtualMicrophone:
    """The shared microphone as what PyAudio in this process hears; not to be broken."""
    for name, value in microphone.env.items():
        monkeypatch.setenv(name, value)
    return microphone


@pytest.fixture
def own_microphone(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMicrophone]:
    """One of the test's own, to be broken."""
    with VirtualMicrophone() as microphone:
        for name, value in microphone.env.items():
            monkeypatch.setenv(name, value)
        yield microphone


@pytest.fixture
def humming(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMicrophone]:
    """One that is never silent unless it is muted."""
    with VirtualMicrophone(hum=True) as microphone:
        for name, value in microphone.env.items():
            monkeypatch.setenv(name, value)
        yield microphone


@pytest.fixture
def voice_file(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "voice.wav", VOICE, SAMPLE_RATE)
    return tmp_path / "voice.wav"


def device(index: int, name: str, is_default: bool = False) -> InputDevice:
    return InputDevice(index, name, "ALSA", channels=2, rate_hz=48_000, is_default=is_default)


DEVICES = [device(0, "HDA Intel: ALC257 (hw:0,0)"), device(4, "USB Mic 4"), device(7, "USB Mic"), device(9, "default", True)]


@pytest.mark.parametrize(
    ("wanted", "index"), [("", 9), ("  ", 9), ("0", 0), ("4", 4), ("7", 7), ("alc257", 0), ("usb mic 4", 4), ("USB Mic", 7), ("DEF", 9)]
)
def test_a_device_is_chosen_by_number_name_or_part_of_it(wanted: str, index: int) -> None:
    assert choose_device(wanted, DEVICES).index == index


@pytest.mark.parametrize(("wanted", "reason"), [("1", "'1' is not there"), ("webcam", "is not there"), ("usb", "fits 2 devices")])
def test_a_wrong_device_is_refused_with_those_that_are_there(wanted: str, reason: str) -> None:
    with pytest.raises(DeviceError, match=reason) as caught:
        choose_device(wanted, DEVICES)
    assert all(str(device) in str(caught.value) for device in DEVICES)


def test_without_a_default_or_any_device_the_error_says_so() -> None:
    with pytest.raises(DeviceError, match=r"default microphone is not there(.|\n)*4: USB Mic 4"):
        choose_device("", DEVICES[:3])
    with pytest.raises(DeviceError, match="no microphone was found; plug one in"):
        choose_device("", [])


@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (16_000, 2), (44_100, 2), (48_000, 1), (8_000, 3)])
def test_resampling_keeps_positions_over_a_hole(rate_hz: int, channels: int) -> None:
    resampler, buffer = Resampler(rate_hz, channels), rate_hz * 30 // 1000
    at = np.arange(rate_hz * 2) / rate_hz
    tone = np.rint(8_000 * np.sin(2 * np.pi * 440 * at)).astype(np.int16)
    frames = np.repeat(tone[:, None], channels, axis=1)
    chunks: list[AudioChunk] = []
    for start in range(0, len(tone) - buffer + 1, buffer):
        if not rate_hz // 2 <= start < rate_hz:
            chunks += resampler.convert(start, frames[start : start + buffer].tobytes())
    chunks += resampler.finish()
    steps = [other.start - one.end for one, other in itertools.pairwise(chunks)]
    assert all(step >= 0 for step in steps)
    assert [step > 0 for step in steps].count(True) == 1
    assert resampler.lost_samples == sum(steps) == pytest.approx(SAMPLE_RATE / 2, abs=SAMPLE_RATE * 0.031)
    for chunk in chunks:
        expected = 8_000 * np.sin(2 * np.pi * 440 * np.arange(chunk.start, chunk.end) / SAMPLE_RATE)
        # The resampler rings where sound begins and ends; a shift by one sample would be off by 1400.
        assert np.median(np.abs(chunk.pcm - expected)) < 400


def test_neither_pyaudio_nor_torch_is_loaded_before_a_microphone_is_asked_for() -> None:
    code = "import sys, monitor.audio.microphone; print([m for m in ('pyaudio', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


def test_a_missing_pyaudio_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyaudio", None)
    with pytest.raises(DeviceError, match="needs PyAudio"):
        list_devices()
    with pytest.raises(DeviceError, match="needs PyAudio"), MicrophoneSource():
        pass


def joined(chunks: list[AudioChunk]) -> Int16:
    assert chunks[0].start == 0
    assert all(one.end == other.start for one, other in itertools.pairwise(chunks))
    return np.concatenate([chunk.pcm for chunk in chunks])


def capture_while_playing(microphone: VirtualMicrophone, path: Path, source: MicrophoneSource) -> Int16:
    def play() -> None:
        microphone.play(path)
        time.sleep(0.2)
        source.close()

    with source:
        threading.Thread(target=play).start()
        return joined(list(source))


def best_match(sound: Int16, reference: Int16) -> tuple[int, float]:
    """Where in `sound` the reference fits best, and the correlation coefficient there."""
    one, other = pcm16_to_float(sound), pcm16_to_float(reference)
    at = int(np.correlate(one, other).argmax())
    return at, float(np.corrcoef(one[at : at + len(other)], other)[0, 1])


@needs_pulseaudio
@pytest.mark.parametrize(("name", "buffer_ms"), [("", 60), ("PULSE", 20)])
def test_what_is_played_is_captured_sample_for_sample(plugged_in: VirtualMicrophone, voice_file: Path, name: str, buffer_ms: int) -> None:
    source = MicrophoneSource(name, buffer_ms)
    sound = capture_while_playing(plugged_in, voice_file, source)
    at, _ = best_match(sound, VOICE)
    np.testing.assert_array_equal(sound[at : at + len(VOICE)], VOICE)
    assert source.lost_samples == 0
    assert source.description == ("microphone 'pulse'" if name else "microphone 'default'")
    assert source.microphone == "mic", "what is heard by the default, not that it is the default"


def test_a_microphone_keeps_its_name_when_it_is_plugged_in_as_another_card() -> None:
    source = MicrophoneSource()
    for name in ("USB Mic: Audio (hw:1,0)", "USB Mic: Audio (hw:12,3)", "USB Mic: Audio"):
        source._name = name
        assert source.microphone == "USB Mic: Audio"


def refuse(monkeypatch: pytest.MonkeyPatch, accepts: Callable[[int, int], int | None]) -> list[tuple[int, int]]:
    """Let the sound card refuse formats with PortAudio's error numbers; returns the list of those that were asked for."""
    pyaudio = pytest.importorskip("pyaudio")
    really_open, asked = pyaudio.PyAudio.open, []

    def picky(self: Any, rate: int, channels: int, *arguments: Any, **options: Any) -> Any:
        asked.append((rate, channels))
        if (number := accepts(rate, channels)) is not None:
            raise OSError(number, "refused")
        return really_open(self, rate, channels, *arguments, **options)

    monkeypatch.setattr(pyaudio.PyAudio, "open", picky)
    return asked


@needs_pulseaudio
def test_a_card_with_a_format_of_its_own_is_averaged_and_resampled(
    plugged_in: VirtualMicrophone, voice_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = refuse(monkeypatch, lambda rate, channels: -9997 if rate != 44_100 else -9998 if channels != 2 else None)
    sound = capture_while_playing(plugged_in, voice_file, MicrophoneSource())
    assert asked == [(16_000, 1), (44_100, 1), (44_100, 2)]
    at, similarity = best_match(sound, VOICE)
    assert similarity > 0.98
    assert np.std(sound[at : at + len(VOICE)].astype(float)) == pytest.approx(np.std(VOICE.astype(float)), rel=0.05)


@needs_pulseaudio
@pytest.mark.parametrize(("number", "reason"), [(-9985, "in use by another program"), (-9997, "accepts none of these")])
def test_a_card_that_cannot_be_opened_is_a_device_error(
    plugged_in: VirtualMicrophone, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    refuse(monkeypatch, lambda rate, channels: number)
    with pytest.raises(DeviceError, match=reason), MicrophoneSource():
        pass


@needs_pulseaudio
def test_sound_that_is_not_taken_in_time_is_dropped_oldest_first_and_shows(plugged_in: VirtualMicrophone) -> None:
    source = MicrophoneSource(queue_s=1)
    with source:
        chunks = iter(source)
        first = next(chunks)
        time.sleep(2.5)
        rest = list(itertools.islice(chunks, 40))
    jumps = [other.start - one.end for one, other in itertools.pairwise([first, *rest])]
    assert jumps[0] >= s_to_samples(1.2)
    assert set(jumps[1:]) == {0}
    assert source.lost_samples == jumps[0]


@needs_pulseaudio
def test_an_overflow_of_the_sound_card_makes_the_stream_jump(plugged_in: VirtualMicrophone, monkeypatch: pytest.MonkeyPatch) -> None:
    pyaudio = pytest.importorskip("pyaudio")
    really_open = pyaudio.PyAudio.open

    def overflowing(self: Any, *arguments: Any, stream_callback: Callable[..., Any], **options: Any) -> Any:
        flags = itertools.chain([0, 0, pyaudio.paInputOverflow], itertools.repeat(0))
        callback = lambda sound, frames, at, _: stream_callback(sound, frames, at, next(flags))  # noqa: E731
        return really_open(self, *arguments, stream_callback=callback, **options)

    monkeypatch.setattr(pyaudio.PyAudio, "open", overflowing)
    with MicrophoneSource() as source:
        chunks = list(itertools.islice(source, 5))
    assert [chunk.start for chunk in chunks] == [0, 960, 3 * 960, 4 * 960, 5 * 960]
    assert source.lost_samples == 960


def by_thread(close: Callable[[], None]) -> None:
    threading.Timer(0.3, close).start()


def by_signal(close: Callable[[], None]) -> None:
    signal.signal(signal.SIGALRM, lambda *_: close())
    signal.setitimer(signal.ITIMER_REAL, 0.3)


@needs_pulseaudio
@pytest.mark.parametrize("end", [by_thread, by_signal])
def test_close_ends_the_iteration_with_what_was_heard_until_then(
    plugged_in: VirtualMicrophone, end: Callable[[Callable[[], None]], None]
) -> None:
    started_at = time.monotonic()
    with MicrophoneSource() as source:
        end(source.close)
        sound = joined(list(source))
        source.close()
    assert 0.3 <= time.monotonic() - started_at < 3
    assert s_to_samples(0.1) < len(sound) < s_to_samples(1)


def choose_another(microphone: VirtualMicrophone) -> None:
    microphone.plug_in("headset")
    microphone.make_default("headset")


# How a microphone goes away, what it is said to be, and how it comes back.
FAULTS: list[tuple[Callable[[VirtualMicrophone], None], DeviceFault, str, Callable[[VirtualMicrophone], None]]] = [
    (lambda there: there.suspend(True), DeviceFault.STALLED, r"stopped delivering sound \d", lambda there: there.suspend(False)),
    (VirtualMicrophone.freeze, DeviceFault.STALLED, r"stopped delivering sound \d", VirtualMicrophone.thaw),
    (VirtualMicrophone.kill_server, DeviceFault.LOST, "went away; check", VirtualMicrophone.start_server),
    (VirtualMicrophone.unplug, DeviceFault.LOST, "went away", VirtualMicrophone.plug_in),
    (VirtualMicrophone.unplug_only_microphone, DeviceFault.LOST, "went away: .* records what", VirtualMicrophone.plug_in),
    (choose_another, DeviceFault.DEFAULT_CHANGED, "is 'headset' now, no longer 'mic'", lambda there: None),
]


@needs_pulseaudio
@pytest.mark.parametrize(("break_it", "fault", "reason", "mend"), FAULTS)
def test_every_fault_is_seen_soon_and_named_and_the_microphone_can_be_opened_again(
    own_microphone: VirtualMicrophone,
    break_it: Callable[[VirtualMicrophone], None],
    fault: DeviceFault,
    reason: str,
    mend: Callable[[VirtualMicrophone], None],
) -> None:
    delivered: list[AudioChunk] = []
    with MicrophoneSource() as source:
        chunks = iter(source)
        delivered.append(next(chunks))
        time.sleep(0.5)
        broken_at = time.monotonic()
        break_it(own_microphone)
        with pytest.raises(DeviceError, match=reason) as caught:
            delivered.extend(chunks)
        assert time.monotonic() - broken_at < 10
        assert caught.value.fault is fault
    assert time.monotonic() - broken_at < 20
    assert len(joined(delivered)) > s_to_samples(0.4)
    mend(own_microphone)
    with MicrophoneSource() as source:
        assert len(next(iter(source)).pcm) == 960


@needs_pulseaudio
@pytest.mark.parametrize(
    ("unplug", "reason"), [(VirtualMicrophone.unplug, "cannot be used"), (VirtualMicrophone.unplug_only_microphone, "is no microphone")]
)
def test_nothing_is_opened_in_the_place_of_a_microphone_that_is_away(
    own_microphone: VirtualMicrophone, unplug: Callable[[VirtualMicrophone], None], reason: str
) -> None:
    unplug(own_microphone)
    with pytest.raises(DeviceError, match=reason) as caught, MicrophoneSource():
        pass
    assert caught.value.fault is DeviceFault.UNAVAILABLE


@needs_pulseaudio
@pytest.mark.parametrize("awake_s", [0.0, 3.5])
def test_a_machine_that_slept_is_not_taken_for_a_stall_and_does_not_go_on_as_if_nothing_had_been(
    plugged_in: VirtualMicrophone, awake_s: float
) -> None:
    """However long the sound system takes to wake up."""
    slept_s = late_s = 0.0

    def clocks() -> ClockReading:
        return ClockReading(real_s=0.0, boot_s=time.monotonic() + slept_s + late_s, mono_s=time.monotonic() + late_s)

    with MicrophoneSource(clocks=clocks) as source:
        chunks = iter(source)
        next(chunks)
        slept_s, late_s = 3_600.0, awake_s
        with pytest.raises(DeviceError, match=r"the machine slept for 3600\.. s") as caught:
            list(chunks)
    assert caught.value.fault is DeviceFault.SLEPT


@needs_pulseaudio
def test_a_muted_microphone_delivers_zeros_which_count_as_muted_from_the_first(humming: VirtualMicrophone) -> None:
    watch, time_ranges, muted_for = MuteDetector(), list[SampleRange](), 3.0
    steps = iter([(0.5, True), (0.5 + muted_for, False)])
    at_s, muted = next(steps)
    with MicrophoneSource() as source:
        for chunk in source:
            time_ranges += watch.push(chunk)
            if samples_to_s(chunk.end) >= at_s:
                humming.mute(muted)
                at_s, muted = next(steps, (math.inf, muted))
            if chunk.end > s_to_samples(5):
                break
    time_ranges += watch.flush()
    assert [time_range.muted for time_range in time_ranges] == [False, True, False]
    assert [time_range.start for time_range in time_ranges] == [0, time_ranges[0].end, time_ranges[1].end]
    assert samples_to_s(time_ranges[1].start) == pytest.approx(0.5, abs=0.4)
    assert samples_to_s(time_ranges[1].end - time_ranges[1].start) == pytest.approx(muted_for, abs=0.4)


@needs_pulseaudio
def test_the_source_tells_up_to_where_and_when_the_device_delivered(plugged_in: VirtualMicrophone) -> None:
    with MicrophoneSource() as source:
        chunks = iter(source)
        next(chunks)
        time.sleep(1)
        first = source.delivered
        time.sleep(1)
        second = source.delivered
    assert first is not None
    assert second is not None
    passed_s = second[1].real_s - first[1].real_s
    assert samples_to_s(second[0] - first[0]) == pytest.approx(passed_s, abs=0.5)
    assert first[0] > s_to_samples(0.5), "what nobody took counts as well"


@needs_pulseaudio
def test_devices_are_listed_and_a_wrong_name_lists_them(plugged_in: VirtualMicrophone) -> None:
    listed = list_devices()
    assert {device.name for device in listed} >= {"default", "pulse"}
    assert [device.name for device in listed if device.is_default] == ["default"]
    assert all(device.channels > 0 and device.rate_hz > 0 and device.host_api == "ALSA" for device in listed)
    with pytest.raises(DeviceError, match="'webcam' is not there") as caught, MicrophoneSource("webcam"):
        pass
    assert all(str(device) in str(caught.value) for device in listed)


@needs_pulseaudio
def test_without_a_sound_server_there_is_no_microphone(
    plugged_in: VirtualMicrophone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PULSE_SERVER", f"unix:{tmp_path}/nobody")
    assert list_devices() == []
    with pytest.raises(DeviceError, match="no microphone was found"), MicrophoneSource():
        pass


@needs_pulseaudio
def test_the_sound_systems_chatter_does_not_reach_the_terminal(plugged_in: VirtualMicrophone) -> None:
    code = """
import os
from monitor.audio.microphone import MicrophoneSource, list_devices
list_devices()
with MicrophoneSource() as source:
    next(iter(source))
os.write(2, b"and afterwards it is ours again")
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert run.stderr == "and afterwards it is ours again"
