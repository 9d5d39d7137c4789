"""The microphone: which there are, and the sound of one of them as a Source.

The only file that imports PyAudio, and only once a microphone is asked for. It turns whatever rate and channel count a
device insists on into mono int16 at SAMPLE_RATE, notices when a device goes silent for good, and never blocks for long
on a sound system that hangs. It knows nothing of speech, nor of wall time.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, Self

from model.audio import SAMPLE_RATE, ms_to_samples, s_to_samples
from model.errors import DeviceError
from monitor.resampler import Resampler
from monitor.sound_system import as_device_error, ask, portaudio_turn, quiet_stderr
from monitor.types import AudioChunk

_logger = logging.getLogger(__name__)

# A microphone that delivers nothing for this long has gone, whatever the sound system says about it.
_STALL_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 2.0
_POLL_S: Final = 0.1

# PortAudio's errors for a channel count, a rate or a sample format that a device does not have.
_FORMAT_REFUSED: Final = (-9998, -9997, -9994)


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


def list_devices() -> list[InputDevice]:
    """Every device that can record, in PortAudio's order; none is no error.

    Raises DeviceError when the sound system does not answer within 10 s.
    """
    answer: SimpleQueue[list[InputDevice] | Exception] = SimpleQueue()

    def work() -> None:
        try:
            answer.put(_enumerate())
        except OSError as error:
            answer.put(as_device_error("the sound system", error))
        except Exception as error:
            answer.put(error)

    return ask(threading.Thread(target=work, name="devices", daemon=True), answer)


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


def _clock_through_sleep() -> float:
    """Seconds that never go back and go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class MicrophoneSource:
    """What a microphone hears, from the moment of entering.

    device: as in `choose_device`. buffer_ms: sound delivered at a time. queue_s: sound that may wait to be taken; beyond
    it the oldest is dropped and the next chunk starts later by what is missing. When the sound card reports an overflow
    of its own, nobody knows how much it lost: the stream then jumps by one buffer, the least it can have been.
    A device that cannot deliver mono at SAMPLE_RATE is opened as it can, averaged over its channels and resampled.

    Every call of PortAudio is made in a thread of its own, because all of them may hang when a sound server does. The
    callback only puts bytes into the queue. A SimpleQueue, because a signal handler may put into it at any moment.
    """

    live = True

    def __init__(
        self,
        device: str = "",
        buffer_ms: int = 30,
        queue_s: int = 30,
        clock: Callable[[], float] = _clock_through_sleep,
    ) -> None:
        self.description = f"microphone {device!r}" if device else "the default microphone"
        self._device = device
        self._buffer_ms = buffer_ms
        self._capacity = max(2, s_to_samples(queue_s) // ms_to_samples(buffer_ms))
        self._clock = clock
        self._closed = False
        self._heard_at = 0.0
        self._position = 0
        self._resampler = Resampler(SAMPLE_RATE, channels=1)
        self._opened: SimpleQueue[Resampler | Exception] = SimpleQueue()
        self._heard: SimpleQueue[tuple[int, bytes] | Exception | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="microphone", daemon=True)

    def __enter__(self) -> Self:
        """Open the device and begin to record: sample 0 is heard now. Raises DeviceError."""
        try:
            self._resampler = ask(self._thread, self._opened)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        with quiet_stderr():
            self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _logger.warning("%s did not close within %.0f s and was left as it is", self.description, _CLOSE_TIMEOUT_S)

    def close(self) -> None:
        """Stop recording; the iteration ends when what was recorded until now is taken."""
        self._closed = True
        self._heard.put(None)

    @property
    def lost_samples(self) -> int:
        """Samples left out of the stream so far, as its jumps show them."""
        return self._resampler.lost_samples

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
            report(as_device_error(self.description, error))
        except Exception as error:
            report(error)

    @contextlib.contextmanager
    def _recording(self) -> "Iterator[tuple[Any, Resampler]]":
        with portaudio_turn():
            if self._closed:
                raise DeviceError(f"{self.description} was closed before it could be opened")
            portaudio = _pyaudio().PyAudio()
            try:
                device = choose_device(self._device, _input_devices(portaudio))
                self.description = f"microphone {device.name!r}"
                stream, resampler = self._open(portaudio, device)
                self._heard_at = self._clock()
                stream.start_stream()
            except BaseException:
                portaudio.terminate()
                raise
        try:
            yield stream, resampler
        finally:
            with portaudio_turn(timeout_s=-1):
                stream.close()
                portaudio.terminate()

    def _open(self, portaudio: Any, device: InputDevice) -> "tuple[Any, Resampler]":
        """The stream, not running yet, in the first format that the device accepts."""
        pyaudio = _pyaudio()
        on, off = (None, pyaudio.paContinue), (None, pyaudio.paAbort)

        def callback(sound: bytes, frames: int, _time: object, flags: int) -> tuple[None, int]:
            return on if self._hear(sound, frames, bool(flags & pyaudio.paInputOverflow)) else off

        options = {"format": pyaudio.paInt16, "input": True, "start": False, "stream_callback": callback}
        for rate, channels in _formats(device):
            buffer = rate * self._buffer_ms // 1000
            try:
                stream = portaudio.open(rate, channels, input_device_index=device.index, frames_per_buffer=buffer, **options)
            except OSError as error:
                if error.errno not in _FORMAT_REFUSED:
                    raise
            else:
                return stream, Resampler(rate, channels)
        tried = ", ".join(f"{rate} Hz with {channels}" for rate, channels in _formats(device))
        raise DeviceError(f"{self.description} cannot be used: it accepts none of these rates and channel counts: {tried}")

    def _hear(self, sound: bytes, frames: int, overflow: bool) -> bool:
        """Queue one buffer, in PortAudio's thread; False stops the stream."""
        now = self._clock()
        if self._closed or now - self._heard_at > _STALL_S:
            # After such a hole, as left by a machine's sleep, sample positions tell nothing about time any more.
            return False
        self._heard_at = now
        if overflow:
            self._position += frames
        if self._heard.qsize() >= self._capacity:
            with contextlib.suppress(Empty):
                self._heard.get_nowait()
        self._heard.put((self._position, sound))
        self._position += frames
        return True

    def _watch(self, stream: Any) -> None:
        """Return when it is closed or the device has gone, which is reported here: closing the stream may hang."""
        while not self._closed:
            time.sleep(_POLL_S)
            silent_s = self._clock() - self._heard_at
            if silent_s > _STALL_S or not (self._closed or stream.is_active()):
                problem = (
                    f"{self.description} stopped delivering sound {silent_s:.1f} s ago; check that it is plugged in and "
                    "that the sound server runs"
                )
                self._heard.put(DeviceError(problem))
                return


def _pyaudio() -> Any:
    try:
        import pyaudio
    except ImportError as error:
        raise DeviceError(f"the microphone needs PyAudio, which cannot be loaded ({error}); run `make setup`") from error
    return pyaudio


def _formats(device: InputDevice) -> list[tuple[int, int]]:
    """Rates in Hz and channel counts to be tried in order: what is needed, then what the device has of its own."""
    counts = sorted({1, min(2, device.channels), device.channels})
    return [(SAMPLE_RATE, 1), *((device.rate_hz, count) for count in counts)]


def _enumerate() -> list[InputDevice]:
    with portaudio_turn():
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
