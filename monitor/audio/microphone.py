"""The microphone: the input devices there are, and the sound of one of them as an audio source.

The only file that imports PyAudio, and only once a microphone is used. It turns whatever rate and channel count a device insists on into
mono int16 at SAMPLE_RATE, notices within 5 s when the device delivers nothing any more and says why, and never blocks for long on a
sound system that hangs. It knows nothing of speech, nor of days.
"""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, Self

from model.audio import SAMPLE_RATE, ms_to_samples, s_to_samples
from model.errors import DeviceError, DeviceFault
from monitor.audio.clock import STALL_S, ClockReading, StreamWatchdog, read_clocks
from monitor.audio.sound_server import (
    DefaultSourceWatcher,
    call_portaudio,
    disable_pulse_shared_memory,
    portaudio_lock,
    silence_stderr,
    to_device_error,
)
from monitor.audio.stream import AudioChunk, Resampler


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A microphone as PortAudio lists it; rate_hz and channels are what it offers, not what will be asked of it."""

    index: int
    name: str
    host_api: str
    channels: int
    rate_hz: int
    is_default: bool

    def __str__(self) -> str:
        return f"{self.index}: {self.name} ({self.host_api}){', the default' if self.is_default else ''}"


def choose_device(wanted: str, devices: Sequence[InputDevice]) -> InputDevice:
    """The device meant by its number, its name or a part of that in any case; the empty string means the default.

    Raises DeviceError, listing what there is, when none fits or more than one.
    """
    if not devices:
        raise DeviceError(
            "no microphone was found; plug one in, and check that the sound server (PipeWire or PulseAudio) runs for "
            "this user. Recordings can be heard without one: --source FILE"
        )
    name = wanted.strip().casefold()
    if name.isdecimal():
        fitting = [device for device in devices if device.index == int(name)]
    elif name:
        fitting = [device for device in devices if name == device.name.casefold()]
        fitting = fitting or [device for device in devices if name in device.name.casefold()]
    else:
        fitting = [device for device in devices if device.is_default]
    if len(fitting) == 1:
        return fitting[0]
    asked = f"microphone {wanted!r}" if name else "default microphone"
    fits = f"fits {len(fitting)} devices" if fitting else "is not there"
    raise DeviceError(f"{asked} {fits}; choose one of these:\n" + "\n".join(f"  {device}" for device in devices))


_logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S: Final = 2.0
_POLL_S: Final = 0.1

# PortAudio's errors for a channel count, a rate or a sample format that a device does not have.
_FORMAT_REFUSED: Final = (-9998, -9997, -9994)
# The place of a sound card among others, which changes when it is plugged in again.
_CARD_NUMBER: Final = re.compile(r"\s*\(hw:\d+,\d+\)")
# ALSA's names for whatever the sound server has for its default source.
_SERVER_DEFAULT: Final = ("default", "pulse", "pipewire")
_DEFAULT_IS_MONITOR: Final = "the system's default source is no microphone, it records what this machine plays"


def list_devices() -> list[InputDevice]:
    """Every device that can record, in PortAudio's order; none is no error.

    Raises DeviceError when the sound system does not answer within 10 s.
    """
    answer: SimpleQueue[list[InputDevice] | Exception] = SimpleQueue()

    def work() -> None:
        try:
            answer.put(_enumerate_devices())
        except OSError as error:
            answer.put(to_device_error("the sound system", error))
        except Exception as error:
            answer.put(error)

    return call_portaudio(threading.Thread(target=work, name="devices", daemon=True), answer)


class MicrophoneSource:
    """What a microphone hears, from the moment of entering.

    device: as in `choose_device`. buffer_ms: sound delivered at a time. queue_s: sound that may wait to be taken; beyond
    it the oldest is dropped and the next chunk starts later by what is missing. When the sound card reports an overflow
    of its own, nobody knows how much it lost: the stream then jumps by one buffer, the least it can have been.
    A device that cannot deliver mono at SAMPLE_RATE is opened as it can, averaged over its channels and resampled.

    It ends with a DeviceError, whose `fault` says why, at once when the device ends, within 0.2 s after the machine slept, and
    within 5 s when nothing is delivered or another source became the default that it follows.

    Every call of PortAudio is made in a thread of its own, because all of them may hang when a sound server does. The
    callback only puts bytes into the queue. A SimpleQueue, because a signal handler may put into it at any moment.
    """

    live = True

    def __init__(
        self,
        device: str = "",
        buffer_ms: int = 60,
        queue_s: int = 30,
        clocks: Callable[[], ClockReading] = read_clocks,
    ) -> None:
        self.description = f"microphone {device!r}" if device else "the default microphone"
        self._device = device
        self._name = device
        self._buffer_ms = buffer_ms
        self._capacity = max(2, s_to_samples(queue_s) // ms_to_samples(buffer_ms))
        self._watchdog = StreamWatchdog(clocks)
        self._default = DefaultSourceWatcher()
        self._closed = False
        self._position = 0
        self._delivered: tuple[int, ClockReading] | None = None
        self._resampler = Resampler(SAMPLE_RATE, channels=1)
        self._opened: SimpleQueue[Resampler | Exception] = SimpleQueue()
        self._heard: SimpleQueue[tuple[int, bytes] | Exception | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="microphone", daemon=True)

    def __enter__(self) -> Self:
        """Open the device and begin to record: sample 0 is heard now. Raises DeviceError."""
        try:
            self._resampler = call_portaudio(self._thread, self._opened)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        with silence_stderr():
            self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _logger.warning("%s did not close within %.0f s and was left as it is", self.description, _CLOSE_TIMEOUT_S)

    def close(self) -> None:
        """Stop recording; the iteration ends when what was recorded until now is taken."""
        self._closed = True
        self._heard.put(None)

    @property
    def microphone(self) -> str:
        """Its name without its place among the sound cards; of the system's default, the name of the source that is heard by it."""
        return self._default.name or _CARD_NUMBER.sub("", self._name)

    @property
    def lost_samples(self) -> int:
        """Samples left out of the stream so far, as its jumps show them."""
        return self._resampler.lost_samples

    @property
    def delivered(self) -> tuple[int, ClockReading] | None:
        """The stream position up to which the device has delivered, taken or not, and when it did: for a DriftTracker."""
        if self._delivered is None:
            return None
        frames, at = self._delivered
        return frames * SAMPLE_RATE // self._resampler.rate_hz, at

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield what is heard. Raises DeviceError once the device has gone and all it had delivered is taken."""
        while isinstance(item := self._heard.get(), tuple):
            yield from self._resampler.convert(*item)
        yield from self._resampler.finish()
        if item is not None:
            raise item

    def _work(self) -> None:
        """Open, watch and close the device; what goes wrong is handed to whoever waits for it or for sound."""
        report: Callable[[Exception], None] = self._opened.put
        try:
            with self._recording() as (stream, resampler):
                self._opened.put(resampler)
                report = self._heard.put
                self._watch(stream)
        except OSError as error:
            report(to_device_error(self.description, error))
        except Exception as error:
            report(error)

    @contextlib.contextmanager
    def _recording(self) -> "Iterator[tuple[Any, Resampler]]":
        with portaudio_lock():
            if self._closed:
                raise DeviceError(f"{self.description} was closed before it could be opened")
            portaudio = _pyaudio().PyAudio()
            try:
                device = choose_device(self._device, _input_devices(portaudio))
                self.description, self._name = f"microphone {device.name!r}", device.name
                if device.name in _SERVER_DEFAULT:
                    self._follow_default()
                stream, resampler = self._open(portaudio, device)
                self._watchdog.start()
                stream.start_stream()
            except BaseException:
                self._default.close()
                portaudio.terminate()
                raise
        try:
            yield stream, resampler
        finally:
            self._default.close()
            with portaudio_lock(timeout_s=-1):
                stream.close()
                portaudio.terminate()

    def _follow_default(self) -> None:
        self._default.start()
        if self._default.is_monitor:
            raise DeviceError(f"{_DEFAULT_IS_MONITOR}; plug a microphone in, or choose one with `pactl set-default-source`")

    def _open(self, portaudio: Any, device: InputDevice) -> "tuple[Any, Resampler]":
        """The stream, not running yet, in the first format that the device accepts."""
        pyaudio = _pyaudio()
        on, off = (None, pyaudio.paContinue), (None, pyaudio.paAbort)

        def callback(sound: bytes, frames: int, _time: object, flags: int) -> tuple[None, int]:
            return on if self._hear(sound, frames, bool(flags & pyaudio.paInputOverflow)) else off

        options = {"format": pyaudio.paInt16, "input": True, "start": False, "stream_callback": callback}
        for rate, channels in _formats_to_try(device):
            buffer = rate * self._buffer_ms // 1000
            try:
                stream = portaudio.open(rate, channels, input_device_index=device.index, frames_per_buffer=buffer, **options)
            except OSError as error:
                if error.errno not in _FORMAT_REFUSED:
                    raise
            else:
                return stream, Resampler(rate, channels)
        tried = ", ".join(f"{rate} Hz with {channels}" for rate, channels in _formats_to_try(device))
        raise DeviceError(f"{self.description} cannot be used: it accepts none of these rates and channel counts: {tried}")

    def _hear(self, sound: bytes, frames: int, overflow: bool) -> bool:
        """Queue one buffer, in PortAudio's thread; False stops the stream."""
        if self._closed or (at := self._watchdog.delivered()) is None:
            return False
        if overflow:
            self._position += frames
        if self._heard.qsize() >= self._capacity:
            with contextlib.suppress(Empty):
                self._heard.get_nowait()
        self._heard.put((self._position, sound))
        self._position += frames
        self._delivered = self._position, at
        return True

    def _watch(self, stream: Any) -> None:
        """Return when it is closed or something is wrong, which is reported here: closing the stream may hang."""
        while not self._closed:
            time.sleep(_POLL_S)
            if (error := self._problem(stream)) is not None:
                self._heard.put(error)
                return

    def _problem(self, stream: Any) -> DeviceError | None:
        """What is wrong now, the surest cause first: after a sleep everything else follows from that."""
        check = "check that it is plugged in and that the sound server runs"
        if slept_s := self._watchdog.slept_s:
            return DeviceError(f"{self.description} ended because the machine slept for {slept_s:.1f} s", DeviceFault.SLEPT)
        if (silent_s := self._watchdog.silent_s) > STALL_S:
            return DeviceError(f"{self.description} stopped delivering sound {silent_s:.1f} s ago; {check}", DeviceFault.STALLED)
        if not (self._closed or stream.is_active()):
            return DeviceError(f"{self.description} went away; {check}", DeviceFault.LOST)
        if self._default.is_monitor:
            return DeviceError(f"{self.description} went away: {_DEFAULT_IS_MONITOR}", DeviceFault.LOST)
        if other := self._default.changed_to:
            return DeviceError(f"the default microphone is {other!r} now, no longer {self._default.name!r}", DeviceFault.DEFAULT_CHANGED)
        return None


