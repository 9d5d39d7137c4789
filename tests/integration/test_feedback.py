"""The person's own word is stored, holds, and can be taken back; beside a daemon that writes, and against what others say meanwhile."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.emotions import Emotion, Prediction
from model.errors import EditConflict, TimelineError, UnknownSegment, WordError
from monitor.fileio import DatabaseLock
from monitor.storage.feedback import MAX_NOTE_CHARS, FeedbackStore
from monitor.storage.reader import TimelineReader
from monitor.storage.records import PROMPT_ANSWER_WINDOW, CheckIn, Correction, InferenceResult, Prompt
from monitor.storage.writer import TimelineWriter
from tests.support.paths import ROOT
from tests.support.storage import keys, raw

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)
FEAR = Prediction({Emotion.FEAR: 0.7, Emotion.SAD: 0.3}, unsure=False, bundle_version="compact-1")
HIGHEST = 2**63
WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo
from monitor.storage.writer import TimelineWriter
from tests.support.storage import keys
timeline = TimelineWriter.open(Path(sys.argv[1]), ZoneInfo("UTC"), keys())
for second in range(20_000):
    start, end = (datetime(2026, 7, 14, 12, tzinfo=UTC) + timedelta(seconds=second + more) for more in (0, 1))
    print(timeline.add_segment(start_sample=second, end_sample=second + 1, start_at=start, end_at=end, sound=b"12"), flush=True)
"""


