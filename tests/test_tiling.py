"""Coverage as tiles: every moment has one kind, whatever is stored."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from monitor.store.ledger import Ledger
from monitor.store.records import Coverage, CoverageInterval, SegmentState, TimelineEntry
from monitor.store.tiling import Tile, tile

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
STORED = [kind for kind in Coverage if kind is not Coverage.NOT_RUNNING]


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def interval(kind: Coverage, start: float, end: float, reason: str = "") -> CoverageInterval:
    return CoverageInterval("s", kind, at(start), at(end), "UTC", reason)


def spoken(start: float, end: float) -> TimelineEntry:
    return TimelineEntry(1, "s", 0, 1, at(start), at(end), "UTC", SegmentState.WAITING)


def kinds(tiles: list[Tile]) -> list[tuple[Coverage, float, float]]:
    return [(part.kind, (part.start_at - NOON).total_seconds(), (part.end_at - NOON).total_seconds()) for part in tiles]


def test_a_day_without_anything_is_one_tile_of_not_running() -> None:
    assert kinds(tile(at(0), at(10), [])) == [(Coverage.NOT_RUNNING, 0, 10)]
    assert tile(at(10), at(10), []) == []


def test_holes_are_not_running_and_what_lies_outside_is_cut_off() -> None:
    tiles = tile(at(0), at(10), [interval(Coverage.HEARD, -5, 3), interval(Coverage.PAUSED, 4, 99)])
    assert kinds(tiles) == [(Coverage.HEARD, 0, 3), (Coverage.NOT_RUNNING, 3, 4), (Coverage.PAUSED, 4, 10)]


def test_speech_that_was_given_up_is_cut_out_of_what_was_heard() -> None:
    tiles = tile(at(0), at(9), [interval(Coverage.HEARD, 0, 9), interval(Coverage.ENGINE_DOWN, 3, 5)])
    assert kinds(tiles) == [(Coverage.HEARD, 0, 3), (Coverage.ENGINE_DOWN, 3, 5), (Coverage.HEARD, 5, 9)]


def test_a_segment_of_a_killed_monitor_was_heard_though_nobody_could_say_so() -> None:
    tiles = tile(at(0), at(9), [interval(Coverage.HEARD, 0, 3)], [spoken(2, 5)])
    assert kinds(tiles) == [(Coverage.HEARD, 0, 5), (Coverage.NOT_RUNNING, 5, 9)]


def test_neighbours_with_another_reason_stay_apart() -> None:
    tiles = tile(at(0), at(4), [interval(Coverage.DEVICE_LOST, 0, 2, "stalled"), interval(Coverage.DEVICE_LOST, 2, 4, "unplugged")])
    assert [part.reason for part in tiles] == ["stalled", "unplugged"]


moments = st.integers(-50, 150)
stored = st.builds(
    lambda kind, start, length, reason: interval(kind, start, start + length, reason),
    st.sampled_from(list(Coverage)),
    moments,
    st.integers(1, 60),
    st.sampled_from(["", "why"]),
)
segments = st.builds(lambda start, length: spoken(start, start + length), moments, st.integers(1, 15))


@given(st.lists(stored, max_size=12), st.lists(segments, max_size=6))
def test_tiles_of_any_history_cover_the_day_without_overlap_or_hole(coverage: list[CoverageInterval], speech: list[TimelineEntry]) -> None:
    tiles = tile(at(0), at(100), coverage, speech)
    assert tiles[0].start_at == at(0)
    assert tiles[-1].end_at == at(100)
    assert all(left.end_at == right.start_at for left, right in pairwise(tiles))
    assert all((left.kind, left.reason) != (right.kind, right.reason) for left, right in pairwise(tiles))
    for second in range(100):
        middle = at(second + 0.5)
        said = {part.kind for part in coverage if part.start_at <= middle < part.end_at}
        said |= {Coverage.HEARD for part in speech if part.start_at <= middle < part.end_at}
        (told,) = [part.kind for part in tiles if part.start_at <= middle < part.end_at]
        assert told in (said or {Coverage.NOT_RUNNING}), "a kind that nobody stored"
        assert Coverage.HEARD not in said or told in (Coverage.HEARD, Coverage.ENGINE_DOWN)


@given(st.lists(st.tuples(st.sampled_from(["become", "progress", "reach"]), st.sampled_from(STORED), st.integers(0, 20)), min_size=1))
def test_whatever_happens_in_a_run_its_account_has_no_overlap_and_no_hole(steps: list[tuple[str, Coverage, int]]) -> None:
    written: list[tuple[Coverage, datetime, datetime]] = []
    ledger = Ledger(lambda kind, start, end, _reason: written.append((kind, start, end)))
    now, kind_of = NOON, {}
    ledger.become(Coverage.HEARD, now)
    present = Coverage.HEARD
    for step, kind, seconds in steps:
        for _ in range(seconds):
            kind_of[now] = present
            now += timedelta(seconds=1)
        if step == "become":
            ledger.become(kind, now)
            present = kind
        elif step == "progress":
            ledger.progress(now)
        else:
            ledger.reach(now)
    ledger.reach(now)
    assert all(left[2] == right[1] for left, right in pairwise(written))
    assert now == NOON or (written[0][1], written[-1][2]) == (NOON, now)
    for moment, kind in kind_of.items():
        assert [entry[0] for entry in written if entry[1] <= moment < entry[2]] == [kind]


def test_progress_is_stored_every_few_seconds_only() -> None:
    written: list[float] = []
    ledger = Ledger(lambda _kind, _start, end, _reason: written.append((end - NOON).total_seconds()))
    ledger.become(Coverage.HEARD, at(0))
    for tenth in range(200):
        ledger.progress(at(tenth / 10))
    assert written == [5, 10, 15]


def test_a_clock_that_was_set_leaves_what_lies_between_to_nobody() -> None:
    written: list[tuple[float, float]] = []
    ledger = Ledger(lambda _kind, start, end, _reason: written.append(((start - NOON).total_seconds(), (end - NOON).total_seconds())))
    ledger.become(Coverage.HEARD, at(0))
    ledger.reach(at(10))
    ledger.clock_moved(at(3600))
    ledger.reach(at(3605))
    ledger.clock_moved(at(5))
    ledger.reach(at(8))
    assert written == [(0, 10), (3600, 3605), (5, 8)]
