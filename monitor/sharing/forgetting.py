"""Has the clinic forget what the person forgets: at once where it answers, else as soon as it does."""

from dataclasses import dataclass

from model.errors import ClinicError, ConfigError, TimelineError
from monitor.clinic.address import Address
from monitor.config import Config
from monitor.day.stretches import Stretch
from monitor.sharing.notes import Notes
from monitor.store.outbox import Outbox

_NO_WAY = "what a clinic was sent while [store] url was set: set it again and start once, or ask the clinic to remove it"


@dataclass(frozen=True, slots=True)
class Told:
    """What became of it. gone: where the clinic's copy was removed. left: what is still there, and why. Both may be empty."""

    gone: str = ""
    left: str = ""


def is_shared(config: Config) -> bool:
    """Whether a clinic has a copy, as far as is known here."""
    try:
        if config.store.is_set or Notes(config.timeline.database_path()).read():
            return True
        outbox = Outbox.open(config.timeline.database_path(), config.timeline.keys())
    except TimelineError:
        return False
    if outbox is None:
        return False
    with outbox:
        return outbox.sharing() is not None


def note(config: Config, stretch: Stretch | None) -> None:
    """Note that the clinic is to forget a stretch, or everything. Raises TimelineError."""
    Notes(config.timeline.database_path()).add(stretch)


def tell(config: Config) -> Told:
    """Have it forget what is noted."""
    # What speaks to the clinic is loaded where there is something to say.
    from monitor.sharing.delivering import forget_now

    try:
        address = Address.of(config.store)
        if address is None:
            return Told(left=_NO_WAY)
        forget_now(address, Notes(config.timeline.database_path()))
    except (ClinicError, ConfigError, TimelineError) as error:
        return Told(left=f"the clinic's copy, which goes as soon as the clinic answers and the monitor runs ({error})")
    return Told(gone=str(address))
