"""Starts and stops sharing with a clinic by the settings, and asks the clinic to erase what the person erases.

Loads the database driver only where something is shared.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from model.errors import ClinicError, ConfigError, TimelineError
from monitor.analysis.days import TimeRange
from monitor.clinic.address import ClinicAddress, SharingState
from monitor.clinic.pending_erasures import PendingErasures
from monitor.config import Config
from monitor.storage.outbox import Outbox


def start_sharing(config: Config, now: datetime, tell: Callable[[SharingState | None, str], None]) -> AbstractContextManager[object]:
    """What sends for a monitor that starts at `now` (aware UTC), or, where nothing is to be shared, sees to it that nothing is.

    For the holder of the database's lock, once the timeline is there. tell: as Sender has it. Raises ConfigError, TimelineError.
    """
    address, database = ClinicAddress.of(config.store), config.timeline.database_path()
    outbox = Outbox.open(database, config.timeline.keys())
    assert outbox is not None, "the timeline is there"
    if address is None:
        with outbox:
            outbox.disable_sharing()
        return nullcontext()
    from monitor.clinic.sync import SyncThread

    outbox.enable_sharing(now, config.store.share_past)
    return SyncThread(address, outbox, database, tell)


_NO_WAY = "data sent to a clinic while [store] url was set; set it again and start once, or ask the clinic to erase it"


@dataclass(frozen=True, slots=True)
class ErasureOutcome:
    """What became of it. gone: where the clinic's copy was removed. left: what is still there, and why. Both may be empty."""

    gone: str = ""
    left: str = ""


def is_shared(config: Config) -> bool:
    """Whether a clinic has a copy, as far as is known here."""
    try:
        if config.store.is_set or PendingErasures(config.timeline.database_path()).read():
            return True
        outbox = Outbox.open(config.timeline.database_path(), config.timeline.keys())
    except TimelineError:
        return False
    if outbox is None:
        return False
    with outbox:
        return outbox.sharing() is not None


def request_erasure(config: Config, time_range: TimeRange | None) -> None:
    """Note that the clinic is to forget a stretch, or everything. Raises TimelineError."""
    PendingErasures(config.timeline.database_path()).add(time_range)


def send_erasures(config: Config) -> ErasureOutcome:
    """Have it forget what is noted."""
    # What speaks to the clinic is loaded where there is something to say.
    from monitor.clinic.sync import erase_at_clinic

    try:
        address = ClinicAddress.of(config.store)
        if address is None:
            return ErasureOutcome(left=_NO_WAY)
        erase_at_clinic(address, PendingErasures(config.timeline.database_path()))
    except (ClinicError, ConfigError, TimelineError) as error:
        return ErasureOutcome(left=f"the clinic's copy, to be erased as soon as the monitor runs and the clinic responds ({error})")
    return ErasureOutcome(gone=str(address))
