"""The microphone's state for every page, and server-sent events when it changes or something was stored.

An event says that there is something new, not what: pages fetch themselves again, so there is one way to draw them.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from model.errors import EmosllmError, NotRunning
from monitor.control import send_command

_OPEN = "The microphone is open."
_CLOSED = "The microphone is closed."
_WORDS = {
    "listening": ("Listening", _OPEN),
    "muted": ("Muted", "The microphone is open but muted."),
    "paused": ("Paused", _CLOSED),
    "no microphone": ("No microphone", "No microphone is available; the monitor keeps trying."),
    "starting": ("Starting", "The microphone is not open yet."),
    "ending": ("Ending", f"{_CLOSED} Recorded speech is still being analysed."),
}

_UNREADY = {"loading": "is still loading", "restarting": "is restarting", "failed": "has failed"}


@dataclass(frozen=True, slots=True)
class MicrophoneState:
    """state: as `DaemonStatus.state`, or "not running" or "no answer". problems: what a person could see to, in the monitor's words."""

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


def microphone_state(database: Path, zone: ZoneInfo) -> MicrophoneState:
    """Ask the monitor that writes `database`; takes a moment, at most 5 s."""
    try:
        answer = send_command(database, "status")
    except NotRunning:
        return MicrophoneState("not running", "Not running", "The monitor is not running. Start it in a terminal: emosllm-monitor start")
    except EmosllmError as error:
        return MicrophoneState("no answer", "No answer", "The monitor is running but does not respond.", (str(error),))
    return _describe(answer, zone)


def _describe(answer: dict[str, Any], zone: ZoneInfo) -> MicrophoneState:
    title, detail = _WORDS.get(answer["state"], (str(answer["state"]).capitalize(), ""))
    if answer["paused_until"]:
        title += f" until {datetime.fromisoformat(answer['paused_until']).astimezone(zone):%A %H:%M}"
    if answer["engine"] in _UNREADY:
        detail += f" Speech is waiting for analysis: the model {_UNREADY[answer['engine']]}."
    return MicrophoneState(str(answer["state"]), title, detail, tuple(answer["problems"]))


_POLL_S = 1.0
_STORED_EVERY_S = 3.0
_BEAT_S = 15.0

FileStamp = tuple[tuple[int, int], ...]


class LiveUpdates:
    """What all open pages listen to. `end` lets go of them."""

    def __init__(self, database: Path, zone: ZoneInfo) -> None:
        self._database = database
        self._zone = zone
        self._ended = False

    def end(self) -> None:
        """Nothing more will be told."""
        self._ended = True

    async def events(self, lasts: Callable[[], bool]) -> AsyncIterator[str]:
        """The stream of one page, until `lasts` says no; that too is told, so that the page goes away."""
        microphone, stamp = await self._look()
        sent_at = stored_at = time.monotonic()
        yield ": there\n\n"
        while not self._ended:
            if not lasts():
                yield _event("over", "")
                return
            await asyncio.sleep(_POLL_S)
            now = time.monotonic()
            microphone_now, stamp_now = await self._look()
            if microphone_now != microphone:
                microphone, sent_at = microphone_now, now
                yield _event("microphone", f"{microphone.title}. {microphone.detail}")
            if stamp_now != stamp and now - stored_at >= _STORED_EVERY_S:
                stamp, stored_at, sent_at = stamp_now, now, now
                yield _event("stored", "")
            if now - sent_at >= _BEAT_S:
                sent_at = now
                yield ": still there\n\n"

    async def _look(self) -> tuple[MicrophoneState, FileStamp]:
        # In a thread: a monitor that does not answer takes seconds not to.
        return await asyncio.to_thread(lambda: (microphone_state(self._database, self._zone), _stamp(self._database)))


def _stamp(database: Path) -> FileStamp:
    """Something that differs after every write, whichever program wrote."""
    return tuple(_state_of(path) for path in (database, database.with_name(database.name + "-wal")))


def _state_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _event(name: str, say: str) -> str:
    return f"event: {name}\ndata: {json.dumps(say)}\n\n"
