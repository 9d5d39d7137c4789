"""Whether somebody listens just now, in words, as every page says it at its top. Asks the running monitor; knows no HTTP."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from model.errors import EmosllmError, NotRunning
from monitor.control import ask

_OPEN = "The microphone is open."
_CLOSED = "The microphone is closed."
_WORDS = {
    "listening": ("Listening", _OPEN),
    "muted": ("Muted", "The microphone is open, but it is switched to silence."),
    "paused": ("Paused", _CLOSED),
    "no microphone": ("No microphone", "Nothing can be heard; it is tried again and again."),
    "starting": ("Starting", "The microphone is not open yet."),
    "ending": ("Ending", f"{_CLOSED} What was heard is still being judged."),
}

_UNREADY = {"loading": "is still loading", "restarting": "is being started again", "failed": "has failed"}


@dataclass(frozen=True, slots=True)
class Microphone:
    """state: as `Status.state`, or "not running" or "no answer". problems: what a person could see to, in the monitor's words."""

    state: str
    title: str
    detail: str
    problems: tuple[str, ...] = ()

    @property
    def can_pause(self) -> bool:
        """Whether there is something to close."""
        return self.state in ("listening", "muted", "no microphone", "starting")

    @property
    def can_resume(self) -> bool:
        """Whether it is closed because the person said so."""
        return self.state == "paused"


def look(database: Path, zone: ZoneInfo) -> Microphone:
    """Ask the monitor that writes `database`; takes a moment, at most 5 s."""
    try:
        answer = ask(database, "status")
    except NotRunning:
        return Microphone("not running", "Not running", "Nothing is listened to. To begin, type in a terminal: emosllm-monitor start")
    except EmosllmError as error:
        return Microphone("no answer", "No answer", "The monitor runs, but did not say what it is doing.", (str(error),))
    return _told(answer, zone)


def _told(answer: dict[str, Any], zone: ZoneInfo) -> Microphone:
    title, detail = _WORDS.get(answer["state"], (str(answer["state"]).capitalize(), ""))
    if answer["paused_until"]:
        title += f" until {datetime.fromisoformat(answer['paused_until']).astimezone(zone):%A %H:%M}"
    if answer["engine"] in _UNREADY:
        detail += f" What is said waits to be judged: the model {_UNREADY[answer['engine']]}."
    return Microphone(str(answer["state"]), title, detail, tuple(answer["problems"]))