def _pyaudio() -> Any:
    disable_pulse_shared_memory()
    try:
        import pyaudio
    except ImportError as error:
        raise DeviceError(f"the microphone needs PyAudio, which cannot be loaded ({error}); run `make setup`") from error
    return pyaudio


def _formats_to_try(device: InputDevice) -> list[tuple[int, int]]:
    """Rates in Hz and channel counts to be tried in order: what is needed, then what the device has of its own."""
    counts = sorted({1, min(2, device.channels), device.channels})
    return [(SAMPLE_RATE, 1), *((device.rate_hz, count) for count in counts)]


def _enumerate_devices() -> list[InputDevice]:
    with portaudio_lock():
        portaudio = _pyaudio().PyAudio()
        try:
            return _input_devices(portaudio)
        finally:
            portaudio.terminate()


def _input_devices(portaudio: Any) -> list[InputDevice]:
    try:
        default = int(portaudio.get_default_input_device_info()["index"])
    except OSError:
        default = -1
    listed = [portaudio.get_device_info_by_index(index) for index in range(portaudio.get_device_count())]
    return [
        InputDevice(
            index=int(info["index"]),
            name=str(info["name"]),
            host_api=str(portaudio.get_host_api_info_by_index(info["hostApi"])["name"]),
            channels=int(info["maxInputChannels"]),
            rate_hz=int(info["defaultSampleRate"]),
            is_default=int(info["index"]) == default,
        )
        for info in listed
        if info["maxInputChannels"] > 0
    ]
