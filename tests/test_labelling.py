"""`timeline` shows a day piece by piece, and `label` lets the person say what a piece was."""

import json
import re
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.errors import DayError, UnknownSegment, WordError
from model.types import Emotion, Prediction
from monitor.config import TimelineConfig
from monitor.day.days import Day
from monitor.day.listing import Listing
from monitor.day.wording import NOTICE
from monitor.store.records import CheckIn, Correction, Judgement, SegmentState, TimelineEntry
from monitor.store.timeline import Timeline
from tests.typed import lines, typed

PARIS = ZoneInfo("Europe/Paris")
MORNING = datetime(2026, 1, 5, 8, 1, 13, tzinfo=UTC)
FEAR = Prediction({Emotion.FEAR: 0.84, Emotion.SAD: 0.16}, unsure=False, bundle_version="compact-1")
PERHAPS = Prediction({Emotion.FEAR: 0.41, Emotion.SAD: 0.34, Emotion.ANGRY: 0.25}, unsure=True, bundle_version="compact-1")
DAY = ("--day", "2026-01-05")


def fill(outcomes: Sequence[Prediction | str | None] = (PERHAPS, FEAR, "the engine did not start", None)) -> None:
    """A segment every ten seconds; a text: why it is not judged, None: it waits."""
    settings = TimelineConfig()
    with closing(Timeline.open(settings.database_path(), PARIS, settings.keys())) as timeline:
        for number, outcome in enumerate(outcomes):
            start = MORNING + timedelta(seconds=10 * number)
            place = {"start_sample": number, "end_sample": number + 1, "start_at": start, "end_at": start + timedelta(seconds=2.1)}
            segment_id = timeline.add_segment(sound=b"12", **place)  # type: ignore[arg-type]
            if isinstance(outcome, Prediction):
                timeline.judge({segment_id: Judgement(outcome)})
            elif outcome:
                timeline.give_up([segment_id], outcome)


def test_a_day_in_full() -> None:
    fill()
    typed("checkin", "--valence", "3", "--feeling", "sad", "--note", "rain " * 20, "--at", "2026-01-05T09:01:20")
    typed("label", "2", "s")
    assert lines(typed("timeline", *DAY))[:16] == [
        "  Monday 5 January 2026                                           Europe/Paris",
        "  4 pieces of speech: 1 unsure, 1 sure, 1 not judged, 1 waiting; you have said",
        "  what 1 of them was; 1 check-in.",
        "",
        "  ID  from       length  estimated                   you say",
        "   1  09:01:13    2.1 s  unsure, perhaps fear 41 %",
        "      09:01:20           check-in: slightly unpleasant, sad",
        "                         rain rain rain rain rain rain rain rain rain rain",
        "                         rain rain rain rain rain rain rain rain rain rain",
        "   2  09:01:23    2.1 s  fear 84 %                   sad",
        "   3  09:01:33    2.1 s  not judged: the engine did not start",
        "   4  09:01:43    2.1 s  waits to be judged",
        "",
        "  Say what one was: emosllm-monitor label ID LETTER, or label ID --confirm",
        "  A angry, S sad, H happy, U surprise, F fear, D disgust, C contempt,",
        "  N neutral, O other",
    ]


def test_every_list_says_what_it_is_not_and_fits() -> None:
    for outcomes in ([], [PERHAPS, "a reason that goes on and on, " * 9], [FEAR] * 3):
        fill(outcomes)
        shown = typed("timeline", *DAY).stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert NOTICE in re.sub(r"\s+", " ", shown)
        assert "\x1b" not in shown


def test_an_empty_timeline_is_said_to_be_empty_and_stays_away(home: Path) -> None:
    for day in ("today", "yesterday", "2026-03-29", "2026-10-25"):
        shown = re.sub(r"\s+", " ", typed("timeline", "--day", day).stdout)
        assert "No speech and no check-in is stored for this day." in shown
    assert json.loads(typed("timeline", "--format", "json").stdout)["segments"] == []
    with pytest.raises(UnknownSegment, match="no segment 1: no speech is stored yet"):
        typed("label", "1", "sad")
    assert not (home / "state").exists()


@pytest.mark.parametrize("day", ["2999-01-01", "someday"])
def test_a_day_that_is_none_or_still_to_come_is_refused(day: str) -> None:
    with pytest.raises(DayError, match=day):
        typed("timeline", "--day", day)


def test_only_the_unsure_ones_that_nobody_named() -> None:
    fill([PERHAPS, FEAR, PERHAPS, None])
    typed("label", "1", "angry")
    shown = typed("timeline", "--unsure", *DAY).stdout
    assert re.findall(r"(?m)^ +(\d)  \d\d:", shown) == ["3"]
    assert "shown: 1 that the model was unsure of and you have not named" in re.sub(r"\s+", " ", shown)


