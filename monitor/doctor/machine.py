"""What the machine does for the monitor: a clock that can be believed, and a service that starts it."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta

from monitor.config import Config
from monitor.doctor.findings import Finding, Verdict
from monitor.service import program, state
from monitor.store.reader import TimelineReader
from monitor.unit import starts

# When this was written. A clock that shows less was reset, as happens where a battery is empty.
_NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
_FAR = datetime(9000, 1, 1, tzinfo=UTC)
# A moment is stored by the sound card's clock, which may be a little ahead.
_AHEAD = timedelta(minutes=1)
_TIMEOUT_S = 10


def clock(config: Config) -> Finding:
    """Every row carries a moment: one that is wrong stays wrong. Raises TimelineError."""
    now = datetime.now(UTC)
    shown = f"{now.astimezone(config.timeline.zone_info()):%Y-%m-%d %H:%M:%S %Z}"
    if now < _NOT_BEFORE:
        return Finding(Verdict.FAIL, "clock", f"it shows {shown}, which is past; set it")
    with TimelineReader.open(config.timeline.database_path(), config.timeline.keys()) as reader:
        ahead = reader.overlapping(now + _AHEAD, _FAR)
    if ahead:
        last = f"{ahead[1].astimezone(config.timeline.zone_info()):%Y-%m-%d %H:%M:%S}"
        return Finding(Verdict.FAIL, "clock", f"it shows {shown}, but the timeline goes on until {last}; set it, or it was wrong then")
    match _synchronised():
        case "yes":
            return Finding(Verdict.OK, "clock", f"{shown}, synchronised")
        case "no":
            return Finding(Verdict.WARN, "clock", f"{shown}, not synchronised with a time server; `timedatectl set-ntp true` does it")
        case _:
            return Finding(Verdict.WARN, "clock", f"{shown}; whether it is synchronised cannot be found out: timedatectl does not answer")


def service(_config: Config) -> Finding:
    """It need not be installed; when it is, it should run, and run this installation. Raises ServiceError."""
    found = state()
    if not found.installed:
        return Finding(Verdict.OK, "service", "not installed: the monitor runs only when you start it")
    if not starts(found.path, program()):
        return Finding(
            Verdict.WARN, "service", f"{found.path} starts another program than this; `emosllm-monitor service install` renews it"
        )
    if not found.active:
        return Finding(Verdict.WARN, "service", f"installed, but not active\n{found.lines()[-1]}")
    return Finding(Verdict.OK, "service", f"installed and active{'' if found.enabled else ', but it does not start by itself'}")


def _synchronised() -> str:
    """yes, no, or nothing where nobody knows."""
    if shutil.which("timedatectl") is None:
        return ""
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False).stdout.strip()
    except subprocess.TimeoutExpired:
        return ""