class Clock:
    """The present moment, as a test sets it."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "timeline.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def words(path: Path, clock: Clock) -> Iterator[FeedbackStore]:
    with FeedbackStore.open(path, PARIS, keys(), clock) as opened:
        yield opened


@pytest.fixture
def judged(path: Path) -> int:
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        segment_id = _add(timeline, 0)
        timeline.judge({segment_id: InferenceResult(FEAR)})
    return segment_id


@pytest.fixture
def waiting(path: Path) -> int:
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        return _add(timeline, 10)


def _add(timeline: TimelineWriter, second: int) -> int:
    start = NOON + timedelta(seconds=second)
    return timeline.add_segment(
        start_sample=second, end_sample=second + 1, start_at=start, end_at=start + timedelta(seconds=1), sound=b"12"
    )


def said(path: Path, segment_id: int) -> Correction | None:
    with TimelineReader.open(path, keys()) as reader:
        entry = reader.segment(segment_id)
    assert entry is not None
    return entry.correction


def checkins(path: Path) -> list[CheckIn]:
    with TimelineReader.open(path, keys()) as reader:
        return reader.checkins_between(NOON - timedelta(days=1), NOON + timedelta(days=1))


def prompts(path: Path) -> list[Prompt]:
    with TimelineReader.open(path, keys()) as reader:
        return reader.prompts_between(NOON - timedelta(days=1), NOON + timedelta(days=1))


def test_a_check_in_may_be_the_first_thing_a_timeline_ever_holds(path: Path) -> None:
    at = datetime.now(UTC)
    with FeedbackStore.open(path, PARIS, keys()) as words:
        stored = words.check_in(at, -0.5, Emotion.SAD, "  rain all day \n")
    assert stored == CheckIn(1, at, "Europe/Paris", -0.5, Emotion.SAD, "rain all day")
    with TimelineReader.open(path, keys()) as reader:
        assert reader.last_checkin() == stored
    for file in path.parent.iterdir():
        assert b"rain all day" not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0


def test_a_timeline_is_not_begun_beside_a_monitor_that_begins_one(path: Path) -> None:
    with DatabaseLock(path, "mic"), pytest.raises(TimelineError, match="listening to the microphone"):
        FeedbackStore.open(path, PARIS, keys())


@pytest.mark.parametrize(
    ("error", "at", "valence", "note"),
    [
        (WordError, NOON + timedelta(seconds=1), 0.0, None),
        (WordError, NOON, 0.0, "x" * (MAX_NOTE_CHARS + 1)),
        (ValueError, NOON, 1.1, None),
        (ValueError, NOON, float("nan"), None),
        (ValueError, NOON.astimezone(PARIS), 0.0, None),
    ],
)
def test_what_cannot_be_a_check_in_is_not_stored(
    words: FeedbackStore, path: Path, error: type[Exception], at: datetime, valence: float, note: str | None
) -> None:
    with pytest.raises(error):
        words.check_in(at, valence, Emotion.SAD, note)
    assert checkins(path) == []


def test_a_check_in_can_be_taken_back_once_and_nothing_else_goes(words: FeedbackStore, path: Path) -> None:
    first, second = (words.check_in(NOON - timedelta(hours=hour), 0.0, Emotion.NEUTRAL) for hour in (1, 2))
    assert words.retract(second.id) == second
    assert checkins(path) == [first]
    for gone in (second.id, 0, -1, HIGHEST):
        with pytest.raises(WordError, match="not there"):
            words.retract(gone)


@pytest.mark.parametrize(
    ("about_min", "entered_min", "answers"),
    [(5, 5, True), (0, 5, True), (29, 29, True), (30, 30, False), (-1, 5, False), (5, 60, False)],
)
def test_a_check_in_answers_a_prompt_when_it_is_about_now_and_comes_soon(
    words: FeedbackStore, path: Path, clock: Clock, about_min: float, entered_min: float, answers: bool
) -> None:
    assert timedelta(minutes=30) == PROMPT_ANSWER_WINDOW
    prompt = words.asked(NOON)
    clock.now = NOON + timedelta(minutes=entered_min)
    stored = words.check_in(NOON + timedelta(minutes=about_min), 0.0, Emotion.NEUTRAL)
    assert prompts(path) == [Prompt(prompt, NOON, "Europe/Paris", stored.id if answers else None)]


def test_one_check_in_answers_one_prompt_and_none_once_it_is_taken_back(words: FeedbackStore, path: Path, clock: Clock) -> None:
    words.asked(NOON)
    words.asked(NOON + timedelta(minutes=10))
    clock.now = NOON + timedelta(minutes=12)
    stored = words.check_in(clock.now, 0.0, Emotion.NEUTRAL)
    assert [prompt.checkin_id for prompt in prompts(path)] == [None, stored.id]
    words.retract(stored.id)
    assert [prompt.checkin_id for prompt in prompts(path)] == [None, None]


def test_a_correction_holds_until_the_next_and_undo_goes_back_through_the_history(words: FeedbackStore, path: Path, judged: int) -> None:
    sad, happy, agreed = words.correct(judged, Emotion.SAD), words.correct(judged, Emotion.HAPPY), words.confirm(judged)
    assert [one.emotion for one in (sad, happy, agreed)] == [Emotion.SAD, Emotion.HAPPY, Emotion.FEAR]
    assert [one.confirmed for one in (sad, happy, agreed)] == [False, False, True]
    assert said(path, judged) == agreed
    assert [words.undo(judged), said(path, judged)] == [happy, happy]
    contempt = words.correct(judged, Emotion.CONTEMPT)
    assert [words.undo(judged) for _ in (contempt, happy)] == [happy, sad], "what was undone before does not come back"
    assert words.undo(judged) is None
    assert said(path, judged) is None
    with pytest.raises(WordError, match="nothing of segment 1"):
        words.undo(judged)
    with closing(raw(path)) as connection:
        assert connection.execute("SELECT count(*) FROM correction").fetchone()[0] == 4, "the history is kept"


def test_saying_the_same_again_changes_nothing(words: FeedbackStore, path: Path, judged: int) -> None:
    first = words.correct(judged, Emotion.SAD)
    assert words.correct(judged, Emotion.SAD) == first
    agreed = words.confirm(judged)
    assert words.confirm(judged) == words.correct(judged, Emotion.FEAR) == agreed
    assert words.undo(judged) == first


def test_what_was_not_judged_can_be_labelled_but_not_confirmed(words: FeedbackStore, path: Path, waiting: int) -> None:
    with pytest.raises(WordError, match="was not judged"):
        words.confirm(waiting)
    assert words.correct(waiting, Emotion.SAD).emotion is Emotion.SAD
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        timeline.judge({waiting: InferenceResult(FEAR)})
    held = said(path, waiting)
    assert held is not None
    assert held.emotion is Emotion.SAD, "a judgement that comes later does not overrule the person"


@pytest.mark.parametrize("segment_id", [0, -1, 7, HIGHEST])
def test_an_unknown_segment_is_named_with_those_there_are(words: FeedbackStore, path: Path, segment_id: int) -> None:
    acts: list[Callable[[], object]] = [
        lambda: words.correct(segment_id, Emotion.SAD),
        lambda: words.confirm(segment_id),
        lambda: words.undo(segment_id),
    ]
    for act in acts:
        with pytest.raises(UnknownSegment, match=f"no segment {segment_id}: no speech is stored yet"):
            act()
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        _add(timeline, 0)
        _add(timeline, 5)
    for act in acts:
        with pytest.raises(UnknownSegment, match="there are segments 1 to 2; `emosllm-monitor timeline"):
            act()


def test_two_windows_cannot_overrule_each_other_unseen(words: FeedbackStore, path: Path, judged: int) -> None:
    first = words.correct(judged, Emotion.SAD, seen=None)
    for act in (
        lambda: words.correct(judged, Emotion.HAPPY, seen=None),
        lambda: words.confirm(judged, seen=first.id + 1),
        lambda: words.undo(judged, seen=None),
    ):
        with pytest.raises(EditConflict, match="changed somewhere else"):
            act()
    assert said(path, judged) == first
    assert words.correct(judged, Emotion.SAD, seen=None) == first, "both said the same: that is no conflict"
    assert words.correct(judged, Emotion.HAPPY, seen=first.id).emotion is Emotion.HAPPY
    assert words.undo(judged) == first


def test_of_many_who_saw_the_same_one_wins(path: Path, judged: int) -> None:
    outcomes: list[str] = []

    def say(emotion: Emotion) -> None:
        with FeedbackStore.open(path, PARIS, keys()) as words:
            try:
                words.correct(judged, emotion, seen=None)
                outcomes.append("stored")
            except EditConflict:
                outcomes.append("refused")

    threads = [threading.Thread(target=say, args=(emotion,)) for emotion in Emotion]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 8 + ["stored"]


def test_it_works_beside_a_daemon_that_writes_all_the_time(path: Path) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline()
        with FeedbackStore.open(path, PARIS, keys()) as words:
            for number in range(30):
                words.check_in(NOON, number / 30, Emotion.NEUTRAL)
                words.correct(1, list(Emotion)[number % 9])
        assert daemon.poll() is None
    finally:
        daemon.kill()
        daemon.wait()
    assert len(checkins(path)) == 30


def test_a_summary_of_the_day_does_not_outlive_a_correction(words: FeedbackStore, path: Path, judged: int) -> None:
    row = ("2026-07-14", "Europe/Paris", "2026-07-13 22:00:00.000000", "2026-07-14 22:00:00.000000", 1, "{}")

    def summaries_after(act: Callable[[], object]) -> int:
        with closing(raw(path)) as connection:
            connection.execute("INSERT INTO day_summary VALUES (?, ?, ?, ?, ?, ?)", row)
            connection.commit()
        act()
        with closing(raw(path)) as connection:
            return int(connection.execute("SELECT count(*) FROM day_summary").fetchone()[0])

    assert summaries_after(lambda: words.correct(judged, Emotion.SAD)) == 0
    assert summaries_after(lambda: words.undo(judged)) == 0
