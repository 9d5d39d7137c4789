"""What is written to the timeline can be read, once, and nothing else; writes that fail wait in order."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.emotions import Emotion, Prediction
from model.errors import TimelineError
from monitor.daemon.recorder import QueuedWrite, RetryQueue
from monitor.storage.cipher import DRIVER
from monitor.storage.reader import TimelineReader
from monitor.storage.records import Coverage, CoverageInterval, InferenceResult, SegmentRecord, SegmentState, merge_coverage
from monitor.storage.writer import TimelineWriter
from tests.support.days import estimates
from tests.support.paths import ROOT
from tests.support.storage import keys, raw

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 7, 14, 12, 0, 0, 123456, tzinfo=UTC)
SAD = Prediction({Emotion.SAD: 0.7, Emotion.NEUTRAL: 0.2, Emotion.HAPPY: 0.1}, unsure=False, bundle_version="compact-1")
SAID = InferenceResult(SAD)
SOUND = b"\x01\x02" * 16_000


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def add(timeline: TimelineWriter, start_s: float, length_s: float = 2.0) -> int:
    start, end = round(start_s * 16_000), round((start_s + length_s) * 16_000)
    return timeline.add_segment(start_sample=start, end_sample=end, start_at=after(start_s), end_at=after(start_s + length_s), sound=SOUND)


def read(path: Path) -> tuple[list[SegmentRecord], list[CoverageInterval]]:
    year = timedelta(days=365)
    with closing(TimelineReader.open(path, keys())) as reader:
        return reader.segments_between(NOON - year, NOON + year), reader.coverage_between(NOON - year, NOON + year)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "timeline.db"


@pytest.fixture
def timeline(path: Path) -> Iterator[TimelineWriter]:
    with closing(TimelineWriter.open(path, PARIS, keys(), busy_timeout_s=0.2)) as opened:
        yield opened


def test_what_goes_in_comes_out(timeline: TimelineWriter, path: Path) -> None:
    ids = [add(timeline, start_s) for start_s in (0, 10, 20)]
    before = datetime.now(UTC)
    timeline.judge({ids[0]: SAID})
    timeline.give_up([ids[1]], "the engine did not start")
    timeline.cover(Coverage.DEVICE_LOST, after(30), after(31), "unplugged")
    entries, coverage = read(path)
    judged_at = entries[0].judged_at
    assert judged_at is not None
    assert before <= judged_at <= datetime.now(UTC)

    def entry(index: int, state: SegmentState, **fields: object) -> SegmentRecord:
        start_s = 10 * index
        span = (start_s * 16_000, (start_s + 2) * 16_000, after(start_s), after(start_s + 2))
        return SegmentRecord(ids[index], timeline.stream, *span, "Europe/Paris", state, **fields)  # type: ignore[arg-type]

    assert entries == [
        entry(0, SegmentState.JUDGED, prediction=SAD, judged_at=judged_at),
        entry(1, SegmentState.UNJUDGED, reason="the engine did not start"),
        entry(2, SegmentState.WAITING),
    ]
    assert coverage == [
        CoverageInterval(timeline.stream, Coverage.ENGINE_DOWN, after(10), after(12), "Europe/Paris", "the engine did not start"),
        CoverageInterval(timeline.stream, Coverage.DEVICE_LOST, after(30), after(31), "Europe/Paris", "unplugged"),
    ]
    assert all(moment.tzinfo is UTC for moment in (entries[0].start_at, judged_at, coverage[0].end_at))


def test_a_moment_on_the_full_second_comes_back(timeline: TimelineWriter, path: Path) -> None:
    start, end = NOON.replace(microsecond=0), NOON.replace(second=1, microsecond=0)
    timeline.cover(Coverage.HEARD, start, end)
    assert [(part.start_at, part.end_at) for part in read(path)[1]] == [(start, end)]


@pytest.mark.parametrize("zone", [None, PARIS, timezone(timedelta(hours=2))])
def test_moments_that_are_not_utc_are_refused(timeline: TimelineWriter, path: Path, zone: ZoneInfo | timezone | None) -> None:
    start, end = (moment.replace(tzinfo=zone) for moment in (NOON, after(1)))
    with pytest.raises(ValueError, match="UTC"):
        timeline.add_segment(start_sample=0, end_sample=16_000, start_at=start, end_at=end, sound=SOUND)
    with pytest.raises(ValueError, match="UTC"):
        timeline.cover(Coverage.HEARD, start, end)
    with closing(TimelineReader.open(path, keys())) as reader, pytest.raises(ValueError, match="UTC"):
        reader.segments_between(start, end)
    assert read(path) == ([], [])


def test_empty_and_endless_segments_are_refused(timeline: TimelineWriter) -> None:
    for length_s in (0, -1, 61):
        with pytest.raises(ValueError, match=r"segment|stretch"):
            add(timeline, 0, length_s)


def test_the_same_sound_is_not_stored_twice(timeline: TimelineWriter, path: Path) -> None:
    add(timeline, 0)
    with pytest.raises(TimelineError, match="start_sample"):
        add(timeline, 0)
    assert len(read(path)[0]) == 1


BROKEN_ROWS = {
    "samples backwards": {"end_sample": 0},
    "negative sample": {"start_sample": -1},
    "time backwards": {"end_at": "2026-07-14 11:00:00.000000"},
    "unknown state": {"state": "lost"},
    "unjudged without reason": {"state": "unjudged"},
    "reason though waiting": {"reason": "why"},
    "judged without anything": {"state": "judged"},
    "emotion though waiting": {"emotion": "S"},
    "confidence over 1": {"state": "judged", "emotion": "S", "confidence": 7.0, "unsure": 0, "posterior": "{}"}
    | {"bundle_version": "compact-1", "judged_at": "2026-07-14 12:00:03.000000"},
}


@pytest.mark.parametrize("broken", BROKEN_ROWS.values(), ids=BROKEN_ROWS.keys())
def test_the_table_itself_refuses_nonsense(timeline: TimelineWriter, path: Path, broken: dict[str, object]) -> None:
    good = {"stream": "s", "start_sample": 0, "end_sample": 9, "zone": "UTC", "state": "waiting"}
    good |= {"start_at": "2026-07-14 12:00:00.000000", "end_at": "2026-07-14 12:00:02.000000"}
    with closing(raw(path)) as connection:
        for row in (good | broken, good):
            insert = f"INSERT INTO segment({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"
            if row is good:
                connection.execute(insert, row)
            else:
                with pytest.raises(DRIVER.IntegrityError):
                    connection.execute(insert, row)


def test_a_segment_is_settled_once(timeline: TimelineWriter, path: Path) -> None:
    judged, aside = add(timeline, 0), add(timeline, 5)
    assert timeline.judge({judged: SAID}) == [judged]
    timeline.give_up([aside], "stopped")
    assert timeline.judge({judged: SAID, aside: SAID, 999: SAID}) == []
    timeline.give_up([judged, aside, 999], "other")
    entries, coverage = read(path)
    assert [(entry.state, entry.reason) for entry in entries] == [(SegmentState.JUDGED, None), (SegmentState.UNJUDGED, "stopped")]
    assert [(part.kind, part.reason) for part in coverage] == [(Coverage.ENGINE_DOWN, "stopped")]


def test_sound_is_there_while_a_segment_waits_and_gone_once_it_is_settled(timeline: TimelineWriter, path: Path) -> None:
    judged, aside, waits = (add(timeline, second) for second in (0, 5, 10))
    assert timeline.sound(judged) == SOUND
    timeline.judge({judged: SAID})
    timeline.give_up([aside], "stopped")
    assert [timeline.sound(segment) for segment in (judged, aside, waits, 999)] == [None, None, SOUND, None]
    with closing(raw(path)) as connection:
        assert [tuple(row) for row in connection.execute("SELECT segment_id FROM sound")] == [(waits,)]


def test_kept_sound_is_erased_after_its_time_but_never_while_it_is_waited_for(timeline: TimelineWriter, path: Path) -> None:
    kept, waits = add(timeline, 0), add(timeline, 5)
    timeline.judge({kept: SAID}, keep_audio=True)
    assert timeline.sound(kept) is None, "it does not wait"
    now = datetime.now(UTC)
    assert timeline.erase_audio(now - timedelta(days=1)) == 0
    assert timeline.erase_audio(now + timedelta(seconds=1)) == 1
    with closing(raw(path)) as connection:
        assert [tuple(row) for row in connection.execute("SELECT segment_id FROM sound")] == [(waits,)]


def test_words_are_stored_where_they_are_given(timeline: TimelineWriter, path: Path) -> None:
    timeline.judge({add(timeline, 0): InferenceResult(SAD, "not today")})
    timeline.judge({add(timeline, 5): SAID})
    with closing(raw(path)) as connection:
        assert [tuple(row) for row in connection.execute("SELECT transcript FROM segment")] == [("not today",), (None,)]


def test_the_spool_gives_up_its_oldest_first(timeline: TimelineWriter) -> None:
    ids = [add(timeline, second) for second in (0, 5, 10, 15)]
    timeline.judge({ids[1]: SAID}, keep_audio=True)
    assert timeline.beyond(4 * len(SOUND)) == []
    assert sorted(timeline.beyond(2 * len(SOUND))) == [ids[0]]
    assert sorted(timeline.beyond(2 * len(SOUND) - 1)) == [ids[0], ids[2]]
    now = datetime.now(UTC)
    assert timeline.waiting_stored_before(now - timedelta(hours=1)) == []
    assert sorted(timeline.waiting_stored_before(now + timedelta(hours=1))) == [ids[0], ids[2], ids[3]]


def test_space_of_a_large_spool_is_given_back(timeline: TimelineWriter, path: Path) -> None:
    ids = [add(timeline, 5 * index) for index in range(60)]
    timeline.give_up(ids, "stopped")
    with closing(raw(path)) as connection:
        free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    timeline.release_free_pages()
    with closing(raw(path)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone()[0] < free / 4


def test_what_earlier_starts_left_is_taken_up_in_order_with_its_sound(timeline: TimelineWriter, path: Path) -> None:
    timeline.judge({add(timeline, 0): SAID})
    left = [add(timeline, second) for second in (9, 5)]
    with closing(TimelineWriter.open(path, PARIS, keys())) as restarted:
        add(restarted, 100)
        assert restarted.recover() == [(left[1], after(5), 2.0), (left[0], after(9), 2.0)]
        assert restarted.sound(left[0]) == SOUND
        restarted.judge(dict.fromkeys(left, SAID))
        assert restarted.recover() == []


def heard(start_s: float, end_s: float, **other: object) -> CoverageInterval:
    fields = {"stream": "s", "kind": Coverage.HEARD, "zone": "Europe/Paris", "reason": ""} | other
    return CoverageInterval(start_at=after(start_s), end_at=after(end_s), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("last", "new", "expected"),
    [
        (heard(0, 5), heard(5, 8), heard(0, 8)),
        (heard(0, 5), heard(5.5, 8), heard(0, 8)),
        (heard(0, 5), heard(6.5, 8), None),
        (heard(0, 5), heard(1, 2), heard(0, 5)),
        (heard(5, 8), heard(0, 5), heard(0, 8)),
        (heard(5, 8), heard(0, 1), None),
        (heard(0, 5), heard(5, 8, kind=Coverage.OVERFLOW), None),
        (heard(0, 5), heard(5, 8, reason="other"), None),
        (heard(0, 5), heard(5, 8, stream="t"), None),
        (heard(0, 5), heard(5, 8, zone="UTC"), None),
    ],
)
def test_merge(last: CoverageInterval, new: CoverageInterval, expected: CoverageInterval | None) -> None:
    assert merge_coverage(last, new, max_gap_s=1.0) == expected


spans = st.tuples(st.integers(0, 100), st.integers(1, 20)).map(lambda span: heard(span[0], span[0] + span[1]))


@given(spans, spans)
def test_merging_keeps_all_time_and_adds_none_but_the_gap(first: CoverageInterval, second: CoverageInterval) -> None:
    merged = merge_coverage(first, second, max_gap_s=2.0)
    assert merged == merge_coverage(second, first, max_gap_s=2.0)
    if merged is not None:
        lengths = [(part.end_at - part.start_at).total_seconds() for part in (first, second, merged)]
        assert max(lengths[:2]) <= lengths[2] <= lengths[0] + lengths[1] + 2.0


def test_coverage_grows_while_it_touches(timeline: TimelineWriter, path: Path) -> None:
    for second in range(5):
        timeline.cover(Coverage.HEARD, after(second), after(second + 1))
    timeline.cover(Coverage.OVERFLOW, after(5), after(6))
    timeline.cover(Coverage.HEARD, after(6), after(7))
    timeline.cover(Coverage.HEARD, after(7.0005), after(8))
    with closing(TimelineWriter.open(path, PARIS, keys())) as restarted:
        restarted.cover(Coverage.HEARD, after(8), after(9))
        timeline.cover(Coverage.HEARD, after(20), after(21))
        restarted.cover(Coverage.HEARD, after(9), after(10))
    found = [(part.kind, part.start_at, part.end_at) for part in read(path)[1]]
    assert found == [
        (Coverage.HEARD, after(0), after(5)),
        (Coverage.OVERFLOW, after(5), after(6)),
        (Coverage.HEARD, after(6), after(8)),
        (Coverage.HEARD, after(8), after(10)),
        (Coverage.HEARD, after(20), after(21)),
    ]


# reading ---------------------------------------------------------------------------------------------------------


def test_ranges_are_half_open(timeline: TimelineWriter, path: Path) -> None:
    first, second = add(timeline, 0, 5), add(timeline, 5, 5)
    timeline.cover(Coverage.HEARD, after(0), after(10))
    with closing(TimelineReader.open(path, keys())) as reader:

        def ids(start_s: float, end_s: float) -> list[int]:
            return [entry.id for entry in reader.segments_between(after(start_s), after(end_s))]

        assert (ids(0, 5), ids(5, 10), ids(4, 6)) == ([first], [second], [first, second])
        assert (ids(10, 20), ids(-5, 0)) == ([], [])
        assert ids(4.999999, 5) == [first]
        assert len(reader.coverage_between(after(9), after(20))) == 1
        assert reader.coverage_between(after(10), after(20)) == []


def test_estimates_are_those_of_the_judged_segments_of_a_range(timeline: TimelineWriter, path: Path) -> None:
    judged, _waiting, given_up, unsure = (add(timeline, start_s) for start_s in (0, 2, 4, 6))
    timeline.judge({judged: SAID, unsure: InferenceResult(replace(SAD, unsure=True))})
    timeline.give_up([given_up], "too long")
    with closing(TimelineReader.open(path, keys())) as reader:
        assert reader.predicted_segments_between(after(0), after(8)) == estimates(reader.segments_between(after(0), after(8)))
        assert [estimate.segment for estimate in reader.predicted_segments_between(after(0), after(8))] == [judged, unsure]
        assert [estimate.segment for estimate in reader.predicted_segments_between(after(2), after(6.5))] == [unsure]


def test_overlapping_says_from_when_until_when(timeline: TimelineWriter, path: Path) -> None:
    add(timeline, 8, 5)
    timeline.cover(Coverage.HEARD, after(0), after(10))
    with closing(TimelineReader.open(path, keys())) as reader:
        assert reader.overlapping(after(9), after(60)) == (after(0), after(13))
        assert reader.overlapping(after(11), after(60)) == (after(8), after(13))
        assert reader.overlapping(after(13), after(60)) is None
        assert reader.overlapping(after(-60), after(0)) is None


def test_a_missing_timeline_reads_as_empty_and_stays_missing(path: Path) -> None:
    assert read(path) == ([], [])
    with closing(TimelineReader.open(path, keys())) as reader:
        assert reader.overlapping(NOON, after(1)) is None
    assert not path.parent.exists()


def test_a_reader_sees_what_is_written_after_it_opened_and_cannot_write(timeline: TimelineWriter, path: Path) -> None:
    with closing(TimelineReader.open(path, keys())) as reader:
        add(timeline, 0)
        assert len(reader.segments_between(after(0), after(1))) == 1
        with pytest.raises(DRIVER.OperationalError, match="readonly"):
            reader._connection.execute("DELETE FROM segment")  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", ["posterior = '[]'", "posterior = '{\"S\": 0.2}'", "posterior = '{\"X\": 1}'", "end_at = 'noon'"])
def test_a_row_that_makes_no_sense_is_not_taken_for_an_answer(timeline: TimelineWriter, path: Path, damage: str) -> None:
    timeline.judge({add(timeline, 0): SAID})
    with closing(raw(path)) as connection, connection:
        connection.execute(f"UPDATE segment SET {damage}")
    with pytest.raises(TimelineError, match="makes no sense"):
        read(path)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("monitor.storage.reader, monitor.analysis.summary", {"sqlalchemy", "sqlmodel", "alembic", "numpy", "torch", "pydantic"}),
        (
            "monitor.analysis.timeline_query, monitor.reports.text_report",
            {"sqlalchemy", "sqlmodel", "alembic", "numpy", "torch", "jinja2", "py_mini_racer"},
        ),
    ],
)
def test_reading_imports_neither_sqlmodel_nor_numpy(modules: str, heavy: set[str]) -> None:
    script = f"import sys, {modules}; print({heavy} & sys.modules.keys() or 'none')"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True) == "none\n"


class Disk:
    """Takes writes, or is full."""

    def __init__(self) -> None:
        self.full = False
        self.written: list[str] = []

    def write(self, name: str, size: int = 0) -> QueuedWrite:
        return QueuedWrite(lambda: self._take(name), (lambda: self._take(f"lost {name}")) if size else None, size)

    def _take(self, name: str) -> None:
        if self.full:
            raise TimelineError("the disk is full")
        self.written.append(name)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_what_can_be_written_is_written_at_once(disk: Disk) -> None:
    writer = RetryQueue(100)
    writer.add(disk.write("a"))
    writer.add(disk.write("b", 99))
    assert (disk.written, writer.waiting, writer.problem) == (["a", "b"], 0, "")


def test_what_cannot_be_written_waits_and_keeps_its_place(disk: Disk) -> None:
    writer = RetryQueue(100)
    writer.add(disk.write("a"))
    disk.full = True
    for name in "bcd":
        writer.add(disk.write(name, 10))
    assert (writer.waiting, writer.problem) == (3, "the disk is full")
    disk.full = False
    assert not writer.flush(), "not yet: it is tried every few seconds"
    assert writer.flush(now=True)
    assert (disk.written, writer.waiting, writer.problem) == (["a", "b", "c", "d"], 0, "")


def test_without_room_the_oldest_sound_goes_and_that_is_written_in_its_place(disk: Disk) -> None:
    writer = RetryQueue(100)
    disk.full = True
    for name, size in (("a", 60), ("coverage", 0), ("b", 40), ("c", 50), ("d", 10)):
        writer.add(disk.write(name, size))
    disk.full = False
    writer.flush(now=True)
    assert disk.written == ["lost a", "coverage", "b", "c", "d"]
