"""The command with which a person says how they feel: by options, or by two questions where somebody is there to be asked."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from model.errors import WordError
from monitor.commands.settings import settings_of

if TYPE_CHECKING:
    from model.types import Emotion
    from monitor.config import TimelineConfig
    from monitor.store.records import CheckIn

_Answer = TypeVar("_Answer")
_UNDOABLE = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_INTERRUPTED = 130
_HARD = (
    "That sounds hard. Nobody is watching this, so please tell someone you trust.\n"
    "If you or someone near you is in danger, call your local emergency number."
)


def checkin(
    context: typer.Context,
    valence: Annotated[int | None, typer.Option(metavar="STEP", help="How it feels: 1 very unpleasant to 7 very pleasant.")] = None,
    feeling: Annotated[str | None, typer.Option(metavar="LETTER", help="What you call it: A S H U F D C N O, or the word.")] = None,
    note: Annotated[
        str | None, typer.Option(help="A few words for yourself; - asks for them, so that the shell does not keep them.")
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When it was, if not now: HH:MM today, or YYYY-MM-DDTHH:MM.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Erase the check-in you entered last, or with --at that of a minute.")] = False,
) -> None:
    """Say how you feel, in two answers.

    What you do not give as an option is asked for. It is kept in the timeline, encrypted.
    """
    from monitor.day.days import parse_moment

    settings, now = settings_of(context).timeline, datetime.now(UTC)
    moment = None if at is None else parse_moment(at, settings.zone_info(), now)
    if undo:
        _erase(settings, _to_erase(settings, moment, now))
        return
    step, emotion = _answers(valence, feeling)
    stored = _store(settings, moment, step, emotion, _typed("Note", "") if note == "-" else note)
    print(f"Stored: {_told(stored, settings)}. Thank you for taking the moment.")
    if step == 1:
        print(_HARD)


def _answers(valence: int | None, feeling: str | None) -> tuple[int, "Emotion"]:
    """The step of the scale and the emotion. Options are checked before anything is asked."""
    from monitor.day.feelings import PLAIN, SCALE, parse_emotion, parse_step

    step = None if valence is None else parse_step(str(valence))
    emotion = None if feeling is None else parse_emotion(feeling)
    if (step is None or emotion is None) and not sys.stdin.isatty():
        raise WordError("nobody is there to be asked: give both --valence, 1 to 7, and --feeling, a letter or a word")
    if step is None:
        steps = [f"{number}  {words}" for number, words in enumerate(SCALE, 1)]
        step = _ask("How does it feel?", steps, f"Number, 1 to {len(SCALE)}", parse_step)
    if emotion is None:
        names = [f"{known.value}  {words}" for known, words in PLAIN.items()]
        emotion = _ask("What would you call it?", names, "Letter or word", parse_emotion)
    return step, emotion


def _ask(question: str, choices: Sequence[str], prompt: str, understand: Callable[[str], _Answer]) -> _Answer:
    """Ask until the answer is understood. One choice a line, so that a screen reader reads them in order."""
    print("\n".join([question, *(f"  {choice}" for choice in choices)]))
    while True:
        try:
            return understand(_typed(prompt))
        except WordError as error:
            print(error)


def _typed(prompt: str, default: str | None = None) -> str:
    """A line that the person types; who ends it instead of answering leaves nothing."""
    try:
        return str(typer.prompt(prompt, default=default, show_default=False, type=str))
    except typer.Abort:
        print("\nNothing was stored.", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from None


def _store(settings: "TimelineConfig", moment: datetime | None, step: int, emotion: "Emotion", note: str | None) -> "CheckIn":
    from monitor.day.feelings import valence_of
    from monitor.store.words import Words

    database = settings.database_path()
    begun = not database.exists()
    with Words.open(database, settings.zone_info(), settings.keys()) as words:
        stored = words.check_in(moment or datetime.now(UTC), valence_of(step), emotion, note)
    if begun:
        print(f"This is the first entry of your timeline, {database}; it is encrypted", file=sys.stderr)
    return stored


def _to_erase(settings: "TimelineConfig", moment: datetime | None, now: datetime) -> "CheckIn":
    """The check-in that was entered last, or that of a minute. An old one must be named: what is erased does not come back."""
    from monitor.store.reader import TimelineReader

    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        within = reader.checkins_between(moment, moment + _MINUTE) if moment else []
        found = max(within, key=lambda one: one.id, default=None) if moment else reader.last_checkin()
    if found is None:
        raise WordError("there is no check-in of that minute" if moment else "there is no check-in to erase")
    if moment is None and found.at < now - _UNDOABLE:
        at = found.at.astimezone(settings.zone_info()).isoformat(timespec="minutes")
        raise WordError(f"your last check-in is more than a day old, of {at}; to erase it all the same: checkin --undo --at {at}")
    return found


def _erase(settings: "TimelineConfig", found: "CheckIn") -> None:
    from monitor.store.words import Words

    with Words.open(settings.database_path(), settings.zone_info(), settings.keys()) as words:
        erased = words.take_back(found.id)
    print(f"Erased: {_told(erased, settings)}{', and its note' if erased.note else ''}.")


def _told(stored: "CheckIn", settings: "TimelineConfig") -> str:
    from monitor.day.feelings import valence_words

    return f"{stored.at.astimezone(settings.zone_info()):%Y-%m-%d %H:%M}, {valence_words(stored.valence)}, {stored.emotion.word}"
