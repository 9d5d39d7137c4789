"""What a monitor that starts shares with a clinic, by its settings. Loads what speaks to the clinic only where something is shared."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime

from monitor.clinic.address import Address
from monitor.config import Config
from monitor.status import SharingState
from monitor.store.outbox import Outbox


def sharing_of(config: Config, now: datetime, tell: Callable[[SharingState | None, str], None]) -> AbstractContextManager[object]:
    """What sends for a monitor that starts at `now` (aware UTC), or, where nothing is to be shared, sees to it that nothing is.

    For the holder of the database's lock, once the timeline is there. tell: as Sender has it. Raises ConfigError, TimelineError.
    """
    address, database = Address.of(config.store), config.timeline.database_path()
    outbox = Outbox.open(database, config.timeline.keys())
    assert outbox is not None, "the timeline is there"
    if address is None:
        with outbox:
            outbox.switch_off()
        return nullcontext()
    from monitor.sharing.sender import Sender

    outbox.switch_on(now, config.store.share_past)
    return Sender(address, outbox, database, tell)
