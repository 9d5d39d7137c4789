"""Turns what is stored about coverage into tiles: every moment of a stretch has exactly one kind, without overlap or hole.

Pure arithmetic on moments. What is stored may overlap (a clock that was set back lives an hour twice; speech that was given up
lies in time that was heard) and has holes (a monitor that did not run stores nothing).
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from monitor.store.records import Coverage, CoverageInterval, TimelineEntry

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
class Tile:
    """One kind of coverage over [start_at, end_at), aware UTC; reason is empty where the kind says it all."""

    kind: Coverage
    start_at: datetime
    end_at: datetime
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_at - self.start_at).total_seconds()


def tile(start: datetime, end: datetime, coverage: Iterable[CoverageInterval], speech: Iterable[TimelineEntry] = ()) -> list[Tile]:
    """Tiles over [start, end), in order, touching, neighbours different; none where start is not before end.

    A segment of speech counts as heard time of its own: a monitor that was killed may have stored the one and not the other.
    """
    if start >= end:
        return []
    claims = [Tile(part.kind, part.start_at, part.end_at, part.reason) for part in coverage]
    claims += [Tile(Coverage.HEARD, *stretch) for stretch in _unheard(claims, speech)]
    claims = [claim for claim in claims if claim.start_at < end and claim.end_at > start]
    return _joined(_strongest(start, end, claims))


def _unheard(claims: Iterable[Tile], speech: Iterable[TimelineEntry]) -> Iterable[tuple[datetime, datetime]]:
    """Stretches of speech that do not lie within one that is heard anyway: a day has many segments, and hardly one of these."""
    heard = sorted((claim.start_at, claim.end_at) for claim in claims if claim.kind is Coverage.HEARD)
    starts = [start for start, _ in heard]
    latest_ends = list(itertools.accumulate((end for _, end in heard), max))
    for entry in speech:
        before = bisect_right(starts, entry.start_at)
        if not before or latest_ends[before - 1] < entry.end_at:
            yield entry.start_at, entry.end_at


def _strongest(start: datetime, end: datetime, claims: Sequence[Tile]) -> Iterable[Tile]:
    """For each stretch between two moments at which anything changes, what holds there."""
    bounds = sorted({start, end, *(moment for claim in claims for moment in (claim.start_at, claim.end_at) if start < moment < end)})
    begin = sorted(claims, key=lambda claim: claim.start_at)
    active: list[Tile] = []
    following = 0
    for left, right in itertools.pairwise(bounds):
        while following < len(begin) and begin[following].start_at <= left:
            active.append(begin[following])
            following += 1
        active = [claim for claim in active if claim.end_at > left]
        best = min(active, key=lambda claim: _RANK[claim.kind], default=Tile(Coverage.NOT_RUNNING, left, right))
        yield Tile(best.kind, left, right, best.reason)


def _joined(tiles: Iterable[Tile]) -> list[Tile]:
    """Neighbours of one kind and reason as one."""
    joined: list[Tile] = []
    for part in tiles:
        if joined and (joined[-1].kind, joined[-1].reason) == (part.kind, part.reason):
            joined[-1] = Tile(part.kind, joined[-1].start_at, part.end_at, part.reason)
        else:
            joined.append(part)
    return joined
