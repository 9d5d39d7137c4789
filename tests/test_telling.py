"""`checkin`: two answers and no more, kept in the timeline alone, and given back when the person wants them back."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model.errors import DayError, WordError
from model.types import Emotion
from monitor.config import TimelineConfig
from monitor.day.feelings import SCALE, parse_emotion, parse_step, step_of, valence_of, valence_words
from monitor.store.reader import TimelineReader
from monitor.store.records import CheckIn
from tests.typed import AtTerminal, typed

STEP, FEELING = "Number, 1 to 7: ", "Letter or word: "


def stored() -> list[CheckIn]:
    settings = TimelineConfig()
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        return reader.checkins_between(datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def test_two_options_are_a_check_in_and_begin_the_timeline(home: Path) -> None:
    before = datetime.now(UTC)
    done = typed("checkin", "--valence", "2", "--feeling", "Sad", "--note", "the letter did not come")
    assert re.fullmatch(r"Stored: \d{4}-\d\d-\d\d \d\d:\d\d, unpleasant, sad\. Thank you for taking the moment\.\n", done.stdout)
    assert "the first entry of your timeline" in done.stderr
    (checkin,) = stored()
    assert before <= checkin.at <= datetime.now(UTC)
    assert (checkin.zone, checkin.valence, checkin.emotion, checkin.note) == (
        "Europe/Paris",
        pytest.approx(-2 / 3),
        Emotion.SAD,
        "the letter did not come",
    )
    assert typed("checkin", "--valence", "7", "--feeling", "h").stderr == "", "it is begun once"
    for path in home.rglob("*"):
        if path.is_file():
            assert b"letter did not" not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0


def test_the_hardest_answer_is_told_where_help_is() -> None:
    assert "someone you trust" in typed("checkin", "--valence", "1", "--feeling", "F").stdout
    assert "someone you trust" not in typed("checkin", "--valence", "2", "--feeling", "F").stdout


def test_a_person_at_a_terminal_is_asked_two_questions_and_may_mistype() -> None:
    person = AtTerminal("checkin")
    person.answer(STEP, "eight\n")
    person.answer(STEP, "8\n")
    person.answer(STEP, " 5\n")
    person.answer(FEELING, "x\n")
    person.answer(FEELING, "calm\n")
    assert person.end() == 0, person.shown
    for part in ("'eight' is not on the scale", "'8' is not on the scale", "'x' is none of the feelings", "slightly pleasant, neutral"):
        assert part in person.shown
    (checkin,) = stored()
    assert (checkin.valence, checkin.emotion, checkin.note) == (pytest.approx(1 / 3), Emotion.NEUTRAL, None)


def test_only_what_is_missing_is_asked_one_choice_a_line() -> None:
    person = AtTerminal("checkin", "--valence", "4")
    person.answer(FEELING, "o\n")
    assert person.end() == 0
    assert "How does it feel" not in person.shown
    assert [line[2] for line in person.shown.splitlines() if line.startswith("  ")] == [emotion.value for emotion in Emotion]


def test_a_note_can_be_typed_where_no_shell_keeps_it() -> None:
    for typing, kept in (("the letter came\n", "the letter came"), ("\n", None)):
        person = AtTerminal("checkin", "--valence", "4", "--feeling", "h", "--note", "-")
        person.answer("Note: ", typing)
        assert person.end() == 0, person.shown
        assert stored()[-1].note == kept


def test_ctrl_c_between_the_questions_leaves_nothing(home: Path) -> None:
    person = AtTerminal("checkin")
    person.answer(STEP, "2\n")
    assert person.interrupt(FEELING) == 130
    assert "Nothing was stored." in person.shown
    assert "Traceback" not in person.shown
    assert not (home / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "nobody is there to be asked"),
        (["--valence", "3"], "nobody is there to be asked"),
        (["--valence", "0", "--feeling", "sad"], "'0' is not on the scale: 1 is very unpleasant"),
        (["--valence", "8"], "'8' is not on the scale"),
        (["--feeling", "gloomy"], "'gloomy' is none of the feelings that can be named: A angry, S sad"),
        (["--valence", "3", "--feeling", ""], "'' is none of the feelings"),
        (["--undo"], "there is no check-in to erase"),
    ],
)
def test_what_is_no_check_in_is_explained_and_creates_nothing(arguments: list[str], reason: str, home: Path) -> None:
    with pytest.raises(WordError, match=re.escape(reason)):
        typed("checkin", *arguments)
    assert not (home / "state").exists()


@pytest.mark.parametrize("at", ["noon", "2999-01-01T12:00"])
def test_a_moment_that_is_none_or_still_to_come_is_refused(at: str, home: Path) -> None:
    with pytest.raises(DayError, match="--at"):
        typed("checkin", "--valence", "3", "--feeling", "sad", "--at", at)
    assert not (home / "state").exists()


def test_an_earlier_moment_is_in_the_persons_zone() -> None:
    for at in ("2026-01-05T09:00", "2025-10-26T02:30+01:00"):
        typed("checkin", "--valence", "4", "--feeling", "neutral", "--at", at)
    assert [one.at for one in stored()] == [datetime(2025, 10, 26, 1, 30, tzinfo=UTC), datetime(2026, 1, 5, 8, tzinfo=UTC)]


def test_undo_erases_what_was_entered_last_and_an_old_one_only_by_its_minute() -> None:
    typed("checkin", "--valence", "4", "--feeling", "neutral", "--at", "2025-10-26T02:30+01:00")
    typed("checkin", "--valence", "6", "--feeling", "happy", "--note", "sun")
    assert typed("checkin", "--undo").stdout.endswith("pleasant, happy, and its note.\n")
    with pytest.raises(WordError, match=r"more than a day old.*checkin --undo --at 2025-10-26T02:30\+01:00"):
        typed("checkin", "--undo")
    with pytest.raises(WordError, match="no check-in of that minute"):
        typed("checkin", "--undo", "--at", "2025-10-26T02:30+02:00")
    assert len(stored()) == 1
    assert "Erased: 2025-10-26 02:30" in typed("checkin", "--undo", "--at", "2025-10-26T02:30+01:00").stdout
    assert stored() == []


def test_undo_means_what_was_entered_last_not_what_happened_last() -> None:
    typed("checkin", "--valence", "6", "--feeling", "happy")
    earlier = datetime.now(UTC) - timedelta(hours=3)
    typed("checkin", "--valence", "2", "--feeling", "sad", "--at", earlier.isoformat())
    typed("checkin", "--undo")
    assert [one.emotion for one in stored()] == [Emotion.HAPPY]


def test_steps_and_valence_are_each_others_inverse() -> None:
    valences = [valence_of(parse_step(str(step))) for step in range(1, 8)]
    assert (valences[0], valences[3], valences[6]) == (-1, 0, 1)
    assert [step_of(valence) for valence in valences] == [1, 2, 3, 4, 5, 6, 7]
    assert [valence_words(valence) for valence in valences] == list(SCALE)
    assert [step_of(valence) for valence in (-0.84, -0.82, 0.1)] == [1, 2, 4]


@pytest.mark.parametrize("emotion", Emotion)
def test_letters_and_words_name_emotions_in_any_case(emotion: Emotion) -> None:
    for text in (emotion.value, emotion.value.lower(), emotion.word, f" {emotion.word.title()} "):
        assert parse_emotion(text) is emotion
