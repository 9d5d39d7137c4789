"""Who is to blame when judging processes die: a segment that kills them, or the bundle that they load.

Pure bookkeeping: it is told of every answer and every death, and says what may be asked. After a death with questions open, one
question is asked at a time until one is answered. A segment that a process died alone with is accused: it comes last and alone
from then on, until it is answered or has taken so many processes with it that chance is no explanation. So a kill from outside
costs no segment, and a good one is not given up because the bundle is bad.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice

DEATHS_OF_A_BUNDLE = 3
"""So many processes in a row must die without one answer before the bundle is set aside."""

DEATHS_OF_A_SEGMENT = 3
"""So many processes must die alone with a segment, others being answered in between, before it is given up."""


class Blame:
    """For the questions of one daemon, over all the processes it starts. Entries are segments, by their number."""

    def __init__(self) -> None:
        self._deaths = 0
        self._careful = False
        self._accused: Counter[int] = Counter()

    def may_ask(self, waiting: Iterable[int], asked: Collection[int], room: int) -> list[int]:
        """Which entries of `waiting`, in their order, to ask next, while `asked` are open; `room`: how many at most."""
        if asked and (self._careful or any(entry in self._accused for entry in asked)):
            return []
        open_, accused = set(asked), self._accused
        fresh = (entry for entry in waiting if entry not in open_)
        if not accused:
            return list(islice(fresh, 1 if self._careful else room))
        candidates = list(fresh)
        trusted = [entry for entry in candidates if entry not in accused]
        if trusted:
            return trusted[: 1 if self._careful else room]
        return [] if asked else candidates[:1]

    def answered(self, entries: Iterable[int]) -> None:
        """The process has answered these."""
        self._deaths, self._careful = 0, False
        for entry in entries:
            self._accused.pop(entry, None)

    def died(self, asked: Collection[int]) -> int | None:
        """The process died with these questions open. Returns a segment that is to be given up, if it is that one's fault."""
        self._deaths += 1
        self._careful = self._careful or bool(asked)
        if len(asked) != 1:
            return None
        (entry,) = asked
        self._accused[entry] += 1
        if self._accused[entry] < DEATHS_OF_A_SEGMENT or self.bundle_failed:
            return None
        del self._accused[entry]
        self._deaths = 0
        return entry

    @property
    def deaths(self) -> int:
        """How many processes in a row have died without an answer."""
        return self._deaths

    @property
    def bundle_failed(self) -> bool:
        """Whether the bundle is to be set aside."""
        return self._deaths >= DEATHS_OF_A_BUNDLE

    def another_bundle(self) -> None:
        """What was counted against the last bundle is void."""
        self._deaths = 0
        self._accused.clear()
