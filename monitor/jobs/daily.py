"""When a job comes, as APScheduler asks it: every day at a time of day, also where the clock jumps over it or shows it twice."""

from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.triggers.base import BaseTrigger

from monitor.jobs.planning import next_time


class Daily(BaseTrigger):  # type: ignore[misc]
    """at: the time of day. zone: in which. Days are those of `monitor.day.days`, so scheduler and history agree on them."""

    __slots__ = ("at", "zone")

    def __init__(self, at: time, zone: ZoneInfo) -> None:
        self.at, self.zone = at, zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The next such moment; of those that passed while nobody looked, none."""
        return next_time(max(previous_fire_time or now, now), self.at, self.zone)

    def __getstate__(self) -> dict[str, Any]:
        return {"at": f"{self.at:%H:%M}", "zone": str(self.zone)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.at, self.zone = time.fromisoformat(state["at"]), ZoneInfo(state["zone"])

    def __str__(self) -> str:
        return f"daily at {self.at:%H:%M} in {self.zone}"
