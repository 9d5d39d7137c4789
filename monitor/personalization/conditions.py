"""When a training may run: on mains power, while the machine has nothing else to do and nobody speaks, and with room on the disk.

Each answer is a sentence, empty where nothing is in the way. What is not the machine's to tell (there is no battery, no monitor runs) is
not in the way.
"""

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from model.errors import EmosllmError
from monitor.config import Config
from monitor.control import send_command
from monitor.storage.reader import TimelineReader

MIN_SILENCE = timedelta(minutes=5)
"""So long nobody must have spoken."""

MAX_BUSY_SHARE = 0.4
"""Of all processors' time, at ordinary rank: one of two at full work is busy, one of four is not."""

_LOAD_SAMPLE_S = 3.0
_MIN_FREE_BYTES = 100 * 2**20
_MIB = 2**20


class CpuLoad:
    """The share of all processors' time that others than a training used, 0 to 1: those of low rank, as it is, do not count."""

    def __init__(self, times: Callable[[], Any] = psutil.cpu_times) -> None:
        self._times = times
        self._before = times()

    def share(self) -> float:
        """Since the last call, or since it was made."""
        before, self._before = self._before, self._times()
        spent = {name: getattr(self._before, name) - getattr(before, name) for name in self._before._fields}
        # Guests are counted among users too.
        whole = sum(seconds for name, seconds in spent.items() if not name.startswith("guest"))
        return float(spent["user"] + spent["system"]) / whole if whole > 0 else 0.0


@dataclass(slots=True)
class TrainingConditions:
    """battery, load: how the machine is asked. folder: where the disk must have room. rest: lets some seconds pass."""

    config: Config
    folder: Path
    battery: Callable[[], Any] = psutil.sensors_battery
    load: CpuLoad = field(default_factory=CpuLoad)
    rest: Callable[[float], object] = time.sleep

    def unmet(self, now: datetime, needed_bytes: int, regardless: bool) -> str:
        """Why a training cannot begin at `now` (aware UTC); empty where it can. needed_bytes: what it writes.

        regardless: somebody asks for it at this moment, so only the disk counts.
        """
        if reason := self.no_room(needed_bytes):
            return reason
        if regardless:
            return ""
        if self.config.retrain.when_idle:
            self.load.share()
            self.rest(_LOAD_SAMPLE_S)
        return self.no_longer(now)

    def no_longer(self, now: datetime) -> str:
        """Why a training that runs should rest; to be asked about twice a minute."""
        limits = self.config.retrain
        reason = self.no_mains() if limits.on_mains_only else ""
        if not reason and limits.when_idle:
            reason = self.busy() or self.spoken(now)
        return reason

    def no_mains(self) -> str:
        """A battery that is not being charged."""
        battery = self.battery()
        # None: nobody knows whether it is.
        return "the machine runs on its battery ([retrain] on_mains_only)" if battery and battery.power_plugged is False else ""

    def busy(self) -> str:
        """Others need the processors."""
        share = self.load.share()
        return f"the machine is busy: {share:.0%} of its processors' time is used ([retrain] when_idle)" if share > MAX_BUSY_SHARE else ""

    def spoken(self, now: datetime) -> str:
        """Somebody speaks, or did just now, as far as a monitor hears it."""
        settings = self.config.timeline
        with contextlib.suppress(EmosllmError):
            if send_command(settings.database_path(), "status")["speaking"]:
                return "somebody is speaking ([retrain] when_idle)"
        with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
            heard = reader.segments_between(now - MIN_SILENCE, now)
        minutes = MIN_SILENCE.seconds // 60
        return f"somebody spoke less than {minutes} minutes ago ([retrain] when_idle)" if heard else ""

    def no_room(self, needed_bytes: int) -> str:
        """Less free disk than it writes, and some to spare."""
        free, needed = shutil.disk_usage(self.folder).free, needed_bytes + _MIN_FREE_BYTES
        if free >= needed:
            return ""
        return f"only {free // _MIB} MiB are free in {self.folder}, and {needed // _MIB} are needed; free some space"
