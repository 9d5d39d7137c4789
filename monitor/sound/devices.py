"""A microphone as it is listed, and which one a person means. Lists none itself: that is `monitor.sound.capture`'s, which has PyAudio."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import DeviceError


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
