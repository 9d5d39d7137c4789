"""Coverage of time: tracked while the daemon runs, and read back so that every moment has exactly one kind.

`CoverageTracker` keeps one kind at a time and hands out intervals that neither overlap nor leave a hole, except where the clock was set.
`tile_coverage` turns what is stored into tiles: stored intervals may overlap (a clock that was set back; speech that was given up lies in
recorded time) and have holes (a daemon that did not run stores nothing). Pure arithmetic on moments.
"""

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from monitor.storage.records import Coverage, CoverageInterval, SegmentRecord

StoreCoverage = Callable[[Coverage, datetime, datetime, str], None]

_STORE_EVERY = timedelta(seconds=5)


class CoverageTracker:
    """What the present is, and since when. All moments are aware UTC; `store` is called with each piece as it is known."""

    def __init__(self, store: StoreCoverage) -> None:
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

    def clock_changed(self, at: datetime) -> None:
        """The wall clock was set and it is `at` now: the present goes on from there, and the time between never was."""
        if self._stored_to is not None:
            self._stored_to = at


# Of two kinds for one moment the earlier in this list is told. Given-up speech is a part of heard time; what one life of an
# hour heard is known, whatever its other life missed; what a person did is told before what went wrong.
_PRECEDENCE = (
    Coverage.ENGINE_DOWN,
    Coverage.HEARD,
    Coverage.PAUSED,
    Coverage.MUTED,
    Coverage.DEVICE_LOST,
    Coverage.OVERFLOW,
    Coverage.NOT_RUNNING,
)
_RANK = {kind: rank for rank, kind in enumerate(_PRECEDENCE)}


@dataclass(frozen=True, slots=True)
class CoverageTile:
    """One kind of coverage over [start_at, end_at), aware UTC; reason is empty where the kind says it all."""

    kind: Coverage
    start_at: datetime
    end_at: datetime
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_at - self.start_at).total_seconds()


def tile_coverage(
    start: datetime, end: datetime, coverage: Iterable[CoverageInterval], speech: Iterable[SegmentRecord] = ()
) -> list[CoverageTile]:
    """Tiles over [start, end), in order, touching, neighbours different; none where start is not before end.

    A segment of speech counts as heard time of its own: a monitor that was killed may have stored the one and not the other.
    """
    if start >= end:
        return []
    claims = [CoverageTile(part.kind, part.start_at, part.end_at, part.reason) for part in coverage]
    claims += [CoverageTile(Coverage.HEARD, *time_range) for time_range in _uncovered_speech(claims, speech)]
    claims = [claim for claim in claims if claim.start_at < end and claim.end_at > start]
    return _joined(_strongest(start, end, claims))


def _uncovered_speech(claims: Iterable[CoverageTile], speech: Iterable[SegmentRecord]) -> Iterable[tuple[datetime, datetime]]:
    """Stretches of speech that do not lie within one that is heard anyway: a day has many segments, and hardly one of these."""
    heard = sorted((claim.start_at, claim.end_at) for claim in claims if claim.kind is Coverage.HEARD)
    starts = [start for start, _ in heard]
    latest_ends = list(itertools.accumulate((end for _, end in heard), max))
    for entry in speech:
        before = bisect_right(starts, entry.start_at)
        if not before or latest_ends[before - 1] < entry.end_at:
            yield entry.start_at, entry.end_at


def _strongest(start: datetime, end: datetime, claims: Sequence[CoverageTile]) -> Iterable[CoverageTile]:
    """For each stretch between two moments at which anything changes, what holds there."""
    bounds = sorted({start, end, *(moment for claim in claims for moment in (claim.start_at, claim.end_at) if start < moment < end)})
    begin = sorted(claims, key=lambda claim: claim.start_at)
    active: list[CoverageTile] = []
    following = 0
    for left, right in itertools.pairwise(bounds):
        while following < len(begin) and begin[following].start_at <= left:
            active.append(begin[following])
            following += 1
        active = [claim for claim in active if claim.end_at > left]
        best = min(active, key=lambda claim: _RANK[claim.kind], default=CoverageTile(Coverage.NOT_RUNNING, left, right))
        yield CoverageTile(best.kind, left, right, best.reason)


def _joined(tiles: Iterable[CoverageTile]) -> list[CoverageTile]:
    """Neighbours of one kind and reason as one."""
    joined: list[CoverageTile] = []
    for part in tiles:
        if joined and (joined[-1].kind, joined[-1].reason) == (part.kind, part.reason):
            joined[-1] = CoverageTile(part.kind, joined[-1].start_at, part.end_at, part.reason)
        else:
            joined.append(part)
    return joined
