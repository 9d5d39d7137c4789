"""The days and check-ins of a stretch as the FHIR bundle that reports make, too: what a record at a clinic takes.

It holds days, not segments, so it needs memory for days only; and it cannot be brought back, as it holds no probabilities.
"""

from datetime import UTC, datetime, timedelta
from typing import IO

from monitor.config import Config
from monitor.day.stretches import Stretch
from monitor.look import Look, in_use_of
from monitor.report.fhir import to_fhir
from monitor.report.material import gather
from monitor.report.period import Period
from monitor.store.reader import TimelineReader


def write(target: IO[str], config: Config, stretch: Stretch, now: datetime) -> dict[str, int]:
    """Write the days that the stretch is a part of, as far as anything is known of them; returns how many days and check-ins."""
    first, last = _known(config, stretch, now)
    zone = config.timeline.zone_info()
    with Look.open(config.timeline, now, in_use_of(config)) as look:
        material = gather(look, Period(first.astimezone(zone).date(), last.astimezone(zone).date(), zone), config.report)
    target.write(to_fhir(material) + "\n")
    return {"days": len(material.days), "checkins": len(material.checkins)}


def _known(config: Config, stretch: Stretch, now: datetime) -> tuple[datetime, datetime]:
    """The stretch without what lies before the first thing that is known, and after now."""
    timeline = config.timeline
    with TimelineReader.open(timeline.database_path(), timeline.keys()) as reader:
        heard = reader.overlapping(stretch.start, stretch.end)
        said = reader.checkins_between(stretch.start, stretch.end)
    moments = [*(heard or ()), *(checkin.at for checkin in said)]
    last = min(stretch.end, now.astimezone(UTC)) - timedelta(microseconds=1)
    return min(last, max(stretch.start, min(moments, default=last))), last
