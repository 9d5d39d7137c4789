"""How times, shares and missing time are said to a person, wherever they are shown. Plain words; knows no layout."""

from datetime import date

from monitor.store.records import Coverage

NOTICE = (
    "A computer estimated this from the sound of a voice. It is often wrong, and it is not a diagnosis. "
    "Nobody is watching: nobody sees this page unless you show it to them. "
    "If you or someone near you is in danger, call your local emergency number."
)

COVERAGE_WORDS = {
    Coverage.HEARD: ("Heard", "the microphone was open and working"),
    Coverage.ENGINE_DOWN: ("Not judged", "heard, but the model did not run for too long"),
    Coverage.PAUSED: ("Paused", "you had closed the microphone"),
    Coverage.MUTED: ("Muted", "the microphone was open but switched to silence"),
    Coverage.DEVICE_LOST: ("Lost", "the microphone was away"),
    Coverage.OVERFLOW: ("Lost", "sound came faster than it could be taken"),
    Coverage.NOT_RUNNING: ("Off", "nothing ran, the machine slept, or it was erased"),
}
"""Of each kind of coverage a name and what it means."""


def span(seconds: float) -> str:
    """Seconds in the words of a clock: "34 s", "18 min", "9 h 05 min", "24 h"; less than a second still shows."""
    if 0 < seconds < 1:
        return "under 1 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes % 60 else f"{minutes // 60} h"


def percent(share: float) -> str:
    """A share of 0 to 1 in per cent; one too small to round still shows."""
    return "under 1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"


def pieces(segments: int) -> str:
    """How many segments."""
    return "1 piece" if segments == 1 else f"{segments} pieces"


def long_date(on: date) -> str:
    """Such as "Tuesday 14 July 2026"."""
    return f"{on:%A} {on.day} {on:%B %Y}"


def short_date(on: date) -> str:
    """Such as "Tue 14 Jul"."""
    return f"{on:%a} {on.day} {on:%b}"
