"""Keeps account of every moment of one run of the monitor: one kind of coverage at a time, stored while it goes on.

Knows no database and no sound: moments come in, intervals go out through a function. What it hands out neither overlaps nor
leaves a hole, however the day goes, except where the clock itself was set.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from monitor.store.records import Coverage

Store = Callable[[Coverage, datetime, datetime, str], None]

_STORE_EVERY = timedelta(seconds=5)


class Ledger:
    """What the present is, and since when. All moments are aware UTC; `store` is called with each piece as it is known."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kind: Coverage | None = None
        self._reason = ""
        self._stored_to: datetime | None = None

    @property
    def kind(self) -> Coverage | None:
        """What the present counts as; None before the first `become`."""
        return self._kind

    @property
    def reached(self) -> datetime | None:
        """Up to where everything is stored; None before the first `become`."""
        return self._stored_to

    @property
    def present(self) -> tuple[Coverage, str]:
        """What holds now, and why. Not before the first `become`."""
        assert self._kind is not None
        return self._kind, self._reason

    def become(self, kind: Coverage, at: datetime, reason: str = "") -> None:
        """From `at` on it is `kind`; what was before is stored up to there. Calling it again with the same changes nothing."""
        if (kind, reason) == (self._kind, self._reason):
            return
        self.reach(at)
        self._kind, self._reason = kind, reason
        if self._stored_to is None:
            self._stored_to = at

    def progress(self, at: datetime) -> None:
        """The present has lasted until `at`: stored now and then, so that little is forgotten if the monitor is killed."""
        if self._stored_to is not None and at - self._stored_to >= _STORE_EVERY:
            self.reach(at)

    def reach(self, at: datetime) -> None:
        """The present has lasted until `at`, and that is stored at once. An `at` that is past already says nothing new."""
        if self._kind is None or self._stored_to is None or at <= self._stored_to:
            return
        self._store(self._kind, self._stored_to, at, self._reason)
        self._stored_to = at

    def clock_moved(self, at: datetime) -> None:
        """The wall clock was set and it is `at` now: the present goes on from there, and the time between never was."""
        if self._stored_to is not None:
            self._stored_to = at