def test_json_holds_the_same_facts() -> None:
    fill()
    typed("checkin", "--valence", "7", "--feeling", "happy", "--at", "2026-01-05T09:01:20")
    typed("label", "--confirm", "1")
    listing = json.loads(typed("timeline", *DAY, "--format", "json").stdout)
    assert (listing["day"], listing["zone"], listing["start"]) == ("2026-01-05", "Europe/Paris", "2026-01-04T23:00:00+00:00")
    first, second, third, fourth = listing["segments"]
    assert (first["id"], first["start"], first["seconds"], first["state"]) == (1, "2026-01-05T08:01:13+00:00", 2.1, "judged")
    assert first["estimate"] == {
        "letter": "F",
        "emotion": "fear",
        "confidence": 0.41,
        "unsure": True,
        "posterior": {"F": 0.41, "S": 0.34, "A": 0.25},
        "model": "compact-1",
    }
    assert (first["said"]["emotion"], first["said"]["confirmed"], second["said"]) == ("fear", True, None)
    assert (third["state"], third["reason"], third["estimate"], fourth["state"]) == (
        "unjudged",
        "the engine did not start",
        None,
        "waiting",
    )
    (checkin,) = listing["checkins"]
    assert (checkin["valence"], checkin["valence_words"], checkin["letter"], checkin["note"]) == (1, "very pleasant", "H", None)
    assert listing["notice"] == NOTICE


@pytest.mark.parametrize(
    ("on", "change"),
    [(date(2026, 3, 29), "forward by 60"), (date(2026, 10, 25), "back by 60"), (date(2026, 7, 14), "")],
)
def test_where_the_clock_was_changed_the_list_says_so_once(on: date, change: str) -> None:
    day = Day(on, PARIS)
    starts = [day.start - timedelta(seconds=1), *(day.start + timedelta(minutes=20 * number) for number in range(60))]
    entries = [
        TimelineEntry(number, "s", number, number + 1, start, start + timedelta(seconds=2), "Europe/Paris", SegmentState.WAITING)
        for number, start in enumerate(starts)
    ]
    shown = Listing(day, day.end, entries, []).text()
    assert re.findall(r"clocks were set (\w+ by \d+) minutes", shown) == ([change] if change else [])


def test_a_word_of_the_persons_own_holds_and_is_shown_with_the_estimate() -> None:
    fill()
    assert typed("label", "2", "Sad").stdout == "2  2026-01-05 09:01:23  2.1 s: fear 84 %; you say sad\n"
    assert typed("label", "2", "S").stdout == typed("label", "2", "sad").stdout
    assert "you say fear too" in typed("label", "2", "--confirm").stdout
    assert "you say fear too" in typed("label", "--confirm", "2").stdout
    assert typed("label", "2", "--undo").stdout == "Taken back. 2  2026-01-05 09:01:23  2.1 s: fear 84 %; you say sad\n"
    assert "you have said nothing of it" in typed("label", "2", "--undo").stdout
    with pytest.raises(WordError, match="nothing of segment 2"):
        typed("label", "2", "--undo")


def test_a_letter_that_the_model_cannot_answer_counts_too() -> None:
    fill()
    shown = typed("label", "2", "contempt").stdout
    assert "you say contempt\nThe model cannot answer contempt; your word counts all the same.\n" in shown
    assert "cannot answer" not in typed("label", "2", "sad").stdout


def test_what_was_not_judged_can_be_named_but_not_confirmed() -> None:
    fill()
    for segment_id in ("3", "4"):
        with pytest.raises(WordError, match=f"segment {segment_id} was not judged"):
            typed("label", segment_id, "--confirm")
        assert "you say happy" in typed("label", segment_id, "h").stdout


def test_without_a_word_a_piece_is_shown_and_nothing_changes() -> None:
    fill()
    shown = typed("label", "1").stdout
    assert "unsure, perhaps fear 41 %; you have said nothing of it" in shown
    assert "A angry, S sad" in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["99", "sad"], "there is no segment 99: there are segments 1 to 4"),
        (["99"], "there is no segment 99"),
        (["99", "--undo"], "there is no segment 99"),
        (["0", "sad"], "there is no segment 0"),
        (["99999999999999999999", "sad"], "there is no segment 99999999999999999999"),
        (["1", "x"], "'x' is none of the feelings"),
        (["1", "sad", "--confirm"], "only one of"),
        (["1", "--undo", "--confirm"], "only one of"),
    ],
)
def test_what_cannot_be_said_is_explained(arguments: list[str], reason: str) -> None:
    fill()
    with pytest.raises(WordError, match=reason):
        typed("label", *arguments)


def test_a_word_that_is_no_number_of_a_piece_is_a_wrong_command_line() -> None:
    done = typed("label", "sad", "1")
    assert done.exit_code == 2
    assert "'ID'" in done.stderr


def test_a_long_day_is_listed_at_once() -> None:
    day = Day(date(2026, 7, 14), PARIS)
    said = Correction(1, Emotion.SAD, False, day.start)
    entries = []
    for number in range(1400):
        start = day.start + timedelta(seconds=60 * number)
        end = start + timedelta(seconds=15)
        entries.append(
            TimelineEntry(number, "s", number, number + 1, start, end, "Europe/Paris", SegmentState.JUDGED, None, PERHAPS, end, said)
        )
    checkins = [
        CheckIn(number, day.start + timedelta(hours=number), "Europe/Paris", 0.0, Emotion.SAD, "rain " * 30) for number in range(20)
    ]
    began = time.process_time()
    assert len(Listing(day, day.end, entries, checkins).text().splitlines()) > 1400
    assert time.process_time() - began < 0.3
