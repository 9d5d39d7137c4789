"""Every error this software raises on purpose.

EmosllmError
├── ConfigError            a setting is unknown, of the wrong type or out of range
├── MissingExtra           an optional part of the installation is needed and not there
├── AudioError
│   ├── DeviceError        a microphone is missing, busy or went away
│   └── FormatError        a file or stream is not audio that can be read
├── EngineError
│   ├── EngineUnavailable  the engine cannot be reached, did not start or stopped
│   ├── EngineRejected     the engine cannot be used like this; trying again will not help
│   │   ├── AccessRefused  an engine elsewhere does not let us in, or cannot be trusted
│   │   └── TranscriberUnavailable  what transcribes is not installed, not on this machine, or cannot be loaded
│   └── NeedsRestart       the engine must be started anew for what is wanted of it
├── BundleError            a bundle is missing, damaged, foreign or does not fit together
├── TimelineError          the database cannot be used, or holds something that forbids the request
│   ├── StoreKeyError      the key that opens the database is missing, wrong or cannot be had
│   └── TimelineInUse      a running monitor, or another command, holds the database
├── ClinicError            the clinic's database cannot be reached, or does not let this be done
├── WordError              what the person says cannot be stored or taken back as it was said
│   ├── UnknownSegment     it is about a segment that is not there
│   └── EditConflict       it was changed by somebody else in the meantime
├── DayError               a day or a moment was named that is none
├── ExchangeError          an export cannot be written, or what was exported cannot be brought back
├── DesktopError           a notification cannot be shown
├── ReportError            a report cannot be made or written in the way that was asked for
├── NotRunning             a command is for a running monitor, and there is none
├── ServiceError           systemd does not do what was asked of it
├── ServingError           a server cannot be started like this, or its clients cannot be read or changed
└── TrainingError          a recipe, corpus or manifest cannot be trained from

A message says what happened, with which value, and what to do about it. Exceptions of other libraries are turned into these
where the library is used; whatever else escapes is a bug.
"""

from enum import StrEnum


class EmosllmError(Exception):
    """Base of all errors a person can act on; the command line prints its message and exits with status 1."""


class ConfigError(EmosllmError):
    """A setting is unknown, of the wrong type or out of range."""


class MissingExtra(EmosllmError):
    """An optional part of the installation is needed and not there."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f'{module} is not installed; it comes with the extra "{extra}": make setup EXTRAS={extra}')


class AudioError(EmosllmError):
    """Sound cannot be had from where it was expected."""


class DeviceFault(StrEnum):
    """What is wrong with a microphone, as it is stored.

    unavailable: it cannot be opened; lost: it ended; stalled: it is there and delivers nothing; default-changed: another one is
    the system's default now; slept: the machine slept, so it has to be opened again.
    """

    UNAVAILABLE = "unavailable"
    LOST = "lost"
    STALLED = "stalled"
    DEFAULT_CHANGED = "default-changed"
    SLEPT = "slept"


class DeviceError(AudioError):
    """A microphone is missing, busy or went away; `fault` says which for the record."""

    def __init__(self, message: str, fault: DeviceFault = DeviceFault.UNAVAILABLE) -> None:
        super().__init__(message)
        self.fault = fault


class FormatError(AudioError):
    """A file or stream is not audio that can be read."""


class EngineError(EmosllmError):
    """The language model cannot answer."""


class EngineUnavailable(EngineError):
    """The engine cannot be reached, did not start or stopped; the same request may succeed later."""


class EngineRejected(EngineError):
    """The engine cannot be used as it is set up, or refused a request; trying again will not help."""


class AccessRefused(EngineRejected):
    """A server refused the key, or has a certificate that nobody we trust has signed. No request and no bundle is to blame."""


class TranscriberUnavailable(EngineRejected):
    """What should transcribe is not installed, not on this machine, or cannot be loaded. No bundle is to blame."""


class NeedsRestart(EngineError):
    """A running engine cannot take up another bundle; one that is started for it can."""


class BundleError(EmosllmError):
    """A bundle is missing, damaged, foreign or does not fit together."""


class TimelineError(EmosllmError):
    """The timeline database cannot be used, or holds something that forbids the request."""


class StoreKeyError(TimelineError):
    """The key that opens the database is missing, wrong or cannot be had."""


class TimelineInUse(TimelineError):
    """A running monitor, or another command, holds the database."""


class ClinicError(EmosllmError):
    """The clinic's database cannot be reached, is set up otherwise than expected, or does not let this login do what is asked."""


class VoiceError(EmosllmError):
    """What is known of the person's voice cannot be changed as it was asked."""


class WordError(EmosllmError):
    """What the person says, of themselves or of a segment, cannot be stored or taken back as it was said."""


class UnknownSegment(WordError):
    """A segment was named that is not there; `known` holds the lowest and highest number there is, None where there is no speech."""

    def __init__(self, segment_id: int, known: tuple[int, int] | None) -> None:
        there = f"there are segments {known[0]} to {known[1]}" if known else "no speech is stored yet"
        super().__init__(f"there is no segment {segment_id}: {there}; `emosllm-monitor timeline --day DAY` lists those of a day")


class EditConflict(WordError):
    """What the person says of a segment was changed somewhere else since they looked at it; nothing was changed now."""


class DayError(EmosllmError):
    """A day or a moment was named that is none, or is still to come."""


class ExchangeError(EmosllmError):
    """An export cannot be written, or what was exported cannot be brought back."""


class DesktopError(EmosllmError):
    """A notification cannot be shown: there is no desktop, or nothing that reaches it."""


class ReportError(EmosllmError):
    """A report cannot be made or written in the way that was asked for."""


class NotRunning(EmosllmError):
    """A command is for a running monitor, and there is none."""


class ServiceError(EmosllmError):
    """Systemd does not do what was asked of it, or is not there."""


class ServingError(EmosllmError):
    """A server for many monitors cannot be started like this, or its file of clients cannot be read or changed."""


class TrainingError(EmosllmError):
    """A recipe, corpus or manifest cannot be trained from."""
