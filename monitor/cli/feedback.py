"""Feedback from the person: checkin, timeline and label."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from model.errors import UnknownSegment, WordError
from monitor.cli.settings import settings_of

if TYPE_CHECKING:
    from model.emotions import Emotion
    from monitor.config import TimelineConfig
    from monitor.storage.feedback import FeedbackStore
    from monitor.storage.records import CheckIn, SegmentRecord


_Answer = TypeVar("_Answer")
_UNDOABLE = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_EXIT_INTERRUPTED = 130
_SUPPORT_MESSAGE = (
    "That sounds hard. Nobody is watching this, so please tell someone you trust.\n"
    "If you or someone near you is in danger, call your local emergency number."
)


def checkin(
    context: typer.Context,
    valence: Annotated[
        int | None, typer.Option(metavar="STEP", help="How it feels, from 1 (very unpleasant) to 7 (very pleasant).")
    ] = None,
    feeling: Annotated[str | None, typer.Option(metavar="LETTER", help="Emotion: A S H U F D C N O, or the word.")] = None,
    note: Annotated[str | None, typer.Option(help="A private note; - prompts for it, so that it stays out of the shell history.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time of the check-in, if not now: HH:MM today, or YYYY-MM-DDTHH:MM.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Erase the latest check-in, or with --at the one from that minute.")] = False,
) -> None:
    """Record how you feel, in two answers.

    Prompts for whatever is not given as an option. Check-ins are stored encrypted in the timeline.
    """
    from monitor.analysis.days import parse_moment

    settings, now = settings_of(context).timeline, datetime.now(UTC)
    moment = None if at is None else parse_moment(at, settings.zone_info(), now)
    if undo:
        _erase_checkin(settings, _checkin_to_erase(settings, moment, now))
        return
    step, emotion = _answers(valence, feeling)
    stored = _store_checkin(settings, moment, step, emotion, _prompt("Note", "") if note == "-" else note)
    print(f"Stored: {_describe_checkin(stored, settings)}. Thank you for checking in.")
    if step == 1:
        print(_SUPPORT_MESSAGE)


def _answers(valence: int | None, feeling: str | None) -> tuple[int, "Emotion"]:
    """The step of the scale and the emotion. Options are checked before anything is asked."""
    from monitor.analysis.formatting import EMOTION_PHRASES, VALENCE_SCALE, parse_emotion, parse_valence_step

    step = None if valence is None else parse_valence_step(str(valence))
    emotion = None if feeling is None else parse_emotion(feeling)
    if (step is None or emotion is None) and not sys.stdin.isatty():
        raise WordError("not a terminal; pass both --valence (1 to 7) and --feeling (a letter or a word)")
    if step is None:
        steps = [f"{number}  {words}" for number, words in enumerate(VALENCE_SCALE, 1)]
        step = _ask("How does it feel?", steps, f"Number, 1 to {len(VALENCE_SCALE)}", parse_valence_step)
    if emotion is None:
        names = [f"{known.value}  {words}" for known, words in EMOTION_PHRASES.items()]
        emotion = _ask("Which word fits best?", names, "Letter or word", parse_emotion)
    return step, emotion


def _ask(question: str, choices: Sequence[str], prompt: str, understand: Callable[[str], _Answer]) -> _Answer:
    """Ask until the answer is understood. One choice a line, so that a screen reader reads them in order."""
    print("\n".join([question, *(f"  {choice}" for choice in choices)]))
    while True:
        try:
            return understand(_prompt(prompt))
        except WordError as error:
            print(error)


def _prompt(prompt: str, default: str | None = None) -> str:
    """A line that the person types; who ends it instead of answering leaves nothing."""
    try:
        return str(typer.prompt(prompt, default=default, show_default=False, type=str))
    except typer.Abort:
        print("\nNothing was stored.", file=sys.stderr)
        raise typer.Exit(_EXIT_INTERRUPTED) from None


def _store_checkin(settings: "TimelineConfig", moment: datetime | None, step: int, emotion: "Emotion", note: str | None) -> "CheckIn":
    from monitor.analysis.formatting import valence_of
    from monitor.storage.feedback import FeedbackStore

    database = settings.database_path()
    begun = not database.exists()
    with FeedbackStore.open(database, settings.zone_info(), settings.keys()) as words:
        stored = words.check_in(moment or datetime.now(UTC), valence_of(step), emotion, note)
    if begun:
        print(f"created your encrypted timeline at {database}", file=sys.stderr)
    return stored


def _checkin_to_erase(settings: "TimelineConfig", moment: datetime | None, now: datetime) -> "CheckIn":
    """The check-in that was entered last, or that of a minute. An old one must be named: what is erased does not come back."""
    from monitor.storage.reader import TimelineReader

    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        within = reader.checkins_between(moment, moment + _MINUTE) if moment else []
        found = max(within, key=lambda one: one.id, default=None) if moment else reader.last_checkin()
    if found is None:
        raise WordError("no check-in was made in that minute" if moment else "there is no check-in to erase")
    if moment is None and found.at < now - _UNDOABLE:
        at = found.at.astimezone(settings.zone_info()).isoformat(timespec="minutes")
        raise WordError(f"the latest check-in is more than a day old ({at}); to erase it anyway, run checkin --undo --at {at}")
    return found


def _erase_checkin(settings: "TimelineConfig", found: "CheckIn") -> None:
    from monitor.storage.feedback import FeedbackStore

    with FeedbackStore.open(settings.database_path(), settings.zone_info(), settings.keys()) as words:
        erased = words.retract(found.id)
    print(f"Erased: {_describe_checkin(erased, settings)}{', and its note' if erased.note else ''}.")


def _describe_checkin(stored: "CheckIn", settings: "TimelineConfig") -> str:
    from monitor.analysis.formatting import format_valence

    return f"{stored.at.astimezone(settings.zone_info()):%Y-%m-%d %H:%M}, {format_valence(stored.valence)}, {stored.emotion.word}"


class ListFormat(StrEnum):
    """How the list is written."""

    TEXT = "text"
    JSON = "json"


def timeline(
    context: typer.Context,
    day: Annotated[str, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD.")] = "today",
    unsure: Annotated[bool, typer.Option("--unsure", help="Only unsure segments that you have not labelled.")] = False,
    form: Annotated[ListFormat, typer.Option("--format", help="text or json.")] = ListFormat.TEXT,
) -> None:
    """List the segments of one day, with estimates, your labels and check-ins."""
    from monitor.analysis.days import parse_day
    from monitor.reports.segment_list import SegmentList
    from monitor.storage.reader import TimelineReader

    settings, now = settings_of(context).timeline, datetime.now(UTC)
    asked = parse_day(day, settings.zone_info(), now)
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        entries, checkins = reader.segments_between(asked.start, asked.end), reader.checkins_between(asked.start, asked.end)
    listing = SegmentList(asked, now, entries, checkins, unsure)
    print(listing.as_json() if form is ListFormat.JSON else listing.text())


def label(
    context: typer.Context,
    segment_id: Annotated[int, typer.Argument(metavar="ID", help="Segment number, as listed by `timeline`.")],
    letter: Annotated[str | None, typer.Argument(metavar="LETTER", help="The correct emotion: A S H U F D C N O, or the word.")] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Confirm the estimate.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo your latest label.")] = False,
) -> None:
    """Label a segment with the correct emotion, or show it.

    Your label replaces the estimate, also in reports, until you change or undo it.
    """
    from monitor.analysis.formatting import emotion_list, parse_emotion

    if sum((letter is not None, confirm, undo)) > 1:
        raise WordError("LETTER, --confirm and --undo exclude each other; pass only one")
    emotion = None if letter is None else parse_emotion(letter)
    settings = settings_of(context).timeline
    entry = _find_segment(settings, segment_id)
    if emotion is not None:
        with _feedback(settings) as words:
            words.correct(segment_id, emotion)
    elif confirm:
        with _feedback(settings) as words:
            words.confirm(segment_id)
    elif undo:
        with _feedback(settings) as words:
            words.undo(segment_id)
    print(f"{'Undone. ' if undo else ''}{_describe_segment(settings, _find_segment(settings, segment_id))}")
    if emotion is not None and entry.prediction is not None and emotion not in entry.prediction.posterior:
        print(f"The model cannot predict {emotion.word}; your label counts anyway.")
    if not (emotion or confirm or undo):
        print(f"To label it: emosllm-monitor label {segment_id} LETTER, or --confirm, or --undo\n{emotion_list()}")


def _feedback(settings: "TimelineConfig") -> "FeedbackStore":
    from monitor.storage.feedback import FeedbackStore

    return FeedbackStore.open(settings.database_path(), settings.zone_info(), settings.keys())


def _find_segment(settings: "TimelineConfig", segment_id: int) -> "SegmentRecord":
    """Looked up before anything is written, so that a wrong number is told at once, and no timeline is begun for it."""
    from monitor.storage.reader import TimelineReader

    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        found = reader.segment(segment_id)
        if found is None:
            raise UnknownSegment(segment_id, reader.segment_ids())
    return found


def _describe_segment(settings: "TimelineConfig", entry: "SegmentRecord") -> str:
    from monitor.reports.segment_list import format_estimate, format_label

    start, seconds = entry.start_at.astimezone(settings.zone_info()), (entry.end_at - entry.start_at).total_seconds()
    said = format_label(entry)
    word = f"your label: {said}" if said else "no label"
    return f"{entry.id}  {start:%Y-%m-%d %H:%M:%S}  {seconds:.1f} s: {format_estimate(entry)}; {word}"
