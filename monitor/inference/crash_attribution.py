"""Decides whether a segment or the bundle is to blame when inference workers die.

Pure bookkeeping: it is told of every answer and every death, and says what may be asked next. After a death with requests open, one
request is sent at a time until one is answered. A segment that a worker died alone with is suspected: it comes last and alone from then
on, until it is answered or has taken so many workers with it that chance is no explanation. So a kill from outside costs no segment, and
a good segment is not given up because the bundle is bad.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice

MAX_BUNDLE_CRASHES = 3
"""So many processes in a row must die without one answer before the bundle is set aside."""

MAX_SEGMENT_CRASHES = 3
"""So many processes must die alone with a segment, others being answered in between, before it is given up."""


class CrashAttribution:
    """For the questions of one daemon, over all the processes it starts. Entries are segments, by their number."""

    def __init__(self) -> None:
        self._crashes_in_a_row = 0
        self._one_at_a_time = False
        self._suspected: Counter[int] = Counter()

    def next_to_send(self, waiting: Iterable[int], asked: Collection[int], room: int) -> list[int]:
        """Which entries of `waiting`, in their order, to ask next, while `asked` are open; `room`: how many at most."""
        if asked and (self._one_at_a_time or any(entry in self._suspected for entry in asked)):
            return []
        open_, accused = set(asked), self._suspected
        fresh = (entry for entry in waiting if entry not in open_)
        if not accused:
            return list(islice(fresh, 1 if self._one_at_a_time else room))
        candidates = list(fresh)
        trusted = [entry for entry in candidates if entry not in accused]
        if trusted:
            return trusted[: 1 if self._one_at_a_time else room]
        return [] if asked else candidates[:1]

    def answered(self, entries: Iterable[int]) -> None:
        """The process has answered these."""
        self._crashes_in_a_row, self._one_at_a_time = 0, False
        for entry in entries:
            self._suspected.pop(entry, None)

    def died(self, asked: Collection[int]) -> int | None:
        """The process died with these questions open. Returns a segment that is to be given up, if it is that one's fault."""
        self._crashes_in_a_row += 1
        self._one_at_a_time = self._one_at_a_time or bool(asked)
        if len(asked) != 1:
            return None
        (entry,) = asked
        self._suspected[entry] += 1
        if self._suspected[entry] < MAX_SEGMENT_CRASHES or self.bundle_failed:
            return None
        del self._suspected[entry]
        self._crashes_in_a_row = 0
        return entry

    @property
    def deaths(self) -> int:
        """How many processes in a row have died without an answer."""
        return self._crashes_in_a_row

    @property
    def bundle_failed(self) -> bool:
        """Whether the bundle is to be set aside."""
        return self._crashes_in_a_row >= MAX_BUNDLE_CRASHES

    def reset_for_bundle(self) -> None:
        """What was counted against the last bundle is void."""
        self._crashes_in_a_row = 0
        self._suspected.clear()
