"""Is anything shared with a clinic, what, and does it get there?"""

from monitor.clinic.address import Address
from monitor.config import Config
from monitor.doctor.findings import Finding, Verdict
from monitor.sharing.notes import Notes
from monitor.store.outbox import EVER, Outbox

_WHAT = (
    "There go: when you spoke and what was estimated, what was heard and not, what you corrected, check-ins without their notes;"
    " never sound, words or notes. Whoever is entrusted with it there reads it, which is written down: `emosllm-monitor clinic audit`"
)


def clinic(config: Config) -> Finding:
    """Log in where things are shared. Raises ConfigError, ClinicError, TimelineError."""
    address = Address.of(config.store)
    if address is None:
        return Finding(Verdict.OK, "clinic", "nothing is shared with a clinic")
    from monitor.clinic.connection import connected

    with connected(address) as connection:
        row = connection.execute("SELECT subject FROM emosllm.begin_sending()").fetchone()
    lines = [f"{address} answers; you are {row and row['subject']} there.", _waiting(config), _WHAT]
    return Finding(Verdict.OK, "clinic", "\n".join(lines))


def _waiting(config: Config) -> str:
    database = config.timeline.database_path()
    outbox = Outbox.open(database, config.timeline.keys())
    if outbox is None:
        return "Sharing begins with the next start."
    with outbox:
        sharing, (waiting, _) = outbox.sharing(), outbox.waiting()
    if sharing is None or not sharing.active:
        return "Sharing begins with the next start."
    zone = config.timeline.zone_info()
    begun = "all there is" if sharing.since == EVER else f"what began since {sharing.since.astimezone(zone):%Y-%m-%d %H:%M}"
    left = len(Notes(database).read())
    forgotten = f", and {left} stretches are still to be forgotten there" if left else ""
    return f"Shared is {begun}; {waiting} changes wait to be sent{forgotten}."
